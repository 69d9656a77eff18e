"""The command line of `utils.train` on a toy chapter: what it records, skips and refuses."""

import json

import pytest
import torch
from toy_chapter import CHAPTER, toy_course

from utils import chapters, results, runs, train
from utils.data import load_cifar10


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    with toy_course(tmp_path, monkeypatch):
        yield tmp_path


def test_runs_are_recorded_with_their_provenance_and_skipped_when_there(place, capsys):
    command = ["toy:toy", "--epochs", "1", "--seeds", "0", "1", "--set", "lr=0.05"]
    runs.main(command)
    first = results.load("toy")
    assert [r["seed"] for r in first] == [0, 1]
    assert {r["config"]["lr"] for r in first} == {0.05}
    assert first[0]["config"]["precision"] in ("float32", "bfloat16")  # what "auto" became
    assert len(first[0]["history"]["loss"]) == 1
    assert first[0]["provenance"]["code_hash"] == chapters.load("toy").CODE_HASH
    assert first[0]["provenance"]["profile"] == "smoke"
    assert not any((place / "checkpoints").iterdir())
    runs.main(["toy:toy", "--epochs", "1", "--seeds", "0", "1", "2", "--set", "lr=0.05"])
    assert "recorded already, skipped" in capsys.readouterr().out
    again = results.load("toy")
    assert again[:2] == first
    assert [r["seed"] for r in again] == [0, 1, 2]
    # Another rate, width or experiment is another run.
    runs.main(["toy:toy", "--epochs", "1", "--model-args", "width=5", "--no-test"])
    assert results.load("toy")[3]["parameters"] != first[0]["parameters"]
    assert results.load("toy")[3]["test_accuracy"] is None


def test_an_interrupted_run_goes_on_and_records_the_same(place, monkeypatch):
    command = ["toy:toy", "--epochs", "3"]
    runs.main(command)
    whole = results.load("toy")[0]
    (place / "results" / "toy.json").unlink()
    real = train.evaluate
    calls = []

    def interrupt(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(train, "evaluate", interrupt)
    with pytest.raises(SystemExit, match="the same command goes on"):
        runs.main(command)
    assert results.load("toy") == []
    monkeypatch.setattr(train, "evaluate", real)
    runs.main(command)
    resumed = results.load("toy")[0]
    for record in (whole, resumed):
        del record["seconds"], record["history"]["seconds"]
    assert resumed == whole


def test_a_run_on_fewer_images_draws_them_by_its_seed_and_is_another_run(monkeypatch):
    seen, real, small = [], runs.fit, ["--set", "batch_size=25"]

    def spy(model, data, **options):
        seen.append(data.train)
        return real(model, data, **options)

    spy.__kwdefaults__ = real.__kwdefaults__  # where the command line looks options up
    monkeypatch.setattr(runs, "fit", spy)
    runs.main(["toy:toy", "--epochs", "1", "--images", "50", "--seeds", "0", "1", *small])
    assert [len(split) for split in seen] == [50, 50]
    assert seen[0].labels.bincount().tolist() == [5] * 10
    assert not torch.equal(seen[0].images, seen[1].images)
    assert [r["config"]["asked"] for r in results.load("toy")] == [
        {"batch_size": 25, "images": 50}
    ] * 2
    runs.main(["toy:toy", "--epochs", "1"])
    assert len(results.load("toy")) == 3
    with pytest.raises(SystemExit, match="needs 1 to as many, not 99999999"):
        runs.main(["toy:toy", "--epochs", "1", "--images", "99999999", *small])


def test_a_run_that_diverges_is_recorded_as_such(capsys):
    runs.main(["toy:toy", "--epochs", "1", "--set", "lr=1e30"])
    record = results.load("toy")[0]
    assert record["diverged"]
    assert "no longer finite" in capsys.readouterr().out
    json.dumps(record, allow_nan=False)


def test_dry_records_nothing(place):
    runs.main(["toy:toy", "--epochs", "1", "--dry"])
    assert not (place / "results").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["nothing:toy"], "there is no chapter 'nothing'; the chapters are: toy"),
        (["toy:nothing"], "chapter toy has no network 'nothing'; it exports toy"),
        (["toy"], "should be CHAPTER:NETWORK"),
        (["toy:toy", "--set", "rate=1"], "fit has no option rate; it has"),
        (["toy:toy", "--set", "lr"], "should be NAME=VALUE"),
        (["toy:toy", "--set", "lr=-1"], "lr is -1, but must be a positive number"),
        (["toy:toy", "--profile", "nonsense"], "COURSE_PROFILE is 'nonsense'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_what_cannot_be_done_is_said_in_a_sentence(command, words):
    with pytest.raises(SystemExit, match="error: ") as error:
        runs.main([*command, "--epochs", "1"])
    assert words in str(error.value)


def test_a_stand_in_gives_no_result(monkeypatch):
    monkeypatch.setattr(runs, "load_cifar10", load_cifar10)
    with pytest.raises(SystemExit, match="set CIFAR10_ROOT"):
        runs.main(["toy:toy", "--epochs", "1"])


def test_a_traceback_into_a_chapter_shows_its_line(place):
    text = CHAPTER.replace("nn.Linear(width, num_classes)", "nn.Linear(width, missing)")
    (place / "chapters" / "toy.md").write_text(text)
    import traceback

    with pytest.raises(NameError) as error:
        chapters.load("toy").toy()
    shown = "".join(traceback.format_exception(error.value))
    assert "nn.Linear(width, missing)" in shown
    assert "toy.md, line" in shown


def test_a_chapter_that_exports_nothing_says_so(place):
    (place / "chapters" / "bare.md").write_text("# Bare\n")
    with pytest.raises(ValueError, match="exports nothing"):
        chapters.load("bare")


def test_a_run_is_measured_in_the_precision_it_was_trained_in(place, monkeypatch):
    seen = []
    real = runs.evaluate
    monkeypatch.setattr(
        runs, "evaluate", lambda *args, **options: seen.append(options) or real(*args, **options)
    )
    runs.main(["toy:toy", "--epochs", "1", "--set", "precision=bfloat16"])
    runs.main(["toy:toy", "--epochs", "1", "--set", "precision=float32"])
    assert [options["precision"] for options in seen] == 2 * ["bfloat16"] + 2 * ["float32"]
