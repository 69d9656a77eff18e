"""Keep what took seconds to decode, so that the next start takes a fraction of one.

An entry is one `.npy` file, opened as a memory map. Its name holds the key of what it was made
from and the checksum of what is in it: a damaged entry is noticed and built again.
"""

from __future__ import annotations

import contextlib
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock


def folder() -> Path:
    """Where the archive and the decoded images are kept: `COURSE_CACHE` or a folder in ~/.cache."""
    return Path(os.environ.get("COURSE_CACHE") or "~/.cache/convnets-course").expanduser()


def kept(
    key: str, build: Callable[[], tuple[np.ndarray, str]], cache: Path
) -> tuple[np.ndarray, str]:
    """The rows and form that `build` returns, from `cache` if they are there, else kept there.

    Args:
        key: what was read, as hexadecimal digits; another key, another entry.
        build: gives the rows, `uint8 (N, …)`, and one word for what they were made from.
        cache: a folder; where it cannot be written, a warning says so and nothing is kept.
    """
    found = _open(key, cache)
    if found is None:
        with _lock(cache / "decoding.lock"):
            found = _open(key, cache)  # another process may have built it during the wait
            if found is None:
                found = build()
                _save(key, *found, cache)
    return found


def _open(key: str, cache: Path) -> tuple[np.ndarray, str] | None:
    for path in sorted(cache.glob(f"decoded-{key[:16]}-*.npy")):
        _, _, form, checksum = path.stem.split("-")
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
            if checksum == f"{zlib.crc32(rows):08x}":
                return rows, form
        except (OSError, ValueError, EOFError):
            pass
        warnings.warn(f"{path} is damaged and is built again.", stacklevel=2)
        path.unlink(missing_ok=True)
    return None


def _save(key: str, rows: np.ndarray, form: str, cache: Path) -> None:
    # The name carries the checksum, so that one rename publishes both at once.
    path = cache / f"decoded-{key[:16]}-{form}-{zlib.crc32(rows):08x}.npy"
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        try:
            with partial.open("wb") as file:
                np.save(file, rows, allow_pickle=False)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(
            f"The decoded images could not be kept in {cache} ({error.strerror or error}), so the "
            "next start decodes them again; set COURSE_CACHE to a folder that can be written.",
            stacklevel=2,
        )


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process at a time through; where no lock can be made, let everybody through."""
    lock = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire()
    except (OSError, NotImplementedError):
        lock = None
    try:
        yield
    finally:
        if lock:
            lock.release()
