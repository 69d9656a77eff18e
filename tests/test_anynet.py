"""AnyNet's spaces, the quantised linear rule, and every RegNet."""

from __future__ import annotations

import parity
import pytest
import torch
import torchvision
from torchvision.models.regnet import BlockParams

from utils import chapters, results
from utils.inspect import count_macs, count_parameters

anynet = chapters.load("anynet")
NAMES = [f"regnet_x_{size}" for size in anynet.X] + [f"regnet_y_{size}" for size in anynet.Y]
SMALL = [name for name in NAMES if name.endswith(("400mf", "800mf", "1_6gf", "3_2gf", "_8gf"))]


@pytest.fixture(autouse=True)
def on_meta(monkeypatch):
    """torchvision computes the widths with tensors, which must not be on the meta device."""
    make = BlockParams.from_init_params.__func__

    def on_cpu(cls, **options):
        with torch.device("cpu"):
            return make(cls, **options)

    monkeypatch.setattr(BlockParams, "from_init_params", classmethod(on_cpu))


def test_every_builder_of_torchvision_is_there():
    theirs = [name for name in torchvision.models.list_models() if name.startswith("regnet_")]
    assert sorted(theirs) == sorted(NAMES)
    for name in NAMES:
        assert getattr(anynet, name).__name__ == name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "check", [parity.same_order, parity.number_of_classes], ids=lambda check: check.__name__
)
def test_against_torchvision(name, check):
    check(getattr(anynet, name))


@pytest.mark.parametrize("name", SMALL)
def test_same_outputs_as_torchvision(name):
    parity.same_outputs(getattr(anynet, name))


@pytest.mark.parametrize("name", NAMES)
def test_counts_torchvision_publishes(name):
    weights = next(iter(torchvision.models.get_model_weights(name)))
    with torch.device("meta"):
        net = getattr(anynet, name)()
    assert count_parameters(net) == weights.meta["num_params"]
    side = weights.transforms.keywords["crop_size"]
    macs = count_macs(net, (3, side, side))
    assert macs / 1e9 == pytest.approx(weights.meta["_ops"], rel=0.01)


@pytest.mark.parametrize("space", "ABCDE")
def test_networks_of_a_space_follow_its_rules_and_cost_the_same(space):
    for index in range(20):
        d, w, b, g = anynet.sample(space, index)
        assert (d, w, b, g) == anynet.sample(space, index)
        assert space < "B" or len(set(b)) == 1
        assert space < "C" or len(set(g)) == 1
        assert space < "D" or w == sorted(w)
        assert space < "E" or d == sorted(d)
        with torch.device("meta"):
            net = anynet.sampled(space=space, index=index)
            assert net(torch.empty(2, 3, 32, 32)).shape == (2, 10)
        macs = count_macs(net, (3, 32, 32)) - net.head.weight.numel()
        assert macs == anynet.cost(d, w, b, g)
        assert 3e6 <= macs <= 4e6


def test_spaces_differ_and_are_not_ordered_by_chance():
    drawn = [anynet.sample("A", index) for index in range(30)]
    assert len({str(net) for net in drawn}) == 30
    assert any(w != sorted(w) for _, w, _, _ in drawn)
    assert any(d != sorted(d) for d, _, _, _ in drawn)
    assert any(len(set(b)) > 1 for _, _, b, _ in drawn)


@pytest.mark.parametrize(
    ("free", "fits"),
    [
        ((64, 1, 16), (64, 16)),
        ((96, 2, 32), (128, 32)),
        ((8, 4, 16), (8, 2)),
        ((40, 1, 16), (48, 16)),
    ],
)
def test_widths_are_made_to_fit_their_groups(free, fits):
    assert anynet.fitting(*free) == fits


def test_the_rule_on_the_papers_network():
    depths, widths = anynet.quantised(22, 24, 24.48, 2.54)
    assert (depths, widths) == ([1, 2, 7, 12], [24, 64, 152, 392])
    assert [anynet.fitting(w, 1, 16)[0] for w in widths] == [32, 64, 160, 400]


def test_the_small_network():
    net = anynet.regnet_cifar()
    assert 0.27e6 * 0.9 <= count_parameters(net) <= 0.27e6 * 1.1
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert anynet.regnet_cifar(7)(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_recorded_runs_are_complete():
    recorded = results.load("anynet")
    runs = results.select(recorded, experiment="default", model="regnet_cifar")
    assert sorted(r["seed"] for r in runs) == [0, 1, 2]
    assert results.summary(runs).mean >= 0.82
    spaces = [r["config"]["asked"] for r in results.select(recorded, experiment="spaces")]
    drawn = {(a["model.space"], a["model.index"]) for a in spaces}
    count = len(drawn) // 5
    assert drawn == {(space, index) for space in "ABCDE" for index in range(count)}
    assert 5 * count >= 60
