"""Reading, comparing and writing chapters."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import small_course
from nbformat.v4 import new_output
from small_course import cell

from utils import instep, notebooks
from utils.notebooks import SETUP_CELL, ChapterError

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.md"))
TRICKY = (
    small_course.FRONT
    + '''
Text before, with `code`.

```{code-cell} ipython3
:tags: [export, hide-input]
:mystnb: {"image": {"alt": "a: b"}}

x = {":": "---"}
---1

y = """
+++
"""
```

````{note}
```{code-cell} ipython3
not_a_cell = True
```
````

:::{admonition} Colons
```{code-cell} ipython3
not_a_cell = True
```
:::

~~~python
```{code-cell}
~~~

<!-- a comment
```{code-cell}
-->

1. a list

   ```python
   not_a_cell = True
   ```

+++ {"tags": ["text-tag"]}

A second text cell.

+++

A third.

```{code-cell}
---
tags: [nbval-ignore-output]
mystnb:
  figure:
    name: fig-a
    caption: |
      A caption
---

print("after a blank line")

```
```{code-cell} ipython3
```

````{code-cell}
"""
```
"""
````
Last line.
'''
)


# ---- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [TRICKY, *CHAPTERS], ids=["tricky", *[p.stem for p in CHAPTERS]])
def test_cells_are_those_that_myst_nb_reads(text):
    read = pytest.importorskip("myst_nb.core.read").read_myst_markdown_notebook
    config = importlib.import_module("myst_parser.config.main").MdParserConfig(
        enable_extensions={"amsmath", "colon_fence", "deflist", "dollarmath", "tasklist"}
    )
    text = text if isinstance(text, str) else text.read_text(encoding="utf-8")
    ours, theirs = notebooks.read_chapter(text), read(text, config, add_source_map=True)
    assert [c.kind for c in ours.cells] == [c.cell_type for c in theirs.cells]
    lines = theirs.metadata.pop("source_map")
    for mine, other, line in zip(ours.cells, theirs.cells, lines, strict=True):
        assert mine.source.rstrip() == other.source.rstrip()
        assert mine.metadata == other.metadata
        if mine.kind == "code":
            assert mine.line == line
    assert ours.front_matter == theirs.metadata


def test_options_in_both_styles():
    block, lines = notebooks.code_cells(
        cell("x = 1", "tags: [export]\nmystnb:\n  image: {alt: A}")
        + "\n"
        + cell(':tags: [export]\n:mystnb: {"image": {"alt": "A"}}\n\nx = 1')
    )
    assert (
        block.metadata
        == lines.metadata
        == {
            "tags": ["export"],
            "mystnb": {"image": {"alt": "A"}},
        }
    )
    assert block.source == lines.source == "x = 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("---\ntitle: x\n", ":1: the front matter is never closed"),
        ("---\na: [\n---\n", ":1: front matter cannot be read as YAML"),
        ("text\n\n```{code-cell}\nx = 1\n", ":3: this block is never closed"),
        ("- item\n\n  ```{code-cell}\n  x = 1\n  ```\n", ":3: a code cell must begin in the first"),
        ("```{code-cell}\n:tags: export\n```\n", ":1: options of this cell: tags must be a list"),
        ("```{code-cell}\n---\ntags: [a]\nx\n```\n", ":1: options of this cell are never closed"),
    ],
)
def test_unreadable_chapter_names_file_and_line(tmp_path, text, message):
    path = tmp_path / "broken.md"
    path.write_text(text)
    with pytest.raises(ChapterError, match=r"broken\.md") as error:
        notebooks.read_chapter(path)
    assert f"broken.md{message}" in str(error.value)


def test_needs_neither_torch_nor_sphinx():
    code = (
        "import sys, utils.notebooks, utils.instep; "
        "sys.exit(bool({'torch', 'myst_nb', 'sphinx', 'nbclient'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# ---- hashes -------------------------------------------------------------------------------------


def test_code_hash_sees_code_and_nothing_else():
    def of(*cells):
        return notebooks.code_hash(notebooks.code_cells("\n\n".join(cells)))

    plain = of(cell(SETUP_CELL), cell("x = 1\ny = 2"))
    assert plain == of(cell(SETUP_CELL), "prose", cell("x = 1  \ny = 2\n\n", "tags: [export]"))
    real = SETUP_CELL.replace("{repository}", "https://github.com/a/b")
    assert plain == of(cell(real), cell("x = 1\ny = 2"))
    assert plain != of(cell(SETUP_CELL), cell("x = 1\ny = 3"))
    assert plain != of(cell(SETUP_CELL), cell("x = 1"), cell("y = 2"))
    assert plain != of(cell(SETUP_CELL), cell("x = 1\n  y = 2"))  # leading blanks are code


def test_utils_hash_follows_its_modules(tmp_path):
    root = small_course.make(tmp_path / "course")
    before = notebooks.utils_hash(root)
    (root / "utils" / "note.txt").write_text("no module")
    assert notebooks.utils_hash(root) == before
    (root / "utils" / "data.py").write_text("x = 1\n")
    assert notebooks.utils_hash(root) != before


# ---- the repository's address -------------------------------------------------------------------


def test_repository_from_config_and_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    root = small_course.make(tmp_path / "course")
    assert notebooks.repository(root) == (
        "https://github.com/o_o/small",
        "https://o_o.github.io/small/",
        "main",
    )
    monkeypatch.setenv("GITHUB_REPOSITORY", "Someone/nets")
    assert notebooks.repository(root)[:2] == (
        "https://github.com/Someone/nets",
        "https://someone.github.io/nets/",
    )
    monkeypatch.setenv("GITHUB_REPOSITORY", "nonsense")
    with pytest.raises(ChapterError, match="OWNER/NAME"):
        notebooks.repository(root)


# ---- files --------------------------------------------------------------------------------------


def test_notebook_text_is_canonical():
    notebook = notebooks.to_notebook(notebooks.read_chapter(TRICKY), "https://github.com/a/b")
    text = notebooks.notebook_text(notebook)
    for code in notebooks.code_of(notebook):
        code["id"] = "random"
        code.metadata["execution"] = {"iopub.execute_input": "2026-01-01"}
    assert notebooks.notebook_text(notebook) == text
    assert notebooks.notebook_text(nbformat.reads(text, 4)) == text
    nbformat.validate(json.loads(text))
    assert text.endswith("}\n")


def test_repository_stands_in_the_notebook_only():
    chapter = notebooks.read_chapter(small_course.chapter(cell("s = '{repository}'")))
    first, second = notebooks.code_of(notebooks.to_notebook(chapter, "https://github.com/a/b"))
    assert '"https://github.com/a/b"' in first.source
    assert second.source == "s = '{repository}'"  # a reader's own text is not ours to change


def test_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file.ipynb"
    assert notebooks.write_text("old", path)
    assert not notebooks.write_text("old", path)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        notebooks.write_text("new", path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_broken_notebook_names_the_file_and_the_remedy(tmp_path):
    path = tmp_path / "resnet.ipynb"
    path.write_text("{")
    with pytest.raises(ChapterError, match=r"resnet\.ipynb is not .* make record CHAPTER=resnet"):
        notebooks.read_notebook(path)


# ---- recorded and authored ----------------------------------------------------------------------


@pytest.fixture
def course(tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    root = small_course.make(tmp_path / "course", one=["Text.", cell("print(42)")])
    small_course.pretend(root, "one")
    export(root)
    return root


def export(root):
    """Stands for a build: write the notebook and take it over."""
    notebook = notebooks.merge(root / "chapters" / "one.md", root)
    notebooks.write_notebook(notebook, root / "_build" / "colab" / "chapters" / "one.ipynb")
    return instep.sync(root)


def edit(root, old, new):
    md = root / "chapters" / "one.md"
    assert old in md.read_text()
    md.write_text(md.read_text().replace(old, new))


def only(problems):
    assert len(problems) == 1, problems
    return problems[0]


def test_nothing_to_find(course, capsys):
    assert instep.check(course) == []
    assert instep.main(["check", "--root", str(course)]) == 0
    assert "in step" in capsys.readouterr().out


def test_code_edit_is_stale(course):
    edit(course, "print(42)", "print(43)")
    problem = only(instep.check(course))
    assert problem == (
        "chapters/one.md:36: code cell 2 changed since it was recorded. "
        "Run: make record CHAPTER=one"
    )
    with pytest.raises(ChapterError, match="make record CHAPTER=one"):
        notebooks.merge(course / "chapters" / "one.md", course)


def test_added_and_unrecorded_cells_are_stale(course):
    md = course / "chapters" / "one.md"
    md.write_text(md.read_text() + "\n" + cell("print(1)") + "\n")
    assert "one.md:40: 3 code cells, but 2 when" in only(instep.check(course))
    md.with_suffix(".ipynb").unlink()
    problem = only(instep.check(course))
    assert "no recording" in problem
    assert problem.endswith("Run: make record CHAPTER=one")


def test_cell_that_never_ran_is_stale(course):
    path = course / "chapters" / "one.ipynb"
    notebook = notebooks.read_notebook(path)
    notebooks.code_of(notebook)[1].execution_count = None
    notebooks.write_notebook(notebook, path)
    assert "code cell 2 was never executed" in only(instep.check(course))


@pytest.mark.parametrize(
    ("old", "new"),
    [("Text.", "Better text."), ("ipython3\nprint", "ipython3\n:tags: [a]\n\nprint")],
)
def test_text_or_tag_edit_is_behind_until_the_next_build(course, old, new, capsys):
    before = notebooks.read_notebook(course / "chapters" / "one.ipynb")
    edit(course, old, new)
    assert only(instep.check(course)) == (
        "chapters/one.md:1: the text of one.ipynb is behind it. Run: make book"
    )
    assert export(course) == []
    assert "text brought in step" in capsys.readouterr().out
    assert instep.check(course) == []
    after = notebooks.read_notebook(course / "chapters" / "one.ipynb")
    assert notebooks.recording_digest(after) == notebooks.recording_digest(before)


def test_built_text_that_differs_is_behind(course):
    built = course / "_build" / "colab" / "chapters" / "one.ipynb"
    built.write_text(built.read_text().replace("Text.", "Section 2 instead of 1"))
    assert "behind" in only(instep.check(course))


def test_a_fork_is_in_step(course, monkeypatch):
    md = course / "chapters" / "one.md"
    site = "[here](https://{}.github.io/small/chapters/one.html)"
    edit(course, "Text.", site.format("o_o"))
    export(course)
    monkeypatch.setenv("GITHUB_REPOSITORY", "fork/small")
    built = notebooks.notebook_text(notebooks.merge(md, course))
    built = built.replace(site.format("o_o"), site.format("fork"))  # as the exporter writes it
    assert "fork/small" in built
    (course / "_build" / "colab" / "chapters" / "one.ipynb").write_text(built)
    assert instep.check(course) == []


def test_sync_does_not_undo_a_newer_recording(course):
    recorded = small_course.pretend(course, "one", text="43\n")
    assert "recorded after the last build. Run: make book" in only(instep.sync(course))
    assert "43\\n" in recorded.read_text()


def test_sync_says_what_is_missing(course):
    (course / "_build" / "colab" / "chapters" / "one.ipynb").unlink()
    assert "does not exist. Run: make book" in only(instep.sync(course))
    (course / "chapters" / "one.ipynb").unlink()
    assert "Run: make record CHAPTER=one" in only(instep.sync(course))


def test_picture_without_alt_text(course):
    path = course / "chapters" / "one.ipynb"
    notebook = notebooks.read_notebook(path)
    notebooks.code_of(notebook)[1].outputs = [new_output("display_data", {"image/png": "aGk="})]
    notebooks.write_notebook(notebook, path)
    assert "one.md:36: shows a picture without alt text" in only(instep.check(course))
    edit(course, "ipython3\nprint", 'ipython3\n:mystnb: {"image": {"alt": "A plot"}}\n\nprint')
    export(course)
    assert instep.check(course) == []


def test_other_first_cell_and_how_to_mend_it(course, capsys):
    edit(course, "sys.path.insert(0, str(root))", "sys.path.append(str(root))")
    problems = instep.check(course)
    assert "one.md:14: the first code cell is not the course's set-up cell" in problems[0]
    assert "python -m utils.notebooks setup one" in problems[0]
    # The wording of that cell needs no new recording, only a new build.
    assert instep.main(["setup", "one", "--root", str(course)]) == 0
    assert instep.check(course) == []
    assert instep.main(["setup", "--root", str(course)]) == 0
    assert capsys.readouterr().out.count("set-up cell written") == 1


def test_setup_cell_is_put_where_there_is_none(tmp_path):
    md = tmp_path / "a.md"
    md.write_text(small_course.FRONT + "\n# A\n\n" + cell("x = 1") + "\n")
    assert instep.put_setup(md)
    first, second = notebooks.code_cells(md)
    assert (first.source, first.tags, second.source) == (SETUP_CELL, ["remove-cell"], "x = 1")


def test_front_matter_and_table_of_contents(course):
    edit(course, "format_name: myst", "format_name: markdown")
    (course / "chapters" / "stray.md").write_text("# Stray\n")
    with (course / "_toc.yml").open("a") as toc:
        toc.write("  - file: chapters/planned\n")
    text = "\n".join(instep.check(course))
    assert "chapters/one.md:1: the front matter must hold jupytext" in text
    assert "chapters/stray.md:1: not in the book. List it in _toc.yml" in text
    assert "_toc.yml: lists chapters/planned, but planned.md does not exist" in text


def test_setup_cell_fits_a_chapter():
    assert max(map(len, SETUP_CELL.splitlines())) <= 78
    compile(SETUP_CELL, "setup", "exec")
