"""`fit` and `evaluate`: what they compute, what they refuse, and that no work is ever lost."""

import os
import pickle
import shutil
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from utils import checkpoint as ckpt
from utils import options, runs, runtime
from utils.data import CIFAR10, CLASSES, Split
from utils.train import CannotCompile, Diverged, OutOfMemory, evaluate, fit


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
    make = options.make_optimizer

    def spy(*args):
        optimizers.append(make(*args))
        return optimizers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(options, "make_optimizer", spy)
        fit(
            model, data, **OPTIONS, warmup=0.25, validate=False,
            on_step=lambda *_: rates.append(optimizers[0].param_groups[0]["lr"]),
        )  # fmt: skip
    assert max(rates) == pytest.approx(0.1, rel=0.05)
    assert rates.index(max(rates)) == pytest.approx(0.25 * len(rates), abs=2)
    assert rates[-1] < 0.1 / 1000


def test_a_rise_of_a_single_step_is_no_division_by_zero():
    history = fit(make_model(), make_data(32), **OPTIONS | {"batch_size": 32})  # 3 steps, 4 * 0.25
    assert len(history.lr) == 3
    assert all(0 < lr <= 0.1 for lr in history.lr)


def test_norms_and_biases_do_not_decay(data):
    config = {"lr": 1, "momentum": 0.9, "weight_decay": 0.1, "optimizer": "sgd"}
    optimizer = options.make_optimizer(make_model(), config)
    decayed, free = optimizer.param_groups
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in free["params"]} == {1}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_rates_slow_parts_of_the_network_down_all_the_way(data):
    model, seen = make_model(), []
    first, *_, last = [name.split(".")[0] + "." for name, _ in model.named_parameters()]
    make = options.make_optimizer

    def spy(*args):
        seen.append(make(*args))
        return seen[0]

    ratios = []

    def look(*_):
        lr = {id(p): g["lr"] for g in seen[0].param_groups for p in g["params"]}
        of = {name.split(".")[0] + ".": lr[id(p)] for name, p in model.named_parameters()}
        ratios.append(of[first] / of[last])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(options, "make_optimizer", spy)
        fit(model, data, **OPTIONS, rates={first: 0.1}, validate=False, on_step=look)
    assert len(ratios) > 3
    assert ratios == pytest.approx([0.1] * len(ratios))


def test_of_two_rates_the_longer_name_counts_and_an_unknown_one_is_refused():
    config = {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.1, "optimizer": "sgd"}
    model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.nn.Linear(2, 2))
    optimizer = options.make_optimizer(model, config | {"rates": {"0.": 0.5, "0.0.weight": 0.25}})
    lr = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert [lr[id(p)] for p in model.parameters()] == [0.25, 0.5, 1, 1]
    with pytest.raises(ValueError, match=r"factor for 'body', but no parameter .* '0.0.weight'"):
        options.make_optimizer(model, config | {"rates": {"body": 0.1}})
    with pytest.raises(ValueError, match="rates is .*, but must be None, or positive factors"):
        options.check({"rates": {"0.": -1}})
    with pytest.raises(ValueError, match="rates is 0.1, but must be None, or positive factors"):
        options.check({"rates": 0.1})


def test_frozen_parameters_stay_and_all_frozen_is_refused(data):
    model = make_model()
    head = list(model.parameters())[-2:]
    for p in model.parameters():
        p.requires_grad = False
    with pytest.raises(ValueError, match="there is nothing to train"):
        fit(model, data, **OPTIONS)
    for p in head:
        p.requires_grad = True
    before = [p.clone() for p in model.parameters()]
    fit(model, data, **OPTIONS, validate=False)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert moved == [False] * (len(moved) - 2) + [True, True]


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
        {"epochs": 1.5},
        {"seed": -1},
        {"momentum": 1},
        {"lr": "high"},
        {"augment": "no"},
        {"compile": "yes"},
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


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)), r"\(32, 5\)"),
        (nn.Conv2d(3, 10, 32), r"\(32, 10, 1, 1\)"),
        (nn.LSTM(32, 10), "tuple"),
    ],
    ids=["too few", "four axes", "a tuple"],
)
def test_a_model_that_gives_no_logits_is_refused(data, model, found):
    if found == "tuple":
        model.forward = lambda x: (x, x)
    with pytest.raises(ValueError, match=f"must give logits .32, 10.*, not {found}"):
        fit(model, data, **OPTIONS)
    with pytest.raises(ValueError, match="must give logits"):
        evaluate(model, data.test)


def test_evaluate_refuses_an_unknown_precision(data):
    with pytest.raises(ValueError, match="precision is 'half', but must be"):
        evaluate(make_model(), data.test, precision="half")


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
    path.write_bytes(b"")
    with pytest.raises(ckpt.CheckpointError, match="damaged or not ours"):
        fit(make_model(), data, **OPTIONS, checkpoint=tmp_path)
    for foreign in ({"weights": torch.zeros(2)}, {"format": ckpt.FORMAT}):
        torch.save(foreign, path)
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
    ckpt.save(path, dict.fromkeys(ckpt.PARTS) | {"format": ckpt.FORMAT, "step": 1})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ckpt.CheckpointError, match="No space left"):
        ckpt.save(path, {"step": 2})
    assert ckpt.load(path, torch.device("cpu"))["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


# ---- precision --------------------------------------------------------------------------------


@pytest.mark.parametrize(("hardware", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_precision_follows_the_hardware_unless_it_is_named(monkeypatch, hardware, expected):
    monkeypatch.setattr(runtime, "has_bfloat16", lambda device: hardware)
    assert options.precision("auto", torch.device("cpu")) == expected
    assert options.precision("bfloat16", torch.device("cpu")) == "bfloat16"
    assert options.precision("float32", torch.device("cpu")) == "float32"


def test_a_split_in_place_of_all_data_is_refused(data):
    with pytest.raises(ValueError, match="data is a Split, but must be a CIFAR10"):
        fit(make_model(), data.train, **OPTIONS)


def test_training_and_evaluation_follow_the_same_rule(data, monkeypatch):
    seen = []
    model = make_model()
    model[6].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    for hardware, dtype in [(True, torch.bfloat16), (False, torch.float32)]:
        monkeypatch.setattr(runtime, "has_bfloat16", lambda device, hardware=hardware: hardware)
        history = fit(model, data, **OPTIONS | {"epochs": 1})
        assert f"torch.{history.config['precision']}" == str(dtype)
        evaluate(model, data.test)
        assert set(seen) == {dtype}
        seen.clear()


# ---- too little memory ------------------------------------------------------------------------


class Greedy(nn.Module):
    """Fails at its n-th call, holding a tensor, as a step that runs out of memory does."""

    def __init__(self, calls, fail):
        super().__init__()
        self.linear, self.calls, self.fail = nn.Linear(3, 10), calls, fail

    def forward(self, x):
        held = x.mean((2, 3))
        self.held = weakref.ref(held)
        self.calls -= 1
        if self.calls == 0:
            self.fail()
        return self.linear(held)


def cuda_is_full():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a …")


def memory_error():
    raise MemoryError


@pytest.mark.parametrize(
    ("fail", "asked"),
    [
        (lambda: torch.empty(1 << 60), ", at a request for 4611686018427387904 bytes"),
        (cuda_is_full, ", at a request for 20.00 MiB"),
        (memory_error, ""),
    ],
    ids=["CPU", "CUDA", "Python"],
)
def test_too_little_memory_is_said_in_a_sentence_and_set_free(data, tmp_path, fail, asked):
    model = Greedy(12, fail)
    words = f"memory ran out while training with batch_size=32{asked}: lower batch_size, or"
    with pytest.raises(OutOfMemory, match=words) as error:
        fit(model, data, **OPTIONS, checkpoint=tmp_path)
    assert model.held() is None, "the error must not keep the tensors of its step"
    assert len(str(error.value).splitlines()) == 1
    assert ckpt.load(tmp_path / "last.pt", torch.device("cpu"))["position"]["epoch"] == 1
    fit(Greedy(-1, fail), data, **OPTIONS, checkpoint=tmp_path)  # and it goes on from there
    with pytest.raises(OutOfMemory, match="while evaluating with batch_size=100"):
        evaluate(Greedy(1, fail), data.test, batch_size=100)
    with pytest.raises(OutOfMemory, match="while evaluating with batch_size=128"):
        fit(Greedy(9, fail), data, **OPTIONS)


def test_other_errors_stay_what_they_are(data):
    def fail():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fit(Greedy(1, fail), data, **OPTIONS)


@pytest.mark.parametrize("error", [OutOfMemory("training", 128), CannotCompile("no g++\nat all")])
def test_the_command_line_says_it_without_a_traceback(data, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(runs, "load_cifar10", lambda: data)
    monkeypatch.setattr(runs, "run", fail)
    with pytest.raises(SystemExit) as left:
        runs.main(["resnet:resnet20", "--epochs", "1", "--dry"])
    assert left.value.code == f"error: {error}"


# ---- torch.compile ----------------------------------------------------------------------------

compiler = pytest.mark.skipif(
    not (shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")),
    reason="torch.compile needs a C++ compiler, and there is none",
)


@pytest.fixture
def counted(monkeypatch):
    """Counts compilations, and leaves out the C++ compiler, which takes long."""
    graphs = []
    compile_ = torch.compile

    def count(graph, inputs):
        graphs.append([x.shape[0] for x in inputs if x.ndim == 4 and x.shape[1:] == (3, 32, 32)])
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda m, **kw: compile_(m, backend=count, **kw))
    return graphs


def test_compiled_once_for_each_size_of_batch(counted):
    data = make_data(40)
    for seed in range(5):  # more than torch would compile, if runs shared one limit
        model = make_model(width=4 + seed)
        keys = list(model.state_dict())
        options_ = OPTIONS | {"batch_size": 16, "compile": True, "seed": seed}
        assert fit(model, data, **options_).config["compile"] is True
        assert counted == [[16], [8]]
        assert list(model.state_dict()) == keys
        counted.clear()


def test_a_checkpoint_knows_whether_it_was_compiled(counted, data, tmp_path):
    fit(make_model(), data, **OPTIONS, checkpoint=tmp_path)
    state = ckpt.load(tmp_path / "last.pt", torch.device("cpu"))
    assert "option compile" not in state["identity"]  # as in those written before it was there
    with pytest.raises(ckpt.CheckpointError, match="option compile was None and is now True"):
        fit(make_model(), data, **OPTIONS, compile=True, checkpoint=tmp_path)


@compiler
def test_a_compiled_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(ckpt, "SAVE_EVERY", 0.0)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    data = make_data(40)
    options_ = OPTIONS | {"batch_size": 16, "compile": True}
    straight = make_model(width=4)
    history = fit(straight, data, **options_)
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        fit(make_model(width=4), data, **options_, checkpoint=folder, on_step=interrupt_at(5))
    model = make_model(seed=99, width=4)
    again = fit(model, data, **options_, checkpoint=folder)
    assert same(bits(model), bits(straight))
    assert without_seconds(again) == without_seconds(history)
    eager = fit(make_model(width=4), data, **OPTIONS | {"batch_size": 16})
    # Rounding differs, and so do the random numbers of dropout.
    assert history.loss == pytest.approx(eager.loss, rel=0.05)


def test_where_nothing_can_be_compiled_it_says_so(data, monkeypatch):
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    words = r"cannot be compiled here \(.*\): install a C\+\+ compiler .* or leave compile=False"
    with pytest.raises(CannotCompile, match=words) as error:
        fit(make_model(width=3), data, **OPTIONS, compile=True)
    assert len(str(error.value).splitlines()) == 1
