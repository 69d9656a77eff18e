"""Is fast also right? The usual loop and `fit`, with the same hyper-parameters and seeds.

    python -m benchmarks.same_accuracy

ResNet-20 trains both ways, and what is compared is its accuracy on the validation split. Every
finished run is written at once; stopped, the same command goes on with the next one.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import common, loaders, records
from benchmarks.networks import NETWORKS
from utils import options, runtime
from utils.data import CIFAR10
from utils.train import evaluate, fit

RESNET = NETWORKS[0]
LR, MOMENTUM, DECAY, SMOOTHING, WARMUP = 0.2, 0.9, 5e-4, 0.1, 0.25
USUAL, OURS = "the usual loop", "fit"


def main(
    profile: str = "cpu",
    epochs: int = 3,
    seeds: Sequence[int] = (0, 1, 2),
    batch_size: int = 128,
    workers: int = 2,
    folder: Path | None = records.FOLDER,
) -> dict[str, Any]:
    """Train what is not recorded yet; print the table and write the JSON after every run."""
    settings = dict(
        profile=profile, epochs=epochs, seeds=list(seeds), batch_size=batch_size, workers=workers
    )
    data = common.images(profile)
    runs = recorded(settings, data, folder)
    record = None
    for seed in seeds:
        ways = [USUAL, OURS]
        random.Random(seed).shuffle(ways)
        for way in ways:
            if any(run["way"] == way and run["seed"] == seed for run in runs):
                common.say(f"seed {seed}, {way}: recorded already")
                continue
            common.say(f"seed {seed}, {way}: {epochs} epochs")
            runtime.seed_everything(seed)
            model = RESNET.build()
            if way == USUAL:
                seconds = usual_loop(model, data, epochs, batch_size, workers)
            else:
                seconds = with_fit(model, data, epochs, batch_size, seed)
            precision = "float32" if way == USUAL else "auto"
            accuracy = evaluate(model, data.val, precision=precision).accuracy
            runs.append({"way": way, "seed": seed, "seconds": seconds, "val_accuracy": accuracy})
            record = report(runs, settings, data, folder)
    return record or report(runs, settings, data, folder)


def usual_loop(
    model: nn.Module, data: CIFAR10, epochs: int, batch_size: int, workers: int
) -> float:
    """Train as one usually does, with `fit`'s hyper-parameters; returns seconds."""
    device = runtime.device()
    loader = loaders.pil(data.train, batch_size, workers)
    model.to(device).train()
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}],
        lr=LR,
        momentum=MOMENTUM,
        nesterov=True,
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=LR,
        total_steps=epochs * len(loader) + 1,
        pct_start=WARMUP,
        cycle_momentum=False,
        div_factor=25.0,
        final_div_factor=1_000.0,
    )
    started = common.now()
    for _ in range(epochs):
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            loss = F.cross_entropy(model(x), y, label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if not math.isfinite(loss.item()):
                raise ValueError("The loss of the usual loop is no longer finite.")
    return round(common.now() - started, 2)


def with_fit(model: nn.Module, data: CIFAR10, epochs: int, batch_size: int, seed: int) -> float:
    """Train with `fit`, its hyper-parameters written out; returns seconds, validation excluded."""
    history = fit(
        model,
        data,
        epochs=epochs,
        seed=seed,
        batch_size=batch_size,
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=DECAY,
        warmup=WARMUP,
        label_smoothing=SMOOTHING,
        validate=False,
        progress=False,
    )
    return round(sum(history.seconds), 2)


def recorded(settings: dict[str, Any], data: CIFAR10, folder: Path | None) -> list[dict[str, Any]]:
    """The runs in the JSON, if they are of this machine, these settings and this data."""
    if folder is None or not common.path("same_accuracy", folder).is_file():
        return []
    record = records.load(common.path("same_accuracy", folder))
    here = json.loads(json.dumps([settings, runtime.machine(), data.provenance]))
    if [record["settings"], record["machine"], record["data"]] != here:
        common.say("The recorded runs are of another machine, other settings or data: from anew.")
        return []
    return record["runs"]


def report(
    runs: list[dict[str, Any]], settings: dict[str, Any], data: CIFAR10, folder: Path | None
) -> dict[str, Any]:
    """The table and the JSON of the runs so far, of the seeds that both ways have or one."""
    of = {
        way: sorted((run for run in runs if run["way"] == way), key=lambda run: run["seed"])
        for way in (USUAL, OURS)
    }
    precision = options.precision("auto", runtime.device())
    notes = {
        USUAL: "PIL images in a DataLoader, float32, NCHW",
        OURS: f"Batches, {precision}, channels-last",
    }
    present = [way for way in (USUAL, OURS) if of[way]]
    measured = []
    for title, key, scale in [
        ("training, seconds", "seconds", 1),
        ("validation accuracy, %", "val_accuracy", 100),
    ]:
        values = {way: [round(scale * run[key], 2) for run in of[way]] for way in present}
        for way in present:
            note = notes[way] if key == "seconds" else mean_and_spread(values[way])
            measured.append(records.row(way, values[way], values[present[0]], note, title))
    return common.finish(
        "same_accuracy",
        f"ResNet-20, {settings['epochs']} epochs, both ways with the same hyper-parameters",
        measured,
        settings,
        rounds=max(len(of[way]) for way in present),
        data=data,
        folder=folder,
        runs=runs,
    )


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation (n - 1), as `utils.results` has it."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"mean {statistics.fmean(values):.2f}{spread} (n = {len(values)})"


if __name__ == "__main__":
    main()
