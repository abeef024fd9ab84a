"""What is said of the methods is so: the table, their needs, which of them were compared with recorded values."""

from __future__ import annotations

import importlib
import types
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from kd_lightning.jobs.methods import KINDS, NEEDS, load_method, method_infos
from tests.losses.goldens import MAPPINGS
from tests.methods.build import OTHER_TARGETS, VISION, build, composed

TESTS = Path(__file__).parents[1]
for path in (TESTS / "losses").glob("golden_*.py"):
    importlib.import_module(f"tests.losses.{path.stem}")

INFOS = {info["name"]: info for info in method_infos()}
# Recorded losses that a term has, but none of the shipped methods.
TERMS_ONLY = {
    "textbrewer_att_ce",
    "textbrewer_att_ce_mean",
    "textbrewer_att_mse",
    "textbrewer_att_mse_sum",
    "textbrewer_hidden_mse",
}


def loss_modules(function: types.FunctionType) -> set[str]:
    """Modules of kd_lightning.losses from which a golden mapping, or a helper that it calls, takes something."""
    found, codes = set(), [function.__code__]
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        for name in code.co_names:
            value = function.__globals__.get(name)
            origin = getattr(value, "__module__", None) or ""
            if origin.startswith("kd_lightning.losses."):
                found.add(origin)
            elif isinstance(value, types.FunctionType) and origin.startswith("tests.") and value is not function:
                found |= loss_modules(value)
    return found


@pytest.mark.parametrize("name", INFOS)
def test_golden_names_recordings_of_the_methods_own_losses(name: str):
    terms = composed(f"method={name}").method.terms.values()
    modules = {term.loss._target_.rpartition(".")[0] for term in terms}
    for stem in INFOS[name]["golden"]:
        assert (TESTS / "goldens" / f"{stem}.pt").is_file(), stem
        assert loss_modules(MAPPINGS[stem]) & modules, f"the mapping of {stem} uses no loss of {name}"


def test_every_recording_belongs_to_a_method():
    named = {stem for info in INFOS.values() for stem in info["golden"]}
    assert {p.stem for p in (TESTS / "goldens").glob("*.pt")} == named | TERMS_ONLY


@pytest.mark.parametrize("name", INFOS)
def test_the_table_reads_methods_as_hydra_composes_them(name: str):
    method = composed(f"method={name}").method
    plain: Any = OmegaConf.to_container(method)
    ours: Any = OmegaConf.to_container(load_method(name))
    assert ours == {key: plain[key] for key in ours}
    assert all(not value for key, value in plain.items() if key not in ours)


@pytest.mark.parametrize("name", INFOS)
def test_needs_are_what_the_terms_take(name: str):
    info, method = INFOS[name], composed(f"method={name}").method
    inputs = str([term.inputs for term in method.terms.values()])
    needs = set(info["needs"])
    assert needs <= {*NEEDS, "embedding", "attentions", "rollout", "parameters", "stages_training"}
    assert info["kind"] in KINDS
    assert ("stages_training" in needs) == (info["stages"] > 1) == bool(method.stages)
    if name not in VISION:
        return
    assert ("stages" in needs) == any(word in inputs for word in (".stages", ".all_stages", ".last_map"))
    assert ("preacts" in needs) == (".preacts" in inputs)
    assert ("embedding" in needs) == (".embedding" in inputs)
    assert ("head" in needs) == (".head!module" in inputs or method.student_wrapper is not None)
    assert ("index" in needs) == ("batch.index" in inputs)
    assert ("views" in needs) == (method.rollout is not None)


@pytest.mark.parametrize("name", sorted(set(VISION) - set(OTHER_TARGETS)))
def test_parameters_are_said(name: str):
    module = build(["model@teacher=resnet8x4", "model@student=resnet8"], name)  # all their widths differ
    own = any(True for _ in module.objective.parameters())
    wrapper = composed(f"method={name}").method.student_wrapper is not None
    assert ("parameters" in INFOS[name]["needs"]) == (own or wrapper)


def test_the_table(cli):
    outcome = cli("job=methods")
    assert outcome.code == 0, outcome.text
    lines = outcome.text.splitlines()
    assert max(len(line) for line in lines) <= 100
    first = {line.split()[0]: line for line in lines if line.split()}
    for name, info in INFOS.items():
        assert info["paper"].partition(", ")[0].split()[0] in first[name]
        assert str(info["year"]) in first[name], first[name]
        assert first[name].rstrip().endswith("yes") == bool(info["golden"])
    assert "no teacher" in first["uskd"]
    assert "own    2" in first["sskd"]
    assert "sample index" in first["crd"]
    assert f"{len(INFOS)} methods" in outcome.text
