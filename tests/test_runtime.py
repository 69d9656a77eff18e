"""Profiles, devices and seeds."""

import random

import numpy as np
import pytest
import torch

from utils import runtime


@pytest.mark.parametrize("name", ["smoke", "cpu", "full"])
def test_a_profile_is_named_by_the_environment(monkeypatch, name):
    monkeypatch.setenv("COURSE_PROFILE", name)
    profile = runtime.profile()
    assert profile.name == name
    assert profile.pick(smoke="smoke", cpu="cpu", full="full") == name


def test_full_is_the_whole_of_cifar10_and_smoke_is_small():
    full, smoke = runtime.PROFILES["full"], runtime.PROFILES["smoke"]
    assert (full.train, full.val, full.test) == (45_000, 5_000, 10_000)
    assert smoke.train <= 2_000
    assert smoke.test <= 1_000


@pytest.mark.parametrize(("cuda", "expected"), [(True, "full"), (False, "cpu")])
def test_unset_the_machine_decides(monkeypatch, cuda, expected):
    monkeypatch.delenv("COURSE_PROFILE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert runtime.profile().name == expected


def test_nonsense_is_refused_with_the_names_that_are_known(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "nonsense")
    with pytest.raises(ValueError, match=r"COURSE_PROFILE is 'nonsense'.*smoke, cpu, full"):
        runtime.profile()


def test_a_device_that_is_not_here_is_refused(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "abacus")
    with pytest.raises(ValueError, match=r"'abacus'.*offers cpu"):
        runtime.device()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("COURSE_DEVICE", "cuda")
    with pytest.raises(ValueError, match=r"'cuda'.*offers cpu"):
        runtime.device()
    monkeypatch.delenv("COURSE_DEVICE")
    assert runtime.device() == torch.device("cpu")


def test_one_seed_gives_the_same_numbers_everywhere():
    def draw():
        return random.random(), np.random.rand(), torch.rand(2).tolist()

    runtime.seed_everything(3)
    first = draw()
    runtime.seed_everything(3)
    assert draw() == first
    runtime.seed_everything(4)
    assert draw() != first


def test_the_machine_is_told_in_words():
    machine = runtime.machine()
    assert machine.keys() >= {"device", "torch", "python", "platform"}
    assert all(machine.values())
    assert "+" not in machine["torch"]
