"""A course of a few cells in a temporary folder, for tests of recording and of the build."""

from pathlib import Path

from nbformat.v4 import new_output

from utils import notebooks

ROOT = Path(__file__).resolve().parents[1]
FRONT = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""
CONFIG = f"""\
title: Small course
author: Tests
only_build_toc_files: true
exclude_patterns: ["**/*.ipynb", "_build"]
execute: {{execute_notebooks: cache, raise_on_error: true}}
repository: {{url: "https://github.com/o_o/small", branch: main, path_to_book: ""}}
sphinx:
  local_extensions: {{sphinx_ext.recordings: "{ROOT}"}}
"""
# What a chapter's kernel knows of the data; the recorder asks for it.
DATA = """\
LAST_PROVENANCE = None

def load(synthetic=False):
    global LAST_PROVENANCE
    LAST_PROVENANCE = {
        "source": "synthetic stand-in" if synthetic else "image files",
        "sha256": "0123456789abcdef", "synthetic": synthetic, "root": "/somewhere/private",
    }
"""


def cell(source, options=""):
    options = f"---\n{options}\n---\n" if options else ""
    return f"```{{code-cell}} ipython3\n{options}{source}\n```"


def chapter(*parts, title="Title"):
    """A chapter's text: title, set-up cell, then the given text and cells."""
    first = cell(notebooks.SETUP_CELL, "tags: [remove-cell]")
    return FRONT + "\n\n".join([f"\n# {title}", first, *parts]) + "\n"


def make(root, **chapters):
    """A course of these chapters, given their parts; returns its folder."""
    for folder in ("chapters", "utils"):
        (root / folder).mkdir(parents=True)
    for name, text in {"__init__": "", "chapters": "", "data": DATA}.items():
        (root / "utils" / f"{name}.py").write_text(text)
    (root / "_config.yml").write_text(CONFIG)
    files = "".join(f"  - file: chapters/{name}\n" for name in chapters)
    (root / "_toc.yml").write_text(
        f"format: jb-book\nroot: intro\nchapters:\n{files}  - file: status\n"
    )
    (root / "intro.md").write_text("# Welcome\n")
    (root / "status.md").write_text("# Status\n\n```{recordings}\n```\n")
    for name, parts in chapters.items():
        (root / "chapters" / f"{name}.md").write_text(chapter(*parts, title=name.title()))
    return root


def pretend(root, name, text="42\n", **provenance):
    """Write chapters/NAME.ipynb as if it had been run: every cell after the first says `text`."""
    md = notebooks.chapter_path(name, root)
    authored = notebooks.read_chapter(md)
    notebook = notebooks.to_notebook(authored, notebooks.repository(root).url)
    for count, code in enumerate(notebooks.code_of(notebook), start=1):
        code.execution_count = count
        if count > 1:
            code.outputs = [new_output("stream", name="stdout", text=text)]
    notebook.metadata["course"] = {
        "recorded": "2026-01-02",
        "device": "Toy CPU, 2 cores",
        "torch": "2.9.0",
        "python": "3.12.1",
        "profile": "full",
        "seeds": [0],
        "seconds": 552,
        "data": {"source": "image files", "sha256": "0123456789abcdef", "synthetic": False},
        "code_hash": notebooks.code_hash(authored.code),
        "utils_hash": notebooks.utils_hash(root),
        **provenance,
    }
    path = md.with_suffix(".ipynb")
    notebooks.write_notebook(notebook, path)
    return path
