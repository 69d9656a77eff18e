"""Sphinx extension: `{benchmark} NAME` shows the measurements in benchmarks/recorded/NAME.json.

A table for each group of rows, and below them where and when they were measured. Measurements of
another device, NAME-cuda.json, follow those of the CPU where there are any.
"""

from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from sphinx_ext.recordings import date_in_words, table

DEVICES = ("", "-cuda")


class Benchmark(SphinxDirective):
    """`{benchmark} NAME`, without content."""

    required_arguments = 1

    def run(self):
        """The tables and the line under them."""
        # Here, because this extension is loaded for books that measure nothing, too.
        from benchmarks import records

        name = self.arguments[0]
        folder = Path(self.env.srcdir, "benchmarks", "recorded")
        self.env.note_dependency(str(folder))  # a new file in it changes its date
        made = []
        for device in DEVICES:
            path = folder / f"{name}{device}.json"
            if device and not path.exists():
                continue
            if path.exists():
                self.env.note_dependency(str(path))
            try:
                record = records.load(path)
            except ValueError as error:
                raise self.error(f"{{benchmark}} {name}: {error}") from None
            for title, rows in records.groups(record).items():
                caption = f"{title}: {record['unit']}" if title else record["unit"]
                caption = caption[0].upper() + caption[1:]
                head = [column.capitalize() for column in records.HEAD]
                one = table(head, [records.cells(row) for row in rows])
                one.insert(0, nodes.title("", caption))
                made.append(one)
            words = records.line(record, date_in_words(record["date"])) + "."
            made.append(nodes.paragraph(words, words, classes=["provenance"]))
        return made


def setup(app):
    """Add the directive."""
    app.add_directive("benchmark", Benchmark)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
