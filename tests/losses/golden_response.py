"""Golden mappings of the response losses (logits)."""

from torch import Tensor

from kd_lightning.losses.kd import kd_loss
from tests.losses.goldens import Case, golden


@golden("kd_hinton")
def _(case: Case) -> Tensor:
    return kd_loss(case.inputs["logits_s"], case.inputs["logits_t"], temperature=case.hparams["T"])
