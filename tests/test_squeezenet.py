"""The networks of chapters/squeezenet.md against torchvision, the paper and counts by hand."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from utils import chapters
from utils.inspect import count_macs, count_parameters, receptive_field, trace_shapes

squeezenet = chapters.load("squeezenet")

TORCHVISION = ("squeezenet1_0", "squeezenet1_1")
SMALL = ("squeezenet_cifar", "early_cifar", "late_cifar")


def on_meta(build, **arguments):
    with torch.device("meta"):
        return build(**arguments)


def by_hand(first, channels, plan, last, classes):
    """Parameters of a k × k convolution, fire modules by the formula, and a 1×1 at the end."""
    total = 3 * channels * first**2 + channels
    for s, e in plan:
        total += s * (channels + 5 * e) + s + e
        channels = e
    assert channels == last
    return total + last * classes + classes


@pytest.mark.parametrize("size", [224, 96, 63])
@pytest.mark.parametrize("name", TORCHVISION)
def test_same_outputs_as_torchvision(name, size):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)().eval()
    for p in theirs.parameters():
        if p.ndim == 1:  # biases start at zero, where a mistake would not show
            nn.init.normal_(p, std=0.1)
    nn.init.normal_(theirs.classifier[1].weight, std=0.1)
    ours = on_meta(getattr(squeezenet, name)).eval()
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state, assign=True)
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        want = theirs(x)
        scale = want.abs().max()
        assert scale > 0.1
        torch.testing.assert_close(ours(x) / scale, want / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TORCHVISION)
def test_same_shapes_in_the_same_order_as_torchvision(name):
    ours, theirs = on_meta(getattr(squeezenet, name)), on_meta(getattr(torchvision.models, name))
    for mine, other in ((ours.state_dict().values(), theirs.state_dict().values()),
                        (ours.parameters(), theirs.parameters())):  # fmt: skip
        assert [v.shape for v in mine] == [v.shape for v in other]


@pytest.mark.parametrize("name", TORCHVISION)
def test_counts_torchvision_publishes(name):
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    model = on_meta(getattr(squeezenet, name))
    assert count_parameters(model) == meta["num_params"]
    assert count_macs(model) / 1e9 == pytest.approx(meta["_ops"], rel=0.001)


def test_counts_by_hand():
    plan = [(16 * w, 128 * w) for w in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert tuple(plan) == squeezenet.PLAN
    for name, first, channels, count in (
        ("squeezenet1_0", 7, 96, 1_248_424),
        ("squeezenet1_1", 3, 64, 1_235_496),
    ):
        model = on_meta(getattr(squeezenet, name))
        assert count_parameters(model) == by_hand(first, channels, plan, 512, 1000) == count


@pytest.mark.parametrize("name", TORCHVISION)
def test_layers_are_torchvisions(name):
    ours, theirs = on_meta(getattr(squeezenet, name)), on_meta(getattr(torchvision.models, name))
    for kind, fields in (
        (nn.Conv2d, ("kernel_size", "stride", "padding")),
        (nn.MaxPool2d, ("kernel_size", "stride", "ceil_mode")),
        (nn.Dropout, ("p",)),
        (nn.ReLU, ("inplace",)),
    ):
        mine, other = (
            [[getattr(m, f) for f in fields] for m in net.modules() if isinstance(m, kind)]
            for net in (ours, theirs)
        )
        assert mine == other, kind


def test_weights_are_initialised_as_torchvision_does():
    torch.manual_seed(0)
    net = squeezenet.squeezenet1_0(num_classes=100)
    for m in net.modules():
        if not isinstance(m, nn.Conv2d):
            continue
        assert not m.bias.any()
        if m is net.classifier[1]:
            assert m.weight.std().item() == pytest.approx(0.01, rel=0.02)
        elif m.weight.numel() > 20_000:
            bound = (6 / m.weight[0].numel()) ** 0.5  # He et al., uniform
            assert m.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
            assert m.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize("name", TORCHVISION)
def test_number_of_classes_of_the_imagenet_networks(name):
    model = on_meta(getattr(squeezenet, name), num_classes=7)
    assert model(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 7)


def test_where_the_poolings_are():
    for name, places in (("squeezenet1_0", (1, 4, 8)), ("squeezenet1_1", (1, 3, 5))):
        rows = trace_shapes(on_meta(getattr(squeezenet, name)), depth=2)
        at, found = 0, []
        for row in rows:
            at += row.kind in ("Conv2d", "Fire")
            if row.kind == "MaxPool2d":
                found.append(at)
        assert tuple(found) == places


@pytest.mark.parametrize("size", [7, 8, 32])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_fire_keeps_the_size_and_puts_its_halves_in_order(size, batch_norm):
    torch.manual_seed(0)
    fire = squeezenet.Fire(6, 4, 10, batch_norm).eval()
    x = torch.randn(2, 6, size, size)
    y = fire(x)
    assert y.shape == (2, 10, size, size)
    z = fire.squeeze(x)
    assert z.shape == (2, 4, size, size)
    assert torch.equal(y[:, :5], fire.expand1x1(z))
    assert torch.equal(y[:, 5:], fire.expand3x3(z))
    assert (z >= 0).all()
    assert (y >= 0).all()
    fields = [receptive_field(b).size for b in (fire.squeeze, fire.expand1x1, fire.expand3x3)]
    assert fields == [1, 1, 3]


def test_weights_of_a_fire_module():
    for c, s, e in ((128, 16, 128), (96, 16, 128), (24, 12, 64)):
        fire = squeezenet.Fire(c, s, e)
        assert count_parameters(fire) == s * (c + 5 * e) + s + e
        assert count_macs(fire, (c, 5, 5)) == 25 * s * (c + 5 * e)
        norm = squeezenet.Fire(c, s, e, batch_norm=True)
        assert count_parameters(norm) == s * (c + 5 * e) + 2 * (s + e)


def bypasses(net):
    return [m for m in net.modules() if isinstance(m, squeezenet.Bypass)]


def test_bypass_counts():
    plain, simple, complex_ = (
        on_meta(squeezenet.squeezenet1_0, bypass=kind) for kind in (None, "simple", "complex")
    )
    assert count_parameters(plain) == count_parameters(simple) == 1_248_424
    extra = sum(a * b + b for a, b in ((96, 128), (128, 256), (256, 384), (384, 512)))
    assert count_parameters(complex_) == 1_248_424 + extra == 1_589_672
    assert [len(bypasses(net)) for net in (plain, simple, complex_)] == [0, 4, 8]
    kinds = [type(b.shortcut) for b in bypasses(complex_)]
    assert kinds == [nn.Conv2d, nn.Identity] * 4


@pytest.mark.parametrize("kind", ["simple", "complex"])
def test_bypass_adds_the_shortcut(kind):
    torch.manual_seed(0)
    channels = 6 if kind == "simple" else 4
    fire = squeezenet.Fire(channels, 2, 6)
    block = squeezenet.with_bypass(fire, channels, 6, kind)
    x = torch.randn(2, channels, 5, 5)
    before = x.clone()
    way = x if kind == "simple" else block.shortcut(x)
    torch.testing.assert_close(block(x), way + fire(x))
    assert torch.equal(x, before)  # the ReLUs work in place, but not on the input


def test_bypass_goes_only_where_it_can():
    fire = squeezenet.Fire(4, 2, 6)
    assert squeezenet.with_bypass(fire, 4, 6, None) is fire
    assert squeezenet.with_bypass(fire, 4, 6, "simple") is fire
    with pytest.raises(ValueError, match="bypass is None"):
        squeezenet.with_bypass(fire, 4, 6, "both")


@pytest.mark.parametrize("name", SMALL)
def test_cifar_networks(name):
    net = getattr(squeezenet, name)()
    convs = by_hand(3, 24, squeezenet.SMALL, 256, 10)  # with biases
    channels = 24 + sum(s + e for s, e in squeezenet.SMALL)  # which batch norm has twice
    assert count_parameters(net) == convs + channels == 275_394
    assert abs(count_parameters(net) / 270_000 - 1) < 0.1
    macs = {"squeezenet_cifar": 8_802_304, "early_cifar": 6_221_824, "late_cifar": 19_308_544}
    assert count_macs(net, (3, 32, 32)) == macs[name]
    seven = getattr(squeezenet, name)(num_classes=7)
    assert seven(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_cifar_network_without_norm_and_with_bypass():
    count = count_parameters
    bare = squeezenet.squeezenet_cifar(batch_norm=False)
    assert count(bare) == by_hand(3, 24, squeezenet.SMALL, 256, 10) == 273_850
    assert not any(isinstance(m, nn.BatchNorm2d) for m in bare.modules())
    assert count(squeezenet.squeezenet_cifar(bypass="simple")) == 275_394
    extra = sum(a * b + b for a, b in ((24, 64), (64, 128), (128, 192), (192, 256)))
    wide = squeezenet.squeezenet_cifar(bypass="complex")
    assert count(wide) == 275_394 + extra == 359_490
    assert wide(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_cifar_network_has_logits_of_both_signs():
    torch.manual_seed(0)
    net = squeezenet.squeezenet_cifar()
    logits = net(torch.randn(8, 3, 32, 32))
    assert (logits < 0).any()
    assert (logits > 0).any()


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    net = squeezenet.squeezenet_cifar(bypass="complex")
    net(torch.randn(8, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
