"""What every test takes for granted: the smoke profile, one thread, and no network."""

import atexit
import functools
import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

# Before torch is imported, and for the kernels and programs that tests start.
os.environ |= {
    "COURSE_PROFILE": "smoke",
    "COURSE_DEVICE": os.environ.get("COURSE_DEVICE", "cpu"),
    "OMP_NUM_THREADS": "1",  # one worker per core
    "TQDM_DISABLE": "1",
    "IPYTHONDIR": tempfile.mkdtemp(prefix="course-tests-"),  # kernels leave their history there
    # Port 9 answers nobody, so that a download fails at once instead of waiting.
    **dict.fromkeys(
        ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"], "http://127.0.0.1:9"
    ),
    **dict.fromkeys(["no_proxy", "NO_PROXY"], "localhost,127.0.0.1,::1"),
}

import matplotlib
import nbval.plugin
import pytest
from nbval.kernel import RunningKernel

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parents[1]


def execute_cell_input(self, cell_input, allow_stdin=None):
    """As nbval does it, but with history: without it IPython does not see a `;` at the end."""
    return self.kc.execute(cell_input, allow_stdin=allow_stdin, stop_on_error=False)


@functools.cache
def remote():
    """The address of a repository to clone: this checkout, with what is not committed yet."""
    folder = Path(tempfile.mkdtemp(prefix="course-tests-"), "convnets")
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    shutil.copytree(
        ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv*", "_build", ".*_cache")
    )
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=all"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
    return folder.as_uri()


@pytest.fixture(scope="session")
def repository():
    """The address of a repository as GitHub would serve it, for tests that clone."""
    return remote()


class EmptyFolder(RunningKernel):
    """A kernel in an empty folder, as on Colab."""

    def __init__(self, kernel_name, cwd=None, **options):
        self.folder = tempfile.TemporaryDirectory(prefix="course-tests-")
        super().__init__(kernel_name, self.folder.name, **options)

    def stop(self):
        super().stop()
        self.folder.cleanup()


def pytest_collection_modifyitems(items):
    """A notebook's first cell clones this checkout; git's words are no part of its outputs."""
    for item in items:
        source = getattr(getattr(item, "cell", None), "source", "")
        if address := re.search(r'"(https://github\.com/[^"]+)", "convnets"\]', source):
            item.options["check"] = False
            os.environ |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"url.{remote()}.insteadOf",
                "GIT_CONFIG_VALUE_0": address[1],
            }


RunningKernel.execute_cell_input = execute_cell_input
nbval.plugin.RunningKernel = EmptyFolder
HERE = ("127.", "::1", "localhost")


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Only this machine can be reached: a test that needs another host is no test."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not address[0].startswith(HERE):
            raise OSError(f"tests use no network, but something asked for {address[0]}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield
