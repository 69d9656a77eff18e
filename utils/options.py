"""The options of `fit`: which values are possible, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import nn

from utils import runtime
from utils.history import CannotCompile

OPTIONS = (
    "epochs", "seed", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "schedule",
    "warmup", "label_smoothing", "augment", "precision", "compile", "rates",
)  # fmt: skip


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Integral) and value >= least


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _fraction(value: Any) -> bool:
    return 0 <= value < 1


def _factors(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and all(isinstance(k, str) and k for k in value)
        and all(0 < factor < math.inf for factor in value.values())
    )


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": (_whole(1), "a whole number, at least 1"),
    "seed": (_whole(0), "a whole number, 0 or more"),
    "batch_size": (_whole(1), "a whole number, at least 1"),
    "optimizer": (_one_of("sgd", "adamw"), "'sgd' or 'adamw'"),
    "lr": (lambda value: 0 < value < math.inf, "a positive number"),
    "momentum": (_fraction, "at least 0 and less than 1"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "0 or more"),
    "schedule": (_one_of("onecycle", "constant"), "'onecycle' or 'constant'"),
    "warmup": (_fraction, "at least 0 and less than 1"),
    "label_smoothing": (_fraction, "at least 0 and less than 1"),
    "augment": (_one_of(True, False), "True or False"),
    "precision": (_one_of("auto", "float32", "bfloat16"), "'auto', 'float32' or 'bfloat16'"),
    "compile": (_one_of(True, False), "True or False"),
    "rates": (_factors, "None, or positive factors by how names begin, as in {'0.': 0.1}"),
}


def check(config: dict[str, Any]) -> None:
    """Refuse impossible values of the options given, before any work is done.

    Raises:
        ValueError: an option has an impossible value.
    """
    for name, value in config.items():
        possible, wanted = RULES[name]
        try:
            fine = possible(value)
        except TypeError:  # a word where a number belongs
            fine = False
        if not fine:
            raise ValueError(f"{name} is {value!r}, but must be {wanted}.")


def precision(asked: str, device: torch.device) -> str:
    """The precision to compute in: what is asked for, or what "auto" means here.

    That is bfloat16 where the hardware has instructions for it.
    """
    if asked != "auto":
        return asked
    return "bfloat16" if runtime.has_bfloat16(device) else "float32"


def compiled(model: nn.Module) -> nn.Module:
    """`torch.compile(model)`: the same parameters, and faster code for `forward` and backward.

    Compiled once for whole batches and once for the smaller last batch of an epoch. One program
    for all sizes would round differently, depending on which size came first, and a run that is
    resumed in the middle of an epoch would not end with the same bits.

    Raises:
        CannotCompile: torch cannot do it with this Python or on this system.
    """
    torch.compiler.reset()  # what earlier runs compiled counts towards torch's limit of 8 versions
    try:
        return torch.compile(model, dynamic=False)
    except RuntimeError as error:
        raise CannotCompile(str(error)) from None


def make_optimizer(model: nn.Module, config: dict[str, Any]) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum, or AdamW; without decay for biases and norms.

    Raises:
        ValueError: no parameter is to be trained, or none's name begins as one of `rates` says.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("no parameter of the model has requires_grad: there is nothing to train.")
    rates = config.get("rates") or {}
    for start in rates:
        if not any(name.startswith(start) for name in parameters):
            raise ValueError(
                f"rates has a factor for {start!r}, but no parameter that is trained has a name "
                f"that begins so; the first is {next(iter(parameters))!r}."
            )
    # Of several that fit a name, the longest counts.
    factors = {
        name: rates[max(fits, key=len)] if (fits := [s for s in rates if name.startswith(s)]) else 1
        for name in parameters
    }
    groups = [
        {
            "params": [
                p for name, p in parameters.items()
                if factors[name] == factor and (p.ndim > 1) == decayed
            ],
            "weight_decay": config["weight_decay"] if decayed else 0.0,
            "lr": config["lr"] * factor,
        }
        for factor in sorted({1, *rates.values()}, key=lambda factor: (factor != 1, factor))
        for decayed in (True, False)
    ]  # fmt: skip
    if config["optimizer"] == "adamw":
        return torch.optim.AdamW(groups, lr=config["lr"])
    nesterov = config["momentum"] > 0
    return torch.optim.SGD(groups, lr=config["lr"], momentum=config["momentum"], nesterov=nesterov)


def make_scheduler(
    optimizer: torch.optim.Optimizer, config: dict[str, Any], steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate of each of `steps` steps."""
    if config["schedule"] == "constant":
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    warmup = config["warmup"]
    if warmup * (steps + 1) == 1:  # a rise of one step, for which OneCycleLR divides by zero
        warmup *= 1.001
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps + 1,  # the step after the last has a learning rate too
        pct_start=warmup,
        cycle_momentum=False,
        div_factor=25.0,
        final_div_factor=1_000.0,
    )
