"""Depthwise convolutions whose bfloat16 gradient is slow on a CPU, kept in float32.

In the oneDNN of torch 2.14 a depthwise 3×3 of stride 1 is trained several times as fast in
bfloat16 as in float32, but with stride 2 its gradient takes more than ten times as long, and with
a kernel of 5×5 or 7×7 it gains nothing or loses. A handful of such layers makes a whole network
slow; the chapter on MobileNet measures it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def is_slow(module: nn.Module) -> bool:
    """Whether `module` is a depthwise convolution with a stride or with a kernel beyond 3×3."""
    return (
        isinstance(module, nn.Conv2d)
        and 1 < module.groups == module.in_channels
        and (max(module.stride) > 1 or max(module.kernel_size) > 3)
    )


@contextlib.contextmanager
def in_float32(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, autocast leaves the convolutions that `is_slow` names in float32.

    What they put out is what autocast would have given, bfloat16; so the layers behind them go on
    as before. On a GPU nothing changes.
    """
    slow = filter(is_slow, model.modules()) if device.type == "cpu" else ()
    handles = [handle for module in slow for handle in _hooks(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooks(module: nn.Conv2d) -> list[torch.utils.hooks.RemovableHandle]:
    low = False

    def before(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        nonlocal low
        low = torch.is_autocast_enabled("cpu")
        if not low:
            return None
        torch.set_autocast_enabled("cpu", False)
        return (inputs[0].float(),)

    def after(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        if not low:
            return None
        torch.set_autocast_enabled("cpu", True)
        return output.bfloat16()

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
