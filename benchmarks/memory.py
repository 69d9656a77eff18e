"""Peak memory of a run of the course, and of its parts: MiB that were resident at once.

    python -m benchmarks.memory

Every case is a process of its own. On Linux it reads its peak from /proc/self/status, because
what `getrusage` says of a process includes the memory of the one that started it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import records

ROOT = Path(__file__).resolve().parent.parent
CASES = {
    "usual": ("the usual loop", "batch 32, PIL, DataLoader; its workers not counted"),
    "workers": ("its two workers", "sum of the peaks; pages shared with the parent count in each"),
    "torch": ("import torch", ""),
    "data": ("load_cifar10", "torch included"),
    "batches": ("Batches, augmented, bfloat16", "data and torch included"),
    "fit": ("fit and evaluate", "data, Batches and torch included"),
}


class Enough(Exception):
    """So many steps were asked for, and these are done."""


def main(
    profile: str = "full", steps: int = 20, rounds: int = 3, folder: Path | None = records.FOLDER
) -> dict[str, Any]:
    """Measure, print the table and write the JSON."""
    from benchmarks import common

    settings = dict(profile=profile, steps=steps, rounds=rounds)
    variants = [
        common.Variant(name, lambda case=case: peak_of(case, profile, steps), note)
        for case, (name, note) in CASES.items()
    ]
    return common.finish(
        "memory",
        f"MiB at the peak; ResNet-20, {steps} steps",
        common.rows(variants, rounds),
        settings,
        rounds=rounds,
        data=common.images(profile),
        folder=folder,
    )


def peak_of(case: str, profile: str, steps: int) -> float:
    """MiB, as a fresh process that does `case` says."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", case, profile, str(steps)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"Measuring the memory of {case!r} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def do(case: str, profile: str, steps: int) -> float:
    """Do it in this process; returns MiB."""
    import torch

    if case == "torch":
        return peak()
    from utils import runtime
    from utils.data import Batches, load_cifar10

    data = load_cifar10(profile=runtime.PROFILES[profile])
    if case == "data":
        return peak()
    if case == "batches":
        for _ in Batches(data.train, 128, augment=True, dtype=torch.bfloat16):
            pass
        return peak()
    from benchmarks.networks import resnet20

    if case == "fit":
        from utils.train import evaluate, fit

        def stop(step: int, *_: Any) -> None:
            if step + 1 == steps:
                raise Enough

        model = resnet20()
        try:
            fit(model, data, epochs=1, validate=False, progress=False, on_step=stop)
        except Enough:
            evaluate(model, data.val)
        return peak()
    with training_as_usual(data, resnet20(), steps) as workers:
        return sum(peak(pid) for pid in workers) if case == "workers" else peak()


@contextmanager
def training_as_usual(data: Any, model: Any, steps: int) -> Iterator[list[int]]:
    """Some steps of the usual loop; gives the workers' process ids while they live."""
    from benchmarks import common, loaders, training

    stream = common.forever(loaders.pil(data.train, 32, workers=2, augment=False))
    step = training.training(model, stream)
    for _ in range(steps):
        step()
    yield [child.pid for child in multiprocessing.active_children()]


def peak(pid: int | None = None) -> float:
    """The largest resident memory so far of this process, or of another one on Linux; MiB."""
    status = Path(f"/proc/{pid or os.getpid()}/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, others KiB
    who = resource.RUSAGE_SELF if pid is None else resource.RUSAGE_CHILDREN
    return resource.getrusage(who).ru_maxrss / unit


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(do(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
    else:
        main()
