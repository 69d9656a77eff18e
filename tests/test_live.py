"""The directive for pictures to play with; the pictures themselves are tested in a browser."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def build(folder, page):
    (folder / "_static" / "live").mkdir(parents=True)
    (folder / "_static" / "live" / "toy.js").write_text("")
    (folder / "conf.py").write_text(
        'extensions = ["myst_parser", "sphinx_ext.live"]\n'
        # Jupyter Book names every script of _static, in the order of the file system.
        'html_js_files = ["live/toy.js", "live/other/one.js", "live/live.js", "live/no.js"]\n'
    )
    (folder / "index.md").write_text("# Page\n\n" + page)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    return subprocess.run(
        [*command, folder, folder / "out"], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_place_without_a_still_picture_is_hidden_until_the_script_shows_it(tmp_path):
    done = build(tmp_path, "```{live} toy\nTry it *out*.\n```\n")
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "out" / "index.html").read_text()
    assert '<div class="live" id="live-toy" hidden>' in html
    assert "Try it <em>out</em>." in html


def test_a_picture_without_a_script_is_refused_in_one_sentence(tmp_path):
    done = build(tmp_path, "```{live} nothing\nTry it.\n```\n")
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if "index.md" in line]
    assert "{live} nothing: there is no nothing.js; _static/live has toy." in said


def test_a_picture_without_a_caption_is_refused(tmp_path):
    done = build(tmp_path, "```{live} toy\n```\n")
    assert done.returncode == 1
    assert 'Content block expected for the "live" directive; none found.' in done.stderr


def test_a_page_gets_the_scripts_it_needs_and_the_one_they_build_on_first(tmp_path):
    done = build(tmp_path, "```{live} toy\nTry it.\n```\n")
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "out" / "index.html").read_text()
    scripts = re.findall(r'<script[^>]*src="_static/(live/[^"?]+)', html)
    assert scripts == ["live/live.js", "live/toy.js"]
    html = (tmp_path / "out" / "search.html").read_text()
    assert "live/" not in html


@pytest.mark.parametrize("path", sorted(ROOT.glob("chapters/*.md")), ids=lambda path: path.stem)
def test_a_notebook_leads_to_the_page_where_its_pictures_move(path):
    places = re.findall(r"^`{3,}\{live\} (\S+)", path.read_text("utf-8"), re.MULTILINE)
    links = re.findall(
        rf"/chapters/{path.stem}\.html#live-([\w-]+)\)",
        path.with_suffix(".ipynb").read_text("utf-8"),
    )
    assert links == places
