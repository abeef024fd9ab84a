"""The places of a network that a distillation method may tap."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Anatomy:
    """Taps of a network, from input to output; empty where the network has no such place.

    Attributes:
        stem: What the stages start from.
        stages: One map (B, C, H, W), or one token sequence (B, T, D), after each stage, activation included.
        preacts: The same before the last activation; a stage that ends without one is its own pre-activation.
        preact_norms: The batch norms that the pre-activations come from (of the residual branch, where one is added).
        embedding: The input of the classifier, (B, D); (B, T, D) for language models.
        head: The classifier: ``head(embedding)`` are the logits.
        last_map: The map whose mean over space is the embedding.
    """

    stem: str = ""
    stages: tuple[str, ...] = ()
    preacts: tuple[str, ...] = ()
    preact_norms: tuple[str, ...] = ()
    embedding: str = ""
    head: str = ""
    last_map: str = ""

    def aliases(self) -> dict[str, str | tuple[str, ...]]:
        """The entries that are not empty, by name."""
        return {name: places for name, places in asdict(self).items() if places}
