"""Every method for language models takes a step on tiny nets, through the engine that trains them."""

from __future__ import annotations

import functools
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import transformers as t
from torch import Tensor, nn

from kd_lightning.cache.topk import TopKCall
from kd_lightning.core.calls import TokenCall
from kd_lightning.core.causal import shift_targets
from kd_lightning.core.distiller import Distiller
from kd_lightning.core.metrics import Evaluation, NegativeLogLikelihood
from kd_lightning.core.roles import Role, Roles
from kd_lightning.core.schedules import Progress
from kd_lightning.core.terms import Objective, Term
from kd_lightning.jobs.methods import method_infos
from kd_lightning.losses.chunked_head import ChunkedForwardKLLoss
from kd_lightning.models.anatomy.find import anatomy
from kd_lightning.models.language.tiny import tiny_bert, tiny_gpt
from kd_lightning.training.distiller import build_objective
from tests.methods.build import composed
from tests.models.language.nets import PAD, VOCABULARY, padded, texts

NAMES = [m["name"] for m in method_infos() if m["kind"] in ("token", "transformer") and m["name"] != "minillm"]
ENCODER = ("tinybert", "pkd_bert", "bert_emd", "minilm", "distilbert")
SIZES = {"width": 48, "heads": 12, "pad_token_id": PAD, "max_length": 16}


def batch(task: str) -> dict[str, Any]:
    made: dict[str, Any] = {**padded(texts()), "index": torch.arange(3)}
    ids, valid = made["input_ids"], made["attention_mask"].bool()
    made["target"] = {
        "classification": torch.tensor([0, 1, -100]),
        "masked_lm": torch.where(valid & (ids % 3 == 0), ids, -100),
        "causal_lm": shift_targets(ids, valid),
    }[task]
    made["loss_mask"] = made["target"] != -100
    if task == "causal_lm":  # a second tokenizer: here the same
        made |= {f"teacher_{key}": made[key] for key in ("input_ids", "attention_mask", "target", "loss_mask")}
        made["target_ends"] = made["teacher_target_ends"] = torch.arange(1, 8).expand(3, -1)
    return made


def distiller(task: str, objective: Objective, student: nn.Module, teacher: nn.Module, **options: Any) -> Distiller:
    roles = [
        Role("student", student, TokenCall(), anatomy(student).aliases()),
        Role("teacher", teacher, TopKCall(TokenCall(), 5), anatomy(teacher).aliases(), trainable=False),
    ]
    options = {"facts": {"num_classes": 2, "num_samples": 3}, **options}
    optimizer = functools.partial(torch.optim.SGD, lr=0.1)
    return Distiller(Roles(roles), objective, batch(task), optimizer=optimizer, **options)


@pytest.mark.parametrize("name", NAMES)
def test_a_step(name):
    torch.manual_seed(0)
    task = "causal_lm"
    if name in ENCODER or name.startswith(("tinybert", "minilm", "mobilebert")):
        task = "masked_lm" if name in ("distilbert", "mobilebert") else "classification"
    make = tiny_gpt if task == "causal_lm" else tiny_bert
    student, teacher = (make(VOCABULARY, task, 2, layers=n, **SIZES) for n in (2, 4))
    module = distiller(task, build_objective(composed(f"method={name}").method), student, teacher)
    module.train()
    prepared = batch(task)
    signals = module.roles(prepared, module._active)
    stages = module.objective.stages
    points = [sum(stage.fraction for stage in stages[:i]) for i in range(len(stages))] or [0.0]
    total = sum(
        module.objective(
            lambda r, point=point: module._resolve(r, signals, prepared, Progress(point)), Progress(point)
        )[0]
        for point in points
    )
    assert total.isfinite()
    total.backward()
    reached = [n for n, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any(".0." in n for n in reached), "no gradient in the first layer"
    assert all(p.grad is None for p in teacher.parameters())


def scaled(family: str, seed: int) -> nn.Module:
    """A decoder that changes its logits after the head, by much."""
    config, options = {
        "gemma2": (t.Gemma2Config, {"head_dim": 16, "final_logit_softcapping": 5.0}),
        "granite": (t.GraniteConfig, {"logits_scaling": 8.0}),
        "cohere": (t.CohereConfig, {"logit_scale": 0.25}),
        "padded": (t.LlamaConfig, {}),
        "minicpm3": (t.MiniCPM3Config, {}),
    }[family]
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, **heads}
    torch.manual_seed(seed)
    net = t.AutoModelForCausalLM.from_config(config(vocab_size=VOCABULARY + 8, pad_token_id=PAD, **sizes, **options))
    for parameter in net.parameters():
        parameter.data.mul_(8)
    return net.eval()


@pytest.mark.parametrize(("chunked", "whole"), [("chunked_kl", "forward_kl"), ("chunked_jsd", "jsd")])
@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere", "padded"])
def test_chunks_of_the_head_give_the_models_own_logits(family, chunked, whole):
    """Gemma caps them, Granite and Cohere scale them, and the call cuts a padded vocabulary."""
    student, teacher = scaled(family, 0), scaled(family, 1)
    wide = VOCABULARY if family == "padded" else None
    prepared, found = batch("causal_lm"), []
    for name in (chunked, whole):
        roles = [
            Role("student", student, TokenCall(wide), anatomy(student).aliases()),
            Role("teacher", teacher, TokenCall(wide), anatomy(teacher).aliases(), trainable=False),
        ]
        objective = build_objective(composed(f"method={name}").method)
        optimizer = functools.partial(torch.optim.SGD, lr=0.1)
        module = Distiller(Roles(roles), objective, prepared, {}, optimizer).eval()
        resolve = functools.partial(module._resolve, signals=module.roles(prepared, module._active), batch=prepared)
        total, _ = module.objective(functools.partial(resolve, progress=Progress()), Progress())
        total.backward()
        found.append((total.detach(), student.lm_head.weight.grad.clone()))
        student.zero_grad()
    assert found[1][0] > 0.01
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_states_that_the_head_does_not_read_are_refused():
    """MiniCPM divides them before the head, BERT has further layers there: silently other logits before."""
    for task, net in (("causal_lm", scaled("minicpm3", 0)), ("masked_lm", tiny_bert(VOCABULARY, "masked_lm", **SIZES))):
        objective = build_objective(composed("method=chunked_kl").method)
        with pytest.raises(ValueError, match=r"teacher.last_hidden_state.*forward_kl"):
            distiller(task, objective, net, net)


def test_a_head_whose_numbers_become_something_else_is_refused():
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_gpt(VOCABULARY, **SIZES)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            logits: Tensor = self.inner(input_ids, attention_mask=attention_mask).logits
            return logits.log_softmax(-1)

    objective = build_objective(
        composed("method=chunked_kl", "method.terms.chunked_forward_kl.inputs.student=student.embedding").method
    )
    net = Normed()
    role = Role("student", net, TokenCall(), {"head": "inner.lm_head", "embedding": "inner.lm_head:in"})
    teacher = Role("teacher", tiny_gpt(VOCABULARY, **SIZES), TokenCall(), {"head": "lm_head"}, trainable=False)
    with pytest.raises(ValueError, match=r"Normed \(student\).*student.taps.head"):
        Distiller(Roles([role, teacher]), objective, batch("causal_lm"), {}, torch.optim.SGD)


def test_evaluation_asks_for_what_training_does_not(tmp_path):
    """With the chunked head no logits are made in training, and validation has them all the same."""
    torch.manual_seed(0)
    student, teacher = (tiny_gpt(VOCABULARY, layers=n, **SIZES) for n in (1, 2))
    ran: list[Tensor] = []
    student.lm_head.register_forward_hook(lambda *_: ran.append(_[2]))
    heads = {f"{role}_head": f"{role}.head!module" for role in ("student", "teacher")}
    states = {role: f"{role}.last_hidden_state" for role in ("student", "teacher")}
    term = Term("kl", ChunkedForwardKLLoss(), {**states, **heads, "mask": "batch.loss_mask"})
    evaluation = Evaluation({"nll": NegativeLogLikelihood()}, {"preds": "student.logits", "target": "batch.target"})
    module = distiller("causal_lm", Objective([term]), student, teacher, evaluation=evaluation)
    assert [len(logits) for logits in ran] == [2]  # asked once what follows it; the dry run is one of training
    ran.clear()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    before = student.transformer.wte.weight.detach().clone()
    prepared = batch("causal_lm")
    batches = [torch.utils.data.DataLoader([prepared] * n, batch_size=None) for n in (3, 1)]
    trainer.fit(module, *batches)
    assert len(ran) == 1  # that of the one validation batch
    assert not torch.equal(student.transformer.wte.weight, before)
    expected = torch.nn.functional.cross_entropy(ran[0].flatten(0, 1), prepared["target"].flatten())
    torch.testing.assert_close(trainer.callback_metrics["val/nll"], expected)
