"""Pictures of built pages as readers see them: light and dark, on a laptop and on a phone.

python tests/browser/shots.py _build/html chapters/resnet.html [more.html …] FOLDER
"""

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils.browser import chromium, served  # noqa: F401
from utils.browser import opened as browser

SIZES = {"laptop": (1280, 900), "phone": (390, 844)}


@contextlib.contextmanager
def opened(chrome, base, page, scheme="light", size="laptop"):
    """(page, requests to other hosts, errors) of one page, loaded and typeset."""
    width, height = SIZES[size]
    context = chrome.new_context(
        color_scheme=scheme, viewport={"width": width, "height": height}, bypass_csp=True
    )
    tab = context.new_page()
    foreign, errors = [], []

    def local_only(route):
        url = route.request.url
        if url.startswith((base, "data:", "blob:")):
            return route.continue_()
        foreign.append(url)
        return route.abort()

    tab.route("**/*", local_only)
    tab.on("pageerror", lambda error: errors.append(str(error)[:200]))
    tab.on(
        "response",
        lambda reply: errors.append(f"{reply.status} {reply.url}") if reply.status >= 400 else None,
    )
    try:
        tab.goto(base + page, wait_until="load")
        tab.evaluate("window.MathJax?.startup?.promise")
        tab.wait_for_timeout(300)
        yield tab, foreign, errors
    finally:
        context.close()


def main(folder, *rest):
    *pages, target = rest
    Path(target).mkdir(parents=True, exist_ok=True)
    with served(folder) as base, browser() as chrome:
        for page in pages:
            for scheme in ("light", "dark"):
                for size in SIZES:
                    with opened(chrome, base, page, scheme, size) as (tab, foreign, errors):
                        name = f"{page.replace('/', '_').removesuffix('.html')}_{scheme}_{size}.png"
                        tab.screenshot(path=str(Path(target, name)), full_page=True)
                        print(name, *foreign, *errors)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
