"""The same `fit` under `torchrun`: two processes on this machine, connected by gloo."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """
    import json, os, sys
    sys.path[:0] = [{root!r}, {tests!r}]
    import torch
    from test_train import make_data
    from torch import nn
    from utils import checkpoint, distributed
    from utils.train import fit
    checkpoint.SAVE_EVERY = 0.0
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(  # no batch norm: on CPUs its statistics are each process's own
        nn.Conv2d(3, 16, 3, stride=2), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    losses, rank = [], int(os.environ.get("RANK", 0))
    def on_step(step, model, loss):
        total = torch.tensor(loss, dtype=torch.float64)
        losses.append((distributed.sum_over(total) / distributed.world()).item())
        # One write, so that the lines of two processes do not mix.
        os.write(1, f"step {{step}} {{rank}} {{os.getpid()}}".encode() + bytes([10]))
    # 600 images in batches of 64: the last batch of an epoch has 24, 12 for each process.
    history = fit(model, make_data(600), epochs=5, batch_size=64, lr=0.1, precision="float32",
                  checkpoint={folder!r}, progress=False, on_step=on_step)
    if distributed.rank() == 0:
        flat = torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()
        json.dump({{"losses": losses, "weights": flat, "history": history.state_dict()}},
                  open({folder!r} + "/out.json", "w"))
"""


def command(tmp_path, folder, processes):
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(PROGRAM).format(
            root=str(ROOT), tests=str(ROOT / "tests"), folder=str(folder)
        )
    )
    if processes == 1:
        return [sys.executable, str(script)]
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={processes}", str(script),
    ]  # fmt: skip


def run(tmp_path, name, processes):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        command(tmp_path, folder, processes),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "out.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("alone"), "one", 1)


def test_two_processes_follow_the_loss_curve_of_one(alone, tmp_path):
    two = run(tmp_path, "two", 2)
    assert len(two["losses"]) == len(alone["losses"]) == 50
    worst = max(abs(a - b) for a, b in zip(alone["losses"], two["losses"], strict=True))
    assert worst < 1e-3
    assert two["weights"] == pytest.approx(alone["weights"], abs=1e-3)
    for key in ("loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert two["history"][key] == pytest.approx(alone["history"][key], abs=2e-3), key


def test_a_lost_worker_ends_the_job_and_it_goes_on_to_the_same_bits(tmp_path):
    straight = run(tmp_path, "straight", 2)
    folder = tmp_path / "killed"
    folder.mkdir()
    job = subprocess.Popen(
        command(tmp_path, folder, 2),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in job.stdout:
        _, step, rank, pid = line.split()
        if rank == "1" and int(step) == 23:
            os.kill(int(pid), signal.SIGKILL)
            break
    started = time.monotonic()
    _, errors = job.communicate(timeout=100)
    assert job.returncode != 0
    assert time.monotonic() - started < 60, "the job must not hang"
    assert "SIGKILL" in errors or "Signal 9" in errors
    assert (folder / "last.pt").exists()
    again = run(tmp_path, "killed", 2)
    assert len(again["losses"]) <= 50 - 22
    assert again["weights"] == straight["weights"]
    assert again["losses"] == straight["losses"][-len(again["losses"]) :]


def test_alone_nothing_is_started():
    from utils import distributed

    assert (distributed.rank(), distributed.world()) == (0, 1)
    value = torch.ones(2)
    assert distributed.sum_over(value) is value
    assert distributed.agree(True, torch.device("cpu")) is True
    assert distributed.gather("x") == ["x"]
