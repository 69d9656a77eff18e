"""Which precision suits a network on this machine, and whether compiling it pays.

    python -m benchmarks.settings resnet:resnet20 --batch-size 128

Measures training steps of a network that a chapter exports, in float32 and bfloat16, as it is and
compiled. The images are random ones: speed does not depend on what is in them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks import common
from benchmarks.common import Variant
from benchmarks.training import (
    can_compile,
    compile_seconds,
    empty_compiler_cache,
    rate,
    training,
)
from utils import chapters, runtime
from utils.data import Batches, Split


def main(argv: list[str] | None = None) -> None:
    """The command line; exits with a sentence where there is no such network."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.settings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("network", metavar="CHAPTER:NETWORK", help="what the chapter exports")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=1_536, help="a round, after 4 warm-up steps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled ones")
    args = parser.parse_args(argv)
    try:
        build = network(args.network)
        with empty_compiler_cache():
            compare(
                args.network, build, args.batch_size, args.images, args.rounds, not args.no_compile
            )
    except ValueError as error:
        sys.exit(f"error: {error}")


def network(name: str) -> Callable[[], nn.Module]:
    """The builder that CHAPTER:NETWORK names."""
    chapter, _, wanted = name.partition(":")
    module = chapters.load(chapter)
    build = getattr(module, wanted, None)
    if not callable(build):
        known = ", ".join(k for k, v in vars(module).items() if callable(v) and k[0].islower())
        raise ValueError(
            f"{name!r} should be CHAPTER:NETWORK, as in resnet:resnet20; {chapter} exports {known}."
        )
    return build


def compare(
    name: str,
    build: Callable[[], nn.Module],
    batch_size: int,
    images: int,
    rounds: int,
    compiled: bool,
) -> dict[str, Any]:
    """Measure the two precisions, eager and compiled, and print the table."""
    runtime.keep_memory()  # as `fit` does
    device = runtime.device()
    random = torch.Generator().manual_seed(0)
    n = max(2_048, 2 * batch_size)
    split = Split(
        torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=random),
        torch.randint(10, (n,), generator=random),
    )
    variants = []
    for compiling in [False, True] if compiled and can_compile() else [False]:
        for dtype in (torch.float32, torch.bfloat16):
            batches = Batches(
                split, batch_size, augment=True, device=device, dtype=dtype, drop_last=True
            )
            runtime.seed_everything(0)
            model = build().to(device=device, memory_format=torch.channels_last)
            low = dtype == torch.bfloat16
            stream = common.forever(batches)
            step = training(
                torch.compile(model, dynamic=False) if compiling else model, stream, low=low
            )
            title, note = "bfloat16" if low else "float32", ""
            if compiling:
                title, note = f"{title}, compiled", f"in {compile_seconds(step):.0f} s"
            variants.append(Variant(title, lambda step=step: rate(step, images, 4), note))
    settings = dict(network=name, batch_size=batch_size, images=images)
    return common.finish(
        "settings",
        f"{name}, batch {batch_size}: images a second",
        common.rows(variants, rounds),
        settings,
        rounds=rounds,
        folder=None,
    )


if __name__ == "__main__":
    main()
