"""How much memory a step has in tensors at once, on any device."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, from their creation to their release.

    Views share their tensor's storage and count once. Storages from before count nothing.

    Attributes:
        live: Bytes alive now.
        peak: The most that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        old = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf, old)
        return result

    def _note(self, tensor: Tensor, old: set[int]) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in old or key in self._known:
            return
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        self._known[key] = weakref.finalize(storage, self._release, key, storage.nbytes())

    def _release(self, key: int, size: int) -> None:
        self.live -= size
        self._known.pop(key, None)


def peak_bytes(step: Callable[[], object]) -> int:
    """The most bytes in tensors that a step has alive at once, beyond those from before."""
    with LiveTensors() as counter:
        step()
    return counter.peak
