"""The whole book as one PDF: `make pdf` prints the built pages with Chromium.

A page is printed as it stands on the website, in the light theme, with tabs open, long lines
wrapped, and without the folded code that only draws. Solutions are taken out of the chapters and
stand together at the end.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import yaml
from pypdf import PdfWriter

from utils import browser
from utils.notebooks import ROOT

LOOK = """
@page {size: A4; margin: 18mm 16mm 18mm 16mm}
html, body {background: white !important; font-size: 10pt}
.pst-async-banner-revealer, .bd-header, .bd-header-article, .bd-sidebar-primary,
.bd-sidebar-secondary, .prev-next-footer, .bd-footer, .copybtn, .headerlink, .toggle-button,
.skip-link, #pst-back-to-top, #jb-print-toc, details.hide, .onlyprint nav
  {display: none !important}
.bd-main, .bd-content, .bd-article-container, .bd-article, article
  {display: block !important; max-width: none !important; width: auto !important; padding: 0}
pre, .highlight pre {white-space: pre-wrap !important; overflow: visible !important;
  overflow-wrap: anywhere; font-size: 7.5pt; line-height: 1.35}
.cell_input, .cell_output, div.highlight, figure, img, tr, .math, h1, h2, h3,
.admonition > .admonition-title {break-inside: avoid}
h1, h2, h3, .admonition-title {break-after: avoid}
.pst-scrollable-table-container, .cell_output {overflow: visible !important}
img {max-width: 100% !important} .sd-tab-content {display: block !important}
"""
# Opens what is folded; leaves the solutions out, or keeps nothing but them.
PREPARE = """(solutions) => {
    document.querySelectorAll('details:not(.hide)').forEach(e => { e.open = true; });
    document.querySelectorAll('.toggle-hidden').forEach(
        e => e.classList.remove('toggle-hidden'));
    const article = document.querySelector('article.bd-article');
    const found = [...article.querySelectorAll('div.solution')];
    if (!solutions) { found.forEach(e => e.remove()); return found.length; }
    const title = article.querySelector('h1');
    article.replaceChildren(title, ...found);
    return found.length;
}"""
TITLE = """() => {
    const title = document.querySelector('article h1').cloneNode(true);
    title.querySelectorAll('.headerlink').forEach(e => e.remove());
    return document.title = title.textContent.trim();
}"""
FOOT = """<div style="width: 100%; font: 7pt sans-serif; color: #555; text-align: center">
    <span class="title"></span> &nbsp;·&nbsp; <span class="pageNumber"></span></div>"""


def pages(root: Path = ROOT) -> list[str]:
    """The pages of `_toc.yml` in order, without extension."""
    toc = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    return [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]


def printed(tab: Any, address: str, solutions: bool) -> tuple[bytes, str, int]:
    """One page as a PDF, its title, and how many solutions it has."""
    tab.goto(address, wait_until="networkidle")
    tab.evaluate("() => window.MathJax?.startup?.promise")
    tab.add_style_tag(content=LOOK)
    count = tab.evaluate(PREPARE, solutions)
    title = tab.evaluate(TITLE)
    data = tab.pdf(
        format="A4",
        print_background=True,
        prefer_css_page_size=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOT,
    )
    return data, title, count


def make(site: Path, target: Path, names: list[str]) -> int:
    """Print `names` of the built site into `target`; returns the number of pages."""
    book, later = PdfWriter(), []
    with browser.served(site) as base, browser.opened() as chromium:
        context = chromium.new_context(color_scheme="light")
        context.add_init_script(
            "localStorage.setItem('mode', 'light'); localStorage.setItem('theme', 'light');"
        )
        tab = context.new_page()
        # On paper a picture to play with stands still, which it does where its script does not run.
        tab.route("**/_static/live/*.js*", lambda route: route.abort())
        for name in names:
            data, title, solutions = printed(tab, f"{base}{name}.html", False)
            book.append(io.BytesIO(data), outline_item=title)
            later += [name] * (solutions > 0)
            print(title, flush=True)
        parent = None
        for name in later:
            data, title, _ = printed(tab, f"{base}{name}.html", True)
            start = len(book.pages)
            book.append(io.BytesIO(data), import_outline=False)
            parent = parent or book.add_outline_item(title="Solutions", page_number=start)
            book.add_outline_item(title=title, page_number=start, parent=parent)
    partial = target.with_suffix(".part")
    book.write(partial)
    partial.replace(target)
    return len(book.pages)


def main() -> None:
    """Print the whole book; exits with a sentence where it is not built or nothing can print."""
    site = ROOT / "_build" / "html"
    if not (site / "intro.html").exists():
        sys.exit("error: there is no built book in _build/html: run make book first.")
    if not browser.chromium():
        sys.exit(
            "error: printing needs Chromium or Chrome: install it, or name its program in CHROMIUM."
        )
    target = ROOT / "_build" / "convnets.pdf"
    count = make(site, target, pages())
    print(f"The book of {count} pages is at {target}")


if __name__ == "__main__":
    main()
