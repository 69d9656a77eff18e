"""The files of the network in the browser; that it answers as it should, test_browser.py asks."""

import gzip
import hashlib
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from utils import chapters, live_network, results
from utils.batches import MEAN, STD, Split
from utils.inspect import count_parameters
from utils.sources import CLASSES

FOLDER = live_network.FOLDER
# Of the files in the npm package onnxruntime-web 1.18.0.
RUNTIME = {
    "ort.wasm-core.min.js": "9f26054b7e08ff6e04a4320232c846c7900a93ecd50ada560281b00bfc4d730c",
    "ort-wasm.wasm.gz": "ebe7ec327f83aabc07e3b58487522481ccff10941f24182ab0428d0123652ff2",
}
PAGE = (live_network.runs.ROOT / "live.md").read_text("utf-8").replace("\u00a0", " ")


@pytest.fixture(scope="module")
def about():
    return json.loads((FOLDER / "resnet20.json").read_text("utf-8"))


def test_the_network_is_the_one_described(about):
    model = FOLDER / "resnet20.onnx"
    assert about["onnx"]["bytes"] == model.stat().st_size <= 1_500_000
    assert about["onnx"]["sha256"] == live_network.sha256(model)
    assert about["parameters"] == count_parameters(chapters.load("resnet").resnet20()) == 269_722
    assert about["classes"] == list(CLASSES)
    assert about["mean"] == pytest.approx(MEAN)
    assert about["std"] == pytest.approx(STD)
    assert b".py" not in model.read_bytes(), "it names files of the machine that wrote it"


def test_it_was_trained_as_the_recorded_runs_and_is_as_good(about):
    runs = results.select(results.load("resnet"), model="resnet20", experiment="default")
    for run in runs:
        assert run["epochs"] == about["epochs"]
        assert run["config"]["asked"] == about["options"]
        assert run["provenance"]["profile"] == about["provenance"]["profile"] == "full"
        assert run["provenance"]["data"] == about["provenance"]["data"]
    # Both on 10,000 images, so that their difference has a standard error of half a point.
    assert abs(results.summary(runs).mean - about["test_accuracy"]) < 0.015


def test_the_page_says_what_is_true_of_the_network(about):
    said = re.search(r"right about ([\d.]+) % of the 10,000 test images", PAGE)[1]
    assert float(said) == round(100 * about["test_accuracy"], 1)
    assert f"{about['parameters']:,} weights, {about['epochs']} passes" in PAGE
    assert ("JPEG copy" in PAGE) == ("JPEG copy" in about["provenance"]["data"]["source"])
    for name, size in re.findall(r"^\| `(\S+)` \| ([\d.]+) MB", PAGE, re.MULTILINE):
        assert float(size) == round((FOLDER / name).stat().st_size / 1e6, 1), name


def test_the_images_are_two_of_each_class_and_the_figure_shows_all(about):
    assert about["labels"] == [c for c in range(10) for _ in range(2)]
    assert np.array(about["logits"]).shape == (20, 10)
    assert np.asarray(Image.open(FOLDER / "images.png")).shape == (32, 20 * 32, 3)
    wrong = sum(
        int(np.argmax(z)) != y for z, y in zip(about["logits"], about["labels"], strict=True)
    )
    alts = [PAGE, (chapters.FOLDER / "resnet.md").read_text("utf-8")]
    number = ["None", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight"][wrong]
    for text in alts:
        alt = " ".join(re.search(r"alt:(.*?)\n(?:---|:width)", text[text.index("answers.png") :],
                                 re.DOTALL)[1].split())  # fmt: skip
        assert f"{number} of the answers" in alt, alt


def test_the_runtime_is_what_its_publisher_gives(about):
    for name, expected in RUNTIME.items():
        data = (FOLDER / name).read_bytes()
        data = gzip.decompress(data) if name.endswith(".gz") else data
        assert hashlib.sha256(data).hexdigest() == expected, name
    script = (FOLDER / "ort.wasm-core.min.js").read_text("utf-8")
    assert "ONNX Runtime Web v1.18.0" in script[:200]
    assert "ONNX Runtime Web](https://onnxruntime.ai/) 1.18.0" in PAGE
    licence = (FOLDER / "ort.LICENSE.txt").read_text("utf-8")
    assert licence.startswith("MIT License\n\nCopyright (c) Microsoft Corporation")
    assert "protobuf" in (FOLDER / "ort.ThirdPartyNotices.txt").read_text("utf-8")


# ---- what writes the files ----------------------------------------------------------------------


def test_the_first_of_each_class_are_found_whatever_their_order():
    labels = torch.tensor([2, 0, 1, 1, 0, 2, 0, 1, 2])
    images = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 3, 32, 32)
    found = live_network.first_of_each_class(Split(images, labels))
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.images[:, 0, 0, 0].tolist() == [1, 4, 2, 3, 0, 5]


def test_the_sprite_has_the_images_beside_each_other():
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    sheet = live_network.sprite(images)
    for i, image in enumerate(images):
        assert np.array_equal(sheet[:, 32 * i : 32 * i + 32], image.permute(1, 2, 0))


def test_the_figure_marks_what_is_wrong(tmp_path, monkeypatch):
    shown = {}
    grid = live_network.plot.image_grid

    def kept(images, titles, **options):
        shown.update(images=images, titles=titles)
        return grid(images, titles, **options)

    monkeypatch.setattr(live_network.plot, "image_grid", kept)
    labels = torch.arange(10).repeat_interleave(2)
    images = (10 * labels + torch.arange(20) % 2).to(torch.uint8).view(20, 1, 1, 1)
    logits = 20.0 * torch.eye(10)[labels]
    logits[3] = logits[0]  # the second automobile is taken for an airplane
    live_network.picture(
        Split(images.expand(20, 3, 32, 32), labels), logits, CLASSES, tmp_path / "a.png"
    )
    pixels = shown["images"][:, 0, 0, 0].tolist()
    assert pixels[:10] == [0, 10, 20, 30, 40, 1, 11, 21, 31, 41]
    assert shown["titles"][:2] == ["airplane 100%", "automobile 100%"]
    assert [title for title in shown["titles"] if "✗" in title] == ["✗ airplane 100%"]
    assert shown["titles"].index("✗ airplane 100%") == pixels.index(11)
    with Image.open(tmp_path / "a.png") as written:
        assert written.width > 800


def test_the_description_is_json_with_a_line_an_entry(about):
    text = live_network.written(about)
    assert json.loads(text) == about
    assert text == (FOLDER / "resnet20.json").read_text("utf-8")
    assert len(text.splitlines()) == len(about) + 1 + 20 + 2


def test_without_the_packages_for_the_export_it_says_how_to_get_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SystemExit) as stopped:
        live_network.main()
    assert str(stopped.value) == "error: the export needs onnx: pip install onnx onnxscript"
