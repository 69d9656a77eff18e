"""The pages in a real browser: formulas set, pictures shown, nothing asked of another host.

Skipped where there is no Chromium or Chrome, except on CI, where that is a failure.
"""

import contextlib
import os
import re
import sys
from pathlib import Path

import books
import pytest
import torch

from utils import chapters, notebooks
from utils.receptive import receptive_field

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
PAGES = [
    *("intro.html", "setup.html", "scaling.html", "performance.html", "glossary.html"),
    *("exercises.html", "status.html", "references.html", "search.html"),
    *(f"chapters/{name}.html" for name in notebooks.chapters()),
]


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


# ---- pictures to play with (_static/live) -------------------------------------------------------

SET = """(input, value) => {
    input.value = value;
    input.dispatchEvent(new Event(input.type === 'range' ? 'input' : 'change'));
}"""


@pytest.fixture
def live(shots, chrome, base):
    """A function that opens the page with a live picture: (its place, set(name, value))."""
    with contextlib.ExitStack() as stack:

        def opened(page, name):
            tab, _, errors = stack.enter_context(shots.opened(chrome, base, page))
            assert not errors
            place = tab.locator(f"#live-{name}")
            assert place.is_visible()
            assert place.locator(".live-static").count() == 0, "the still picture is still there"

            def turn(control, value):
                name = tab.locator("span", has_text=re.compile(rf"^{control}( \d+)?$"))
                label = place.locator("label", has=name)
                label.locator("input, select").evaluate(SET, str(value))

            return place, turn

        yield opened


CONVOLUTIONS = [(7, 3, 2, 1, 1, 1), (12, 5, 3, 0, 2, 4), (5, 1, 1, 2, 3, 8), (8, 4, 1, 3, 1, 2)]


def test_the_live_convolution_computes_what_torch_computes(live):
    place, turn = live("chapters/alexnet.html", "convolution")
    for settings in CONVOLUTIONS:
        size, kernel, stride, padding, dilation, groups = settings
        names = ("input size", "kernel", "stride", "padding", "dilation", "groups")
        for name, value in zip(names, settings, strict=True):
            turn(name, value)
        conv = torch.nn.Conv2d(8, 16, kernel, stride, padding, dilation, groups, bias=False)
        out = conv(torch.zeros(1, 8, size, size)).shape[-1]
        weights, told = conv.weight.numel(), place.locator("[role=status]").inner_text()
        assert f"has {out} × {out} pixels" in told
        assert f": {weights:,} weights, {weights * out * out:,} MACs" in told

        # The blue pixels are those that the orange one depends on, padding included.
        turn("output pixel", out * out)
        x = torch.zeros(1, 8, size + 2 * padding, size + 2 * padding, requires_grad=True)
        alone = torch.nn.functional.conv2d(x, torch.ones_like(conv.weight), None, stride, 0,
                                           dilation, groups)  # fmt: skip
        alone[0, 0, -1, -1].backward()
        assert place.locator(".live-seen").count() == (x.grad[0, 0] != 0).sum()
    for name, value in (("input size", 3), ("kernel", 5), ("padding", 0), ("dilation", 3)):
        turn(name, value)
    assert "there is no output" in place.locator("[role=status]").inner_text()


def test_the_live_receptive_field_is_that_of_the_course(live):
    place, _ = live("chapters/vgg.html", "receptive-field")
    layers = [torch.nn.Conv2d(1, 1, 3), torch.nn.Conv2d(1, 1, 3)]
    added = {
        "+ 3×3, stride 2": torch.nn.Conv2d(1, 1, 3, stride=2),
        "+ 5×5": torch.nn.Conv2d(1, 1, 5),
        "+ pooling 2×2, stride 2": torch.nn.MaxPool2d(2),
        "+ 3×3": torch.nn.Conv2d(1, 1, 3),
    }
    for name, layer in added.items():
        place.get_by_role("button", name=name, exact=True).click()
        layers.append(layer)
        size = receptive_field(layers).size
        assert f"sees {size} × {size} pixels" in place.locator("[role=status]").inner_text()
    for _ in range(4):
        place.get_by_role("button", name="+ 7×7", exact=True).click()
    told = place.locator("[role=status]").inner_text()
    assert "No room" in told
    place.get_by_role("button", name="start again").click()
    assert "sees 5 × 5 pixels" in place.locator("[role=status]").inner_text()


def test_the_live_norm_axes_are_those_of_the_chapter(live):
    place, turn = live("chapters/layernorm.html", "norm-axes")
    chapter = chapters.load("layernorm")
    for name, axes in chapter.AXES.items():
        for groups in (2, 3) if name == "group" else (1,):
            turn("normalisation", name)
            turn("groups", groups)
            x = torch.randn(3, 6, 3, 3, requires_grad=True)
            chapter.normalise(x, axes, groups)[1, 2, 1, 1].backward()
            shown = place.locator("rect").evaluate_all(
                "all => all.map(r => r.getAttribute('class') !== 'live-rest')"
            )
            assert shown == (x.grad != 0).flatten().tolist(), (name, groups)


@pytest.mark.parametrize("page", ["alexnet", "vgg"])
def test_without_javascript_a_page_shows_the_still_picture_or_nothing(chrome, base, page):
    context = chrome.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{base}chapters/{page}.html")
    place = tab.locator(".live")
    assert place.count() == 1
    assert place.is_visible() == (place.locator("img").count() == 1)
    context.close()
