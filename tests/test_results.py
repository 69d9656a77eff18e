"""Recorded runs: one schema, provenance or nothing, never a half-written file."""

import copy
import json
import math
import os
import subprocess
import sys

import pytest

from utils import results, runtime

RECORD = {
    "schema": 1,
    "chapter": "toy",
    "model": "net",
    "experiment": "default",
    "seed": 0,
    "epochs": 2,
    "parameters": 10,
    "val_accuracy": 0.5,
    "test_accuracy": 0.4,
    "seconds": 1.5,
    "history": {
        "loss": [2.0, 1.0],
        "train_accuracy": [0.1, 0.2],
        "val_loss": [2.0, 1.0],
        "val_accuracy": [0.1, 0.5],
        "lr": [0.1, 0.0],
        "seconds": [1.0, 0.5],
    },
    "config": {"lr": 0.1, "batch_size": 128},
    "provenance": {
        "date": "2026-01-01",
        "device": "a machine",
        "torch": "2.0",
        "python": "3.12",
        "profile": "full",
        "data": {"source": "original archive", "synthetic": False},
        "code_hash": "0",
        "utils_hash": "0",
    },
}


def record(**changes):
    return {**copy.deepcopy(RECORD), **changes}


def test_what_is_appended_is_read_back(tmp_path):
    assert results.load("toy", tmp_path) == []
    results.append("toy", record(seed=0), tmp_path)
    results.append("toy", record(seed=1), tmp_path)
    assert results.load("toy", tmp_path) == [record(seed=0), record(seed=1)]
    assert [p.name for p in tmp_path.glob("*.json")] == ["toy.json"]
    assert {p.name for p in tmp_path.iterdir()} <= {"toy.json", ".toy.lock"}


def test_select_looks_at_the_record_and_its_configuration():
    runs = [record(seed=s, config={"lr": lr}) for s in range(2) for lr in (0.1, 0.2)]
    assert len(results.select(runs, lr=0.1)) == 2
    assert results.select(runs, lr=0.2, seed=1) == [runs[3]]
    assert results.select(runs, no_such_key=None) == []


def test_summary_is_mean_and_sample_deviation():
    s = results.summary([record(test_accuracy=v) for v in (0.86, 0.87, 0.88)])
    assert (s.n, s.min, s.max) == (3, 0.86, 0.88)
    assert s.mean == pytest.approx(0.87)
    assert s.std == pytest.approx(math.sqrt(1e-4))
    assert str(s) == "87.0 ± 1.0 % (n = 3)"
    assert str(results.summary([record()])) == "40.0 % (n = 1)"


def test_a_summary_of_nothing_says_so():
    with pytest.raises(ValueError, match="never recorded"):
        results.summary([record(test_accuracy=None)])


@pytest.mark.parametrize("missing", ["date", "device", "torch", "profile", "data", "code_hash"])
def test_a_record_without_provenance_is_refused(tmp_path, missing):
    bad = record()
    del bad["provenance"][missing]
    with pytest.raises(ValueError, match=f"provenance: '{missing}' is a required property"):
        results.append("toy", bad, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_on_stand_in_data_is_refused(tmp_path):
    bad = record()
    bad["provenance"]["data"] = {"source": "synthetic stand-in", "synthetic": True}
    with pytest.raises(ValueError, match="stand-in"):
        results.append("toy", bad, tmp_path)


def test_an_older_schema_is_named(tmp_path):
    (tmp_path / "toy.json").write_text(json.dumps([record(schema=0)]))
    with pytest.raises(ValueError, match=r"toy.json, record 0 has schema 0.*reads schema 1"):
        results.load("toy", tmp_path)


@pytest.mark.parametrize("text", ['[{"schema": 1', '{"schema": 1}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "toy.json").write_text(text)
    with pytest.raises(ValueError, match=r"toy.json.*restore it from git"):
        results.load("toy", tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    results.append("toy", record(), tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        results.append("toy", record(seed=1), tmp_path)
    monkeypatch.undo()
    assert results.load("toy", tmp_path) == [record()]
    assert [p.name for p in tmp_path.glob("*.json")] == ["toy.json"]
    assert {p.name for p in tmp_path.iterdir()} <= {"toy.json", ".toy.lock"}


def test_two_processes_may_append_at_once(tmp_path):
    command = (
        "import json, sys; from utils import results; from pathlib import Path;"
        "r = json.loads(sys.argv[1]);"
        "[results.append('toy', {**r, 'seed': s}, Path(sys.argv[2])) for s in range(20)]"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", command, json.dumps(RECORD), str(tmp_path)],
                         cwd=results.FOLDER.parent)
        for _ in range(2)
    ]  # fmt: skip
    assert [p.wait() for p in both] == [0, 0]
    assert len(results.load("toy", tmp_path)) == 40


def test_every_recorded_file_is_valid():
    for path in results.FOLDER.glob("*.json"):
        records = results.load(path.stem)
        assert records, path
        for r in records:
            assert not r["provenance"]["data"]["synthetic"]
            assert r["chapter"] == path.stem


@pytest.mark.parametrize("path", sorted(results.FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_committed_run_used_the_images_of_its_profile(path):
    for run in results.load(path.stem):
        where = run["provenance"]
        assert where["data"]["train"] == runtime.PROFILES[where["profile"]].train, run["model"]
