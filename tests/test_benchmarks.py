"""The benchmarks measure alternately, compute what they say, and are shown on their page."""

import importlib
import inspect
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import torch

from benchmarks import (
    book,
    common,
    memory,
    networks,
    pipeline,
    records,
    same_accuracy,
    settings,
    training,
)
from benchmarks.apart import apart
from benchmarks.common import Variant
from utils import runtime
from utils.batches import _all_crops, _start_of
from utils.data import CIFAR10, CLASSES, Split
from utils.inspect import count_macs, count_parameters

ROOT = Path(__file__).resolve().parents[1]
NAMES = re.search(r"^BENCH = (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
ROWS = [
    records.row("the old way", [10.0, 20.0, 40.0], [10.0, 20.0, 40.0], "slow"),
    records.row("the new way", [30.0, 20.0, 80.0], [10.0, 20.0, 40.0]),
]


def random_split(n):
    random = torch.Generator().manual_seed(n)
    images = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=random)
    return Split(images, torch.arange(n) % 10)


@pytest.fixture
def tiny(monkeypatch):
    """A handful of random images instead of CIFAR-10."""
    provenance = {"source": "random numbers", "synthetic": True, "train": 96, "val": 10, "test": 10}
    splits = {"train": random_split(96), "val": random_split(10), "test": random_split(10)}
    data = CIFAR10(**splits, classes=CLASSES, provenance=provenance)
    monkeypatch.setattr(common, "images", lambda profile: data)
    return data


def check(record, folder, out):
    """What holds for the record of every benchmark, and for what it printed and wrote."""
    path = folder / f"{record['name']}.json"
    assert records.load(path) == json.loads(json.dumps(record))
    for rows in records.groups(record).values():
        for row in rows:
            assert row == records.row(
                row["name"], row["values"], rows[0]["values"], row["note"], row["group"]
            )
            assert any(line.startswith(row["name"]) for line in out.splitlines())
        assert rows[0]["ratio"] == 1
    assert runtime.machine()["device"] in out


# ---- how it is measured ------------------------------------------------------------------------


def test_ratio_is_the_median_of_the_ratios_of_each_round():
    # 3, 1 and 2; the ratio of the medians would be 1.5, that of the means about 1.86.
    assert ROWS[1]["ratio"] == 2
    assert (ROWS[1]["median"], ROWS[1]["min"], ROWS[1]["max"]) == (30, 20, 80)
    assert ROWS[1]["values"] == [30, 20, 80]
    assert ROWS[0]["ratio"] == 1


def test_variants_take_turns_in_a_new_order_each_round():
    ran = []
    variants = [Variant(name, lambda name=name: ran.append(name) or len(ran)) for name in "abcd"]
    values = common.alternately(variants, 6)
    rounds = [ran[i : i + 4] for i in range(0, 24, 4)]
    assert all(sorted(one) == list("abcd") for one in rounds)
    assert len(set(map(tuple, rounds))) > 3
    assert all(one in ran[4 * i : 4 * i + 4] for i in range(6) for one in "abcd")
    for name, mine in zip("abcd", values, strict=True):
        assert mine == [i + 1 for i, one in enumerate(ran) if one == name]


def test_rows_compare_with_the_first_variant(monkeypatch):
    numbers = {"a": iter([1.0, 2.0]), "b": iter([3.0, 8.0])}
    variants = [Variant(name, lambda name=name: next(numbers[name]), "n") for name in numbers]
    first, second = common.rows(variants, 2, "group")
    assert (first["ratio"], second["ratio"]) == (1, 3.5)
    assert (second["note"], second["group"]) == ("n", "group")


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds must be at least 1, not 0"):
        common.alternately([], 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(13_033.4, "13,033"), (99.96, "100"), (21.66, "21.7"), (1, "1.00"), (0.05123, "0.0512")],
)
def test_numbers_in_words(value, text):
    assert records.number(value) == text


# ---- what is measured --------------------------------------------------------------------------


def test_every_way_to_crop_gives_the_same_image():
    split = random_split(2)
    crops = _all_crops(split.images, torch.float32)
    for make in (pipeline.by_pixel, pipeline.by_view):
        step = make(split)
        for flip, index, dy, dx in itertools.product((0, 1), (0, 1), (0, 3, 8), (0, 5, 8)):
            got = step(*(torch.tensor([i]) for i in (flip, index, dy, dx)))
            start = _start_of(flip, torch.tensor(index), dy, dx, 2)
            want = crops[start].permute(2, 0, 1)
            assert got.is_contiguous(memory_format=torch.channels_last)
            assert torch.allclose(got[0], want, atol=1e-5), (make.__name__, flip, dy, dx)


def test_epochs_show_every_image_once():
    seen = []
    split = random_split(20)

    def step(flip, index, dy, dx):
        seen.extend(index.tolist())
        assert set(flip.tolist()) <= {0, 1}
        assert {*dy.tolist(), *dx.tolist()} <= set(range(9))
        return split.images[index]

    sizes = [len(y) for _, y in pipeline.Epochs(split, 8, step)]
    assert sizes == [8, 8, 4]
    assert sorted(seen) == list(range(20))


@pytest.mark.parametrize(
    ("network", "parameters", "macs"),
    [
        (networks.NETWORKS[0], 269_722, 40.6),
        (networks.NETWORKS[1], 408_938, 15.6),
        (networks.NETWORKS[2], 161_002, 59.7),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_networks(network, parameters, macs):
    model = network.build()
    assert count_parameters(model) == parameters
    assert count_macs(model, (3, 32, 32)) / 1e6 == pytest.approx(macs, abs=0.05)
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


# ---- every benchmark, tiny ---------------------------------------------------------------------


def test_pipeline(tiny, tmp_path, capsys):
    record = pipeline.main(batch_size=32, rounds=2, workers=0, folder=tmp_path)
    check(record, tmp_path, capsys.readouterr().out)
    assert len(record["rows"]) == 6
    assert record["data"]["train"] == 96


def test_training(tiny, tmp_path, capsys):
    sizes = dict(images=64, warmup=1, batch_size=16, rounds=1, workers=0)
    record = training.main(**sizes, compiled=False, networks=1, folder=tmp_path)
    check(record, tmp_path, capsys.readouterr().out)
    assert [row["name"] for row in record["rows"]][-1] == "fit, as the course uses it"
    assert {row["group"] for row in record["rows"]} == {"ResNet-20"}


def test_same_accuracy_goes_on_where_it_stopped(tiny, tmp_path, capsys, monkeypatch):
    sizes = dict(epochs=1, batch_size=16, workers=0, folder=tmp_path)
    record = same_accuracy.main(seeds=[0], **sizes)
    check(record, tmp_path, capsys.readouterr().out)
    assert [(run["way"], run["seed"]) for run in record["runs"]].count(("fit", 0)) == 1

    trained = []
    for name in ("usual_loop", "with_fit"):
        monkeypatch.setattr(same_accuracy, name, lambda *a, name=name: trained.append(name) or 1.0)
    again = same_accuracy.main(seeds=[0], **sizes)
    assert (again["runs"], trained) == (record["runs"], [])

    (kept := json.loads((tmp_path / "same_accuracy.json").read_text()))["runs"].pop()
    kept["rows"] = kept["rows"][:1]
    (tmp_path / "same_accuracy.json").write_text(json.dumps(kept))
    missing = same_accuracy.main(seeds=[0], **sizes)
    assert len(trained) == 1
    assert missing["runs"][0] == record["runs"][0]

    other = same_accuracy.main(seeds=[0], **{**sizes, "epochs": 2})
    assert len(trained) == 3, "other settings are other runs"
    assert other["settings"]["epochs"] == 2


def test_mean_and_spread():
    assert same_accuracy.mean_and_spread([80.0, 81.0, 82.0]) == "mean 81.00 ± 1.00 (n = 3)"
    assert same_accuracy.mean_and_spread([80.0]) == "mean 80.00 (n = 1)"


def test_book(tmp_path, capsys, monkeypatch):
    builds = []

    def build(root):
        said = [page.read_text().count("One more line.") for page in root.glob("chapters/*.md")]
        builds.append((root.name, (root / "_build").exists(), sum(said)))
        (root / "_build").mkdir(exist_ok=True)
        return 1.0 + len(builds)

    def configured(root):
        make_plain(root)
        text = (root / "_config.yml").read_text()
        assert "execute_notebooks: force" in text
        assert "sphinx_ext.recordings" not in text

    make_plain = book.make_plain
    monkeypatch.setattr(book, "build", build)
    monkeypatch.setattr(book, "make_plain", configured)
    record = book.main(rounds=2, folder=tmp_path)
    check(record, tmp_path, capsys.readouterr().out)
    assert builds[0] == ("ours", False, 0)
    assert [one for one in builds if one[0] == "plain"] == [("plain", False, 0)] * 2
    assert sum(not there for name, there, _ in builds[1:] if name == "ours") == 2
    assert max(lines for name, _, lines in builds if name == "ours") == 2


def test_memory(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "peak_of", lambda case, profile, steps: 100.0 + len(case))
    record = memory.main(rounds=1, folder=tmp_path)
    check(record, tmp_path, capsys.readouterr().out)
    assert len(record["rows"]) == len(memory.CASES)


def test_training_on_all_images_was_measured_to_take_less_than_two_gib():
    record = records.load(records.FOLDER / "memory.json")
    (row,) = [row for row in record["rows"] if row["name"] == "fit and evaluate"]
    assert record["settings"]["profile"] == "full"
    assert max(row["values"]) < 2048


def test_memory_of_a_process_of_its_own():
    assert 50 < memory.peak_of("workers", "smoke", 1) < 10_000


@pytest.mark.parametrize("case", ["torch", "data", "batches", "fit"])
def test_memory_of_each_part(case):
    assert 50 < memory.do(case, "smoke", 1) < 10_000


def test_memory_says_what_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    with pytest.raises(RuntimeError, match="Measuring the memory of 'data' failed") as error:
        memory.peak_of("data", "smoke", 1)
    assert "No module named" in str(error.value)


def test_peak_counts_what_is_touched():
    before = memory.peak()
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    assert memory.peak() >= before
    assert memory.peak() > block.numel() / 2**20


def test_settings(capsys):
    sizes = ["--batch-size", "4", "--images", "4", "--rounds", "1"]
    settings.main(["resnet:resnet20", *sizes, "--no-compile"])
    out = capsys.readouterr().out
    assert re.search(r"^float32 .*\n^bfloat16 ", out, re.MULTILINE)
    assert "resnet:resnet20, batch 4" in out


def test_compiled_code_of_earlier_runs_is_not_taken(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "before")
    with training.empty_compiler_cache():
        assert not list(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).iterdir())
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "before"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    with training.empty_compiler_cache():
        pass
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


@pytest.mark.parametrize(
    ("name", "said"),
    [("resnet:resnet999", "exports"), ("resnet", "CHAPTER:NETWORK"), ("nothing:x", "no chapter")],
)
def test_settings_of_what_is_not_there(name, said):
    with pytest.raises(SystemExit, match=said):
        settings.main([name])


def test_where_torch_cannot_compile_the_rows_are_left_out(monkeypatch, capsys):
    def refuse(function):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    assert not training.can_compile()
    assert "rows are left out: no C++ compiler" in capsys.readouterr().err


# ---- what is recorded --------------------------------------------------------------------------


def test_a_record_that_breaks_the_schema_is_refused(tmp_path):
    path = tmp_path / "pipeline.json"
    with pytest.raises(ValueError, match=r"pipeline\.json is not in .*: run make bench BENCH=pipe"):
        records.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"pipeline\.json is not JSON"):
        records.load(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"pipeline\.json is not a valid measurement"):
        records.load(path)
    with pytest.raises(ValueError, match="not a valid measurement"):
        records.save({}, tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()
    jsonschema.Draft202012Validator.check_schema(records.SCHEMA)


@pytest.mark.parametrize("name", NAMES)
def test_committed_measurements(name):
    """Whole ones, with the sizes that `make bench` takes, from real images."""
    main = importlib.import_module(f"benchmarks.{name}").main
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(main).parameters.items()
        if key not in ("folder", "root", "results_folder", "ablation")
    }
    files = [*records.FOLDER.glob(f"{name}.json"), *records.FOLDER.glob(f"{name}-*.json")]
    assert files, f"run: make bench BENCH={name}"
    for path in files:
        record = records.load(path)
        assert record["name"] == name
        assert record["settings"] == json.loads(json.dumps(defaults)), f"make bench BENCH={name}"
        assert not (record["data"] or {}).get("synthetic")
        for rows in records.groups(record).values():
            for row in rows:
                assert len(row["values"]) == record["rounds"]
                assert row == records.row(
                    row["name"], row["values"], rows[0]["values"], row["note"], row["group"]
                )


def test_every_benchmark_is_shown_and_run():
    page = (ROOT / "performance.md").read_text()
    shown = re.findall(r"^```\{benchmark\} (\w+)\n```$", page, re.MULTILINE)
    assert sorted(shown) == sorted(NAMES)


def test_make_bench_says_first_that_nothing_else_should_run():
    done = subprocess.run(
        ["make", "-n", "bench", "BENCH=pipeline"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0 < done.stdout.index("Nothing else should run") < done.stdout.index("-m benchmarks.")
    assert "for name in pipeline;" in done.stdout


# ---- the page ----------------------------------------------------------------------------------


def test_the_page_shows_tables_and_stops_where_one_is_missing(tmp_path):
    record = {
        "schema": records.SCHEMA_VERSION,
        "name": "toy",
        "date": "2026-01-02",
        "machine": {"device": "Toy CPU", "torch": "2.9.0", "python": "3.12.1", "platform": "Toy"},
        "versions": {"torchvision": "0.24.0"},
        "data": {"source": "image files (JPEG copy)", "synthetic": False, "sha256": "0123456789"},
        "unit": "images a second",
        "rounds": 3,
        "settings": {},
        "rows": ROWS,
    }
    records.save(record, tmp_path / "benchmarks" / "recorded" / "toy.json")
    other = {**record, "machine": {**record["machine"], "device": "Toy GPU"}}
    records.save(other, tmp_path / "benchmarks" / "recorded" / "toy-cuda.json")
    (tmp_path / "conf.py").write_text('extensions = ["myst_parser", "sphinx_ext.benchmarks"]\n')
    (tmp_path / "index.md").write_text(
        "# Page\n\n```{benchmark} toy\n```\n\n```{benchmark} not_measured\n```\n"
    )
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    command += [tmp_path, tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if "index.md" in line]
    assert "index.md:6" in said
    assert "{benchmark} not_measured: not_measured.json is not in" in said
    assert said.split("[")[0].rstrip().endswith("run make bench BENCH=not_measured")

    html = (tmp_path / "out" / "index.html").read_text()
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html))
    assert "the new way 30.0 20.0..80.0 2.00" in text
    assert "Images a second" in text
    assert text.index("on Toy CPU") < text.index("on Toy GPU")
    assert "Measured 2 January 2026 on Toy CPU · Python 3.12.1 · torch 2.9.0" in text
    assert "3 rounds · data: image files (JPEG copy) 01234567" in text
    assert "<th" in html
    assert not re.search(r"<th[^>]*>\s*(<p>\s*</p>)?\s*</th>", html)


def two_variants(first, second):
    runtime.keep_memory()
    return [Variant("first", lambda: first, "a note"), Variant("second", lambda: second)]


def breaks_when_it_runs():
    return [Variant("broken", lambda: 1 / 0)]


def test_variants_measured_apart_come_from_another_process():
    with apart(two_variants, 1.5, 2.5) as variants:
        assert [(v.name, v.note, v.run()) for v in variants] == [
            ("first", "a note", 1.5),
            ("second", "", 2.5),
        ]


def test_what_breaks_apart_says_so(capfd):
    with apart(breaks_when_it_runs) as (broken,), pytest.raises(RuntimeError, match="has ended"):
        broken.run()
    assert "ZeroDivisionError" in capfd.readouterr().err
