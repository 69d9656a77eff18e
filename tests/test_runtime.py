"""Profiles, devices and seeds."""

import ctypes
import os
import platform
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from utils import runtime

ROOT = Path(__file__).resolve().parent.parent


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


# glibc's own account, because what the kernel tells of a process differs between systems.
GIVEN_BACK = """
import ctypes, sys, torch
from utils import runtime

torch.set_num_threads(1)  # what other threads allocate lies elsewhere

fields = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"

class Account(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in fields.split()]

mallinfo = ctypes.CDLL("libc.so.6").mallinfo2
mallinfo.restype = Account

def held():
    account = mallinfo()
    return account.arena + account.hblkhd  # bytes in the heap and in mappings

if sys.argv[1] == "keep":
    runtime.keep_memory()
for _ in range(3):
    step = [torch.ones(5 * 2**20) for _ in range(8)]  # 20 MiB each, all alive together
    during = held()
    del step
print(during - held())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="only glibc gives memory back, and tells of it since 2.33",
)
def test_memory_that_a_step_frees_is_there_for_the_next():
    # Left alone, glibc moves its threshold as it goes: here it starts where every tensor is
    # mapped and unmapped on its own.
    start = {"GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={2**20}"}
    given_back = {
        how: int(
            subprocess.check_output(
                [sys.executable, "-c", GIVEN_BACK, how],
                cwd=ROOT,
                text=True,
                env=os.environ | start,
            )
        )
        for how in ("keep", "give")
    }
    step = 8 * 20 * 2**20
    assert given_back["give"] > 0.9 * step, "nothing to notice: glibc keeps it anyway"
    assert given_back["keep"] < 0.1 * step


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("called into the C library"))
    runtime.keep_memory()
