"""The first cell of every chapter makes `utils` importable, wherever the notebook runs."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from utils import notebooks
from utils.notebooks import SETUP_CELL

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "https://github.com/someone/convnets"
REPORT = "import utils.notebooks; print(utils.notebooks.__file__)"


@pytest.fixture
def run_cell(repository):
    def run(folder, then=REPORT, remote=repository):
        """Run the cell in a new Python started in `folder`, with git sent to `remote`."""
        # The checkout under test must not be found by other ways than the cell's.
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{remote}.insteadOf",
            "GIT_CONFIG_VALUE_0": ADDRESS,
        }
        code = SETUP_CELL.replace("{repository}", ADDRESS) + "\n" + then
        return subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=env, text=True, capture_output=True
        )

    return run


def test_clones_where_there_is_nothing(run_cell, tmp_path):
    done = run_cell(tmp_path, then=f"import utils.data; {REPORT}")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "convnets" / "utils" / "notebooks.py"


def test_second_run_does_not_clone_again(run_cell, tmp_path):
    assert run_cell(tmp_path).returncode == 0
    # A clone would fail now: the remote is gone.
    again = run_cell(tmp_path, remote=(tmp_path / "gone").as_uri())
    assert again.returncode == 0, again.stderr
    assert "Cloning" not in again.stderr


@pytest.mark.parametrize("place", [".", "chapters", "results"])
def test_uses_the_checkout_it_lies_in(run_cell, tmp_path, place):
    shutil.copytree(ROOT / "utils", tmp_path / "utils")
    (tmp_path / place).mkdir(exist_ok=True)
    done = run_cell(tmp_path / place, remote=(tmp_path / "gone").as_uri())
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "utils" / "notebooks.py"


def test_no_network_stops_at_the_cell(run_cell, tmp_path):
    done = run_cell(tmp_path, remote=(tmp_path / "gone").as_uri())
    assert done.returncode != 0
    assert "git" in done.stderr
    assert not (tmp_path / "convnets").exists()


# ---- what comes after it -------------------------------------------------------------------------

# Colab has these without being asked, and the first cell installs nothing.
COLAB = {
    *("torch", "torchvision", "timm", "numpy", "matplotlib", "matplotlib_inline", "PIL"),
    *("IPython", "nbformat", "tqdm", "requests", "urllib3", "filelock", "jsonschema", "yaml"),
}


def imported(source):
    """Every module that Python code may import, at its top or later."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_notebooks_import_what_colab_has():
    todo, seen = set(), set()
    for name in notebooks.chapters():
        cells = nbformat.read(ROOT / "chapters" / f"{name}.ipynb", 4).cells
        todo |= {n for cell in cells if cell.cell_type == "code" for n in imported(cell.source)}
    while todo:
        seen.add(name := todo.pop())
        module = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if module.is_file():
            todo |= imported(module.read_text("utf-8")) - seen
    assert "utils.train" in seen
    others = {name.split(".")[0] for name in seen} - set(sys.stdlib_module_names)
    assert others - COLAB == {"utils"}
