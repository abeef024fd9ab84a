"""``python -m kd_lightning``: Hydra composes and checks the configuration, then the job runs."""

from __future__ import annotations

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from kd_lightning.config.arguments import readable, unreadable
from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.schema import register
from kd_lightning.files.runs import register_resolvers
from kd_lightning.version import __version__

register()
register_resolvers()

_failed: list[Exception] = []
"""What the job failed with: Hydra would print the whole command before the reason."""


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def run(cfg: DictConfig) -> object:
    """Run one job; returns what a sweeper optimises, where the job gives it."""
    from kd_lightning.launch import launch

    if HydraConfig.get().mode == RunMode.MULTIRUN:  # the sweeper wants to know, and the command is one of several
        return launch(cfg)
    try:
        return launch(cfg)
    except Exception as error:
        _failed.append(error)
        return None


def main() -> None:
    """Console entry: user errors in one paragraph, 130 after Ctrl-C, 143 after SIGTERM."""
    if sys.argv[1:] == ["--version"]:
        print(f"kd_lightning {__version__}")
        return
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # our own handler shows user errors without a trace
    from kd_lightning.config.explain import explain
    from kd_lightning.core.abort import UserAbortError
    from kd_lightning.core.visible import visible

    sys.argv[1:] = readable(sys.argv[1:])
    try:
        run()
        if _failed:
            raise _failed.pop()
    except UserAbortError as abort:
        print(f"\n{abort}", file=sys.stderr)
        sys.exit(abort.code)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = unreadable(error) or explain(error)
        if message is None:
            raise
        print(f"\n{visible(message)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
