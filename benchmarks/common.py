"""What all benchmarks share: they measure alternately, on one machine, and keep every value.

A machine is not equally fast from one minute to the next. So the baseline and everything that is
compared with it run in turn, once a round, in a new order each round, and what is reported is the
median of the ratios within the rounds.
"""

from __future__ import annotations

import datetime
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks import records
from utils import runtime
from utils.data import CIFAR10, load_cifar10


@dataclass(frozen=True)
class Variant:
    """One row of a table: `run` measures once and returns a number in the table's unit."""

    name: str
    run: Callable[[], float]
    note: str = ""


def alternately(variants: Sequence[Variant], rounds: int) -> list[list[float]]:
    """The values of each variant, one a round; every round runs all of them, in its own order."""
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}.")
    values: list[list[float]] = [[] for _ in variants]
    for number in range(rounds):
        for i in random.Random(number).sample(range(len(variants)), len(variants)):
            say(f"round {number + 1} of {rounds}: {variants[i].name}")
            values[i].append(float(f"{variants[i].run():.6g}"))
    return values


def rows(variants: Sequence[Variant], rounds: int, group: str = "") -> list[dict[str, Any]]:
    """Measure the variants alternately; the first of them is the baseline of all."""
    values = alternately(variants, rounds)
    return [
        records.row(variant.name, mine, values[0], variant.note, group)
        for variant, mine in zip(variants, values, strict=True)
    ]


def finish(
    name: str,
    unit: str,
    measured: list[dict[str, Any]],
    settings: dict[str, Any],
    *,
    rounds: int,
    data: CIFAR10 | None = None,
    packages: Sequence[str] = ("torchvision",),
    folder: Path | None = records.FOLDER,
    runs: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Print the table and write the JSON, unless `folder` is None; returns the record.

    `NAME.json` is the CPU's; another device's measurements stand beside it, as `NAME-cuda.json`.
    """
    record = {
        "schema": records.SCHEMA_VERSION,
        "name": name,
        "date": datetime.date.today().isoformat(),
        "machine": runtime.machine(),
        "versions": {package: version(package).partition("+")[0] for package in packages},
        "data": data and data.provenance,
        "unit": unit,
        "rounds": rounds,
        "settings": settings,
        "rows": measured,
        **({} if runs is None else {"runs": runs}),
    }
    if folder is not None:
        records.save(record, path(name, folder))
    print(records.table(record), flush=True)
    return record


def path(name: str, folder: Path) -> Path:
    """Where the measurements of this kind of device go."""
    kind = runtime.device().type
    return folder / f"{name}{'' if kind == 'cpu' else '-' + kind}.json"


def images(profile: str) -> CIFAR10:
    """CIFAR-10 in the size of that profile, whatever `COURSE_PROFILE` says."""
    return load_cifar10(profile=runtime.PROFILES[profile])


def now() -> float:
    """Seconds, when everything that was asked of the device is done."""
    if runtime.device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def forever(batches: Any) -> Iterator[Any]:
    """Epoch after epoch, so that a loader's workers stay as busy as in a long run."""
    while True:
        yield from batches


def say(text: str) -> None:
    """To the terminal, but not into what is kept of the output."""
    print(text, file=sys.stderr, flush=True)
