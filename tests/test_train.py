"""`fit` and `evaluate`: what they compute, what they refuse, and that no work is ever lost."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from utils import checkpoint as ckpt
from utils import train
from utils.data import CIFAR10, CLASSES, Split
from utils.train import Diverged, evaluate, fit

ROOT = Path(__file__).resolve().parent.parent


def make_data(n=256, seed=0):
    """Images whose brightness tells their class, so that a small network learns them."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 10
    noise = torch.randint(0, 30, (n, 3, 32, 32), generator=g)
    images = (labels.view(-1, 1, 1, 1) * 22 + noise).to(torch.uint8)
    split = Split(images, labels)
    return CIFAR10(split, split, split, CLASSES, {"source": "made here", "synthetic": True})


def make_model(seed=0, width=8):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(width, 10),
    )


@pytest.fixture(scope="module")
def data():
    return make_data()


OPTIONS = dict(epochs=3, batch_size=32, lr=0.1, progress=False, device=torch.device("cpu"))


def bits(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def without_seconds(history):
    return {k: v for k, v in vars(history).items() if k != "seconds"}


@pytest.fixture(scope="module")
def straight(data):
    """The run that nobody interrupted: its weights and history."""
    model = make_model()
    history = fit(model, data, **OPTIONS)
    return bits(model), without_seconds(history)


def test_it_learns_and_writes_one_number_per_epoch(data):
    model = make_model()
    history = fit(model, data, **OPTIONS | {"epochs": 12, "augment": False})
    assert history.loss[-1] < history.loss[0] - 0.3
    assert evaluate(model, data.test).accuracy > 0.25  # 0.1 is chance
    for name in ("loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds"):
        assert len(getattr(history, name)) == 12, name
    assert len(history.table().splitlines()) == 12
    assert "epoch  12/12" in history.line()


def test_same_seed_same_bits_other_seed_other_bits(data, straight):
    again = make_model()
    history = fit(again, data, **OPTIONS)
    assert same(bits(again), straight[0])
    assert without_seconds(history) == straight[1]
    other = make_model()
    fit(other, data, **OPTIONS, seed=1)
    assert not same(bits(other), straight[0])


def test_one_cycle_rises_to_lr_and_falls_to_almost_nothing(data):
    rates = []
    model = make_model()
    optimizers = []
    make = train._optimizer

    def spy(*args):
        optimizers.append(make(*args))
        return optimizers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_optimizer", spy)
        fit(
            model, data, **OPTIONS, warmup=0.25, validate=False,
            on_step=lambda *_: rates.append(optimizers[0].param_groups[0]["lr"]),
        )  # fmt: skip
    assert max(rates) == pytest.approx(0.1, rel=0.05)
    assert rates.index(max(rates)) == pytest.approx(0.25 * len(rates), abs=2)
    assert rates[-1] < 0.1 / 1000


def test_norms_and_biases_do_not_decay(data):
    optimizer = train._optimizer(make_model(), {"lr": 1, "momentum": 0.9, "weight_decay": 0.1,
                                                "optimizer": "sgd"})  # fmt: skip
    decayed, free = optimizer.param_groups
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in free["params"]} == {1}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_evaluate_agrees_with_a_loop_by_hand_and_keeps_the_mode(data):
    from utils.data import normalize

    model = make_model().train()
    before = bits(model)
    metrics = evaluate(model, data.test, batch_size=100, precision="float32")
    assert model.training
    assert same(before, bits(model))
    model.eval()
    with torch.no_grad():
        logits = model(normalize(data.test.images))
    assert metrics.n == len(data.test)
    assert metrics.loss == pytest.approx(F.cross_entropy(logits, data.test.labels).item(), 1e-4)
    correct = (logits.argmax(1) == data.test.labels).float().mean().item()
    assert metrics.accuracy == pytest.approx(correct, abs=1.01 / metrics.n)


def test_history_averages_are_those_of_the_losses_seen(data):
    losses = []
    history = fit(make_model(), data, **OPTIONS, on_step=lambda s, m, loss: losses.append(loss))
    per_epoch = len(losses) // 3
    first = sum(losses[:per_epoch]) / per_epoch
    assert history.loss[0] == pytest.approx(first, rel=1e-5)  # 256 / 32: equal batches


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"lr": 0},
        {"lr": float("nan")},
        {"warmup": 1.0},
        {"label_smoothing": 1.5},
        {"optimizer": "adam"},
        {"schedule": "cosine"},
        {"precision": "half"},
        {"weight_decay": -1},
        {"batch_size": 0},
    ],
    ids=str,
)
def test_impossible_options_are_refused_in_one_sentence(data, wrong):
    with pytest.raises(ValueError, match="must be") as error:
        fit(make_model(), data, **OPTIONS | wrong)
    assert next(iter(wrong)) in str(error.value)


def test_a_batch_larger_than_the_split_is_refused(data):
    with pytest.raises(ValueError, match="batch"):
        fit(make_model(), data, **OPTIONS | {"batch_size": 10_000})


def test_nan_stops_with_the_step_and_keeps_the_last_good_checkpoint(data, tmp_path, monkeypatch):
    monkeypatch.setattr(ckpt, "SAVE_EVERY", 0.0)
    model = make_model()

    def poison(step, model, loss):
        if step == 10:
            with torch.no_grad():
                model[0].weight.fill_(float("nan"))

    # The checkpoint of step 10 itself holds the poison, so the one before it is what counts: the
    # poison is found at step 11, before anything is saved again.
    with pytest.raises(Diverged, match="step 11") as error:
        fit(model, data, **OPTIONS, on_step=poison)
    assert (error.value.step, error.value.epoch) == (11, 1)


# ---- resuming ---------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def interrupt_at(step):
    def on_step(now, model, loss):
        if now == step:
            raise Interrupted

    return on_step


@pytest.mark.parametrize("step", [0, 1, 7, 8, 9, 15, 16, 22, 23])
def test_interrupted_at_any_step_it_ends_with_the_same_bits(
    data, straight, tmp_path, monkeypatch, step
):
    monkeypatch.setattr(ckpt, "SAVE_EVERY", 0.0)  # a checkpoint after every step
    with pytest.raises(Interrupted):
        fit(make_model(), data, **OPTIONS, checkpoint=tmp_path, on_step=interrupt_at(step))
    model = make_model(seed=99)  # weights are the checkpoint's where there is one
    if step == 0:
        assert not (tmp_path / "last.pt").exists()
        model = make_model()
    torch.rand(17)  # somebody used the generator in between
    history = fit(model, data, **OPTIONS, checkpoint=tmp_path)
    assert same(bits(model), straight[0])
    assert without_seconds(history) == straight[1]


def test_a_finished_run_is_loaded_and_returned_at_once(data, straight, tmp_path):
    fit(make_model(), data, **OPTIONS, checkpoint=tmp_path)
    steps = []
    model = make_model(seed=5)
    history = fit(model, data, **OPTIONS, checkpoint=tmp_path, on_step=lambda *a: steps.append(a))
    assert steps == []
    assert same(bits(model), straight[0])
    assert without_seconds(history) == straight[1]


CHILD = """
    import sys, torch
    sys.path[:0] = [{root!r}, {tests!r}]
    from test_train import make_data, make_model, OPTIONS
    from utils import checkpoint, train
    checkpoint.SAVE_EVERY = 0.0
    def on_step(step, model, loss):
        print("step", step, flush=True)
    model = make_model()
    train.fit(model, make_data(), **OPTIONS, checkpoint={folder!r}, on_step=on_step)
    torch.save(model.state_dict(), {folder!r} + "/done.pt")
"""


def test_killed_by_the_system_it_goes_on_and_ends_with_the_same_bits(straight, tmp_path):
    code = textwrap.dedent(CHILD).format(
        root=str(ROOT), tests=str(ROOT / "tests"), folder=str(tmp_path)
    )
    seen = []
    for kills in (5, 9, None):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for count, line in enumerate(child.stdout, 1):
            seen.append(int(line.split()[1]))
            if count == kills:
                time.sleep(0.001 * kills)
                os.kill(child.pid, signal.SIGKILL)
                break
        child.stdout.read()
        child.stdout.close()
        child.wait()
    assert child.returncode == 0
    assert seen[-1] == 23
    assert len(seen) < 2 * 24 - 5  # it did not start again from nothing each time
    assert same(torch.load(tmp_path / "done.pt", weights_only=True), straight[0])


def test_a_checkpoint_of_another_run_is_refused_with_the_difference_named(data, tmp_path):
    fit(make_model(), data, **OPTIONS, checkpoint=tmp_path)
    for change, name in (({"lr": 0.3}, "option lr"), ({"seed": 4}, "option seed")):
        with pytest.raises(ckpt.CheckpointError, match=name):
            fit(make_model(), data, **OPTIONS | change, checkpoint=tmp_path)
    with pytest.raises(ckpt.CheckpointError, match="the model"):
        fit(make_model(width=9), data, **OPTIONS, checkpoint=tmp_path)
    with pytest.raises(ckpt.CheckpointError, match="the training data"):
        fit(make_model(), make_data(seed=3), **OPTIONS, checkpoint=tmp_path)
    assert fit(make_model(), data, **OPTIONS, checkpoint=tmp_path)  # and it is still there


def test_a_damaged_or_foreign_checkpoint_is_refused_and_left_alone(data, tmp_path):
    fit(make_model(), data, **OPTIONS, checkpoint=tmp_path)
    path = tmp_path / "last.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ckpt.CheckpointError, match=r"damaged or not ours.*delete it"):
        fit(make_model(), data, **OPTIONS, checkpoint=tmp_path)
    assert len(path.read_bytes()) == len(whole) // 2
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(ckpt.CheckpointError, match="no checkpoint of this course"):
        fit(make_model(), data, **OPTIONS, checkpoint=tmp_path)


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


def test_nothing_in_a_checkpoint_is_executed(data, tmp_path, monkeypatch):
    monkeypatch.setenv("EVIL", str(tmp_path / "executed"))
    (tmp_path / "last.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ckpt.CheckpointError):
        fit(make_model(), data, **OPTIONS, checkpoint=tmp_path)
    assert not (tmp_path / "executed").exists()


def test_two_runs_do_not_share_a_folder(data, tmp_path):
    with (
        ckpt.folder_lock(tmp_path),
        pytest.raises(ckpt.CheckpointError, match="another run is writing"),
    ):
        fit(make_model(), data, **OPTIONS, checkpoint=tmp_path)


def test_a_folder_that_cannot_be_written_is_said_before_training(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ckpt.CheckpointError, match="cannot write checkpoints"):
        fit(make_model(), data, **OPTIONS, checkpoint=tmp_path / "file" / "below")


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    ckpt.save(path, {"step": 1})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ckpt.CheckpointError, match="No space left"):
        ckpt.save(path, {"step": 2})
    assert ckpt.load(path, torch.device("cpu"))["step"] == 1
    assert list(tmp_path.iterdir()) == [path]
