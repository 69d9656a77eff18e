"""The baselines' input pipelines: torchvision's transforms in a `DataLoader`, image by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from utils import runtime
from utils.data import MEAN, STD, Split


class Pictures(Dataset):
    """As `torchvision.datasets.CIFAR10` keeps them: an array, one PIL image made at a time."""

    def __init__(self, split: Split, transform: Callable[[Any], Tensor]) -> None:
        self.arrays = split.images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, 32, 32, 3)
        self.labels, self.transform = split.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[i])), self.labels[i]


class Tensors(Dataset):
    """The same with uint8 tensors (3, 32, 32), which the second version of transforms takes."""

    def __init__(self, split: Split, transform: Callable[[Any], Tensor]) -> None:
        self.images, self.labels, self.transform = split.images, split.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.images[i]), self.labels[i]


def pil(split: Split, batch_size: int, workers: int, augment: bool = True) -> DataLoader:
    """The usual one: `RandomCrop`, `RandomHorizontalFlip`, `ToTensor`, `Normalize`."""
    random = [
        transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
        transforms.RandomHorizontalFlip(),
    ]
    last = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    transform = transforms.Compose([*(random if augment else []), *last])
    return _loader(Pictures(split, transform), batch_size, workers)


def second(split: Split, batch_size: int, workers: int) -> DataLoader:
    """The same augmentation in torchvision.transforms.v2, on uint8 tensors."""
    transform = v2.Compose(
        [
            v2.RandomCrop(32, padding=4, padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return _loader(Tensors(split, transform), batch_size, workers)


def _loader(dataset: Dataset, batch_size: int, workers: int) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,  # else every epoch begins by starting them
        pin_memory=runtime.device().type == "cuda",
    )
