"""The transformer losses: padding, layer maps, projections, errors; and the YAML of token and transformer methods."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from kd_lightning.core.terms import Objective, Stage, Term
from kd_lightning.losses.attention_scores import attention_ce_loss, attention_mse_loss
from kd_lightning.losses.hidden import HiddenMSELoss, hidden_cosine_loss, hidden_mse_loss
from kd_lightning.losses.minilm import attention_kl_loss, minilm_loss
from kd_lightning.losses.minilmv2 import MiniLMv2Loss, minilmv2_loss
from kd_lightning.losses.pkd_hidden import PKDHiddenLoss, pkd_hidden_loss
from kd_lightning.losses.tinybert import TinyBERTLoss, tinybert_loss

CONF = Path(__file__).parents[2] / "conf"
TOKENS = 4


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pad(x: torch.Tensor, left: int, right: int, dims: tuple[int, ...]) -> torch.Tensor:
    """Padding by a value that would show, along the given dimensions."""
    for dim in dims:
        parts = [x.new_full([*x.shape[:dim], n, *x.shape[dim + 1 :]], 6.0) for n in (left, right)]
        x = torch.cat([parts[0], x, parts[1]], dim=dim)
    return x


def minilmv2(*args):
    return minilmv2_loss(*args, relation_heads=2)


def minilm(*args):
    return minilm_loss(*args, heads=2)


PADDED = {
    # loss -> shapes of its arguments and the dimensions of the tokens
    hidden_mse_loss: ([(2, TOKENS, 6)] * 2, (1,)),
    hidden_cosine_loss: ([(2, TOKENS, 6)] * 2, (1,)),
    attention_mse_loss: ([(2, 3, TOKENS, TOKENS)] * 2, (2, 3)),
    attention_kl_loss: ([(2, 3, TOKENS, TOKENS)] * 2, (2, 3)),
    minilm: ([(2, TOKENS, 6)] * 3 + [(2, TOKENS, 8)] * 3, (1,)),
    minilmv2: ([(2, TOKENS, 6)] * 3 + [(2, TOKENS, 8)] * 3, (1,)),
}


@pytest.mark.parametrize("loss", PADDED, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("left", "right"), [(2, 0), (0, 2)])
def test_padding_does_not_change_the_loss(loss, left, right):
    shapes, dims = PADDED[loss]
    inputs = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    inputs[0] = inputs[0] * 2
    mask = torch.cat([torch.zeros(2, left), torch.ones(2, TOKENS), torch.zeros(2, right)], 1)
    padded = [pad(x, left, right, dims) for x in inputs]
    padded[0] = torch.where(padded[0] == 6.0, -4.0, padded[0])
    torch.testing.assert_close(loss(*padded, mask), loss(*inputs))
    assert not torch.isclose(loss(*padded, mask.roll(1, 1)), loss(*inputs))


@pytest.mark.parametrize("masked", [-1e4, torch.finfo(torch.float32).min, -float("inf")])
@pytest.mark.parametrize("loss", [attention_mse_loss, attention_ce_loss, attention_kl_loss])
def test_attention_ignores_what_the_additive_mask_hides(loss, masked):
    causal = torch.ones(TOKENS, TOKENS).triu(1).bool()
    student, teacher = (normal(1, 2, TOKENS, TOKENS, seed=i).float() for i in range(2))
    student = student.masked_fill(causal, masked).requires_grad_()
    value = loss(student, teacher.masked_fill(causal, masked))
    value.backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad[..., causal].abs().max() == 0
    expected = loss(*(x.detach().masked_fill(causal, -1e4) for x in (student, teacher)))
    torch.testing.assert_close(value, expected)


def test_merged_heads_may_differ_in_number():
    student, teacher = normal(1, 2, TOKENS, TOKENS), normal(1, 4, TOKENS, TOKENS, seed=1)
    with pytest.raises(ValueError, match="merge_heads"):
        attention_mse_loss(student, teacher)
    expected = (student.sum(1) - teacher.sum(1)).square().mean()
    torch.testing.assert_close(attention_mse_loss(student, teacher, merge_heads=True), expected)
    torch.testing.assert_close(attention_mse_loss(student.sum(1), teacher.sum(1)), expected)
    one = attention_ce_loss(student.mean(1), teacher.mean(1))
    torch.testing.assert_close(attention_ce_loss(student, teacher, merge_heads=True), one)


def test_hidden_projects_each_pair_of_layers_where_the_widths_differ():
    student, teacher = [normal(2, 3, 4), normal(2, 3, 4)], [normal(2, 3, 4, seed=2), normal(2, 3, 6, seed=3)]
    loss = HiddenMSELoss()
    loss.build(student, teacher)
    loss.double()
    assert [sum(p.numel() for p in layer.parameters()) for layer in loss.projections] == [0, 4 * 6 + 6]
    expected = hidden_mse_loss(student[0], teacher[0]) + hidden_mse_loss(loss.projections[1](student[1]), teacher[1])
    torch.testing.assert_close(loss(student, teacher), expected)
    with pytest.raises(ValueError, match="cannot be paired"):
        loss(student, teacher[:1])
    with pytest.raises(ValueError, match="same shape"):
        hidden_mse_loss(student[1], teacher[1])


def tinybert_inputs(student_layers: int, teacher_layers: int) -> list[list[torch.Tensor]]:
    return [
        [normal(2, 2, TOKENS, TOKENS, seed=i) for i in range(student_layers)],
        [normal(2, 2, TOKENS, TOKENS, seed=10 + i) for i in range(teacher_layers)],
        [normal(2, TOKENS, 6, seed=20 + i) for i in range(student_layers + 1)],
        [normal(2, TOKENS, 6, seed=30 + i) for i in range(teacher_layers + 1)],
    ]


def test_tinybert_maps_the_layers_evenly():
    student_att, teacher_att, student_hid, teacher_hid = tinybert_inputs(2, 6)
    expected = sum(attention_mse_loss(student_att[m], teacher_att[g]) for m, g in ((0, 2), (1, 5)))
    expected = expected + sum(hidden_mse_loss(student_hid[m], teacher_hid[g]) for m, g in ((0, 0), (1, 3), (2, 6)))
    torch.testing.assert_close(tinybert_loss(student_att, teacher_att, student_hid, teacher_hid), expected)
    same = tinybert_loss(student_att, teacher_att, student_hid, teacher_hid, layers=[3, 6])
    torch.testing.assert_close(same, expected)


def test_tinybert_says_what_cannot_be_mapped():
    with pytest.raises(ValueError, match="not a multiple"):
        tinybert_loss(*tinybert_inputs(2, 3))
    with pytest.raises(ValueError, match="1 to 3"):
        tinybert_loss(*tinybert_inputs(2, 3), layers=[1, 4])
    student_att, teacher_att, student_hid, teacher_hid = tinybert_inputs(1, 2)
    with pytest.raises(ValueError, match="one more hidden state"):
        tinybert_loss(student_att, teacher_att, student_hid[1:], teacher_hid)


def test_tinybert_shares_one_projection():
    inputs = tinybert_inputs(2, 4)
    inputs[2] = [x[..., :3] for x in inputs[2]]
    loss = TinyBERTLoss()
    loss.build(*inputs)
    assert sum(p.numel() for p in loss.parameters()) == 3 * 6 + 6


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("skip", [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]),
        ("last", [(1, 7), (2, 8), (3, 9), (4, 10), (5, 11)]),
        ([[1, 3], [6, 12]], [(1, 3), (6, 12)]),
    ],
)
def test_pkd_pairs_as_published(layers, expected):
    assert PKDHiddenLoss(layers).pairs(6, 12) == expected


def test_pkd_reads_the_first_token_and_adds_up_the_layers():
    student, teacher = [normal(2, 3, 4, seed=i) for i in range(4)], [normal(2, 3, 4, seed=9 + i) for i in range(7)]
    parts = [pkd_hidden_loss(student[s][:, 0], teacher[t][:, 0]) for s, t in ((1, 2), (2, 4))]
    torch.testing.assert_close(PKDHiddenLoss()(student, teacher), parts[0] + parts[1])
    mean = PKDHiddenLoss(reduction="mean")(student, teacher)
    torch.testing.assert_close(mean, (parts[0] + parts[1]) / (2 * 4))
    with pytest.raises(ValueError, match="skip"):
        PKDHiddenLoss("first")
    with pytest.raises(ValueError, match="explicit pairs"):
        PKDHiddenLoss()(student[:2], teacher)
    with pytest.raises(ValueError, match="hidden_mse"):
        pkd_hidden_loss(student[0], teacher[0][..., :3])


def test_relation_heads_must_divide_the_width():
    x = normal(1, TOKENS, 6)
    with pytest.raises(ValueError, match="not a multiple of 4"):
        minilmv2_loss(x, x, x, x, x, x, relation_heads=4)
    with pytest.raises(ValueError, match="query, key and value"):
        MiniLMv2Loss(weights=[0.5, 0.5])


METHODS = [
    "gkd",
    "forward_kl",
    "reverse_kl",
    "symmetric_kl",
    "jsd",
    "tvd",
    "distillm",
    "distillm_reverse",
    "akl",
    "taid",
    "sparse_kl",
    "minillm",
    "uld",
    "tinybert",
    "tinybert_general",
    "minilm",
    "minilmv2",
    "distilbert",
    "pkd_bert",
]


@pytest.mark.parametrize("name", METHODS)
def test_shipped_methods_fit_their_losses(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        method = compose(f"method/{name}").method
    assert method.name == name
    assert method.info.kind in ("token", "transformer")
    terms = [
        Term(key, instantiate(term.loss), OmegaConf.to_container(term.inputs), term.weight)
        for key, term in method.terms.items()
    ]
    stages = [Stage(tuple(stage.terms), stage.fraction) for stage in method.get("stages", [])]
    Objective(terms, stages)
    assert all(term.weight > 0 for term in method.terms.values())


@pytest.mark.parametrize("name", ["attention_mse", "attention_ce", "hidden_mse"])
def test_shipped_terms_of_no_method_fit_their_losses(name):
    term = OmegaConf.load(CONF / "term" / f"{name}.yaml")
    Term(name, instantiate(term.loss), OmegaConf.to_container(term.inputs), term.weight)
