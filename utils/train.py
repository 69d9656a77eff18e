"""The training loop of the course: `fit` trains, `evaluate` measures.

One loop for every chapter, readable from top to bottom. What makes it fast on a CPU: batches are
cut from one tensor (`utils.data.Batches`), tensors lie in memory with their channels last, and
convolutions run in bfloat16 where the processor has instructions for it. What makes it safe:
everything that decides the result follows from `seed`, and a checkpoint holds all of it.

From a terminal, `python -m utils.train resnet:resnet20 --epochs 20 --seeds 0 1 2` trains the same
way and records the runs in `results/`.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from utils import checkpoint as ckpt
from utils import depthwise, distributed, options, runtime
from utils.data import CIFAR10, Batches, Split
from utils.history import CannotCompile, Diverged, History, Metrics, OutOfMemory, explained

__all__ = [
    "CannotCompile",
    "Diverged",
    "History",
    "Metrics",
    "OutOfMemory",
    "evaluate",
    "fit",
]

OnStep = Callable[[int, nn.Module, float], None]
SEEDS_USED: list[int] = []  # for the provenance of a recorded chapter


def fit(
    model: nn.Module,
    data: CIFAR10,
    *,
    epochs: int,
    seed: int = 0,
    batch_size: int = 128,
    optimizer: str = "sgd",
    lr: float = 0.2,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "onecycle",
    warmup: float = 0.25,
    label_smoothing: float = 0.1,
    augment: bool = True,
    precision: str = "auto",
    compile: bool = False,
    rates: dict[str, float] | None = None,
    checkpoint: str | Path | None = None,
    device: torch.device | None = None,
    validate: bool = True,
    progress: bool = True,
    on_step: OnStep | None = None,
) -> History:
    """Train `model` in place on `data.train`, measuring on `data.val` after every epoch.

    Args:
        model: maps (B, 3, 32, 32) to logits (B, classes).
        data: from `load_cifar10`; the test split is not touched.
        epochs: passes over the training split.
        seed: decides order, augmentation and dropout. The weights are the caller's: seed before
            building the model.
        lr: the highest learning rate. Under `"onecycle"` it is reached after the fraction
            `warmup` of all steps, by a cosine, and falls to almost zero by another
            (Smith and Topin, 2018); under `"constant"` it stays.
        weight_decay: applied to weights of two or more dimensions, not to biases and norms.
        precision: "float32", "bfloat16" (autocast; master weights stay float32), or "auto":
            bfloat16 where the hardware has instructions for it.
        compile: train through `torch.compile`, which takes up to a minute to begin with and needs
            a C++ compiler. Evaluation stays as it is.
        rates: factors of `lr` for some of the parameters, by how their names begin; with
            {"backbone.": 0.1} the backbone learns ten times more slowly than the rest.
            Parameters that should not learn at all have `requires_grad = False`.
        checkpoint: a folder. A run that was interrupted goes on from there and ends with the
            same bits; a finished one is loaded and returned at once.
        validate: measure on `data.val` after every epoch.
        on_step: called with (step, model, loss) after every optimiser step.

    Raises:
        ValueError: an option has an impossible value, `data` is no CIFAR10, or the model gives
            no logits.
        Diverged: the loss is no longer finite.
        OutOfMemory: memory does not suffice.
        CannotCompile: `torch.compile` does not work here, or not for this network.
        CheckpointError: the checkpoint is damaged, of another run, or cannot be written.
    """
    config = {key: value for key, value in locals().items() if key in options.OPTIONS}
    options.check(config)
    if not isinstance(data, CIFAR10):
        raise ValueError(
            f"data is a {type(data).__name__}, but must be a CIFAR10 with its splits, as "
            "load_cifar10() returns it."
        )
    device = distributed.start(device or runtime.device())
    config["precision"] = options.precision(precision, device)
    with (
        ckpt.Checkpoint(checkpoint, device) as saved,
        explained("training", batch_size),
        depthwise.in_float32(nn.Identity() if compile else model, device),
    ):
        return _run(model, data, config, device, saved, validate, progress, on_step)


def _run(
    model: nn.Module,
    data: CIFAR10,
    config: dict[str, Any],
    device: torch.device,
    saved: ckpt.Checkpoint,
    validate: bool,
    progress: bool,
    on_step: OnStep | None,
) -> History:
    rank, world = distributed.rank(), distributed.world()
    progress = progress and rank == 0
    # Dropout draws its own numbers in every process; order and augmentation come from Batches.
    runtime.seed_everything(config["seed"] + 1_000_003 * rank)
    SEEDS_USED.append(config["seed"])
    low = config["precision"] == "bfloat16"
    batches = Batches(
        data.train,
        config["batch_size"],
        augment=config["augment"],
        device=device,
        dtype=torch.bfloat16 if low else torch.float32,
        seed=config["seed"],
        rank=rank,
        world=world,
    )
    model.to(device=device, memory_format=torch.channels_last)
    optimizer = options.make_optimizer(model, config)
    scheduler = options.make_scheduler(optimizer, config, config["epochs"] * len(batches))
    history = History(config=config)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "history": history}
    at = saved.restore(parts, _identity(model, data, config), progress)
    if device.type == "cpu":
        runtime.keep_memory()
    wrapped = distributed.wrap(options.compiled(model) if config["compile"] else model, device)
    # Without gradients there is room for more images at a time, but not for any number.
    val_batch = min(250, 4 * config["batch_size"])

    for epoch in range(at.epoch, config["epochs"]):
        model.train()
        batches.epoch, batches.skip = epoch, at.step
        # Sums over the epoch of loss, correct answers and images; on the device, so as not to wait.
        sums = torch.tensor(at.sums, dtype=torch.float64, device=device)
        started = time.perf_counter() - at.seconds
        for step, (x, y) in enumerate(_bar(batches, epoch, config, at.step, progress), at.step):
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                logits = _logits(wrapped(x), y, data.train)
            losses = F.cross_entropy(
                logits, y, label_smoothing=config["label_smoothing"], reduction="none"
            )
            optimizer.zero_grad()
            # The mean over the batch of all processes, as the gradients are averaged over them.
            (losses.sum() * (world / batches.size_of(step))).backward()
            loss, lr = losses.detach().mean(), scheduler.get_last_lr()[0]
            # Reading the loss makes a GPU wait, so there it is looked at now and then.
            look = device.type == "cpu" or step % 50 == 0 or step + 1 == len(batches)
            if look and not math.isfinite(loss.item()):
                raise Diverged(epoch * len(batches) + step, epoch, lr)
            optimizer.step()
            scheduler.step()
            correct = (logits.detach().argmax(1) == y).sum()
            sums += torch.stack([losses.detach().double().sum(), correct, torch.ones_like(y).sum()])
            if on_step is not None:
                on_step(epoch * len(batches) + step, model, loss.item())
            if look and step + 1 < len(batches) and saved.due():
                saved.save(parts, epoch, step + 1, time.perf_counter() - started, sums.tolist())
        seconds = time.perf_counter() - started
        loss_sum, correct, images = distributed.sum_over(sums).tolist()
        history.loss.append(loss_sum / images)
        history.train_accuracy.append(correct / images)
        history.lr.append(lr)
        history.seconds.append(round(seconds, 2))
        if validate:
            metrics = evaluate(
                model,
                data.val,
                batch_size=val_batch,
                device=device,
                precision=config["precision"],
            )
            history.val_loss.append(metrics.loss)
            history.val_accuracy.append(metrics.accuracy)
        if progress:
            print(history.line())
        saved.save(parts, epoch + 1)
        at = ckpt.Position(epoch + 1)
    model.eval()
    return history


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    split: Split,
    *,
    batch_size: int = 250,
    device: torch.device | None = None,
    precision: str = "auto",
) -> Metrics:
    """Cross-entropy and accuracy of `model` in evaluation mode on every image of `split`.

    The model is left in the mode (training or evaluation) it came in. `precision` is that of
    `fit`.

    Raises:
        ValueError: an impossible batch size or precision, or a model that gives no logits.
        OutOfMemory: memory does not suffice.
    """
    options.check({"precision": precision})
    device = device or runtime.device()
    amp = options.precision(precision, device) == "bfloat16"
    model.to(device=device, memory_format=torch.channels_last)
    was_training = model.training
    model.eval()
    size = min(batch_size, len(split))
    totals = torch.zeros(2, device=device, dtype=torch.float64)
    with explained("evaluating", size):
        for x, y in Batches(split, size, shuffle=False, device=device):
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                logits = _logits(model(x), y, split)
            loss = F.cross_entropy(logits, y, reduction="sum")
            totals += torch.stack([loss, (logits.argmax(1) == y).sum()])
    model.train(was_training)
    loss, correct = totals.tolist()
    return Metrics(loss / len(split), correct / len(split), len(split))


def _logits(out: Any, y: Tensor, split: Split) -> Tensor:
    """What a model gave, in float32, if it is what is needed; torch says it less clearly."""
    classes = int(split.labels.max()) + 1
    found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    if not isinstance(out, Tensor) or found[:-1] != y.shape or found[-1] < classes:
        raise ValueError(
            f"the model must give logits ({len(y)}, {classes}) for a batch of {len(y)} images of "
            f"{classes} classes, not {found}."
        )
    return out.float()


def _bar(batches: Batches, epoch: int, config: dict[str, Any], first: int, progress: bool) -> tqdm:
    text = {} if progress else {"disable": True}  # unset, TQDM_DISABLE of the environment counts
    return tqdm(
        batches, f"epoch {epoch + 1}/{config['epochs']}", len(batches), False, initial=first, **text
    )


def _identity(model: nn.Module, data: CIFAR10, config: dict[str, Any]) -> dict[str, Any]:
    """What must agree for a checkpoint to be continued, each entry small enough to print."""
    shapes = str([(k, tuple(v.shape)) for k, v in model.state_dict().items()])
    pixels = hashlib.sha256(data.train.labels.numpy().tobytes())
    pixels.update(data.train.images[::101].numpy().tobytes())
    return {
        # An option that came later is named only where it is used, so that the checkpoints from
        # before it can still be continued.
        **{f"option {k}": v for k, v in config.items() if k not in ("compile", "rates") or v},
        "the model": hashlib.sha256(shapes.encode()).hexdigest()[:12],
        "the training data": pixels.hexdigest()[:12],
    }


if __name__ == "__main__":
    from utils.runs import main

    main()
