"""Sphinx extension: `{live} NAME` is the place for a picture to play with, _static/live/NAME.js.

The directive's content is the caption, and may begin with an image, the same picture standing
still. The script takes the image's place. Where no script runs, on paper and in notebooks, the
image stays; if there is none, a page shows nothing there. A notebook has a link to the page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class live(nodes.General, nodes.Element):
    """A place with the id `live-NAME`."""


class Live(SphinxDirective):
    """`{live} NAME`, with a caption."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        folder = Path(self.env.srcdir, "_static", "live")
        if not (folder / f"{name}.js").exists():
            known = ", ".join(sorted({p.stem for p in folder.glob("*.js")} - {"live"}))
            raise self.error(f"{{live}} {name}: there is no {name}.js; _static/live has {known}.")
        self.assert_has_content()
        node = live("", name=name)
        self.state.nested_parse(self.content, self.content_offset, node)
        for image in node.findall(nodes.image):
            image["classes"].append("live-static")
        return [node]


def visit_html(self: Any, node: live) -> None:
    hidden = "" if next(iter(node.findall(nodes.image)), None) else " hidden"
    self.body.append(f'<div class="live" id="live-{node["name"]}"{hidden}>\n')


def depart_html(self: Any, node: live) -> None:
    self.body.append("</div>\n")


def choose_scripts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Jupyter Book puts every script of _static into every page; this page needs only its own."""
    here = {node["name"] for node in doctree.findall(live)} if doctree else set()
    wanted = {f"live/{name}.js" for name in here | {"live"}} if here else set()
    kept, used = [], []
    for script in context.get("script_files", []):
        name = str(getattr(script, "filename", script) or "").removeprefix("_static/")
        if name.startswith("live/"):
            if name not in wanted:
                continue
            script.attributes["defer"] = "defer"  # its place comes later in the page
            # The others build on live.js; they come here in the order of the file system.
            used.insert(0 if name == "live/live.js" else len(used), script)
        else:
            kept.append(script)
    context["script_files"] = kept + used


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(live, html=(visit_html, depart_html))
    app.add_directive("live", Live)
    app.connect("html-page-context", choose_scripts, priority=950)  # after page_fixes
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
