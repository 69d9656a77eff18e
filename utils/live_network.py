"""The network that runs in the reader's browser (live.md): trained, exported, and described.

    pip install onnx onnxscript                  # nothing else in the course needs them
    COURSE_PROFILE=full python -m utils.live_network

It trains ResNet-20 as its chapter does, about 20 minutes on one CPU core, and writes what the page
needs to `_static/live/network`. Stopped, it goes on from its checkpoint. Beside it lie the files of
onnxruntime-web 1.18.0, which runs the network: the last release with a build for one thread, which
any browser since 2023 runs from any host, and the first that reads what today's exporter writes.
They are `dist/ort.wasm-core.min.js` of the npm package, `dist/ort-wasm.wasm` after `gzip -9n`, and
the two licence files of the Python package of the same version.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from utils import chapters, plot, runs, runtime
from utils.data import CIFAR10, MEAN, STD, Split, load_cifar10, normalize
from utils.inspect import count_parameters
from utils.train import evaluate, fit

FOLDER = runs.ROOT / "_static" / "live" / "network"
CHAPTER, NETWORK, EPOCHS, SEED, OPTIONS = "resnet", "resnet20", 24, 0, {"label_smoothing": 0.0}
OPSET = 18  # the newest that onnxruntime-web 1.18.0 knows and torch 2.6 writes


def main() -> None:
    """Train, export and describe; exits with a sentence where something is wrong."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        sys.exit(f"error: the export needs {error.name}: pip install onnx onnxscript")
    data = load_cifar10()
    if data.provenance["synthetic"] or runtime.profile().name != "full":
        sys.exit(
            "error: readers get a network trained on all of CIFAR-10: set COURSE_PROFILE=full, and "
            "CIFAR10_ROOT to the images if they cannot be downloaded."
        )
    model = train(data)
    shown = first_of_each_class(data.test)
    with torch.inference_mode():
        logits = model(normalize(shown.images))
    FOLDER.mkdir(parents=True, exist_ok=True)
    size = export(model, FOLDER / f"{NETWORK}.onnx", normalize(shown.images), logits)
    Image.fromarray(sprite(shown.images)).save(FOLDER / "images.png", optimize=True)
    picture(shown, logits, data.classes, FOLDER / "answers.png")
    about = {
        "network": f"{CHAPTER}:{NETWORK}",
        "parameters": count_parameters(model),
        "epochs": EPOCHS,
        "seed": SEED,
        "options": OPTIONS,
        # In float32, as it runs in the browser.
        "val_accuracy": evaluate(model, data.val, precision="float32").accuracy,
        "test_accuracy": evaluate(model, data.test, precision="float32").accuracy,
        "provenance": runs.provenance(CHAPTER, data),
        "onnx": {"opset": OPSET, "bytes": size, "sha256": sha256(FOLDER / f"{NETWORK}.onnx")},
        "classes": data.classes,
        "mean": MEAN,
        "std": STD,
        "images": "the first two test images of each class",
        "labels": shown.labels.tolist(),
        "logits": [[round(value, 4) for value in row] for row in logits.tolist()],
    }
    (FOLDER / f"{NETWORK}.json").write_text(written(about), encoding="utf-8")
    print(f"test accuracy {about['test_accuracy']:.2%}; {FOLDER} holds {size:,} bytes of network")


def train(data: CIFAR10) -> nn.Module:
    """The network, trained as in its chapter, in float32 on the CPU and in evaluation mode."""
    runtime.seed_everything(SEED)
    model = getattr(chapters.load(CHAPTER), NETWORK)()
    fit(
        model,
        data,
        epochs=EPOCHS,
        seed=SEED,
        checkpoint=runs.CHECKPOINTS / f"live-{NETWORK}",
        **OPTIONS,
    )
    return model.to("cpu", memory_format=torch.contiguous_format).eval()


def first_of_each_class(split: Split, n: int = 2) -> Split:
    """The first `n` images of every class, whatever a network thinks of them."""
    classes = range(int(split.labels.max()) + 1)
    keep = torch.cat([torch.nonzero(split.labels == c).flatten()[:n] for c in classes])
    return Split(split.images[keep], split.labels[keep])


def export(model: nn.Module, path: Path, images: Tensor, logits: Tensor) -> int:
    """Write `model` for one image at a time, as ONNX; returns the file's size in bytes.

    Raises:
        AssertionError: the file gives other logits (N, classes) than `model` on `images`.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    torch.onnx.export(
        model,
        (images[:1],),
        path,
        input_names=["images"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
    )
    graph = onnx.load(path)
    for part in (graph, graph.graph, *graph.graph.node, *graph.graph.value_info):
        part.ClearField("metadata_props")  # tracebacks, with the paths of this machine
        part.ClearField("doc_string")
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)
    run = ReferenceEvaluator(graph).run
    found = [run(["logits"], {"images": image[None].numpy()})[0][0] for image in images]
    np.testing.assert_allclose(found, logits.numpy(), rtol=1e-3, atol=1e-3)
    return path.stat().st_size


def sprite(images: Tensor) -> np.ndarray:
    """All images beside each other: uint8 (N, 3, H, W) -> (H, N·W, 3)."""
    n, c, h, w = images.shape
    return images.permute(2, 0, 3, 1).reshape(h, n * w, c).numpy()


def picture(shown: Split, logits: Tensor, classes: tuple[str, ...], path: Path) -> None:
    """The images and what the network answers: what the page shows while nothing runs."""
    plot.style()
    chances, answers = logits.softmax(1).max(1)
    titles = [
        f"{classes[a]} {p:.0%}" if a == y else f"✗ {classes[a]} {p:.0%}"
        for a, p, y in zip(answers.tolist(), chances.tolist(), shown.labels.tolist(), strict=True)
    ]
    # A row has one image of each of five classes.
    order = torch.arange(len(titles)).view(2, 5, 2).transpose(1, 2).flatten()
    figure = plot.image_grid(shown.images[order], [titles[i] for i in order], columns=5)
    figure.savefig(path, dpi=160, pil_kwargs={"optimize": True})


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def written(about: dict[str, Any]) -> str:
    """JSON with one line for each entry, and each row of logits."""
    rows = ",\n".join(f"    {json.dumps(row)}" for row in about["logits"])
    lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in about.items() if k != "logits"]
    return "{\n" + ",\n".join([*lines, f'  "logits": [\n{rows}\n  ]']) + "\n}\n"


if __name__ == "__main__":
    main()
