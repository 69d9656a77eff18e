"""The pages in a real browser: formulas set, pictures shown, nothing asked of another host.

Skipped where there is no Chromium or Chrome, except on CI, where that is a failure.
"""

import os
import sys
from pathlib import Path

import books
import pytest

from utils import notebooks

sys.path.insert(0, str(Path(__file__).parent / "browser"))

# What axe-core finds against WCAG 2.1, levels A and AA. Not in every coloured word of the code:
# those are the theme's, and there are thousands.
AXE = """() => axe.run({exclude: ['.highlight pre span']},
        {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'], resultTypes: ['violations']})
    .then(found => found.violations.flatMap(v => v.nodes.map(n => [
        v.id, n.target.join(' '), n.html.slice(0, 150), n.failureSummary].join(': '))))"""
BROKEN = """async () => {
    const images = [...document.querySelectorAll('article img')];
    await Promise.all(images.map(i => { i.loading = 'eager'; return i.decode().catch(() => 0); }));
    return images.filter(i => i.naturalWidth == 0).map(i => i.src);
}"""
# How drawings, and photographs and other bitmaps, are coloured in the page.
FILTERS = """['article img[src$=".svg"]:not(.dark-light)',
    'article img:is(.dark-light, :not([src$=".svg"]))'].map(
    css => [...document.querySelectorAll(css)].map(e => getComputedStyle(e).filter))"""
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
PAGES = ["intro.html", "status.html", *(f"chapters/{name}.html" for name in notebooks.chapters())]


@pytest.fixture(scope="module")
def shots():
    """The helper module, if there is a browser to drive and something to drive it with."""
    try:
        import axe_playwright_python  # noqa: F401
        import shots
    except ImportError as error:
        missing = f"the package {error.name}, which requirements.txt lists"
    else:
        missing = "" if shots.chromium() else "Chromium, Chrome, or its path in CHROMIUM"
    if missing and os.environ.get("CI"):
        pytest.fail(f"looking at the pages needs {missing}")
    if missing:
        pytest.skip(f"looking at the pages needs {missing}")
    return shots


@pytest.fixture(scope="module")
def base(shots):
    with shots.served(books.built_course()) as address:
        yield address


@pytest.fixture(scope="module")
def chrome(shots):
    with shots.browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def axe(shots):
    import axe_playwright_python

    return Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text("utf-8")


@pytest.mark.parametrize(
    ("scheme", "size"), [("light", "laptop"), ("dark", "laptop"), ("light", "phone")]
)
@pytest.mark.parametrize("page", PAGES)
def test_page(shots, axe, chrome, base, page, scheme, size):
    with shots.opened(chrome, base, page, scheme, size) as (tab, foreign, errors):
        assert not foreign, "asked another host"
        assert not errors
        assert tab.evaluate("document.documentElement.dataset.theme") == scheme
        formulas = tab.locator("article .math").count()
        assert tab.locator("article mjx-container").count() >= formulas
        assert tab.locator("article [data-mjx-error]").count() == 0, "a formula has an error"
        assert not tab.evaluate(BROKEN), "pictures that do not show"
        content, window = tab.evaluate(WIDTHS)
        assert content <= window, f"the page is {content} px wide in a window of {window}"
        drawings, others = tab.evaluate(FILTERS)
        assert all(("invert" in f) == (scheme == "dark") for f in drawings), drawings
        assert not any("invert" in f for f in others), "a photograph's colours were turned"
        if size == "laptop":
            tab.evaluate(axe)
            found = tab.evaluate(AXE)
            assert not found, "\n".join(found)
        for box in tab.locator("article .solution.dropdown").all()[:1]:
            body = box.locator(":scope > section, :scope > div").first
            assert not body.is_visible()
            box.locator(".admonition-title").first.click()
            tab.wait_for_timeout(50)
            assert body.is_visible(), "a click on a solution's title does not unfold it"


def test_dark_mode_button_works(shots, chrome, base):
    with shots.opened(chrome, base, "intro.html", "light") as (tab, _, _):
        button = tab.locator(".theme-switch-button:visible").first
        assert button.get_attribute("aria-label") == "Color mode"
        themes = set()
        for _ in range(3):
            button.click()
            themes.add(tab.evaluate("document.documentElement.dataset.theme"))
        assert themes == {"light", "dark"}
