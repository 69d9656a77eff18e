"""A chapter with a network of one layer, an empty results folder, and data passed off as real."""

import contextlib
import textwrap

from utils import chapters, results, runs
from utils.data import load_cifar10

CHAPTER = textwrap.dedent("""\
    # A toy chapter

    ```{code-cell} ipython3
    :tags: [export]

    from torch import nn


    def toy(num_classes=10, width=4):
        return nn.Sequential(
            nn.Conv2d(3, width, 3, stride=4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, num_classes),
        )
    ```

    ```{code-cell} ipython3
    raise RuntimeError("a cell that is not exported is not run")
    ```
    """)


@contextlib.contextmanager
def toy_course(tmp_path, monkeypatch):
    """The course in `tmp_path`, for as long as the context lasts."""
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters" / "toy.md").write_text(CHAPTER)
    monkeypatch.setattr(chapters, "FOLDER", tmp_path / "chapters")
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(runs, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.delenv("CIFAR10_ROOT", raising=False)
    data = load_cifar10()
    data.provenance.update(source="made for a test", synthetic=False)
    monkeypatch.setattr(runs, "load_cifar10", lambda: data)
    chapters.load.cache_clear()
    yield tmp_path
    chapters.load.cache_clear()
