"""Tokenised samples: flat arrays that are mapped into memory from one file, cut into rows by offsets."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

CUT = "cut"  # under this name the file says how many samples were cut


@dataclass(frozen=True)
class Rows:
    """Rows of tokens without padding.

    Args:
        tokens: All tokens, one row after the other, (N,) int32.
        offsets: Where each row starts, and the end of the last, (R + 1,) int64.
        columns: More values of each token, (N,) each: ``types`` (token types), ``labels`` (classes, -100 for none),
            ``learn`` and ``segments`` (of packed rows: which tokens are learnt, which sample they are of, from 1).
        prompts: How many tokens of a row, from its start, are the prompt, (R,) int64; or None.
        samples: Which sample a row is of, as a position in the pool; -1 where it is of several, (R,) int64.
        cut: How many samples did not fit into a row, so that a part of them is lost.
    """

    tokens: Tensor
    offsets: Tensor
    samples: Tensor
    prompts: Tensor | None = None
    columns: dict[str, Tensor] = field(default_factory=dict)
    cut: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, (R,) int64."""
        return self.offsets.diff()

    def lists(self, positions: Tensor) -> list[list[int]]:
        """Tokens of rows, without padding."""
        bounds = zip(self.offsets[positions].tolist(), self.offsets[positions + 1].tolist(), strict=True)
        return [self.tokens[start:end].tolist() for start, end in bounds]

    def padded(self, positions: Tensor, length: int) -> tuple[dict[str, Tensor], Tensor]:
        """Rows padded on the right with 0.

        Args:
            positions: Which rows, (B,) int64.
            length: T.

        Returns:
            ``tokens`` and the columns, (B, T) int64 each; and which of it is real, (B, T) bool.
        """
        start, size = self.offsets[positions], self.lengths[positions]
        column = torch.arange(length)
        real = column < size[:, None]
        place = (start[:, None] + column)[real]
        filled = {}
        for name, values in {"tokens": self.tokens, **self.columns}.items():
            filled[name] = torch.zeros(real.shape, dtype=torch.int64)
            filled[name][real] = values[place].long()
        return filled, real


def make_rows(
    tokens: Sequence[Sequence[int]],
    samples: Sequence[int],
    prompts: Sequence[int] | None = None,
    cut: int = 0,
    **columns: Sequence[Sequence[int]] | None,
) -> Rows:
    """Rows of lists."""
    offsets = torch.zeros(len(tokens) + 1, dtype=torch.int64)
    offsets[1:] = torch.tensor([len(row) for row in tokens], dtype=torch.int64).cumsum(0)
    return Rows(
        _flat(tokens),
        offsets,
        torch.tensor(samples, dtype=torch.int64),
        None if prompts is None else torch.tensor(prompts, dtype=torch.int64),
        {name: _flat(values) for name, values in columns.items() if values is not None},
        cut,
    )


def _flat(rows: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=torch.int32)


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Rows one after the other; all have the same columns."""
    ends = torch.tensor([0, *(len(part.tokens) for part in parts)]).cumsum(0)
    offsets = [part.offsets[:-1] + end for part, end in zip(parts, ends[:-1], strict=True)]
    prompts = [part.prompts for part in parts if part.prompts is not None]
    return Rows(
        torch.cat([part.tokens for part in parts]),
        torch.cat([*offsets, ends[-1:]]),
        torch.cat([part.samples for part in parts]),
        torch.cat(prompts) if len(prompts) == len(parts) else None,
        {name: torch.cat([part.columns[name] for part in parts]) for name in parts[0].columns},
        sum(part.cut for part in parts),
    )


# ---- on disk


def cached_rows(path: Path, make: Callable[[], Rows]) -> Rows:
    """The rows of a file, mapped into memory; made, and written, where it is absent, damaged, or does not say yet how
    many samples were cut."""
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    except (ValueError, KeyError) as error:
        log.warning("%s is damaged (%s); the texts are tokenised anew.", path, error)
        path.unlink(missing_ok=True)
    rows = make()
    try:
        _write(path, rows)
        return _read(path)
    except OSError as error:
        log.warning("The tokens cannot be kept in %s (%s); they stay in memory.", path, error)
        return rows


def _tensors(rows: Rows) -> dict[str, Tensor]:
    named = {"tokens": rows.tokens, "offsets": rows.offsets, "samples": rows.samples}
    named |= {f"column.{name}": values for name, values in rows.columns.items()}
    return named if rows.prompts is None else {**named, "prompts": rows.prompts}


def _checksum(tensors: dict[str, Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].contiguous().view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def _write(path: Path, rows: Rows) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    tensors = _tensors(rows)
    said = {"crc32": _checksum(tensors), CUT: str(rows.cut)}
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata=said)
    os.replace(partial, path)


def _read(path: Path) -> Rows:
    """Raises ValueError or KeyError where the file is damaged, FileNotFoundError where it is one of before."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            said = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    if _checksum(tensors) != said.get("crc32"):
        raise ValueError("its checksum is wrong")
    if CUT not in said:
        raise FileNotFoundError(path)
    columns = {n.removeprefix("column."): tensors[n] for n in tensors if n.startswith("column.")}
    flat = (tensors["tokens"], tensors["offsets"], tensors["samples"], tensors.get("prompts"))
    return Rows(*flat, columns, int(said[CUT]))
