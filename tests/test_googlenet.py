"""The networks of chapters/googlenet.md against torchvision, the paper and counts by hand."""

from __future__ import annotations

import parity
import pytest
import torch
import torchvision
from torch import nn

from utils import chapters
from utils.inspect import count_macs, count_parameters, receptive_field, trace_shapes

googlenet = chapters.load("googlenet")

# Output channels of the nine blocks, and height and width, table 1 of Szegedy et al. (2015).
CHANNELS = [256, 480, 512, 512, 512, 528, 832, 832, 1024]
SIDES = [28] * 2 + [14] * 5 + [7] * 2


def blocks(net):
    return [m for m in net.modules() if isinstance(m, googlenet.Inception)]


def pair(**options):
    """Ours and torchvision's with the same weights, dropout off."""
    torch.manual_seed(0)
    options |= {"dropout": 0.0, "dropout_aux": 0.0}
    theirs = parity.shuffled(torchvision.models.GoogLeNet(init_weights=False, **options))
    with torch.device("meta"):
        ours = googlenet.googlenet(**options)
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict({k: v.clone() for k, v in state.items()}, assign=True)
    return ours, theirs


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("transform_input", [False, True])
@pytest.mark.parametrize("aux_logits", [False, True])
def test_same_outputs_as_torchvision_in_evaluation(aux_logits, transform_input, images):
    ours, theirs = pair(aux_logits=aux_logits, transform_input=transform_input)
    with torch.no_grad():
        parity.agree(ours.eval()(images), theirs.eval()(images))


def test_same_outputs_of_all_three_classifiers_in_training(images):
    ours, theirs = pair()
    got, want = ours(images), theirs(images)
    assert got._fields == want._fields
    for g, w in zip(got, want, strict=True):
        parity.agree(g, w)
    sum(g.sum() for g in got).backward()
    sum(w.sum() for w in want).backward()
    mine, other = (next(net.parameters()).grad for net in (ours, theirs))
    parity.agree(mine, other)


def test_without_heads_training_gives_logits_alone(images):
    ours, theirs = pair(aux_logits=False)
    parity.agree(ours(images), theirs(images))


@pytest.mark.parametrize("aux_logits", [False, True])
def test_same_shapes_in_the_same_order_as_torchvision(aux_logits):
    with torch.device("meta"):
        ours = googlenet.googlenet(aux_logits=aux_logits)
        theirs = torchvision.models.GoogLeNet(aux_logits=aux_logits, init_weights=False)
    for mine, other in ((ours.state_dict().values(), theirs.state_dict().values()),
                        (ours.parameters(), theirs.parameters())):  # fmt: skip
        assert [v.shape for v in mine] == [v.shape for v in other]


def test_counts_torchvision_publishes():
    meta = torchvision.models.GoogLeNet_Weights.DEFAULT.meta
    with torch.device("meta"):
        bare, full = googlenet.googlenet(aux_logits=False), googlenet.googlenet()
    assert count_parameters(bare) == meta["num_params"] == 6_624_904
    assert count_macs(bare) / 1e9 == pytest.approx(meta["_ops"], rel=0.01)
    assert count_parameters(full) == 13_004_888
    assert count_macs(full) == count_macs(bare)  # heads are off at inference


def test_dropout_and_layers_are_torchvisions():
    with torch.device("meta"):
        ours = googlenet.googlenet()
        theirs = torchvision.models.GoogLeNet(init_weights=False)
    for kind, field in ((nn.Dropout, "p"), (nn.BatchNorm2d, "eps"), (nn.Conv2d, "stride"),
                        (nn.Conv2d, "padding"), (nn.Conv2d, "bias"),
                        (nn.MaxPool2d, "kernel_size"), (nn.MaxPool2d, "stride")):  # fmt: skip
        mine, other = (
            sorted(str(getattr(m, field)) for m in net.modules() if isinstance(m, kind))
            for net in (ours, theirs)
        )
        assert mine == other, (kind, field)


def test_weights_are_initialised_as_torchvision_does():
    torch.manual_seed(0)
    net = googlenet.googlenet(num_classes=10)
    for m in net.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)) and m.weight.numel() > 100_000:
            assert m.weight.std().item() == pytest.approx(0.01, rel=0.02)
        if isinstance(m, nn.BatchNorm2d):
            assert (m.weight == 1).all()
            assert not m.bias.any()


def test_the_papers_network():
    with torch.device("meta"):
        net = googlenet.googlenet(aux_logits=False, wide=5)
    found = blocks(net)
    shapes = [r.out_shape for r in trace_shapes(net, depth=2) if r.kind == "Inception"]
    assert shapes == [(c, s, s) for c, s in zip(CHANNELS, SIDES, strict=True)]
    wide = [b.branch3[1][0] for b in found]
    assert all(c.kernel_size == (5, 5) and c.padding == (2, 2) for c in wide)
    more = sum(16 * c.in_channels * c.out_channels for c in wide)  # 25 - 9 weights a pair
    assert count_parameters(net) == 6_624_904 + more == 7_005_832
    kernels = sum(m.weight.numel() for m in found[0].modules() if isinstance(m, nn.Conv2d))
    assert kernels == 163_328
    assert count_macs(found[0], (192, 28, 28)) == 163_328 * 28 * 28  # the paper's 128 M


@pytest.mark.parametrize("size", [7, 8, 32])
@pytest.mark.parametrize("wide", [3, 5])
def test_block_keeps_the_size_and_puts_its_branches_in_order(size, wide):
    block = googlenet.Inception(12, 1, 4, 2, 5, 3, 4, wide).eval()
    x = torch.randn(2, 12, size, size)
    y = block(x)
    assert y.shape == (2, 10, size, size)
    parts = y.split((1, 2, 3, 4), dim=1)
    branches = (block.branch1, block.branch2, block.branch3, block.branch4)
    assert all(torch.equal(b(x), p) for b, p in zip(branches, parts, strict=True))
    assert [receptive_field(b).size for b in branches] == [1, 3, wide, 3]


def test_number_of_classes():
    with torch.device("meta"):
        net = googlenet.googlenet(num_classes=7)
        out = net(torch.empty(2, 3, 64, 64))
        assert [o.shape for o in out] == [(2, 7)] * 3
        assert net.eval()(torch.empty(2, 3, 64, 64)).shape == (2, 7)
    assert googlenet.googlenet_cifar(num_classes=7)(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_transformed_input_has_mean_and_deviation_of_a_half():
    pixels = torch.rand(1, 3, 4, 4)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(googlenet.from_imagenet_to_halves(x), (pixels - 0.5) / 0.5)


def test_cifar_network():
    net = googlenet.googlenet_cifar()
    # Weights of the convolutions by hand: stem, then each block with c_in and c_out.
    total, norms, macs = 9 * 3 * 16 + 9 * 16 * 32, 16 + 32, 9 * (3 * 16 + 16 * 32) * 1024
    for a, c, side in ((32, 64, 16), (64, 128, 8), (128, 128, 8), (128, 128, 8), (128, 256, 4)):
        kernels = a * c // 4 + a * a // 2 + 9 * (a // 2) * (c // 2)
        kernels += a * a // 8 + 25 * (a // 8) * (c // 8) + a * c // 8
        total, macs = total + kernels, macs + kernels * side**2
        norms += c + a // 2 + a // 8
    assert count_parameters(net) == total + 2 * norms + 256 * 10 + 10 == 272_146
    assert count_macs(net, (3, 32, 32)) == macs + 2560 == 18_033_152
    assert abs(count_parameters(net) / 270_000 - 1) < 0.1
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert [b.branch3[1][0].kernel_size for b in blocks(net)] == [(5, 5)] * 5


def test_heads_of_the_cifar_network_act_in_training_only():
    torch.manual_seed(0)
    net = googlenet.googlenet_cifar(aux_logits=True)
    x = torch.randn(4, 3, 32, 32)
    out = net(x)
    assert isinstance(out, googlenet.GoogLeNetOutputs)
    assert [o.shape for o in out] == [(4, 10)] * 3
    (out.aux_logits1.sum() + out.aux_logits2.sum()).backward()
    assert net.early[0][0].weight.grad.any()  # the heads reach the first layer
    assert net.fc.weight.grad is None
    assert all(p.grad is None for p in net.late.parameters())
    bare = googlenet.googlenet_cifar().eval()
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("aux")}
    bare.load_state_dict(state)
    assert torch.equal(net.eval()(x), bare(x))


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_one_size_costs_what_all_sizes_do(kernel_size):
    net = googlenet.one_size_cifar(kernel_size=kernel_size)
    mixed = googlenet.googlenet_cifar()
    size = (3, 32, 32)
    assert count_parameters(net) == pytest.approx(count_parameters(mixed), rel=0.01)
    assert count_macs(net, size) == pytest.approx(count_macs(mixed, size), rel=0.02)
    assert not blocks(net)
    kernels = {m.kernel_size[0] for m in net.modules() if isinstance(m, nn.Conv2d)}
    assert kernels == {1, 3, kernel_size}  # 3 in the stem
    shapes = [[r.out_shape for r in trace_shapes(n, size, depth=2)] for n in (net, mixed)]
    assert shapes[0] == shapes[1]


def test_building_one_size_draws_no_random_numbers_for_what_it_measures():
    torch.manual_seed(0)
    googlenet.one_size(32, 64, 3)
    after = torch.rand(1)
    torch.manual_seed(0)
    nn.Sequential(googlenet.conv(32, 11, 1), googlenet.conv(11, 64, 3))
    assert torch.equal(after, torch.rand(1))
