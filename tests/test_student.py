"""The copy for a class: no solutions, and nothing missing that stood outside them."""

import shutil
import subprocess
import sys

import books
import pytest

from utils import notebooks, student

TEXT = """\
before

```{solution} one
:class: dropdown
short
```

between

````{solution-start} two
:class: dropdown
````

```{code-cell} ipython3
answer = 42
```

````{solution-end}
````

after
"""


def test_solutions_are_found_short_and_long():
    gone = student.solution_lines(TEXT)
    kept = [line for number, line in enumerate(TEXT.splitlines(), 1) if number not in gone]
    assert [line for line in kept if line] == ["before", "between", "after"]


@pytest.mark.parametrize("text", ["x\n```{solution} a\n", TEXT.replace("{solution-end}", "{note}")])
def test_a_solution_that_never_ends_is_refused(text):
    with pytest.raises(notebooks.ChapterError, match=r"toy:\d+: this solution is never closed"):
        student.solution_lines(text, "toy")


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The course for students, under a root of its own."""
    root = tmp_path_factory.mktemp("course")
    whole = root / "whole"
    shutil.copytree(books.ROOT, whole, ignore=student.LEFT_OUT)
    return student.main(whole)


@pytest.mark.parametrize("name", notebooks.chapters())
def test_a_chapter_loses_its_solutions_and_nothing_else(course, name):
    ours = notebooks.chapter_path(name)
    theirs = notebooks.chapter_path(name, course)
    text = theirs.read_text(encoding="utf-8")
    assert "{solution" not in text
    assert "olutions are folded" not in text
    assert text.count("{exercise}") == ours.read_text(encoding="utf-8").count("{exercise}") >= 5
    assert not notebooks.stale_reason(theirs), "the recording is not of this code"

    recorded = notebooks.code_of(notebooks.read_notebook(ours.with_suffix(".ipynb")))
    cells = notebooks.code_of(notebooks.read_notebook(theirs.with_suffix(".ipynb")))
    assert len(cells) < len(recorded)
    rest = iter(recorded)
    for cell in cells:  # in order, with the outputs they had
        assert any(c.source == cell.source and c.outputs == cell.outputs for c in rest)


def test_no_cell_needs_a_name_that_only_a_solution_defines(course):
    found = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821"]
        + [
            notebooks.chapter_path(name, course).with_suffix(".ipynb")
            for name in notebooks.chapters()
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


def test_the_course_without_solutions_builds(course):
    done = books.build(course)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert 'class="solution' not in (course / "_build/html/chapters/resnet.html").read_text("utf-8")
