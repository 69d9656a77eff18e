"""The input pipeline alone: images a second, whole epochs, nothing done with the batches.

    python -m benchmarks.pipeline

Every variant does the same: reflect-pad by 4, crop 32 x 32 at random, flip half of the images,
normalise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import common, loaders, records
from benchmarks.common import Variant
from utils import runtime
from utils.data import MEAN, STD, Batches, Split

Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def main(
    profile: str = "full",
    batch_size: int = 128,
    rounds: int = 7,
    workers: int = 2,
    folder: Path | None = records.FOLDER,
) -> dict[str, Any]:
    """Measure, print the table and write the JSON."""
    data, device = common.images(profile), runtime.device()
    split, size = data.train, batch_size
    half, single = (
        Batches(split, size, augment=True, device=device, dtype=dtype)
        for dtype in (torch.bfloat16, torch.float32)
    )
    in_workers = f"{workers} worker processes"
    pipelines = [
        ("PIL images, DataLoader", loaders.pil(split, size, workers), in_workers),
        ("transforms.v2 on tensors, DataLoader", loaders.second(split, size, workers), in_workers),
        ("index of every pixel", Epochs(split, size, by_pixel(split)), "uint8, then normalised"),
        ("view of all crops", Epochs(split, size, by_view(split)), "uint8, then normalised"),
        ("Batches, float32", single, "normalised beforehand, one index a crop"),
        ("Batches, bfloat16", half, "the same in half the memory: what fit uses"),
    ]
    for _, batches, _ in pipelines:  # starts the workers, and touches all memory once
        rate(batches, len(split))
    variants = [
        Variant(name, lambda batches=batches: rate(batches, len(split)), note)
        for name, batches, note in pipelines
    ]
    settings = dict(profile=profile, batch_size=size, rounds=rounds, workers=workers)
    return common.finish(
        "pipeline",
        "images a second",
        common.rows(variants, rounds),
        settings,
        rounds=rounds,
        data=data,
        folder=folder,
    )


def rate(batches: Iterable[tuple[Tensor, Tensor]], images: int) -> float:
    """Images a second over one epoch, everything drawn and made for it included."""
    device = runtime.device()
    started = common.now()
    for x, y in batches:
        x.to(device), y.to(device)  # where they are there already, this does nothing
    return images / (common.now() - started)


class Epochs:
    """Batches by `step(flip, index, dy, dx)`, each argument int64 (B,): the ways before ours."""

    def __init__(self, split: Split, batch_size: int, step: Step) -> None:
        self.labels, self.batch_size, self.step = split.labels, batch_size, step

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.labels)
        flip, dy, dx = (torch.randint(high, (n,)) for high in (2, 9, 9))
        order = torch.randperm(n)
        for start in range(0, n, self.batch_size):
            part = slice(start, start + self.batch_size)
            index = order[part]
            yield self.step(flip[part], index, dy[part], dx[part]), self.labels[index]


def by_pixel(split: Split) -> Step:
    """Row and column of every pixel wanted, computed; then one look-up, and normalising."""
    padded = _padded(split)
    along = torch.arange(32)

    def step(flip: Tensor, index: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        rows = dy[:, None] + along  # (B, 32)
        columns = dx[:, None] + along  # (B, 32)
        columns = torch.where(flip[:, None] == 1, 39 - columns, columns)  # of 40, from the right
        crops = padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return _normalised(crops)

    return step


def by_view(split: Split) -> Step:
    """All crops as one view of bytes, as in `utils.batches`, but normalised batch by batch."""
    padded = _padded(split)
    both = torch.stack([padded, padded.flip(2)])  # (2, N, 40, 40, 3)
    a, b, c, d, e = both.stride()
    view = both.as_strided((2, len(padded), 9, 9, 32, 32, 3), (a, b, c, d, c, d, e))
    return lambda flip, index, dy, dx: _normalised(view[flip, index, dy, dx])


def _padded(split: Split) -> Tensor:
    """`uint8 (N, 40, 40, 3)`; padded as float, because reflection knows no bytes."""
    parts = [
        F.pad(part.float(), (4, 4, 4, 4), mode="reflect").to(torch.uint8)
        for part in split.images.split(4096)
    ]
    return torch.cat(parts).permute(0, 2, 3, 1).contiguous()


SCALE, SHIFT = 1 / (255 * torch.tensor(STD)), torch.tensor(MEAN) / torch.tensor(STD)


def _normalised(crops: Tensor) -> Tensor:
    """`uint8 (B, 32, 32, 3)` to normalised float32 (B, 3, 32, 32), channels-last."""
    return crops.float().mul_(SCALE).sub_(SHIFT).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
