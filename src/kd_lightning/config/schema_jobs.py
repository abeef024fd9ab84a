"""The shape of what single jobs take: comparison, export, conversion, answers, server, study, search."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Compare:
    """The comparison at the end."""

    latency: bool = True
    """Time the nets at batch 1 and in batches."""
    latency_batch: int = 64
    alpha: float = 0.05
    """Significance level of the verdict."""
    robustness: bool = True
    """Measure the accuracy on test images with noise, blur and shift."""
    cka: bool = True
    """Measure how alike the layers of student and teacher are (linear CKA)."""


@dataclass
class Export:
    """The deployable student."""

    formats: list[str] = field(default_factory=lambda: ["onnx", "torch_export"])
    """Names of formats, such as onnx: each is a file of ``deploy/formats``; a wrong one is answered with all."""
    check: str = "parallel"
    """When the formats are tried on the untrained student, so that what does not go stops the run at its start:
    parallel (beside the first training, in a process of its own), first, or off."""
    tolerance: float = 1e-3
    """Largest difference of logits from PyTorch on test data, relative to their largest magnitude."""
    accuracy_drop: float = 0.02
    """Largest loss of accuracy of an int8 file against PyTorch on test data, as a share of all samples."""
    calibration: int = 256
    """Training samples that decide the ranges of int8 activations."""
    license: str | None = None
    """Licence of the student for the model card, such as apache-2.0."""
    teacher_license: str | None = None
    """Licence of the teacher's weights for the model card."""
    data_license: str | None = None
    """Licence of the training data for the model card."""


@dataclass
class Prepare:
    """Images for streaming (``job=prepare``), for ``data=prepared``."""

    folder: str = "outputs/prepared/${data.name}"
    """Where they are written; may lie on a disk that several machines share."""
    format: str = "jpeg"
    """How an image is stored: jpeg (small, lossy), png (lossless) or raw (lossless, large, no decoding)."""
    quality: int = 95
    """Of JPEG, 1 to 100."""
    chunk_mb: float = 64.0
    """About the size of a file, in megabytes."""
    max_gb: float = 500.0
    """Largest size of the whole."""
    num_workers: int | None = None
    """Threads that decode and store; null: one a core."""


@dataclass
class Predict:
    """Answers for files."""

    backend: str = "onnx"
    """Which exported file answers: a name in ``export.formats``."""
    top: int = 3
    """How many classes to show."""
    output: str | None = None
    """Also write the answers here (.csv or .jsonl)."""
    batch_size: int = 64
    """Pictures or texts that go through the student at once."""
    new_tokens: int = 40
    """Most tokens that a language model adds to a text."""


@dataclass
class Serve:
    """The student behind HTTP (``job=serve``)."""

    host: str = "127.0.0.1"
    """127.0.0.1: this machine only; 0.0.0.0: every machine that can reach this one."""
    port: int = 8000
    names: list[str] = field(default_factory=list)
    """Names of hosts by which it may be called, such as that of a proxy before it; always: numbers, localhost, and the
    name of this machine."""
    backend: str = "onnx"
    """Which exported file answers, as in ``predict``."""
    batch_size: int = 16
    """Most pictures or texts that go through the student at once."""
    timeout_ms: float = 2.0
    """How long one waits for others to share its batch."""
    request_timeout_s: float = 30.0
    """A request that takes longer to arrive or to be taken up is refused."""
    workers: int = 1
    """Processes that run the student."""
    max_mb: float = 10.0
    """Largest picture file, in megabytes."""
    max_pixels: int = 50_000_000
    """Largest picture when unpacked, in pixels: what an archive bomb runs into."""
    max_characters: int = 10_000
    """Longest text."""
    new_tokens: int = 40
    """Most tokens that a language model adds to a text."""
    top: int = 3
    """How many classes an answer names."""
    teacher: bool = True
    """Also serve the teacher, where this machine has it, for the page's comparison."""


@dataclass
class Study:
    """The honest comparison (``job=study``): arms times seeds, each pair one training."""

    methods: list[str] | None = None
    """Methods to judge, by their names in the group ``method``; null: the chosen one. The chosen one is taken with all
    that was set for it, the others as they are published."""
    controls: list[str] = field(default_factory=lambda: ["label_smoothing", "kd"])
    """Trained beside the student alone; where ``kd`` is among them, every method is tested against it too."""
    folder: str = "outputs/studies/${name}"
    """Finished trainings lie here by content hash and are reused."""
    workers: int = 1
    """Processes on this machine that share the trainings."""
    part: int = 0
    """Number of this job where a sweep starts several (-m study.part=0,1,2): they share the trainings."""


@dataclass
class Tune:
    """What ``job=train`` and ``job=pipeline`` tell a sweeper; set by hydra/sweeper=tune."""

    objectives: list[str] = field(default_factory=lambda: ["validation"])
    """validation (the monitored metric), latency (ms, batch 1), parameters, flops, bytes."""
    curve: bool = False
    """Write the validation of every epoch to curve.json (job=train)."""
    medians: str | None = None
    """JSON file with epoch -> median validation of earlier trials: training stops where it falls behind."""
