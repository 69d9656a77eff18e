"""Depthwise convolutions that stay in float32 while the rest is trained in bfloat16."""

import copy

import pytest
import torch
from torch import nn

from utils import depthwise, train
from utils.data import load_cifar10

CPU = torch.device("cpu")


def conv(channels=8, kernel=3, stride=1, groups=8):
    torch.manual_seed(0)
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=groups)


@pytest.mark.parametrize(
    ("options", "slow"),
    [
        ({}, False),
        ({"stride": 2}, True),
        ({"kernel": 5}, True),
        ({"kernel": 7, "stride": 2}, True),
        ({"stride": 2, "groups": 1}, False),
        ({"stride": 2, "groups": 4}, False),
        ({"stride": 2, "channels": 1, "groups": 1}, False),
    ],
)
def test_which_convolutions_are_kept(options, slow):
    assert depthwise.is_slow(conv(**options)) == slow


def run(net, x):
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
        assert torch.is_autocast_enabled("cpu")
    y.float().square().sum().backward()
    return y, x.grad, [p.grad for p in net.parameters()]


def test_a_slow_convolution_computes_in_float32_and_answers_in_bfloat16():
    net = conv(stride=2)
    x = torch.randn(4, 8, 10, 10).bfloat16().float()
    want = net(x)
    with depthwise.in_float32(net, CPU):
        got, _, (gradient, _) = run(net, x)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, want.bfloat16())  # rounded once, at the end
    exact = torch.autograd.grad(want.bfloat16().float().square().sum(), net.weight)[0]
    torch.testing.assert_close(gradient, exact, rtol=1e-2, atol=1e-2)


def test_other_layers_stay_in_bfloat16_and_nothing_is_left_behind():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), conv(stride=2), conv(), nn.Conv2d(8, 4, 1))
    types = {}
    for i in (0, 1, 2, 3):
        net[i].register_forward_hook(
            lambda m, inputs, out, i=i: types.update({i: (torch.is_autocast_enabled("cpu"))})
        )
    before = {name: dict(vars(m)) for name, m in net.named_modules()}
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net]
    with depthwise.in_float32(net, CPU):
        assert run(net, torch.randn(2, 3, 8, 8))[0].dtype == torch.bfloat16
        copy.deepcopy(net)
    assert types == {0: True, 1: False, 2: True, 3: True}
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net]
    assert {name: vars(m).keys() for name, m in net.named_modules()} == {
        name: keys.keys() for name, keys in before.items()
    }


def test_without_autocast_and_on_a_gpu_nothing_changes():
    net, x = conv(stride=2), torch.randn(2, 8, 6, 6)
    with depthwise.in_float32(net, CPU):
        assert torch.equal(net(x), conv(stride=2)(x))
    with depthwise.in_float32(net, torch.device("cuda")):
        assert not net._forward_pre_hooks


def test_an_error_inside_leaves_autocast_and_the_network_as_they_were():
    net = conv(stride=2)
    with depthwise.in_float32(net, CPU), pytest.raises(RuntimeError):
        run(net, torch.randn(2, 5, 6, 6))
    assert not torch.is_autocast_enabled("cpu")
    assert not net._forward_hooks
    with depthwise.in_float32(net, CPU):
        run(net, torch.randn(2, 8, 6, 6))


def test_fit_keeps_them_in_float32(monkeypatch):
    seen = []

    class Spy(nn.Conv2d):
        def _conv_forward(self, x, weight, bias):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super()._conv_forward(x, weight, bias)

    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    data = load_cifar10()
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), Spy(8, 8, 3, 2, 1, groups=8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 10),
    )  # fmt: skip
    train.fit(net, data, epochs=1, precision="bfloat16", validate=False, progress=False)
    assert set(seen) == {False}
    assert not net[1]._forward_hooks
