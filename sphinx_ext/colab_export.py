"""Write each chapter as a notebook that Colab and JupyterLab show properly.

Once a page is resolved, every reference, number and citation is final. So the page is written as
CommonMark (sphinx_ext/commonmark.py), its code cells come from the chapter with the recorded
outputs (utils.notebooks.merge), and the result goes to _build/colab/chapters/NAME.ipynb, from
where `python -m utils.notebooks sync` takes it. Equal chapters give equal bytes.

Colab shows neither attachments nor SVG as data (googlecolab/colabtools#3836, #2092). So a bitmap
travels inside the notebook, and an SVG drawing is linked in the repository, which is where Colab
takes the notebook from.
"""

from __future__ import annotations

import base64
import mimetypes
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

from docutils import nodes
from myst_nb.core.read import read_myst_markdown_notebook
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from sphinx.application import Sphinx
from sphinx.util import logging

from sphinx_ext.commonmark import Code, Text, Writer
from utils import notebooks

log = logging.getLogger(__name__)
LARGEST = 300_000  # bytes of a bitmap inside a notebook; above it, the repository's is linked


def export(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    md = Path(app.env.doc2path(docname))
    if app.builder.name != "html" or md.parent.name != "chapters" or md.suffix != ".md":
        return
    if not md.with_suffix(".ipynb").exists() or notebooks.stale_reason(md):
        return  # sphinx_ext/recordings.py has said so
    root = Path(app.srcdir)
    where = notebooks.repository(root)
    page = urljoin(where.site_url, app.builder.get_target_uri(docname))
    numbers = app.env.toc_fignumbers.get(docname, {})

    def picture(image: nodes.image) -> str:
        address = image["uri"]
        if "://" in address or address.startswith("data:"):
            return address
        path = root / address
        kind = mimetypes.guess_type(path.name)[0] or ""
        if kind != "image/svg+xml" and path.stat().st_size <= LARGEST:
            return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        return f"{where.url}/raw/{where.branch}/{quote(address)}"

    def number(kind: str, ids: list[str]) -> str:
        found = (numbers.get(kind, {}).get(i) for i in ids)
        return next((".".join(map(str, n)) for n in found if n), "")

    writer = Writer(lambda to: urljoin(page, to), picture, number)
    cells = writer.page(doctree)
    if writer.unknown:
        log.warning(
            "the notebook for Colab has no rule for %s; add one to sphinx_ext/commonmark.py",
            ", ".join(sorted(writer.unknown)),
            location=docname,
            type="colab_export",
        )
    read = read_myst_markdown_notebook(md.read_text(encoding="utf-8"), path=md)
    indices = [i for i, cell in enumerate(read.cells) if cell.cell_type == "code"]
    notebook = assemble(notebooks.merge(md, root), cells, indices)
    out = Path(app.outdir).parent / "colab" / f"{docname}.ipynb"
    notebooks.write_notebook(notebook, out)


def assemble(notebook: NotebookNode, cells: list[Text | Code], indices: list[int]) -> NotebookNode:
    """The chapter's notebook with these text cells between its code cells.

    `indices`: the place of each code cell among all cells, as the page counts them.
    """
    code = notebooks.code_of(notebook)
    done, result, folded = 0, [], []
    for cell in cells:
        if isinstance(cell, Code):
            # cells that the page leaves out (remove-cell) come along before the next one
            upto = indices.index(cell.index) + 1
            result += code[done:upto]
            done = upto
            continue
        text = new_markdown_cell(cell.source)
        if cell.folded:
            folded.append(f"solution-{len(folded) + 1}")
            text.metadata["id"] = folded[-1]  # Colab's name for the cell
            text.metadata["jp-MarkdownHeadingCollapsed"] = True
        result.append(text)
    result += code[done:]
    for cell in code:
        if {"hide-input", "hide-cell"} & set(cell.metadata.get("tags", [])):
            cell.metadata["cellView"] = "form"
            cell.metadata["jupyter"] = {"source_hidden": True}
    notebook.cells = result
    notebook.metadata["colab"] = {"provenance": [], "toc_visible": True}
    if folded:
        notebook.metadata["colab"]["collapsed_sections"] = folded
    if any("fit(" in cell.source for cell in code):  # what trains should ask for a GPU
        notebook.metadata["accelerator"] = "GPU"
    return notebook


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-resolved", export, priority=999)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
