"""Golden mappings of the feature losses FitNet, AT, VID, NST, FSP, AB, FT, OFD and ReviewKD."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_lightning.losses.ab import ABLoss, ab_loss
from kd_lightning.losses.at import at_loss
from kd_lightning.losses.fitnet import FitNetLoss, fitnet_loss
from kd_lightning.losses.fsp import FSPLoss
from kd_lightning.losses.ft import FTLoss, ft_loss
from kd_lightning.losses.nst import nst_loss
from kd_lightning.losses.ofd import OFDLoss, ofd_loss
from kd_lightning.losses.reviewkd import reviewkd_loss
from kd_lightning.losses.vid import VIDLoss
from tests.losses.goldens import Case, golden

Result = tuple[Tensor, dict[str, Tensor]]


def load(module: nn.Module, case: Case, names: dict[str, str]) -> dict[str, Tensor]:
    """Copy the recorded state into the built module; returns its parameters under the reference's names.

    Args:
        module: Built module.
        case: The case; what its state holds under a name that maps onto nothing of ours fails.
        names: Beginning of the reference's name -> beginning of ours.
    """
    module.to(case.dtype)
    ours = module.state_dict()
    parameters, found = dict(module.named_parameters()), {}
    for name, value in case.state.items():
        prefix = max((p for p in names if name.startswith(p)), key=len)
        target = names[prefix] + name[len(prefix) :]
        ours[target].copy_(value)  # a name that we do not have fails here, a wrong shape too
        if target in parameters:
            found[name] = parameters[target]
    return found


@golden("fitnet")
def _(case: Case) -> Tensor | Result:
    student, teacher = case.inputs["f_s"], case.inputs["f_t"]
    if not case.state:
        return fitnet_loss(student, teacher)
    loss = FitNetLoss()
    loss.build(student, teacher)
    parameters = load(loss, case, {"": "regressors.0."})
    return loss(student, teacher), parameters


@golden("at")
def _(case: Case) -> Tensor:
    return at_loss(case.list("f_s"), case.list("f_t"), p=case.hparams["p"])


@golden("nst")
def _(case: Case) -> Tensor:
    return nst_loss(case.list("f_s"), case.list("f_t"))


@golden("vid")
def _(case: Case) -> Result:
    student, teacher = case.inputs["f_s"], case.inputs["f_t"]
    loss = VIDLoss(init_variance=case.hparams["init_pred_var"], eps=case.hparams["eps"])
    loss.build(student, teacher)
    parameters = load(loss, case, {"log_scale": "log_scales.0", "regressor.": "regressors.0."})
    return loss(student, teacher), parameters


@golden("fsp")
def _(case: Case) -> Tensor:
    loss = FSPLoss()
    loss.build(case.list("f_s"), case.list("f_t"))
    assert not list(loss.parameters())
    return loss(case.list("f_s"), case.list("f_t"))


@golden("ab")
def _(case: Case) -> Tensor | Result:
    student, teacher, margin = case.list("f_s"), case.list("f_t"), case.hparams["margin"]
    if not case.state:
        return ab_loss(student, teacher, margin=margin)
    loss = ABLoss(margin=margin)
    loss.build(student, teacher)
    parameters = load(loss, case, {"": ""})
    return loss(student, teacher), parameters


@golden("ft")
def _(case: Case) -> Tensor | Result:
    student, teacher = case.inputs["f_s"], case.inputs["f_t"]
    assert case.hparams["p"] == 1
    if not case.state:
        return ft_loss(student, teacher)
    loss = FTLoss(rate=case.hparams["factor_channels"] / teacher.shape[1], reconstruction=0.0)
    loss.build(student, teacher)
    names = {f"translator.conv{i}": f"translator.{2 * i}" for i in range(3)}
    for theirs, ours in (("conv", "encoder"), ("deconv", "decoder")):
        names |= {f"paraphraser.{theirs}{i}": f"paraphraser.{ours}.{2 * i}" for i in range(3)}
    parameters = load(loss, case, names)
    return loss(student, teacher), parameters


def batch_norm(weight: Tensor, bias: Tensor) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(weight))
    norm.load_state_dict({"weight": weight, "bias": bias}, strict=False)
    return norm


@golden("ofd")
def _(case: Case) -> Tensor | Result:
    if not case.state:
        return ofd_loss(case.inputs["f_s"], case.inputs["f_t"], case.inputs["margin"], reduction="sum")
    student, teacher = case.list("f_s"), case.list("f_t")
    loss = OFDLoss(reduction="sum")
    norms = [batch_norm(w, b) for w, b in zip(case.hparams["bn_weight"], case.hparams["bn_bias"], strict=True)]
    loss.build(student, teacher, norms)
    names = {}
    for i in range(len(student)):
        names |= {f"Connectors.{i}.0": f"connectors.{i}.conv", f"Connectors.{i}.1": f"connectors.{i}.bn"}
        ours, recorded = loss.connectors[i].margin, case.state.pop(f"margin{i + 1}").flatten()
        torch.testing.assert_close(ours.to(recorded), recorded, rtol=1e-6, atol=0)
        loss.connectors[i].margin = recorded  # equal up to the last bit of float32, which the tolerance would see
    parameters = load(loss, case, names)
    return loss(student, teacher, norms), parameters


@golden("reviewkd_hcl")
def _(case: Case) -> Tensor:
    return reviewkd_loss(case.list("f_s"), case.list("f_t"))
