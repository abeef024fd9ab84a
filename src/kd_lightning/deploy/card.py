"""The model card of an export folder: what lies in it, what it is worth, how it is used."""

from __future__ import annotations

from typing import Any

from kd_lightning.deploy.check import LATENCY_BATCH
from kd_lightning.deploy.formats.registry import FORMATS
from kd_lightning.measures.format import clean, file_size, milliseconds, percent, quantity
from kd_lightning.tasks.base import Task
from kd_lightning.tasks.registry import find_task

HEADINGS = (
    "file", "format", "size", "score %", "as PyTorch %", "as teacher %", "difference", "ms for 1",
    f"ms for {LATENCY_BATCH}",
)  # fmt: skip

# How the files are called with the array `image`.
CALLED = {"inputs": '{"image": image}', "tensors": "[image]"}
START = """\
import json
from kd_lightning.data.images.preprocess import apply_preprocessing

preprocessing = json.load(open("preprocessing.json"))
image = apply_preprocessing("picture.png", preprocessing).numpy()"""
END = 'print(preprocessing["class_names"][logits.argmax()])'
GIVEN = {False: '["a text"]', True: '["a text"], ["another text"]'}
START_TEXT = """\
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("tokenizer")
inputs = tokenizer({given}, truncation=True, return_token_type_ids=True, return_tensors="np")"""
END_TEXT = "print(logits.shape, logits.argmax(-1))"
SHORTER = """\
All of it, from texts to answers:

```python
from kd_lightning.deploy.student import ExportedStudent

student = ExportedStudent(".", "{backend}")
print(student.answer([{text}]))
```

"""


def figure_rows(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row for PyTorch and one for every file, under ``HEADINGS``."""
    plain = ("PyTorch", "student.safetensors", record["pytorch"])
    files = [(FORMATS[name].title, FORMATS[name].file, figures) for name, figures in record["formats"].items()]
    return [
        (
            file,
            title,
            file_size(figures["bytes"]),
            percent(figures["accuracy"]),
            percent(figures["agreement"]),
            percent(figures["teacher_agreement"]),
            f"{figures['difference']:.0e}" if figures["difference"] else "0",
            milliseconds(figures["milliseconds_1"]),
            milliseconds(figures["milliseconds_64"]),
        )
        for title, file, figures in [plain, *files]
    ]


def model_card(record: dict[str, Any], preprocessing: dict[str, Any]) -> str:
    """The card as Markdown.

    Args:
        record: What ``export.json`` says.
        preprocessing: What ``preprocessing.json`` says.
    """
    parts = [
        _front(record),
        _summary(record),
        _figures(record),
        _input(preprocessing),
        _labels(preprocessing["class_names"]),
        _use(record, preprocessing),
        _origin(record),
        _licence(record),
    ]
    return "\n\n".join(parts) + "\n"


def _front(record: dict[str, Any]) -> str:
    lines = ["---", "library_name: kd_lightning", f"tags: [knowledge-distillation, {_called(record)[0]}]"]
    if record["license"]["student"]:
        lines.append(f"license: {clean(record['license']['student'])}")
    return "\n".join([*lines, "---"])


def _called(record: dict[str, Any]) -> tuple[str, str]:
    """Hugging Face's name of the task, and what the student is."""
    card = find_task(record["task"]).card
    return card.get(record["takes"], next(iter(card.values())))


def _summary(record: dict[str, Any]) -> str:
    teacher = f" from the teacher {clean(record['teacher']['name'])}" if record["teacher"] else ""
    rounded = " under the rounding of int8" if record["quantise"] else ""
    return (
        f"# {clean(record['model'])} on {clean(record['data']['name'])}\n\n{_called(record)[1]} with"
        f" {quantity(record['parameters'])} parameters, trained with `{clean(record['method'])}`{teacher}{rounded}"
        f" (seed {record['seed']}). Written by kd_lightning on {record['date']}."
    )


def _figures(record: dict[str, Any]) -> str:
    rows = [HEADINGS, tuple("---" for _ in HEADINGS), *figure_rows(record)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    teacher = record["teacher"]
    scored = teacher is not None and teacher["accuracy"] is not None
    task = find_task(record["task"])
    beside = f" The teacher: {percent(teacher['accuracy'])} %." if scored else ""
    return (
        f"## Figures\n\n{table}\n\nMeasured on the {record['split']} split ({record['samples']} {task.rows}).{beside}"
        f" *Score*: {task.quality_name}. *As PyTorch* and *as teacher*: {task.alike_name}."
        " *Difference*: the largest of a logit"
        " from PyTorch's, as a share of the largest logit. Times are medians for 1 sample and for"
        f" {LATENCY_BATCH}, on {clean(record['machine'])} with {record['threads']} threads."
    )


def _input(preprocessing: dict[str, Any]) -> str:
    if preprocessing.get("kind") == "text":
        longest = preprocessing.get("max_length")
        cut = f" cut after {longest} tokens" if longest else ""
        return (
            f"## Input\n\n{', '.join(f'`{name}`' for name in preprocessing['names'])}: (B, T) int64. A text is"
            f" tokenised with `tokenizer/`, which `AutoTokenizer` loads,{cut} and padded on the right."
        )
    size, channels = preprocessing["image_size"], preprocessing["channels"]
    if size is None:
        return f"## Input\n\n`image`: (B, {channels}) float32 features, less the mean, divided by the deviation."
    height, width = (size, size) if isinstance(size, int) else size
    decode = preprocessing.get("decode_size")
    shrink = f"so that the shorter side is {decode} pixels" if decode else f"so that it just covers {height} x {width}"
    return (
        f"## Input\n\n`image`: (B, {channels}, {height}, {width}) float32, {'grey' if channels == 1 else 'RGB'}. A"
        f" picture is turned upright (EXIF), resized (bilinear, antialiased) {shrink}, cut at the centre, divided by"
        f" 255, and normalised with mean {_short(preprocessing['mean'])} and deviation {_short(preprocessing['std'])}."
        " Exact numbers are in `preprocessing.json`; `kd_lightning.data.images.preprocess.apply_preprocessing` does it"
        " all."
    )


def _labels(names: list[str], limit: int = 50) -> str:
    if not names:
        return "## Output\n\n`logits`: what the network says, a row for each sample."
    shown = ", ".join(clean(name) for name in names[:limit])
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"## Output\n\n`logits`: (B, {len(names)}), in the order of `labels.txt`: {shown}{more}."


def _use(record: dict[str, Any], preprocessing: dict[str, Any]) -> str:
    texts = preprocessing.get("kind") == "text"
    if not texts and preprocessing["image_size"] is None:
        return "## Use\n\nLoad a file as its format is loaded; it takes feature vectors."
    called = _called_with_texts(find_task(record["task"]), preprocessing["names"]) if texts else CALLED
    files = [(FORMATS[name].title, FORMATS[name].file, FORMATS[name].use) for name in record["formats"]]
    blocks = [f"{title}:\n\n```python\n{use.format(file=file, **called)}\n```" for title, file, use in files]
    start, end = (START_TEXT.format(given=GIVEN[bool(preprocessing["pair"])]), END_TEXT) if texts else (START, END)
    inputs = "['a text']" if texts else "[picture.png]"
    return (
        f"## Use\n\nIn this folder, first:\n\n```python\n{start}\n```\n\nthen with any of the files\n\n"
        + "\n\n".join(blocks)
        + f"\n\nand last:\n\n```python\n{end}\n```\n\n{_shorter(record, preprocessing) if texts else ''}"
        f"From the command line: `python -m kd_lightning job=predict run=<this folder> inputs={inputs}`, or"
        " `job=serve run=<this folder>`."
    )


def _shorter(record: dict[str, Any], preprocessing: dict[str, Any]) -> str:
    """The same through this package."""
    within = find_task(record["task"]).must_hold
    text = f"a {preprocessing[within]} text" if within else "a text"
    given = '("a text", "another text")' if preprocessing["pair"] else f'"{text}"'
    return SHORTER.format(backend=next(iter(record["formats"]), "onnx"), text=given)


def _called_with_texts(task: Task, names: list[str]) -> dict[str, str]:
    """How the files are called with the arrays in ``inputs``."""
    taken = "{one.name: inputs[one.name] for one in session.get_inputs()}"
    tensors = f"[inputs[name] for name in {names}]"
    answer = ".logits" if task.output == "logits" else ".last_hidden_state.mean(1)"
    return {"inputs": taken, "tensors": tensors, "names": str(names), "auto": task.head, "answer": answer}


def _origin(record: dict[str, Any]) -> str:
    data = record["data"]
    sizes = f"{data['train']} training, {data['validation']} validation, {data['test']} test samples"
    software = ", ".join(f"{name} {version}" for name, version in record["software"].items())
    return (
        f"## Origin\n\n- Training data: {clean(data['name'])}, {sizes}; fingerprint `{data['fingerprint']}`, split"
        f" `{data['split_fingerprint']}`.\n- Run: `{clean(record['run'], 200)}`, configuration in `config.yaml`.\n"
        f"- Software: {software}."
    )


def _licence(record: dict[str, Any]) -> str:
    lines = []
    for name, setting in (("student", "license"), ("teacher", "teacher_license"), ("data", "data_license")):
        given = record["license"][name]
        lines.append(f"- {name}: {clean(given) if given else f'not stated (export.{setting}=...)'}")
    return "## Licence\n\n" + "\n".join(lines)


def _short(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.4f}" for value in values) + ")"
