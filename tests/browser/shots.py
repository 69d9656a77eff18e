"""Pictures of built pages as readers see them: light and dark, on a laptop and on a phone.

python tests/browser/shots.py _build/html chapters/resnet.html [more.html …] FOLDER
"""

import contextlib
import http.server
import os
import shutil
import sys
import threading
from functools import partial
from pathlib import Path

from playwright.sync_api import sync_playwright

SIZES = {"laptop": (1280, 900), "phone": (390, 844)}
# Without a display, without a sandbox (which a container lacks), asking nobody for anything.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium():
    """Path of an installed Chromium or Chrome; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder):
    """The folder's address while the block runs."""
    handler = partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def browser():
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        try:
            yield opened
        finally:
            opened.close()


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
