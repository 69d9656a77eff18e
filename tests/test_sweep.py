"""Many runs by one command: which are made, in which order, and by whom."""

import contextlib
import subprocess
import sys

import filelock
import pytest
from toy_chapter import toy_course

from utils import results, runs, sweep
from utils.history import OutOfMemory

SWEEP = [
    "toy:toy",
    "--over",
    "width=2-3",
    "num_classes=10,11",
    "--epochs",
    "1",
    "--seeds",
    "0",
    "1",
]


def made():
    asked = [(r["seed"], r["config"]["asked"]) for r in results.load("toy")]
    return [(seed, a["model.width"], a["model.num_classes"]) for seed, a in asked]


EVERYTHING = [(seed, w, c) for seed in (0, 1) for w in (2, 3) for c in (10, 11)]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    with toy_course(tmp_path, monkeypatch):
        yield tmp_path


def test_every_combination_of_every_seed_is_recorded_in_order_and_once(capsys):
    sweep.main(SWEEP)
    assert "8 runs to do" in capsys.readouterr().out
    assert made() == EVERYTHING
    sweep.main(SWEEP)
    assert "0 runs to do" in capsys.readouterr().out
    assert made() == EVERYTHING
    # The same as the single command would have recorded.
    runs.main(["toy:toy", "--epochs", "1", "--model-args", "width=3", "num_classes=11"])
    assert "recorded already" in capsys.readouterr().out


def test_an_interrupted_sweep_goes_on(monkeypatch):
    real = runs.fit

    def interrupted(*args, **kwargs):
        if len(results.load("toy")) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(runs, "fit", interrupted)
    with pytest.raises(SystemExit, match="the same command goes on"):
        sweep.main(SWEEP)
    assert made() == EVERYTHING[:3]
    monkeypatch.setattr(runs, "fit", real)
    sweep.main(SWEEP)
    assert made() == EVERYTHING


def test_what_another_process_has_in_hand_is_left_to_it(place, monkeypatch, capsys):
    real, held = runs.run, contextlib.ExitStack()

    def run(*args):
        if not results.load("toy"):  # another process takes the last run while this makes the first
            last = sweep.plan(sweep._parser().parse_args(SWEEP))[-1]
            folder = runs.checkpoint_folder("toy", last.key)
            held.enter_context(filelock.FileLock(folder.with_name(f"{folder.name}.claim")))
        return real(*args)

    monkeypatch.setattr(runs, "run", run)
    with held:
        sweep.main(SWEEP)
        assert "seed 1: another process is at it" in capsys.readouterr().out
        assert made() == EVERYTHING[:-1]
    sweep.main(SWEEP)
    assert made() == EVERYTHING
    assert not any((place / "checkpoints").iterdir())


def test_one_run_that_fails_does_not_stop_the_others(monkeypatch, capsys):
    real = runs.fit

    def fit(model, *args, **kwargs):
        if model[0].out_channels == 2:
            raise OutOfMemory("training", 128)
        return real(model, *args, **kwargs)

    monkeypatch.setattr(runs, "fit", fit)
    with pytest.raises(SystemExit, match="error: 4 of 8 runs failed, see above"):
        sweep.main(SWEEP)
    assert made() == [run for run in EVERYTHING if run[1] == 3]
    assert capsys.readouterr().out.count("memory ran out while training") == 4


def test_several_processes_are_given_the_same_command(monkeypatch):
    started = []

    def popen(command, env, **options):
        started.append(command)
        assert env["OMP_NUM_THREADS"] == "1"
        status = len(started)
        return subprocess.Popen([sys.executable, "-c", f"raise SystemExit({status})"])

    monkeypatch.setattr(sweep.runtime, "cores", lambda: 2)
    monkeypatch.setattr(sweep, "start", popen)
    with pytest.raises(SystemExit) as status:
        sweep.main([*SWEEP, "--processes", "2"])
    assert status.value.code == 2
    assert len(started) == 2
    for command in started:
        assert command[1:3] == ["-m", "utils.sweep"]
        again = sweep._parser().parse_args(command[3:])
        assert again.processes == 1
        assert sweep._parser().parse_args(SWEEP) == again


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["toy:toy", "--over", "width"], "'width' should be NAME=VALUES, as in width=8,16"),
        (["toy:toy", "--over", "size=1,2"], "unexpected keyword argument 'size'; it takes"),
        (["toy:toy", "toy:nothing"], "chapter toy has no network 'nothing'"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_cannot_be_done_is_said_before_anything_is_trained(words, says):
    with pytest.raises(SystemExit, match="error: ") as error:
        sweep.main([*words, "--epochs", "1"])
    assert says in str(error.value)
    assert results.load("toy") == []
