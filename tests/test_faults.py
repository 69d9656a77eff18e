"""A run that is killed again and again, anywhere, ends with the bits of one that never was.

Run as a program, this file is the one who kills. It imports torch once and forks a process for
every start of the training, so that a start takes milliseconds and not seconds.
"""

import io
import json
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import make_data
from torch import nn

from utils import checkpoint, options
from utils.train import evaluate, fit

ROOT = Path(__file__).resolve().parent.parent
EPOCHS, STEPS, BATCH = 6, 6, 16  # STEPS in an epoch, of which the last is a smaller batch
# Where a process is told to die: at the first or second time it comes by.
PLACES = ["forward", "before update", "after update", "half written", "written", "replaced"]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


class Noise(nn.Module):
    """Draws from three generators, so that each of them has to be restored."""

    def forward(self, x):
        if self.training:
            x = x * (1 + 0.1 * (random.random() + np.random.rand() + torch.rand(())))
        return x


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=4), nn.BatchNorm2d(6), nn.ReLU(), Noise(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(6, 10),
    )  # fmt: skip


class Child:
    """A process that trains with a checkpoint after every step, until somebody kills it."""

    def __init__(self, folder, place="", visits=0, pause_after=0):
        self.folder, self.place, self.left = folder, place, visits
        self.pause_after = pause_after
        self.shared = mmap.mmap(-1, 16)  # (steps of the whole run, steps of this process) so far
        self.status = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.train()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)

    # In the child.

    def visit(self, place):
        self.left -= place == self.place
        if place == self.place and self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step(self, step, model, loss):
        made = self.steps()[1] + 1
        struct.pack_into("qq", self.shared, 0, step, made)
        if made == self.pause_after:
            time.sleep(600)  # on a busy machine the parent may come late, but not too late

    def train(self):
        make_optimizer, save, replace = options.make_optimizer, torch.save, os.replace

        def watched_optimizer(*args):
            optimizer = make_optimizer(*args)
            optimizer.register_step_pre_hook(lambda *_: self.visit("before update"))
            optimizer.register_step_post_hook(lambda *_: self.visit("after update"))
            return optimizer

        def save_in_halves(state, file):
            save(state, buffer := io.BytesIO())
            whole = buffer.getvalue()
            file.write(whole[: len(whole) // 2])
            file.flush()
            self.visit("half written")
            file.write(whole[len(whole) // 2 :])

        def watched_replace(source, target):
            self.visit("written")
            replace(source, target)
            self.visit("replaced")

        options.make_optimizer, checkpoint.SAVE_EVERY = watched_optimizer, 0.0
        torch.save, os.replace = save_in_halves, watched_replace
        data = make_data(BATCH * (STEPS - 1) + BATCH // 2)
        heed, interrupts, history = False, 0, None

        def interrupt(*_):
            nonlocal heed
            if heed:
                heed = False
                raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupt)
        while history is None:
            model = network()
            try:
                heed = True
                model.register_forward_pre_hook(lambda *_: self.visit("forward"))
                history = fit(
                    model, data, epochs=EPOCHS, batch_size=BATCH, lr=0.05, precision="float32",
                    checkpoint=self.folder, progress=False, on_step=self.on_step,
                )  # fmt: skip
                heed = False
            except KeyboardInterrupt:  # as in a notebook: the cell is run again, in this process
                interrupts += 1
        result = {
            "weights": {k: v.tolist() for k, v in model.state_dict().items()},
            "history": {k: v for k, v in vars(history).items() if k != "seconds"},
            "test": vars(evaluate(model, data.test, precision="float32")),
        }
        (self.folder / "result.json").write_text(json.dumps(result))
        (self.folder / "interrupts").write_text(str(interrupts))

    # In the parent.

    def steps(self):
        return struct.unpack_from("qq", self.shared, 0)

    def running(self):
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is None

    def wait(self):
        while self.running():
            time.sleep(0.001)
        if self.status > 0:
            raise SystemExit(f"the training failed (exit status {self.status})")
        return self.status


def kill_until_done(folder, luck):
    """Start and kill until a start reaches the end; returns (place, epoch, step) of every kill."""
    kills = []
    while True:
        timed = len(kills) % 2 == 1
        place = "" if timed else PLACES[len(kills) // 2 % len(PLACES)]
        child = Child(folder, place, luck.randint(1, 2), pause_after=3 if timed else 0)
        if timed:
            wanted = luck.randint(0, 2)
            while child.running() and child.steps()[1] < wanted:
                time.sleep(0.0005)
            time.sleep(luck.uniform(0, 0.02))
            if child.running():
                os.kill(child.pid, signal.SIGKILL)
        if child.wait() == 0:
            return kills
        kills.append([place or "any", *divmod(child.steps()[0], STEPS)])


def interrupt_until_done(folder, luck):
    child, wanted = Child(folder), 0
    while child.running():
        time.sleep(0.0005)
        if child.steps()[1] > wanted:
            time.sleep(luck.uniform(0, 0.02))
            wanted = child.steps()[1] + luck.randint(0, 2)
            os.kill(child.pid, signal.SIGINT)
    child.wait()


def main(folder):
    torch.set_num_threads(1)
    # What torch imports on first use is then there in every child. No backward pass: it would
    # start a thread, and only a process of a single thread is safe to fork.
    model = network()
    config = dict.fromkeys(options.OPTIONS, 0.1)
    config |= {"optimizer": "sgd", "schedule": "onecycle", "rates": None}
    optimizer = options.make_optimizer(model, config)
    options.make_scheduler(optimizer, config, 10)
    optimizer.step()
    state = dict.fromkeys(checkpoint.PARTS) | {"format": checkpoint.FORMAT}
    checkpoint.save(folder / "warm.pt", state | {"model": model.state_dict()})
    checkpoint.load(folder / "warm.pt", torch.device("cpu"))
    evaluate(model, make_data(20).test)
    tasks = Path("/proc/self/task")
    if tasks.exists() and len(list(tasks.iterdir())) > 1:
        raise SystemExit("a fork of several threads is not safe")
    for name in ("straight", "killed", "interrupted"):
        (folder / name).mkdir()
    luck = random.Random(20)
    Child(folder / "straight").wait()
    kills = kill_until_done(folder / "killed", luck)
    (folder / "kills.json").write_text(json.dumps(kills))
    interrupt_until_done(folder / "interrupted", luck)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    job = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert job.returncode == 0, job.stderr[-3000:]
    return folder


def result(folder):
    return json.loads((folder / "result.json").read_text())


def test_killed_many_times_it_ends_with_the_same_bits(done):
    kills = json.loads((done / "kills.json").read_text())
    assert len(kills) >= 20
    assert len({(epoch, step) for _, epoch, step in kills}) >= 10
    assert {place for place, _, _ in kills} == {"any", *PLACES}
    straight, killed = result(done / "straight"), result(done / "killed")
    assert len(straight["history"]["loss"]) == EPOCHS
    assert killed == straight


def test_interrupted_many_times_in_one_process_it_ends_with_the_same_bits(done):
    assert int((done / "interrupted" / "interrupts").read_text()) >= 3
    assert result(done / "interrupted") == result(done / "straight")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
