"""The three experiments on real text that need no hub: what distillation is worth to small language models.

    python -m benchmarks.language [--only shakespeare embed tweets] [--seeds 0 1 2] [--write docs/language.md]

Needs the extra ``demo``. Every training lies under outputs/bench/language and is found again, so that an interrupted
run goes on. On two cores: shakespeare 70 minutes with one seed and 30 more with each other, embed 20, tweets 45.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.clock import table, write

OUT = Path("outputs/bench/language")
Metrics = dict[str, Any]


def job(name: str, *arguments: str) -> Metrics:
    """Run kd_lightning with these arguments; the arms of its comparison, by name."""
    folder = OUT / name
    command = [sys.executable, "-m", "kd_lightning", *arguments, f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"})
    found: Metrics = json.loads((folder / "metrics.json").read_text())["arms"]
    return found


def cell(arm: Metrics, key: str, scale: float = 1.0, digits: int = 2) -> str:
    """Mean and deviation over the seeds."""
    if key not in arm:
        return "–"
    mean, sd = arm[key]["mean"], arm[key].get("sd")
    text = f"{scale * mean:.{digits}f}"
    return text if sd is None else f"{text} ± {scale * sd:.{digits}f}"


def cost(arm: Metrics) -> list[str]:
    """Parameters in millions, and milliseconds at batch 1 and 64."""
    found = arm["cost"]
    times = [found["latency_ms_batch1"], found["latency_ms_batched"]]
    return [f"{found['parameters'] / 1e6:.2f}", *("–" if t is None else f"{t:.2f}" for t in times)]


COSTS = ["parameters, M", "ms for 1", "ms for 64"]


def shakespeare(seeds: Sequence[int]) -> str:
    """Perplexity and agreement of a small GPT by way of distillation."""
    methods = ["study.methods=[forward_kl,reverse_kl,gkd]", "study.controls=[]", "method=gkd"]
    generation = ["method.rollout.generation.max_new_tokens=64", "method.rollout.generation.prompt_tokens=32"]
    arms = job("shakespeare", "+experiment=shakespeare_gpt", "job=study", *methods, *generation, f"seeds={list(seeds)}")
    rows = [
        [name, cell(arm, "perplexity"), cell(arm, "top1", 100), cell(arm, "agreement", 100), cell(arm, "kl", 1, 3)]
        for name, arm in arms.items()
    ]
    rows = [[*row, *cost(arm)] for row, arm in zip(rows, arms.values(), strict=True)]
    head = ["", "perplexity", "token top-1, %", "token agreement, %", "KL from teacher, nats", *COSTS]
    note = (
        f"`python -m benchmarks.language --only shakespeare`, seeds {list(seeds)}; perplexity per token of a BPE of"
        " 2,000, on plays that were not trained on."
    )
    return table("Language models of Shakespeare", head, rows, note)


def embed(seeds: Sequence[int]) -> str:
    """Cosine and rank correlation with all-MiniLM-L6-v2 of students of two and three layers."""
    rows = []
    for layers in ("[0,5]", "[0,2,5]"):
        count = layers.count(",") + 1
        arms = job(
            f"embed_{count}",
            "+experiment=minilm_embed",
            f"student.net.layers={layers}",
            f"student.name=MiniLM-L{count}",
            f"seeds={list(seeds)}",
            "export.formats=[onnx]",
        )
        if not rows:
            rows.append(["all-MiniLM-L6-v2", "–", "–", *cost(arms["teacher"])])
        student = arms["student + sbert"]
        quality = [cell(student, "cosine", 1, 4), cell(student, "rank_correlation", 1, 4)]
        rows.append([f"{count} layers", *quality, *cost(student)])
    head = ["", "cosine with the teacher", "rank correlation of similarities", *COSTS]
    note = f"`python -m benchmarks.language --only embed`, seeds {list(seeds)}, 5,365 held-out sentences."
    return table("Students of all-MiniLM-L6-v2", head, rows, note)


def tweets(seeds: Sequence[int]) -> str:
    """From BERT to TinyBERT and beside it, on tweets."""
    common = ["+experiment=tweets_tinybert", f"seeds={list(seeds)}", "export.formats=[]", "trainer.max_epochs=1"]
    runs = {
        "select": ["student.fit=null", "method=kd", "data.select={teacher_right: true, min_size: 0.5}"],
        # One epoch: half of it for each stage.
        "tinybert": ["baseline=null", "method.stages.0.fraction=0.5", "method.stages.1.fraction=0.5"],
        "minilmv2": ["method@student.fit.method=minilmv2", "method=kd", "baseline=null"],
        "bilstm": ["student.fit=null", "model@student=bilstm", "method=logits_mse", "optimizer.lr=1e-3"],
    }
    found = {name: job(f"tweets_{name}", *common, *own) for name, own in runs.items()}
    shown = [
        ("MiniLM-L6, fine-tuned (teacher)", found["select"]["teacher"]),
        ("2 of its layers, alone", found["select"]["student alone"]),
        ("2 layers, plain KD", found["select"]["student + kd, all samples"]),
        ("2 layers after general TinyBERT, then TinyBERT", found["tinybert"]["student + tinybert"]),
        ("2 layers after general MiniLMv2, then KD", found["minilmv2"]["student + kd"]),
        ("2 layers, plain KD, data.select: where the teacher is right", found["select"]["student + kd"]),
        ("BiLSTM, alone", found["bilstm"]["student alone"]),
        ("BiLSTM, logit MSE", found["bilstm"]["student + logits_mse"]),
    ]
    rows = [
        [name, cell(arm, "top1", 100), cell(arm, "macro_f1", 100), cell(arm, "agreement", 100), *cost(arm)]
        for name, arm in shown
    ]
    accuracy, f1, milliseconds = tfidf()
    rows.append(
        ["tf-idf, logistic regression", f"{100 * accuracy:.2f}", f"{100 * f1:.2f}", "–", "–", milliseconds, "–"]
    )
    head = ["", "accuracy, %", "macro-F1, %", "agreement, %", *COSTS]
    note = f"`python -m benchmarks.language --only tweets`, mean over seeds {list(seeds)}; one epoch each."
    return table("Tweets: negative, neutral or positive", head, rows, note)


def tfidf() -> tuple[float, float, str]:
    """Accuracy, macro-F1 and milliseconds a tweet of the classic, on the same split."""
    from hydra import compose, initialize_config_dir
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.pipeline import make_pipeline

    from kd_lightning.config.conf_dir import conf_dir
    from kd_lightning.config.schema import register
    from kd_lightning.experiment.settle import build_data
    from kd_lightning.files.runs import register_resolvers

    register()
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        data = build_data(compose("config", ["+experiment=tweets_tinybert"]))
    texts = {split: data.texts(split) for split in ("train", "validation", "test")}  # type: ignore[attr-defined]
    net = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2), LogisticRegression(max_iter=1000, C=4)
    )
    net.fit(texts["train"], data.targets("train").numpy())
    answers, target = net.predict(texts["test"]), data.targets("test").numpy()
    times = []
    for text in texts["test"][:200]:
        started = time.perf_counter()
        net.predict([text])
        times.append(1000 * (time.perf_counter() - started))
    accuracy = float((answers == target).mean())
    return accuracy, float(f1_score(target, answers, average="macro")), f"{statistics.median(times):.2f}"


SECTIONS: dict[str, Callable[[Sequence[int]], str]] = {"shakespeare": shakespeare, "embed": embed, "tweets": tweets}


def main() -> None:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    options = parser.parse_args()
    for name in options.only:
        text = SECTIONS[name](options.seeds)
        print(f"\n{text}\n")
        if options.write:
            write(options.write, name, text.partition("\n\n")[2])  # the page has its own headings


if __name__ == "__main__":
    main()
