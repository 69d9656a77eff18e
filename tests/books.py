"""Books for tests: the course itself, and a toy course with every construct a chapter may use."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock
from nbformat.v4 import new_output

from utils import notebooks

ROOT = Path(__file__).resolve().parents[1]
TOYBOOK = ROOT / "tests" / "toybook"
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40">'
    '<rect width="40" height="40"/></svg>'
)


def outputs(cell):
    """What running this cell of the toy chapter gives."""
    if "print" in cell.source:
        return [new_output("stream", name="stdout", text="42\n")]
    if "picture" in cell.source:
        return [new_output("display_data", {"image/svg+xml": SVG, "text/plain": "<Figure>"})]
    if "raise ValueError" in cell.source:
        name, what = "ValueError", "on purpose"
        return [new_output("error", ename=name, evalue=what, traceback=[f"{name}: {what}"])]
    return []


def record(root, name="toy"):
    """Write chapters/NAME.ipynb as a run would, without running anything."""
    md = notebooks.chapter_path(name, root)
    chapter = notebooks.read_chapter(md)
    notebook = notebooks.to_notebook(chapter, notebooks.repository(root).url)
    for count, cell in enumerate(notebooks.code_of(notebook), start=1):
        cell.execution_count, cell.outputs = count, outputs(cell)
    notebook.metadata["course"] = {
        "recorded": "2026-01-02",
        "device": "A toy CPU, 2 cores",
        "torch": "2.9.0",
        "python": "3.12.1",
        "profile": "full",
        "seeds": [0],
        "seconds": 12.5,
        "data": {"source": "original archive", "md5": "c58f30108f718f92721af3b95e74349a"},
        "code_hash": notebooks.code_hash(chapter.code),
        "utils_hash": notebooks.utils_hash(root),
        "text_hash": notebooks.text_hash(chapter),
    }
    notebooks.write_notebook(notebook, md.with_suffix(".ipynb"))


def make_toy(root):
    """The toy course under `root`, with the project's own configuration and extensions."""
    shutil.copytree(TOYBOOK, root, dirs_exist_ok=True)
    for folder in ("sphinx_ext", "utils"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("logo.svg", "favicon.svg", "custom.css"):
        if (ROOT / "_static" / name).exists():
            shutil.copy(ROOT / "_static" / name, root / "_static" / name)
    shutil.copy(ROOT / "_config.yml", root / "_config.yml")
    md = root / "chapters" / "toy.md"
    md.write_text(md.read_text().replace("@@SETUP@@", notebooks.SETUP_CELL))
    record(root)
    return root


def build(root, *options, **environment):
    """Build strictly, in a process of its own: with the environment that has no torch, if made."""
    folders = (ROOT / ".venv-book" / "bin", Path(sys.executable).parent)
    tool = next((f / "jupyter-book" for f in folders if (f / "jupyter-book").exists()), None)
    assert tool, "there is no jupyter-book to build with. Run: make book"
    return subprocess.run(
        [tool, "build", "-W", "-n", "--keep-going", *options, str(root)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def built_course():
    """Folder of the course's pages, built now; COURSE_BOOK_HTML names one built before."""
    if given := os.environ.get("COURSE_BOOK_HTML"):
        return Path(given)
    (ROOT / "_build").mkdir(exist_ok=True)
    with FileLock(ROOT / "_build" / ".tests.lock"):  # two test files may ask at the same time
        done = build(ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return ROOT / "_build" / "html"
