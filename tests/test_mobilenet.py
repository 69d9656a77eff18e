"""Three versions of MobileNet, and the small networks of the chapter."""

from __future__ import annotations

import parity
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models._utils import _make_divisible

from utils import chapters, results
from utils.inspect import count_macs, count_parameters

mobilenet = chapters.load("mobilenet")

TORCHVISION = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large")
# Table 6 and 7 of the paper: millions of MACs and of parameters.
PAPER = ((1.0, 224, 569, 4.2), (0.75, 224, 325, 2.6), (0.5, 224, 149, 1.3), (0.25, 224, 41, 0.5),
         (1.0, 192, 418, 4.2), (1.0, 160, 290, 4.2), (1.0, 128, 186, 4.2))  # fmt: skip


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("check", parity.CHECKS, ids=lambda check: check.__name__)
def test_against_torchvision(name, check):
    check(getattr(mobilenet, name))


@pytest.mark.parametrize(("width", "side", "macs", "weights"), PAPER)
def test_version_1_costs_what_the_paper_says(width, side, macs, weights):
    with torch.device("meta"):
        net = mobilenet.mobilenet_v1(width_mult=width)
    assert count_macs(net, (3, side, side)) / 1e6 == pytest.approx(macs, abs=1)
    assert count_parameters(net) / 1e6 == pytest.approx(weights, abs=0.05)


def test_version_1_has_28_layers_and_no_shortcut():
    with torch.device("meta"):
        net = mobilenet.mobilenet_v1(num_classes=7)
        assert net(torch.empty(2, 3, 224, 224)).shape == (2, 7)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 28
    assert sum(m.groups > 1 for m in convolutions) == 13


@pytest.mark.parametrize("channels", [1, 8, 11, 12, 13, 44, 57.6, 60, 320 * 1.4])
def test_channels_are_rounded_as_torchvision_does(channels):
    assert mobilenet.divisible(channels) == _make_divisible(channels, 8)
    assert mobilenet.divisible(channels, 4) == _make_divisible(channels, 4)


@pytest.mark.parametrize("width", [0.35, 0.75, 1.4])
def test_other_widths_of_version_2(width):
    import torchvision

    with torch.device("meta"):
        ours = mobilenet.mobilenet_v2(width_mult=width)
        theirs = torchvision.models.mobilenet_v2(width_mult=width)
    assert [v.shape for v in ours.state_dict().values()] == [
        v.shape for v in theirs.state_dict().values()
    ]


def test_the_bottleneck_is_linear_and_the_shortcut_joins_its_ends():
    torch.manual_seed(0)
    block = mobilenet.Inverted(6, 24, 6).eval()
    x = torch.randn(2, 6, 5, 5)
    assert (block.layers(x) < 0).any()  # nothing has cut the negative ones off
    torch.testing.assert_close(block(x), x + block.layers(x))
    assert not mobilenet.Inverted(6, 24, 6, stride=2).residual
    assert not mobilenet.Inverted(6, 24, 8).residual
    rectified = mobilenet.Inverted(6, 24, 6, end=nn.ReLU).eval()
    assert (rectified.layers(x) >= 0).all()


def test_the_gate_weighs_channels_by_their_means():
    torch.manual_seed(0)
    gate, x = mobilenet.SqueezeExcitation(16), torch.randn(2, 16, 4, 4)
    scale = gate(x) / x
    assert ((scale >= 0) & (scale <= 1)).all()
    torch.testing.assert_close(scale, scale[:, :, :1, :1].expand_as(scale))
    turned = x.flip(2, 3)  # the same means, elsewhere
    torch.testing.assert_close(gate(turned), gate(x).flip(2, 3))


def test_the_small_networks():
    x = torch.randn(2, 3, 32, 32)
    small = mobilenet.mobilenet_cifar()
    assert 0.27e6 * 0.9 <= count_parameters(small) <= 0.27e6 * 1.1
    assert small(x).shape == (2, 10)
    assert mobilenet.mobilenet_cifar(7)(x).shape == (2, 7)
    nonlinear = mobilenet.mobilenet_cifar(linear=False)
    assert count_parameters(nonlinear) == count_parameters(small)
    separable, ordinary, thin = (
        mobilenet.v1_cifar(**options)
        for options in ({}, {"separable": False}, {"separable": False, "thinner": 3})
    )
    costs = [count_macs(net, (3, 32, 32)) for net in (separable, ordinary, thin)]
    assert costs[1] > 6 * costs[0]
    assert costs[0] == pytest.approx(costs[2], rel=0.3)


def test_smaller_images_are_the_same_network_on_less():
    torch.manual_seed(0)
    net, x = mobilenet.resized_cifar(side=24).eval(), torch.randn(2, 3, 32, 32)
    want = F.interpolate(x, size=24, mode="bilinear", antialias=True)
    torch.testing.assert_close(net(x), net.net(want))
    ratio = count_macs(net, (3, 32, 32)) / count_macs(net.net, (3, 32, 32))
    assert ratio == pytest.approx((24 / 32) ** 2, abs=0.01)


def test_recorded_runs_are_complete():
    runs = results.select(results.load("mobilenet"), experiment="default", model="mobilenet_cifar")
    assert sorted(r["seed"] for r in runs) == [0, 1, 2]
    assert results.summary(runs).mean >= 0.80
