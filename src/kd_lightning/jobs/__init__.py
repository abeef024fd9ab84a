"""Jobs: what ``job=<name>`` runs. One file each, with ``run(cfg, folder)``; _files are shared."""
