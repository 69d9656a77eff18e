"""Sphinx extension: `{exercise-list}` shows all exercises of the book, chapter by chapter.

An exercise begins with its kind and its time, `*Code, 10 minutes.*`; the table shows both.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx_exercise.nodes import exercise_enumerable_node, exercise_subtitle

from sphinx_ext.recordings import table

log = logging.getLogger(__name__)
KINDS = ("Recall", "Code", "Experiment", "Code and experiment", "Open")


class exercise_list(nodes.General, nodes.Element):
    """Where the tables go once every page has been read."""


class ExerciseList(SphinxDirective):
    """`{exercise-list}`, without content."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # what it shows stands in other pages
        return [exercise_list()]


def fill(app: Sphinx, doctree: nodes.document, page: str) -> None:
    for place in list(doctree.findall(exercise_list)):
        made = []
        for docname in app.env.toctree_includes.get(app.config.root_doc, []):
            rows = chapter(app, docname)
            if rows:
                made += section(app, page, docname, rows)
        place.replace_self(made)


def chapter(app: Sphinx, docname: str) -> list[tuple[str, str, str, str, str]]:
    """(id, number, title, kind, time) of each exercise of a page, in order."""
    numbers = app.env.toc_fignumbers.get(docname, {}).get("exercise", {})
    rows = []
    for node in app.env.get_doctree(docname).findall(exercise_enumerable_node):
        title = next(node.findall(exercise_subtitle)).astext()
        first = next((n.astext() for n in node.findall(nodes.emphasis)), "")
        kind, _, time = first.rstrip(".").partition(", ")
        if kind not in KINDS or not time:
            log.warning(
                "the exercise %r does not begin with its kind and time, such as "
                "*Code, 10 minutes.*; the kinds are %s",
                title,
                ", ".join(KINDS),
                location=docname,
            )
        number = ".".join(map(str, numbers.get(node["ids"][0], ())))
        rows.append((node["ids"][0], number, title, kind, time))
    return rows


def section(app: Sphinx, page: str, docname: str, rows: list[Any]) -> list[nodes.Node]:
    address = app.builder.get_relative_uri(page, docname)
    title = app.env.titles[docname].astext()
    head = nodes.rubric("", "", nodes.reference("", title, refuri=address, internal=True))
    links = []
    for name, number, what, kind, time in rows:
        uri = f"{address}#{name}"
        links.append([number, nodes.reference("", what, refuri=uri, internal=True), kind, time])
    return [head, table(["No.", "Exercise", "Kind", "Time"], links)]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(exercise_list)
    app.add_directive("exercise-list", ExerciseList)
    app.connect("doctree-resolved", fill)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
