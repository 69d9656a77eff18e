"""The printed book: nothing cut, nothing folded, solutions at the end."""

import os
import re

import books
import pytest
import yaml

from utils import browser, notebooks, pdf

pypdf = pytest.importorskip("pypdf")
NAME = "resnext"
LIVE = "chapters/alexnet"  # with a picture to play with in its text


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    if not browser.chromium():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("printing needs Chromium or Chrome")
    target = tmp_path_factory.mktemp("pdf") / "book.pdf"
    count = pdf.make(books.built_course(), target, ["intro", f"chapters/{NAME}", "live", LIVE])
    reader = pypdf.PdfReader(target)
    assert len(reader.pages) == count
    return reader


def squeezed(text):
    return re.sub(r"\s", "", text)


def parts(reader):
    """Text of the chapters, and of the solutions behind them."""
    first = next(item for item in reader.outline if item.title == "Solutions")
    start = reader.get_destination_page_number(first)
    texts = [page.extract_text() for page in reader.pages]
    return "".join(texts[:start]), "".join(texts[start:])


def test_solutions_stand_at_the_end_and_nowhere_else(printed):
    chapters, solutions = parts(printed)
    assert "Solution to Exercise" not in chapters
    text = notebooks.chapter_path(NAME).read_text("utf-8")
    text += (notebooks.ROOT / f"{LIVE}.md").read_text("utf-8")
    assert solutions.count("Solution to Exercise") == text.count("{solution") - text.count(
        "{solution-end}"
    )


def test_a_chapter_begins_with_its_number_and_title(printed):
    item = next(i for i in printed.outline if not isinstance(i, list) and "ResNeXt" in i.title)
    assert re.match(r"\d+\. ResNeXt", item.title)
    text = printed.pages[printed.get_destination_page_number(item)].extract_text()
    assert squeezed(text).startswith(squeezed(item.title)), text[:200]


def test_every_line_of_code_is_whole(printed):
    both = squeezed("".join(parts(printed)))
    cells = notebooks.code_cells(notebooks.chapter_path(NAME).read_text("utf-8"))
    shown = [cell for cell in cells if not {"hide-input", "remove-cell"} & set(cell.tags)]
    lines = [line for cell in shown for line in cell.source.splitlines() if len(line) > 60]
    assert len(lines) > 50
    missing = [line for line in lines if squeezed(line) not in both]
    assert not missing


def test_a_picture_to_play_with_stands_still(printed):
    item = next(i for i in printed.outline if not isinstance(i, list) and "browser" in i.title)
    page = printed.pages[printed.get_destination_page_number(item)]
    assert len(page.images) == 1
    assert "Load the network" not in page.extract_text()

    text = (notebooks.ROOT / f"{LIVE}.md").read_text("utf-8")
    caption = re.search(r"\{live\}.*?```\{image\}.*?```\n\n(.{60})", text, re.DOTALL)[1]
    (page,) = [p for p in printed.pages if squeezed(caption) in squeezed(p.extract_text())]
    assert "output pixel" not in page.extract_text()  # a slider


def test_paper_is_a4_and_pages_have_an_outline(printed):
    titles = [item.title for item in printed.outline if not isinstance(item, list)]
    assert titles[0].startswith("Convolutional")
    assert "ResNeXt" in titles[1]
    width, height = printed.pages[0].mediabox.width, printed.pages[0].mediabox.height
    assert (round(width), round(height)) in ((595, 842), (594, 842), (595, 841))


def test_the_whole_book_is_meant():
    toc = yaml.safe_load((notebooks.ROOT / "_toc.yml").read_text("utf-8"))
    named = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    assert pdf.pages() == [toc["root"], *named]
