"""The networks of chapters/vgg.md against torchvision and the paper's counts."""

from __future__ import annotations

import parity
import pytest
import torch
import torchvision
from torch import nn

from utils import chapters
from utils.inspect import count_macs, count_parameters, receptive_field

vgg = chapters.load("vgg")

TORCHVISION = (
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
)
# By hand: 9ab + b a convolution, 2b a batch norm, (a + 1)b a linear layer.
SMALL = {
    "vgg_cifar": (272_026, 14_059_392),
    "one_5x5": (79_338, 9_487_616),
    "two_3x3": (58_122, 7_079_168),
    "two_3x3_wide": (77_192, 9_304_168),
    "two_3x3_linear": (57_930, 7_079_168),
}


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def filled(model):
    """Every parameter and statistic random and none 0 or 1, so that a mistake shows."""
    for m in model.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            m.weight.data.normal_(std=(2 / m.weight[0].numel()) ** 0.5)
            m.bias.data.normal_(std=0.1)
        elif isinstance(m, nn.BatchNorm2d):
            m.weight.data.uniform_(0.5, 1.0)
            m.bias.data.normal_(std=0.1)
            m.running_mean.normal_(std=0.1)
            m.running_var.uniform_(0.8, 1.2)
            m.num_batches_tracked.fill_(3)
    return model.eval()


@pytest.mark.parametrize("name", TORCHVISION)
def test_same_outputs_as_torchvision(name, images):
    torch.manual_seed(0)
    with torch.device("meta"):
        ours, theirs = getattr(vgg, name)().eval(), getattr(torchvision.models, name)()
        # The first linear layer has 103 million weights, the rest of a head 21 million more. The
        # other tests hold their shapes against torchvision's; here narrow ones do.
        for model in (ours, theirs):
            model.classifier[0] = nn.Linear(25_088, 8)
            model.classifier[3] = nn.Linear(8, 8)
            model.classifier[6] = nn.Linear(8, 10)
    theirs = filled(theirs.to_empty(device="cpu"))
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state, assign=True)
    with torch.no_grad():
        want = theirs(images)
        scale = want.abs().max()
        assert scale > 1e-3
        torch.testing.assert_close(ours(images) / scale, want / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TORCHVISION)
def test_same_shapes_in_the_same_order_as_torchvision(name):
    with torch.device("meta"):
        ours, theirs = getattr(vgg, name)(), getattr(torchvision.models, name)()
    parity.same_order(getattr(vgg, name))
    drops = [[m.p for m in net.modules() if isinstance(m, nn.Dropout)] for net in (ours, theirs)]
    assert drops[0] == drops[1] == [0.5, 0.5]


@pytest.mark.parametrize("name", TORCHVISION)
def test_counts_torchvision_publishes(name):
    parity.published_counts(getattr(vgg, name))


@pytest.mark.parametrize("name", TORCHVISION)
def test_depth_and_number_of_classes(name):
    with torch.device("meta"):
        model = getattr(vgg, name)(num_classes=7)
        assert model(torch.empty(3, 3, 64, 64)).shape == (3, 7)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == int(name[3:5])
    assert all(m.kernel_size == (3, 3) for m in layers[:-3])
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert norms == (len(layers) - 3 if name.endswith("bn") else 0)


@pytest.mark.parametrize(("name", "counts"), SMALL.items())
def test_small_networks(name, counts, images):
    build = getattr(vgg, name)
    assert (count_parameters(build()), count_macs(build(), (3, 32, 32))) == counts
    assert build(num_classes=7)(images).shape == (2, 7)


def test_vgg_cifar_is_of_the_shared_size():
    assert 243_000 <= count_parameters(vgg.vgg_cifar()) <= 297_000


def test_the_four_networks_of_the_kernel_experiment_see_equally_far():
    fields = {receptive_field(getattr(vgg, name)()) for name in SMALL if name != "vgg_cifar"}
    assert len(fields) == 1
    assert fields.pop().size == 74


def test_two_linear_convolutions_are_affine_in_their_input():
    """Only the batch norm and ReLU behind the second stand in a stage."""
    stage = list(vgg.two_3x3_linear())[4:6]
    assert [type(m) for m in stage] == [nn.Conv2d, nn.Conv2d]
    x, y = torch.randn(2, 2, 32, 8, 8)
    run = nn.Sequential(*stage)
    torch.testing.assert_close(run(x) + run(y), run(x + y) + run(0 * x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [5, 8, 14, 20, 32])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_depth_of_the_deep_networks(depth, batch_norm, images):
    net = vgg.deep(depth=depth, batch_norm=batch_norm)
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert norms == (depth - 1 if batch_norm else 0)
    assert net(images).shape == (2, 10)


@pytest.mark.parametrize("depth", [2, 9, 21, -4])
def test_impossible_depth_is_refused(depth):
    with pytest.raises(ValueError, match="3n"):
        vgg.deep(depth=depth)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_convolutions_keep_height_and_width(kernel, images):
    layers = nn.Sequential(*vgg.conv(3, 4, kernel))
    out = layers(images)
    assert out.shape == (2, 4, 32, 32)
    assert (out >= 0).all()


@pytest.mark.parametrize("size", [8, 9])
def test_a_block_halves_and_rounds_down(size):
    out = vgg.vgg_block(3, 4, depth=2)(torch.randn(2, 3, size, size))
    assert out.shape == (2, 4, 4, 4)


def test_blocks_and_depths_must_be_equally_many():
    with pytest.raises(ValueError, match="zip"):
        vgg.blocks((4, 8), (1, 2, 3))


def test_weights_are_initialised_as_torchvision_does(monkeypatch):
    """With a narrow head: its 120 million weights would take seconds to draw."""
    whole = vgg.VGG

    def narrow(features, side, sizes, num_classes, dropout):
        return whole(features, side, (sizes[0], 8, 8), num_classes, dropout)

    monkeypatch.setattr(vgg, "VGG", narrow)
    torch.manual_seed(0)
    net = vgg.vgg11()
    conv = net.features[3][0]  # 256 -> 512 channels: fan_out, unlike fan_in, is 9 · 512
    assert conv.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert net.classifier[0].weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not any(m.bias.any() for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def test_he_init_sets_variance_by_fan_in_and_no_bias():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(64, 256, 3), nn.ReLU(), nn.Linear(4, 2))
    before = net[2].weight.clone()
    assert vgg.he_init(net) is net
    assert net[0].weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert not net[0].bias.any()
    assert torch.equal(net[2].weight, before)  # linear layers keep PyTorch's


def test_he_init_keeps_the_signal_where_a_constant_loses_it():
    torch.manual_seed(0)
    x = torch.randn(8, 3, 32, 32)
    good = vgg.he_init(vgg.blocks(vgg.WIDTHS, vgg.DEPTHS[19]))
    with torch.no_grad():
        kept = good(x).std()
        for m in good.modules():
            if isinstance(m, nn.Conv2d):
                m.weight.normal_(std=0.01)
        lost = good(x).std()
    assert 0.05 < kept < 20
    assert lost < 1e-6
