"""The list of all exercises; tests/test_html.py holds it against the course's own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = """\
# Chapter

```{{exercise}} A title
:label: ex1
{first} What is it?
```
"""


def build(folder, first):
    extensions = ["myst_parser", "sphinx_exercise", "sphinx_ext.exercises"]
    (folder / "conf.py").write_text(f"extensions = {extensions}\nroot_doc = 'index'\n")
    (folder / "index.md").write_text("# Book\n\n```{toctree}\nchapter\nlist\n```\n")
    (folder / "chapter.md").write_text(PAGE.format(first=first))
    (folder / "list.md").write_text("# List\n\n```{exercise-list}\n```\n")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    return subprocess.run(
        [*command, folder, folder / "out"], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_an_exercise_is_listed_with_its_kind_and_time(tmp_path):
    done = build(tmp_path, "*Code, 10 minutes.*")
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "out" / "list.html").read_text()
    assert 'href="chapter.html#ex1"' in html
    assert "<p>Code</p>" in html
    assert "<p>10 minutes</p>" in html


def test_an_exercise_without_kind_or_time_is_told_in_one_sentence(tmp_path):
    for first in ("*Riddle, 10 minutes.*", "*Code.*", "Think."):
        done = build(tmp_path, first)
        assert done.returncode == 1
        assert (
            "the exercise 'A title' does not begin with its kind and time, such as "
            "*Code, 10 minutes.*; the kinds are Recall, Code" in done.stderr
        ), first
