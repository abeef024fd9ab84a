"""Weights, warm-up, numbers and learning parts of every method whose YAML names its authors' code, against references.

Each reference says what the script does, in its own words: RepDistiller's -r, -a and -b, mdistiller's count of epochs.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
import torch

from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.schema import Method
from kd_lightning.config.values import values
from kd_lightning.core.optim import configure
from kd_lightning.core.schedules import Progress
from kd_lightning.core.terms import param_groups
from kd_lightning.jobs.methods import load_method
from kd_lightning.training.objective import build_objective
from tests.losses import spec_feature_a, spec_feature_b, spec_relation, spec_response  # noqa: F401  # fill SPECS
from tests.losses.contract import SPECS

Weights = Callable[[int], dict[str, float]]


@dataclass(frozen=True)
class Published:
    """What a script trains with.

    Attributes:
        weights: Epoch, counted from 0 -> term -> weight.
        numbers: Term.number -> value, of those that the script or its defaults set.
        parts: Modules and parameters beside the student that its optimiser gets, with the student's rate and decay.
    """

    weights: Weights
    numbers: dict[str, float] = field(default_factory=dict)
    parts: Iterable[str] = ()


def constant(**weights: float) -> Weights:
    return lambda epoch: weights


def rep_distiller(name: str, b: float, a: float = 0.0, r: float = 1.0) -> Weights:
    """train_student.py: loss = gamma * loss_cls + alpha * loss_div + beta * loss_kd."""
    weights = {"ce": r, "kd": a, name: b}
    return lambda epoch: {term: weight for term, weight in weights.items() if weight}


def mdistiller_dkd(epoch: int) -> dict[str, float]:
    """engine/trainer.py trains epochs 1, 2, ...; DKD.py: min(kwargs["epoch"] / self.warmup, 1.0) * dkd_loss."""
    counted = epoch + 1
    return {"ce": 1.0, "dkd": min(counted / 20, 1.0)}


def review_kd(epoch: int) -> dict[str, float]:
    """CIFAR-100/train.py: for epoch in range(args.epochs), min(1, epoch / args.kd_warm_up) * args.kd_loss_weight."""
    return {"ce": 1.0, "reviewkd": min(1, epoch / 20.0) * 5.0}


TOKENS = constant
KD4 = {"kd.temperature": 4.0}
CRD = {"crd.negatives": 16384, "crd.temperature": 0.07, "crd.momentum": 0.5, "crd.dim": 128}
PUBLISHED = {
    # RepDistiller, scripts/run_cifar_distill.sh
    "kd": Published(rep_distiller("kd", 0.9, r=0.1), KD4),
    "fitnet": Published(rep_distiller("fitnet", 100), parts=["fitnet.regressors"]),
    "at": Published(rep_distiller("at", 1000), {"at.p": 2}),
    "sp": Published(rep_distiller("sp", 3000)),
    "cc": Published(rep_distiller("cc", 0.02), parts=["cc.embed_student", "cc.embed_teacher"]),
    "vid": Published(
        rep_distiller("vid", 1), {"vid.init_variance": 5.0, "vid.eps": 1e-5}, ["vid.regressors", "vid.log_scales"]
    ),
    "rkd": Published(rep_distiller("rkd", 1), {"rkd.distance_weight": 25, "rkd.angle_weight": 50}),
    "rkd_distance": Published(rep_distiller("rkd_distance", 25), {"rkd_distance.angle_weight": 0}),
    "rkd_angle": Published(rep_distiller("rkd_angle", 50), {"rkd_angle.distance_weight": 0}),
    "pkt": Published(rep_distiller("pkt", 30000)),
    "nst": Published(rep_distiller("nst", 50)),
    "crd": Published(rep_distiller("crd", 0.8), CRD, ["crd.embed_student", "crd.embed_teacher"]),
    "crd_kd": Published(rep_distiller("crd", 0.8, a=1.0), CRD | KD4, ["crd.embed_student", "crd.embed_teacher"]),
    # ... its helper/pretrain.py: the criterion itself, then the labels
    "ab": Published(constant(ce=1, ab=1)),
    "fsp": Published(constant(ce=1, fsp=1)),
    # mdistiller, engine/cfg.py and configs/
    "dkd": Published(mdistiller_dkd, {"dkd.alpha": 1, "dkd.beta": 8, "dkd.temperature": 4}),
    "kdsvd": Published(constant(ce=1, kdsvd=1), {"kdsvd.k": 1}),
    "reviewkd": Published(review_kd, {"reviewkd.max_hidden": 512}, ["reviewkd.fusions"]),
    # The others' own scripts
    "ft": Published(constant(ce=1, ft=500), {"ft.rate": 0.5}, ["ft.paraphraser", "ft.translator"]),
    "catkd": Published(constant(ce=1, catkd=15), {"catkd.resolution": 2}),
    "cs_kd": Published(constant(ce=1, cs_kd=1), {"cs_kd.temperature": 4}),
    "ctkd": Published(
        constant(ce=0.1, ctkd=0.9), {"ctkd.start": 1, "ctkd.span": 20, "ctkd.epochs": 10}, ["ctkd.theta"]
    ),
    "cwd": Published(constant(ce=1, cwd=3), {"cwd.temperature": 4}),
    "dist": Published(constant(ce=1, dist=1), {"dist.beta": 2, "dist.gamma": 2, "dist.temperature": 4}),
    "fcfd": Published(
        constant(ce=1, kd=1, fcfd=1),
        KD4 | {"fcfd.feature_weight": 0.02, "fcfd.mixed_weight": 1, "fcfd.warmup_epochs": 20},
        ["fcfd.to_student", "fcfd.to_teacher"],
    ),
    "fitnet_two_stage": Published(
        constant(ce=1, kd=4 / 9, fitnet=1), {"kd.temperature": 3}, ["fitnet.regressors"]
    ),
    "ickd": Published(constant(ce=1, ickd=2.5), parts=["ickd.embed"]),
    "ls": Published(constant(ce=1, kd=9), {"kd.temperature": 2, "kd.standardize": True}),
    "mgd": Published(constant(ce=1, mgd=7e-5), {"mgd.ratio": 0.15}, ["mgd.align", "mgd.generation"]),
    "mlkd": Published(constant(ce=2 * 0.1, mlkd=0.9)),
    "multilabel_kd": Published(constant(bce=1, multilabel_kd=10)),
    "nkd": Published(constant(ce=1, nkd=1), {"nkd.temperature": 3, "nkd.gamma": 3.5}),
    "ofd": Published(constant(ce=1, ofd=1 / 1000), parts=["ofd.connectors"]),
    "pkd": Published(constant(ce=1, pkd=10)),
    "semckd": Published(
        constant(ce=1, kd=1, semckd=400), KD4, ["semckd.keys", "semckd.queries", "semckd.regressors"]
    ),
    "simkd": Published(constant(simkd=1)),
    "srd": Published(constant(ce=1, kd=1, srd=2), {"kd.temperature": 1}, ["srd.projector"]),
    "srrl": Published(constant(ce=1, srrl=1), parts=["srrl.transfer"]),
    "sskd": Published(
        constant(ce=0.1, kd=0.9 + 2.7, sskd=10),
        KD4 | {"sskd.temperature": 0.5, "sskd.keep_wrong": 0.75},
        ["sskd.student_head", "sskd.teacher_head"],
    ),
    "tf_kd": Published(constant(ce=0.9, tf_kd=0.1), {"tf_kd.temperature": 20, "tf_kd.confidence": 0.99}),
    "ttm": Published(constant(ce=1, ttm=45), {"ttm.temperature": 1 / 0.1}),
    "wttm": Published(constant(ce=1, wttm=4), {"wttm.temperature": 1 / 0.2}),
    "uskd": Published(
        constant(ce=1, uskd=1), {"uskd.alpha": 0.1, "uskd.beta": 0.1, "uskd.mu": 0.1}, ["uskd.classifier"]
    ),
    "vitkd": Published(
        constant(ce=1, vitkd=1),
        {"vitkd.alpha": 3e-5, "vitkd.beta": 3e-6, "vitkd.ratio": 0.5},
        ["vitkd.align", "vitkd.align_deep", "vitkd.generation", "vitkd.mask_token"],
    ),
    "wsld": Published(constant(ce=1, wsld=2.25), {"wsld.temperature": 4}),
    # Language models
    "akl": Published(TOKENS(akl=1), {"akl.head_mass": 0.5}),
    "distilbert": Published(constant(soft=5, mlm=2, cosine=1), {"soft.temperature": 2}),
    "distillm": Published(TOKENS(skew_forward_kl=1), {"skew_forward_kl.skew": 0.1}),
    "distillm_reverse": Published(TOKENS(skew_reverse_kl=1), {"skew_reverse_kl.skew": 0.1}),
    "forward_kl": Published(TOKENS(forward_kl=1), {"forward_kl.temperature": 1}),
    "gkd": Published(TOKENS(jsd=1), {"jsd.beta": 0.5, "jsd.temperature": 1}),
    "jsd": Published(TOKENS(jsd=1), {"jsd.beta": 0.5}),
    "mft": Published(TOKENS(mft=1), {"mft.threshold": 0.2, "mft.temperature": 1}),
    "minillm": Published(
        TOKENS(minillm=1, lm=1),
        {"minillm.teacher_mix": 0.2, "minillm.clip_ratio": 0.2, "minillm.gamma": 0.95, "minillm.reward_scaling": 0.5},
    ),
    "minilmv2": Published(constant(minilmv2=1), {"minilmv2.relation_heads": 48}),
    "pkd_bert": Published(constant(ce=1 - 0.7, kd=0.7, pkd_hidden=500), {"kd.temperature": 10}),
    "reverse_kl": Published(TOKENS(reverse_kl=1)),
    "sparse_kl": Published(TOKENS(sparse_kl=1)),
    "symmetric_kl": Published(TOKENS(symmetric_kl=1), {"symmetric_kl.reverse_weight": 0.5}),
    "taid": Published(TOKENS(taid=1), {"taid.t_start": 0.4, "taid.t_end": 1, "taid.alpha": 5e-4, "taid.beta": 0.99}),
    "tinybert": Published(constant(tinybert=1, kd=1), {"kd.temperature": 1}),
    "tinybert_general": Published(constant(tinybert=1)),
    "tvd": Published(TOKENS(tvd=1)),
    "uld": Published(TOKENS(ce=1, uld=1.5)),
}  # fmt: skip


def published(name: str) -> Method:
    """A method as its YAML has it (test_methods.py holds load_method against Hydra)."""
    return Method(**{**values(load_method(name)), "name": name})


def names_its_authors_code(path) -> bool:
    """Whether the comment above a method names a repository or a file."""
    comment = " ".join(line[1:] for line in path.read_text().splitlines() if line.startswith("#"))
    return re.search(r"[\w-]+/\S+", comment) is not None


def test_every_method_that_names_its_authors_code_has_a_reference():
    named = {path.stem for path in (conf_dir() / "method").glob("*.yaml") if names_its_authors_code(path)}
    assert named == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_and_numbers(name):
    method, reference = published(name), PUBLISHED[name]
    terms = {term.name: term for term in build_objective(method)}
    for epoch in (0, 1, 9, 18, 19, 20, 239):
        ours = {term.name: term.weight(Progress(0.0, epoch)) for term in terms.values()}
        assert ours == pytest.approx(reference.weights(epoch), rel=1e-3), f"epoch {epoch}"
    for key, value in reference.numbers.items():
        term, _, number = key.partition(".")
        assert method.terms[term]["loss"][number] == pytest.approx(value), key


@pytest.mark.parametrize("name", ["dkd", "reviewkd", "ctkd", "fcfd"])
def test_the_yaml_says_whose_count_of_epochs_it_follows(name):
    assert re.search(r"count.*from [01]", (conf_dir() / f"method/{name}.yaml").read_text())


def test_ctkd_counts_from_one():
    """train_student.py: for epoch in range(1, epochs + 1), CosineDecay(0, -1, loops=10).get_value(epoch)."""
    loss = next(t.loss for t in build_objective(published("ctkd")) if t.name == "ctkd")
    for epoch in range(12):
        counted = epoch + 1
        value = -1 if counted >= 10 else (math.cos(counted * math.pi / 10) + 1) * 0.5 - 1
        assert loss.strength(epoch) == pytest.approx(value)


LEARNING = [name for name, one in PUBLISHED.items() if one.parts and name not in ("crd_kd", "fitnet_two_stage")]


@pytest.mark.parametrize("name", LEARNING)
def test_what_learns_beside_the_student_learns_as_it_does(name):
    objective = build_objective(published(name))
    term = objective.terms[name]
    spec = next(spec for spec in SPECS if spec.name == name)
    term.loss = spec.make()
    term.build(spec.inputs(6, torch.Generator().manual_seed(0)))
    student = torch.nn.Parameter(torch.zeros(1))
    sgd = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)
    optimizer = configure([{"params": [student]}, *param_groups(objective)], sgd, None)
    owners = {id(p): f"{name}.{path.split('.')[0]}" for path, p in term.loss.named_parameters()}
    groups = [{owners.get(id(p), "student") for p in group["params"]} for group in optimizer.param_groups]
    assert groups == [{"student"}, set(PUBLISHED[name].parts)]
    assert {(g["lr"], g["momentum"], g["weight_decay"]) for g in optimizer.param_groups} == {(0.05, 0.9, 5e-4)}
