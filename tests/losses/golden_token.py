"""Golden mappings of the token and transformer losses."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_lightning.losses.akl import akl_loss
from kd_lightning.losses.attention_scores import attention_ce_loss, attention_mse_loss
from kd_lightning.losses.cross_entropy import cross_entropy_loss
from kd_lightning.losses.forward_kl import forward_kl_loss
from kd_lightning.losses.hidden import hidden_cosine_loss, hidden_mse_loss
from kd_lightning.losses.jsd import jsd_loss
from kd_lightning.losses.minillm import minillm_advantage
from kd_lightning.losses.minilm import attention_kl_loss, minilm_loss
from kd_lightning.losses.minilmv2 import minilmv2_loss
from kd_lightning.losses.pkd_hidden import pkd_hidden_loss
from kd_lightning.losses.reverse_kl import reverse_kl_loss
from kd_lightning.losses.skew_kl import skew_forward_kl_loss, skew_reverse_kl_loss
from kd_lightning.losses.sparse_kl import sparse_kl_loss
from kd_lightning.losses.symmetric_kl import symmetric_kl_loss
from kd_lightning.losses.taid import TAIDLoss, taid_loss
from kd_lightning.losses.tinybert import TinyBERTLoss
from kd_lightning.losses.tvd import tvd_loss
from kd_lightning.losses.uld import uld_loss
from tests.losses.goldens import Case, golden


def logits(case: Case) -> tuple[Tensor, Tensor, Tensor | None]:
    """Student, teacher and valid positions."""
    labels, mask = case.inputs.get("labels"), case.inputs.get("mask")
    return case.inputs["logits_s"], case.inputs["logits_t"], mask if labels is None else labels != -100


@golden("gkd_jsd")
def gkd_jsd(case: Case) -> Tensor:
    student, teacher, mask = logits(case)
    hparams = {"beta": 0.5, "temperature": 1.0, "reduction": "batchmean", **case.hparams}
    loss = jsd_loss(
        student,
        teacher,
        mask,
        beta=hparams["beta"],
        temperature=hparams["temperature"],
        scale_by_temperature=False,
    )
    positions = student[..., 0].numel() if mask is None else int(mask.sum().clamp(min=1))
    total = loss * positions
    if hparams.get("num_items_in_batch"):
        return total / hparams["num_items_in_batch"]
    if hparams["reduction"] == "sum":
        return total
    if hparams["reduction"] == "mean":
        return loss / student.shape[-1]
    # Without labels [1] divides by the batch size.
    return total / len(student) if mask is None else loss


@golden("js_token")
def js_token(case: Case) -> Tensor:
    return jsd_loss(*logits(case), beta=1 - case.hparams["lam"])


@golden("forward_kl_token")
def forward_kl_token(case: Case) -> Tensor:
    return forward_kl_loss(*logits(case), subtract_entropy=False)


@golden("reverse_kl_token", "minillm_single_step_reg")
def reverse_kl_token(case: Case) -> Tensor:
    return reverse_kl_loss(*logits(case))


@golden("symmetric_kl_token")
def symmetric_kl_token(case: Case) -> Tensor:
    return symmetric_kl_loss(*logits(case), reverse_weight=case.hparams["lam"], subtract_entropy=False)


@golden("tvd_token")
def tvd_token(case: Case) -> Tensor:
    return tvd_loss(*logits(case))


@golden("skewed_forward_kl")
def skewed_forward_kl(case: Case) -> Tensor:
    return skew_forward_kl_loss(*logits(case), skew=case.hparams["lam"], subtract_entropy=False)


@golden("skewed_reverse_kl")
def skewed_reverse_kl(case: Case) -> Tensor:
    return skew_reverse_kl_loss(*logits(case), skew=case.hparams["lam"])


@golden("sparse_topk_kl--distillkit_zero", "sparse_topk_kl--distillkit_symmetric_uniform")
def sparse_topk_kl(case: Case) -> Tensor:
    return sparse_kl_loss(
        case.inputs["logits_s"],
        case.inputs["topk_ids"],
        case.inputs["topk_logprobs"],
        case.inputs["labels"] != -100 if "labels" in case.inputs else None,
        missing="zero" if case.hparams["missing"] == "ZERO" else "tail",
        temperature=case.hparams["temperature"],
    )


@golden("akl")
def akl(case: Case) -> Tensor:
    return akl_loss(*logits(case), head_mass=case.hparams["mu"])


@golden("taid")
def taid(case: Case) -> Tensor:
    return taid_loss(*logits(case), t=case.hparams["t"])


@golden("taid_schedule")
def taid_schedule(case: Case) -> Tensor:
    h = case.hparams
    loss = TAIDLoss(h["t_start"], h["t_end"], h["alpha"], h["beta"], adaptive=not h["disable_adaptive"])
    trace = []
    for step, value in enumerate(case.inputs["losses"]):
        loss.update(value, progress=step / h["num_train_steps"])
        trace.append(loss.t.to(case.dtype))
    return torch.stack(trace).sum()


@golden("minillm_advantage")
def advantage(case: Case) -> Tensor:
    rewards, mask = case.inputs["rewards"], case.inputs["mask"]
    return minillm_advantage(rewards, mask, gamma=case.hparams["gamma"], whiten=False).sum()


def answer_mask(labels: Tensor, skip_eos: bool) -> Tensor:
    """Positions that predict the answer: one before each label, unless the answer starts the text."""
    mask = torch.zeros_like(labels, dtype=torch.bool)
    for row, answer in zip(mask, labels != -100, strict=True):
        start, size = int(answer.int().argmax()), int(answer.sum()) - skip_eos
        start = max(start - 1, 0)
        row[start : start + max(size, 0)] = True
    return mask


@golden("uld")
def uld(case: Case) -> Tensor:
    h = case.hparams
    return uld_loss(
        case.inputs["logits_s"],
        case.inputs["logits_t"],
        answer_mask(case.inputs["labels_s"], h["skip_student_eos"]),
        answer_mask(case.inputs["labels_t"], h["skip_teacher_eos"]),
        student_temperature=h["student_temperature"],
        teacher_temperature=h["teacher_temperature"],
    )


@golden("tinybert")
def tinybert(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    lists = [case.list(name) for name in ("att_s", "att_t", "hid_s", "hid_t")]
    loss = TinyBERTLoss()
    loss.build(*lists)
    loss.to(case.dtype)
    loss.projection.load_state_dict({n.removeprefix("fit_dense."): v for n, v in case.state.items()})
    return loss(*lists), {f"fit_dense.{n}": p for n, p in loss.projection.named_parameters()}


def states(case: Case) -> tuple[Tensor, Tensor, Tensor | None]:
    """States or scores of both sides and the mask."""
    mask = case.inputs.get("mask", case.inputs.get("attention_mask", case.inputs.get("inputs_mask")))
    return case.inputs["state_s"], case.inputs["state_t"], mask


def threshold(mask: Tensor | None) -> float:
    """TextBrewer's, which it applies without a mask only."""
    return -1e-3 if mask is None else -float("inf")


@golden("textbrewer_att_mse")
def attention_mse(case: Case) -> Tensor:
    return attention_mse_loss(*states(case), threshold=threshold(states(case)[2]))


@golden("textbrewer_att_mse_sum")
def attention_mse_sum(case: Case) -> Tensor:
    return attention_mse_loss(*states(case), merge_heads=True, threshold=threshold(states(case)[2]))


@golden("textbrewer_att_ce")
def attention_ce(case: Case) -> Tensor:
    return attention_ce_loss(*states(case), threshold=threshold(states(case)[2]))


@golden("textbrewer_att_ce_mean")
def attention_ce_mean(case: Case) -> Tensor:
    return attention_ce_loss(*states(case), merge_heads=True, threshold=threshold(states(case)[2]))


@golden("textbrewer_hidden_mse")
def textbrewer_hidden_mse(case: Case) -> Tensor:
    return hidden_mse_loss(*states(case))


@golden("textbrewer_hidden_cos")
def textbrewer_hidden_cos(case: Case) -> Tensor:
    return hidden_cosine_loss(*states(case))


@golden("pkd_hidden")
def pkd_hidden(case: Case) -> Tensor:
    student, teacher, _ = states(case)
    return pkd_hidden_loss(student, teacher)


def relations(case: Case) -> tuple[Tensor, ...]:
    """Queries, keys and values of student and teacher, and the mask."""
    return (*(case.inputs[f"{x}_{side}"] for side in "st" for x in "qkv"), case.inputs.get("attention_mask"))


@golden("minilmv2")
def minilmv2(case: Case) -> Tensor:
    weights = {(left, right): weight for left, right, weight in case.hparams["relations"]}
    assert set(weights) <= {(1, 1), (2, 2), (3, 3)}, weights  # queries, keys, values
    ours = [weights.get((i, i), 0.0) for i in (1, 2, 3)]
    return minilmv2_loss(*relations(case), relation_heads=case.hparams["A_r"], weights=ours)


@golden("minilm_v1_relations")
def minilm_v1(case: Case) -> Tensor:
    return minilm_loss(*relations(case), heads=case.hparams["A_r"])


@golden("minilm_attention_kl--xdpx")
def minilm_attention(case: Case) -> Tensor:
    scores = case.inputs["scores_s"], case.inputs["scores_t"]
    return attention_kl_loss(*scores, case.inputs.get("mask"), mask_columns=False)


@golden("distilbert_triple")
def distilbert(case: Case) -> Tensor:
    h, inputs = case.hparams, case.inputs
    student, teacher, labels = inputs["logits_s"], inputs["logits_t"], inputs["lm_labels"]
    attended = inputs["attention_mask"].bool()
    selected = labels > -1 if h["restrict_ce_to_mask"] else attended
    loss = h["alpha_ce"] * forward_kl_loss(student, teacher, selected, temperature=h["temperature"])
    loss = loss + h["alpha_cos"] * hidden_cosine_loss(inputs["hidden_s"], inputs["hidden_t"], attended)
    loss = loss + h["alpha_mlm"] * cross_entropy_loss(student, labels)
    loss = loss + h["alpha_clm"] * cross_entropy_loss(student[:, :-1], labels[:, 1:])
    return loss + h["alpha_mse"] * hidden_mse_loss(student, teacher, selected) * student.shape[-1]
