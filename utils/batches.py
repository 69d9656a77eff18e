"""Images with labels, and normalised, augmented batches of them, fast enough for two CPU cores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.sources import CLASSES

# Per channel, over the 50,000 original training images, on a scale of 0 to 1.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images with their labels: `uint8 (N, 3, 32, 32)` and `int64 (N,)`, classes 0 to 9."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, 32, 32):
            raise ValueError(f"images must be uint8 (N, 3, 32, 32), not {_describe(images)}.")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels must be int64 ({len(images)},), one an image, not {_describe(labels)}."
            )
        if len(labels) == 0:
            raise ValueError("A split needs at least one image, and this one is empty.")
        if labels.min() < 0 or labels.max() >= len(CLASSES):
            raise ValueError(
                f"labels must lie in 0..9, not {int(labels.min())}..{int(labels.max())}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self):,} images)"

    def subset(self, n: int, seed: int = 0) -> Split:
        """`n` of the images, as many of each class (one more of the first `n % 10`), in order."""
        keep = balanced(self.labels, n, seed)
        return Split(self.images[keep], self.labels[keep])


def balanced(labels: Tensor, n: int, seed: int = 0) -> Tensor:
    """Indices, ascending, of `n` items: as many of each class, one more of the first `n % 10`."""
    if not 0 < n <= len(labels):
        raise ValueError(f"A subset of these {len(labels):,} images needs 1 to as many, not {n}.")
    random = np.random.RandomState(seed)  # its stream, unlike default_rng's, never changes
    chosen = []
    for label in range(len(CLASSES)):
        members = np.flatnonzero(labels.cpu().numpy() == label)
        wanted = n // len(CLASSES) + (label < n % len(CLASSES))
        if wanted > len(members):
            raise ValueError(
                f"A balanced subset of {n:,} needs {wanted:,} images of {CLASSES[label]}, and "
                f"there are {len(members):,}."
            )
        chosen.append(random.permutation(members)[:wanted])
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def normalize(images: Tensor) -> Tensor:
    """`uint8 (N, 3, H, W)` to float32: scaled to 0..1, minus `MEAN`, divided by `STD`."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"normalize takes uint8 (N, 3, H, W), not {_describe(images)}.")
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (MEAN, STD))
    return images.float().div_(255).sub_(mean).div_(std)


def denormalize(x: Tensor) -> Tensor:
    """The inverse of `normalize`, float32 clipped to 0..1, for pictures: `(…, 3, H, W)`."""
    if not x.is_floating_point() or x.ndim < 3 or x.shape[-3] != 3:
        raise ValueError(f"denormalize takes float (…, 3, H, W), not {_describe(x)}.")
    mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (MEAN, STD))
    return (x.float() * std + mean).clamp(0, 1)


class Batches:
    """Normalised batches `(x, y)` of a split: `x (B, 3, 32, 32)` channels-last, `y int64 (B,)`.

    Order and augmentation are a pure function of `(seed, epoch)`. `epoch` advances after each
    full pass and can be set; `skip = k` leaves out the first k batches of the next pass, so that
    training resumes in the middle of an epoch exactly where it stopped.

    Args:
        batch_size: images a step, over all ranks together.
        augment: reflect-pad by 4, crop 32 x 32 at random, flip half of the images left to right.
        shuffle: a new order every epoch; otherwise the order of the split.
        device: where the batches are to be; the CPU unless given.
        dtype: of `x`. bfloat16 halves the memory that augmentation holds (38 kB an image in
            float32) and is the faster one.
        rank, world: this process takes every `world`-th image of each batch, from `rank` on.
        drop_last: leave out the last batch where it is smaller than the others.

    Raises:
        ValueError: a batch larger than the split, a rank outside the world, a bad seed or dtype.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int = 128,
        *,
        augment: bool = False,
        shuffle: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> None:
        if not 1 <= batch_size <= len(split):
            raise ValueError(
                f"batch_size must be 1 to {len(split):,}, the size of the split, not {batch_size}."
            )
        if not 0 <= rank < world <= batch_size:
            raise ValueError(
                f"rank {rank} of {world} is impossible with batches of {batch_size}: it takes "
                "0 <= rank < world <= batch_size."
            )
        rest = len(split) % batch_size
        if 0 < rest < world and not drop_last:
            raise ValueError(
                f"The last batch has {rest} images for {world} ranks: use drop_last=True or "
                "another batch_size."
            )
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, not {seed}.")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type such as float32, not {dtype}.")
        self.batch_size, self.augment, self.shuffle = batch_size, augment, shuffle
        self.seed, self.rank, self.world = seed, rank, world
        self.device, self.dtype = torch.device(device or "cpu"), dtype
        self.epoch = self.skip = 0
        self._size = len(split)
        self._length = len(split) // batch_size + (rest > 0 and not drop_last)
        # Overlapping views are fast on CPUs and CUDA; other devices get copies of the batches.
        self._home = self.device if self.device.type in ("cpu", "cuda") else torch.device("cpu")
        self._images, self._labels = split.images.to(self._home), split.labels.to(self._home)
        if augment:
            self._crops = _all_crops(self._images, dtype)

    def __len__(self) -> int:
        """Batches an epoch, skipped ones included."""
        return self._length

    def size_of(self, k: int) -> int:
        """Images in batch `k` of an epoch, over all ranks together."""
        return min(self.batch_size, self._size - k * self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not 0 <= self.skip <= len(self):
            raise ValueError(f"skip must be 0 to {len(self)}, not {self.skip}.")
        first, self.skip = self.skip, 0
        # Drawn for the whole epoch at once, on the CPU: the same on every rank and every device.
        entropy = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)
        random = torch.Generator().manual_seed(int(entropy[0]))
        order = torch.randperm(self._size, generator=random)
        flip, dy, dx = (
            torch.randint(high, (self._size,), generator=random).to(self._home)
            for high in (2, 9, 9)
        )
        order = (order if self.shuffle else torch.arange(self._size)).to(self._home)
        starts = _start_of(flip, order, dy, dx, self._size)
        for k in range(first, len(self)):
            mine = slice(k * self.batch_size + self.rank, (k + 1) * self.batch_size, self.world)
            index = order[mine]
            if self.augment:
                x = self._crops.index_select(0, starts[mine]).permute(0, 3, 1, 2)
            else:
                x = normalize(self._images[index])
                x = x.to(dtype=self.dtype, memory_format=torch.channels_last)
            yield x.to(self.device), self._labels[index].to(self.device)
        self.epoch += 1


def _all_crops(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Every crop of every image and of its mirror image, as one view `(starts, 32, 32, 3)`.

    A view, not copies: memory holds each padded image twice, as it is and mirrored, and a crop is
    the same memory read from another pixel on. So a batch of random crops and flips is a selection
    by one index, `_start_of`.
    (Starts too far right or down exist, too; nobody asks for them.)
    """
    n = len(images)
    both = torch.empty((2, n, 40, 40, 3), dtype=dtype, device=images.device)
    for start in range(0, n, 4096):  # in parts, so that the peak is not twice the result
        part = slice(start, start + 4096)
        x = F.pad(normalize(images[part]), (4, 4, 4, 4), mode="reflect").permute(0, 2, 3, 1)
        both[0, part] = x
        both[1, part] = x.flip(2)
    starts = 2 * n * 40 * 40 - (31 * 40 + 31)  # from the last, a whole crop still lies in memory
    return both.as_strided((starts, 32, 32, 3), (3, 40 * 3, 3, 1))


def _start_of(flip: Tensor, image: Tensor, dy: Tensor, dx: Tensor, n: int) -> Tensor:
    """At which pixel of `_all_crops` of `n` images a crop begins."""
    return ((flip * n + image) * 40 + dy) * 40 + dx


def _describe(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
