"""ConvNeXt, the steps from a ResNet to it, and the small vision transformer."""

from __future__ import annotations

import parity
import pytest
import torch
import torchvision
from torch import nn

from utils import chapters, results
from utils.inspect import count_macs, count_parameters

convnext = chapters.load("convnext")
NAMES = [f"convnext_{size}" for size in ("tiny", "small", "base", "large")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "check",
    [parity.same_order, parity.published_counts, parity.number_of_classes],
    ids=lambda check: check.__name__,
)
def test_against_torchvision(name, check):
    check(getattr(convnext, name))


@pytest.mark.parametrize("name", NAMES)
def test_same_outputs_as_torchvision(name):
    """With scales of ordinary size, so that the blocks take part."""
    torch.manual_seed(0)
    theirs = parity.shuffled(getattr(torchvision.models, name)()).eval()
    with torch.no_grad():
        for key, value in theirs.named_parameters():
            if key.endswith("layer_scale"):
                value.uniform_(0.1, 0.5)
    with torch.device("meta"):
        ours = getattr(convnext, name)().eval()
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state, assign=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        parity.agree(ours(x), theirs(x))


@pytest.mark.parametrize("name", NAMES)
def test_stochastic_depth_and_scales_as_torchvision(name):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
        ours = getattr(convnext, name)()
    got = [m.drop.p for m in ours.modules() if isinstance(m, convnext.ConvNeXtBlock)]
    want = [m.p for m in theirs.modules() if isinstance(m, torchvision.ops.StochasticDepth)]
    assert got == pytest.approx(want)
    block = convnext.ConvNeXtBlock(8)
    assert block.scale.unique().item() == pytest.approx(1e-6)
    eps = [{m.eps for m in net.modules() if isinstance(m, nn.LayerNorm)} for net in (ours, theirs)]
    assert eps == [{1e-6}, {1e-6}]


@pytest.mark.parametrize("number", range(14))
def test_every_step_is_a_network_of_about_the_same_price(number):
    net = convnext.step(number=number)
    x = torch.randn(2, 3, 32, 32)
    assert net(x).shape == (2, 10)
    assert 8e6 < count_macs(net, (3, 32, 32)) < 14e6
    assert sum(m.p > 0 for m in net.modules() if isinstance(m, convnext.StochasticDepth)) == (
        5 if number == 13 else 0
    )


def changes(kind):
    """How many layers of a kind each step has."""
    nets = [convnext.step(number=number) for number in range(14)]
    return [sum(isinstance(m, kind) for m in net.modules()) for net in nets]


def test_each_step_changes_what_its_name_says():
    assert len(convnext.STEPS) == 14
    relu, gelu = changes(nn.ReLU), changes(nn.GELU)
    assert all(relu[:7])
    assert not any(relu[7:])
    assert not any(gelu[:7])
    assert gelu[8] == 6 < gelu[7]
    batch, layer = changes(nn.BatchNorm2d), changes(convnext.LayerNorm2d)
    assert not any(layer[:10])
    assert not any(batch[10:])
    assert batch[9] < batch[8]
    kernels = [
        {m.kernel_size[0] for m in convnext.step(number=n).modules() if isinstance(m, nn.Conv2d)}
        for n in range(14)
    ]
    assert all(7 not in k for k in kernels[:6])
    assert all(7 in k for k in kernels[6:])


def test_the_last_step_is_the_small_convnext():
    """Layer scale and all; ours has biases where a norm follows, and turns the axes."""
    want = [p.shape.numel() for p in convnext.convnext_cifar().parameters() if p.dim() > 1]
    got = [p.shape.numel() for p in convnext.step(number=12).parameters() if p.dim() > 1]
    assert sorted(got) == sorted(want)


def test_attention_is_torchs():
    torch.manual_seed(0)
    ours, theirs = convnext.Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.in_proj_weight.data.copy_(ours.qkv.weight)
    theirs.in_proj_bias.data.copy_(ours.qkv.bias)
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


def test_the_small_networks():
    x = torch.randn(2, 3, 32, 32)
    for build in (convnext.convnext_cifar, convnext.vit_cifar):
        assert 0.27e6 * 0.9 <= count_parameters(build()) <= 0.27e6 * 1.1
        assert build()(x).shape == (2, 10)
        assert build(7)(x).shape == (2, 7)


def test_recorded_runs_are_complete():
    recorded = results.load("convnext")
    for model in ("convnext_cifar", "vit_cifar"):
        runs = results.select(recorded, experiment="default", model=model)
        assert sorted(r["seed"] for r in runs) == [0, 1, 2]
    for number in range(14):
        runs = [r for r in results.select(recorded, experiment="steps")
                if r["config"]["asked"]["model.number"] == number]  # fmt: skip
        assert sorted(r["seed"] for r in runs) == [0, 1, 2]
