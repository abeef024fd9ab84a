"""Specs of the feature losses, second part."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from kd_lightning.losses.catkd import CATKDLoss
from kd_lightning.losses.cwd import CWDLoss
from kd_lightning.losses.fcfd import FCFDLoss
from kd_lightning.losses.ickd import ICKDLoss
from kd_lightning.losses.mgd import MGDLoss
from kd_lightning.losses.pkd import PKDLoss
from kd_lightning.losses.semckd import SemCKDLoss
from kd_lightning.losses.simkd import SimKDLoss
from kd_lightning.losses.srd import SRDLoss
from kd_lightning.losses.srrl import SRRLLoss
from kd_lightning.losses.vitkd import ViTKDLoss
from tests.losses.contract import copy_teacher, spec


def normal(*shape: int, g: Generator) -> Tensor:
    return torch.randn(shape, generator=g)


def head(width: int, classes: int, seed: int) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(width, classes)


def maps(b: int, g: Generator, channels: int = 5) -> dict[str, Any]:
    return {"student": normal(b, channels, 4, 4, g=g), "teacher": normal(b, 5, 8, 8, g=g)}


def same_maps(b: int, g: Generator) -> dict[str, Any]:
    return {"student": normal(b, 5, 4, 3, g=g), "teacher": normal(b, 5, 4, 3, g=g)}


def narrow_maps(b: int, g: Generator) -> dict[str, Any]:
    return maps(b, g, channels=3)


def stages(b: int, g: Generator) -> dict[str, Any]:
    return {
        "student": [normal(b, 3, 8, 8, g=g), normal(b, 4, 4, 4, g=g)],
        "teacher": [normal(b, 4, 8, 8, g=g), normal(b, 5, 4, 4, g=g), normal(b, 7, 2, 2, g=g)],
    }


def pairs(b: int, g: Generator) -> dict[str, Any]:
    return {
        "student": [normal(b, 3, 8, 8, g=g), normal(b, 5, 4, 4, g=g)],
        "teacher": [normal(b, 4, 8, 8, g=g), normal(b, 5, 4, 4, g=g)],
    }


def embeddings(b: int, g: Generator) -> dict[str, Any]:
    return {"student": normal(b, 5, g=g), "teacher": normal(b, 7, g=g)}


def heads(b: int, g: Generator) -> dict[str, Any]:
    return {**maps(b, g), "student_head": head(5, 10, seed=1), "teacher_head": head(5, 10, seed=2)}


def cam_equal(inputs: dict[str, Any]) -> dict[str, Any]:
    return {**copy_teacher(inputs), "student_head": inputs["teacher_head"]}


def srrl(b: int, g: Generator) -> dict[str, Any]:
    return {**embeddings(b, g), "teacher_logits": normal(b, 10, g=g), "teacher_head": head(7, 10, seed=1)}


def tokens(b: int, g: Generator) -> dict[str, Any]:
    return {
        "student": [normal(b, 17, 4, g=g), normal(b, 17, 4, g=g)],
        "teacher": [normal(b, 17, 8, g=g), normal(b, 17, 8, g=g)],
        "student_deep": normal(b, 17, 4, g=g),
        "teacher_deep": normal(b, 17, 8, g=g),
    }


spec(name="srrl", make=SRRLLoss, inputs=srrl, teacher=("teacher", "teacher_logits"))
spec(name="simkd", make=SimKDLoss, inputs=maps, equal=copy_teacher, compile=True)
# Queries and keys read the rows of the Gram matrix in the order of the batch.
spec(name="semckd", make=lambda: SemCKDLoss(batch_size=6), inputs=stages, permutation=False)
spec(name="semckd_padded", make=lambda: SemCKDLoss(batch_size=8, temperature=2.0), inputs=stages, permutation=False)
spec(name="semckd_in_parts", make=lambda: SemCKDLoss(batch_size=4), inputs=stages, permutation=False)
spec(name="catkd", make=CATKDLoss, inputs=heads, equal=cam_equal)
spec(name="catkd_magnitudes", make=lambda: CATKDLoss(normalize=False), inputs=heads, equal=cam_equal)
spec(name="catkd_binarized", make=lambda: CATKDLoss(binarize=True), inputs=heads)
# The random mask is drawn for each sample: another order is another mask.
spec(name="mgd", make=MGDLoss, inputs=narrow_maps, permutation=False)
spec(name="mgd_spatial", make=lambda: MGDLoss(0.65, mask="spatial"), inputs=same_maps, permutation=False)
spec(name="mgd_unmasked", make=lambda: MGDLoss(0.0), inputs=narrow_maps)
spec(name="cwd", make=CWDLoss, inputs=maps, equal=copy_teacher, compile=True)
spec(name="cwd_projected", make=CWDLoss, inputs=pairs)
spec(name="pkd", make=PKDLoss, inputs=same_maps, equal=copy_teacher)
spec(name="pkd_projected", make=PKDLoss, inputs=pairs)
spec(name="ickd", make=ICKDLoss, inputs=narrow_maps)
spec(name="srd", make=SRDLoss, inputs=embeddings)
VITKD = {"student": ("student", "student_deep"), "teacher": ("teacher", "teacher_deep")}
spec(name="vitkd", make=lambda: ViTKDLoss(alpha=1.0, beta=1.0), inputs=tokens, permutation=False, **VITKD)


def stage(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU()).eval()


def fcfd(b: int, g: Generator) -> dict[str, Any]:
    """Both networks run from an image; their maps are what the stages gave."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        image = normal(b, 3, 16, 16, g=g)
        found: dict[str, Any] = {}
        for name, widths in (("student", (4, 5, 7)), ("teacher", (5, 8, 9))):
            stages, x, maps = [stage(3, widths[0])], image, []
            stages += [stage(widths[0], widths[1], 2), stage(widths[1], widths[2], 2)]
            for module in stages:
                x = module(x)
                maps.append(x)
            classifier = nn.Linear(widths[2], 10)
            found |= {name: maps, f"{name}_logits": classifier(x.mean((2, 3)))}
            found |= {f"{name}_stages": stages, f"{name}_head": classifier}
    return found


# permutation: the modules stay float32 where that check wants float64 (and which paths are mixed is random).
spec(
    name="fcfd",
    make=lambda: FCFDLoss(feature_weight=1.0, paths=4, warmup_epochs=0),
    inputs=fcfd,
    teacher=("teacher", "teacher_logits"),
    permutation=False,
)
spec(name="fcfd_two_paths", make=FCFDLoss, inputs=fcfd, teacher=("teacher", "teacher_logits"), permutation=False)
