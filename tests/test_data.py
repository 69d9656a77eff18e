"""Loading CIFAR-10: every form it comes in, every place it is looked for, and what can be wrong.

The sets here have 20 training and 4 test images a class; one test at the end reads the real one.
"""

import hashlib
import io
import os
import pickle
import random
import tarfile
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils import cache, data, download, runtime, sources
from utils.data import CLASSES, DataError, load_cifar10

PROFILE = runtime.Profile("cpu", 100, 20, 40)
SMOKE = runtime.PROFILES["smoke"]
REAL = os.environ.get("CIFAR10_ROOT")


def pickled(labels, pixels):
    """A batch as Python 2 pickled it: other module names, and a dtype spelt with integers."""
    content = pickle.dumps({"labels": labels.tolist(), "data": pixels}, protocol=2)
    content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray", 1)
    return content.replace(b"\x89\x88\x87", b"K\x00K\x01\x87", 1)  # False, True -> 0, 1


def write_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.reshape(3, 32, 32).transpose(1, 2, 0)).save(path)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """One small CIFAR-10 in every form, and its rows in the order of the images and the batches."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.RandomState(1)
    rows = rng.randint(0, 256, (240, 3073), dtype=np.uint8)
    rows[:200, 0] = np.repeat(np.arange(10), 20)
    rows[200:, 0] = np.repeat(np.arange(10), 4)
    names = [f"train/{CLASSES[i // 20]}/{i % 20:04}.png" for i in range(200)]
    names += [f"test/{CLASSES[i // 4]}/{i % 4:04}.png" for i in range(40)]
    for row, name in zip(rows, names, strict=True):
        write_png(root / "images" / name, row[1:])
    for prefix in ("", "cifar10/"):
        with zipfile.ZipFile(root / f"images{len(prefix)}.zip", "w") as archive:
            for name in random.Random(0).sample(names, len(names)):
                archive.write(root / "images" / name, prefix + name)
            archive.writestr(f"__MACOSX/train/{CLASSES[0]}/._0000.png", b"no image")
            archive.writestr(f"{prefix}README.txt", b"no image")
    order = np.concatenate([rng.permutation(200), np.arange(200, 240)])
    batches = {
        name: pickled(part[:, 0], part[:, 1:])
        for name, part in zip(sources.BATCHES, np.split(rows[order], 6), strict=True)
    }
    folder = root / "torchvision" / sources.FOLDER
    folder.mkdir(parents=True)
    write_archive(root / download.ARCHIVE, batches)
    for name, content in batches.items():
        (folder / name).write_bytes(content)
    return {"root": root, "rows": rows, "batch_rows": rows[order], "batches": batches}


def write_archive(path, batches):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in batches.items():
            member = tarfile.TarInfo(f"{sources.FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture(autouse=True)
def world(tiny, tmp_path, monkeypatch):
    """A machine that knows the small set, has an empty cache, and reaches no mirror."""
    monkeypatch.delenv("CIFAR10_ROOT", raising=False)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "PER_CLASS", {"train": 20, "test": 4})
    known = {name: md5(content) for name, content in tiny["batches"].items()}
    monkeypatch.setattr(sources, "BATCHES", known)
    whole = (tiny["root"] / download.ARCHIVE).read_bytes()
    monkeypatch.setattr(download, "ARCHIVE_MD5", md5(whole))
    monkeypatch.setattr(download, "MIRRORS", ("http://127.0.0.1:9/a", "http://localhost:9/b"))
    return tmp_path


def everything(cifar):
    """All rows of a loaded set, sorted, so that sets in different orders can be compared."""
    parts = [cifar.train, cifar.val, cifar.test]
    labels = torch.cat([part.labels for part in parts]).to(torch.uint8)[:, None]
    rows = torch.cat([labels, torch.cat([part.images for part in parts]).flatten(1)], dim=1)
    return sorted(map(bytes, rows.numpy()))


FULL = runtime.Profile("full", 180, 20, 40)
FORMS = {
    "torchvision": "torchvision folder",
    f"torchvision/{sources.FOLDER}": "torchvision folder",
    download.ARCHIVE: "original archive",
    "images": "image files",
    "images0.zip": "image files",
    "images8.zip": "image files",
}


@pytest.mark.parametrize(("form", "source"), FORMS.items())
@pytest.mark.parametrize("how", ["argument", "variable"])
def test_every_form(tiny, form, source, how, monkeypatch):
    place = tiny["root"] / form
    if how == "variable":
        monkeypatch.setenv("CIFAR10_ROOT", str(place))
    cifar = load_cifar10(place if how == "argument" else None, FULL)
    assert everything(cifar) == sorted(map(bytes, tiny["rows"]))
    assert cifar.provenance["source"] == source
    assert cifar.provenance["synthetic"] is False
    assert "md5" in cifar.provenance or "sha256" in cifar.provenance
    assert cifar.provenance == data.LAST_PROVENANCE
    assert cifar.classes == CLASSES
    assert all(part.images.is_contiguous() for part in (cifar.train, cifar.val, cifar.test))


def test_again_is_the_same_and_decodes_nothing(tiny, monkeypatch):
    for form in FORMS:
        first = load_cifar10(tiny["root"] / form, FULL)
        with monkeypatch.context() as patch:
            patch.setattr(sources, "_images", None)
            patch.setattr(sources, "_archive", None)
            second = load_cifar10(tiny["root"] / form, FULL)
        assert first.provenance == second.provenance
        for name in ("train", "val", "test"):
            one, two = getattr(first, name), getattr(second, name)
            assert torch.equal(one.images, two.images)
            assert torch.equal(one.labels, two.labels)


def test_order_of_images_and_of_batches(tiny):
    in_zip, in_folder = (load_cifar10(tiny["root"] / f, FULL) for f in ("images8.zip", "images"))
    assert torch.equal(in_zip.train.images, in_folder.train.images)
    assert in_zip.test.labels.tolist() == sorted(in_zip.test.labels.tolist())
    pixels = torch.from_numpy(tiny["batch_rows"][200:, 1:].reshape(-1, 3, 32, 32))
    assert torch.equal(load_cifar10(tiny["root"] / download.ARCHIVE, FULL).test.images, pixels)


def test_sizes_are_balanced_and_splits_disjoint(tiny):
    cifar = load_cifar10(tiny["root"] / "images", PROFILE)
    for part, n in ((cifar.train, 100), (cifar.val, 20), (cifar.test, 40)):
        assert len(part) == n
        assert torch.bincount(part.labels, minlength=10).tolist() == [n // 10] * 10
    assert len(set(everything(cifar))) == 160
    whole = load_cifar10(tiny["root"] / "images", FULL)
    train = set(map(bytes, whole.train.images.flatten(1).numpy()))
    assert train.issuperset(map(bytes, cifar.train.images.flatten(1).numpy()))


def test_jpeg_is_called_a_copy(tiny, tmp_path):
    with zipfile.ZipFile(tmp_path / "copy.zip", "w") as archive:
        for path in sorted((tiny["root"] / "images").glob("*/*/*.png")):
            content = io.BytesIO()
            Image.open(path).convert("L").save(content, "jpeg")  # and a grey one is no obstacle
            name = path.relative_to(tiny["root"] / "images").with_suffix(".JPG")
            archive.writestr(str(name), content.getvalue())
    about = load_cifar10(tmp_path / "copy.zip", PROFILE).provenance
    assert about["source"] == "image files (JPEG copy)"
    assert about["sha256"] == hashlib.sha256((tmp_path / "copy.zip").read_bytes()).hexdigest()
    assert load_cifar10(tmp_path / "copy.zip", PROFILE).provenance == about


# Places


def test_nothing_where_the_name_points(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"^root is .*nowhere, which does not exist: it must be"):
        load_cifar10(tmp_path / "nowhere", SMOKE)
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"^CIFAR10_ROOT is .*nowhere, which does not exist"):
        load_cifar10(profile=SMOKE)


def test_something_else_where_the_name_points(tmp_path):
    (tmp_path / "photos" / "train" / "holidays").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("no data")
    for name in ("photos", "notes.txt"):
        with pytest.raises(DataError, match=rf"{name}, which holds no CIFAR-10"):
            load_cifar10(tmp_path / name, SMOKE)


def test_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("CIFAR10_ROOT", "")
    with pytest.raises(DataError, match="root, CIFAR10_ROOT: not set"):
        load_cifar10(profile=PROFILE)


def test_root_wins_over_variable_over_cache(tiny, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / download.ARCHIVE).write_bytes(
        (tiny["root"] / download.ARCHIVE).read_bytes()
    )
    assert load_cifar10(profile=PROFILE).provenance["source"] == "original archive"
    monkeypatch.setenv("CIFAR10_ROOT", str(tiny["root"] / "torchvision"))
    assert load_cifar10(profile=PROFILE).provenance["source"] == "torchvision folder"
    assert load_cifar10(tiny["root"] / "images", PROFILE).provenance["source"] == "image files"


def test_smoke_without_data_is_a_stand_in_and_asks_nobody(monkeypatch, capsys):
    monkeypatch.setattr(download, "fetch_archive", None)
    cifar = load_cifar10(profile=SMOKE)
    assert capsys.readouterr().out.count("\n") == 1
    assert cifar.provenance == {
        "source": "synthetic stand-in", "synthetic": True, "train": 2000, "val": 500, "test": 1000
    }  # fmt: skip
    assert data.LAST_PROVENANCE["synthetic"] is True
    # It can be learnt: the nearest mean picture of a class is right far more often than 1 in 10.
    x, y = (t.float() for t in (cifar.train.images, cifar.test.images))
    means = torch.stack([x[cifar.train.labels == k].mean(0) for k in range(10)]).flatten(1)
    right = torch.cdist(y.flatten(1), means).argmin(1) == cifar.test.labels
    assert right.float().mean() > 0.6
    assert torch.equal(load_cifar10(profile=SMOKE).train.images, cifar.train.images)


def test_without_data_and_mirrors_an_error_lists_the_ways_out(world):
    with pytest.raises(DataError) as caught:
        load_cifar10(profile=PROFILE)
    text = str(caught.value)
    for part in ("root, CIFAR10_ROOT: not set", "no CIFAR-10 there", "127.0.0.1:9", "localhost:9",
                 "1. set CIFAR10_ROOT", f"2. put {download.ARCHIVE}", str(world / "cache"),
                 "3. set COURSE_PROFILE=smoke"):  # fmt: skip
        assert part in text
    assert not (world / "cache" / download.ARCHIVE).exists()


def test_downloads_where_there_is_nothing(tiny, monkeypatch):
    def fetch(folder):
        return tiny["root"] / download.ARCHIVE

    monkeypatch.setattr(download, "fetch_archive", fetch)
    assert load_cifar10(profile=PROFILE).provenance["source"] == "original archive"


# Damaged and malicious data


@pytest.mark.parametrize("damage", ["truncated", "changed", "no archive"])
def test_damaged_archive(tiny, world, damage, capsys):
    content = bytearray((tiny["root"] / download.ARCHIVE).read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "changed":
        content[len(content) // 2] ^= 1
    else:
        content = b"<html>404</html>"
    archive = world / "cache" / download.ARCHIVE
    archive.parent.mkdir()
    archive.write_bytes(content)
    with pytest.raises(DataError, match="is damaged or not CIFAR-10: its md5 is"):
        load_cifar10(archive, PROFILE)
    with pytest.raises(DataError, match="not be downloaded"):  # not used from the cache either
        load_cifar10(profile=PROFILE)
    assert load_cifar10(profile=SMOKE).provenance["synthetic"]


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_3", "test_batch"])
def test_malicious_pickle_is_not_unpickled(tiny, tmp_path, monkeypatch, name):
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    folder = tmp_path / "evil" / sources.FOLDER
    folder.mkdir(parents=True)
    for batch, content in tiny["batches"].items():
        (folder / batch).write_bytes(bomb if batch == name else content)
    with pytest.raises(DataError, match=f"{name} is damaged or not CIFAR-10"):
        load_cifar10(tmp_path / "evil", PROFILE)
    # The same in an archive, even if its own md5 were right.
    archive = tmp_path / download.ARCHIVE
    write_archive(archive, tiny["batches"] | {name: bomb})
    with pytest.raises(DataError, match="is damaged or not CIFAR-10"):
        load_cifar10(archive, PROFILE)
    monkeypatch.setattr(download, "ARCHIVE_MD5", md5(archive.read_bytes()))
    with pytest.raises(DataError, match=f"{name} is damaged or not CIFAR-10"):
        load_cifar10(archive, PROFILE)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)
    assert (tmp_path / "exploded").exists()  # the bomb works


def test_missing_batch(tiny, tmp_path):
    (tmp_path / "data_batch_1").write_bytes(tiny["batches"]["data_batch_1"])
    with pytest.raises(DataError, match=r"cannot be read: .*data_batch_2"):
        load_cifar10(tmp_path, PROFILE)


def copy_zip(tiny, path, change):
    with zipfile.ZipFile(tiny["root"] / "images0.zip") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)


def test_damaged_zip(tiny, tmp_path):
    content = (tiny["root"] / "images0.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"half.zip cannot be read: File is not a zip file"):
        load_cifar10(tmp_path / "half.zip", PROFILE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: None, r"test/cat must hold 4 images \(.png or .jpg\) and holds 3"),
        (lambda content: b"no image", "test/cat/0002.png is not a readable image"),
        (lambda content: content[:200], "test/cat/0002.png is not a readable image"),
        (lambda content: larger(content), r"test/cat/0002.png must be 32 x 32 pixels and is"),
    ],
)
def test_one_bad_image(tiny, tmp_path, change, message):
    bad = "test/cat/0002.png"
    copy_zip(tiny, tmp_path / "bad.zip", lambda name, c: change(c) if name == bad else c)
    with pytest.raises(DataError, match=message):
        load_cifar10(tmp_path / "bad.zip", PROFILE)
    assert not list((tmp_path / "cache").glob("*.npy"))


def larger(content):
    out = io.BytesIO()
    Image.open(io.BytesIO(content)).resize((33, 32)).save(out, "png")
    return out.getvalue()


def test_changed_folder_is_read_again(tiny, tmp_path):
    for row, path in zip(tiny["rows"], sorted_images(tiny["root"] / "images"), strict=True):
        write_png(tmp_path / "images" / path, row[1:])
    first = load_cifar10(tmp_path / "images", FULL)
    write_png(tmp_path / "images" / "train/cat/0000.png", np.zeros(3072, np.uint8))
    second = load_cifar10(tmp_path / "images", FULL)
    assert everything(first) != everything(second)
    assert first.provenance["sha256"] != second.provenance["sha256"]


def sorted_images(folder):
    paths = [p.relative_to(folder) for p in folder.glob("*/*/*.png")]
    return sorted(paths, key=lambda p: (p.parts[0] == "test", CLASSES.index(p.parts[1]), p.name))


# The cache


def entry(world):
    (path,) = (world / "cache").glob("*.npy")
    return path


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "pickle"])
def test_damaged_cache_entry_is_built_again(tiny, world, damage):
    place = tiny["root"] / "images0.zip"
    first = load_cifar10(place, FULL)
    path = entry(world)
    whole = path.read_bytes()
    content = bytearray(whole)
    if damage == "truncated":
        content = content[:-1000]
    elif damage == "changed":
        content[-1] ^= 1
    elif damage == "empty":
        content = b""
    else:
        content = pickle.dumps(Bomb(world / "exploded"))
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged and is built again"):
        second = load_cifar10(place, FULL)
    assert everything(first) == everything(second)
    assert entry(world).read_bytes() == whole
    assert not (world / "exploded").exists()


def test_unwritable_cache_is_no_obstacle(tiny, world, monkeypatch):
    (world / "file").write_text("not a folder")
    monkeypatch.setenv("COURSE_CACHE", str(world / "file" / "cache"))
    for form in ("images0.zip", "images", download.ARCHIVE):
        with pytest.warns(UserWarning, match="could not be kept in .*set COURSE_CACHE") as caught:
            cifar = load_cifar10(tiny["root"] / form, FULL)
        assert len(caught) == 1
        assert everything(cifar) == sorted(map(bytes, tiny["rows"]))
    with warnings.catch_warnings():  # nothing to keep, nothing to warn of
        warnings.simplefilter("error")
        load_cifar10(tiny["root"] / "torchvision", FULL)
    with pytest.raises(DataError, match="cannot be written, Not a directory"):
        load_cifar10(profile=PROFILE)


def test_full_disk_is_no_obstacle(tiny, world, monkeypatch):
    def full(file, rows, **kwargs):
        file.write(b"some of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        cifar = load_cifar10(tiny["root"] / "images0.zip", FULL)
    assert everything(cifar) == sorted(map(bytes, tiny["rows"]))
    assert [path.name for path in (world / "cache").iterdir()] == ["decoding.lock"]


def test_two_at_once_decode_once(world):
    built, results = [], []

    def build():
        built.append(1)
        threading.Event().wait(0.3)
        return np.arange(10, dtype=np.uint8)[:, None], "png"

    def run():
        results.append(cache.kept("0" * 32, build, world / "cache"))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert all(form == "png" and rows[9] == 9 for rows, form in results)


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", "~/somewhere")
    assert cache.folder() == Path.home() / "somewhere"
    monkeypatch.delenv("COURSE_CACHE")
    assert cache.folder() == Path.home() / ".cache" / "convnets-course"


# The real thing


@pytest.mark.skipif(not REAL, reason="CIFAR10_ROOT is not set")
def test_real_cifar10(monkeypatch):
    monkeypatch.undo()
    cifar = load_cifar10(profile=runtime.PROFILES["full"])
    assert [len(part) for part in (cifar.train, cifar.val, cifar.test)] == [45_000, 5_000, 10_000]
    for part in (cifar.train, cifar.val, cifar.test):
        assert torch.bincount(part.labels).tolist() == [len(part) // 10] * 10
    pixels = torch.cat([cifar.train.images, cifar.val.images]).double().div_(255)
    # A JPEG copy is a little smoother than the original.
    assert torch.allclose(pixels.mean((0, 2, 3)), torch.tensor(data.MEAN).double(), atol=5e-4)
    assert torch.allclose(pixels.std((0, 2, 3)), torch.tensor(data.STD).double(), atol=3e-3)
