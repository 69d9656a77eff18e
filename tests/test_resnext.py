"""The networks of chapters/resnext.md against torchvision, the paper's counts and each other."""

from __future__ import annotations

import parity
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from utils import chapters, results
from utils.inspect import count_parameters

resnext = chapters.load("resnext")

TORCHVISION = ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")
FIXED = ((1, 18), (2, 11), (4, 7), (8, 4), (16, 2), (32, 1))
TWICE = (
    {"groups": 8, "group_width": 4, "depth": 4},
    {"groups": 8, "group_width": 7},
    {"groups": 16, "group_width": 4},
    {"groups": 1, "group_width": 27},
)


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("check", parity.CHECKS, ids=lambda check: check.__name__)
def test_against_torchvision(name, check):
    check(getattr(resnext, name))


@pytest.mark.parametrize(
    ("name", "count", "millions"),
    [("resnext29_8x64d", 34_426_698, 34.4), ("resnext29_16x64d", 68_155_210, 68.1)],
)
def test_the_papers_networks_for_cifar(name, count, millions):
    with torch.device("meta"):
        model = getattr(resnext, name)()
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    assert count_parameters(model) == count
    assert count / 1e6 == pytest.approx(millions, abs=0.1)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    projections = sum(isinstance(m, nn.Sequential) for m in _shortcuts(model))
    assert len(layers) - projections == 29


def _shortcuts(model):
    return [m.shortcut for m in model.modules() if isinstance(m, resnext.Block)]


def test_the_network_of_the_chapter():
    model = resnext.resnext_cifar(num_classes=7).eval()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert count_parameters(resnext.resnext_cifar()) == 249_898
    sides = []
    for stage in model.stages:
        stage.register_forward_hook(lambda m, args, out: sides.append(out.shape[-1]))
    model(torch.randn(2, 3, 32, 32))
    assert sides == [16, 8, 4]


def test_groups_stay_and_group_width_doubles():
    convs = [m.conv2 for m in resnext.resnext_cifar().modules() if isinstance(m, resnext.Block)]
    assert [c.groups for c in convs] == 6 * [8]
    assert [c.in_channels // c.groups for c in convs] == [4, 4, 8, 8, 16, 16]


def test_a_block_is_the_sum_of_its_paths():
    """y = relu(shortcut(x) + Σ T_i(x)), each path computed alone, batch norm behind the sum."""
    torch.manual_seed(0)
    groups, width = 8, 4
    block = parity.shuffled(resnext.Block(24, 40, groups, width, stride=2)).eval()
    x = torch.randn(2, 24, 9, 9)

    def norm(t, bn, at):
        mean, var = bn.running_mean[at], bn.running_var[at]
        return F.batch_norm(t, mean, var, bn.weight[at], bn.bias[at], eps=bn.eps)

    total = 0
    for i in range(groups):
        at = slice(i * width, (i + 1) * width)
        t = F.relu(norm(F.conv2d(x, block.conv1.weight[at]), block.bn1, at))
        t = F.conv2d(t, block.conv2.weight[at], stride=2, padding=1)
        t = F.relu(norm(t, block.bn2, at))
        total = total + F.conv2d(t, block.conv3.weight[:, at])
    want = F.relu(block.shortcut(x) + block.bn3(total))
    torch.testing.assert_close(block(x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("groups", "width"), FIXED)
def test_variants_at_a_fixed_price(groups, width):
    net = resnext.resnext_cifar(groups=groups, group_width=width)
    assert count_parameters(net) == pytest.approx(249_898, rel=0.15)


@pytest.mark.parametrize("options", TWICE)
def test_variants_of_twice_the_size(options):
    assert count_parameters(resnext.resnext_cifar(**options)) == pytest.approx(462_000, rel=0.03)


def test_recorded_runs_are_complete():
    runs = results.load("resnext")
    assert {r["seed"] for r in results.select(runs, experiment="default")} == {0, 1, 2}
    for experiment, variants in (
        ("fixed-cost", [{"groups": g, "group_width": d} for g, d in FIXED]),
        ("twice", TWICE),
    ):
        for options in variants:
            want = {f"model.{k}": v for k, v in options.items()}
            seeds = [
                r["seed"]
                for r in results.select(runs, experiment=experiment)
                if {k: v for k, v in r["config"]["asked"].items() if k.startswith("model.")} == want
            ]
            assert sorted(seeds) == [0, 1, 2], options
