"""What the theme and the extensions leave to mend in a page.

* The repository's and the site's address come from utils.notebooks.repository(), so that a fork's
  build (GITHUB_REPOSITORY) points at the fork everywhere.
* Links keep their & as it is, and a folded solution's title only unfolds it.
* Scripts that are registered twice go in once; thebe's, which would ask another host, not at all.
* A chapter's Colab link must end in .ipynb: with no notebook beside it, the theme silently links
  the .md, which Colab cannot open.
* Accessibility: the name of a button or <summary> is the text one sees (WCAG 2.5.3); wide tables
  can be reached and scrolled by keyboard (WCAG 2.1.1); sources are items of their list (1.3.1).
* A line does not end between a formula and the punctuation that belongs to it.
* What a search engine or a shared link says of a chapter is its idea, not when it was recorded.
* sitemap.xml names every page; the extension for it names those that this build wrote.
* `singlehtml`: an extension that registers visitors for it hides everybody's html ones.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

from utils.notebooks import repository

log = logging.getLogger(__name__)
TEMPLATES = Path(__file__).parent / "templates"
# A formula in the text with what belongs to it: "(" before, "." or "-th" behind.
FORMULA = re.compile(
    r"""[(“]?<span class="math notranslate nohighlight">[^<]*</span>(?:[-’]\w+)?[.,;:!?)”’]*"""
)


def configure(app: Sphinx, config: Config) -> None:
    where = repository(Path(app.confdir or app.srcdir))
    config.html_baseurl = config.ogp_site_url = where.site_url
    # A page that is not there may be asked for at any depth, so 404.html links from the root.
    config.notfound_urls_prefix = urlsplit(where.site_url).path
    config.html_theme_options["repository_url"] = where.url
    config.html_theme_options["repository_branch"] = where.branch
    config.templates_path = [*config.templates_path, str(TEMPLATES)]


def restore_singlehtml(app: Sphinx) -> None:
    handlers = app.registry.translation_handlers
    if "singlehtml" in handlers:
        handlers["singlehtml"] = {**handlers.get("html", {}), **handlers["singlehtml"]}


def mend(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    context["script_files"] = _scripts(context.get("script_files", []))
    if body := context.get("body"):
        body = body.replace(' aria-label="Toggle hidden content"', "")
        # docutils' list of sources; the role that it gives to each has been given up.
        body = body.replace(' role="doc-biblioentry"', ' role="listitem"')
        body = FORMULA.sub(_kept_together, body)
        context["body"] = re.sub(
            r'(<div class="pst-scrollable-table-container")>', r'\1 tabindex="0">', body
        )
    for link in _links(context.get("header_buttons", [])):
        if "colab" in link and not link.endswith(".ipynb"):
            log.warning(
                "its Colab button links %s, which Colab cannot open: there is no notebook beside "
                "the page. Run: make record CHAPTER=%s",
                link.rsplit("/", 1)[-1],
                Path(page).name,
                location=page,
                type="page_fixes",
                subtype="colab",
            )


def describe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """The page is written; what sphinxext-opengraph reads begins with the chapter's idea."""
    for node in list(doctree.findall(nodes.paragraph)) if doctree else []:
        if "provenance" in node["classes"]:
            node.parent.remove(node)


def mend_doctree(app: Sphinx, doctree: nodes.document, page: str) -> None:
    for node in list(doctree.findall(nodes.raw)):  # sphinx-thebe's, which Jupyter Book loads
        if "thebe-config" in node.astext() or "kernelName =" in node.astext():
            node.parent.remove(node)
    for link in list(doctree.findall(nodes.reference)):
        if "&amp;" in link.get("refuri", ""):  # MyST escapes what the writer escapes again
            link["refuri"] = link["refuri"].replace("&amp;", "&")
        box = link.parent.parent if isinstance(link.parent, nodes.title) else None
        if box is not None and type(box).__name__ == "solution_node":
            link.replace_self(link.children)  # a click on this title unfolds the solution


def write_sitemap(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.name != "html":
        return
    pages = sorted(app.builder.get_target_uri(page) for page in app.env.found_docs)
    lines = [f"<url><loc>{escape(app.config.html_baseurl + page)}</loc></url>" for page in pages]
    Path(app.outdir, "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        + "\n".join(lines)
        + "\n</urlset>\n",
        encoding="utf-8",
    )


def _kept_together(found: re.Match[str]) -> str:
    alone = found[0].startswith("<") and found[0].endswith(">")
    return found[0] if alone else f'<span class="keep">{found[0]}</span>'


def _scripts(scripts: list[Any]) -> list[Any]:
    kept, seen = [], set()
    for script in scripts:
        name = str(getattr(script, "filename", script) or "")
        text = (getattr(script, "attributes", None) or {}).get("body") or ""
        thebe = "THEBE_JS_URL" in text or "thebe" in name
        if not thebe and (name, text) not in seen:
            seen.add((name, text))
            kept.append(script)
    return kept


def _links(buttons: list[dict[str, Any]]) -> list[str]:
    found = []
    for button in buttons:
        found += [button["url"]] if button.get("url") else []
        found += _links(button.get("buttons", []))
    return found


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", configure)
    app.connect("builder-inited", restore_singlehtml)
    app.connect("doctree-resolved", mend_doctree, priority=900)
    app.connect("html-page-context", describe, priority=100)
    app.connect("html-page-context", mend, priority=900)
    app.connect("build-finished", write_sitemap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
