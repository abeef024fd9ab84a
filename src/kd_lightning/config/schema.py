"""The shape of the configuration. Hydra refuses what is not in it: unknown keys and wrong types, also inside YAML.

Nothing heavy is imported here: a mistyped command must answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from kd_lightning.config.schema_jobs import Compare, Export, Predict, Prepare, Serve, Study, Tune

# What the framework looks for in every net; see kd_lightning.models.anatomy.find.
PLACES = ("stem", "stages", "preacts", "preact_norms", "embedding", "head", "last_map")


@dataclass
class Role:
    """A net and how it is called (group ``model``)."""

    name: str = MISSING
    net: Any = MISSING
    """``_target_`` and arguments of the net."""
    checkpoint: str | None = None
    """Weights to start from: a run folder, a .safetensors, or a file that torch.load(weights_only=True) reads."""
    body: str | None = None
    """Start from the body of another run or checkpoint, whatever its head (models of transformers)."""
    fit: dict[str, Any] | None = None
    """A partial configuration laid over the whole one: what is trained before. Of a frozen role: itself, where it has
    no checkpoint. Of the student: its body, once for all arms and seeds, such as general distillation on plain text
    from the teacher as it is built."""
    quantise: bool = False
    """Of the student: refine a finished one (``checkpoint``) under the rounding of int8, for export in an int8
    format."""
    call: Any = field(default_factory=lambda: {"_target_": "kd_lightning.core.calls.TensorCall"})
    """How a batch becomes signals."""
    taps: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(PLACES))
    """Place -> module path or list of them, instead of what the framework proposes (null); more names with a +."""


@dataclass
class Serving:
    """How a frozen role gives its answers; decides what a step costs, not what is learnt."""

    precision: str | None = None
    """Precision of the frozen net: bf16, fp16, or null for the trainer's own."""
    fold: bool = True
    """Fold batch norms into the convolutions of the frozen net where nothing taps them."""
    cache: str = "auto"
    """Store what the terms ask of it: auto (where it pays), off, read (it must be there), write (make it)."""
    cache_dir: str = "outputs/cache"
    """Stored signals lie here, by the hash of all that decides them; every student, method and seed shares them."""
    cache_dtype: str = "fp16"
    """Stored as fp16, bf16 or fp32."""
    max_gb: float = 10.0
    """Largest size of what one run may store of it."""
    topk: int | None = None
    """Give (and store) the k most probable classes only, as topk_indices, topk_log_probs and topk_tail; null for
    all."""
    placement: str | None = None
    """auto: measure whether it is best live, in lower precision, cached or offloaded; null: as set here."""


@dataclass
class Frozen(Serving, Role):
    """A role that does not learn: built, from a checkpoint, or trained before."""

    seed: int = 0
    """Seed of its weights and of its own training: fixed, so that all seeds of the student share one net."""
    store: str = "outputs/teachers"
    """Finished nets lie here by content hash and are reused."""
    check: str | None = None
    """stop, warn or off: what happens where it is no better on validation than what looks at nothing, or its classes
    are in another order, before anybody learns from it; null: as ``teacher.check``."""


@dataclass
class Teacher(Frozen):
    """The teacher; trained before where it has no checkpoint."""

    fit: dict[str, Any] | None = field(default_factory=dict)
    views: Any = None
    """Augmented views a sample has, cycled by epoch, for all roles alike; null or all: a new one every epoch."""
    check: str | None = "stop"
    """As of every frozen role; ``trainer=smoke`` makes it warn."""


@dataclass
class FurtherRole(Frozen):
    """A role beside student and teacher (group ``role``): frozen, or one that follows another."""

    follows: str | None = None
    """The role that learns whose moving average this one is: a copy of it, saved and not optimised; nothing but
    ``decay`` is set then. ``trainer.ema`` is another thing: it smooths the weights of the student itself, which are
    then what is validated, selected and exported; a role that follows leaves the student as it is and is asked by
    terms."""
    decay: float = 0.999
    """Of a role that follows: the share that it keeps of itself after every step."""


@dataclass
class Method:
    """A method is a set of terms (group ``method``)."""

    name: str = MISSING
    terms: dict[str, Any] = field(default_factory=dict)
    """Name -> {loss, inputs, weight}."""
    stages: list[Any] = field(default_factory=list)
    """For multi-stage methods: {terms, fraction, params}."""
    rollout: Any = None
    """Rewrites the batch before the step."""
    student_wrapper: Any = None
    """Partial f(student, teacher, example) -> net, for methods whose student keeps parts of the teacher."""
    by_task: bool = False
    """Stands for what learns from the labels alone in the task of the data: ``method=supervised``."""
    info: dict[str, Any] = field(default_factory=dict)
    """Kind, paper, year, needs: for ``job=methods``."""


@dataclass
class Trainer:
    """Options of Lightning's Trainer, and two of ours (group ``trainer``)."""

    max_epochs: int = 10
    max_steps: int = -1
    min_epochs: int | None = None
    accelerator: str = "auto"
    devices: Any = 1
    num_nodes: int = 1
    strategy: Any = "auto"
    precision: str = "32-true"
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    accumulate_grad_batches: int = 1
    deterministic: bool = False
    benchmark: bool | None = None
    check_val_every_n_epoch: int = 1
    val_check_interval: float | None = None
    log_every_n_steps: int = 10
    num_sanity_val_steps: int = 0
    limit_train_batches: Any = None
    limit_val_batches: Any = None
    limit_test_batches: Any = None
    fast_dev_run: Any = False
    detect_anomaly: bool = False
    sync_batchnorm: bool = False
    enable_progress_bar: bool = True
    enable_model_summary: bool = False
    channels_last: bool = False
    """Memory format of images and convolutions."""
    ema: float | None = None
    """Decay of an exponential moving average of the student's weights, which takes their place in validation, selection
    and export (Lightning's EMAWeightAveraging), or null. For an average that terms may ask see ``roles``."""


@dataclass
class Scheduler:
    """Learning-rate schedule (group ``scheduler``)."""

    factory: Any = None
    """Partial of a torch scheduler, or null for a constant rate. Of its arguments ``T_max``, ``total_iters``,
    ``total_steps`` and ``length``, one that is null is the length of the run, in the unit of ``interval``; so is a
    ``T_max`` or ``length`` of trainer.max_epochs. Milestones must lie within that length. Another class takes from the
    preset what it knows: scheduler.factory._target_=torch.optim.lr_scheduler.ExponentialLR
    +scheduler.factory.gamma=0.9"""
    interval: str = "epoch"
    """What the schedule counts: epoch or step (of the optimiser)."""
    monitor: str | None = None
    """Metric that a schedule watches which has no length, such as plateau."""


@dataclass
class Metrics:
    """What is measured on validation and test (group ``metrics``)."""

    monitor: str = MISSING
    mode: str = MISSING
    tasks: list[str] | None = None
    """Tasks whose kind of target these metrics can measure; null: any."""
    by_task: bool = False
    """Stands for what the task of the data takes: ``metrics=auto``."""
    inputs: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass
class Config:
    """Everything."""

    job: str = "pipeline"
    """What to do: a module of kd_lightning.jobs."""
    name: str = "kd"
    """Name of the experiment: the folder under outputs/."""
    seed: int = 0
    seeds: list[int] | None = None
    """Several seeds in one pipeline: mean, deviation and a paired test. Null: only ``seed``."""
    data: dict[str, Any] = field(default_factory=dict)
    teacher: Teacher = field(default_factory=Teacher)
    student: Role = field(default_factory=Role)
    roles: dict[str, FurtherRole] = field(default_factory=dict)
    """Further roles by name, for terms to ask: +role@roles.b=frozen +model@roles.b=resnet14, +role@roles.ema=ema."""
    method: Method = field(default_factory=Method)
    baseline: Method | None = None
    """The control arm: the student without the teacher."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: Scheduler = field(default_factory=Scheduler)
    trainer: Trainer = field(default_factory=Trainer)
    metrics: Metrics = field(default_factory=Metrics)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    compare: Compare = field(default_factory=Compare)
    export: Export = field(default_factory=Export)
    prepare: Prepare = field(default_factory=Prepare)
    predict: Predict = field(default_factory=Predict)
    serve: Serve = field(default_factory=Serve)
    compile: bool = False
    """Compile teacher and student in place (torch.compile)."""
    select: str = "best"
    """Which weights are the student: best (on validation) or last."""
    protocol: str = "validation"
    """validation: the test split is looked at once, at the end. paper: after every epoch too, and the best look is
    shown as such; it still chooses nothing."""
    study: Study = field(default_factory=Study)
    tune: Tune = field(default_factory=Tune)
    run: str | None = None
    """An existing run folder: what evaluate, export, predict and compare work on."""
    runs: Any = None
    """Run folders or glob patterns for ``job=compare``, one or a list."""
    inputs: list[str] = field(default_factory=list)
    """Files or folders for ``job=predict``."""
    ckpt_path: str | None = None
    """Lightning checkpoint to resume the training of ``job=train`` from; may be for longer, at another rate or under
    another schedule, which is then followed from where it would be. Another optimizer or student is refused."""
    trust: Any = None
    """Packages whose classes and functions may also be built where a run or export folder names them, such as
    [my_package]; true: whatever a folder names, and exported files that run code when they are read. Never read from
    such a folder itself."""
    resume: str = "never"
    """auto: continue the newest unfinished run of the same configuration; never: start a new one."""


def register() -> None:
    """Make the schema known to Hydra."""
    ConfigStore.instance().store(name="schema", node=Config)
