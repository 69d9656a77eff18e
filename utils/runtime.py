"""Where a notebook runs: the profile, the device, the seed and the machine."""

from __future__ import annotations

import ctypes
import os
import platform
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Profile:
    """How much data a chapter uses: numbers of images for training, validation and test."""

    name: str
    train: int
    val: int
    test: int

    def pick(self, *, smoke: T, cpu: T, full: T) -> T:
        """The one of the three values that belongs to this profile."""
        return {"smoke": smoke, "cpu": cpu, "full": full}[self.name]


PROFILES = {
    "smoke": Profile("smoke", 2_000, 500, 1_000),
    "cpu": Profile("cpu", 10_000, 2_000, 10_000),
    "full": Profile("full", 45_000, 5_000, 10_000),
}


def profile() -> Profile:
    """The profile that `COURSE_PROFILE` names; unset, `full` where CUDA is and `cpu` elsewhere.

    Raises:
        ValueError: `COURSE_PROFILE` names no profile.
    """
    name = os.environ.get("COURSE_PROFILE") or ("full" if torch.cuda.is_available() else "cpu")
    if name not in PROFILES:
        known = ", ".join(PROFILES)
        raise ValueError(
            f"COURSE_PROFILE is {name!r}, but must be one of {known}: set it to one of these, or "
            "unset it to let the machine decide."
        )
    return PROFILES[name]


def device() -> torch.device:
    """The device to compute on: `COURSE_DEVICE`, else CUDA, else the CPU.

    Apple's `mps` is used only when asked for: on the small networks of this course it is not
    reliably faster than the CPU.

    Raises:
        ValueError: `COURSE_DEVICE` names an unknown device, or one that is not here.
    """
    name = os.environ.get("COURSE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    here = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    kind = name.partition(":")[0]
    if not here.get(kind):
        usable = ", ".join(k for k, v in here.items() if v)
        raise ValueError(
            f"COURSE_DEVICE is {name!r}, but this machine offers {usable}: set it to one of "
            "these, or unset it to let the machine decide."
        )
    return torch.device(name)


def has_bfloat16(on: torch.device) -> bool:
    """Whether `on` computes in bfloat16 with instructions of its own, so that it gains speed.

    A processor without them can still do it, but slower than float32.
    """
    if on.type == "cuda":
        return torch.cuda.get_device_capability(on) >= (8, 0)
    if on.type == "cpu":
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & _cpu_flags())
    return False


def keep_memory() -> None:
    """Let this process keep the memory it frees, instead of giving it back between two steps.

    Each training step on a CPU asks for the same hundreds of MiB as the one before. glibc hands
    them back to the system and gets them anew, page by page, which costs a network of many small
    layers a tenth of its time or more. Tensors over 256 MiB, such as whole splits, are still given
    back. Does nothing where the C library is not glibc.

    Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    trim_threshold, mmap_threshold = -1, -3
    # Older versions than 2.35 refuse more than 32 MiB.
    _ = mallopt(mmap_threshold, 256 * 2**20) or mallopt(mmap_threshold, 32 * 2**20)
    mallopt(trim_threshold, 2**31 - 1)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's random generators (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def cores() -> int:
    """The number of processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, str]:
    """The machine in words, for provenance: device, torch, Python and operating system."""
    if device().type == "cuda":
        name = torch.cuda.get_device_name()
    else:
        name = f"{_cpu_name()}, {cores()} core{'s' if cores() != 1 else ''}"
    return {
        "device": name,
        "torch": torch.__version__.partition("+")[0],
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _cpu_info(*keys: str) -> str:
    """The first of these entries of Linux's /proc/cpuinfo; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


def _cpu_flags() -> set[str]:
    return set(_cpu_info("flags", "Features").split())


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()
