"""What every test takes for granted: the smoke profile, one thread, and no network."""

import os
import socket
import tempfile

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
import pytest
from nbval.kernel import RunningKernel

matplotlib.use("Agg")


def execute_cell_input(self, cell_input, allow_stdin=None):
    """As nbval does it, but with history: without it IPython does not see a `;` at the end."""
    return self.kc.execute(cell_input, allow_stdin=allow_stdin, stop_on_error=False)


RunningKernel.execute_cell_input = execute_cell_input
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
