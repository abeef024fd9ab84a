"""Taps: outputs and inputs of submodules by dotted path, through forward hooks on an unmodified net."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def find_module(net: nn.Module, path: str, owner: str) -> nn.Module:
    """The submodule at a dotted path.

    Raises:
        ValueError: Where there is none; lists near names.
    """
    modules: dict[str, nn.Module] = dict(net.named_modules())
    if path in modules and path:
        return modules[path]
    names = [name for name in modules if name]
    near = difflib.get_close_matches(path, names, n=5, cutoff=0.5)
    depth = path.count(".") + 1
    listed = near or [name for name in names if name.count(".") < depth] or names
    shown = ", ".join(listed[:20]) + (", ..." if len(listed) > 20 else "")
    raise ValueError(
        f"{owner} ({type(net).__name__}) has no submodule '{path}' to tap. "
        f"{'Did you mean' if near else 'Those that exist'}: {shown}"
    )


class Taps:
    """Captures tensors at named places of a net during its forward pass.

    Args:
        net: Any module; its code is not touched. Activations that work in place are set to ``inplace=False``, since
            they would overwrite what is captured.
        specs: ``module.path`` for the module's output, ``module.path:in`` for its first input.
        owner: Name for error messages.

    Raises:
        ValueError: Where a path does not exist.
    """

    def __init__(self, net: nn.Module, specs: Iterable[str], owner: str = "net") -> None:
        self.owner = owner
        self.specs = tuple(dict.fromkeys(specs))
        self.enabled = True
        self._captured: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._double: set[str] = set()
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        for spec in self.specs:
            path, _, side = spec.partition(":")
            module = find_module(net, path, owner)
            hook = self._input_hook(spec) if side == "in" else self._output_hook(spec)
            self._handles.append(module.register_forward_hook(hook))
        if self.specs:
            for module in net.modules():
                if getattr(module, "inplace", False) is True:
                    module.inplace = False  # type: ignore[assignment]

    def _input_hook(self, spec: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._store(spec, args[0] if args else None)

        return hook

    def _output_hook(self, spec: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            # Transformer blocks return tuples whose first item is the hidden state.
            self._store(spec, output[0] if isinstance(output, tuple) else output)

        return hook

    def _store(self, spec: str, value: Any) -> None:
        if not self.enabled:
            return
        if not isinstance(value, Tensor):
            raise ValueError(
                f"The tap {self.owner}.{spec} gives {type(value).__name__}, not a tensor: tap a submodule."
            )
        if spec in self._captured:
            self._double.add(spec)
        self._captured[spec] = value
        if not torch.compiler.is_compiling():  # cannot be traced; the dry run before it has looked
            self._versions[spec] = 0 if value.is_inference() else value._version

    def take(self) -> dict[str, Tensor]:
        """What the last forward captured; empties the store.

        Raises:
            ValueError: Where a tap did not fire, fired twice, or was overwritten in place afterwards.
        """
        captured, self._captured = self._captured, {}
        double, self._double = self._double, set()
        versions, self._versions = self._versions, {}
        if double:
            raise ValueError(
                f"These taps of {self.owner} fired more than once in one forward pass (a module that is used several"
                f" times): {', '.join(sorted(double))}. Tap the modules around it."
            )
        missing = [spec for spec in self.specs if spec not in captured]
        if missing:
            raise ValueError(
                f"These taps of {self.owner} never fired: {', '.join(missing)}. The module exists but forward does not"
                " call it (or the net was compiled or replaced after the taps were set)."
            )
        if not torch.compiler.is_compiling():
            for spec, value in captured.items():
                if spec in versions and not value.is_inference() and value._version != versions[spec]:
                    raise ValueError(
                        f"The tensor at {self.owner}.{spec} was overwritten in place after it was tapped. Tap the"
                        " module after it, or make that operation not in place."
                    )
        return captured

    def forget(self) -> None:
        """Drop what was captured and not taken."""
        self._captured, self._versions, self._double = {}, {}, set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No capture inside, for example while generating."""
        enabled, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = enabled

    def remove(self) -> None:
        """Take the hooks off the net."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
