"""The pages in a real browser: formulas set, pictures shown, nothing asked of another host.

Skipped where there is no Chromium or Chrome, except on CI, where that is a failure.
"""

import contextlib
import gzip
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

import books
import numpy as np
import pytest
import torch
from PIL import Image

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
# Formulas set apart from the text that are wider than the place they have.
WIDE = """[...document.querySelectorAll('article mjx-container[display="true"]')]
    .filter(e => e.scrollWidth > e.clientWidth + 2)
    .map(e => `${e.closest('div.math')?.id} by ${e.scrollWidth - e.clientWidth} px`)"""
CUT = """[...document.querySelectorAll('article table > caption')]
    .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map(e => e.innerText)"""
# Notes which elements get the focus. What was folded is unfolded first.
WATCH = """() => {
    window.course = {reached: [], all: []};
    document.addEventListener('focusin', e => {
        e.target.courseNumber ??= course.all.push(e.target) - 1;
        course.reached.push(e.target.courseNumber);
    });
    const style = document.createElement('style');
    style.textContent = '*, *::before, *::after { transition: none !important; }';
    document.head.append(style);
    document.querySelectorAll('.toggle-button-hidden, details:not([open]) > summary')
        .forEach(e => e.click());
}"""
# What can be used and was not reached. Of a group of radio buttons one is; arrows lead to the rest.
UNREACHED = """[...document.querySelectorAll(
        'a[href], button, input, select, summary, textarea, [tabindex="0"]')]
    .filter(e => e.courseNumber === undefined && !e.disabled && e.tabIndex >= 0
        && !(e.type == 'radio' && !e.checked) && e.checkVisibility({visibilityProperty: true}))
    .map(e => e.outerHTML.slice(0, 150))"""
# Boxes that scroll, and that the keyboard cannot scroll.
STUCK = """[...document.querySelectorAll('article *')]
    .filter(e => /auto|scroll/.test(getComputedStyle(e).overflowX)
        && e.checkVisibility({visibilityProperty: true})
        && e.scrollWidth > e.clientWidth + 1 && e.courseNumber === undefined
        && !e.querySelector('[tabindex="0"]'))
    .map(e => e.outerHTML.slice(0, 150))"""
# One element of each kind among the reached: the first.
KINDS = """() => Object.entries(Object.fromEntries(course.all.map(
    (e, i) => [`${e.tagName} .${e.getAttribute('class')}`, i]).reverse()))"""
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
PAGES = [
    *("intro.html", "setup.html", "scaling.html", "performance.html", "glossary.html"),
    *("live.html", "exercises.html", "status.html", "references.html", "search.html"),
    "genindex.html",
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
def site():
    return books.built_course()


@pytest.fixture(scope="module")
def base(shots, site):
    with shots.served(site) as address:
        yield address


@pytest.fixture(scope="module")
def chrome(shots):
    with shots.browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def axe(shots):
    import axe_playwright_python

    return Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text("utf-8")


def tabbed(tab):
    """Numbers of the page's elements, in the order in which the Tab key comes to them."""
    tab.evaluate(WATCH)
    tab.wait_for_timeout(500)  # the theme waits for 0.3 s before it looks for what scrolls
    reached = []
    while len(reached) == len(set(reached)) < 2000:
        before = len(reached)
        for _ in range(50):
            tab.keyboard.press("Tab")
        reached = tab.evaluate("course.reached")
        if len(reached) - before < 50:  # it left the page at its end
            break
    return list(dict.fromkeys(reached))


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
        assert tab.locator("article mjx-assistive-mml math").count() >= formulas
        assert tab.locator("article [data-mjx-error]").count() == 0, "a formula has an error"
        assert not tab.evaluate(BROKEN), "pictures that do not show"
        content, window = tab.evaluate(WIDTHS)
        assert content <= window, f"the page is {content} px wide in a window of {window}"
        assert not tab.evaluate(WIDE), "formulas to be broken into lines"
        assert not tab.evaluate(CUT), "captions of tables that are cut off"
        drawings, others = tab.evaluate(FILTERS)
        assert all(("invert" in f) == (scheme == "dark") for f in drawings), drawings
        assert not any("invert" in f for f in others), "a photograph's colours were turned"
        if size == "laptop":
            tab.evaluate(axe)
            found = tab.evaluate(AXE)
            assert not found, "\n".join(found)
        if (scheme, size) == ("light", "laptop"):  # this unfolds all that is folded
            assert len(tabbed(tab)) > 20
            assert not tab.evaluate(UNREACHED), "the Tab key does not come here"
            assert not tab.evaluate(STUCK), "scrolls, but not by keyboard"
            return
        for box in tab.locator("article .solution.dropdown").all()[:1]:
            body = box.locator(":scope > section, :scope > div").first
            assert not body.is_visible()
            box.locator(".admonition-title").first.click()
            tab.wait_for_timeout(50)
            assert body.is_visible(), "a click on a solution's title does not unfold it"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_for_what_is_not_there(shots, axe, chrome, site, tmp_path, scheme):
    place = urlsplit(notebooks.repository().site_url).path.strip("/")  # its links lead from there
    root = tmp_path / "site" / place
    root.parent.mkdir(parents=True, exist_ok=True)
    root.symlink_to(site.resolve(), target_is_directory=True)
    page = f"{place}/404.html".lstrip("/")
    with (
        shots.served(tmp_path / "site") as base,
        shots.opened(chrome, base, page, scheme) as (tab, foreign, errors),
    ):
        assert not foreign
        assert not errors
        assert tab.evaluate("document.documentElement.dataset.theme") == scheme
        tab.evaluate(axe)
        found = tab.evaluate(AXE)
        assert not found, "\n".join(found)


def test_dark_mode_button_works(shots, chrome, base):
    with shots.opened(chrome, base, "intro.html", "light") as (tab, _, _):
        button = tab.locator(".theme-switch-button:visible").first
        assert button.get_attribute("aria-label") == "Color mode"
        themes = set()
        for _ in range(3):
            button.click()
            themes.add(tab.evaluate("document.documentElement.dataset.theme"))
        assert themes == {"light", "dark"}


# ---- by keyboard alone ---------------------------------------------------------------------------


def brightness(image):
    """Relative luminance of every pixel as WCAG 2 defines it: (H, W, 3) bytes -> (H, W), 0 to 1."""
    part = image / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def seen(tab, number):
    """How many pixels change their brightness at least 3:1 when the element has the focus."""
    box = tab.evaluate(
        """number => {
            const e = course.all[number];
            e.scrollIntoView({block: 'center', behavior: 'instant'});
            e.focus({preventScroll: true, focusVisible: true});
            const r = (e.closest('.sd-card') ?? e).getBoundingClientRect();
            return [Math.max(r.x - 12, 0), Math.max(r.y - 12, 0),
                Math.min(r.right + 12, innerWidth), Math.min(r.bottom + 12, innerHeight)];
        }""",
        number,
    )
    clip = {"x": box[0], "y": box[1], "width": box[2] - box[0], "height": box[3] - box[1]}

    def shot():
        png = tab.screenshot(clip=clip)
        return brightness(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")))

    focused = shot()
    tab.evaluate("document.activeElement.blur()")
    rest = shot()
    ratio = (np.maximum(focused, rest) + 0.05) / (np.minimum(focused, rest) + 0.05)
    return int((ratio >= 3).sum())


@pytest.mark.parametrize(("scheme", "size"), [("light", "laptop"), ("dark", "phone")])
@pytest.mark.parametrize(
    "page",
    ["intro.html", "live.html", "search.html"]
    + [f"chapters/{name}.html" for name in ("vgg", "conclusion")],
)
def test_what_has_the_focus_can_be_seen(shots, chrome, base, page, scheme, size):
    with shots.opened(chrome, base, page, scheme, size) as (tab, _, _):
        tabbed(tab)
        found = {kind: seen(tab, number) for kind, number in tab.evaluate(KINDS)}
        assert len(found) > 5
        assert not {kind: pixels for kind, pixels in found.items() if pixels < 40}


def test_solutions_menus_and_the_search_open_and_close_by_keyboard(shots, chrome, base):
    with shots.opened(chrome, base, "chapters/resnet.html") as (tab, _, _):
        box = tab.locator("article .solution.dropdown").first
        body = box.locator(":scope > section, :scope > div").first
        box.locator("button.toggle-button").focus()
        for visible in (True, False):
            tab.keyboard.press("Enter")
            tab.wait_for_timeout(50)
            assert body.is_visible() == visible

        for name in ("Launch interactive content", "Source repositories", "Download this page"):
            tab.get_by_role("button", name=name).focus()
            tab.keyboard.press("Enter")
            menu = tab.locator(".dropdown-menu.show")
            assert menu.is_visible()
            tab.keyboard.press("ArrowDown")
            assert menu.evaluate("e => e.contains(document.activeElement)"), name
            tab.keyboard.press("Escape")
            assert menu.count() == 0

        tab.locator(".search-button__button:visible").first.focus()
        tab.keyboard.press("Enter")
        field = tab.locator("#pst-search-dialog input[type=search]")
        assert field.evaluate("e => e === document.activeElement")
        tab.keyboard.press("Escape")
        assert not field.is_visible()

    with shots.opened(chrome, base, "chapters/resnet.html", size="phone") as (tab, _, _):
        link = tab.locator(".bd-sidebar-primary a, dialog a", has_text="VGG").first
        for open_it in (True, False):
            if open_it:
                tab.get_by_role("button", name="Toggle primary sidebar").focus()
            tab.keyboard.press("Enter" if open_it else "Escape")
            tab.wait_for_timeout(500)
            inside = tab.evaluate("!!document.activeElement.closest('.bd-sidebar-primary, dialog')")
            assert link.is_visible() == inside == open_it


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


def test_the_shortcut_that_resnet_sets_in_it_halves_any_size_as_the_branch_does(live):
    place, turn = live("chapters/resnet.html", "convolution")
    for size in range(3, 13):
        turn("input size", size)
        for kernel, padding in ((3, 1), (1, 0)):
            turn("kernel", kernel)
            turn("padding", padding)
            out = -(-size // 2)
            assert f"has {out} × {out} pixels" in place.locator("[role=status]").inner_text()
        assert place.locator(".live-seen").count() == 1


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


@pytest.mark.parametrize("page", ["chapters/alexnet", "chapters/resnet", "chapters/vgg", "live"])
def test_without_javascript_a_page_shows_the_still_picture_or_nothing(chrome, base, page):
    context = chrome.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{base}{page}.html")
    place = tab.locator(".live")
    assert place.count() == 1
    assert place.is_visible() == (place.locator("img").count() == 1)
    for folded in tab.locator("article .solution p").all():
        assert folded.is_visible(), "nothing unfolds it"
    context.close()


# ---- the network in the browser (live.md) -------------------------------------------------------

NETWORK = books.ROOT / "_static" / "live" / "network"
# Bytes of what the page has fetched, by name; the page itself is not among it.
FETCHED = """() => Object.fromEntries(performance.getEntriesByType('resource')
    .filter(r => r.name.startsWith('http')).map(r => [r.name, r.encodedBodySize]))"""
DROP = """async (place, bytes) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], 'mine.png', {type: 'image/png'}));
    const event = {dataTransfer: data, bubbles: true, cancelable: true};
    place.dispatchEvent(new DragEvent('dragover', event));
    place.dispatchEvent(new DragEvent('drop', event));
}"""


@pytest.fixture(scope="module")
def about():
    return json.loads((NETWORK / "resnet20.json").read_text("utf-8"))


def loaded(tab):
    """The place of the network, after the press of its button."""
    place = tab.locator("#live-network")
    place.get_by_role("button", name="Load the network").click()
    place.locator("[aria-pressed=true]").wait_for(timeout=60_000)
    return place


def percentages(place, after=""):
    """The ten answers, when the text below them is no longer `after`."""
    told = place.locator("[role=status]")
    for _ in range(100):
        if (said := told.inner_text()) != after and "…" not in said:
            break
        place.page.wait_for_timeout(50)
    assert said != after, "no answer in five seconds"
    rows = place.locator(".live-bars li").all_inner_texts()
    return [float(re.search(r"([\d.]+) %", row)[1]) for row in rows], said


def weight(path):
    """Bytes of a file as a host sends it, which packs text."""
    data = path.read_bytes()
    return len(gzip.compress(data, 6) if path.suffix in (".css", ".js", ".svg") else data)


def as_torch_says(about, i):
    logits = torch.tensor(about["logits"][i], dtype=torch.float64)
    return (100 * logits.softmax(0)).tolist()


def as_png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def test_nothing_of_the_network_is_fetched_before_the_button_is_pressed(shots, chrome, site, base):
    with shots.opened(chrome, base, "live.html") as (tab, foreign, errors):
        before = tab.evaluate(FETCHED)
        assert not [name for name in before if "/live/network/" in name]
        assert sum(weight(site / urlsplit(name).path[1:]) for name in before) < 1_500_000
        button = tab.locator("#live-network button")
        promised = float(re.search(r"([\d.]+) MB", button.inner_text())[1])
        loaded(tab)
        after = tab.evaluate(FETCHED)
        came = sum(size for name, size in after.items() if name not in before)
        assert round(came / 1e6, 1) == promised
        assert all("/live/network/" in name for name in after.keys() - before.keys())
        assert not foreign
        assert not errors


@pytest.mark.parametrize(("scheme", "size"), [("light", "laptop"), ("dark", "phone")])
def test_the_network_in_the_browser_answers_as_torch_did(
    shots, axe, chrome, base, about, scheme, size
):
    with shots.opened(chrome, base, "live.html", scheme, size) as (tab, foreign, errors):
        place = loaded(tab)
        thumbs = place.get_by_role("group", name="Test images").get_by_role("button")
        assert thumbs.count() == len(about["labels"]) == 20
        assert tab.evaluate("document.activeElement.ariaLabel") == "test image: airplane 1"
        found, said = percentages(place)
        for i, label in enumerate(about["labels"]):
            if i:
                tab.keyboard.press("Tab")
                tab.keyboard.press("Enter")
                found, said = percentages(place, after=said)
            expected = as_torch_says(about, i)
            assert found == pytest.approx(expected, abs=0.06)
            answer, truth = about["classes"][int(np.argmax(expected))], about["classes"][label]
            assert said.startswith(f"The network says {answer}, {max(found)} %.")
            assert f"says {truth}, so that is {'right' if answer == truth else 'wrong'}" in said
            assert place.locator(".live-best").inner_text().startswith(answer)
        content, window = tab.evaluate(WIDTHS)
        assert content <= window
        assert not foreign
        assert not errors
        tab.evaluate(axe)
        found = tab.evaluate(AXE)
        assert not found, "\n".join(found)


def test_the_readers_own_picture_is_cut_reduced_and_stays_in_the_browser(
    shots, chrome, base, about
):
    images = np.asarray(Image.open(NETWORK / "images.png"))  # beside each other
    fifth, sixth = (images[:, 32 * i : 32 * i + 32] for i in (5, 6))
    # Eight times as large, and with something at the sides, which the square leaves out.
    wide = np.pad(fifth.repeat(8, 0).repeat(8, 1), ((0, 0), (40, 40), (0, 0)))
    high = np.pad(sixth.repeat(4, 0).repeat(4, 1), ((10, 10), (0, 0), (0, 0)))
    with shots.opened(chrome, base, "live.html") as (tab, foreign, errors):
        place = loaded(tab)
        _, said = percentages(place)
        before = tab.evaluate(FETCHED)
        picker = place.get_by_label("your own picture")
        picker.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": as_png(wide)})
        found, said = percentages(place, after=said)
        assert found == pytest.approx(as_torch_says(about, 5), abs=0.06)
        assert "These ten are all it knows" in said
        assert place.locator("[aria-pressed=true]").count() == 0

        place.evaluate(DROP, list(as_png(high)))
        found, said = percentages(place, after=said)
        assert found == pytest.approx(as_torch_says(about, 6), abs=0.06)

        place.get_by_role("button", name="random pixels").click()
        found, said = percentages(place, after=said)
        assert sum(found) == pytest.approx(100, abs=0.5)

        text = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"not a picture"}
        picker.set_input_files(text)
        _, said = percentages(place, after=said)
        assert said == "a.txt is no picture that this browser can read."
        assert tab.evaluate(FETCHED) == before
        assert not foreign
        assert not errors


def test_a_network_that_does_not_come_leaves_the_still_picture_and_a_second_try(
    shots, chrome, base
):
    with shots.opened(chrome, base, "live.html") as (tab, _, _):
        tab.route("**/resnet20.onnx", lambda route: route.fulfill(status=503))
        place = tab.locator("#live-network")
        place.get_by_role("button").click()
        told = place.locator("[role=status]", has_text="did not work")
        told.wait_for(timeout=10_000)
        assert told.inner_text() == ("That did not work: the site answered 503 for resnet20.onnx.")
        assert place.locator("img.live-static").is_visible()
        tab.unroute("**/resnet20.onnx")
        loaded(tab)
        assert place.locator("img.live-static").count() == 0


# ---- accuracy against cost (_static/live/cost.js) -----------------------------------------------

COLUMNS = [
    *("network", "test accuracy (%)", "±", "parameters", "MACs (M)", "training (s)"),
    *("batch 1 (ms)", "batch 128 (ms)", "memory (MiB)"),
]


def fifteen_networks():
    """Rows as a table has them, one of them without a spread and one without a time."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(15):
        accuracy, spread = 75 + 15 * random.random(), 0.1 + random.random()
        macs, seconds, one, many = np.exp(random.uniform(0, [6, 2, 2, 3]))
        rows.append([
            f"Net {i}", f"{accuracy:.1f}", f"{spread:.1f}", f"{265_000 + 900 * i:,}",
            f"{macs:.1f}", f"{200 * seconds:,.0f}", f"{one:.2f}", f"{9 * many:.1f}",
            f"{300 + 40 * (i // 2)}",
        ])  # fmt: skip
    rows[3][2] = rows[4][5] = "–"
    rows[7][1], rows[7][8] = rows[6][1], rows[6][8]  # as good, as dear
    return rows


@pytest.fixture(scope="module")
def costs(shots, tmp_path_factory):
    """The address of a small book with a table, `cost.html`, and one without, `none.html`."""
    root = books.make_toy(tmp_path_factory.mktemp("cost"))
    (root / "_static" / "live").mkdir()
    for name in ("live.js", "cost.js"):
        shutil.copy(books.ROOT / "_static" / "live" / name, root / "_static" / "live")
    live = "```{live} cost\nAll networks, by what they cost.\n```\n"
    lines = [COLUMNS, ["---"] * len(COLUMNS), *fifteen_networks()]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    (root / "cost.md").write_text(f"# Cost\n\n{live}\n{table}\n", "utf-8")
    (root / "none.md").write_text(f"# None\n\n{live}\n| network | ± |\n|---|---|\n| a | 1 |\n")
    with (root / "_toc.yml").open("a") as contents:
        contents.write("      - file: cost\n      - file: none\n")
    done = books.build(root)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with shots.served(root / "_build" / "html") as address:
        yield address


def number(text):
    return None if text == "–" else float(text.replace(",", ""))


@pytest.mark.parametrize("cost", COLUMNS[3:])
def test_the_cost_plot_shows_what_the_table_says(shots, chrome, costs, cost):
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in fifteen_networks()]
    rows = [row for row in rows if number(row[cost]) is not None]
    rows.sort(key=lambda row: (number(row[cost]), -number(row[COLUMNS[1]])))
    with shots.opened(chrome, costs, "cost.html") as (tab, foreign, errors):
        assert not errors
        assert not foreign
        place = tab.locator("#live-cost")
        place.locator("select").focus()
        place.locator("select").select_option(cost)
        points = place.locator("g[tabindex]")
        assert points.count() == len(rows)
        at, best = [], -1.0
        for i, row in enumerate(rows):
            tab.keyboard.press("Tab")  # from the choice to the first, and from one to the next
            point = points.nth(i)
            assert point.evaluate("e => e === document.activeElement")
            spread = "" if row["±"] == "–" else f" ± {row['±']}"
            said, told = point.get_attribute("aria-label"), place.locator("[role=status]")
            assert said.startswith(f"{row['network']}: {row['test accuracy (%)']}{spread} %, ")
            assert row[cost] in said
            assert told.inner_text().startswith(said)
            assert place.locator(".live-chosen text").text_content() == row["network"]
            accuracy = number(row["test accuracy (%)"])
            front = accuracy > best
            best = max(best, accuracy)
            kind = point.get_attribute("class")
            assert ("live-front" in kind, "live-other" in kind) == (front, not front)
            assert ("No other costs as little" in told.inner_text()) == front
            assert "live-chosen" in kind
            circle = point.locator("circle")
            x, y = (float(circle.get_attribute(name)) for name in ("cx", "cy"))
            at.append((x, number(row[cost]), y, accuracy))
            assert point.locator("line").count() == (3 if spread else 0)
        x, value, y, accuracy = np.array(at).T
        logarithmic = value.max() >= 10 * value.min()
        assert logarithmic == (", logarithmic" in place.locator("svg").text_content())
        assert_straight(x, np.log(value) if logarithmic else value)
        assert_straight(y, accuracy)


def assert_straight(place, value):
    """Places on an axis lie on a straight line over the values."""
    rest = place - np.polyval(np.polyfit(value, place, 1), value)
    assert np.abs(rest).max() < 1e-6 * np.ptp(place)


def test_the_cost_plot_of_two_kinds_of_axes_was_tested():
    ratios = []
    for column in range(3, len(COLUMNS)):
        values = [v for row in fifteen_networks() if (v := number(row[column]))]
        ratios.append(max(values) / min(values))
    assert min(ratios) < 10 < max(ratios)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["laptop", "phone"])
def test_the_cost_plot_answers_a_pointer_in_both_themes_and_sizes(
    shots, axe, chrome, costs, scheme, size
):
    with shots.opened(chrome, costs, "cost.html", scheme, size) as (tab, _, errors):
        place = tab.locator("#live-cost")
        place.scroll_into_view_if_needed()
        point = place.locator("g[tabindex]").last
        box = point.locator("circle").bounding_box()
        tab.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + box["height"] / 2)
        told = place.locator("[role=status]").inner_text()
        assert told.startswith(point.get_attribute("aria-label"))
        place.locator("select").select_option("parameters")  # the same stays chosen
        assert place.locator("[role=status]").inner_text().startswith(told.split(":")[0] + ":")
        content, window = tab.evaluate(WIDTHS)
        assert content <= window
        assert not errors
        tab.evaluate(axe)
        found = tab.evaluate(AXE)
        assert not found, "\n".join(found)


def test_without_its_table_the_cost_plot_stays_hidden(shots, chrome, costs):
    with shots.opened(chrome, costs, "none.html") as (tab, _, errors):
        assert tab.locator("#live-cost").count() == 1
        assert not tab.locator("#live-cost").is_visible()
        assert not errors
