"""``python -m kd_lightning``: Hydra composes and checks the configuration, then the job runs."""

from __future__ import annotations

import os
import sys

import hydra
from omegaconf import DictConfig

from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.schema import register
from kd_lightning.files.runs import register_resolvers
from kd_lightning.version import __version__

register()
register_resolvers()


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def run(cfg: DictConfig) -> object:
    """Run one job; returns what a sweeper optimises, where the job gives it."""
    from kd_lightning.launch import launch

    return launch(cfg)


def main() -> None:
    """Console entry: user errors in one paragraph, 130 after Ctrl-C, 143 after SIGTERM."""
    if sys.argv[1:] == ["--version"]:
        print(f"kd_lightning {__version__}")
        return
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # our own handler shows user errors without a trace
    from kd_lightning.config.explain import explain
    from kd_lightning.core.abort import UserAbortError
    from kd_lightning.core.visible import visible

    try:
        run()
    except UserAbortError as abort:
        print(f"\n{abort}", file=sys.stderr)
        sys.exit(abort.code)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"\n{visible(message)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
