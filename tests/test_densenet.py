"""The networks of chapters/densenet.md against torchvision, the paper's counts and each other."""

from __future__ import annotations

import parity
import pytest
import torch
from torch import nn

from utils import chapters, results
from utils.inspect import count_parameters

densenet = chapters.load("densenet")

TORCHVISION = ("densenet121", "densenet161", "densenet169", "densenet201")
CIFAR = {
    "densenet40_12": 1_019_722,
    "densenet_bc_100_12": 769_162,
    "densenet_cifar": 261_834,
    "sum_cifar": 265_034,
    "plain_cifar": 265_034,
}


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("check", parity.CHECKS, ids=lambda check: check.__name__)
def test_against_torchvision(name, check):
    check(getattr(densenet, name))


@pytest.mark.parametrize(("name", "layers"), [("densenet121", 121), ("densenet201", 201)])
def test_the_number_in_the_name_is_that_of_the_layers(name, layers):
    with torch.device("meta"):
        net = getattr(densenet, name)()
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in net.modules()) == layers


@pytest.mark.parametrize(("name", "count"), CIFAR.items())
def test_networks_for_cifar(name, count):
    build = getattr(densenet, name)
    with torch.device("meta"):
        assert count_parameters(build()) == count
        assert build(num_classes=7)(torch.empty(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(("name", "layers"), [("densenet40_12", 40), ("densenet_bc_100_12", 100)])
def test_depth_of_the_papers_networks(name, layers):
    with torch.device("meta"):
        net = getattr(densenet, name)()
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in net.modules()) == layers


def test_a_block_keeps_every_map_and_reads_every_map():
    torch.manual_seed(0)
    block = parity.shuffled(densenet.DenseBlock(6, depth=3, growth=4)).eval()
    x = torch.randn(2, 6, 5, 5)
    y = block(x)
    assert y.shape == (2, 6 + 3 * 4, 5, 5)
    so_far = x
    for layer in block.layers:
        so_far = torch.cat([so_far, layer(so_far)], dim=1)
    torch.testing.assert_close(y, so_far)


@pytest.mark.parametrize("bottleneck", [True, False])
def test_checkpoints_change_nothing_but_the_memory(bottleneck):
    torch.manual_seed(0)
    block, x = densenet.DenseBlock(6, 4, 4, bottleneck), torch.randn(3, 6, 8, 8)
    found = []
    for recompute in (False, True):
        block.recompute = recompute
        block.zero_grad()
        inputs = x.clone().requires_grad_()
        y = block(inputs)
        y.square().sum().backward()
        found.append([y.detach(), inputs.grad, *(p.grad.clone() for p in block.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_what_is_kept_with_checkpoints_is_linear_in_depth():
    def kept(depth):
        block, found = densenet.DenseBlock(8, depth, 8), {}
        block.recompute = True

        def note(t):
            found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        own = {p.untyped_storage().data_ptr() for p in block.parameters()}
        x = torch.randn(2, 8, 16, 16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            y = block(x)
        assert y.requires_grad
        return sum(size for place, size in found.items() if place not in own)

    maps = 2 * 8 * 16 * 16 * 4  # bytes of 8 maps of 2 images
    # The input and each layer's 8 maps but the last, which no layer of the block reads.
    for depth in (2, 4, 8):
        assert kept(depth) == pytest.approx(depth * maps, rel=0.02)


def test_the_rivals_differ_in_the_addition_alone():
    torch.manual_seed(0)
    add, plain = densenet.sum_cifar(), densenet.plain_cifar()
    plain.load_state_dict(add.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(add.eval()(x), plain.eval()(x))
    for net in (add, plain):
        blocks = [m for m in net.modules() if isinstance(m, densenet.SumBlock)]
        assert [len(b.layers) for b in blocks] == [4, 6, 6]
        for b in blocks:
            for layer in b.layers:
                nn.init.zeros_(layer[-1].weight)
    inputs = torch.randn(2, 32, 4, 4)
    assert torch.equal(next(m for m in add if isinstance(m, densenet.SumBlock))(inputs), inputs)


@pytest.mark.parametrize(("growth", "depths"), [(8, (10, 14, 14)), (24, (2, 3, 4))])
def test_growth_against_depth_at_equal_parameters(growth, depths):
    net = densenet.densenet_cifar(growth=growth, depths=depths)
    assert count_parameters(net) == pytest.approx(261_834, rel=0.04)


def test_recorded_runs_are_complete():
    runs = results.load("densenet")

    def seeds(**where):
        return sorted(r["seed"] for r in results.select(runs, **where))

    assert seeds(experiment="default") == [0, 1, 2]
    for model in ("densenet_cifar", "sum_cifar", "plain_cifar"):
        assert seeds(experiment="connections", model=model) == [0, 1, 2]
    for growth in (8, 24):
        picked = [
            r["seed"]
            for r in results.select(runs, experiment="growth")
            if r["config"]["asked"]["model.growth"] == growth
        ]
        assert sorted(picked) == [0, 1, 2]
