"""Checkpoints of a training run: written atomically, read without running foreign code.

A checkpoint holds everything the rest of the run depends on, so that a run that was killed at any
step and started again ends with the same bits as one that was left alone.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch

from utils import distributed

FORMAT = "convnets-checkpoint-1"
PARTS = {
    "format", "model", "optimizer", "scheduler", "history", "identity", "rng", "position",
}  # fmt: skip
SAVE_EVERY = 30.0  # seconds between checkpoints within an epoch


class CheckpointError(RuntimeError):
    """The checkpoint cannot be used; the message says why and what to do."""


@dataclass
class Position:
    """How far a run had come: epoch, step within it, seconds and sums of that epoch so far."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])


class Checkpoint:
    """The checkpoint of one run, `FOLDER/last.pt`, locked while the run lasts.

    With no folder it does nothing. Among several processes, process 0 writes and all read.

    Raises:
        CheckpointError: another run is writing there, or nothing can be written there.
    """

    def __init__(self, folder: str | Path | None, device: torch.device) -> None:
        self.path = Path(folder) / "last.pt" if folder is not None else None
        self.device, self.identity, self.saved = device, {}, time.perf_counter()

    def __enter__(self) -> Checkpoint:
        self.lock = contextlib.ExitStack()
        if self.path and distributed.rank() == 0:
            self.lock.enter_context(folder_lock(self.path.parent))
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.close()

    def restore(self, parts: dict[str, Any], identity: dict[str, Any], progress: bool) -> Position:
        """Load what was saved into `parts`, if anything was, and say where to go on.

        Raises:
            CheckpointError: the file is damaged, or of another run.
        """
        self.identity = identity
        if not self.path or not distributed.agree(self.path.exists(), self.device):
            return Position()
        state = load(self.path, self.device)
        require_same(self.path, state["identity"], identity)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        set_rng_state(state["rng"][distributed.rank()], self.device)
        position = state["position"]
        at = Position(**position | {"sums": position["sums"][distributed.rank()]})
        if progress and at.epoch < identity["option epochs"]:
            print(f"going on from {self.path}: epoch {at.epoch + 1}, step {at.step}")
        return at

    def due(self) -> bool:
        """Whether it is time to save again."""
        now = time.perf_counter() - self.saved > SAVE_EVERY
        return self.path is not None and distributed.agree(now, self.device)

    def save(
        self,
        parts: dict[str, Any],
        epoch: int,
        step: int = 0,
        seconds: float = 0.0,
        sums: list[float] | None = None,
    ) -> None:
        """Write the state of `parts` and of the random generators.

        Raises:
            CheckpointError: it could not be written; the one before still stands.
        """
        if not self.path:
            return
        rng = distributed.gather(rng_state(self.device))
        everyone = distributed.gather(sums or Position().sums)
        if distributed.rank() == 0:
            position = {"epoch": epoch, "step": step, "seconds": seconds}
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"identity": self.identity, "rng": rng}
            save(self.path, {**state, "position": position | {"sums": everyone}})
        self.saved = time.perf_counter()


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for one run; the lock ends with the process, however it ends.

    Raises:
        CheckpointError: another run is writing there, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise CheckpointError(
            f"another run is writing checkpoints to {folder}: wait for it to end, or give this "
            "run a folder of its own."
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"cannot write checkpoints to {folder} ({error.strerror or error}): choose a folder "
            "that can be written."
        ) from None
    try:
        yield
    finally:
        lock.release()


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` so that `path` is always whole: the old or the new checkpoint.

    Raises:
        CheckpointError: it could not be written (the disk is full, say); the old one still stands.
    """
    part = path.with_suffix(".part")
    try:
        with open(part, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        part.unlink(missing_ok=True)
        raise CheckpointError(
            f"could not write the checkpoint {path} ({error}): make room or choose another "
            "folder, and start again; training goes on from the last one that was written."
        ) from None


def load(path: Path, map_location: torch.device) -> dict[str, Any]:
    """Read a checkpoint with `weights_only=True`, so that nothing in the file is executed.

    Raises:
        CheckpointError: the file is truncated, or is no checkpoint of this course.
    """
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        reason = (str(error) or type(error).__name__).splitlines()[0][:100]
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({reason}): it is damaged or not ours; "
            "delete it to train from the start."
        ) from None
    complete = isinstance(state, dict) and state.keys() >= PARTS
    if not complete or state["format"] != FORMAT:
        raise CheckpointError(
            f"{path} is no checkpoint of this course ({FORMAT} was expected): choose another "
            "folder, or delete the file to train from the start."
        )
    return state


def require_same(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse a checkpoint of another model, data or configuration, naming the first difference.

    Raises:
        CheckpointError: `found` and `expected` differ.
    """
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            raise CheckpointError(
                f"the checkpoint {path} belongs to another run: {key} was {found.get(key)!r} and "
                f"is now {expected.get(key)!r}; train with the former value, choose another "
                "folder, or delete the file to train from the start."
            )


def rng_state(device: torch.device) -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's random generators."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """The inverse of `rng_state`."""
    random.setstate(state["python"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
