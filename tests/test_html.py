"""The built pages: nothing comes from another host, every link and picture is whole."""

import itertools
import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import books
import pytest
import yaml
from bs4 import BeautifulSoup

from utils import notebooks

# What a browser fetches by itself, as opposed to a link that a reader follows.
FETCHED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "link": ("href",),
}
LINKED_ONLY = {"canonical", "search", "index", "next", "prev", "author", "license", "alternate"}
HERE = "http://here/"


@pytest.fixture(scope="module")
def site():
    return books.built_course()


@pytest.fixture(scope="module")
def pages(site):
    found = {
        path.relative_to(site).as_posix(): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts and path.name != "404.html"  # which has a test of its own
    }
    assert "intro.html" in found
    return found


def test_every_page_of_the_contents_is_there(pages):
    for name in notebooks.chapters():
        assert f"chapters/{name}.html" in pages


def test_nothing_is_fetched_from_another_host(pages):
    foreign = []
    for page, soup in pages.items():
        for tag, names in FETCHED.items():
            for element in soup.find_all(tag):
                if tag == "link" and set(element.get("rel", [])) & LINKED_ONLY:
                    continue
                foreign += [
                    f"{page}: <{tag} {name}={element[name]}>"
                    for name in names
                    if re.match(r"\s*(https?:)?//", element.get(name, ""))
                ]
        styles = [style.get_text() for style in soup.find_all("style")]
        styles += [element["style"] for element in soup.find_all(style=True)]
        foreign += [f"{page}: {url}" for text in styles for url in foreign_urls(text)]
    assert not foreign


def foreign_urls(css):
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.S)
    found = re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)'\"]+)", css)
    return found + re.findall(r"@import\s+['\"]((?:https?:)?//[^'\"]+)", css)


def test_styles_fetch_nothing_from_another_host(site):
    foreign = {
        path.relative_to(site).as_posix(): urls
        for path in site.rglob("*.css")
        if (urls := foreign_urls(path.read_text("utf-8")))
    }
    assert not foreign


def test_mathjax_comes_from_the_site(site, pages):
    path = site / "_static" / "mathjax" / "tex-svg-full.js"
    assert path.stat().st_size > 1_000_000
    with_math = [page for page, soup in pages.items() if soup.select(".math")]
    assert with_math
    for page in with_math:
        scripts = [s.get("src", "") for s in pages[page].find_all("script")]
        assert any("_static/mathjax/tex-svg-full.js" in s for s in scripts), (
            f"{page}: has no formula of its own, so MathJax is not loaded, but its contents list "
            "a title with one: keep formulas out of chapters' titles"
        )
        assert not any("cdn" in s for s in scripts), page


def test_no_line_begins_with_a_formulas_full_stop(pages):
    kept = [e for soup in pages.values() for e in soup.select("span.keep > span.math")]
    assert kept
    for page, soup in pages.items():
        for formula in soup.select("span.math"):
            after = formula.next_sibling
            if isinstance(after, str) and after[:1] in tuple(".,;:!?)-"):
                assert "keep" in formula.parent.get("class", []), f"{page}: {formula} {after[:20]}"


def test_scripts_are_loaded_once(pages):
    for page, soup in pages.items():
        scripts = [s["src"] for s in soup.find_all("script", src=True)]
        assert len(scripts) == len(set(scripts)), page
        assert "thebe" not in " ".join(scripts), page


def test_links_inside_the_site_resolve(site, pages):
    ids = {page: {e["id"] for e in soup.find_all(id=True)} for page, soup in pages.items()}
    broken = []
    for page, soup in pages.items():
        for element in soup.find_all(href=True):
            address, anchor = urldefrag(urljoin(HERE + page, element["href"]))
            if not address.startswith(HERE) or element["href"].startswith(("mailto:", "data:")):
                continue
            target = unquote(urlsplit(address).path).lstrip("/") or "index.html"
            if target not in pages and not (site / target).is_file():
                broken.append(f"{page}: {element['href']}")
            elif anchor and target in pages and unquote(anchor) not in ids[target]:
                broken.append(f"{page}: no such place {element['href']}")
    assert not broken


def test_pictures_and_scripts_exist(site, pages):
    missing = []
    for page, soup in pages.items():
        for element in soup.find_all(src=True):
            address = urljoin(HERE + page, element["src"])
            if address.startswith(HERE):
                target = unquote(urlsplit(address).path).lstrip("/")
                if not (site / target).is_file():
                    missing.append(f"{page}: {element['src']}")
    assert not missing


def test_pages_are_light(site, pages):
    """Without what all pages share and a browser keeps: styles, scripts, MathJax."""
    for page, soup in pages.items():
        sources = {img["src"] for img in soup.select("article img[src]")}
        paths = [
            (site / page).parent / unquote(source)
            for source in sources
            if not source.startswith("data:")
        ]
        for path in paths:
            assert path.stat().st_size <= 200_000, f"{path.name} in {page}"
        weight = (site / page).stat().st_size + sum(path.stat().st_size for path in paths)
        assert weight <= 1_500_000, f"{page} weighs {weight:,} bytes"


def test_every_picture_says_what_it_shows(pages):
    wrong = []
    for page, soup in pages.items():
        for image in soup.select("article img"):
            alt, name = image.get("alt", "").strip(), Path(image["src"]).name
            file_name = alt in (name, image["src"]) or re.search(r"\.(svg|png|jpe?g|gif)$", alt)
            if not alt or file_name or len(alt) < 15:
                wrong.append(f"{page}: {name}: {alt!r}")
    assert not wrong, "give the cell `mystnb: image: alt:`"


@pytest.mark.parametrize("name", notebooks.chapters())
def test_chapter_opens_on_colab_and_binder(pages, name):
    links = [a["href"] for a in pages[f"chapters/{name}.html"].find_all("a", href=True)]
    where = notebooks.repository()
    owner = where.url.removeprefix("https://github.com/")
    path = f"chapters/{name}.ipynb"
    assert f"https://colab.research.google.com/github/{owner}/blob/{where.branch}/{path}" in links
    assert f"https://mybinder.org/v2/gh/{owner}/{where.branch}?urlpath=lab/tree/{path}" in links
    assert (books.ROOT / path).exists()


@pytest.mark.parametrize("name", notebooks.chapters())
def test_download_is_the_notebook_in_the_repository(site, pages, name):
    links = [a["href"] for a in pages[f"chapters/{name}.html"].find_all("a", href=True)]
    assert any(link.endswith(f"_sources/chapters/{name}.ipynb") for link in links)
    served = (site / "_sources" / "chapters" / f"{name}.ipynb").read_text("utf-8")
    committed = (books.ROOT / "chapters" / f"{name}.ipynb").read_text("utf-8")
    assert notebooks.neutral(served) == notebooks.neutral(committed), "run: make book"


@pytest.mark.parametrize("name", notebooks.chapters())
def test_chapter_says_where_its_outputs_come_from(pages, name):
    soup = pages[f"chapters/{name}.html"]
    lines = soup.select("h1 + p.provenance")
    assert len(lines) == 1
    assert lines[0].get_text().startswith("Recorded ")


def test_status_lists_every_chapter(pages):
    table = pages["status.html"].find("table", class_="recordings")
    rows = [row.find_all("td") for row in table.find_all("tr")][1:]
    listed = [row[0].find("a")["href"] for row in rows]
    assert listed == [f"chapters/{name}.html" for name in notebooks.chapters()]
    assert all(cell.get_text().strip() for row in rows for cell in row)


def test_every_exercise_is_listed_with_its_kind_and_time(pages):
    article = pages["exercises.html"].find("article")
    listed = {}
    for row in article.select("tbody tr"):
        number, title, kind, time = (cell.get_text(" ", strip=True) for cell in row("td"))
        assert title
        assert re.fullmatch(r"\d+\.\d+", number)
        assert re.match(r"\d+ minutes|no solution$", time), f"{number} {title}: {time}"
        assert (kind == "Open") == (time == "no solution")
        listed[row.find("a")["href"]] = title
    exercises = {
        f"{page}#{box['id']}"
        for page, soup in pages.items()
        if page.startswith("chapters/")
        for box in soup.select("div.exercise[id]")
    }
    assert listed.keys() == exercises
    assert len(exercises) >= 5 * len(notebooks.chapters())


def test_no_markup_is_left_in_the_text(pages):
    left = []
    for page, soup in pages.items():
        for text in soup.select("article")[0].find_all(string=True) if soup.article else []:
            if not text.find_parent(["pre", "code", "script", "style"]) and not text.find_parent(
                class_="math"  # TeX, which MathJax sets
            ):
                found = re.findall(r":::.*|\{[a-z:]+\}$|^```.*|@@\w+", text, re.M)
                left += [f"{page}: {mark}" for mark in found]
    assert not left


def test_every_page_has_one_title_and_a_language(pages):
    for page, soup in pages.items():
        if page == "index.html":  # sends the reader on to intro.html
            continue
        assert soup.html["lang"] == "en", page
        assert soup.title.get_text().strip(), page
        headings = [h for h in soup.find_all("h1") if not h.find_parent(id="jb-print-docs-body")]
        assert len(headings) == 1, page
        levels = [int(h.name[1]) for h in soup.select("article :is(h1, h2, h3, h4, h5, h6)")]
        for above, level in itertools.pairwise(levels):
            assert level <= above + 1, f"{page}: h{level} behind h{above}"


def test_names_of_buttons_are_what_one_sees(pages):
    """WCAG 2.5.3, where the theme and myst-nb had it otherwise."""
    for page, soup in pages.items():
        assert not soup.find_all("summary", {"aria-label": True}), page
        assert not soup.select(".theme-switch-button i[title]"), page


def test_a_page_that_is_not_there_leads_back_from_any_depth(site):
    soup = BeautifulSoup((site / "404.html").read_text("utf-8"), "html.parser")
    assert "There is no page at this address" in soup.get_text()
    root = urlsplit(notebooks.repository().site_url).path
    fetched = [
        element[name]
        for tag, names in FETCHED.items()
        for element in soup.find_all(tag)
        for name in names
        if element.get(name) and not set(element.get("rel", [])) & LINKED_ONLY
    ]
    links = [a["href"] for a in soup.find_all("a", class_="reference internal")]
    assert len(links) > len(notebooks.chapters())
    for link in [*fetched, *links]:
        assert link.startswith((root, "data:")), link
        path = unquote(urlsplit(link).path)
        assert not path.startswith(root) or (site / path.removeprefix(root)).exists(), link


def test_a_shared_link_shows_a_card_and_the_idea_of_the_page(site, pages):
    name = yaml.safe_load((notebooks.ROOT / "_config.yml").read_text("utf-8"))["title"]
    base = notebooks.repository().site_url
    for chapter in notebooks.chapters():
        page = pages[f"chapters/{chapter}.html"]
        meta = {
            tag.get("property") or tag.get("name"): tag.get("content")
            for tag in page.find_all("meta")
        }
        assert meta["og:site_name"] == name
        assert meta["og:image"] == f"{base}_static/card.png"
        assert meta["twitter:card"] == "summary_large_image"
        for key in ("og:description", "description"):
            assert "Recorded" not in meta[key], chapter
        text = notebooks.chapter_path(chapter).read_text("utf-8")
        idea = re.search(r"^# .*\n\n(.+)", text, re.MULTILINE)[1]
        assert meta["description"][:25] == idea[:25], chapter
    card = (site / "_static" / "card.png").read_bytes()
    assert card[16:24] == bytes.fromhex("000004b0 00000276".replace(" ", ""))  # 1200 × 630
    assert len(card) < 100_000


def test_the_sitemap_names_every_page(site, pages):
    listed = re.findall(r"<loc>(.*?)</loc>", (site / "sitemap.xml").read_text("utf-8"))
    base = notebooks.repository().site_url
    left_out = {"index.html", "search.html", "genindex.html"}
    assert sorted(listed) == sorted(base + page for page in pages if page not in left_out)
