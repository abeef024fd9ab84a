"""``job=methods``: the methods there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from kd_lightning.config.command import Command
from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.roles import TEACHER

KINDS = {
    "baseline": "Without a teacher's help",
    "response": "What the teacher answers",
    "feature": "What the teacher's layers hold",
    "relation": "How the teacher's samples or layers relate to each other",
    "token": "Language models: the next token's distribution",
    "transformer": "Transformers: layers, attentions",
}
NEEDS = {
    "stages": "maps",
    "preacts": "pre-activations",
    "head": "classifier",
    "index": "sample index",
    "views": "several views",
    "rollout": "generated text",
    "hidden_states": "hidden states",
    "queries_keys_values": "queries, keys, values",
    "topk": "top k of the logits",
    "two_tokenizers": "masks of two tokenizers",
}
# Columns of their own.
_ELSEWHERE = ("parameters", "stages_training")
_WIDTH = 100
_COLUMNS = {"method": 16, "paper, year": 35, "needs": 25, "trains": 6, "stages": 6, "golden": 6}


def load_method(name: str) -> DictConfig:
    """A shipped method with its terms, as ``method=<name>`` composes it."""
    own = OmegaConf.load(conf_dir() / "method" / f"{name}.yaml")
    assert isinstance(own, DictConfig)
    merged: Any = OmegaConf.create({})
    for entry in own.pop("defaults"):
        if isinstance(entry, str) and entry != "_self_":
            merged = load_method(entry)
        elif isinstance(entry, DictConfig):  # "/term@terms.<name>: <term>", "/rollout@rollout: <rollout>"; or _self_
            ((place, choice),) = entry.items()
            group, _, key = str(place).strip("/").partition("@")
            OmegaConf.update(merged, key, OmegaConf.load(conf_dir() / group / f"{choice}.yaml"))
    result = OmegaConf.merge(merged, own)
    assert isinstance(result, DictConfig)
    return result


def method_infos() -> list[dict[str, Any]]:
    """Of every shipped method ``name``, ``info``, ``stages`` (how many) and ``teacher`` (whether it has one).

    By kind, year and name.
    """
    infos = []
    for path in sorted((conf_dir() / "method").glob("*.yaml")):
        method = load_method(path.stem)
        info: Any = OmegaConf.to_container(method.info)
        inputs = str([term.inputs for term in method.terms.values()])
        rollout = method.get("rollout") or {}
        writes = {TEACHER} & {rollout.get("role"), rollout.get("teacher")}
        teacher = f"{TEACHER}." in inputs or "student_wrapper" in method or bool(writes)
        infos.append({"name": path.stem, **info, "stages": len(method.get("stages", [])) or 1, "teacher": teacher})
    kinds = list(KINDS)
    return sorted(infos, key=lambda info: (kinds.index(info["kind"]), info["year"], info["name"]))


def needs_in_words(info: dict[str, Any]) -> str:
    """What a method takes beside logits and labels."""
    words = [NEEDS.get(need, need) for need in info["needs"] if need not in _ELSEWHERE]
    return ", ".join(words if info["teacher"] else ["no teacher", *words])


def _where(paper: str) -> str:
    """Authors, and where and when it appeared."""
    return f"{paper.partition(', ')[0]}, {paper.rpartition(', ')[2]}"


def run(command: Command, folder: Path) -> None:
    """Print the table."""
    infos = method_infos()
    table = Table(title="method=<name>", box=None, padding=(0, 1, 0, 0), width=_WIDTH)
    for column, width in _COLUMNS.items():
        table.add_column(column, width=width)
    for kind, title in KINDS.items():
        group = [info for info in infos if info["kind"] == kind]
        table.add_row(f"\n[bold]{kind}[/bold]", f"\n[bold]{title}[/bold]")
        for info in group:
            stages = str(info["stages"]) if info["stages"] > 1 else ""
            trains = "own" if "parameters" in info["needs"] else ""
            golden = "yes" if info["golden"] else ""
            table.add_row(info["name"], _where(info["paper"]), needs_in_words(info), trains, stages, golden)
    console = Console(width=_WIDTH)
    console.print(table)
    tested = sum(bool(info["golden"]) for info in infos)
    console.print(
        f"\n{len(infos)} methods. trains own: the loss has parameters that are trained along. golden: {tested} are"
        " compared in the test suite with values and gradients recorded from their authors' code. Formulas, references"
        " and numbers: docs/methods.md."
    )
