"""A copy of the course without the solutions of its exercises, for a class.

    python -m utils.student     # writes _build/student; `make student` also builds its pages

Chapters and notebooks lose the same blocks: `{solution}` and all from `{solution-start}` to
`{solution-end}`, code cells included. Everything else, recorded outputs too, stays as it is.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from utils.myst import ChapterError, block_end
from utils.notebooks import (
    ROOT,
    chapter_path,
    chapters,
    code_cells,
    code_hash,
    code_of,
    provenance,
    read_notebook,
    write_notebook,
)

LEFT_OUT = shutil.ignore_patterns(
    "_build", ".git", ".venv*", ".*cache*", "__pycache__", ".ipynb_checkpoints", "tests"
)
# What chapters say of their solutions.
SENTENCE = " Solutions are folded, and run in the course's tests."
_SOLUTION = re.compile(r"^(?:`{3,}|:{3,})\{solution(-start|-end)?\}")


def solution_lines(text: str, where: str = "chapter") -> set[int]:
    """The numbers, from 1, of the lines that belong to solutions.

    Raises:
        ChapterError: a solution is never closed; says where.
    """
    lines, gone, i = text.splitlines(), set(), 0
    while i < len(lines):
        if not (found := _SOLUTION.match(lines[i])):
            i += 1
            continue
        last = i
        if found[1]:  # up to {solution-end}
            ends = (k for k in range(i, len(lines)) if lines[k].endswith("{solution-end}"))
            last = next(ends, None)
        end = None if last is None else block_end(lines, last)
        if end is None:
            raise ChapterError(
                f"{where}:{i + 1}: this solution is never closed; add the fence that ends it, and "
                "{solution-end} if it began with {solution-start}"
            )
        gone |= set(range(i + 1, end + 2))
        i = end + 1
    return gone


def without_solutions(md: Path) -> None:
    """Take the solutions out of a chapter and of the notebook beside it, in place."""
    text = md.read_text(encoding="utf-8")
    gone = solution_lines(text, f"chapters/{md.name}")
    stays = [cell.line not in gone for cell in code_cells(text)]
    kept = [line for number, line in enumerate(text.splitlines(), 1) if number not in gone]
    md.write_text("\n".join(kept).replace(SENTENCE, "") + "\n", encoding="utf-8")
    ipynb = md.with_suffix(".ipynb")
    if not ipynb.exists():
        return
    notebook = read_notebook(ipynb)
    # Only the code counts here: the build writes the text cells anew.
    notebook.cells = [c for c, stay in zip(code_of(notebook), stays, strict=True) if stay]
    if course := provenance(notebook):
        course["code_hash"] = code_hash(code_cells(md.read_text(encoding="utf-8")))
    write_notebook(notebook, ipynb)


def main(root: Path = ROOT) -> Path:
    """Write the copy to _build/student, in place of an older one; returns its folder."""
    target = root / "_build" / "student"
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(root, target, ignore=LEFT_OUT)
    for name in chapters(root):
        without_solutions(chapter_path(name, target))
    return target


if __name__ == "__main__":
    main()
