"""Golden mappings of the feature losses, second part; parameters come from the case, under the reference's names."""

import torch
from torch import Tensor, nn

from kd_lightning.losses.catkd import catkd_loss
from kd_lightning.losses.mgd import MGDLoss
from kd_lightning.losses.ops.common import match_spatial
from kd_lightning.losses.semckd import SemCKDLoss
from kd_lightning.losses.simkd import simkd_loss
from kd_lightning.losses.srrl import SRRLLoss
from kd_lightning.models.reused_head import Projector
from tests.losses.goldens import Case, golden


def load(module: nn.Module, case: Case, prefixes: dict[str, str]) -> dict[str, Tensor]:
    """Load the case's state into the module (our prefix: theirs); returns its parameters under their names."""
    names = {
        name: theirs + name.removeprefix(ours)
        for name in module.state_dict()
        for ours, theirs in prefixes.items()
        if name.startswith(ours)
    }
    module.to(case.dtype).load_state_dict({ours: case.state[theirs] for ours, theirs in names.items()})
    return {names[name]: parameter for name, parameter in module.named_parameters()}


def linear(case: Case, prefix: str) -> nn.Linear:
    """The case's linear layer."""
    weight = case.state[f"{prefix}.weight"]
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=f"{prefix}.bias" in case.state).to(case.dtype)
    layer.load_state_dict({name: case.state[f"{prefix}.{name}"] for name in layer.state_dict()})
    return layer


@golden("srrl")
def _(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    inputs = {
        "student": case.inputs["f_s"],
        "teacher": case.inputs["f_t"],
        "teacher_logits": case.inputs["logits_t"],
        "teacher_head": linear(case, "cls_t"),
    }
    loss = SRRLLoss()
    loss.build(**inputs)
    parameters = load(loss, case, {"transfer.": "transfer."})
    return loss(**inputs), parameters


@golden("simkd")
def _(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    projector = Projector(case.hparams["s_n"], case.hparams["t_n"], case.hparams["factor"])
    parameters = load(projector, case, {"": "transfer."})
    student, _ = match_spatial(case.inputs["f_s"], case.inputs["f_t"])
    projected = projector(student)
    logits = linear(case, "cls_t")(projected.mean((2, 3)))
    torch.testing.assert_close(logits, case.extra["pred_feat_s"].to(case.dtype), rtol=1e-5, atol=1e-6)
    return simkd_loss(projected, case.inputs["f_t"]), parameters


@golden("semckd")
def _(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    student, teacher = case.list("f_s"), case.list("f_t")
    loss = SemCKDLoss(case.hparams["feat_dim(batch)"], case.hparams["soft"], case.hparams.get("factor", 4))
    loss.build(student, teacher)
    pairs = [(i, j) for i in range(len(student)) for j in range(len(teacher))]
    prefixes = {f"queries.{i}.": f"query_{i}." for i in range(len(student))}
    prefixes |= {f"keys.{j}.": f"key_{j}." for j in range(len(teacher))}
    prefixes |= {f"regressors.{n}.": f"regressor{i}{j}.regressor." for n, (i, j) in enumerate(pairs)}
    parameters = load(loss, case, prefixes)
    # The reference's embeddings carry a second perceptron that its forward never uses: no gradient, and none here.
    unused = {n: p for n, p in case.state.items() if n.startswith(("query_", "key_")) and ".regressor." in n}
    return loss(student, teacher), parameters | unused


@golden("catkd")
def _(case: Case) -> Tensor:
    h = case.hparams
    loss = catkd_loss(
        case.inputs["f_s"],
        case.inputs["f_t"],
        resolution=h["CAM_RESOLUTION"],
        normalize=h["IF_NORMALIZE"],
        binarize=h.get("IF_BINARIZE", False),
    )
    return loss * h.get("CAT_loss_weight", 1.0)


@golden("mgd")
def _(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    student, teacher = case.inputs["f_s"], case.inputs["f_t"]
    loss = MGDLoss(case.hparams["lambda_mgd"], case.hparams["mask"])
    loss.build(student, teacher)
    parameters = load(loss, case, {"": ""})
    return case.hparams["alpha_mgd"] * loss(student, teacher, case.inputs["u"]), parameters
