"""Sphinx extension: pages show the recorded outputs, and the build runs no code.

* Before anything else it stops when a chapter's code is not the code that was recorded, and says
  how to record it.
* It seeds myst-nb's cache with the cells of the `.md` and the outputs of the `.ipynb`, so that
  myst-nb finds every notebook already run.
* Sphinx watches the `.md` only; here a page is also read again when its recording changed.
* Under each chapter's title it puts where the outputs come from, and `{recordings}` tabulates
  that for all chapters.
* The download button serves the recorded notebook.
"""

import datetime
import hashlib
import sys
from pathlib import Path

from docutils import nodes
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from utils import notebooks

log = logging.getLogger(__name__)
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
HEAD = (
    "Chapter",
    "Device",
    "torch",
    "Python",
    "Profile",
    "Seeds",
    "Time",
    "Data",
    "Recorded",
    "Age",
    "utils since",
)


def executable_pages(app):
    """(document name, path) of every page with code cells."""
    for doc in sorted(app.project.discover(app.config.exclude_patterns)):
        md = Path(app.project.doc2path(doc, absolute=True))
        if md.suffix == ".md":
            text = md.read_text(encoding="utf-8")
            if is_myst_markdown_notebook(text) and notebooks.code_cells(text):
                yield doc, md


def stop_if_stale(app):
    """End the build, before any page is read, if a recording is missing or of other code.

    With SystemExit, because Jupyter Book wraps every other exception in two tracebacks.
    """
    if app.config.nb_execution_mode != "cache":
        sys.exit("_config.yml: execute: execute_notebooks: must be cache, or pages lack outputs")
    reasons, recordings = [], {}
    for doc, md in executable_pages(app):
        try:
            if reason := notebooks.stale_reason(md):
                reasons.append(f"{reason}. Run: make record CHAPTER={md.stem}")
            else:
                notebook = notebooks.read_notebook(md.with_suffix(".ipynb"))
                recordings[doc] = (notebooks.recording_digest(notebook), md)
        except notebooks.ChapterError as error:
            reasons.append(str(error))
    if reasons:
        sys.exit(
            "\n".join(["The book shows recorded outputs, and these are not current:", *reasons])
        )
    app.recordings = recordings


def outdated(app, env, added, changed, removed):
    """Pages whose recording is another one than when they were read."""
    read = getattr(env, "recordings_read", {})
    known = app.recordings.keys() - added
    stale = [doc for doc in sorted(known) if read.get(doc) != app.recordings[doc][0]]
    table = table_key(app)
    return stale + [
        doc for doc, key in getattr(env, "recordings_tables", {}).items() if key != table
    ]


def seed(app, env, docnames):
    """Give myst-nb's cache the recorded outputs of the pages about to be read."""
    env.recordings_read = {doc: digest for doc, (digest, _) in app.recordings.items()}
    cache = get_cache(env.mystnb_config.execution_cache_path)
    for doc in docnames:
        if doc not in app.recordings:
            continue
        md = app.recordings[doc][1]
        recorded = notebooks.read_notebook(md.with_suffix(".ipynb"))
        # As myst-nb itself will read it: its cache compares every tag and option.
        page = read_myst_markdown_notebook(
            md.read_text(encoding="utf-8"), env.myst_config, add_source_map=True, path=md
        )
        cells = notebooks.code_of(page)
        for cell, old in zip(cells, notebooks.code_of(recorded), strict=True):
            cell.outputs, cell.execution_count = old.outputs, old.execution_count
        page.metadata["language_info"] = recorded.metadata.get("language_info", {})
        bundle = CacheBundleIn(page, str(md))
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


# ---- provenance in words -----------------------------------------------------------------------


def date_in_words(iso):
    """24 November 2026, in English whatever the machine's locale."""
    date = datetime.date.fromisoformat(iso)
    return f"{date.day} {MONTHS[date.month - 1]} {date.year}"


def seeds_in_words(seeds):
    """Seed 0; seeds 0, 1, 2."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}" if seeds else ""


def data_in_words(data, with_hash=False):
    """The data's source, and the first 8 digits of its hash."""
    if not data:
        return ""
    digest = data.get("sha256") or data.get("md5") or ""
    return f"{data['source']} {digest[:8]}".strip() if with_hash else data["source"]


def provenance_line(course):
    """The sentence under a chapter's title."""
    parts = [
        f"Recorded {date_in_words(course['recorded'])} on {course['device']}",
        f"torch {course['torch']}" if course["torch"] else f"Python {course['python']}",
        f"profile {course['profile']}",
        seeds_in_words(course["seeds"]),
        notebooks.duration(course["seconds"]),
        f"data: {data_in_words(course['data'])}" if course["data"] else "",
    ]
    return " · ".join(part for part in parts if part)


def add_provenance(app, doctree):
    """Put that sentence under the title."""
    if app.env.docname not in app.recordings:
        return
    ipynb = app.recordings[app.env.docname][1].with_suffix(".ipynb")
    course = notebooks.provenance(notebooks.read_notebook(ipynb))
    title = next(doctree.findall(nodes.title), None)
    if course and title is not None:
        line = provenance_line(course)
        paragraph = nodes.paragraph(line, line, classes=["provenance"])
        title.parent.insert(title.parent.index(title) + 1, paragraph)


def table_key(app):
    """What the table depends on: every recording, utils/ and the day."""
    digests = sorted((doc, digest) for doc, (digest, _) in app.recordings.items())
    today = datetime.date.today().isoformat()
    text = repr([digests, notebooks.utils_hash(Path(app.srcdir)), today])
    return hashlib.sha256(text.encode()).hexdigest()


class Recordings(SphinxDirective):
    """`{recordings}`: a table of all chapters and where their outputs come from."""

    has_content = False

    def run(self):
        """One row a chapter, in reading order."""
        app, root = self.env.app, Path(self.env.srcdir)
        self.env.recordings_tables = {
            **getattr(self.env, "recordings_tables", {}),
            self.env.docname: table_key(app),
        }
        utils_now = notebooks.utils_hash(root)
        rows = []
        order = [f"chapters/{name}" for name in notebooks.chapters(root)]
        docs = [doc for doc in order if doc in app.recordings]
        for doc in docs + sorted(set(app.recordings) - set(order)):
            ipynb = app.recordings[doc][1].with_suffix(".ipynb")
            course = notebooks.provenance(notebooks.read_notebook(ipynb))
            if not course:
                continue
            days = (datetime.date.today() - datetime.date.fromisoformat(course["recorded"])).days
            link = addnodes.pending_xref(
                "",
                nodes.inline("", Path(doc).name, classes=["xref", "std", "std-doc"]),
                refdoc=self.env.docname,
                refdomain="std",
                reftype="doc",
                refexplicit=False,
                reftarget=f"/{doc}",
                refwarn=True,
            )
            rows.append(
                [
                    link,
                    course["device"],
                    course["torch"] or "–",
                    course["python"],
                    course["profile"],
                    ", ".join(map(str, course["seeds"])) or "–",
                    notebooks.duration(course["seconds"]),
                    data_in_words(course["data"], with_hash=True) or "–",
                    date_in_words(course["recorded"]),
                    f"{days} day{'' if days == 1 else 's'}",
                    "unchanged" if course["utils_hash"] == utils_now else "changed",
                ]
            )
        if not rows:
            return [nodes.paragraph("", "No chapter is recorded yet.")]
        return [table(HEAD, rows)]


def table(head, rows):
    """A docutils table; entries are strings or inline nodes."""

    def row(entries):
        made = nodes.row()
        for entry in entries:
            inline = nodes.Text(entry) if isinstance(entry, str) else entry
            made += nodes.entry("", nodes.paragraph("", "", inline))
        return made

    group = nodes.tgroup(cols=len(head))
    group.extend(nodes.colspec(colwidth=1) for _ in head)
    group += nodes.thead("", row(head))
    group += nodes.tbody("", *map(row, rows))
    return nodes.table("", group, classes=["recordings"])


def purge(app, env, docname):
    """Forget a page that is read anew or gone."""
    getattr(env, "recordings_tables", {}).pop(docname, None)


def merge_info(app, env, docnames, other):
    """Bring home what a parallel reader noted."""
    env.recordings_tables = {
        **getattr(env, "recordings_tables", {}),
        **getattr(other, "recordings_tables", {}),
    }


def serve_download(app, error):
    """Copy each chapter's notebook to where the download button looks for it.

    The one this build exported, if there is one: its text is as new as the page's.
    """
    if error is not None or app.builder.format != "html":
        return
    for doc, (digest, md) in app.recordings.items():
        target = Path(app.outdir, "_sources", f"{doc}.ipynb")
        if not target.parent.exists():
            continue
        exported = Path(app.outdir).parent / "colab" / f"{doc}.ipynb"
        source = md.with_suffix(".ipynb")
        if exported.exists():
            try:
                if notebooks.recording_digest(notebooks.read_notebook(exported)) == digest:
                    source = exported
            except notebooks.ChapterError:
                log.debug("no readable export of %s", doc)
        notebooks.write_text(source.read_text(encoding="utf-8"), target)


def setup(app):
    """Connect all of it."""
    app.add_directive("recordings", Recordings)
    app.connect("builder-inited", stop_if_stale, priority=900)
    app.connect("env-get-outdated", outdated)
    app.connect("env-before-read-docs", seed)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge_info)
    app.connect("doctree-read", add_provenance)
    app.connect("build-finished", serve_download, priority=900)
    return {
        "version": "1",
        "env_version": 1,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
