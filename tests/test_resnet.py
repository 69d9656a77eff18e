"""The networks of chapters/resnet.md against torchvision and the papers' counts."""

from __future__ import annotations

import parity
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from utils import chapters
from utils.inspect import count_parameters

resnet = chapters.load("resnet")

TORCHVISION = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
# By hand from He et al. (2016), option A: 97,216 n - 21,926 for n blocks a stage.
CIFAR = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "plain20": 269_722,
    "plain56": 853_018,
    "preact_resnet20": 269_722,
    "resnet_cifar": 269_722,
}


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("check", parity.CHECKS, ids=lambda check: check.__name__)
def test_against_torchvision(name, check):
    check(getattr(resnet, name))


@pytest.mark.parametrize(("name", "count"), CIFAR.items())
def test_cifar_networks(name, count, images):
    build = getattr(resnet, name)
    assert count_parameters(build()) == count
    assert build(num_classes=7)(images).shape == (2, 7)


@pytest.mark.parametrize("depth", [20, 56])
def test_depth_is_the_number_of_layers_with_weights(depth):
    for kind in ("plain", "resnet"):
        layers = getattr(resnet, f"{kind}{depth}")().modules()
        assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in layers) == depth


@pytest.mark.parametrize("depth", [2, 21, 51, -4])
def test_impossible_depth_is_refused(depth):
    with pytest.raises(ValueError, match="6n"):
        resnet.cifar_net(resnet.PlainBlock, depth, 10)


def test_plain_is_resnet_less_its_shortcuts(images):
    torch.manual_seed(0)
    full, plain = parity.shuffled(resnet.resnet20()).eval(), resnet.plain20().eval()
    plain.load_state_dict(full.state_dict())
    assert not torch.allclose(full(images), plain(images))

    def nothing(module, args, output):
        return torch.zeros_like(output)

    for block in full.modules():
        if isinstance(block, resnet.BasicBlock):
            block.shortcut.register_forward_hook(nothing)
    torch.testing.assert_close(full(images), plain(images))


def test_option_a_is_strided_and_padded_with_zeros():
    x = torch.randn(2, 16, 9, 9)
    y = resnet.pad(16, 32, 2)(x)
    assert y.shape == (2, 32, 5, 5)
    assert torch.equal(y[:, :16], x[:, :, ::2, ::2])
    assert not y[:, 16:].any()
    assert count_parameters(resnet.pad(16, 32, 2)) == 0


def test_option_b_projects_only_where_the_shape_changes(images):
    net = resnet.cifar_net(resnet.BasicBlock, 20, 10)
    assert count_parameters(net) == 269_722 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert isinstance(resnet.project(16, 16, 1), nn.Identity)
    assert isinstance(resnet.project(64, 256, 1), nn.Sequential)
    assert net(images).shape == (2, 10)


@pytest.mark.parametrize("size", [7, 8, 32, 33])
@pytest.mark.parametrize("block", ["BasicBlock", "Bottleneck", "BlockA", "PreActBlock"])
def test_branch_and_shortcut_agree_in_shape(block, size):
    out = getattr(resnet, block)(16, 32, 2)(torch.randn(2, 16, size, size))
    assert out.shape == (2, 32, -(-size // 2), -(-size // 2))


def test_basic_block_with_zero_weights_is_the_identity_behind_a_relu():
    block = resnet.BasicBlock(16, 16)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(x), F.relu(x))


def test_preactivation_block_with_zero_weights_is_the_identity():
    block = resnet.PreActBlock(16, 16)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(x), x)


def test_preactivation_has_a_last_norm_and_its_own_normalisation_first(images):
    net = resnet.preact_resnet20()
    assert isinstance(net.stages[-1][0], nn.BatchNorm2d)
    assert net.stages[1][0].bn1.num_features == 16  # before the convolution widens
    assert net(images).shape == (2, 10)


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet50"])
def test_zero_init_makes_every_block_its_shortcut(name):
    net = getattr(resnet, name)()
    assert resnet.zero_init(net) is net
    blocks = [m for m in net.modules() if isinstance(m, (resnet.BasicBlock, resnet.Bottleneck))]
    assert len(blocks) == {"resnet20": 9, "resnet18": 8, "resnet50": 16}[name]
    block = blocks[1]  # keeps its shape
    x = torch.rand(2, block.conv1.in_channels, 8, 8)
    assert torch.equal(block(x), x)
    theirs = torchvision.models.resnet50(zero_init_residual=True) if name == "resnet50" else None
    if theirs is not None:
        zeros = [i for i, p in enumerate(net.parameters()) if not p.any()]
        assert [i for i, p in enumerate(theirs.parameters()) if not p.any()] == zeros


def test_weights_are_initialised_as_torchvision_does():
    torch.manual_seed(0)
    weight = resnet.resnet18().stages[3][1].conv1.weight  # 512 × 512 × 3 × 3: a sharp estimate
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
