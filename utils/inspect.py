"""Count and measure a network: parameters, multiply-accumulates, shapes.

**What a MAC is here.** One multiplication and the addition that goes with it, in convolutions
and linear layers, for one image. Biases, normalisation, activations, pooling and products of
two activations are left out. That is the convention of torchvision's ``weights.meta["_ops"]``
(given there in units of 10^9, and met for every convolutional network it has). Papers that speak
of FLOPs mean this number as often as twice this number.

Real weights are not needed: a model built under ``with torch.device("meta"):`` is counted without
memory or arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from utils.receptive import RF, receptive_field

__all__ = [
    "RF",
    "Layer",
    "count_macs",
    "count_parameters",
    "receptive_field",
    "shape_table",
    "trace_shapes",
]


@dataclass(frozen=True)
class Layer:
    """One call of one layer: ``out_shape`` is without the batch axis, ``macs`` for one image."""

    name: str
    kind: str
    out_shape: tuple[int, ...]
    parameters: int
    macs: int


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Number of parameters; a tensor shared by several layers counts once, buffers never."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def count_macs(
    model: nn.Module, input_size: tuple[int, ...] = (3, 224, 224), by_layer: bool = False
) -> int | dict[str, int]:
    """Multiply-accumulates of the convolutions and linear layers, for one image.

    A layer that is called twice counts twice, one that is not called in evaluation mode (an
    auxiliary classifier) not at all. Only modules are seen: a bare ``F.conv2d``, a ``@`` or the
    inside of ``nn.MultiheadAttention`` is not.

    Args:
        model: on any device, meta included; left in the mode and with the statistics it had.
        input_size: shape of one input without the batch axis, ``(channels, height, width)``.
        by_layer: return ``{module name: MACs}`` in order of first call instead of the sum.

    Raises:
        ValueError: ``input_size`` is not a tuple of positive integers, or the model does not
            run on it.
    """
    counts: dict[str, int] = {}
    for call in _calls(model, input_size):
        if _is_counted(call.module):
            counts[call.name] = counts.get(call.name, 0) + call.macs
    return counts if by_layer else sum(counts.values())


def trace_shapes(
    model: nn.Module, input_size: tuple[int, ...] = (3, 224, 224), depth: int | None = None
) -> list[Layer]:
    """Every layer in the order of execution, with the shape it gives for one input.

    A module called again is listed again, its parameters only the first time. A container that
    holds parameters of its own (a layer scale) gets a line with those alone.

    Args:
        model: as for `count_macs`.
        input_size: shape of one input without the batch axis.
        depth: None lists the innermost modules; 1 the children of ``model`` (stem, stages,
            head), 2 their children, and so on, each with all that lies inside it.

    Raises:
        ValueError: as `count_macs`; or ``depth`` is not None or at least 1.
    """
    if depth is not None and depth < 1:
        raise ValueError(f"depth is None or at least 1; got {depth}.")
    rows, seen = [], set()
    for call in _calls(model, input_size):
        level = call.name.count(".") + 1 if call.name else 0
        leaf = _is_counted(call.module) or next(call.module.children(), None) is None
        whole = leaf if depth is None else level == depth or (leaf and level < depth)
        own = [p for p in call.module.parameters(recurse=whole) if id(p) not in seen]
        if not whole and (not own or (depth is not None and level > depth)):
            continue
        seen.update(map(id, own))
        rows.append(
            Layer(
                call.name or type(model).__name__,
                type(call.module).__name__,
                call.shape,
                sum(p.numel() for p in own),
                call.macs if whole else 0,
            )
        )
    return rows


def shape_table(
    model: nn.Module,
    input_size: tuple[int, ...] = (3, 224, 224),
    depth: int | None = None,
    width: int = 78,
) -> str:
    """`trace_shapes` as plain text of at most ``width`` columns, with a line of totals.

    Long names lose their beginning, long kinds their end, numbers nothing.
    """
    rows = trace_shapes(model, input_size, depth)
    total = count_parameters(model)
    cells = [
        ("layer", "kind", "output", "parameters", "MACs"),
        ("input", "", "×".join(map(str, input_size)), "", ""),
    ]
    cells += [
        (r.name, r.kind, "×".join(map(str, r.out_shape)), f"{r.parameters:,}", f"{r.macs:,}")
        for r in rows
    ]
    cells += [("total", "", "", f"{total:,}", f"{sum(r.macs for r in rows):,}")]
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    spare = width - sum(widths[2:]) - 8  # four gaps of two columns
    widths[1] = min(widths[1], max(spare // 3, spare - widths[0]))
    widths[0] = min(widths[0], spare - widths[1])
    lines = []
    for name, kind, *numbers in cells:
        if len(name) > widths[0]:  # the end tells most: features.denseblock3.denselayer12.conv1
            name = "…" + name[len(name) - widths[0] + 1 :]
        if len(kind) > widths[1]:
            kind = kind[: widths[1] - 1] + "…"
        right = "".join(f"  {n:>{w}}" for n, w in zip(numbers, widths[2:], strict=True))
        lines.append(f"{name:<{widths[0]}}  {kind:<{widths[1]}}{right}")
    rule = "-" * len(lines[0])
    lines = [lines[0].rstrip(), rule, *map(str.rstrip, lines[1:-1]), rule, lines[-1]]
    if missing := total - sum(r.parameters for r in rows):
        lines.append(f"({missing:,} of the parameters lie in layers this input does not reach)")
    return "\n".join(lines)


@dataclass
class _Call:
    name: str
    module: nn.Module
    shape: tuple[int, ...]
    macs: int  # of the module and of everything called inside it


def _is_counted(module: nn.Module) -> bool:
    return isinstance(module, (_ConvNd, nn.Linear))


def _macs(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """MACs of one counted call: a filter ``weight[c]`` is used once for each value of its map."""
    values = x if isinstance(module, _ConvTransposeNd) else y
    return values.numel() * module.weight[0].numel()


def _calls(model: nn.Module, input_size: tuple[int, ...]) -> list[_Call]:
    """Run one zero image through ``model`` and note every call of a module, inner ones first."""
    shape = tuple(input_size) if isinstance(input_size, (tuple, list)) else ()
    if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(
            "input_size is the shape of one input without the batch axis, positive "
            f"integers such as (3, 32, 32); got {input_size!r}."
        )
    calls: list[_Call] = []
    inside = [0]  # MACs of the calls now open, outermost first

    def enter(module: nn.Module, args: Any) -> None:
        inside.append(0)

    def leave(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            y = _first_tensor(output)
            macs = inside.pop()
            if _is_counted(module):
                macs += _macs(module, args[0], y)
            inside[-1] += macs
            calls.append(_Call(name, module, () if y is None else tuple(y.shape[1:]), macs))

        return hook

    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    image = torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device)
    with _evaluating(model), torch.no_grad():
        handles = [
            h
            for name, m in model.named_modules()
            for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave(name)))
        ]
        try:
            model(image)
        except Exception as error:
            raise ValueError(
                f"{type(model).__name__} does not run on one input of shape {shape}: {error}"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
    return calls


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, so that batch norm keeps its statistics; then each module as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return next((t for t in map(_first_tensor, output) if t is not None), None)
    return output if isinstance(output, Tensor) else None
