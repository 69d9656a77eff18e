"""The command line of `utils.train`: train a chapter's network and record the runs.

    python -m utils.train resnet:resnet20 --epochs 20 --seeds 0 1 2

Each finished run is appended to `results/CHAPTER.json` with its provenance. A run that is there
already is skipped, and one that was interrupted goes on from its checkpoint: give the same
command again.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import datetime
import hashlib
import inspect
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from utils import chapters, distributed, notebooks, results, runtime
from utils.checkpoint import CheckpointError
from utils.data import CIFAR10, DataError, load_cifar10
from utils.inspect import count_parameters
from utils.train import CannotCompile, Diverged, History, OutOfMemory, evaluate, fit

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ROOT / ".checkpoints"
ERRORS = (ValueError, DataError, CheckpointError, OutOfMemory, CannotCompile)


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits with a sentence where something is wrong."""
    args = _parser().parse_args(argv)
    if args.profile:
        os.environ["COURSE_PROFILE"] = args.profile
    try:
        understood = understand(args)
        data = real_data(args)
        for seed in args.seeds:
            run(args, *understood, data, seed)
    except ERRORS as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from the last checkpoint.")


def run(
    args: argparse.Namespace,
    builder: Callable[..., nn.Module],
    arguments: dict[str, Any],
    options: dict[str, Any],
    data: CIFAR10,
    seed: int,
) -> dict[str, Any] | None:
    """Train one seed and record it; returns the record, or None where it was there already."""
    chapter, name = args.network.split(":")
    what = f"{chapter}:{name} {args.experiment} seed {seed}"
    key = identity(args, arguments, options, seed)
    if not args.dry and recorded(chapter, key):
        print(f"{what}: recorded already, skipped")
        return None
    print(f"{what}: {args.epochs} epochs, {key['asked'] or 'default options'}", flush=True)
    folder = checkpoint_folder(chapter, key)
    if args.images:  # other images for another seed, so that their choice shows in the spread
        data = dataclasses.replace(data, train=data.train.subset(args.images, seed))
    runtime.seed_everything(seed)
    model = builder(**arguments)
    started, diverged = time.perf_counter(), False
    history, config = History(), {**options}
    try:
        history = fit(model, data, epochs=args.epochs, seed=seed, checkpoint=folder, **options)
        config = history.config
    except Diverged as error:
        print(f"{what}: {error}")
        diverged = True
    seconds = sum(history.seconds) or time.perf_counter() - started
    precision = config.get("precision", "auto")
    record = {
        "schema": results.SCHEMA_VERSION,
        "chapter": chapter,
        "model": name,
        "experiment": args.experiment,
        "seed": seed,
        "epochs": args.epochs,
        "parameters": count_parameters(model),
        "val_accuracy": evaluate(model, data.val, precision=precision).accuracy,
        "test_accuracy": (
            None if args.no_test else evaluate(model, data.test, precision=precision).accuracy
        ),
        "seconds": round(seconds, 1),
        "diverged": diverged,
        "history": {
            name: [round(value, 5) for value in values]
            for name, values in vars(history).items()
            if name != "config"
        },
        "config": {**config, "asked": key["asked"]},
        "provenance": provenance(chapter, data),
    }
    if distributed.rank() > 0:
        return record
    if args.dry:
        print(f"{what}: validation accuracy {record['val_accuracy']:.4f}, not recorded (--dry)")
    else:
        path = results.append(chapter, record)
        print(f"{what}: validation accuracy {record['val_accuracy']:.4f}, added to {path.name}")
    shutil.rmtree(folder, ignore_errors=True)
    return record


def real_data(args: argparse.Namespace) -> CIFAR10:
    """CIFAR-10; the synthetic stand-in only where nothing is to be recorded."""
    data = load_cifar10()
    if data.provenance["synthetic"] and not args.dry:
        raise ValueError(
            "no CIFAR-10 was found, and the synthetic stand-in gives no result to record: "
            "set CIFAR10_ROOT to the images, or give --dry to train without recording."
        )
    return data


def identity(
    args: argparse.Namespace, arguments: dict[str, Any], options: dict[str, Any], seed: int
) -> dict[str, Any]:
    """What a run is, apart from how fast it goes: two runs that agree in this are one."""
    return {
        "model": args.network.split(":")[1],
        "experiment": args.experiment,
        "seed": seed,
        "epochs": args.epochs,
        "asked": {
            **options,
            **({"images": args.images} if args.images else {}),
            **{f"model.{k}": v for k, v in arguments.items()},
        },
        "profile": runtime.profile().name,
    }


def recorded(chapter: str, key: dict[str, Any]) -> bool:
    """Whether `results/CHAPTER.json` holds the run."""
    return any(key_of(record) == key for record in results.load(chapter))


def checkpoint_folder(chapter: str, key: dict[str, Any]) -> Path:
    """Where the run keeps its checkpoint until it is recorded."""
    code = hashlib.sha256(json.dumps([chapter, key], sort_keys=True).encode()).hexdigest()[:8]
    return CHECKPOINTS / f"{chapter}-{key['model']}-{key['experiment']}-{key['seed']}-{code}"


def provenance(chapter: str, data: CIFAR10) -> dict[str, Any]:
    """Where a run's numbers come from: date, machine, versions, data and code."""
    return {
        "date": datetime.date.today().isoformat(),
        **runtime.machine(),
        "profile": runtime.profile().name,
        "data": data.provenance,
        "code_hash": chapters.load(chapter).CODE_HASH,
        "utils_hash": notebooks.utils_hash(),
    }


def key_of(record: dict[str, Any]) -> dict[str, Any]:
    """The `identity` of a recorded run."""
    names = ("model", "experiment", "seed", "epochs")
    return {
        **{name: record[name] for name in names},
        "asked": record["config"].get("asked", {}),
        "profile": record["provenance"]["profile"],
    }


def understand(
    args: argparse.Namespace,
) -> tuple[Callable[..., nn.Module], dict[str, Any], dict[str, Any]]:
    """The builder, its arguments and the options of `fit` that the command line names.

    Raises:
        ValueError: there is no such network, or it or `fit` takes no such argument.
    """
    chapter, colon, name = args.network.partition(":")
    if not colon:
        raise ValueError(f"{args.network!r} should be CHAPTER:NETWORK, as in resnet:resnet20.")
    module = chapters.load(chapter)
    builder = getattr(module, name, None)
    if not callable(builder):
        known = ", ".join(k for k, v in vars(module).items() if callable(v) and k[0].islower())
        raise ValueError(f"chapter {chapter} has no network {name!r}; it exports {known}.")
    options, known = _pairs(args.set), fit.__kwdefaults__ or {}
    if unknown := options.keys() - known.keys():
        raise ValueError(
            f"fit has no option {', '.join(sorted(unknown))}; it has {', '.join(known)}."
        )
    arguments = _pairs(args.model_args)
    try:
        inspect.signature(builder).bind(**arguments)
    except TypeError as error:
        takes = ", ".join(inspect.signature(builder).parameters)
        raise ValueError(f"{args.network}: {error}; it takes {takes}.") from None
    return builder, arguments, options


def _pairs(words: list[str]) -> dict[str, Any]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} should be NAME=VALUE, as in lr=0.1.")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m utils.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "network", metavar="CHAPTER:NETWORK", help="a function that the chapter exports"
    )
    return add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options that one run and a sweep of runs have in common."""
    add = parser.add_argument
    add("--epochs", type=int, required=True)
    add("--seeds", type=int, nargs="+", default=[0])
    add("--experiment", default="default", help="the name under which results are filed")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="options of fit: lr=0.1 …")
    add("--model-args", nargs="+", default=[], metavar="NAME=VALUE")
    add("--images", type=int, metavar="N", help="train on so many, equally many of each class")
    add("--profile", help="smoke, cpu or full (otherwise COURSE_PROFILE decides)")
    add("--no-test", action="store_true", help="leave the test split alone (for choosing)")
    add("--dry", action="store_true", help="train and print, but record nothing")
    return parser
