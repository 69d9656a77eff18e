"""Chapters as files: `chapters/NAME.md` (authored) and `chapters/NAME.ipynb` (recorded).

The `.md` is what people write; the `.ipynb` beside it is generated and holds the outputs of one
run and where they came from. This module reads both, tells when they have drifted apart, and
writes notebooks so that equal content is equal bytes. It needs neither torch nor Sphinx, so that
the book can be built, and a chapter opened on Colab, without them.

    python -m utils.notebooks check     # also: sync, setup; see utils/instep.py
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from utils.myst import Cell, Chapter, ChapterError, read_chapter, shown

ROOT = Path(__file__).resolve().parents[1]

# The first code cell of every chapter. `{repository}` becomes the real address in the .ipynb.
SETUP_CELL = """\
# Find `utils` wherever this notebook runs: Colab, JupyterLab or Binder.
import subprocess
import sys
from pathlib import Path

places = [Path.cwd(), *Path.cwd().parents, Path.cwd() / "convnets"]
root = next(
    (p for p in places if (p / "utils" / "chapters.py").exists()), None
)
if root is None:
    clone = ["git", "clone", "--depth", "1", "{repository}", "convnets"]
    subprocess.run(clone, check=True)
    root = Path.cwd() / "convnets"
sys.path.insert(0, str(root))"""

# What the kernel reports about itself, less the versions: those are in the provenance.
LANGUAGE_INFO = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "pygments_lexer": "ipython3",
}
_CLONE = re.compile(r'"git", "clone", "--depth", "1", "([^"]+)"')


def code_cells(text: Path | str) -> list[Cell]:
    """The code cells of a chapter, in order, given its path or its text."""
    return read_chapter(text).code


# ---- the course around it ----------------------------------------------------------------------


class Repository(NamedTuple):
    """Where the course lives."""

    url: str  # https://github.com/OWNER/NAME
    site_url: str  # https://OWNER.github.io/NAME/
    branch: str


def repository(root: Path = ROOT) -> Repository:
    """The addresses: `repository` of _config.yml, or GITHUB_REPOSITORY (OWNER/NAME)."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8")) or {}
    entry = config.get("repository") or {}
    url = str(entry.get("url", "")).rstrip("/").removesuffix(".git")
    if name := os.environ.get("GITHUB_REPOSITORY"):
        url = f"https://github.com/{name}"
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        raise ChapterError(
            f"the repository's address is {url!r}; expected https://github.com/OWNER/NAME in "
            "_config.yml under repository: url:, or OWNER/NAME in GITHUB_REPOSITORY"
        )
    return Repository(url, _site(url), entry.get("branch", "main"))


def _site(url: str) -> str:
    owner, name = url.split("/")[-2:]
    return f"https://{owner.lower()}.github.io/{name}/"


def chapters(root: Path = ROOT) -> list[str]:
    """Names of the chapters in reading order, from _toc.yml."""

    def files(node: Any) -> list[str]:
        if isinstance(node, list):
            return [name for child in node for name in files(child)]
        if isinstance(node, dict):
            own = [node["file"]] if isinstance(node.get("file"), str) else []
            return own + [name for value in node.values() for name in files(value)]
        return []

    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [Path(name).stem for name in files(toc) if Path(name).parent.as_posix() == "chapters"]


def chapter_path(name: str, root: Path = ROOT) -> Path:
    """The authored file of a chapter."""
    return root / "chapters" / f"{name}.md"


# ---- hashes: what makes a recording old --------------------------------------------------------


def is_setup(source: str) -> bool:
    """Whether a cell is the one that finds or clones the repository."""
    return bool(_CLONE.search(source))


def normal(source: str) -> str:
    """Code as it is compared: trailing blanks do not count, nor does the set-up cell's wording.

    The set-up cell only finds the repository and prints nothing, so a better one need not cost
    a new recording of every chapter.
    """
    if is_setup(source):
        return "{setup}"
    return "\n".join(line.rstrip() for line in source.strip("\n").splitlines()).strip("\n")


def _sha(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_hash(sources: list[str] | list[Cell]) -> str:
    """Hash of the code cells, in order: their code only, not their tags or outputs."""
    return _sha([normal(cell if isinstance(cell, str) else cell.source) for cell in sources])


def text_hash(chapter: Chapter) -> str:
    """Hash of the rest: text cells, the code cells' options, the set-up cell's wording."""
    return _sha(
        [
            [
                cell.metadata,
                "" if cell.kind == "code" and not is_setup(cell.source) else cell.source,
            ]
            for cell in chapter.cells
        ]
    )


def utils_hash(root: Path = ROOT) -> str:
    """Hash of the modules in utils/, names and contents."""
    modules = sorted((root / "utils").glob("*.py"))
    return _sha([[module.name, module.read_text(encoding="utf-8")] for module in modules])


def recording_digest(notebook: NotebookNode) -> str:
    """Hash of what a run produced (code, outputs, provenance), whatever the text cells say."""
    cells = [[normal(c.source), c.execution_count, c.outputs] for c in code_of(notebook)]
    return _sha([cells, {k: v for k, v in provenance(notebook).items() if k != "text_hash"}])


# ---- reading and writing .ipynb ----------------------------------------------------------------


def code_of(notebook: NotebookNode) -> list[NotebookNode]:
    """A notebook's code cells, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def provenance(notebook: NotebookNode) -> dict[str, Any]:
    """Where the outputs come from: date, device, versions, profile, seeds, data, hashes."""
    return notebook.metadata.get("course", {})


def read_notebook(path: Path) -> NotebookNode:
    """The notebook in a file, or a ChapterError that says which file is none."""
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ChapterError(
            f"{shown(path)} is not a readable notebook ({reason}). "
            f"Run: make record CHAPTER={path.stem}"
        ) from None


def to_notebook(chapter: Chapter, repository_url: str) -> NotebookNode:
    """A notebook without outputs: the chapter's cells, text as authored."""
    cells = []
    for cell in chapter.cells:
        new = new_code_cell if cell.kind == "code" else new_markdown_cell
        source = cell.source
        if is_setup(source):
            source = source.replace("{repository}", repository_url)
        cells.append(new(source=source, metadata=copy.deepcopy(cell.metadata)))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    kernel |= chapter.front_matter.get("kernelspec", {})
    return new_notebook(
        cells=cells, metadata={"kernelspec": kernel, "language_info": dict(LANGUAGE_INFO)}
    )


def notebook_text(notebook: NotebookNode) -> str:
    """The notebook as it stands in a file: equal content gives equal text."""
    notebook = copy.deepcopy(notebook)
    count = {"code": 0, "markdown": 0, "raw": 0}
    for cell in notebook.cells:
        cell["id"] = f"{cell.cell_type}-{count[cell.cell_type]}"
        count[cell.cell_type] += 1
        cell.metadata.pop("execution", None)  # when each cell ran: noise in every diff
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def write_notebook(notebook: NotebookNode, path: Path) -> bool:
    """Write it whole or not at all; False if the file already says the same."""
    return write_text(notebook_text(notebook), path)


def write_text(text: str, path: Path) -> bool:
    """Atomic: a reader, or a killed writer, leaves the old file or the new one."""
    data = text.encode("utf-8")
    if path.exists() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return True


def stale_reason(md: Path, ipynb: Path | None = None) -> str:
    """Why the recording does not belong to the chapter's code; "" when it does."""
    ipynb = ipynb or md.with_suffix(".ipynb")
    if not ipynb.exists():
        return f"{shown(md)}: no recording ({ipynb.name} does not exist)"
    cells, recorded = read_chapter(md).code, code_of(read_notebook(ipynb))
    for number, (cell, old) in enumerate(zip(cells, recorded, strict=False), start=1):
        if normal(cell.source) != normal(old.source):
            return f"{shown(md)}:{cell.line}: code cell {number} changed since it was recorded"
        skipped = "skip-execution" in cell.tags or not normal(old.source)
        if old.execution_count is None and not skipped:
            return f"{shown(md)}:{cell.line}: code cell {number} was never executed"
    if len(cells) != len(recorded):
        line = cells[len(recorded)].line if len(cells) > len(recorded) else 1
        return (
            f"{shown(md)}:{line}: {len(cells)} code cells, but {len(recorded)} when it was recorded"
        )
    return ""


def merge(md: Path, root: Path = ROOT) -> NotebookNode:
    """The chapter as it reads now with its recorded outputs and provenance.

    Tags, options and text come from the `.md`; outputs, execution counts and provenance from the
    `.ipynb`. An exporter replaces the text cells and writes the result. Raises ChapterError when
    the recording is stale.
    """
    ipynb = md.with_suffix(".ipynb")
    if reason := stale_reason(md, ipynb):
        raise ChapterError(f"{reason}. Run: make record CHAPTER={md.stem}")
    chapter, recorded = read_chapter(md), read_notebook(ipynb)
    notebook = to_notebook(chapter, repository(root).url)
    for cell, old in zip(code_of(notebook), code_of(recorded), strict=True):
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
    notebook.metadata["course"] = {**provenance(recorded), "text_hash": text_hash(chapter)}
    return notebook


def neutral(text: str) -> str:
    """A notebook's text without the addresses of its repository and site.

    They differ in a fork, whose notebooks are none the less in step with its chapters.
    """
    if found := _CLONE.search(text.replace('\\"', '"')):
        text = text.replace(_site(found[1]), "{site}").replace(found[1], "{repository}")
    return text


def duration(seconds: float) -> str:
    """9 min 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


if __name__ == "__main__":
    from utils.instep import main

    sys.exit(main())
