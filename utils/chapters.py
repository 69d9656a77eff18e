"""Import a chapter as a module: `chapters.load("resnet").resnet20()`.

Models live in their chapter and nowhere else. The cells tagged `export` define them, and this
module runs just those cells, so that tests, the command line and other chapters can use what the
reader saw being built.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from utils import notebooks

FOLDER = Path(__file__).resolve().parent.parent / "chapters"


@cache
def load(name: str, folder: Path | None = None) -> ModuleType:
    """The module of the cells tagged `export` of `chapters/NAME.md`, run in order.

    Its `CODE_HASH` says which version of these cells it was (16 hexadecimal digits).

    Raises:
        ValueError: there is no such chapter, or it exports nothing.
    """
    folder = folder or FOLDER
    path = folder / f"{name}.md"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.md"))) or "none"
        raise ValueError(f"there is no chapter {name!r}; the chapters are: {known}.")
    cells = [
        cell
        for cell in notebooks.read_chapter(path).cells
        if cell.kind == "code" and "export" in cell.metadata.get("tags", [])
    ]
    if not cells:
        raise ValueError(
            f"{path.name} exports nothing: tag the cells that define its networks with `export`."
        )
    # Under its own name in sys.modules, as torch.save, pickle and dataclasses want it.
    module = ModuleType(f"chapter_{name}", f"What the exported cells of {path.name} define.")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    code = "\n".join(cell.source for cell in cells)
    module.CODE_HASH = hashlib.sha256(code.encode()).hexdigest()[:16]
    for cell in cells:
        place = f"<{path.name}, line {cell.line}>"
        # A traceback into the cell then shows its lines.
        lines = cell.source.splitlines(keepends=True)
        linecache.cache[place] = (len(cell.source), None, lines, place)
        exec(compile(cell.source, place, "exec"), module.__dict__)  # noqa: S102
    return module
