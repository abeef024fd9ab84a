"""Golden mappings of the relation losses."""

from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.losses.cc import cc_loss
from kd_lightning.losses.crd import CRDLoss
from kd_lightning.losses.kdsvd import kdsvd_loss
from kd_lightning.losses.pkt import pkt_loss
from kd_lightning.losses.rkd import rkd_angle_loss, rkd_distance_loss, rkd_loss
from kd_lightning.losses.sp import sp_loss
from tests.losses.goldens import Case, golden


@golden("rkd_distance")
def _(case: Case) -> Tensor:
    return rkd_distance_loss(case.inputs["f_s"], case.inputs["f_t"])


@golden("rkd_angle")
def _(case: Case) -> Tensor:
    return rkd_angle_loss(case.inputs["f_s"], case.inputs["f_t"], coincident_gradient=True)


@golden("rkd")
def _(case: Case) -> Tensor:
    weights = {"distance_weight": case.hparams["w_d"], "angle_weight": case.hparams["w_a"]}
    return rkd_loss(case.inputs["f_s"], case.inputs["f_t"], **weights, coincident_gradient=True)


@golden("sp")
def _(case: Case) -> Tensor:
    return sp_loss(case.inputs["f_s"], case.inputs["f_t"])


@golden("cc")
def _(case: Case) -> Tensor:
    return cc_loss(case.inputs["f_s"], case.inputs["f_t"])


@golden("pkt")
def _(case: Case) -> Tensor:
    return pkt_loss(case.inputs["f_s"], case.inputs["f_t"])


@golden("kdsvd")
def _(case: Case) -> Tensor:
    f_s, f_t = case.list("f_s"), case.list("f_t")
    signs = [case.extra[f"v_t.{i}"] for i in range(len(f_t))]
    return kdsvd_loss(f_s, f_t, k=case.hparams["k"], signs=signs)


def crd_arguments(case: Case) -> dict[str, Any]:
    """Arguments of :class:`CRDLoss`."""
    return {
        "student": case.inputs["f_s"],
        "teacher": case.inputs["f_t"],
        "index": case.inputs["idx"],
        "num_samples": case.hparams["n_data"],
        "contrast_idx": case.inputs["contrast_idx"],
    }


def crd_module(case: Case) -> CRDLoss:
    """Our module in the reference's state."""
    # The reference reads the temperature from a buffer that was made in float32: 0.07 becomes 0.0700000003.
    temperature = torch.tensor(case.hparams["nce_t"]).item()
    module = CRDLoss(
        dim=case.hparams["feat_dim"],
        negatives=case.hparams["nce_k"],
        temperature=temperature,
        momentum=case.hparams["nce_m"],
        mode="exact",
    )
    module.build(**crd_arguments(case))
    for ours, theirs in (("embed_student", "embed_s"), ("embed_teacher", "embed_t")):
        linear: nn.Module = getattr(module, ours)
        linear.to(case.dtype)
        linear.load_state_dict({n: case.state[f"{theirs}.linear.{n}"] for n in ("weight", "bias")})
    module.memory_student = case.state["contrast.memory_v1"].clone()
    module.memory_teacher = case.state["contrast.memory_v2"].clone()
    module.normalisers = case.state["contrast.params"][2:4].clone()
    return module


@golden("crd")
def _(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    module = crd_module(case)
    loss = module(**crd_arguments(case))
    parameters = {}
    for ours, theirs in (("embed_student", "embed_s"), ("embed_teacher", "embed_t")):
        parameters |= {f"{theirs}.linear.{n}": p for n, p in getattr(module, ours).named_parameters()}
    return loss, parameters
