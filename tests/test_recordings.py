"""The book shows what was recorded, runs nothing, and stops where code and recording differ."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_course
from small_course import cell

from utils import notebooks

ROOT = Path(__file__).resolve().parents[1]
JUPYTER_BOOK = Path(sys.executable).with_name("jupyter-book")
# Would a build run this cell, there would be a file.
TELLTALE = "import pathlib\npathlib.Path('ran').touch()\nprint(6 * 7)"


def build(root):
    """A strict build of the course, in a process of its own."""
    done = subprocess.run(
        [JUPYTER_BOOK, "build", "-W", "-n", "--keep-going", str(root)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    done.said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    done.read = sorted(re.findall(r"reading sources\.\.\. \[ *\d+%\] (\S+)", done.said))
    return done


def page(root, name):
    return (root / "_build" / "html" / f"{name}.html").read_text()


def edit(root, name, old, new):
    md = root / "chapters" / f"{name}.md"
    assert old in md.read_text()
    md.write_text(md.read_text().replace(old, new))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A course of two recorded chapters and its first build."""
    root = small_course.make(
        tmp_path_factory.mktemp("book") / "course",
        one=["Some text.", cell(TELLTALE), cell("no_such_name", "tags: [hide-input]")],
        two=["Other text.", cell(TELLTALE)],
    )
    small_course.pretend(root, "one", text="recorded words\n")
    small_course.pretend(root, "two", seeds=[0, 1, 2], seconds=7, data=None)
    return root, build(root)


@pytest.fixture
def book(built, tmp_path):
    """A copy of it, at the same address: Sphinx's notes hold absolute paths."""
    root, _ = built
    kept = tmp_path / "kept"
    shutil.copytree(root, kept)
    yield root
    shutil.rmtree(root)
    shutil.copytree(kept, root)


def nothing_ran(root):
    return not list(root.rglob("ran"))


def test_pages_show_recorded_outputs_and_their_provenance(built):
    root, done = built
    assert done.returncode == 0, done.said
    assert nothing_ran(root)
    one = page(root, "chapters/one")
    assert "recorded words" in one
    line = (
        "Recorded 2 January 2026 on Toy CPU, 2 cores · torch 2.9.0 · profile full · seed 0 · "
        "9 min 12 s · data: image files"
    )
    assert re.search(rf'</h1>\s*<p class="provenance">{re.escape(line)}</p>', one)
    assert "seeds 0, 1, 2 · 7 s</p>" in page(root, "chapters/two")
    assert 'class="provenance"' not in page(root, "intro")


def test_status_page_tabulates_them(built):
    root, _ = built
    status = page(root, "status")
    rows = re.findall(r"<tr.*?</tr>", status, flags=re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*><p>(.*?)</p>", row) for row in rows]
    assert [re.sub("<.*?>", "", cell) for cell in cells[1]][:9] == [
        *("One", "Toy CPU, 2 cores", "2.9.0", "3.12.1", "full", "0", "9 min 12 s"),
        *("image files 01234567", "2 January 2026"),
    ]
    assert re.fullmatch(r"\d+ days?", cells[1][9])
    assert cells[1][10] == cells[2][10] == "unchanged"
    assert 'href="chapters/two.html"' in cells[2][0]


def test_download_is_the_recorded_notebook(built):
    root, _ = built
    served = root / "_build" / "html" / "_sources" / "chapters" / "one.ipynb"
    assert served.read_bytes() == (root / "chapters" / "one.ipynb").read_bytes()


def test_download_is_the_exported_notebook_where_there_is_one(book):
    notebook = notebooks.merge(book / "chapters" / "one.md", book)
    exported = book / "_build" / "colab" / "chapters" / "one.ipynb"
    notebooks.write_notebook(notebook, exported)
    edit(book, "one", "Some text.", "More text.")
    assert build(book).returncode == 0
    served = book / "_build" / "html" / "_sources" / "chapters" / "one.ipynb"
    assert served.read_bytes() == exported.read_bytes()


def test_code_edits_stop_the_build_before_anything_runs(book):
    before = page(book, "chapters/one")
    edit(book, "one", "6 * 7", "6 * 8")
    edit(book, "two", "6 * 7", "6 * 9")
    (book / "chapters" / "two.ipynb").unlink()
    done = build(book)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-3:] == [
        "The book shows recorded outputs, and these are not current:",
        "chapters/one.md:36: code cell 2 changed since it was recorded. "
        "Run: make record CHAPTER=one",
        "chapters/two.md: no recording (two.ipynb does not exist). Run: make record CHAPTER=two",
    ]
    assert "Traceback" not in done.said
    assert nothing_ran(book)
    assert page(book, "chapters/one") == before


def test_prose_and_tag_edits_build_and_run_nothing(book):
    edit(book, "one", "Some text.", "Better text.")
    edit(book, "one", "hide-input", "hide-output")
    done = build(book)
    assert done.returncode == 0, done.said
    assert done.read == ["chapters/one"]
    one = page(book, "chapters/one")
    assert "Better text." in one
    assert "recorded words" in one
    assert "tag_hide-output" in one
    assert nothing_ran(book)


def test_only_what_changed_is_read_again(book):
    assert build(book).read == []

    # A new recording: the page follows, and so does the table.
    small_course.pretend(book, "one", text="other words\n", recorded="2026-02-03")
    done = build(book)
    assert done.returncode == 0, done.said
    assert done.read == ["chapters/one", "status"]
    assert "other words" in page(book, "chapters/one")
    assert "Recorded 3 February 2026" in page(book, "chapters/one")
    assert "3 February 2026" in page(book, "status")

    # Text that a build wrote into the notebook is no new recording.
    ipynb = book / "chapters" / "one.ipynb"
    ipynb.write_text(ipynb.read_text().replace("Some text.", "Some **text**."))
    assert build(book).read == []


def test_changed_utils_makes_nothing_stale_but_is_said(book):
    (book / "utils" / "data.py").write_text("x = 1\n")
    done = build(book)
    assert done.returncode == 0, done.said
    assert done.read == ["status"]
    assert page(book, "status").count("<p>changed</p>") == 2
