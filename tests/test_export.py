"""The notebooks written for Colab and JupyterLab, from a toy course with every construct."""

import re
import shutil

import books
import nbformat
import pytest
from docutils import nodes
from markdown_it import MarkdownIt

from sphinx_ext import commonmark, markdown
from utils import instep, notebooks

HERE = "https://convnet_course.github.io/convnets"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = books.make_toy(tmp_path_factory.mktemp("toy"))
    done = books.build(root, GITHUB_REPOSITORY="convnet_course/convnets")
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture(scope="module")
def notebook(toy):
    return nbformat.read(toy / "_build" / "colab" / "chapters" / "toy.ipynb", 4)


@pytest.fixture(scope="module")
def text(notebook):
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def without_code(text):
    text = re.sub(r"^(`{3,}).*?^\1", "", text, flags=re.M | re.S)
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)


def shown(markdown):
    """The words a reader sees, as any CommonMark program with tables shows them."""
    html = MarkdownIt("commonmark").enable("table").enable("strikethrough").render(markdown)
    html = re.sub(r"<[^>]+>", "", html)
    for sign, entity in (("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("&", "&amp;")):
        html = html.replace(entity, sign)
    return " ".join(html.split())


def test_it_is_a_notebook_with_the_recorded_code(toy, notebook):
    nbformat.validate(notebook)
    recorded = nbformat.read(toy / "chapters" / "toy.ipynb", 4)
    pairs = list(zip(notebooks.code_of(notebook), notebooks.code_of(recorded), strict=True))
    assert len(pairs) > 5
    for cell, old in pairs:
        assert cell.source == old.source
        assert cell.outputs == old.outputs
        assert cell.execution_count == old.execution_count
        assert cell.metadata.get("tags") == old.metadata.get("tags")
    assert notebook.metadata.course == recorded.metadata.course
    assert not notebooks.stale_reason(
        toy / "chapters" / "toy.md", toy / "_build" / "colab" / "chapters" / "toy.ipynb"
    )


def test_first_cell_names_the_repository(notebook):
    first = notebooks.code_of(notebook)[0].source
    assert '"https://github.com/convnet_course/convnets"' in first
    assert "{repository}" not in first


@pytest.mark.parametrize(
    "myst",
    [
        r"^:::",
        r"^`{3,}\{",
        r"\{[a-z:]+\}`",
        r"^%",
        r"^\(\S+\)=$",
        r"^:\w+:",
        r"\[\^\w+\]",
        r"^\+\+\+",
        r"@@",
        r"^---\n\w+:",
    ],
)
def test_no_myst_is_left(text, myst):
    found = re.search(myst, without_code(text), re.M)
    assert not found, text[max(0, found.start() - 80) : found.end() + 80]


def test_dollars_are_paired(text):
    bare = re.sub(r"\\\$", "", without_code(text))
    blocks = re.findall(r"^\$\$\n(.+?)\n\$\$$", bare, re.M | re.S)
    assert len(blocks) == 4
    rest = re.sub(r"^\$\$\n.+?\n\$\$$", "", bare, flags=re.M | re.S)
    assert "$$" not in rest
    for paragraph in rest.split("\n\n"):
        assert paragraph.count("$") % 2 == 0, paragraph


@pytest.mark.parametrize(
    "expected",
    [
        "# Toy nets: *why* $2 < 3$\n\nRecorded 2 January 2026 on A toy CPU, 2 cores",
        f"He *et al.* [[2016]({HERE}/references.html#he2016deep)]",
        f"[Toy, 1999]({HERE}/references.html#toy1999)",
        f"[this section]({HERE}/chapters/toy.html#toy-text)",
        f"[Fig. 1.1]({HERE}/chapters/toy.html#fig-block)",
        f"[Table 1.1]({HERE}/chapters/toy.html#tab-sizes)",
        f"[(1.1)]({HERE}/chapters/toy.html#equation-toy-sum)",
        f"[Exercise 1.1]({HERE}/chapters/toy.html#toy-ex1)",
        f"[A toy course]({HERE}/intro.html)",
        f"[a page]({HERE}/references.html)",
        "(https://example.org/a_b?x=1&y=(2))",
        "a note<sup>1</sup> and again<sup>1</sup> and another<sup>2</sup>",
        "<sup>1</sup> Because *toys* matter, $x^2$.",
        "$$\n\\mu = \\frac{1}{m} \\sum_i x_i \\tag{1.1}\n$$",
        "\\begin{aligned}\na &= b \\\\\nc &= d\n\\end{aligned} \\tag{1.2}",
        "$$\n\\begin{aligned}\ny &= x + f(x) \\\\\nz &= 2\n\\end{aligned}\n$$",
        "> **Note**\n>\n> A note with **bold** and a list:\n>\n> - one\n> - two",
        "> **Warning**\n>\n> A colon fence.",
        "> **A title with `code`**\n>\n> Body text.\n>\n> Second paragraph.",
        "<details>\n<summary>Details with $x$</summary>\n\nHidden text with *emphasis*."
        "\n\n</details>",
        "<details>\n<summary>A design dropdown</summary>\n\nInside it.\n\n</details>",
        "- second with\n\n  two paragraphs\n\n"
        "  1. inner one\n  2. inner two\n     - deepest\n\n- third",
        "3. three\n4. four",
        "- **Term**: Its definition, with `code`.",
        "| layer | out | MACs |\n| :--- | :---: | ---: |\n"
        "| conv `3\\|3` | $\\vert x\\vert $ | 1,234 |",
        "**Table 1.1.** Sizes of things\n\n| a | b |",
        "| first<br>second | • x<br>• y |",
        '````python\ndef f(x):\n    return "```" if x else None\n````',
        "```console\n$ make book",
        '![Two boxes joined by a line, with \\[brackets\\] and "quotes".]'
        "(https://github.com/convnet_course/convnets/raw/main/_static/figures/block.svg)",
        "![A small gradient.](data:image/png;base64,iVBOR",
        "**Fig. 1.1.** A block, from He *et al.*",
        "**Fig. 1.2.** A figure from *code*.",
        "**PyTorch**\n\n```python\nimport torch\n```\n\n**Words**\n\nSome words.",
        "**A card**\n\nWith text.",
        "> **Theorem 1.1: Toys**\n>\n> Every toy is small.",
        "> A remark in the margin.",
        "> Words of wisdom.",
        "### Exercise 1.1: Sum of $x$\n\n*Recall, 2 minutes.* What is $1 + 1$?",
        "<summary>Solution to Exercise 1.1 (Sum of $x$)</summary>\n\nIt is **two**.\n\n</details>",
        "### Exercise 1.2\n\n*Code, 10 minutes.* Write `triple`.",
        "#### Solution to Exercise 1.2\n\nMultiply by three.",
        "### Exercise 1.3: Open",
    ],
)
def test_construct(text, expected):
    assert expected in text


@pytest.mark.parametrize(
    "words",
    [
        "Plain text with stars 2*3*4, a * b, snake_case and _under_ and __init__.py, 5 < 6 > 4 & "
        "7, an &amp; entity, <tag>, code with | bar, a ` tick, costs $5 and $6, [brackets] (and "
        "more), [not a link](really), tilde ~5 and ~6, hash # no heading, x_y, C:\\dir, and a "
        "hard break.",
        "inside a word, and **bold.**then.",
        "1. is no list, and neither is this:",
        "- a dash at the start",
        "# a hash at the start",
        "+ a plus at the start",
        "Wow!A link and",
    ],
)
def test_words_come_through(text, words):
    assert words in shown(text)


@pytest.mark.parametrize(
    "words",
    [
        "a*b*c", "**x**", "_x_", "x_", "_", "*", "a ** b", "`x`", "$x$", "[a](b)", "[a]: b",
        "[a][b]", "<b>", "<!--", "a<b", "1 < 2", "&lt;", "&#60;", "AT&T", "\\*", "\\", "a\\",
        "C:\\x", "~~x~~", "~x~", "~5", "- x", "-x", "+ x", "> x", "# x", "#x", "1. x", "1) x",
        "12 x", "---", "===", "* x", "![a](b)", "a!", "x|y", "https://a.b/c_d_e", "f(x)[0](y)",
        "10^-3", "{x}",
    ],
)  # fmt: skip
def test_escaping_is_undone_by_reading(words):
    assert shown(markdown.at_start(markdown.escape(words))) == words


@pytest.mark.parametrize(
    "words",
    ["snake_case", "a * b", "1 < 2", "C:\\x", "~5 %", "a [b] c", "AT&T", "x # y", "50 %", "(a)"],
)
def test_what_needs_no_escape_has_none(words):
    assert markdown.at_start(markdown.escape(words)) == words


@pytest.mark.parametrize("code", ["x", "a`b", "``", "`a", "a | b", "$x$", "a``b`c"])
def test_code_spans_hold_any_code(code):
    assert shown(markdown.code_span(code)) == code


def test_emphasis_beside_a_word_is_still_emphasis():
    paragraph = nodes.paragraph()
    paragraph += [
        nodes.strong("", "bold."),
        nodes.Text("then "),
        nodes.emphasis("", "so"),
        nodes.Text("me"),
    ]
    writer = commonmark.Writer(str, str, lambda kind, ids: "")
    html = MarkdownIt("commonmark").render(writer.inline(paragraph))
    assert html == "<p><strong>bold.</strong>then <em>so</em>me</p>\n"


def test_pictures_keep_their_alt_text(text):
    alts = re.findall(r"(?<!\\)!\[((?:\\.|[^\]\\])*)\]\(", without_code(text))
    assert alts[0].startswith("Two boxes joined by a line")
    assert alts[1:] == ["A small gradient.", "The same gradient again."]


def test_headings_begin_cells(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            rest = without_code(cell.source).split("\n", 1)
            assert len(rest) == 1 or not re.search(r"^#{1,6} ", rest[1], re.M), cell.source


def test_solution_with_code_is_folded(notebook):
    """In JupyterLab by the cell's own mark, on Colab by the notebook's list of folded cells."""
    place = next(
        i
        for i, c in enumerate(notebook.cells)
        if c.source.startswith("#### Solution to Exercise 1.2")
    )
    cell = notebook.cells[place]
    assert cell.metadata["jp-MarkdownHeadingCollapsed"] is True
    assert notebook.metadata.colab.collapsed_sections == [cell.metadata.id]
    hidden = []
    for other in notebook.cells[place + 1 :]:
        if re.match(r"#{1,4} ", other.source) and other.cell_type == "markdown":
            break
        hidden.append(other.source)
    assert hidden == ["def triple_solution(x):\n    return 3 * x", "That is all."]


def test_hidden_input_is_hidden(notebook):
    marked = [c for c in notebooks.code_of(notebook) if "hide-input" in c.metadata.get("tags", [])]
    assert len(marked) == 1
    assert marked[0].metadata.jupyter.source_hidden is True
    assert marked[0].metadata.cellView == "form"


def test_every_build_gives_the_same_bytes(toy, tmp_path):
    again = books.make_toy(tmp_path)
    assert books.build(again, GITHUB_REPOSITORY="convnet_course/convnets").returncode == 0
    name = "_build/colab/chapters/toy.ipynb"
    assert (again / name).read_bytes() == (toy / name).read_bytes()


def test_sync_and_then_a_text_edit(toy, tmp_path):
    root = tmp_path / "book"
    shutil.copytree(toy, root)
    assert not instep.sync(root)
    committed = root / "chapters" / "toy.ipynb"
    built = root / "_build" / "colab" / "chapters" / "toy.ipynb"
    assert committed.read_bytes() == built.read_bytes()
    md = root / "chapters" / "toy.md"
    md.write_text(md.read_text().replace("A colon fence.", "An *edited* colon fence."))
    done = books.build(root, GITHUB_REPOSITORY="convnet_course/convnets")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Executing notebook" not in done.stdout
    assert "An *edited* colon fence." in built.read_text()
    assert (
        built.read_text()
        .replace("An *edited* colon", "A colon")
        .replace(
            nbformat.read(built, 4).metadata.course.text_hash,
            nbformat.read(committed, 4).metadata.course.text_hash,
        )
        == committed.read_text()
    )


def test_a_fork_links_itself(tmp_path):
    root = books.make_toy(tmp_path)
    done = books.build(root, GITHUB_REPOSITORY="Someone/nets")
    assert done.returncode == 0, done.stdout + done.stderr
    exported = (root / "_build" / "colab" / "chapters" / "toy.ipynb").read_text()
    page = (root / "_build" / "html" / "chapters" / "toy.html").read_text()
    assert "convnet_course" not in exported + page
    assert "https://github.com/Someone/nets" in exported
    assert "https://someone.github.io/nets/references.html#toy1999" in exported
    assert "colab.research.google.com/github/Someone/nets/blob/main/chapters/toy.ipynb" in page
    assert "mybinder.org/v2/gh/Someone/nets/main?urlpath=lab/tree/chapters/toy.ipynb" in page
    assert '<link rel="canonical" href="https://someone.github.io/nets/chapters/toy.html"' in page


def test_what_the_exporter_does_not_know_fails_the_build(tmp_path):
    root = books.make_toy(tmp_path)
    md = root / "chapters" / "toy.md"
    md.write_text(
        md.read_text() + "\n```{raw} html\n<iframe src='https://example.org'></iframe>\n```\n"
    )
    done = books.build(root)
    assert done.returncode != 0
    assert "no rule for raw html <iframe" in done.stderr
