"""The comparison of all networks: what was recorded for it, and the tests it is judged by."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from utils import chapters, notebooks, results
from utils.inspect import count_parameters

conclusion = chapters.load("conclusion")
NAMES = list(conclusion.NETWORKS)
TEXT = (Path(__file__).resolve().parents[1] / "chapters" / "conclusion.md").read_text("utf8")


# ---- the networks --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_networks_are_within_the_budget(name):
    net = conclusion.build(name)
    assert abs(count_parameters(net) / 0.27e6 - 1) < 0.1
    with torch.no_grad():
        assert net.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_no_chapters_network_is_left_out():
    """Every `<chapter>_cifar` of the book, and the three networks with names of their own."""
    compared = set(conclusion.NETWORKS.values())
    assert len(compared) == len(NAMES) == 15
    there = {
        (chapter, f"{chapter}_cifar")
        for chapter in notebooks.chapters()
        if f"def {chapter}_cifar(" in (chapters.FOLDER / f"{chapter}.md").read_text("utf8")
    }
    own = {("resnet", "resnet20"), ("anynet", "regnet_cifar"), ("convnext", "vit_cifar")}
    assert there | own == compared


def test_the_command_in_the_text_trains_these_networks():
    command = re.search(r"python -m utils\.sweep alexnet:.*?\n```", TEXT, re.DOTALL)[0]
    assert re.findall(r"\w+:\w+", command) == [":".join(v) for v in conclusion.NETWORKS.values()]
    asked = dict(conclusion.recipe(conclusion.runs("ResNet-20")[0]))
    given = dict(re.findall(r"(\w+)=(\S+)", command))
    assert given == {k: str(v) for k, v in asked.items()}


# ---- the records ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_comparison_is_complete(name):
    runs = conclusion.runs(name)
    seeds = [r["seed"] for r in runs]
    assert len(set(seeds)) == len(seeds) >= 3
    for r in runs:
        results.validate(r)
        assert r["epochs"] == 6
        assert r["test_accuracy"] is not None
        assert not r["diverged"]
        assert np.isfinite(r["history"]["loss"]).all()
        assert r["parameters"] == count_parameters(conclusion.build(name))
        data = r["provenance"]["data"]
        assert not data["synthetic"]
        assert (data["train"], data["test"]) == (45_000, 10_000)
        assert r["provenance"]["profile"] == "full"


def test_one_recipe_one_kind_of_machine_and_the_same_images():
    runs = [r for name in NAMES for r in conclusion.runs(name)]
    assert len({conclusion.recipe(r) for r in runs}) == 1
    assert len({str(sorted(r["config"].items())) for r in map(without_seed, runs)}) == 1
    assert len({r["provenance"]["device"] for r in runs}) == 1, "seconds are of one machine"
    assert len({r["provenance"]["data"].get("sha256") for r in runs}) == 1


def without_seed(run):
    return {**run, "config": {k: v for k, v in run["config"].items() if k != "seed"}}


def test_the_recipe_was_chosen_on_validation_images():
    table = conclusion.trials()
    tried = set.intersection(*map(set, table.values()))  # with every network
    assert len(tried) >= 2
    chosen = conclusion.recipe(conclusion.runs("ResNet-20")[0])
    assert chosen in tried
    assert all(r["test_accuracy"] is None for n in NAMES for r in conclusion.runs(n, "recipe"))


@pytest.mark.parametrize("name", NAMES)
def test_the_runs_of_the_chapters_own_that_are_set_beside_it(name):
    runs = conclusion.runs(name, "default")
    if name in ("batch norm", "layer norm"):  # whose chapters compare norms, not networks
        assert not runs
        return
    assert len({r["seed"] for r in runs}) == len(runs) >= 3
    for r in runs:
        assert r["epochs"] > 6
        assert r["test_accuracy"] is not None
        assert not r["provenance"]["data"]["synthetic"]


@pytest.mark.parametrize("name", ["GoogLeNet", "ResNet-20", "DenseNet"])
def test_the_long_runs_differ_from_the_chapters_own_in_their_epochs_alone(name):
    """A quarter of the 180 epochs of the course that they are set beside."""
    runs = conclusion.runs(name, "long")
    assert len({r["seed"] for r in runs}) == len(runs) >= 1
    own = conclusion.runs(name, "default")[0]
    for r in runs:
        assert r["epochs"] == 180 // 4
        assert r["test_accuracy"] is not None
        assert conclusion.recipe(r) == conclusion.recipe(own)
        assert r["provenance"]["data"]["sha256"] == own["provenance"]["data"]["sha256"]
    assert f"{100 * results.summary(runs).mean:.2f} %" in TEXT


def test_nothing_is_left_to_be_filled_in():
    assert not re.findall(r"@@[A-Z0-9-]+", TEXT)


# ---- the statistics ------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 4.0, 40.0])
def test_the_tails_of_students_distribution(t):
    """Where they have closed forms: with 1, 2 and 4 degrees of freedom, and in the limit."""
    x = t / math.sqrt(t * t + 4)
    want = {
        1: 1 - 2 / math.pi * math.atan(t),
        2: 1 - t / math.sqrt(2 + t * t),
        4: 1 - 1.5 * x + 0.5 * x**3,
    }
    for df, p in want.items():
        for sign in (1, -1):
            assert conclusion.two_sided(sign * t, df) == pytest.approx(p, rel=1e-5, abs=1e-12)
    if t <= 4:
        assert conclusion.two_sided(t, 1e4) == pytest.approx(
            math.erfc(t / math.sqrt(2)), rel=1e-2, abs=1e-9
        )


def test_welchs_test_on_a_known_example():
    """t = -2.4 / sqrt(0.5 + 0.5) with equal variances: 8 degrees of freedom."""
    a, b = [1.0, 2.0, 3.0, 4.0, 5.0], [3.4, 4.4, 5.4, 6.4, 7.4]
    assert conclusion.welch(a, b) == pytest.approx(conclusion.two_sided(2.4, 8))
    assert conclusion.welch(b, a) == pytest.approx(conclusion.welch(a, b))
    assert conclusion.welch(a, a) == pytest.approx(1)


def test_welchs_test_is_wrong_as_often_as_it_says():
    """Samples of one distribution, with unequal sizes and spreads; two in a hundred of slack."""
    rng = np.random.default_rng(0)
    p = [conclusion.welch(rng.normal(0, 1, 5), rng.normal(0, 2, 8)) for _ in range(2_000)]
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07


def test_holms_correction():
    corrected = conclusion.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert list(conclusion.holm({"a": 0.9, "b": 0.8}).values()) == [1.0, 1.0]


def test_the_front_is_what_none_beats():
    rng = np.random.default_rng(0)
    cost = dict(enumerate(rng.integers(0, 20, 40)))
    worth = dict(enumerate(rng.integers(0, 20, 40)))
    found = conclusion.front(cost, worth)

    def beats(a, b):
        better = cost[a] < cost[b] or worth[a] > worth[b]
        return cost[a] <= cost[b] and worth[a] >= worth[b] and better

    for k in found:
        assert not any(beats(other, k) for other in cost)
    for k in set(cost) - set(found):
        twin = any(cost[k] == cost[f] and worth[k] == worth[f] for f in found)
        assert twin or any(beats(f, k) for f in found)


# ---- memory and the exercises --------------------------------------------------------------------


def test_memory_by_hand():
    """A dense layer keeps its input, ReLU its output, the loss log-probabilities and labels."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 16, bias=False), nn.ReLU(), nn.Linear(16, 10))
    weights = 4 * (3072 * 16 + 16 * 10 + 10)
    got = conclusion.training_memory(net, batch=16, look=8) - 3 * weights
    least = 16 * 4 * (3072 + 16 + 10)
    assert least <= got <= least + 16 * 64
    more = conclusion.training_memory(net, batch=16, optimizer="adamw") - got
    assert more == 4 * weights


def test_memory_is_proportional_to_the_batch():
    net = conclusion.build("VGG")
    weights = 12 * count_parameters(net)
    small, large = (conclusion.training_memory(net, batch=b) - weights for b in (8, 128))
    assert large == 16 * small
    direct = conclusion.training_memory(net, batch=32, look=32) - weights
    assert direct == pytest.approx(conclusion.training_memory(net, batch=32) - weights, rel=0.01)


def solutions():
    """What the chapter's solutions define, by name."""
    chapter = notebooks.read_chapter(Path(chapters.FOLDER) / "conclusion.md")
    space = {"itertools": itertools, "math": math, "np": np}
    for cell in chapter.code:
        if re.match(r"def (permutation|mcnemar|choose)\(", cell.source):
            exec(cell.source.partition("\n\n\nassert")[0], space)  # the solution replaces the stub
    return space


SOLVED = solutions()


def test_the_permutation_test_needs_eight_seeds():
    permutation = SOLVED["permutation"]
    assert permutation([1, 2, 3], [4, 5, 6]) == pytest.approx(0.1)
    smallest = {n: 2 / math.comb(2 * n, n) for n in (5, 7, 8)}
    assert smallest[7] > 0.05 / 105 > smallest[8]
    assert permutation(range(5), range(5, 10)) == pytest.approx(smallest[5])


def test_mcnemar_against_the_normal_limit():
    mcnemar = SOLVED["mcnemar"]
    a = np.array([True] * 450 + [False] * 550)
    z = (100 - 1) / math.sqrt(1000)
    assert mcnemar(a, ~a) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.02)
