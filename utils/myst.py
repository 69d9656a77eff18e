"""Read a chapter as people write it: `chapters/NAME.md`, a notebook in MyST Markdown.

A stand-alone reader of the few constructs that matter here (front matter, code cells and their
options), cut as myst-nb cuts them, so that a chapter can be read where myst-nb is absent: on
Colab, in a plain Python. tests/test_notebooks.py holds it against myst-nb's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_FENCE = re.compile(r"^( {0,3})(`{3,}(?=[^`]*$)|~{3,}|:{3,})(.*)$")
_BREAK = re.compile(r"^\+\+\+[+ ]*(.*)$")


class ChapterError(ValueError):
    """A chapter that cannot be read; the message names file, line and remedy."""


@dataclass(frozen=True)
class Cell:
    """One cell as authored."""

    kind: str  # "code" or "markdown"
    source: str
    metadata: dict[str, Any] = field(default_factory=dict)  # the cell's options: tags, mystnb, …
    line: int = 1  # in the .md, from 1: a code cell's opening fence, a text cell's first line

    @property
    def tags(self) -> list[str]:
        """The cell's tags, as in `tags: [export]`."""
        return self.metadata.get("tags", [])


@dataclass(frozen=True)
class Chapter:
    """A MyST notebook as authored."""

    front_matter: dict[str, Any]
    cells: list[Cell]
    path: Path | None = None

    @property
    def code(self) -> list[Cell]:
        """The code cells, in order."""
        return [cell for cell in self.cells if cell.kind == "code"]


def block_end(lines: list[str], start: int) -> int | None:
    """Index of the line that closes the block opened at index `start`; None if none does."""
    marks = _FENCE.match(lines[start])[2]
    closing = re.compile(rf"^ {{0,3}}{re.escape(marks)}{re.escape(marks[0])}*\s*$")
    return next((k for k in range(start + 1, len(lines)) if closing.match(lines[k])), None)


def read_chapter(path_or_text: Path | str) -> Chapter:
    """Front matter and cells of a MyST notebook, given its path or its text.

    Cells are cut as myst-nb cuts them: top-level ```` ```{code-cell} ```` fences are code, what
    lies between them is text, split at `+++`. Raises ChapterError with file and line.
    """
    path = None
    if isinstance(path_or_text, Path) or (
        path_or_text.endswith(".md") and "\n" not in path_or_text
    ):
        path = Path(path_or_text)
        path_or_text = path.read_text(encoding="utf-8")
    where = shown(path) if path else "chapter"
    lines = path_or_text.splitlines()
    front: dict[str, Any] = {}
    i = 0
    if lines and lines[0].rstrip() == "---":
        end = next((k for k in range(1, len(lines)) if lines[k].rstrip() in ("---", "...")), None)
        if end is None:
            raise ChapterError(f"{where}:1: the front matter is never closed; add a line `---`")
        front = _yaml("\n".join(lines[1:end]), f"{where}:1: front matter")
        i = end + 1
    cells: list[Cell] = []
    start, text_meta = i, {}

    def text_until(end: int) -> None:
        first, last = start, end
        while first < last and not lines[first].strip():
            first += 1
        while last > first and not lines[last - 1].strip():
            last -= 1
        if first < last:
            source = "\n".join(lines[first:last])
            cells.append(Cell("markdown", source, text_meta, first + 1))

    while i < len(lines):
        fence = _FENCE.match(lines[i])
        if fence:
            indent, marks, info = fence.groups()
            is_code = marks[0] != ":" and info.strip().startswith("{code-cell}")
            end = block_end(lines, i)
            if end is None:
                raise ChapterError(f"{where}:{i + 1}: this block is never closed; add {marks}")
            if is_code and indent:
                raise ChapterError(
                    f"{where}:{i + 1}: a code cell must begin in the first column, or it is "
                    "taken for text; remove the indentation"
                )
            if is_code:
                text_until(i)
                at = f"{where}:{i + 1}: options of this cell"
                metadata, source = _options(lines[i + 1 : end], at)
                cells.append(Cell("code", source, metadata, i + 1))
                start, text_meta = end + 1, {}
            i = end + 1
        elif lines[i].startswith("<!--") and "-->" not in lines[i]:
            while i < len(lines) and "-->" not in lines[i]:
                i += 1
        elif found := _BREAK.match(lines[i]):
            text_until(i)
            text_meta = _yaml(found[1], f"{where}:{i + 1}: options after +++")
            start = i = i + 1
        else:
            i += 1
    text_until(len(lines))
    return Chapter(front, cells, path)


def _options(body: list[str], where: str) -> tuple[dict[str, Any], str]:
    """Split a cell's body into its options (a `---` block or `:key: value` lines) and its code."""
    options: list[str] = []
    if body and body[0].startswith("---"):
        end = next((k for k in range(1, len(body)) if body[k].startswith("---")), None)
        if end is None:
            raise ChapterError(f"{where} are never closed; add a line `---`")
        options, body = [*body[1:end], ""], body[end + 1 :]
    else:
        while body and body[0].lstrip().startswith(":"):
            options.append(body[0].lstrip()[1:])
            body = body[1:]
    if body and not body[0].strip():
        body = body[1:]
    metadata = _yaml("\n".join(options), where)
    tags = metadata.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ChapterError(f"{where}: tags must be a list, as in `tags: [export]`, not {tags!r}")
    return metadata, "\n".join(body).rstrip("\n")


def _yaml(text: str, where: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ChapterError(f"{where} cannot be read as YAML: {error}") from None
    if not isinstance(value, dict):
        raise ChapterError(f"{where} must be `key: value` lines, not {value!r}")
    return value


def shown(path: Path) -> str:
    """The path as one would type it: from the repository's root, if it is in one."""
    path = path.resolve()
    root = next((folder for folder in path.parents if (folder / "_toc.yml").exists()), None)
    return path.relative_to(root).as_posix() if root else str(path)
