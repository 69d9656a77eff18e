"""Counting by hand, against PyTorch's own counter, and against torchvision's published numbers."""

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import regnet

from utils.inspect import (
    RF,
    count_macs,
    count_parameters,
    receptive_field,
    shape_table,
    trace_shapes,
)

FAMILIES = ("alexnet", "convnext", "densenet", "efficientnet", "googlenet", "inception")
FAMILIES += ("mnasnet", "mobilenet", "regnet", "res", "shufflenet", "squeezenet", "vgg", "wide_")
NAMES = [n for n in tv.list_models(module=tv) if n.startswith(FAMILIES)]


class Residual(nn.Module):
    """Batch norm, an activation used twice, a parameter-free shortcut as in CIFAR ResNets."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(self.scale * y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))


def small():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Residual(), head)


@pytest.fixture
def regnets_on_meta(monkeypatch):
    """Let RegNets be built on the meta device: their widths are computed with small tensors."""
    widths = regnet.BlockParams.from_init_params.__func__

    def on_cpu(cls, *args, **kwargs):
        with torch.device("cpu"):
            return widths(cls, *args, **kwargs)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", classmethod(on_cpu))


def on_meta(name):
    keywords = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        return tv.get_model(name, **keywords)


@pytest.mark.parametrize(
    ("layer", "size", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (3, 5, 7), 5 * 7 * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3), (3, 5, 7), 3 * 5 * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 5, 7), 3 * 4 * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3, dilation=2), (3, 9, 9), 5 * 5 * 8 * 3 * 9),
        (nn.Conv2d(6, 8, (1, 5), groups=2), (6, 5, 9), 5 * 5 * 8 * 3 * 5),
        (nn.Conv2d(6, 12, 3, padding=1, groups=6), (6, 5, 7), 5 * 7 * 12 * 9),
        (nn.Conv1d(3, 8, 3), (3, 7), 5 * 8 * 3 * 3),
        (nn.ConvTranspose2d(3, 8, 2, stride=2), (3, 5, 7), 5 * 7 * 3 * 8 * 4),
        (nn.Linear(6, 4), (6,), 24),
        (nn.Linear(6, 4, bias=False), (5, 7, 6), 5 * 7 * 24),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (3, 4, 4), 0),
    ],
)
def test_macs_by_hand(layer, size, macs):
    assert count_macs(layer, size) == macs


def test_parameters():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.BatchNorm1d(3))
    assert count_parameters(model) == 12 + 6  # once each, no running statistics
    shared.weight.requires_grad_(False)
    assert count_parameters(model, trainable_only=True) == 9


def test_a_layer_used_twice_counts_twice():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert count_macs(model, (3,)) == 18
    assert count_macs(model, (3,), by_layer=True) == {"0": 18}
    rows = trace_shapes(model, (3,))
    assert [(r.kind, r.parameters, r.macs) for r in rows if r.macs] == [
        ("Linear", 12, 9),
        ("Linear", 0, 9),
    ]


def test_agrees_with_pytorchs_counter():
    model = small().eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 8, 8))
    assert 2 * count_macs(model, (3, 8, 8)) == counter.get_total_flops()


def test_layers_in_order_of_execution():
    assert count_macs(small(), (3, 8, 8), by_layer=True) == {
        "0": 64 * 4 * 27,
        "1.conv1": 16 * 8 * 36,
        "1.conv2": 16 * 8 * 72,
        "2.2": 80,
    }


def test_the_model_is_left_as_it_was():
    model = small().train()
    model[1].bn1.eval()
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    count_macs(model, (3, 8, 8))
    with pytest.raises(ValueError, match="does not run on one input of shape \\(4, 8, 8\\)"):
        count_macs(model, (4, 8, 8))
    assert modes == [m.training for m in model.modules()]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_on_the_meta_device_and_in_other_precisions():
    expected = count_macs(small(), (3, 8, 8))
    assert count_macs(small().to("meta"), (3, 8, 8)) == expected
    assert count_macs(small().bfloat16(), [3, 8, 8]) == expected


@pytest.mark.parametrize("size", [(), (3, 0, 8), (3, 8.0, 8), 224, "224"])
def test_an_input_size_that_is_none(size):
    with pytest.raises(ValueError, match="input_size is the shape of one input"):
        count_macs(small(), size)


@pytest.mark.parametrize("name", NAMES)
def test_torchvision(name, regnets_on_meta):
    """Their number is rounded to a thousandth of 10^9: so must ours be, with no other tolerance."""
    model = on_meta(name)
    for weights in {w.meta["_ops"]: w for w in tv.get_model_weights(name)}.values():
        crop = weights.transforms.keywords["crop_size"]
        ours = count_macs(model, (3, crop, crop)) / 1e9
        assert ours == pytest.approx(weights.meta["_ops"], abs=0.000_501)
        parameters = count_parameters(model)
        if name == "googlenet":  # published without the two auxiliary classifiers
            parameters -= count_parameters(model.aux1) + count_parameters(model.aux2)
        assert parameters == weights.meta["num_params"]


def test_shapes():
    rows = trace_shapes(small(), (3, 8, 8))
    assert [r.name for r in rows[:3]] == ["0", "1.conv1", "1.bn1"]
    assert rows[0].out_shape == (4, 8, 8)
    assert rows[-1].out_shape == (10,)
    own = next(r for r in rows if r.name == "1")
    assert (own.kind, own.parameters, own.macs) == ("Residual", 8, 0)
    assert sum(r.parameters for r in rows) == count_parameters(small())
    assert sum(r.macs for r in rows) == count_macs(small(), (3, 8, 8))


@pytest.mark.parametrize("depth", [None, 1, 2, 3])
@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "mobilenet_v3_small", "densenet121"])
def test_nothing_is_lost_or_counted_twice_at_any_depth(name, depth):
    model = on_meta(name)
    rows = trace_shapes(model, depth=depth)
    assert sum(r.parameters for r in rows) == count_parameters(model)
    assert sum(r.macs for r in rows) == count_macs(model)
    assert all(depth is None or r.name.count(".") < depth for r in rows)


def test_depth_one_shows_the_stages():
    rows = trace_shapes(on_meta("resnet18"), depth=1)
    assert [r.name for r in rows][4:8] == ["layer1", "layer2", "layer3", "layer4"]
    assert rows[4].macs == 4 * 115_605_504
    with pytest.raises(ValueError, match="depth is None or at least 1"):
        trace_shapes(small(), (3, 8, 8), depth=0)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vgg16"])
def test_the_table_fits_its_columns(name):
    model = on_meta(name)
    table = shape_table(model)
    assert table == shape_table(model)
    assert max(map(len, table.splitlines())) <= 78
    assert f"{count_parameters(model):,}" in table
    assert f"{count_macs(model):,}" in table.splitlines()[-1]


def test_the_table_in_full():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 10))
    assert shape_table(model, (3, 4, 4)).splitlines() == [
        "layer  kind     output  parameters  MACs",
        "----------------------------------------",
        "input            3×4×4",
        "0      Conv2d    4×2×2         112   432",
        "1      Flatten      16           0     0",
        "2      Linear       10         170   160",
        "----------------------------------------",
        "total                          282   592",
    ]


def test_the_table_names_layers_that_are_not_reached():
    model = on_meta("googlenet")
    assert "(6,379,984 of the parameters lie in layers" in shape_table(model, depth=1)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([nn.Conv2d(3, 8, 3, padding=1)], RF(3, 1, -1)),
        ([nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)], RF(5, 1, 0)),
        ([nn.Conv2d(3, 8, 5, padding="same")], RF(5, 1, -2)),
        ([nn.Conv2d(3, 8, 5, padding="valid")], RF(5, 1, 0)),
        ([nn.Conv2d(3, 8, 3, dilation=4)], RF(9, 1, 0)),
        ([nn.MaxPool2d(2), nn.Conv2d(3, 8, 3, padding=1)], RF(6, 2, -2)),
        ([nn.AvgPool2d(3, 2, 1), nn.BatchNorm2d(3), nn.MaxPool2d(2, dilation=2)], RF(7, 4, -1)),
        ([nn.Conv1d(3, 8, 3, stride=2), nn.MaxPool1d(2)], RF(5, 4, 0)),
        ([nn.Identity()], RF(1, 1, 0)),
    ],
)
def test_receptive_field_by_hand(layers, expected):
    assert receptive_field(layers) == expected
    assert receptive_field(nn.Sequential(*layers)) == expected


@pytest.mark.parametrize(
    ("name", "size", "stride"),
    [("alexnet", 195, 32), ("vgg16", 212, 32), ("resnet18", 435, 32), ("mobilenet_v2", 491, 32)],
)
def test_receptive_fields_of_known_networks(name, size, stride):
    field = receptive_field(on_meta(name))
    assert (field.size, field.stride) == (size, stride)


@pytest.mark.parametrize("index", [3, 4])
def test_receptive_field_is_where_the_gradient_is(index):
    """Positive weights and average pooling let no path cancel out."""
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 4, 5, stride=2, padding=1)
    net = nn.Sequential(stem, nn.AvgPool2d(3, 2), Residual(), nn.Conv2d(8, 1, 3, padding=1)).eval()
    for p in net.parameters():
        p.data.abs_()
    image = torch.rand(1, 3, 96, 96, requires_grad=True)
    net(image)[0, 0, index, index].backward()
    seen = image.grad.sum((0, 1, 2)).nonzero().flatten()
    field = receptive_field(net)
    first = field.start + index * field.stride
    assert (int(seen[0]), int(seen[-1])) == (first, first + field.size - 1)


def test_receptive_field_along_one_axis():
    layers = [nn.Conv2d(3, 8, (1, 7), padding=(0, 3)), nn.Conv2d(8, 8, 3)]
    assert receptive_field(layers, axis=0) == RF(3, 1, 0)
    assert receptive_field(layers, axis=1) == RF(9, 1, -3)
    with pytest.raises(ValueError, match="not square .* axis=0 for height"):
        receptive_field(layers)


def test_receptive_field_of_functional_pools_and_gates():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)
            self.gate = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            x = F.max_pool2d(self.conv(x), 2)
            x = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)
            return x * self.gate(F.adaptive_avg_pool2d(x, 1)).sigmoid()

    assert receptive_field(Net()) == RF(8, 2, -2)


class Pad(nn.Module):
    def forward(self, x):
        return F.pad(x, (1, 1, 1, 1))


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        return self.pool(x) + x


class Choice(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "empty"),
        ([nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1)], "layer 1 .* sees the whole image"),
        ([nn.Linear(3, 3)], "layer 0 .*Linear.* sees the whole image"),
        ([nn.ConvTranspose2d(3, 3, 2)], "enlarges or pads"),
        ([nn.Upsample(scale_factor=2)], "enlarges or pads"),
        ([nn.ZeroPad2d(1)], "enlarges or pads"),
        (Pad(), "pads the feature map"),
        (Branch(), "strides \\[1, 2\\] meet"),
        (Choice(), "cannot trace Choice"),
    ],
)
def test_where_no_receptive_field_is_defined(layers, message):
    with pytest.raises(ValueError, match=message):
        receptive_field(layers)
