"""Golden mappings of the response losses (logits)."""

from typing import Any

from torch import Tensor

from kd_lightning.losses.cross_entropy import cross_entropy_loss
from kd_lightning.losses.ctkd import ctkd_loss
from kd_lightning.losses.dist import dist_loss
from kd_lightning.losses.dkd import dkd_loss
from kd_lightning.losses.kd import kd_loss
from kd_lightning.losses.logits_mse import logits_mse_loss
from kd_lightning.losses.mft import mft_loss
from kd_lightning.losses.mlkd import batch_correlation_loss, class_correlation_loss, mlkd_loss
from kd_lightning.losses.nkd import nkd_loss
from kd_lightning.losses.soft_target_ce import soft_target_ce_loss
from kd_lightning.losses.ttm import ttm_loss, wttm_loss
from kd_lightning.losses.wsld import wsld_loss
from tests.losses.goldens import Case, golden


def pair(case: Case) -> tuple[Tensor, Tensor]:
    return case.inputs["logits_s"], case.inputs["logits_t"]


def temperature(case: Case) -> Any:
    """The number T, or the tensor of temperatures where a case has one per position."""
    tensors = [v for n, v in case.inputs.items() if n not in ("logits_s", "logits_t", "target")]
    return tensors[0] if tensors else case.hparams["T"]


@golden("kd_hinton")
def _(case: Case) -> Tensor:
    return kd_loss(*pair(case), temperature=case.hparams["T"])


@golden("logit_standardization")
def _(case: Case) -> Tensor:
    return kd_loss(*pair(case), temperature=case.hparams["T"], standardize=True)


@golden("soft_target_ce")
def _(case: Case) -> Tensor:
    return soft_target_ce_loss(*pair(case), temperature=temperature(case), scale=False)


@golden("logits_mse")
def _(case: Case) -> Tensor:
    return logits_mse_loss(*pair(case), temperature=temperature(case))


@golden("dkd")
def _(case: Case) -> Tensor:
    h = case.hparams
    return dkd_loss(*pair(case), case.inputs["target"], alpha=h["alpha"], beta=h["beta"], temperature=h["T"])


@golden("nkd")
def _(case: Case) -> Tensor:
    h = case.hparams
    return nkd_loss(*pair(case), case.inputs["target"], gamma=h["gamma"], temperature=h["T"])


@golden("dist")
def _(case: Case) -> Tensor:
    h = case.hparams
    return dist_loss(*pair(case), beta=h["beta"], gamma=h["gamma"], temperature=h["tau"])


@golden("mlkd")
def _(case: Case) -> Tensor:
    h, x = case.hparams, case.inputs
    weak, strong = x["logits_s_weak"], x["logits_s_strong"]
    alignment = mlkd_loss(
        weak,
        strong,
        x["logits_t_weak"],
        x["logits_t_strong"],
        temperatures=(h["T"], 3.0, 5.0, 2.0, 6.0),
        as_coded=True,
        standardize=h["logit_stand"],
    )
    labels = cross_entropy_loss(weak, x["target"]) + cross_entropy_loss(strong, x["target"])
    return h["ce_weight"] * labels + h["kd_weight"] * alignment


@golden("mlkd_cc")
def _(case: Case) -> Tensor:
    return class_correlation_loss(*pair(case), temperature=case.hparams["T"])


@golden("mlkd_bc")
def _(case: Case) -> Tensor:
    return batch_correlation_loss(*pair(case), temperature=case.hparams["T"])


@golden("ttm")
def _(case: Case) -> Tensor:
    return ttm_loss(*pair(case), temperature=1 / case.hparams["l"])


@golden("wttm")
def _(case: Case) -> Tensor:
    return wttm_loss(*pair(case), temperature=1 / case.hparams["l"])


@golden("wsld")
def _(case: Case) -> Tensor:
    return case.hparams["alpha"] * wsld_loss(*pair(case), case.inputs["target"], temperature=case.hparams["T"])


@golden("mft")
def _(case: Case) -> Tensor:
    h = case.hparams
    return mft_loss(*pair(case), case.inputs["target"], threshold=h["threshold"], temperature=h["T"])


@golden("ctkd")
def _(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    h = case.hparams
    theta = case.state["global_T"].clone().requires_grad_()
    loss = ctkd_loss(*pair(case), theta, strength=h["lambda"], start=h["t_start"], span=h["t_end"])
    return loss, {"global_T": theta}
