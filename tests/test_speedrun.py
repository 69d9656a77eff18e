"""chapters/speedrun.md: the pieces do what the text says, and the recorded runs cross the lines."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import statistics

import pytest
import torch
import torch.nn.functional as F

from benchmarks import time_to_accuracy
from utils import chapters, notebooks, results
from utils.data import CIFAR10, CLASSES, Split, normalize
from utils.inspect import count_macs, count_parameters

speedrun = chapters.load("speedrun")


def make_data(n=256, seed=0):
    """Images whose brightness tells their class, so that a small network learns them."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 10
    noise = torch.randint(0, 30, (n, 3, 32, 32), generator=g)
    split = Split((labels.view(-1, 1, 1, 1) * 22 + noise).to(torch.uint8), labels)
    return CIFAR10(split, split, split, CLASSES, {"source": "made here", "synthetic": True})


@pytest.fixture(scope="module")
def data():
    return make_data()


TINY = speedrun.Recipe(widths=(8, 16, 16), epochs=2, batch_size=64)


def test_counts_and_sizes():
    assert count_parameters(speedrun.SpeedNet()) == 498_104
    # By hand: 24 filters of 12 and their biases; three blocks; the head without a bias.
    w, by_hand = (24, 64, 192, 192), 24 * 12 + 24 + 192 * 10
    for a, b in itertools.pairwise(w):
        by_hand += 9 * a * b + 9 * b * b + 4 * b
    assert count_parameters(speedrun.SpeedNet((64, 192, 192))) == by_hand
    assert count_macs(speedrun.SpeedNet(), (3, 24, 24)) < 0.55 * count_macs(speedrun.SpeedNet())
    for size in (16, 20, 24, 32):
        assert speedrun.SpeedNet()(torch.zeros(2, 3, size, size)).shape == (2, 10)


def test_the_filters_whiten_the_patches_they_were_made_from():
    g = torch.Generator().manual_seed(0)
    images = F.avg_pool2d(torch.rand(64, 3, 34, 34, generator=g), 3, 1).mul(255).to(torch.uint8)
    filters = speedrun.whitening_filters(images)
    assert filters.shape == (24, 3, 2, 2)
    assert torch.equal(filters[12:], -filters[:12])
    out = F.conv2d(normalize(images).double(), filters[:12].double()).transpose(0, 1).flatten(1)
    covariance = out @ out.T / out.shape[1]
    assert (covariance - torch.diag(covariance.diag())).abs().max() < 1e-3
    assert covariance.diag()[-1] == pytest.approx(1, abs=0.01)  # epsilon is small against it


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_orthogonalize_keeps_directions_and_evens_out_sizes(shape):
    m = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = speedrun.orthogonalize(m, steps=5).float()
    assert x.shape == m.shape
    values = torch.linalg.svdvals(x)
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(m, full_matrices=False)
    assert F.cosine_similarity(x.flatten(), (u @ v).flatten(), dim=0) > 0.95


def test_muon_steps_along_minus_the_gradient_and_sets_lengths():
    w = torch.nn.Parameter(torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)))
    before = w.detach() * 8**0.5 / w.detach().norm()
    w.grad = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    speedrun.Muon([w], lr=0.1).step()
    moved = (w.detach() - before).flatten(1)
    assert (moved * w.grad.flatten(1)).sum() < 0
    assert torch.linalg.svdvals(moved).max() < 0.1 * 1.3


def test_every_crop_and_flip_is_there(data):
    images = data.train.images[:3]
    crops = speedrun.all_crops(images, torch.device("cpu"))
    assert crops.shape == (2, 3, 5, 5, 32, 32, 3)
    padded = F.pad(normalize(images), (2, 2, 2, 2), mode="reflect").bfloat16()
    for flip in (0, 1):
        wide = padded.flip(3) if flip else padded
        for dy in range(5):
            for dx in range(5):
                want = wide[:, :, dy : dy + 32, dx : dx + 32].permute(0, 2, 3, 1)
                assert torch.equal(crops[flip, :, dy, dx], want)


def test_an_epoch_shows_every_image_at_most_once_and_flips_alternate(monkeypatch, data):
    seen = []

    def spy(crops, labels, size, flipped, real=speedrun.epoch_of):
        seen.append(flipped.clone())
        got = list(real(crops, labels, size, flipped))
        assert [len(y) for _, y in got] == [64] * 4
        assert sorted(torch.cat([y for _, y in got]).tolist()) == sorted(labels.tolist())
        return got

    monkeypatch.setattr(speedrun, "epoch_of", spy)
    speedrun.train(data, TINY)
    assert torch.equal(seen[0] + seen[1], torch.ones(256, dtype=torch.int64))
    seen.clear()
    speedrun.train(data, dataclasses.replace(TINY, alternate=False))
    assert 0 < (seen[0] + seen[1] == 1).sum() < 256


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(data):
    nets = [speedrun.train(data, TINY, seed)[0].state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(nets[0][k], nets[1][k]) for k in nets[0])
    assert not all(torch.equal(nets[0][k], nets[2][k]) for k in nets[0])


@pytest.mark.parametrize("change", speedrun.CHANGES)
def test_every_trick_can_be_switched(data, change):
    recipe = dataclasses.replace(TINY, **speedrun.CHANGES[change])
    assert recipe != TINY
    net, log = speedrun.train(data, recipe)
    assert len(log["loss"]) == recipe.epochs
    assert log["loss"][-1] < log["loss"][0]
    assert not net.training


def test_small_images_come_first_and_full_size_last(data, monkeypatch):
    sizes = []
    real = speedrun.one_step
    monkeypatch.setattr(
        speedrun,
        "one_step",
        lambda net, x, *rest: (sizes.append(x.shape[2]), real(net, x, *rest))[1],
    )
    speedrun.train(data, dataclasses.replace(TINY, small=20, small_part=0.5))
    assert sizes == [20] * 4 + [32] * 4


def test_views_are_averaged(data):
    net = speedrun.SpeedNet((8, 16, 16)).eval()
    images = data.test.images[:8]
    one, two, six = (speedrun.predict(net, images, v) for v in (1, 2, 6))
    mirrored = speedrun.predict(net, images.flip(3), 1)
    torch.testing.assert_close(two, (one + mirrored) / 2)
    assert six.shape == (8, 10)
    assert not torch.equal(six, two)


def test_the_whole_script_is_short():
    cells = notebooks.read_chapter(chapters.FOLDER / "speedrun.md").cells
    code = "\n".join(c.source for c in cells if "export" in c.metadata.get("tags", []))
    docs = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            docs |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = [x for i, x in enumerate(code.splitlines(), 1) if x.strip() and i not in docs]
    assert len(lines) <= 190


# ---- what was recorded -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "seconds"), [("85 %", 100), ("88 %", 240), ("90 %", 540)])
def test_recorded_runs_cross_their_line_in_time(name, seconds):
    runs = results.select(results.load("speedrun"), experiment=name)
    asked = time_to_accuracy._asked(speedrun.RECIPES[name])
    runs = [r for r in runs if r["config"]["asked"] == asked]
    cpu = [r for r in runs if "2 cores" in r["provenance"]["device"]]
    assert sorted(r["seed"] for r in cpu) == [0, 1, 2]
    assert statistics.mean(r["test_accuracy"] for r in cpu) >= float(name[:2]) / 100
    assert statistics.mean(r["seconds"] for r in cpu) <= seconds


def test_every_change_was_recorded_with_three_seeds():
    records = results.load("speedrun")
    for name in (time_to_accuracy.EVERYTHING, *speedrun.CHANGES):
        runs = results.select(records, experiment=f"ablation: {name}")
        assert sorted(r["seed"] for r in runs) == [0, 1, 2], name
        assert all(r["test_accuracy"] is None for r in runs)


def test_the_runner_skips_what_is_recorded_and_writes_the_table(tmp_path, monkeypatch):
    data = dataclasses.replace(make_data(), provenance={"source": "made here", "synthetic": False})
    monkeypatch.setattr(time_to_accuracy.common, "images", lambda profile: data)
    monkeypatch.setattr(speedrun, "RECIPES", {"85 %": TINY})
    main = time_to_accuracy.main
    record = main(profile="smoke", folder=tmp_path, results_folder=tmp_path, seeds=(0, 1))
    assert [row["name"] for row in record["rows"]] == ["speedrun, 85 %"]
    assert (tmp_path / "time_to_accuracy.json").is_file()
    assert len(results.load("speedrun", tmp_path)) == 2
    main(profile="smoke", folder=tmp_path, results_folder=tmp_path, seeds=(0, 1))
    assert len(results.load("speedrun", tmp_path)) == 2
    monkeypatch.setattr(speedrun, "CHANGES", {"no smoothing": {"smoothing": 0.0}})
    monkeypatch.setattr(time_to_accuracy, "ABLATION_EPOCHS", 1)
    assert main(True, (0,), "smoke", tmp_path, tmp_path) is None
    assert len(results.load("speedrun", tmp_path)) == 4
