"""Run folders back to objects: ``load_run``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import nn

from kd_lightning.runs import read_status

ARM = "arm.json"


@dataclass
class LoadedRun:
    """A finished run.

    Attributes:
        folder: The arm's folder (of a pipeline: the distilled student's).
        cfg: Its configuration.
        net: The student with its selected weights, in eval mode.
    """

    folder: Path
    cfg: DictConfig
    net: nn.Module


def student_folder(folder: Path) -> Path:
    """The folder that holds the student of a run: the folder itself, or the arm that a pipeline chose.

    Raises:
        FileNotFoundError: Where the folder is no finished run.
    """
    if (folder / "student.safetensors").is_file():
        return folder
    chosen: str | None = read_status(folder).get("student")
    if chosen and (folder / chosen / "student.safetensors").is_file():
        return folder / chosen
    raise FileNotFoundError(
        f"{folder} holds no finished student (no student.safetensors). Give the folder of a finished run, for example"
        " run=outputs/digits_resnet/2026-01-31_12-00-00, or go on with it: resume=auto."
    )


def load_run(folder: str | Path) -> LoadedRun:
    """The student of a finished run, rebuilt from its configuration and weights.

    Args:
        folder: Folder of a pipeline, or of one arm.

    Raises:
        FileNotFoundError: Where the folder is no finished run.
        ValueError: Where weights and configuration do not fit.
    """
    from kd_lightning.jobs._arm import deployed_net
    from kd_lightning.models.registry import load_weights

    arm = student_folder(Path(folder))
    cfg = OmegaConf.load(arm / "config.yaml")
    assert isinstance(cfg, DictConfig)
    # Where its body came from may be gone; its weights are all in the file.
    net = deployed_net(OmegaConf.merge(cfg, {"student": {"body": None}}))  # type: ignore[arg-type]
    load_weights(net, arm / "student.safetensors")
    return LoadedRun(arm, cfg, net.eval())


def required_run(cfg: DictConfig) -> str:
    """The ``run`` setting of a job that works on a finished run.

    Raises:
        ValueError: Where it was not given.
    """
    if cfg.run is None:
        raise ValueError(
            f"job={cfg.job} works on a finished run: add run=<folder>, such as run=outputs/digits_resnet/..."
        )
    return str(cfg.run)
