"""Read CIFAR-10 from the forms people have it in, and keep what was decoded for the next time.

Every form becomes the same array: one row an image, `uint8 (60000, 3073)`, the label in column 0
and the 3 x 32 x 32 pixels behind it (the layout of CIFAR-10's own binary version), the 50,000
training images first. Order: that of the original batches, or by class and file name for images.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils import download
from utils.cache import kept

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
FOLDER = "cifar-10-batches-py"
# The md5 of every pickled file, as torchvision's `datasets/cifar.py` lists them.
BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
PER_CLASS = {"train": 5_000, "test": 1_000}
PIXELS = 3 * 32 * 32


class DataError(RuntimeError):
    """CIFAR-10 is not there, or what is there is not CIFAR-10."""


@dataclass(frozen=True)
class Source:
    """A place CIFAR-10 can be read from. `kind`: "folder", "archive", "zip" or "images"."""

    kind: str
    path: Path


def find(place: Path) -> Source | None:
    """What form of CIFAR-10 lies at `place` (a file, a folder or a folder's parent), if any.

    Raises:
        DataError: `place` may not be looked at.
    """
    try:
        if place.is_file():
            kinds = {".zip": "zip", ".tar.gz": "archive", ".tgz": "archive"}
            kind = next((kind for end, kind in kinds.items() if place.name.endswith(end)), None)
            return Source(kind, place) if kind else None
        if not place.is_dir():
            return None
        for folder in (place, place / FOLDER):
            if (folder / "data_batch_1").is_file():
                return Source("folder", folder)
        if (place / download.ARCHIVE).is_file():
            return Source("archive", place / download.ARCHIVE)
        for folder in (place, *sorted(p for p in place.iterdir() if p.is_dir())):
            if (folder / "train" / CLASSES[0]).is_dir():
                return Source("images", folder)
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror}.") from error
    return None


def read(source: Source, cache: Path) -> tuple[np.ndarray, dict]:
    """All images of `source` and what to say about where they come from.

    Args:
        cache: folder for the decoded array; one that cannot be written costs a warning and time.

    Returns:
        rows, `uint8 (60000, 3073)`, and provenance: `source`, `md5` or `sha256`, `synthetic`.

    Raises:
        DataError: damaged, incomplete, or not CIFAR-10; the message says which file.
    """
    try:
        if source.kind == "folder":
            # Verified batch by batch, so its content is the archive's: name it by the same md5.
            rows = _batches(lambda name: (source.path / name).read_bytes())
            return rows, _provenance("torchvision folder", md5=download.ARCHIVE_MD5)
        if source.kind == "archive":
            _verify(download.digest(source.path, "md5"), download.ARCHIVE_MD5, source.path)
            rows, _ = kept(download.ARCHIVE_MD5, lambda: _archive(source.path), cache)
            return rows, _provenance("original archive", md5=download.ARCHIVE_MD5)
        if source.kind == "zip":
            key = sha256 = download.digest(source.path, "sha256")
        else:  # sizes and times tell whether one of 60,000 files changed without reading them
            listing = [(path, s.st_size, s.st_mtime_ns) for path, s in _walk(source.path)]
            key = hashlib.sha256(repr(listing).encode()).hexdigest()
        rows, form = kept(key, lambda: _images(source), cache)
        if source.kind == "images":
            sha256 = hashlib.sha256(rows).hexdigest()
        kind = "image files (JPEG copy)" if form == "jpeg" else "image files"
        return rows, _provenance(kind, sha256=sha256)
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{source.path} cannot be read: {reason}.") from error


def _provenance(source: str, **digest: str) -> dict:
    return {"source": source, **digest, "synthetic": False}


def _verify(found: str, expected: str, path: Path | str) -> None:
    if found != expected:
        raise DataError(
            f"{path} is damaged or not CIFAR-10: its md5 is {found}, but must be {expected}; "
            "delete it and fetch it again."
        )


def _batches(read_bytes: Callable[[str], bytes]) -> np.ndarray:
    parts = []
    for name, md5 in BATCHES.items():
        data = read_bytes(name)
        # Unpickling can run any code: nothing is unpickled whose bytes are not the known ones.
        _verify(hashlib.md5(data, usedforsecurity=False).hexdigest(), md5, name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy dislikes how the 2009 pickles spell a dtype
            batch = pickle.loads(data, encoding="latin1")  # noqa: S301 (the bytes are known)
        labels = np.asarray(batch["labels"], dtype=np.uint8)[:, None]
        parts.append(np.concatenate([labels, batch["data"]], axis=1))
    return np.concatenate(parts)


def _archive(path: Path) -> tuple[np.ndarray, str]:
    with tarfile.open(path) as tar:
        # Read in memory, never extracted: a member's path cannot lead anywhere.
        files = {PurePosixPath(member.name).name: member for member in tar if member.isfile()}
        return _batches(lambda name: tar.extractfile(files[name]).read()), "original"


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file `train|test/<class>/<file>` below `folder`, by name, with size and time."""
    for part in PER_CLASS:
        for label in CLASSES:
            place = folder / part / label
            for entry in sorted(os.scandir(place), key=lambda e: e.name) if place.is_dir() else ():
                yield f"{part}/{label}/{entry.name}", entry.stat()


def _image_names(paths: Iterable[str], where: Path) -> list[tuple[str, int, str]]:
    """(train or test, label, path) of every image, in the order they are read."""
    names = []
    for path in map(PurePosixPath, paths):
        # train/<class>/<file>, or one level deeper; no `.DS_Store`, no `__MACOSX/…/._0000.jpg`.
        if len(path.parts) not in (3, 4) or path.name.startswith("."):
            continue
        part, label = path.parts[-3:-1]
        image = path.suffix.lower() in (".png", ".jpg", ".jpeg")
        if image and part in PER_CLASS and label in CLASSES:
            names.append((part, CLASSES.index(label), str(path)))
    counts = Counter((part, label) for part, label, _ in names)
    for part, expected in PER_CLASS.items():
        for label, name in enumerate(CLASSES):
            if counts[part, label] != expected:
                raise DataError(
                    f"{where} is not all of CIFAR-10: {part}/{name} must hold {expected:,} images "
                    f"(.png or .jpg) and holds {counts[part, label]:,}."
                )
    return sorted(names, key=lambda n: (n[0] == "test", n[1], n[2]))


def _images(source: Source) -> tuple[np.ndarray, str]:
    """The rows, and "jpeg" where any of the files is one, else "png"."""
    with contextlib.ExitStack() as stack:
        if source.kind == "zip":
            archive = stack.enter_context(zipfile.ZipFile(source.path))
            paths, read_bytes = archive.namelist(), archive.read
        else:
            paths = [path for path, _ in _walk(source.path)]
            read_bytes = lambda path: (source.path / path).read_bytes()  # noqa: E731
        names = _image_names(paths, source.path)
        rows = np.empty((len(names), 1 + PIXELS), dtype=np.uint8)
        bar = tqdm(names, desc="Decoding images once", unit=" images", leave=False)
        for row, (_, label, name) in zip(rows, bar, strict=True):
            try:
                with Image.open(io.BytesIO(read_bytes(name))) as image:
                    size = image.size
                    pixels = np.asarray(image.convert("RGB")) if size == (32, 32) else None
            except Exception as error:  # Pillow has no common ancestor for what it raises
                raise DataError(f"{source.path}: {name} is not a readable image.") from error
            if pixels is None:
                raise DataError(f"{source.path}: {name} must be 32 x 32 pixels and is {size}.")
            row[0] = label
            row[1:] = pixels.transpose(2, 0, 1).reshape(-1)
    png = all(name.lower().endswith(".png") for *_, name in names)
    return rows, "png" if png else "jpeg"


def stand_in() -> np.ndarray:
    """6,000 images of coloured stripes, a hue and a direction a class, that a network can learn."""
    random = np.random.RandomState(0)  # RandomState, unlike default_rng, never changes its stream
    labels = np.arange(6_000) % len(CLASSES)
    angle = np.pi * labels / len(CLASSES)
    y, x = np.mgrid[:32, :32] * (2 * np.pi / 8)
    waves = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    waves = np.sin(waves + random.uniform(0, 2 * np.pi, (6_000, 1, 1)))[:, None]  # (N, 1, 32, 32)
    hue = np.cos(2 * angle[:, None] + 2 * np.pi * np.arange(3) / 3)[:, :, None, None]
    images = (128 + 35 * waves + 35 * hue).astype(np.int16)  # 58 to 198
    images += random.randint(-57, 58, images.shape, dtype=np.int16)
    pixels = images.astype(np.uint8).reshape(6_000, -1)
    return np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1)
