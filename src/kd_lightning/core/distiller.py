"""The LightningModule: roles make signals, terms make one named sum."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from kd_lightning.core.accumulation import TokenWeights
from kd_lightning.core.calls import Batch, Signals
from kd_lightning.core.course import check_weights
from kd_lightning.core.follow import follow_all
from kd_lightning.core.heads import read_heads
from kd_lightning.core.metrics import Evaluation, Evaluations
from kd_lightning.core.modes import evaluating
from kd_lightning.core.optim import Scheduler, configure
from kd_lightning.core.references import Reference
from kd_lightning.core.roles import Role, Roles
from kd_lightning.core.rollouts import Rollout
from kd_lightning.core.schedules import Progress
from kd_lightning.core.speed import OptimizerFactory
from kd_lightning.core.teaches import check_gradients, check_teaches
from kd_lightning.core.terms import Objective, Stage, param_groups, shape_of

# How often the accumulated losses are looked at for nan: a look is a synchronisation on a GPU.
CHECK_EVERY = 50


class NonFiniteLossError(RuntimeError):
    """The loss became nan or infinite."""


class Distiller(pl.LightningModule):
    """Trains the trainable roles on the objective.

    Building it runs the example batch once through all roles (eval, no gradient, the global random state untouched):
    losses create their parameters from the shapes they see, and wrong references fail here, before training.

    Args:
        roles: The actors.
        objective: The terms.
        example: One batch on the CPU.
        facts: What ``data.<name>`` references give: ``num_classes``, ``num_samples``.
        optimizer: Parameter groups -> optimiser.
        scheduler: Learning-rate schedule, or None.
        evaluation: Metrics for validation and test, or None.
        rollout: Rewrites the batch before the step, or None.
        seed: Seeds the initial values of the losses' parameters.
        channels_last: Memory format of images and convolutions.
        compile: Compile the nets in place, after the taps are set.
    """

    def __init__(
        self,
        roles: Roles,
        objective: Objective,
        example: Batch,
        facts: Mapping[str, Any],
        optimizer: OptimizerFactory,
        scheduler: Scheduler | None = None,
        evaluation: Evaluation | None = None,
        rollout: Rollout | None = None,
        seed: int = 0,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.roles = roles
        self.objective = objective
        self.facts = dict(facts)
        self.rollout, self.channels_last = rollout, channels_last
        self._optimizer, self._scheduler = optimizer, scheduler
        self._stage: Stage | None = None
        self._can_learn: set[str] = set()
        self._total_steps = 0
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._gradient_checked = False
        self._weights = TokenWeights()

        references = [r for term in objective for r in term.references()]
        self._check_scopes(references)
        self._active = tuple(dict.fromkeys(r.scope for r in references if r.scope in roles.by_name))
        self.evaluations = Evaluations(evaluation, roles.leaders)
        measured = self.evaluations.references
        for name, role in roles.by_name.items():
            role.listen([r for r in references if r.scope == name], [r for r in measured if r.scope == name])
            if channels_last:
                role.net.to(memory_format=torch.channels_last)
        self.pairing = self._dry_run(example, seed)
        self._can_learn = {name for name, parameter in self.named_learnable() if parameter.requires_grad}
        if compile:
            for role in roles.by_name.values():
                role.net.compile()

    def _check_scopes(self, references: list[Reference]) -> None:
        known = [*self.roles.by_name, "batch", "run", "data"]
        for reference in references:
            if reference.scope not in known:
                raise ValueError(
                    f"The reference {reference} names no role: there are {', '.join(known)}. (A method that needs a"
                    " teacher cannot run without one.)"
                )

    def _dry_run(self, example: Batch, seed: int) -> list[tuple[str, dict[str, str]]]:
        """Build the losses on an example; returns every term's argument shapes."""
        with torch.random.fork_rng(devices=[]), evaluating(self):
            torch.manual_seed(seed)
            with torch.no_grad():
                batch = self.prepare_batch(example)
                read_heads(self.roles.by_name.values(), self.objective, batch)
                signals = self.roles(batch, self._active)
            pairing = []
            for term in self.objective:
                arguments = term.arguments(lambda r: self._resolve(r, signals, batch, Progress()))
                shapes = {name: shape_of(value, len(example["index"])) for name, value in arguments.items()}
                pairing.append((term.name, shapes))
                term.build(arguments)
                check_teaches(term, arguments, set(self.roles.trainable))
        return pairing

    def prepare_batch(self, batch: Batch) -> dict[str, Any]:
        """The batch as the roles see it in training: memory format, then the rollout."""
        prepared = dict(batch)
        image = prepared.get("image")
        if self.channels_last and isinstance(image, Tensor) and image.dim() == 4:
            prepared["image"] = image.contiguous(memory_format=torch.channels_last)
        return prepared if self.rollout is None else dict(self.rollout(prepared, self.roles))

    def _resolve(self, reference: Reference, signals: dict[str, Signals], batch: Batch, progress: Progress) -> Any:
        """The value of a reference in this step."""
        if reference.scope in signals:
            return self.roles.by_name[reference.scope].pick(reference, signals[reference.scope])
        tables: dict[str, Mapping[str, Any]] = {
            "batch": batch,
            "data": self.facts,
            "run": {"progress": progress.fraction, "epoch": progress.epoch},
        }
        table = tables[reference.scope]
        if reference.name not in table:
            raise ValueError(f"{reference}: there is no '{reference.name}'; {reference.scope} has {', '.join(table)}.")
        return table[reference.name]

    # -- training ------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """Where the training is."""
        fraction = min(self.global_step / self._total_steps, 1.0) if self._total_steps else 0.0
        return Progress(fraction, self.current_epoch)

    @property
    def in_last_stage(self) -> bool:
        """Whether the step just done belonged to the last stage of the method (or there are no stages)."""
        stages, done = self.objective.stages, max(self.global_step - 1, 0) / max(self._total_steps, 1)
        return len(stages) < 2 or self.objective.stage(Progress(done)) is stages[-1]

    def on_fit_start(self) -> None:
        """Look up the length of the training once."""
        steps = self.trainer.estimated_stepping_batches
        self._total_steps = int(steps) if steps != float("inf") else 0
        if self.objective.stages and not self._total_steps:
            raise ValueError(
                "The stages of this method are shares of the training, whose length is not known: set"
                " trainer.max_epochs or trainer.max_steps."
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse one of other nets."""
        check_weights(self, checkpoint["state_dict"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step: the weighted sum of the terms."""
        progress = self.progress
        self._enter_stage(progress)
        number = self.trainer.fit_loop.epoch_loop.total_batch_idx
        prepared = self.prepare_batch({**batch, "step": number, "progress": progress})
        loss, parts = self.terms(prepared, progress)
        self._accumulate({"loss": loss.detach(), **parts})
        if loss.device.type == "cpu" or batch_idx % CHECK_EVERY == 0:
            self._check_finite()
        together = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return loss if together == 1 else self._weights.weigh(loss, prepared)

    def terms(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the terms on a prepared batch, and each of them."""
        signals = self.roles(batch, self._active)
        if not self._gradient_checked and self._stage is None:  # a stage freezes on purpose
            check_gradients(self.objective, self.roles, signals)
        self._gradient_checked = True
        total: tuple[Tensor, dict[str, Tensor]] = self.objective(
            lambda r: self._resolve(r, signals, batch, progress), progress
        )
        return total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Batches that make one step together count by their tokens or samples."""
        self._weights.settle(optimizer, self.trainer.accumulate_grad_batches)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The step; then the roles that follow move, before anybody saves a checkpoint."""
        super().optimizer_step(*args, **kwargs)
        follow_all(self.roles)

    def _enter_stage(self, progress: Progress) -> None:
        """Let learn what the stage says."""
        stage = self.objective.stage(progress)
        if stage is self._stage:
            return
        self._stage = stage
        assert stage is not None
        for name, parameter in self.named_learnable():
            if name in self._can_learn:  # the others are frozen for good, such as a classifier taken from the teacher
                learns = stage.params is None or any(re.match(pattern, name) for pattern in stage.params)
                parameter.requires_grad_(learns)

    def named_learnable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters under the names that ``stages.params`` match: ``student.<path>`` and ``terms.<term>.<path>``."""
        for role in self.roles.trainable.values():
            assert isinstance(role, Role)
            for path, parameter in role.net.named_parameters():
                yield f"{role.name}.{path}", parameter
        for term in self.objective:
            for path, parameter in term.loss.named_parameters():
                yield f"terms.{term.name}.{path}", parameter

    def _accumulate(self, values: Mapping[str, Tensor]) -> None:
        """Sum on the device; nothing is read back in the step."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def _check_finite(self) -> None:
        """Stop where an accumulated loss is nan or infinite, and say which."""
        bad = [name for name, value in self._sums.items() if not torch.isfinite(value).all()]
        if bad:
            terms = [name for name in bad if name != "loss"] or bad
            raise NonFiniteLossError(
                f"The loss is not finite at step {self.global_step} (epoch {self.current_epoch}); term(s):"
                f" {', '.join(terms)}. Training stopped; the last checkpoint is from before. Try a smaller"
                " optimizer.lr, trainer.gradient_clip_val=1, or trainer.precision=32-true."
            )

    def on_validation_epoch_start(self) -> None:
        """A checkpoint may follow a validation: it must not hold a broken student."""
        self._check_finite()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean of every term."""
        self._check_finite()
        for name, value in self._sums.items():
            self.log(f"train/{name}", value / self._counts[name], sync_dist=True, prog_bar=name == "loss")
        self._sums, self._counts = {}, {}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One group per trainable role, then the losses' own."""
        roles = [{"params": [p for p in r.parameters() if p.requires_grad]} for r in self.roles.trainable.values()]
        return configure([*roles, *param_groups(self.objective)], self._optimizer, self._scheduler, self._trainer)

    def __setattr__(self, name: str, value: Any) -> None:
        """As a module does it, but for the name that Lightning writes around every hook, forty times a step."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # -- validation and test -------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure on validation."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure on test."""
        self._evaluate(batch, "test")

    def measure(self, batch: Batch, split: str) -> Iterator[MetricCollection]:
        """Add a batch to the metrics of ``val`` or ``test``; gives those of each role."""
        names = dict.fromkeys(r.scope for r in self.evaluations.references if r.scope in self.roles.by_name)
        signals = self.roles(batch, names, evaluating=True)
        progress = self.progress
        yield from self.evaluations.update(split, lambda r: self._resolve(r, signals, batch, progress))

    def _evaluate(self, batch: Batch, split: str) -> None:
        for metrics in self.measure(batch, split):
            self.log_dict(dict(metrics.items(keep_base=False)), on_epoch=True, prog_bar=split == "val", batch_size=1)
