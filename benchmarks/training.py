"""Training steps end to end: images a second, one change at a time, for three networks.

    python -m benchmarks.training

The first row of each network is the loop one finds in most introductions: batches of 32 PIL images
from a `DataLoader`, float32, plain SGD. The last one is `utils.train.fit` itself.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import common, loaders, records
from benchmarks.apart import apart
from benchmarks.common import Variant, now
from benchmarks.networks import NETWORKS, Network
from utils import options, runtime
from utils.data import CIFAR10, Batches
from utils.train import fit

Step = Callable[[], int]
Stream = Iterator[tuple[Tensor, Tensor]]


def main(
    profile: str = "full",
    images: int = 1_536,
    warmup: int = 4,
    batch_size: int = 128,
    rounds: int = 3,
    workers: int = 2,
    compiled: bool = True,
    networks: int = len(NETWORKS),
    folder: Path | None = records.FOLDER,
) -> dict[str, Any]:
    """Measure, print the table and write the JSON.

    Args:
        images: how many each variant trains on in a round, after `warmup` steps. The first of
            these compiles again what another variant's compiling has thrown away.
        compiled: measure the compiled variants too; they need a C++ compiler.
        networks: how many of `NETWORKS`, from the first.
    """
    settings = {key: value for key, value in locals().items() if key != "folder"}
    data = common.images(profile)
    compiled = compiled and can_compile()
    streams = [
        common.forever(loaders.pil(data.train, 32, workers, augment=False)),
        common.forever(loaders.pil(data.train, batch_size, workers)),
        *(tensors(data, batch_size, dtype) for dtype in (torch.float32, torch.bfloat16)),
    ]
    measured = []
    with empty_compiler_cache():
        for number, network in enumerate(NETWORKS[:networks]):
            steps = one_change_at_a_time(network, streams, batch_size)
            variants = [
                Variant(name, lambda step=step: rate(step, images, warmup), note)
                for name, step, note in steps
            ]
            # `fit` keeps memory, and so would all rows from then on if it ran in this process.
            with apart(keeping_memory, number, data, images, warmup, batch_size, compiled) as on:
                measured += common.rows([*variants, *on], rounds, network.name)
    return common.finish(
        "training", "images a second", measured, settings, rounds=rounds, data=data, folder=folder
    )


def one_change_at_a_time(
    network: Network, streams: list[Stream], batch_size: int
) -> list[tuple[str, Step, str]]:
    """Name, step and note of the first rows, each one change away from the one before."""
    small, loader, single, half = streams
    plain = [untrained(network, channels_last=False) for _ in range(3)]
    return [
        ("the usual loop, batch 32", training(plain[0], small), "PIL, float32, NCHW, SGD"),
        (f"batch {batch_size}, augmented", training(plain[1], loader), "the same otherwise"),
        (
            "+ batches from one tensor",
            training(plain[2], single, contiguous=True),
            "Batches, copied to NCHW",
        ),
        ("+ channels-last", training(untrained(network), single), ""),
        ("+ bfloat16 autocast", training(untrained(network), half, low=True), ""),
    ]


def keeping_memory(
    number: int, data: CIFAR10, images: int, warmup: int, batch_size: int, compiled: bool
) -> list[Variant]:
    """The last rows, of `NETWORKS[number]`: in a process that keeps the memory it frees."""
    runtime.keep_memory()
    network = NETWORKS[number]
    half = tensors(data, batch_size, torch.bfloat16)
    step = training(untrained(network), half, low=True)
    variants = [Variant("+ freed memory kept", lambda: rate(step, images, warmup))]
    if compiled:
        faster = training(torch.compile(untrained(network), dynamic=False), half, low=True)
        note = f"compiled in {compile_seconds(faster):.0f} s before the rounds"
        variants.append(Variant("+ torch.compile", lambda: rate(faster, images, warmup), note))
    if compiled or not network.compile:
        variants.append(with_fit(network, data, images, warmup, batch_size))
    return variants


def tensors(data: CIFAR10, batch_size: int, dtype: torch.dtype) -> Stream:
    """`Batches`, without a last one of another size, which would be compiled for once more."""
    batches = Batches(
        data.train, batch_size, augment=True, dtype=dtype, drop_last=True, device=runtime.device()
    )
    return common.forever(batches)


def untrained(network: Network, channels_last: bool = True) -> nn.Module:
    """The network with the weights of seed 0."""
    runtime.seed_everything(0)
    built = network.build().to(runtime.device())
    return built.to(memory_format=torch.channels_last) if channels_last else built


def training(model: nn.Module, stream: Stream, low: bool = False, contiguous: bool = False) -> Step:
    """One step of plain SGD that looks at the loss, as the usual loop does; returns images seen."""
    device = runtime.device()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()

    def step() -> int:
        x, y = next(stream)
        x, y = x.to(device), y.to(device)
        if contiguous:
            x = x.contiguous()
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        return len(y)

    return step


def rate(step: Step, images: int, warmup: int) -> float:
    """Images a second over at least so many images, after `warmup` steps that are not counted."""
    for _ in range(warmup):
        step()
    started, done = now(), 0
    while done < images:
        done += step()
    return done / (now() - started)


def with_fit(network: Network, data: CIFAR10, images: int, warmup: int, batch_size: int) -> Variant:
    """`fit` itself, timed between its steps: schedule, label smoothing, weight decay and all."""
    steps = math.ceil(images / batch_size)
    train = data.train.subset(min((warmup + steps) * batch_size, len(data.train)))
    part = dataclasses.replace(data, train=train)
    runtime.seed_everything(0)
    model = network.build()

    def run() -> float:
        times: list[float] = []
        fit(
            model,
            part,
            epochs=1,
            batch_size=batch_size,
            lr=0.01,  # the speed does not depend on it, and this one never diverges
            compile=network.compile,
            validate=False,
            progress=False,
            on_step=lambda step, model, loss: times.append(now()),
        )
        return (len(times) - warmup) * batch_size / (times[-1] - times[warmup - 1])

    chosen = options.precision("auto", runtime.device())
    chosen += ", compiled" if network.compile else ""
    return Variant("fit, as the course uses it", run, f"{chosen}; momentum, decay, schedule")


def compile_seconds(step: Step) -> float:
    """What the first two steps of a compiled network take: compiling forwards and backwards."""
    started = now()
    for _ in range(2):
        step()
    return now() - started


@contextmanager
def empty_compiler_cache() -> Iterator[None]:
    """Keep compiled code in a new folder, so that an earlier run's does not shorten compiling."""
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="course-compiled-", ignore_cleanup_errors=True) as new:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = new
        try:
            yield
        finally:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
            if before is not None:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def can_compile() -> bool:
    """Whether `torch.compile` works here; on a CPU it needs a C++ compiler."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=runtime.device()))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        common.say(f"torch.compile does not work here, so its rows are left out: {reason}")
        return False
    return True


if __name__ == "__main__":
    main()
