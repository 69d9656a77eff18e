"""The first cell of every chapter makes `utils` importable, wherever the notebook runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from utils.notebooks import SETUP_CELL

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "https://github.com/someone/convnets"
REPORT = "import utils.notebooks; print(utils.notebooks.__file__)"


def git(*arguments, cwd):
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository that holds what a notebook imports, as GitHub would serve it."""
    folder = tmp_path_factory.mktemp("remote") / "convnets"
    shutil.copytree(ROOT / "utils", folder / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    git("init", "--quiet", "--initial-branch=main", cwd=folder)
    git("add", ".", cwd=folder)
    git("commit", "--quiet", "--message=utils", cwd=folder)
    return folder


@pytest.fixture
def run_cell(repository):
    def run(folder, then=REPORT, remote=repository):
        """Run the cell in a new Python started in `folder`, with git sent to `remote`."""
        # The checkout under test must not be found by other ways than the cell's.
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{remote.as_uri()}.insteadOf",
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
    again = run_cell(tmp_path, remote=tmp_path / "gone")
    assert again.returncode == 0, again.stderr
    assert "Cloning" not in again.stderr


@pytest.mark.parametrize("place", [".", "chapters", "results"])
def test_uses_the_checkout_it_lies_in(run_cell, tmp_path, place):
    shutil.copytree(ROOT / "utils", tmp_path / "utils")
    (tmp_path / place).mkdir(exist_ok=True)
    done = run_cell(tmp_path / place, remote=tmp_path / "gone")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "utils" / "notebooks.py"


def test_no_network_stops_at_the_cell(run_cell, tmp_path):
    done = run_cell(tmp_path, remote=tmp_path / "gone")
    assert done.returncode != 0
    assert "git" in done.stderr
    assert not (tmp_path / "convnets").exists()
