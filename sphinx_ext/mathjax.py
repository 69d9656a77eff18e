"""Serve MathJax from the site itself: no reader's browser asks another host for it.

The PyPI package django-static-mathjax carries MathJax's built files (Django is not needed). One of
them, with every TeX extension and SVG output inside, is copied into the site at build time, so
that no third-party minified file is committed.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

NAME = "tex-svg-full.js"


def source() -> Path:
    """The built file inside the installed package; ExtensionError when it is not there."""
    spec = find_spec("mathjax")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "static", "mathjax", "es5", NAME)
        if path.exists():
            return path
    raise ExtensionError(
        f"MathJax's {NAME} was not found. It comes with django-static-mathjax, which "
        "requirements-book.txt lists. Run: pip install -r requirements-book.txt"
    )


def configure(app: Sphinx, config: Config) -> None:
    config.mathjax_path = f"mathjax/{NAME}"  # below _static/


def install(app: Sphinx) -> None:
    if app.builder.format != "html":
        return
    target = Path(app.outdir, "_static", "mathjax", NAME)
    path = source()
    if not target.exists() or target.stat().st_size != path.stat().st_size:
        target.parent.mkdir(parents=True, exist_ok=True)
        copyfile(path, target)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", configure)
    app.connect("builder-inited", install)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
