"""Which of several processes this one is, and what the first of them says to all.

Processes are started by torchrun (``RANK``), by srun (``SLURM_PROCID``), or by Lightning itself (``LOCAL_RANK``,
``NODE_RANK``), on one machine or on several.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "third_party/gloo")
PATIENCE = 300.0  # seconds that the others wait for the first: a slow machine imports torch for most of a minute


def is_main_process(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the first of all processes of a training, on whatever machine; a process alone is.

    Args:
        env: The environment.
    """
    if "RANK" in env:
        return int(env["RANK"]) == 0
    # Lightning's own processes within a job of SLURM inherit SLURM_PROCID=0 from the one that started them.
    return all(int(env.get(name) or 0) == 0 for name in ("SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"))


def local_rank(env: Mapping[str, str] = os.environ) -> int | None:
    """Number of this process on its machine; None where it is alone."""
    if "LOCAL_RANK" in env:
        return int(env["LOCAL_RANK"])
    return int(env["SLURM_LOCALID"]) if int(env.get("SLURM_NTASKS") or 1) > 1 and "SLURM_LOCALID" in env else None


def lost_process(error: RuntimeError) -> bool:
    """Whether an error, of gloo, NCCL or a store, is that of a process whose peers have ended."""
    import torch.distributed as dist

    known = tuple(getattr(dist, name) for name in ("DistBackendError", "DistNetworkError", "DistStoreError"))
    text = str(error)
    return isinstance(error, known) or any(sign in text for sign in LOST)


def said_by_first(value: Callable[[], str], folder: Path) -> str:
    """What the first process says, in all that torchrun or srun started; in others what they say themselves.

    Lightning tells its own processes the run's folder on their command line.

    Args:
        value: Is asked in the first process.
        folder: Shared by the machines of a job of SLURM; the answer lies there.

    Raises:
        TimeoutError: The first process says nothing.
    """
    env = os.environ
    if env.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and int(env.get("WORLD_SIZE", "1")) > 1:
        return _by_torchrun(value)
    if int(env.get("SLURM_NTASKS") or 1) > 1 and "SLURM_STEP_ID" in env and "SLURM_PROCID" in env:
        step = [env.get(f"SLURM_{name}", "0") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT")]
        return _by_file(value, folder / f".step_{'_'.join(step)}")
    return value()


def _by_torchrun(value: Callable[[], str]) -> str:
    """Through the store of torchrun's agents."""
    from datetime import timedelta

    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    env = os.environ
    patience = timedelta(seconds=PATIENCE)
    store = TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False, timeout=patience)
    key = f"kd_lightning/{env.get('TORCHELASTIC_RUN_ID')}/{env.get('TORCHELASTIC_RESTART_COUNT')}/run"
    if is_main_process():
        store.set(key, value())
    try:
        return str(store.get(key).decode())
    except RuntimeError as error:  # DistStoreError
        raise TimeoutError(f"The first process did not name the run's folder within {PATIENCE:.0f} s.") from error


def _by_file(value: Callable[[], str], place: Path) -> str:
    """Through a file that is new for every step of a job."""
    if is_main_process():
        said = value()
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{place.name}.part")
        part.write_text(said)
        os.replace(part, place)
        return said
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            return place.read_text()
        except FileNotFoundError:
            time.sleep(0.1)
    raise TimeoutError(f"The first process did not name the run's folder in {place} within {PATIENCE:.0f} s.")
