"""Every link of the built pages, as lychee sees them; other sites are left to the weekly run."""

import subprocess

import books
import pytest

from utils import links, notebooks

PAGE = '<html><body><h1 id="top">Title</h1>{}</body></html>'


def check(site):
    return subprocess.run(
        links.command(site, offline=True), capture_output=True, text=True, check=False
    )


def test_every_link_within_the_course_leads_somewhere():
    done = check(books.built_course())
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("href", "fine"),
    [
        ("other.html", True),
        ("other.html#top", True),
        ("gone.html", False),
        ("other.html#gone", False),
        ("{public}other.html", True),
        ("{public}gone.html", False),
        ("{path}other.html", True),
        ("https://example.org/", True),  # not asked
    ],
)
def test_a_link_that_leads_nowhere_is_found(tmp_path, href, fine):
    public = notebooks.repository().site_url
    path = "/" + public.split("/", 3)[3]
    href = href.format(public=public, path=path)
    (tmp_path / "index.html").write_text(PAGE.format(f'<a href="{href}">there</a>'))
    (tmp_path / "other.html").write_text(PAGE.format(""))
    done = check(tmp_path)
    assert (done.returncode == 0) is fine, done.stdout


def test_without_a_build_it_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no built site in .*: run make book"):
        links.command(tmp_path)
