"""EfficientNet B0 to B7 and the small networks of the chapter."""

from __future__ import annotations

import parity
import pytest
import torch
import torchvision
from torch import nn

from utils import chapters, results
from utils.inspect import count_macs, count_parameters

efficientnet = chapters.load("efficientnet")
ALL = [f"efficientnet_b{n}" for n in range(8)]
WITHOUT_OUTPUTS = [parity.same_order, parity.number_of_classes]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("check", WITHOUT_OUTPUTS, ids=lambda check: check.__name__)
def test_against_torchvision(name, check):
    check(getattr(efficientnet, name))


@pytest.mark.parametrize("name", ALL)
def test_same_outputs_as_torchvision(name):
    parity.same_outputs(getattr(efficientnet, name))


@pytest.mark.parametrize("number", range(8))
def test_published_counts_at_the_size_they_were_made_for(number):
    meta = torchvision.models.get_model_weights(ALL[number]).IMAGENET1K_V1.meta
    side = {2: 288}.get(number, efficientnet.SCALES[number][3])  # torchvision measures B2 at 288
    with torch.device("meta"):
        net = getattr(efficientnet, ALL[number])()
    assert count_parameters(net) == meta["num_params"]
    assert count_macs(net, (3, side, side)) / 1e9 == pytest.approx(meta["_ops"], abs=0.001)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b4", "efficientnet_b5"])
def test_dropout_stochastic_depth_and_norms_as_torchvision(name):
    with torch.device("meta"):
        ours, theirs = getattr(efficientnet, name)(), getattr(torchvision.models, name)()
    kept = [m.drop.p for m in ours.modules() if isinstance(m, efficientnet.MBConv)]
    assert kept == pytest.approx(
        [m.p for m in theirs.modules() if isinstance(m, torchvision.ops.StochasticDepth)]
    )
    for kind, values in ((nn.Dropout, ("p",)), (nn.BatchNorm2d, ("eps", "momentum"))):
        got, want = (
            [[getattr(m, v) for v in values] for m in net.modules() if isinstance(m, kind)]
            for net in (ours, theirs)
        )
        assert got == want


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop, x = efficientnet.StochasticDepth(0.25).train(), torch.ones(4000, 2, 3, 3)
    y = drop(x)
    assert {tuple(row.unique().tolist()) for row in y} == {(0.0,), (y.max().item(),)}
    assert y.mean() == pytest.approx(1, abs=0.03)
    assert (y == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(drop.eval()(x), x)
    assert drop.train()(x.bfloat16()).dtype == torch.bfloat16


def test_initialised_as_torchvision():
    torch.manual_seed(0)
    ours, theirs = efficientnet.efficientnet_b0(), torchvision.models.efficientnet_b0()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        if a.numel() > 10_000:
            assert a.std().item() == pytest.approx(b.std().item(), rel=0.05)


def test_the_small_network():
    net = efficientnet.efficientnet_cifar()
    assert 0.27e6 * 0.9 <= count_parameters(net) <= 0.27e6 * 1.1
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert efficientnet.efficientnet_cifar(7)(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_the_four_ways_to_scale_cost_about_the_same():
    ways = ({"depth": 4}, {"width": 2}, {"side": 32}, {"depth": 1.5, "width": 1.2, "side": 20})
    nets = [efficientnet.base_cifar(**way) for way in ways]
    macs = [count_macs(net, (3, 32, 32)) for net in nets]
    assert max(macs) / min(macs) < 1.1
    base = count_macs(efficientnet.base_cifar(), (3, 32, 32))
    assert min(macs) > 3.5 * base
    assert count_parameters(nets[2]) == count_parameters(efficientnet.base_cifar())


def test_recorded_runs_are_complete():
    runs = results.select(
        results.load("efficientnet"), experiment="default", model="efficientnet_cifar"
    )
    assert sorted(r["seed"] for r in runs) == [0, 1, 2]
    assert results.summary(runs).mean >= 0.78
