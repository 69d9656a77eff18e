"""The networks of chapters/alexnet.md against torchvision, PyTorch and the paper's counts."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from utils import chapters
from utils.inspect import count_macs, count_parameters, receptive_field, trace_shapes

alexnet = chapters.load("alexnet")


def on_meta(build, **arguments):
    with torch.device("meta"):
        return build(**arguments)


@pytest.fixture(scope="module")
def both():
    """torchvision's network and ours with its weights, 61 million, in memory once."""
    torch.manual_seed(0)
    theirs = torchvision.models.alexnet().eval()
    ours = on_meta(alexnet.alexnet).eval()
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state, assign=True)
    return ours, theirs


@pytest.mark.parametrize("size", [224, 96, 63])
def test_same_outputs_as_torchvision(both, size):
    ours, theirs = both
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_dropout_is_where_torchvision_has_it(both):
    ours, theirs = ([type(m) for m in net.modules() if not list(m.children())] for net in both)
    assert [t for t in ours if t is not nn.Flatten] == theirs


def test_same_shapes_in_the_same_order_as_torchvision():
    ours, theirs = on_meta(alexnet.alexnet), on_meta(torchvision.models.alexnet)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    assert len(ours.state_dict()) == len(theirs.state_dict()) == 16


def test_counts_torchvision_publishes():
    meta = torchvision.models.AlexNet_Weights.DEFAULT.meta
    model = on_meta(alexnet.alexnet)
    assert count_parameters(model) == meta["num_params"] == 61_100_840
    assert count_macs(model) / 1e9 == pytest.approx(meta["_ops"], rel=0.001)


def test_the_network_of_2012():
    model = on_meta(alexnet.alexnet_2012)
    assert count_parameters(model) == 60_965_224
    assert count_macs(model, (3, 227, 227)) == 724_406_816
    rows = {row.name: row.out_shape for row in trace_shapes(model, (3, 227, 227))}
    assert rows["conv1"] == (96, 55, 55)
    assert rows["pool1"] == (96, 27, 27)
    assert rows["pool2"] == (256, 13, 13)
    assert rows["pool5"] == (256, 6, 6)
    groups = [m.groups for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert groups == [1, 2, 1, 2, 2]


@pytest.mark.parametrize("name", ["alexnet", "alexnet_2012", "alexnet_cifar"])
def test_number_of_classes(name):
    model = on_meta(getattr(alexnet, name), num_classes=7)
    size = {"alexnet": 224, "alexnet_2012": 227, "alexnet_cifar": 32}[name]
    assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 7)


def test_initial_weights_are_the_papers(monkeypatch):
    narrow = alexnet.chain(
        conv1=nn.Conv2d(3, 64, 5),
        conv2=nn.Conv2d(64, 64, 5),
        conv3=nn.Conv2d(64, 64, 3),
        fc6=nn.Linear(64, 256),
        fc8=nn.Linear(256, 10),
    )
    monkeypatch.setattr(alexnet, "network_2012", lambda num_classes: narrow)
    model = alexnet.alexnet_2012()
    for name, ones in (("conv1", 0), ("conv2", 1), ("conv3", 0), ("fc6", 1), ("fc8", 0)):
        layer = model.get_submodule(name)
        assert (layer.bias == ones).all()
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_the_network_for_cifar():
    net = alexnet.alexnet_cifar()
    assert count_parameters(net) == 270_842
    assert count_macs(net, (3, 32, 32)) == 26_847_664
    assert not any(isinstance(m, alexnet.LocalResponseNorm) for m in net.modules())
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.2, 0.2]


@pytest.mark.parametrize(
    "option",
    [
        {"activation": "tanh"},
        {"activation": "sigmoid"},
        {"pool": "disjoint"},
        {"pool": "average"},
        {"lrn": True},
        {"dropout": 0.5},
    ],
)
def test_experiments_change_neither_parameters_nor_cost(option):
    torch.manual_seed(0)
    usual = alexnet.alexnet_cifar().eval()
    torch.manual_seed(0)
    other = alexnet.alexnet_cifar(**option).eval()
    assert list(other.state_dict()) == list(usual.state_dict())
    assert count_macs(other, (3, 32, 32)) == count_macs(usual, (3, 32, 32))
    other.load_state_dict(usual.state_dict())
    x = torch.randn(2, 3, 32, 32)
    same = torch.allclose(other(x), usual(x), atol=1e-6)
    assert same == ("dropout" in option)  # which only acts in training
    assert count_parameters(other) == 270_842


@pytest.mark.parametrize("pool", ["max", "disjoint", "average"])
def test_every_pooling_halves(pool):
    layer = alexnet.POOLS[pool]()
    x = torch.randn(1, 2, 8, 8)
    assert layer(x).shape == (1, 2, 4, 4)
    assert torch.equal(layer(torch.ones(1, 2, 8, 8)), torch.ones(1, 2, 4, 4))  # no zeros averaged


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2**0.5), ("tanh", 5 / 3)])
def test_initial_weights_suit_the_activation(activation, gain):
    torch.manual_seed(0)
    net = alexnet.alexnet_cifar(activation=activation)
    for name, fan in (("conv2", 32 * 25), ("conv4", 96 * 9), ("fc6", 768)):
        weight = net.get_submodule(name).weight
        assert weight.std().item() == pytest.approx(gain / fan**0.5, rel=0.05)
    assert net.fc8.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert not any(p.any() for name, p in net.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 9, 32])
@pytest.mark.parametrize(("size", "k", "beta"), [(5, 2.0, 0.75), (3, 1.0, 0.5)])
def test_local_response_normalisation_is_pytorchs(channels, size, k, beta):
    x = 10 * torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(channels))
    ours = alexnet.LocalResponseNorm(size, alpha=0.01, beta=beta, k=k)(x)
    theirs = F.local_response_norm(x, size, alpha=0.01 * size, beta=beta, k=k)
    torch.testing.assert_close(ours, theirs)


def test_local_response_normalisation_by_hand():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    y = alexnet.LocalResponseNorm(size=3, alpha=0.5, beta=1.0, k=1.0)(x).flatten()
    sums = torch.tensor([1 + 4, 1 + 4 + 9, 4 + 9 + 16, 9 + 16.0])
    torch.testing.assert_close(y, x.flatten() / (1 + 0.5 * sums))


def test_its_strength_depends_on_the_scale_of_its_input():
    x = torch.randn(1, 8, 3, 3)
    strong = alexnet.LocalResponseNorm(alpha=1e-4 * 63**2)(x)
    torch.testing.assert_close(alexnet.LocalResponseNorm(alpha=1e-4)(63 * x), 63 * strong)


def test_a_group_sees_its_own_half():
    conv = on_meta(alexnet.alexnet_2012).conv2
    assert conv.weight.shape == (256, 48, 5, 5)


def test_receptive_field_of_the_last_map():
    """By hand: 11, 19, 51, 67, 99, 131, 163, 195 pixels from conv1 to pool5."""
    layers = list(on_meta(alexnet.alexnet_2012).children())
    kept = [m for m in layers if isinstance(m, (nn.Conv2d, nn.MaxPool2d))]
    assert receptive_field(kept).size == 195


def test_sigmoid_starts_with_a_vanishing_gradient():
    def first_over_last(activation):
        torch.manual_seed(0)
        net = alexnet.alexnet_cifar(activation=activation, dropout=0.0)
        x, y = torch.randn(32, 3, 32, 32), torch.arange(32) % 10
        F.cross_entropy(net(x), y).backward()
        first, last = net.conv1.weight, net.fc7.weight
        return ((first.grad.norm() / first.norm()) / (last.grad.norm() / last.norm())).item()

    assert first_over_last("sigmoid") < 0.01 * first_over_last("relu")
