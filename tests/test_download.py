"""The download: every way a server, a disk or a reader can interrupt it, on a local server."""

import contextlib
import hashlib
import http.server
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from utils import download
from utils.download import ARCHIVE, MIRRORS, DownloadError, fetch_archive

PAYLOAD = random.Random(0).randbytes(300_000)
HALF = len(PAYLOAD) // 2
MD5 = hashlib.md5(PAYLOAD).hexdigest()
ROOT = Path(__file__).parents[1]


class Handler(http.server.BaseHTTPRequestHandler):
    """One behaviour a path; every request is noted as (path, Range header)."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        # The client may leave early: that is what some of these tests are about.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, "serve_" + self.path.strip("/"))()
        self.close_connection = True

    def start(self):
        given = self.headers.get("Range")
        return int(given.removeprefix("bytes=").removesuffix("-")) if given else 0

    def head(self, length, status=None):
        self.send_response(status or (206 if self.headers.get("Range") else 200))
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def serve_good(self):
        body = PAYLOAD[self.start() :]
        self.head(len(body))
        self.wfile.write(body)

    def serve_missing(self):
        self.head(0, 404)

    def serve_busy(self):
        self.head(0, 503)

    def serve_half(self):
        body = PAYLOAD[self.start() :]
        self.head(len(body))
        self.wfile.write(body[:HALF])

    def serve_stall(self):
        self.serve_half()
        self.wfile.flush()
        self.server.done.wait(20)

    def serve_silent(self):
        self.server.done.wait(20)

    def serve_trickle(self):
        self.head(len(PAYLOAD) - self.start())
        for byte in PAYLOAD[self.start() :]:
            self.wfile.write(bytes([byte]))
            if self.server.done.wait(0.02):
                break

    def slow(self, pause):
        body = PAYLOAD[self.start() :]
        self.head(len(body))
        for lo in range(0, len(body), 5_000):
            self.wfile.write(body[lo : lo + 5_000])
            if self.server.done.wait(pause):
                break

    def serve_slow(self):
        self.slow(0.02)

    def serve_slower(self):
        self.slow(0.1)

    def serve_wrong(self):
        body = bytes(len(PAYLOAD))[self.start() :]
        self.head(len(body))
        self.wfile.write(body)

    def serve_short(self):  # half of the file, and the server says that this is all of it
        self.head(HALF, 200)
        self.wfile.write(PAYLOAD[:HALF])

    def serve_page(self):
        body = b"<html>Please log in to the campus network.</html>"
        self.head(len(body), 200)
        self.wfile.write(body)

    def serve_unsized(self):  # no Content-Length, and more bytes than the archive has
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PAYLOAD + b"more")

    def serve_norange(self):
        self.head(len(PAYLOAD), 200)
        self.wfile.write(PAYLOAD)


@pytest.fixture
def server(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    monkeypatch.setattr(download, "ARCHIVE_MD5", MD5)
    monkeypatch.setattr(download, "ARCHIVE_BYTES", len(PAYLOAD))
    monkeypatch.setattr(download, "STALL_TIMEOUT", 0.4)
    monkeypatch.setattr(download, "CONNECT_TIMEOUT", 2.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.requests, server.done = [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.done.set()
        server.shutdown()
        thread.join()


def fetch(server, folder, *names):
    return fetch_archive(folder, [server.url + name for name in names])


def is_complete(folder):
    part = folder / f"{ARCHIVE}.part"
    return (folder / ARCHIVE).read_bytes() == PAYLOAD and not part.exists()


def test_downloads_once(server, tmp_path):
    assert fetch(server, tmp_path / "new" / "folder", "good").read_bytes() == PAYLOAD
    assert is_complete(tmp_path / "new" / "folder")
    fetch(server, tmp_path / "new" / "folder", "good")
    assert server.requests == [("/good", None)]


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("missing", "HTTP status 404"),
        ("busy", "HTTP status 503"),
        ("silent", "no answer in time"),
        ("short", "offers 150,000 bytes, not 300,000"),
        ("page", "offers 49 bytes"),
        ("wrong", "md5 is wrong"),
    ],
)
def test_next_mirror_starts_afresh(server, tmp_path, first, reason):
    fetch(server, tmp_path, first, "good")
    assert is_complete(tmp_path)
    assert server.requests == [(f"/{first}", None), ("/good", None)]
    with pytest.raises(DownloadError, match=reason) as caught:
        fetch(server, tmp_path / "alone", first)
    assert len(caught.value.tried) == 1
    assert not (tmp_path / "alone" / ARCHIVE).exists()
    assert not (tmp_path / "alone" / f"{ARCHIVE}.part").exists()


@pytest.mark.parametrize("first", ["half", "stall"])
def test_next_mirror_continues(server, tmp_path, first):
    fetch(server, tmp_path, first, "good")
    assert is_complete(tmp_path)
    assert server.requests == [(f"/{first}", None), ("/good", f"bytes={HALF}-")]


@pytest.mark.parametrize("name", ["norange", "unsized"])
def test_server_that_ignores_range(server, tmp_path, name):
    (tmp_path / f"{ARCHIVE}.part").write_bytes(PAYLOAD[:HALF])
    fetch(server, tmp_path, name)
    assert is_complete(tmp_path)
    assert server.requests == [(f"/{name}", f"bytes={HALF}-")]


def test_error_page_leaves_what_is_there(server, tmp_path):
    part = tmp_path / f"{ARCHIVE}.part"
    part.write_bytes(PAYLOAD[:HALF])
    with pytest.raises(DownloadError):
        fetch(server, tmp_path, "page", "missing", "short")
    assert part.read_bytes() == PAYLOAD[:HALF]


@pytest.mark.parametrize("size", [1_000, len(PAYLOAD), len(PAYLOAD) + 5])
def test_wrong_remains_are_discarded(server, tmp_path, size):
    (tmp_path / f"{ARCHIVE}.part").write_bytes(bytes(size))
    fetch(server, tmp_path, "good")
    assert is_complete(tmp_path)
    assert server.requests[-1] == ("/good", None)


def test_slow_mirror_is_left_and_continued_elsewhere(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MIN_SPEED", 1_000_000)
    monkeypatch.setattr(download, "PATIENCE", 0.2)
    fetch(server, tmp_path, "slower", "good")
    assert is_complete(tmp_path)
    assert server.requests[1][1] is not None


def test_trickle_counts_as_slow(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.2)
    began = time.monotonic()
    fetch(server, tmp_path, "trickle", "good")
    assert is_complete(tmp_path)
    assert time.monotonic() - began < 5


def test_when_all_are_slow_the_fastest_finishes(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MIN_SPEED", 10_000_000)
    monkeypatch.setattr(download, "PATIENCE", 0.2)
    fetch(server, tmp_path, "slower", "slow")
    assert is_complete(tmp_path)
    assert [path for path, _ in server.requests] == ["/slower", "/slow", "/slow"]


def test_damaged_archive_is_replaced(server, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(PAYLOAD[:HALF])
    fetch(server, tmp_path, "good")
    assert is_complete(tmp_path)


def test_says_what_was_tried(server, tmp_path):
    with pytest.raises(DownloadError) as caught:
        fetch(server, tmp_path, "missing", "wrong", "page", "half")
    assert len(caught.value.tried) == 4
    assert all("127.0.0.1" in line and "\n" not in line for line in caught.value.tried)


def test_no_network(server, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(DownloadError) as caught:
        fetch_archive(tmp_path, ["https://one.invalid/a", "https://two.invalid/a"])
    assert caught.value.tried == [
        "one.invalid: the connection failed, ConnectionError",
        "two.invalid: the connection failed, ConnectionError",
    ]


def test_refused_connection(server, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/good"
        with pytest.raises(DownloadError, match="connection failed"):
            fetch_archive(tmp_path, [url])


def test_unwritable_folder(server, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DownloadError, match="cannot be written, Not a directory"):
        fetch(server, tmp_path / "file" / "cache", "good")
    assert server.requests == []


def test_full_disk_keeps_what_is_there(server, tmp_path, monkeypatch):
    real = Path.open

    def full(path, mode="r", *args, **kwargs):
        file = real(path, mode, *args, **kwargs)
        if mode == "ab":
            write, written = file.write, 0

            class Disk:
                def __enter__(self):
                    return self

                def __exit__(self, *exc):
                    file.close()

                def write(self, data):
                    nonlocal written
                    written += len(data)
                    if written > HALF:
                        raise OSError(28, "No space left on device")
                    return write(data)

            return Disk()
        return file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DownloadError, match="No space left on device") as caught:
        fetch(server, tmp_path, "good", "norange")
    assert "MB are kept there" in str(caught.value)
    assert len(server.requests) == 1  # another server would not make the disk larger
    monkeypatch.undo()
    kept = (tmp_path / f"{ARCHIVE}.part").read_bytes()
    assert 0 < len(kept) <= HALF
    assert PAYLOAD.startswith(kept)


def test_interrupt_keeps_what_is_there(server, tmp_path, monkeypatch):
    updates = iter(range(3))

    def update(bar, n):
        if next(updates, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(download.tqdm, "update", update)
    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path, "slow")
    kept = (tmp_path / f"{ARCHIVE}.part").read_bytes()
    assert 0 < len(kept) < len(PAYLOAD)
    assert PAYLOAD.startswith(kept)
    monkeypatch.setattr(download.tqdm, "update", lambda bar, n: None)
    fetch(server, tmp_path, "good")  # the lock is free again, too
    assert is_complete(tmp_path)
    assert server.requests[-1] == ("/good", f"bytes={len(kept)}-")


def process(url, folder):
    script = f"""
        from pathlib import Path
        from utils import download
        download.ARCHIVE_MD5, download.ARCHIVE_BYTES = {MD5!r}, {len(PAYLOAD)}
        download.MIN_SPEED = 0
        print(download.fetch_archive(Path({str(folder)!r}), [{url!r}]).stat().st_size)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def test_two_processes_download_once(server, tmp_path):
    both = [process(server.url + "slow", tmp_path) for _ in range(2)]
    for one in both:
        assert str(len(PAYLOAD)) in one.communicate(timeout=30)[0]
        assert one.returncode == 0
    assert len(server.requests) == 1
    assert is_complete(tmp_path)


def test_killed_download_is_resumed(server, tmp_path):
    part = tmp_path / f"{ARCHIVE}.part"
    killed = process(server.url + "slower", tmp_path)
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / ARCHIVE).exists()
    kept = part.stat().st_size
    fetch(server, tmp_path, "good")
    assert is_complete(tmp_path)
    assert server.requests[-1] == ("/good", f"bytes={kept}-")


def test_mirrors_end_with_the_home_server():
    assert len(set(MIRRORS)) == len(MIRRORS) >= 3
    assert all(url.startswith("https://") and ARCHIVE in url for url in MIRRORS)
    assert MIRRORS[-1].startswith("https://www.cs.toronto.edu/")
