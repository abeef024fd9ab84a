"""Nets from their configuration and from what trainings left."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from kd_lightning.config.schema import Config, Role
from kd_lightning.data.images.preprocess import as_size
from kd_lightning.files.artifact import WEIGHTS, Artifact, student_folder, whole_weights
from kd_lightning.models.compress.fake_quant import fake_quantise, without_fake_quant
from kd_lightning.models.language.lora import has_lora, merge_lora
from kd_lightning.models.registry import load_body, load_weights

HALVES = (torch.bfloat16, torch.float16)


def build_net(role: Role, seed: int, frozen: bool = False) -> nn.Module:
    """A net from its configuration, with its checkpoint where it has one; initial weights depend on the seed only.

    Args:
        role: Its configuration.
        seed: Of its initial weights.
        frozen: It is used as it is built. Others learn, and in float32, whatever their weights were saved in.

    Raises:
        ValueError: Where the checkpoint is of another model.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net: nn.Module = instantiate(role.net)
    chosen = role.net.get("dtype") is not None or role.net.get("quantise") is not None
    if not chosen and not (frozen and role.checkpoint is None and role.body is None):
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.dtype in HALVES:
                tensor.data = tensor.data.float()
    if role.checkpoint is not None:
        load_weights(net, checkpoint_file(role.checkpoint))
    if role.body is not None:
        load_body(net, checkpoint_file(role.body))
    given = role.checkpoint or role.body
    if given is not None:
        check_finite(net, f"{role.name} from {given}")
    return net


def check_finite(net: nn.Module, what: str) -> None:
    """Refuse weights that are nan or infinite: of those no training comes back.

    Args:
        net: Any.
        what: For the message: the net, and where it is from.

    Raises:
        ValueError: Names the first of them.
    """
    for name, value in net.state_dict().items():
        if not value.is_floating_point() or type(value) not in (Tensor, nn.Parameter):  # quantised ones are finite
            continue
        broken = int((~value.isfinite()).sum())
        if broken:
            raise ValueError(
                f"{what}: {broken:,} of the {value.numel():,} numbers of its weight '{name}' are nan or infinite. The"
                " file is of a training that diverged, or damaged; take an earlier checkpoint of it."
            )


def checkpoint_file(path: str) -> Path:
    """The weights that a ``checkpoint`` setting means: a file, or a run folder's student.

    Raises:
        FileNotFoundError: Where there is nothing of the kind.
    """
    given = Path(path)
    if given.exists():
        return whole_weights(given)
    raise FileNotFoundError(
        f"checkpoint={path}: no such file or run folder. Give a .safetensors file, a file that"
        " torch.load(weights_only=True) reads, or the folder of a finished run."
    )


def student_net(settings: Config, teacher: nn.Module | None = None) -> nn.Module:
    """The student as it is trained and shipped: the configured net, in the method's wrapper where it has one."""
    net = build_net(settings.student, settings.seed)
    if settings.method.student_wrapper is not None:
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            if teacher is None:  # for its shapes: weights come with the student's, or are made by its training
                teacher = instantiate(settings.teacher.net)
            net = instantiate(settings.method.student_wrapper)(net, teacher, _zeros(settings))
    if not settings.student.quantise:
        return net
    if settings.student.checkpoint is None:
        raise ValueError(
            "student.quantise=true refines a finished student: say which with student.checkpoint=<run>, and use a small"
            " optimizer.lr (a tenth or less of that of its training)."
        )
    return fake_quantise(net)


def _zeros(settings: Config) -> Tensor:
    """Two samples of the data's shape."""
    data = settings.data
    if data.get("image_size") is None:
        raise ValueError(f"method={settings.method.name} builds its student for images; {data['name']} has none.")
    return torch.zeros(2, data["channels"], *as_size(data["image_size"]))


def load_net(artifact: Artifact) -> nn.Module:
    """The net of a finished training in eval mode: the one at hand, or rebuilt from settings and weights.

    Raises:
        ValueError: Where weights and settings do not fit.
    """
    if artifact.net is not None:
        return artifact.net
    settings = artifact.settings
    # Where its body came from may be gone; its weights are all in the file.
    net = student_net(replace(settings, student=replace(settings.student, body=None)))
    load_weights(net, artifact.file(WEIGHTS))
    return net.eval()


def load_run(folder: str | Path) -> Artifact:
    """The student of a finished run with its net, rebuilt from its settings and weights.

    Args:
        folder: Folder of a pipeline, or of one arm.

    Raises:
        FileNotFoundError: Where the folder is no finished run.
        ValueError: Where weights and settings do not fit.
    """
    artifact = Artifact.open(student_folder(Path(folder)))
    artifact.net = load_net(artifact)
    return artifact


def shipped(net: nn.Module) -> nn.Module:
    """The net without what only training needs, as it is measured and exported: a copy, or itself where it is plain."""
    net = without_fake_quant(net)
    return merge_lora(copy.deepcopy(net)) if has_lora(net) else net
