"""How long until 85, 88 and 90 %? The recipes of the chapter `speedrun`, three seeds each.

    python -m benchmarks.time_to_accuracy
    python -m benchmarks.time_to_accuracy --ablation

Runs are appended to `results/speedrun.json`, and a run that is there already is skipped: stopped,
the same command goes on with the next one. `--ablation` trains the first recipe with one trick
changed at a time, in three epochs, and looks at the validation split only.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, records
from utils import chapters, results, runtime
from utils.data import CIFAR10, DataError
from utils.inspect import count_parameters
from utils.runs import provenance

EVERYTHING = "everything"
ABLATION_EPOCHS = 3


def main(
    ablation: bool = False,
    seeds: Sequence[int] = (0, 1, 2),
    profile: str = "full",
    folder: Path | None = records.FOLDER,
    results_folder: Path | None = None,
) -> dict[str, Any] | None:
    """Train what is not recorded yet; without `ablation` print the table and write the JSON."""
    speedrun = chapters.load("speedrun")
    recipes = dict(speedrun.RECIPES)
    if ablation:
        first = dataclasses.replace(next(iter(recipes.values())), epochs=ABLATION_EPOCHS)
        recipes = {f"ablation: {EVERYTHING}": first}
        for name, change in speedrun.CHANGES.items():
            recipes[f"ablation: {name}"] = dataclasses.replace(first, **change)
    data = common.images(profile)
    for seed in seeds:  # all recipes of one seed first, so that they are measured side by side
        for name, recipe in recipes.items():
            if not _find(name, recipe, seed, profile, results_folder):
                common.say(f"{name}, seed {seed}: {recipe.epochs} epochs")
                record = run(name, recipe, seed, data, profile, test=not ablation)
                results.append("speedrun", record, results_folder)
    return None if ablation else report(recipes, seeds, data, profile, folder, results_folder)


def run(
    name: str, recipe: Any, seed: int, data: CIFAR10, profile: str, *, test: bool
) -> dict[str, Any]:
    """Train once; the record of it, with the test split looked at only if `test`."""
    speedrun = chapters.load("speedrun")
    net, log = speedrun.train(data, recipe, seed)
    views = {f"val_{v}_views": speedrun.accuracy(net, data.val, v) for v in (1, 2, 6)}
    if test:
        views |= {f"test_{v}_views": speedrun.accuracy(net, data.test, v) for v in (1, 2)}
    return {
        "schema": results.SCHEMA_VERSION,
        "chapter": "speedrun",
        "model": "SpeedNet",
        "experiment": name,
        "seed": seed,
        "epochs": recipe.epochs,
        "parameters": count_parameters(net),
        "val_accuracy": views["val_6_views"],
        "test_accuracy": speedrun.accuracy(net, data.test, 6) if test else None,
        "seconds": round(log["seconds"][-1], 1),
        "diverged": False,
        "history": {
            "loss": [round(value, 5) for value in log["loss"]],
            "seconds": [round(value, 2) for value in log["seconds"]],
            **{key: [] for key in ("train_accuracy", "val_loss", "val_accuracy", "lr")},
        },
        "config": {"asked": _asked(recipe), **views},
        "provenance": {**provenance("speedrun", data), "profile": profile},
    }


def report(
    recipes: dict[str, Any],
    seeds: Sequence[int],
    data: CIFAR10,
    profile: str,
    folder: Path | None,
    results_folder: Path | None,
) -> dict[str, Any]:
    """The seconds of every recipe, with the accuracy they bought."""
    rows, baseline = [], None
    for name, recipe in recipes.items():
        runs = [_find(name, recipe, seed, profile, results_folder) for seed in seeds]
        seconds = [r["seconds"] for r in runs]
        baseline = baseline or seconds
        size, reached = f"{runs[0]['parameters']:,} parameters", results.summary(runs)
        note = f"{recipe.epochs} epochs, {size}, test {reached}"
        rows.append(records.row(f"speedrun, {name}", seconds, baseline, note))
    return common.finish(
        "time_to_accuracy",
        "seconds of training",
        rows,
        {"profile": profile, "seeds": list(seeds)},
        rounds=len(seeds),
        data=data,
        folder=folder,
    )


def _asked(recipe: Any) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in vars(recipe).items()}


def _find(
    name: str, recipe: Any, seed: int, profile: str, folder: Path | None
) -> dict[str, Any] | None:
    """The recorded run of exactly this recipe, seed, profile and device, if there is one."""
    device = runtime.machine()["device"]
    for record in results.select(results.load("speedrun", folder), experiment=name, seed=seed):
        where = record["provenance"]
        same = record["config"]["asked"] == _asked(recipe) and where["profile"] == profile
        if same and where["device"] == device:
            return record
    return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_to_accuracy")
    parser.add_argument("--ablation", action="store_true", help="remove one trick at a time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    try:
        main(args.ablation, args.seeds)
    except (ValueError, DataError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on with the run that was not finished.")
