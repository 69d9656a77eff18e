"""What `fit` and `evaluate` return, and the three ways in which training fails."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch


class Diverged(RuntimeError):
    """The loss became infinite or NaN; `step` and `epoch` say when, counted from 0."""

    def __init__(self, step: int, epoch: int, lr: float) -> None:
        self.step, self.epoch = step, epoch
        super().__init__(
            f"the loss is no longer finite at step {step} (epoch {epoch + 1}, learning rate "
            f"{lr:.3g}): lower the learning rate or normalise the activations; the last good "
            "checkpoint, if there is one, is kept."
        )


class OutOfMemory(RuntimeError):
    """The memory of the machine or of its GPU does not suffice."""

    def __init__(self, doing: str, batch_size: int, reason: str = "") -> None:
        asked = re.search(r"tried to allocate ([\d.]+ \w+)", reason, re.IGNORECASE)
        super().__init__(
            f"memory ran out while {doing} with batch_size={batch_size}"
            f"{f', at a request for {asked[1]}' if asked else ''}: lower batch_size, or make the "
            "network narrower or its images smaller; the last checkpoint, if there is one, is kept."
        )


class CannotCompile(RuntimeError):
    """`torch.compile` does not work on this machine or for this network."""

    def __init__(self, reason: str) -> None:
        first = (reason.strip() or "no reason given").splitlines()[0][:200]
        super().__init__(
            f"this network cannot be compiled here ({first}): "
            "install a C++ compiler such as g++ or clang, or leave compile=False."
        )


@contextlib.contextmanager
def explained(doing: str, batch_size: int) -> Iterator[None]:
    """Turn torch's many errors for want of memory, or of a compiler, into one sentence each.

    Raises:
        OutOfMemory: memory ran out.
        CannotCompile: `torch.compile` failed.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        # By name, since importing torch._dynamo takes seconds that most runs need not wait.
        if "BackendCompilerFailed" in [kind.__name__ for kind in type(error).__mro__]:
            known: RuntimeError = CannotCompile(text)
        elif _is_about_memory(error):
            known = OutOfMemory(doing, batch_size, text)
        else:
            raise
        # A notebook keeps the last error, and with it the tensors of the step that failed, which
        # would then be missing when the cell is run again with smaller batches.
        traceback.clear_frames(error.__traceback__)
        raise known from None


def _is_about_memory(error: Exception) -> bool:
    if isinstance(error, OutOfMemory):
        return False  # said already, by `evaluate` inside `fit`
    words = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc")
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(word in str(error) for word in words)


@dataclass(frozen=True)
class Metrics:
    """Mean cross-entropy and accuracy (a fraction, 0 to 1) over `n` images."""

    loss: float
    accuracy: float
    n: int

    def __str__(self) -> str:
        return f"loss {self.loss:.3f}, accuracy {100 * self.accuracy:.1f} % of {self.n:,}"


@dataclass
class History:
    """What `fit` saw, one number per epoch.

    `loss` and `train_accuracy` are running averages over the epoch, in training mode and on
    augmented images; `val_*` are measured after it; `lr` is the last of the epoch; `seconds` is
    the time spent training, without validation.
    """

    loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        vars(self).update(state)

    def line(self, epoch: int = -1) -> str:
        """One epoch in one line."""
        epoch %= len(self.loss)
        val = f"  val {100 * self.val_accuracy[epoch]:5.1f} %" if self.val_accuracy else ""
        return (
            f"epoch {epoch + 1:3d}/{self.config['epochs']}  loss {self.loss[epoch]:.3f}  "
            f"train {100 * self.train_accuracy[epoch]:5.1f} %{val}  {self.seconds[epoch]:.1f} s"
        )

    def table(self) -> str:
        """All epochs, a line each."""
        return "\n".join(self.line(epoch) for epoch in range(len(self.loss)))
