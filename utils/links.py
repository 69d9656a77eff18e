"""Do the links of the built pages lead somewhere?

    python -m utils.links             # ask every other site too; needs the network
    python -m utils.links --offline   # only those within the site

The work is lychee's. The site's own public addresses are looked up in the build, which may be
newer than what is published.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from utils import notebooks

# Publishers answer a program with "forbidden" or "too many", where a browser gets the page.
ACCEPT = "200..=206,403,418,429"


def command(site: Path, offline: bool = False) -> list[str]:
    """What checks the pages in `site`, the folder of a build.

    Raises:
        FileNotFoundError: there is no build, or no lychee beside this Python.
    """
    if not (site / "index.html").exists():
        raise FileNotFoundError(f"there is no built site in {site}: run make book first.")
    lychee = Path(sys.executable).with_name("lychee")
    if not shutil.which(lychee):
        raise FileNotFoundError(
            f"there is no lychee beside {sys.executable}: install what requirements-book.txt lists."
        )
    address = notebooks.repository().site_url
    here = site.resolve().as_uri()
    return [
        str(lychee), "--no-progress", "--include-fragments", "--root-dir", str(site.resolve()),
        # The page for what is not there links from the top: it is shown at every depth.
        "--remap", f"^{here}{urlsplit(address).path} {here}/",
        "--remap", f"^{address} {here}/",
        *(["--offline"] if offline else ["--accept", ACCEPT, "--max-retries", "3"]),
        # Not the theme's templates, which are no pages.
        *(str(p) for p in sorted(site.resolve().rglob("*.html")) if "_static" not in p.parts),
    ]  # fmt: skip


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit status."""
    try:
        return subprocess.run(
            command(notebooks.ROOT / "_build" / "html", "--offline" in argv), check=False
        ).returncode
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
