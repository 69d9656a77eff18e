"""Building the book: from recorded outputs, as `make book` does it, and by running every notebook.

    python -m benchmarks.book

Works in copies of the repository in a temporary folder. The build that runs the notebooks is
Jupyter Book's own, on the profile `smoke`: the least it could take.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks import common, records
from benchmarks.common import Variant
from utils import notebooks

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns("_build", ".*", "__pycache__", "checkpoints")
OURS = ("sphinx_ext.recordings", "sphinx_ext.colab_export")
BUILD = ("jupyter-book", "build", "-q")


def main(
    rounds: int = 3, root: Path = ROOT, folder: Path | None = records.FOLDER
) -> dict[str, Any]:
    """Measure, print the table and write the JSON."""
    chapters = len(notebooks.chapters(root))
    with tempfile.TemporaryDirectory(prefix="course-book-") as place:
        ours, plain = Path(place, "ours"), Path(place, "plain")
        for copy in (ours, plain):
            shutil.copytree(root, copy, ignore=LEFT_OUT)
        make_plain(plain)
        build(ours)  # the variants that build again find something built, in any order
        variants = [
            Variant(
                "running the notebooks, from nothing",
                lambda: from_nothing(plain),
                "plain jupyter-book, profile smoke: the least it could take",
            ),
            Variant("recorded outputs, from nothing", lambda: from_nothing(ours), "make book"),
            Variant("one line of text changed", lambda: changed(ours), "make book again"),
            Variant("nothing changed", lambda: build(ours), "make book again"),
        ]
        return common.finish(
            "book",
            f"seconds to build the book, {chapters} chapters",
            common.rows(variants, rounds),
            dict(rounds=rounds),
            rounds=rounds,
            packages=("jupyter-book", "Sphinx", "myst-nb"),
            folder=folder,
        )


def build(root: Path) -> float:
    """Seconds of one build, by the Jupyter Book of this environment.

    Raises:
        RuntimeError: there is none, or the build failed.
    """
    tool = Path(sys.executable).with_name(BUILD[0])
    if not tool.exists():
        raise RuntimeError(f"There is no {tool}: `make bench` makes an environment that has it.")
    started = time.perf_counter()
    done = subprocess.run(
        [tool, *BUILD[1:], str(root)],
        cwd=root,
        env={**os.environ, "COURSE_PROFILE": "smoke", "TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(f"Building {root.name} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return seconds


def from_nothing(root: Path) -> float:
    """Seconds of a build where there was none before."""
    shutil.rmtree(root / "_build", ignore_errors=True)
    return build(root)


def changed(root: Path) -> float:
    """Seconds of a build after a line more of text in the first chapter."""
    page = notebooks.chapter_path(notebooks.chapters(root)[0], root)
    page.write_text(page.read_text("utf-8") + "\nOne more line.\n", "utf-8")
    return build(root)


def make_plain(root: Path) -> None:
    """Turn this copy into a book that runs its notebooks whenever it is built."""
    path = root / "_config.yml"
    config = yaml.safe_load(path.read_text("utf-8"))
    config["execute"]["execute_notebooks"] = "force"
    config["execute"]["timeout"] = 600
    for extension in OURS:
        del config["sphinx"]["local_extensions"][extension]
    path.write_text(yaml.safe_dump(config), "utf-8")


if __name__ == "__main__":
    main()
