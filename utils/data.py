"""CIFAR-10 as tensors: found or fetched, and split once and for all.

`load_cifar10()` gives training, validation and test images; `Batches` makes normalised, augmented
batches of them (see `utils.batches`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils import cache, download, runtime, sources
from utils.batches import MEAN, STD, Batches, Split, balanced, denormalize, normalize
from utils.sources import CLASSES, DataError

__all__ = [
    "CIFAR10", "CLASSES", "MEAN", "STD", "Batches", "DataError", "Split", "denormalize",
    "load_cifar10", "normalize",
]  # fmt: skip

# Where the data last loaded came from; the recorder writes it into the notebook.
LAST_PROVENANCE: dict | None = None


@dataclass(frozen=True, eq=False)
class CIFAR10:
    """The three splits, the names of the classes, and where the images came from."""

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    provenance: dict


def load_cifar10(
    root: str | os.PathLike | None = None, profile: runtime.Profile | None = None
) -> CIFAR10:
    """CIFAR-10 in the sizes of `profile`, from `root`, `CIFAR10_ROOT`, the cache or a mirror.

    The 50,000 training images are split once into 45,000 for training and 5,000 for validation,
    equally many of each class; smaller profiles take a balanced subset of each split. Without any
    data, the profile `smoke` downloads nothing and uses a synthetic stand-in.

    Args:
        root: torchvision's `cifar-10-batches-py` (or its parent), the original archive, or images
            as `train/<class>/*.png|jpg` and `test/<class>/…` in a folder or zip file.
        profile: how many images; `runtime.profile()` unless given.

    Raises:
        DataError: nothing was found and nothing could be fetched, or what was found is damaged.
    """
    global LAST_PROVENANCE
    profile = profile or runtime.profile()
    rows, provenance = _rows(root, profile)
    cut = len(rows) * 5 // 6  # 50,000 training images, then 10,000 for test
    labels = torch.from_numpy(rows[:, 0].astype(np.int64))
    in_val = torch.zeros(cut, dtype=torch.bool)
    in_val[balanced(labels[:cut], cut // 10)] = True
    parts = {
        "train": (torch.nonzero(~in_val).flatten(), profile.train),
        "val": (torch.nonzero(in_val).flatten(), profile.val),
        "test": (torch.arange(cut, len(rows)), profile.test),
    }
    splits = {}
    for name, (members, n) in parts.items():
        keep = members[balanced(labels[members], n)]
        images = torch.from_numpy(rows[keep.numpy(), 1:].reshape(-1, 3, 32, 32))
        splits[name] = Split(images, labels[keep])
        provenance[name] = n
    LAST_PROVENANCE = provenance
    return CIFAR10(**splits, classes=CLASSES, provenance=provenance)


def _rows(root: str | os.PathLike | None, profile: runtime.Profile) -> tuple[np.ndarray, dict]:
    """Every image as `uint8 (60000, 3073)` (see `utils.sources`), and its provenance."""
    folder = cache.folder()
    named = root or os.environ.get("CIFAR10_ROOT")
    if named:
        # Somebody named this place: an error there is theirs to know, not to be worked around.
        path = Path(named).expanduser().absolute()
        source = sources.find(path)
        if source is None:
            missing = "holds no CIFAR-10" if path.exists() else "does not exist"
            raise DataError(
                f"{'root' if root else 'CIFAR10_ROOT'} is {path}, which {missing}: it must be "
                f"torchvision's {sources.FOLDER} or its parent, the archive {download.ARCHIVE}, or "
                "a folder or zip file with train/<class>/*.png|jpg and test/<class>/*.png|jpg."
            )
        return sources.read(source, folder)
    tried = ["root, CIFAR10_ROOT: not set"]
    try:
        source = sources.find(folder)
        if source:
            return sources.read(source, folder)
        tried.append(f"the cache, {folder}: no CIFAR-10 there")
    except DataError as error:
        tried.append(f"the cache, {folder}: {error}")
    if profile.name == "smoke":
        print("No CIFAR-10 found: this is a synthetic stand-in, and its accuracies mean nothing.")
        return sources.stand_in(), {"source": "synthetic stand-in", "synthetic": True}
    try:
        archive = download.fetch_archive(folder)
    except download.DownloadError as error:
        raise DataError(
            "CIFAR-10 was not found and could not be downloaded. Tried:\n  - "
            + "\n  - ".join(tried + error.tried)
            + "\nThree ways out:\n"
            "  1. set CIFAR10_ROOT to a copy you have: a folder, the archive or a zip file;\n"
            f"  2. put {download.ARCHIVE} (md5 {download.ARCHIVE_MD5}) into {folder};\n"
            "  3. set COURSE_PROFILE=smoke to look around with a synthetic stand-in."
        ) from error
    return sources.read(sources.Source("archive", archive), folder)
