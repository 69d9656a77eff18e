"""The networks of chapters/nin.md: counts by hand, shapes, and what 1×1 and the mean really are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from utils import chapters
from utils.inspect import count_macs, count_parameters, receptive_field, trace_shapes

nin = chapters.load("nin")


def conv(k, a, b):
    """Parameters of a k×k convolution with biases."""
    return k * k * a * b + b


def normed(k, a, b):
    """The same without biases, and batch norm behind it."""
    return k * k * a * b + 2 * b


PAPER = [
    *(conv(5, 3, 192), conv(1, 192, 160), conv(1, 160, 96)),
    *(conv(5, 96, 192), conv(1, 192, 192), conv(1, 192, 192)),
    *(conv(3, 192, 192), conv(1, 192, 192), conv(1, 192, 10)),
]
IMAGENET = [
    *(conv(11, 3, 96), conv(1, 96, 96), conv(1, 96, 96)),
    *(conv(5, 96, 256), conv(1, 256, 256), conv(1, 256, 256)),
    *(conv(3, 256, 384), conv(1, 384, 384), conv(1, 384, 384)),
    *(conv(3, 384, 1024), conv(1, 1024, 1024), conv(1, 1024, 1000)),
]
FEATURES = [
    *(normed(5, 3, 32), normed(1, 32, 32), normed(1, 32, 32)),
    *(normed(5, 32, 64), normed(1, 64, 64), normed(1, 64, 64)),
    *(normed(3, 64, 256), normed(1, 256, 192)),
]


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "layers", "total"),
    [
        ("nin_2013", PAPER, 966_986),
        ("nin_imagenet", IMAGENET, 7_595_176),
        ("nin_cifar", [*FEATURES, conv(1, 192, 10)], 263_850),
        (
            "linear_cifar",
            [normed(5, 3, 32), normed(5, 32, 64), normed(3, 64, 357), conv(1, 357, 10)],
            263_718,
        ),
        ("flat_cifar", [*FEATURES, 192 * 8 * 8 * 10 + 10], 384_810),
    ],
)
def test_parameters_counted_by_hand(name, layers, total):
    with torch.device("meta"):
        model = getattr(nin, name)()
    assert sum(layers) == count_parameters(model) == total


def test_small_networks_are_within_the_courses_budget():
    for name in ("nin_cifar", "linear_cifar"):
        assert abs(count_parameters(getattr(nin, name)()) / 0.27e6 - 1) < 0.1


@pytest.mark.parametrize(
    ("name", "size", "sizes"),
    [
        ("nin_2013", 32, [32, 16, 16, 8, 8]),
        ("nin_cifar", 32, [32, 16, 16, 8, 8]),
        ("nin_imagenet", 224, [54, 27, 27, 13, 13, 6, 6]),
    ],
)
def test_resolutions(name, size, sizes):
    with torch.device("meta"):
        model = getattr(nin, name)()
    rows = trace_shapes(model, (3, size, size), depth=2)
    assert [r.out_shape[1] for r in rows if r.name.startswith("features")] == sizes


def test_work_of_the_papers_network_by_hand():
    positions = [32**2] * 3 + [16**2] * 3 + [8**2] * 3
    widths = [192, 160, 96, 192, 192, 192, 192, 192, 10]  # biases are not multiplied
    macs = sum(p * (n - b) for p, n, b in zip(positions, PAPER, widths, strict=True))
    assert count_macs(nin.nin_2013(), (3, 32, 32)) == macs == 222_486_528


def test_1x1_layers_do_not_widen_the_receptive_field():
    fields = [receptive_field(getattr(nin, n)()) for n in ("nin_cifar", "linear_cifar")]
    assert fields[0] == fields[1]
    assert fields[0].size == 27
    assert fields[0].stride == 4


@pytest.mark.parametrize("name", ["nin_2013", "nin_cifar", "linear_cifar", "flat_cifar"])
def test_number_of_classes(name, images):
    assert getattr(nin, name)(num_classes=7).eval()(images).shape == (2, 7)


def test_number_of_classes_for_imagenet():
    with torch.device("meta"):
        assert nin.nin_imagenet(num_classes=7)(torch.empty(1, 3, 224, 224)).shape == (1, 7)


@pytest.mark.parametrize("size", [20, 32, 33, 64])
def test_any_size_with_the_mean(size):
    x = torch.randn(1, 3, size, size)
    net = nin.nin_cifar().eval()
    assert net.class_maps(x).shape[2:] == (size // 2 // 2,) * 2
    assert net(x).shape == (1, 10)


def test_one_size_with_dense_layers():
    with pytest.raises(RuntimeError, match="shapes"):
        nin.flat_cifar().eval()(torch.randn(1, 3, 40, 40))


@pytest.mark.parametrize("name", ["nin_2013", "nin_cifar"])
def test_logits_are_means_of_the_class_maps(name, images):
    net = getattr(nin, name)().eval()
    maps = net.class_maps(images)
    assert maps.shape == (2, 10, 8, 8)
    torch.testing.assert_close(net(images), maps.mean(dim=(2, 3)))
    assert (maps.min() >= 0) == (name == "nin_2013")  # only the paper rectifies its maps


def test_mlpconv_is_a_perceptron_on_patches():
    block = nin.mlpconv(3, (8, 6, 4), 5, stride=2, padding=1)
    x = torch.randn(2, 3, 12, 12)
    h = F.unfold(x, kernel_size=5, stride=2, padding=1).transpose(1, 2)
    for layer in block:
        h = layer(h) if isinstance(layer, nn.ReLU) else F.linear(h, *flat(layer))
    want = block(x)
    torch.testing.assert_close(h.transpose(1, 2).reshape(want.shape), want, atol=1e-5, rtol=1e-5)


def flat(layer):
    return layer.weight.flatten(1), layer.bias


def test_mlpconv_keeps_biases_only_without_batch_norm():
    for norm in (False, True):
        layers = nin.mlpconv(3, (8, 6), 3, norm=norm)
        convs = [m for m in layers if isinstance(m, nn.Conv2d)]
        assert [m.kernel_size for m in convs] == [(3, 3), (1, 1)]
        assert all((m.bias is None) == norm for m in convs)
        assert any(isinstance(m, nn.BatchNorm2d) for m in layers) == norm


def test_dropout_stands_behind_all_blocks_but_the_last():
    for name, last, count in (("nin_2013", 4, 2), ("nin_cifar", 4, 2), ("nin_imagenet", 6, 3)):
        with torch.device("meta"):
            net = getattr(nin, name)(dropout=0.25)
        found = [n for n, m in net.named_modules() if isinstance(m, nn.Dropout)]
        assert len(found) == count
        assert not any(n.startswith(f"features.{last}") for n in found)
    assert nin.nin_2013().features[1][1].p == 0.5
    assert nin.nin_cifar().features[1][1].p == 0.0


def test_dropout_of_the_dense_head():
    kinds = [type(m) for m in nin.flat_cifar(hidden=16, dropout=0.5)]
    assert kinds[-4:] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert count_parameters(nin.flat_cifar(hidden=256)) == 3_410_474


def test_initial_weights():
    torch.manual_seed(0)
    net = nin.nin_2013()
    middle = net.features[2][0]  # 5×5 from 96 to 192 channels: 460,800 weights
    assert middle.weight.std().item() == pytest.approx((2 / (25 * 96)) ** 0.5, rel=0.01)
    assert not middle.bias.any()
