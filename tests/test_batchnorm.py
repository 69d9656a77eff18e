"""The batch normalisation of chapters/batchnorm.md, against PyTorch's and against the formulas."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from utils import chapters, results
from utils.inspect import count_macs, count_parameters

chapter = chapters.load("batchnorm")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (2, 1, 1, 1), (1, 2, 3, 5)])
def test_backward_agrees_with_finite_differences(shape, eps) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    gamma, beta = (torch.randn(shape[1], dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda *a: chapter.NormaliseBatch.apply(*a, eps)[0], (x, gamma, beta)
    )


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
@pytest.mark.parametrize("shape", [(8, 5, 4, 4), (2, 5, 1, 1), (1, 5, 3, 3)])
def test_module_equals_pytorch_over_many_steps(shape, momentum) -> None:
    ours = chapter.BatchNorm2d(5, momentum=momentum)
    theirs = nn.BatchNorm2d(5, momentum=momentum)
    sgd = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs)]
    for step in range(120):
        if step % 40 == 20:  # now and then a look in evaluation mode, which must change nothing
            x = torch.randn(shape)
            before = copy.deepcopy(ours.state_dict())
            torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(ours.state_dict(), before, rtol=0, atol=0)
            ours.train(), theirs.train()
        x, target = 3 * torch.randn(shape) + 1, torch.randn(shape)
        xs = [x.clone().requires_grad_() for _ in sgd]
        ys = [m(x) for m, x in zip((ours, theirs), xs, strict=True)]
        for y, optimizer in zip(ys, sgd, strict=True):
            optimizer.zero_grad()
            nn.functional.mse_loss(y, target).backward()
            optimizer.step()
        # (2, 5, 1, 1): two values a channel make gradients that are differences of almost nothing.
        torch.testing.assert_close(ys[0], ys[1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(xs[0].grad, xs[1].grad, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            list(ours.state_dict().values()),
            list(theirs.state_dict().values()),
            rtol=1e-4,
            atol=1e-4,
        )
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())


def test_running_variance_is_the_unbiased_one() -> None:
    layer, x = chapter.BatchNorm2d(1, momentum=1.0), torch.randn(3, 1, 1, 2)
    layer(x)
    torch.testing.assert_close(layer.running_var, x.var().view(1))
    assert not torch.isclose(layer.running_var, x.var(correction=0))


def test_statistics_are_buffers_and_parameters_are_two() -> None:
    layer = chapter.BatchNorm2d(7)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    buffers = dict(layer.named_buffers())
    assert list(buffers) == ["running_mean", "running_var", "num_batches_tracked"]
    address = layer.running_mean.data_ptr()
    layer(torch.randn(4, 7, 2, 2))
    assert layer.running_mean.data_ptr() == address, "the buffer was rebound, not updated"
    assert not any(b.requires_grad for b in buffers.values())


def test_a_single_value_a_channel_is_refused_in_one_sentence() -> None:
    layer = chapter.BatchNorm2d(3)
    with pytest.raises(ValueError, match="one value per channel"):
        layer(torch.randn(1, 3, 1, 1))
    assert layer.num_batches_tracked == 0
    assert layer.running_var.isfinite().all()
    layer.eval()(torch.randn(1, 3, 1, 1))


def test_statistics_hold_still_in_evaluation_mode_only() -> None:
    layer, x = chapter.BatchNorm2d(3), torch.randn(4, 3, 2, 2)
    layer.requires_grad_(False)
    layer(x)
    assert layer.num_batches_tracked == 1, "requires_grad does not freeze running statistics"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("batchnorm_cifar", 272_714),
        ("plain_cifar", 272_250),
        ("noisy_cifar", 272_714),
        ("ghost_cifar", 272_714),
        ("groupnorm_cifar", 272_714),
    ],
)
def test_networks(name: str, parameters: int) -> None:
    net = getattr(chapter, name)()
    assert count_parameters(net) == parameters
    assert abs(parameters / 0.27e6 - 1) < 0.1, "outside the budget of 0.27 M ± 10 %"
    assert count_macs(net, (3, 32, 32)) == 13_060_272
    assert net(torch.randn(4, 3, 32, 32)).shape == (4, 10)
    assert getattr(chapter, name)(num_classes=7)(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    for conv in (m for m in net if isinstance(m, nn.Conv2d)):
        assert (conv.bias is None) == (name != "plain_cifar")
        assert conv.weight.std().item() == pytest.approx(
            (2 / (9 * conv.in_channels)) ** 0.5, rel=0.15
        )


def test_networks_can_be_copied_and_pickled() -> None:
    net = chapter.batchnorm_cifar().eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(pickle.loads(pickle.dumps(net))(x), net(x))


@pytest.mark.parametrize("group", [2, 4, 8])
def test_ghosts_are_groups_normalised_by_themselves(group: int) -> None:
    ghost = chapter.GhostBatchNorm2d(5, group)
    ghost.weight.data.uniform_(0.5, 2)
    ghost.bias.data.normal_()
    x, k = torch.randn(8, 5, 3, 3), 8 // group
    y = ghost(x)
    for i in range(k):  # group i holds the images i, i + k, i + 2k, ...
        alone = nn.BatchNorm2d(5)
        alone.load_state_dict(
            {**ghost.state_dict(), **alone.state_dict()}
            | {"weight": ghost.weight.data, "bias": ghost.bias.data}
        )
        torch.testing.assert_close(y[i::k], alone(x[i::k]), rtol=1e-4, atol=1e-5)
    whole = x.mean((0, 2, 3))
    torch.testing.assert_close(ghost.running_mean, 0.1 * whole, rtol=1e-4, atol=1e-6)


def test_a_ghost_of_the_whole_batch_and_an_undivided_rest_are_batch_norm() -> None:
    for n, group in ((8, 8), (7, 4)):
        ghost, plain = chapter.GhostBatchNorm2d(5, group), nn.BatchNorm2d(5)
        x = torch.randn(n, 5, 3, 3)
        torch.testing.assert_close(ghost(x), plain(x))
        torch.testing.assert_close(ghost.running_var, plain.running_var)
        torch.testing.assert_close(ghost.eval()(x), plain.eval()(x))


def test_noise_drifts_in_training_and_is_silent_in_evaluation() -> None:
    noisy, plain = chapter.NoisyBatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(64, 3, 4, 4)
    outs = torch.stack([noisy(x).mean((0, 2, 3)) for _ in range(200)])
    assert 0.2 < outs.std() < 0.4  # uniform(-0.5, 0.5) has a deviation of 0.29
    plain.load_state_dict(noisy.state_dict())
    torch.testing.assert_close(noisy.eval()(x), plain.eval()(x))


def test_folding_keeps_the_outputs() -> None:
    net = chapter.batchnorm_cifar()
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 2)
            layer.bias.data.normal_(0, 0.3)
    for _ in range(5):
        net(torch.randn(16, 3, 32, 32))
    folded, x = chapter.fold_all(net.eval()), torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(folded(x), net(x), rtol=1e-3, atol=1e-3)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded)
    assert count_parameters(folded) == count_parameters(chapter.plain_cifar())


@pytest.mark.parametrize("bias", [True, False])
def test_folding_one_strided_grouped_convolution(bias: bool) -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=bias)
    norm = nn.BatchNorm2d(6)
    norm(conv(torch.randn(8, 4, 9, 9)))
    x = torch.randn(2, 4, 9, 9)
    folded = chapter.fold(conv, norm.eval())
    torch.testing.assert_close(folded(x), norm(conv(x)), rtol=1e-4, atol=1e-5)


def test_recorded_runs_are_complete_and_say_what_the_chapter_says() -> None:
    runs = results.load("batchnorm")
    if not runs:
        pytest.skip("results/batchnorm.json is not recorded yet")
    sweep = results.select(runs, experiment="learning-rate")
    for model in ("batchnorm_cifar", "plain_cifar"):
        of_model = results.select(sweep, model=model)
        for lr in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
            seeds = {r["seed"] for r in of_model if r["config"]["asked"]["lr"] == lr}
            assert seeds == {0, 1, 2}, (model, lr, seeds)
    best = {
        model: max(
            (
                results.summary(
                    [
                        r
                        for r in results.select(sweep, model=model)
                        if r["config"]["asked"]["lr"] == lr
                    ],
                    "val_accuracy",
                ).mean,
                lr,
            )
            for lr in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
        )
        for model in ("batchnorm_cifar", "plain_cifar")
    }
    assert best["batchnorm_cifar"][0] > best["plain_cifar"][0] + 0.1
    assert best["batchnorm_cifar"][1] > 2 * best["plain_cifar"][1]
