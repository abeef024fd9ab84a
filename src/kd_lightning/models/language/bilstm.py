"""A bidirectional LSTM for texts: the student of Tang et al. (2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kd_lightning.data.targets import target_of
from kd_lightning.models.anatomy.places import Anatomy
from kd_lightning.models.language.tasks import outputs


@dataclass
class TextOutput:
    """What the net gives.

    Attributes:
        logits: (B, C).
        last_hidden_state: States of both directions side by side, (B, T, 2 * width); 0 on padding.
    """

    logits: Tensor
    last_hidden_state: Tensor


class BiLSTM(nn.Module):
    """Embedding, bidirectional LSTM, pooling, one hidden layer, logits.

    Tang et al., Distilling Task-Specific Knowledge from BERT into Simple Neural Networks, 2019: the last states of
    both directions, a ReLU layer, and the logits.

    Args:
        vocab_size: Tokens of the tokenizer.
        num_classes: Width of the output; 1 for regression.
        embedding: Width of the token embeddings.
        width: Width of the LSTM's state, of each direction.
        hidden: Width of the layer before the logits.
        layers: Layers of the LSTM.
        dropout: Of embeddings, pooled states, and between layers.
        pooling: ``last`` (the last state of each direction), ``mean`` or ``max`` over the valid tokens.
        task: One with one label a text, such as ``classification`` or ``regression``.
        pad_token_id: Token of padding, whose embedding stays 0.

    Raises:
        ValueError: Another task, or an unknown pooling.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int | None = None,
        embedding: int = 128,
        width: int = 150,
        hidden: int = 200,
        layers: int = 1,
        dropout: float = 0.2,
        pooling: str = "last",
        task: str = "classification",
        pad_token_id: int = 0,
    ) -> None:
        super().__init__()
        if target_of(task).each != "sample":
            raise ValueError(f"A BiLSTM has no head for task={task}: only for tasks with one label a text.")
        if pooling not in ("last", "mean", "max"):
            raise ValueError(f"pooling={pooling}: choose last, mean or max.")
        self.pooling = pooling
        self.embedding = nn.Embedding(vocab_size, embedding, padding_idx=pad_token_id)
        # One LSTM a direction and layer instead of packed sequences, which need the lengths on the CPU and cannot be
        # exported.
        widths = [embedding, *[2 * width] * (layers - 1)]
        self.ahead = nn.ModuleList(nn.LSTM(w, width, batch_first=True) for w in widths)
        self.back = nn.ModuleList(nn.LSTM(w, width, batch_first=True) for w in widths)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(2 * width, hidden)
        self.act = nn.ReLU()
        self.head = nn.Linear(hidden, outputs(task, num_classes)["num_labels"])

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> TextOutput:
        """Texts to logits.

        Args:
            input_ids: Tokens, (B, T), padded on either side.
            attention_mask: Valid tokens, (B, T); None for all of them.
        """
        valid = torch.ones_like(input_ids) if attention_mask is None else (attention_mask > 0).to(input_ids.dtype)
        # Valid tokens to the front: the LSTM must not walk over padding before them. Counted, since ONNX has no stable
        # sort: where each token goes, and which token comes to each place.
        goes = torch.where(valid > 0, valid.cumsum(1), valid.sum(1, keepdim=True) + (1 - valid).cumsum(1)) - 1
        length = valid.sum(1, keepdim=True).clamp(min=1)
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        order = torch.zeros_like(goes).scatter(1, goes, place.expand_as(goes))
        inside = (place < length).unsqueeze(-1)
        mirrored = torch.where(place < length, length - 1 - place, place)
        states = self.embedding(input_ids.gather(1, order))
        for ahead, back in zip(self.ahead, self.back, strict=True):
            states = self.dropout(states)
            states = torch.cat([ahead(states)[0], _rows(back(_rows(states, mirrored))[0], mirrored)], dim=-1)
        logits = self.head(self.act(self.hidden(self.dropout(self._pool(states, inside, length)))))
        # Back to where the tokens stood.
        return TextOutput(logits, _rows(states.masked_fill(~inside, 0), goes))

    def _pool(self, states: Tensor, inside: Tensor, length: Tensor) -> Tensor:
        """(B, T, D) to (B, D)."""
        if self.pooling == "last":  # ahead at the last token, back at the first
            ahead, back = states.chunk(2, dim=-1)
            return torch.cat([_rows(ahead, length - 1)[:, 0], back[:, 0]], dim=-1)
        if self.pooling == "mean":
            return states.masked_fill(~inside, 0).sum(1) / length.to(states.dtype)
        return states.masked_fill(~inside, -torch.inf).amax(1)

    def anatomy(self) -> Anatomy:
        """The places to tap: token embeddings, the input of the classifier, the classifier."""
        return Anatomy(stem="embedding", embedding="head:in", head="head")


def _rows(states: Tensor, index: Tensor) -> Tensor:
    """The states (B, T, D) at the positions (B, T)."""
    return states.gather(1, index.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
