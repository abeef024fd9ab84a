"""Jobs: what ``job=<name>`` runs. One file each, with ``run(cfg, folder)``; files that begin with _ are shared parts."""
