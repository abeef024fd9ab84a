"""Energy of a training, where the machine tells: RAPL counters of the processors, nvidia-smi for the GPUs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType

POWERCAP = Path("/sys/class/powercap")
# The counters of a busy processor run over after about an hour.
SECONDS = 10.0


class EnergyMeter:
    """Measures what the whole machine spends inside the block, other programs' share included.

    ``joules`` is None where nothing could be measured: no counter, or none that may be read (RAPL is often root's).

    Args:
        gpu: Also ask nvidia-smi for the power of the visible GPUs.
        powercap: Where Linux shows the counters; None: /sys/class/powercap.
        every: Seconds between two readings.
    """

    def __init__(self, gpu: bool = False, powercap: Path | None = None, every: float = SECONDS) -> None:
        self._gpu = gpu and shutil.which("nvidia-smi") is not None
        self._powercap, self._every = powercap or POWERCAP, every
        self._stop = threading.Event()
        self._sums: dict[str, float] = {}

    @property
    def joules(self) -> float | None:
        """Energy so far."""
        return sum(self._sums.values()) if self._sums else None

    @property
    def sources(self) -> list[str]:
        """Which parts were measured: ``cpu``, ``gpu``."""
        return sorted(self._sums)

    def __enter__(self) -> EnergyMeter:
        self._counters = self._read_counters()
        self._power, self._at = self._read_power(), time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self._counters or self._power is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._update()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._update()

    def _update(self) -> None:
        """Add what was spent since the last reading."""
        counters, now = self._read_counters(), time.monotonic()
        common = counters.keys() & self._counters.keys()
        if common:
            spent = 0.0
            for name in common:
                (value, wrap), before = counters[name], self._counters[name][0]
                spent += (value - before if value >= before else value - before + wrap) / 1e6
            self._sums["cpu"] = self._sums.get("cpu", 0.0) + spent
        self._counters = counters
        if self._power is not None:
            power = self._read_power()
            mean = self._power if power is None else (self._power + power) / 2
            self._sums["gpu"] = self._sums.get("gpu", 0.0) + mean * (now - self._at)
            self._power = mean if power is None else power
        self._at = now

    def _read_counters(self) -> dict[str, tuple[int, int]]:
        """Microjoules of every processor package, and where its counter starts again."""
        found = {}
        for zone in self._powercap.glob("*rapl:*"):
            if not re.fullmatch(r"[a-z]+-rapl:\d+", zone.name):
                continue  # a part of a package, which counts it already
            try:
                value = int((zone / "energy_uj").read_text())
                found[zone.name] = (value, int((zone / "max_energy_range_uj").read_text()))
            except (OSError, ValueError):
                continue
        return found

    def _read_power(self) -> float | None:
        """Watts of the visible GPUs."""
        if not self._gpu:
            return None
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        command = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
        command += ["-i", visible] if visible else []
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
            return sum(float(line) for line in answer.splitlines() if line.strip())
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
