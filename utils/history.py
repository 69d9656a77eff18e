"""What `fit` and `evaluate` return, and the one way in which training fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class Diverged(RuntimeError):
    """The loss became infinite or NaN; `step` and `epoch` say when, counted from 0."""

    def __init__(self, step: int, epoch: int, lr: float) -> None:
        self.step, self.epoch = step, epoch
        super().__init__(
            f"the loss is no longer finite at step {step} (epoch {epoch + 1}, learning rate "
            f"{lr:.3g}): lower the learning rate or normalise the activations; the last good "
            "checkpoint, if there is one, is kept."
        )


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
