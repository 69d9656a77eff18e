"""The receptive field of a feature map: which input pixels one of its values can depend on."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules import padding as pads
from torch.nn.modules import pooling as pools
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

POOLS = (pools._MaxPoolNd, pools._AvgPoolNd, pools._LPPoolNd)
GLOBAL = (pools._AdaptiveAvgPoolNd, pools._AdaptiveMaxPoolNd)
UNDEFINED = (
    _ConvTransposeNd,
    nn.Upsample,
    nn.PixelShuffle,
    pools._MaxUnpoolNd,
    pads._ConstantPadNd,
    pads._ReflectionPadNd,
    pads._ReplicationPadNd,
    pads._CircularPadNd,
)
POOL_FUNCTIONS = (F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d)
GLOBAL_FUNCTIONS = (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)
UNDEFINED_FUNCTIONS = (F.conv1d, F.conv2d, F.conv_transpose2d, F.interpolate, F.pixel_shuffle)


@dataclass(frozen=True)
class RF:
    """Receptive field along one axis, in input pixels.

    Value ``i`` of the feature map sees the pixels ``start + i * stride`` to
    ``start + i * stride + size - 1``; a negative number is a pixel of the padding.
    """

    size: int
    stride: int
    start: int


def receptive_field(layers: nn.Module | Iterable[nn.Module], axis: int | None = None) -> RF:
    """Receptive field of the last feature map.

    Layer by layer, r += (k - 1) d j, start -= p j, j *= s: kernel k, dilation d, padding p, stride
    s, and j the product of the strides so far (Araujo, Norris and Sim, "Computing Receptive Fields
    of Convolutional Neural Networks", Distill 2019).

    A list is followed in its order and must end in a feature map. A module is traced with
    `torch.fx`: where branches meet, the field is the union of theirs, so that the longest path
    decides, and the answer is the largest field in the network, that of the map before global
    pooling. It is the field of the convolutions and pools: gates that look at the whole image
    (squeeze-and-excitation) and batch statistics are left out.

    Args:
        layers: convolutions, pools, and layers that work on each pixel by itself.
        axis: 0 for height, 1 for width; needed only where kernels are not square.

    Raises:
        ValueError: for layers that enlarge or pad the map, branches of different stride that
            meet, kernels that are not square without ``axis``, a model `torch.fx` cannot trace,
            no layer at all; in a list also for Linear, Flatten and adaptive pooling.
    """
    model = layers
    if not isinstance(layers, nn.Module):
        model = nn.Sequential(*layers)
        for index, layer in enumerate(model):
            if isinstance(layer, (nn.Linear, nn.Flatten, *GLOBAL)):
                raise ValueError(
                    f"layer {index} ({type(layer).__name__}) sees the whole image, so "
                    "that no receptive field exists after it; pass the layers before."
                )
        if not len(model):
            raise ValueError("the list of layers is empty; pass convolutions and pools in order.")
    fields: dict[fx.Node, RF | None] = {}  # None: sees the whole image
    for node in _graph(model).nodes:
        seen = [fields[n] for n in node.all_input_nodes if fields[n] is not None]
        field = _union(seen, node.name) if seen else None
        if node.op == "placeholder":
            field = RF(1, 1, 0)
        elif field and node.op == "call_module":
            field = _through_module(model.get_submodule(node.target), field, node.target, axis)
        elif field and node.op == "call_function":
            field = _through_function(node, field, axis)
        fields[node] = field
    return max((f for f in fields.values() if f), key=lambda f: f.size)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """A chapter's own subclass of a convolution is still a convolution."""
        own = isinstance(m, (_ConvNd, *POOLS, *GLOBAL, *UNDEFINED))
        return own or super().is_leaf_module(m, module_qualified_name)


def _graph(model: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(model)
    except Exception as error:
        raise ValueError(
            f"torch.fx cannot trace {type(model).__name__} ({error}); pass its "
            "convolutions and pools as a list, in order."
        ) from error


def _union(fields: list[RF], name: str) -> RF:
    strides = sorted({f.stride for f in fields})
    if len(strides) > 1:
        raise ValueError(
            f"at {name} branches of the strides {strides} meet: their feature maps "
            "have no common receptive field."
        )
    start = min(f.start for f in fields)
    return RF(max(f.start + f.size for f in fields) - start, strides[0], start)


def _through_module(layer: nn.Module, field: RF, name: str, axis: int | None) -> RF | None:
    if isinstance(layer, UNDEFINED):
        raise ValueError(
            f"{name} ({type(layer).__name__}) enlarges or pads the feature map; the "
            "receptive field is followed through convolutions and pools only."
        )
    if isinstance(layer, GLOBAL):
        return None
    if not isinstance(layer, (_ConvNd, *POOLS)):
        return field
    stride = layer.kernel_size if layer.stride is None else layer.stride
    return _step(
        field,
        layer.kernel_size,
        stride,
        getattr(layer, "padding", 0),
        getattr(layer, "dilation", 1),
        name,
        axis,
    )


def _through_function(node: fx.Node, field: RF, axis: int | None) -> RF | None:
    names = ("input", "kernel_size", "stride", "padding")
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    if node.target in UNDEFINED_FUNCTIONS:
        raise ValueError(
            f"{node.name}: a functional convolution or an upsampling cannot be "
            "followed; use modules, or pass the layers as a list."
        )
    if node.target in GLOBAL_FUNCTIONS:
        return None
    if node.target in POOL_FUNCTIONS:
        kernel = given["kernel_size"]
        return _step(
            field,
            kernel,
            given.get("stride") or kernel,
            given.get("padding", 0),
            given.get("dilation", 1),
            node.name,
            axis,
        )
    if node.target is F.pad and any((given.get("pad") or node.args[1])[:4]):
        raise ValueError(f"{node.name} pads the feature map; use the padding of the convolution.")
    if node.target is operator.getitem and isinstance(node.args[1], tuple):
        index = node.args[1]  # x[:, :, ::2, ::2], the parameter-free shortcut of CIFAR ResNets
        if (len(index) == 4 or Ellipsis in index) and all(isinstance(i, slice) for i in index[-2:]):
            first = _along(tuple(i.start or 0 for i in index[-2:]), node.name, axis)
            step = _along(tuple(i.step or 1 for i in index[-2:]), node.name, axis)
            return RF(field.size, field.stride * step, field.start + first * field.stride)
    return field


def _step(
    field: RF, kernel: Any, stride: Any, padding: Any, dilation: Any, name: str, axis: int | None
) -> RF:
    k, s, d = (_along(value, name, axis) for value in (kernel, stride, dilation))
    same = d * (k - 1) // 2  # what padding="same" puts before the first pixel
    p = (
        {"same": same, "valid": 0}[padding]
        if isinstance(padding, str)
        else _along(padding, name, axis)
    )
    return RF(
        field.size + (k - 1) * d * field.stride, field.stride * s, field.start - p * field.stride
    )


def _along(value: Any, name: str, axis: int | None) -> int:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(set(values)) == 1:
        return values[0]
    if axis is None:
        raise ValueError(
            f"{name} is not square ({values}): say axis=0 for height or axis=1 for width."
        )
    return values[axis]
