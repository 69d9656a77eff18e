"""Keep `chapters/NAME.md` and `chapters/NAME.ipynb` in step.

python -m utils.notebooks check     # is every .ipynb in step with its .md?
python -m utils.notebooks sync      # after a build: take over the text it wrote
python -m utils.notebooks setup     # put the canonical first cell into every chapter
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nbformat import NotebookNode

from utils.myst import Cell, ChapterError, read_chapter, shown
from utils.notebooks import (
    ROOT,
    SETUP_CELL,
    chapter_path,
    chapters,
    code_of,
    is_setup,
    neutral,
    provenance,
    read_notebook,
    recording_digest,
    stale_reason,
    text_hash,
    write_text,
)


def sync(root: Path = ROOT) -> list[str]:
    """Copy the notebooks the build wrote over chapters/; returns what stood in the way."""
    problems = []
    for name in chapters(root):
        ipynb = chapter_path(name, root).with_suffix(".ipynb")
        built = root / "_build" / "colab" / "chapters" / ipynb.name
        if not built.exists() or not ipynb.exists():
            missing = built if ipynb.exists() else ipynb
            mend = "make book" if ipynb.exists() else f"make record CHAPTER={name}"
            problems.append(f"{shown(missing)} does not exist. Run: {mend}")
        elif recording_digest(read_notebook(built)) != recording_digest(read_notebook(ipynb)):
            problems.append(f"{shown(ipynb)} was recorded after the last build. Run: make book")
        elif write_text(built.read_text(encoding="utf-8"), ipynb):
            print(f"{shown(ipynb)}: text brought in step with the .md")
    return problems


def check(root: Path = ROOT) -> list[str]:
    """Everything that keeps chapters and recordings from agreeing, one sentence each."""
    problems, listed = [], chapters(root)
    for md in sorted((root / "chapters").glob("*.md")):
        if md.stem not in listed:
            problems.append(f"{shown(md)}:1: not in the book. List it in _toc.yml")
    for name in listed:
        md = chapter_path(name, root)
        if not md.exists():
            problems.append(f"_toc.yml: lists chapters/{name}, but {name}.md does not exist")
            continue
        try:
            problems += _check_chapter(md, root)
        except ChapterError as error:
            problems.append(str(error))
    return problems


def _check_chapter(md: Path, root: Path) -> list[str]:
    chapter, where = read_chapter(md), shown(md)
    problems = []
    jupytext = chapter.front_matter.get("jupytext") or {}
    style = (jupytext.get("text_representation") or {}).get("format_name")
    if style != "myst" or "kernelspec" not in chapter.front_matter:
        problems.append(
            f"{where}:1: the front matter must hold jupytext: text_representation: and "
            "kernelspec:, or the page shows no cells. Copy those lines from another chapter"
        )
    first = chapter.code[0] if chapter.code else Cell("code", "")
    if first.source.rstrip() != SETUP_CELL or "remove-cell" not in first.tags:
        problems.append(
            f"{where}:{first.line}: the first code cell is not the course's set-up cell, tagged "
            f"remove-cell. Run: python -m utils.notebooks setup {md.stem}"
        )
    ipynb = md.with_suffix(".ipynb")
    if reason := stale_reason(md, ipynb):
        return [*problems, f"{reason}. Run: make record CHAPTER={md.stem}"]
    recorded = read_notebook(ipynb)
    for cell, old in zip(chapter.code, code_of(recorded), strict=True):
        alt = ((cell.metadata.get("mystnb") or {}).get("image") or {}).get("alt")
        if has_image(old) and not (isinstance(alt, str) and alt.strip()):
            problems.append(
                f"{where}:{cell.line}: shows a picture without alt text. Say what it shows under "
                "mystnb: image: alt: in the cell's options, then run: make book"
            )
    built = root / "_build" / "colab" / "chapters" / ipynb.name
    behind = provenance(recorded).get("text_hash") != text_hash(chapter) or (
        built.exists()
        and recording_digest(read_notebook(built)) == recording_digest(recorded)
        and neutral(built.read_text(encoding="utf-8")) != neutral(ipynb.read_text(encoding="utf-8"))
    )
    if behind:
        problems.append(f"{where}:1: the text of {ipynb.name} is behind it. Run: make book")
    return problems


def has_image(cell: NotebookNode) -> bool:
    """Whether a recorded code cell shows a picture."""
    return any(kind.startswith("image/") for out in cell.outputs for kind in out.get("data", {}))


def put_setup(md: Path) -> bool:
    """Give a chapter the canonical first cell; False if it has it."""
    text = md.read_text(encoding="utf-8")
    first = next(iter(read_chapter(md).code), None)
    if first is None:
        raise ChapterError(f"{shown(md)}:1: no code cell, so none needs a set-up cell before it")
    lines, at = text.splitlines(), first.line - 1
    end = at
    if is_setup(first.source):
        end = next(k for k in range(at + 1, len(lines)) if lines[k].startswith("```")) + 1
    cell = ["```{code-cell} ipython3", ":tags: [remove-cell]", "", *SETUP_CELL.splitlines(), "```"]
    lines[at:end] = cell if end > at else [*cell, ""]
    return write_text("\n".join(lines) + "\n", md)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 when nothing is out of step."""
    parser = argparse.ArgumentParser(prog="python -m utils.notebooks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=["check", "sync", "setup"])
    parser.add_argument("names", nargs="*", help="chapters, for setup; default all")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    try:
        if options.command == "setup":
            for name in options.names or chapters(root):
                if put_setup(chapter_path(name, root)):
                    print(f"chapters/{name}.md: set-up cell written")
            return 0
        problems = check(root) if options.command == "check" else sync(root)
    except (ChapterError, OSError) as error:
        problems = [str(error)]
    for problem in problems:
        print(problem)
    if options.command == "check" and not problems:
        print(f"{len(chapters(root))} chapters: recordings and text in step")
    return 1 if problems else 0
