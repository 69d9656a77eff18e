"""The three networks that training is measured on, and how `fit` trains each.

ResNet-20 is its chapter's. The other two stand for what it is not: MobileNetV2 has
depthwise convolutions, DenseNet concatenates and has many small layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils import chapters


@dataclass(frozen=True)
class Network:
    """A network, and whether the course compiles it; `fit` chooses the precision."""

    name: str
    build: Callable[[], nn.Module]
    compile: bool


def resnet20() -> nn.Module:
    """The ResNet chapter's."""
    return chapters.load("resnet").resnet20()


# ---- MobileNetV2 (Sandler et al., 2018) ----------------------------------------------------------


class InvertedResidual(nn.Module):
    """Widen by a 1x1, filter depthwise, narrow by a 1x1 without ReLU; add where shapes agree.

    (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expand: int) -> None:
        super().__init__()
        width = in_channels * expand
        layers = [] if expand == 1 else conv_bn(in_channels, width, 1)
        layers += conv_bn(width, width, 3, stride, groups=width)
        layers += conv_bn(width, out_channels, 1)[:2]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.adds else y


def conv_bn(
    in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Convolution, batch norm, ReLU6."""
    conv = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True)]


def mobilenet_v2_small(num_classes: int = 10) -> nn.Module:
    """MobileNetV2 of width 0.35, 408,938 parameters; its first stages keep all 32 x 32 pixels."""
    # Expansion, channels (0.35 of the paper's, in eights), blocks, stride of the first. The stem
    # and the second stage have stride 1: the paper's 2 is meant for images of 224 x 224.
    stages = [
        (1, 8, 1, 1), (6, 8, 2, 1), (6, 16, 3, 2), (6, 24, 4, 2), (6, 32, 3, 1), (6, 56, 3, 2),
        (6, 112, 1, 1),
    ]  # fmt: skip
    channels = 16
    layers = conv_bn(3, channels, 3)
    for expand, width, blocks, stride in stages:
        for i in range(blocks):
            layers.append(InvertedResidual(channels, width, stride if i == 0 else 1, expand))
            channels = width
    layers += conv_bn(channels, 1280, 1)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, num_classes)]
    return nn.Sequential(*layers, *head)


# ---- DenseNet (Huang et al., 2017) ---------------------------------------------------------------


class DenseLayer(nn.Module):
    """Adds `growth` channels to what it got: (N, C, H, W) to (N, C + growth, H, W)."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], dim=1)


def densenet_small(num_classes: int = 10) -> nn.Module:
    """DenseNet of growth 12, three blocks of six layers without bottleneck: 161,002 parameters."""
    growth, channels = 12, 24
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for block in range(3):
        for _ in range(6):
            layers.append(DenseLayer(channels, growth))
            channels += growth
        layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        if block < 2:  # between two blocks, half the channels and a quarter of the pixels
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    return nn.Sequential(*layers, *head)


NETWORKS = (
    Network("ResNet-20", resnet20, False),
    Network("MobileNetV2, width 0.35", mobilenet_v2_small, False),
    Network("DenseNet, growth 12, 3 × 6 layers", densenet_small, True),
)
