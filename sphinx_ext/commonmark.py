"""Write a resolved Sphinx page as CommonMark, for notebooks.

What JupyterLab, Colab, VS Code and GitHub all show: CommonMark, pipe tables, `$math$`, images, and
a few HTML tags (<details>, <sup>, <sub>, <br>). Everything else becomes one of these:
a note a quotation, a folded note <details>, a citation or reference a link to the course's site.

`Writer(…).page(doctree)` returns a list of `Text` cells and of `Code` cells, which only say which
cell of the page they are. Text is cut at headings and around code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from docutils import nodes
from sphinx import addnodes

from sphinx_ext.markdown import (
    address_text,
    at_start,
    code_span,
    display_math,
    escape,
    fenced,
    indent,
    join,
    no_bars,
    quoted,
)

ADMONITIONS = {"seealso": "See also"}  # the others are called what their node is called
INLINE_TAGS = {"subscript": "sub", "superscript": "sup"}
SILENT = (
    nodes.comment,
    nodes.substitution_definition,
    nodes.system_message,
    nodes.target,
    nodes.meta,
    nodes.colspec,
    addnodes.index,
    addnodes.toctree,
    addnodes.tabular_col_spec,
)
SILENT_NAMES = {"sd_tab_input", "HiddenCellNode", "docinfo"}
HTML_KEPT = re.compile(r"</?(?:br|sub|sup|kbd|b|i|em|strong|s|u|small|wbr|hr)\s*/?>\s*", re.I)


@dataclass
class Code:
    """A code cell: its index among all cells of the page."""

    index: int


@dataclass
class Text:
    """A text cell. `folded`: a heading whose section notebooks show closed at first."""

    source: str
    folded: bool = False


@dataclass
class Writer:
    """Turns one page into cells.

    `link` makes a reference's address absolute; `picture` gives an image node's address;
    `number` the numbers ("2.1") of a figure, table, exercise … by its kind and its ids;
    `unknown` collects the names of nodes that have no rule here.
    """

    link: Callable[[str], str]
    picture: Callable[[nodes.image], str]
    number: Callable[[str, list[str]], str]
    unknown: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.cells: list[Text | Code] = []
        self.blocks: list[str] = []
        self.level = 0
        self.fold_next = False

    def page(self, doctree: nodes.document) -> list[Text | Code]:
        for child in doctree.children:
            self.block(child)
        self.flush()
        return self.cells

    # ---- cells

    def flush(self) -> None:
        if source := join(self.blocks):
            self.cells.append(Text(source, self.fold_next))
        self.blocks, self.fold_next = [], False

    def add(self, text: str) -> None:
        self.blocks.append(text)

    def heading(self, text: str, level: int, folded: bool = False) -> None:
        """A heading begins a cell of its own, so that notebooks can fold the section."""
        self.flush()
        self.fold_next = folded
        self.add("#" * min(level, 6) + " " + text)

    def code(self, node: nodes.Element) -> None:
        self.flush()
        self.cells.append(Code(node["cell_index"]))
        for figure in node.findall(nodes.figure):
            self.caption(figure)

    def inside(self, children: list[nodes.Node]) -> str:
        """Blocks as one text, to be quoted, indented or put into a table."""
        outer, self.blocks = self.blocks, []
        for child in children:
            self.block(child)
        inner, self.blocks = join(self.blocks), outer
        return inner

    # ---- blocks

    def block(self, node: nodes.Node) -> None:
        name = type(node).__name__
        if isinstance(node, SILENT) or name in SILENT_NAMES:
            return
        if is_code(node):
            self.code(node)
        elif name.startswith(("exercise", "solution")) and name.endswith("_node"):
            self.exercise(node, name.startswith("solution"))
        elif method := getattr(self, f"block_{name}", None):
            method(node)
        elif isinstance(node, nodes.Element) and node.get("realtype"):  # sphinx-proof
            self.titled(self.proof_title(node), node)
        elif isinstance(node, nodes.Admonition):
            self.block_admonition(node)
        elif isinstance(node, nodes.Text | nodes.Inline | nodes.TextElement):
            if not isinstance(node, nodes.Text | nodes.Inline):
                self.unknown.add(name)
            self.add(at_start(self.inline(node)))
        else:
            self.unknown.add(name)
            self.children(node)

    def children(self, node: nodes.Element) -> None:
        for child in node.children:
            self.block(child)

    block_document = block_compound = block_only = block_legend = block_footer = children
    block_glossary = children

    def block_section(self, node: nodes.Element) -> None:
        self.level += 1
        self.children(node)
        self.level -= 1

    def block_title(self, node: nodes.Element) -> None:
        self.heading(self.inline(node), self.level)

    def block_rubric(self, node: nodes.Element) -> None:
        self.add(f"**{self.inline(node)}**")

    block_subtitle = block_rubric

    def block_paragraph(self, node: nodes.Element) -> None:
        self.add(at_start(self.inline(node)))

    block_attribution = block_caption = block_paragraph

    def block_PassthroughTextElement(self, node: nodes.Element) -> None:
        """Of sphinx-design: a link around a whole card, or text."""
        if any(isinstance(c, nodes.Body | nodes.Structural) for c in node.children):
            self.children(node)
        elif text := self.inline(node).strip():
            self.add(at_start(text))

    def block_container(self, node: nodes.Element) -> None:
        part = node.get("design_component", "")
        if part == "card-title" or "sd-card-title" in node.get("classes", []):
            text = self.inside(node.children) if node.children else ""
            self.add(f"**{text}**" if text else "")
        else:
            self.children(node)

    def block_sd_tab_label(self, node: nodes.Element) -> None:
        self.add(f"**{self.inline(node)}**")

    def block_dropdown_main(self, node: nodes.Element) -> None:
        title = [c for c in node.children if type(c).__name__ == "dropdown_title"]
        body = [c for c in node.children if type(c).__name__ != "dropdown_title"]
        self.fold(html(title[0]) if title else "Details", body)

    def block_math_block(self, node: nodes.Element) -> None:
        self.add(display_math(node.astext(), self.equation_number(node)))

    def block_literal_block(self, node: nodes.Element) -> None:
        language = node.get("language", "")
        self.add(fenced(node.astext(), "" if language in ("none", "default") else language))

    block_doctest_block = block_literal_block

    def block_bullet_list(self, node: nodes.Element) -> None:
        self.items(node, lambda i: "- ")

    def block_enumerated_list(self, node: nodes.Element) -> None:
        start = node.get("start", 1)
        self.items(node, lambda i: f"{start + i}. ")

    def items(self, node: nodes.Element, mark: Callable[[int], str]) -> None:
        loose = any(
            sum(not isinstance(c, nodes.bullet_list | nodes.enumerated_list) for c in item) > 1
            for item in node.children
        )
        texts = []
        for i, item in enumerate(node.children):
            text = self.inside(item.children)
            if not loose:
                text = re.sub(r"\n\n(?=(?:- |\d+\. ))", "\n", text)
            texts.append(mark(i) + indent(text, len(mark(i))))
        if self.blocks and self.blocks[-1].startswith(mark(0)):
            self.add("<!-- -->")  # else the two lists would be read as one
        self.add(("\n\n" if loose else "\n").join(texts))

    def block_definition_list(self, node: nodes.Element) -> None:
        texts = []
        for item in node.children:
            terms = [c for c in item.children if isinstance(c, nodes.term)]
            head = ", ".join(f"**{self.inline(term).strip()}**" for term in terms)
            body = [d for c in item.children if isinstance(c, nodes.definition) for d in c.children]
            texts.append(f"- {head}: " + indent(self.inside(body), 2))
        self.add("\n".join(texts))

    def block_block_quote(self, node: nodes.Element) -> None:
        self.add(quoted(self.inside(node.children)))

    def block_transition(self, node: nodes.Element) -> None:
        self.add("---")

    def block_image(self, node: nodes.Element) -> None:
        self.add(self.inline_image(node))

    def block_figure(self, node: nodes.Element) -> None:
        for child in node.children:
            if isinstance(child, nodes.caption):
                self.caption(node)
            else:
                self.block(child)

    def caption(self, figure: nodes.Element) -> None:
        text = next((self.inline(c) for c in figure.findall(nodes.caption)), "")
        number = self.number("figure", figure["ids"])
        if text:
            self.add(f"**Fig. {number}.** {text}" if number else f"*{text}*")

    def block_table(self, node: nodes.Element) -> None:
        if title := next(iter(node.findall(nodes.title)), None):
            number = self.number("table", node["ids"])
            self.add((f"**Table {number}.** " if number else "") + self.inline(title))
        head = [row for part in node.findall(nodes.thead) for row in part.children]
        body = [row for part in node.findall(nodes.tbody) for row in part.children]
        rows = [self.row(r) for r in (head[:1] or [nodes.row()]) + head[1:] + body]
        width = max(len(row) for row in rows)
        ruler = [alignment(e) for e in (head or body)[0].children]
        rows = [row + [""] * (width - len(row)) for row in rows]
        rows.insert(1, (ruler + ["---"] * width)[:width])
        self.add("\n".join("| " + " | ".join(row) + " |" for row in rows))

    def row(self, node: nodes.Element) -> list[str]:
        cells = []
        for entry in node.children:
            text = self.inside(entry.children)
            text = re.sub(r"\$([^$]*)\$", lambda m: f"${no_bars(m[1])}$", text)
            text = re.sub(r"(?<!\\)\|", r"\\|", text)
            text = re.sub(r"^- ", "• ", text, flags=re.M)
            cells += [re.sub(r"\n+", "<br>", text)] + [""] * entry.get("morecols", 0)
        return cells

    def block_footnote(self, node: nodes.Element) -> None:
        label = node[0].astext() if isinstance(node[0], nodes.label) else ""
        body = node.children[1:] if label else node.children
        self.add(f"<sup>{label}</sup> " + self.inside(body))

    def block_raw(self, node: nodes.Element) -> None:
        if text := self.inline_raw(node).strip():
            self.add(text)

    # ---- notes, exercises, proofs

    def block_admonition(self, node: nodes.Element) -> None:
        kind = node.tagname
        if is_title(node.children[0]):
            self.titled(node.children[0], node)
        else:
            self.titled(nodes.title("", ADMONITIONS.get(kind, kind.title())), node)

    def block_topic(self, node: nodes.Element) -> None:
        if "contents" not in node.get("classes", []):
            self.block_admonition(node)

    block_sidebar = block_topic

    def block_live(self, node: nodes.Element) -> None:
        """Where to find the picture that moves, the still one if there is one, and the caption."""
        place = address_text(self.link(f"#live-{node['name']}"))
        self.add(f"*To try out [on the page of this chapter]({place}):*")
        self.children(node)

    def titled(self, title: nodes.Node, node: nodes.Element) -> None:
        body = [c for c in node.children if not is_title(c)]
        head = f"**{self.inline(title)}**" if title.astext().strip() else ""
        if any(is_code(c) for c in node.findall()):  # cells cannot stand in a quotation
            self.add(head)
            for child in body:
                self.block(child)
        elif "dropdown" in node.get("classes", []):
            self.fold(html(title), body)
        else:
            self.add(quoted(join([head, self.inside(body)])))

    def fold(self, title: str, body: list[nodes.Node]) -> None:
        """A <details>. The blank lines let the Markdown inside be read as Markdown."""
        self.add(f"<details>\n<summary>{title}</summary>")
        self.add(self.inside(body))
        self.add("</details>")

    def exercise(self, node: nodes.Element, solution: bool) -> None:
        """Exercises have headings, so that a solution with code can be a section to unfold."""
        title, body = node.children[0], node.children[1:]
        text = self.inline(title).strip()
        if not solution:
            text = self.numbered("exercise", node, text.replace("%s", " "))
            self.heading(text, self.level + 1)
            for child in body:
                self.block(child)
            return
        if not any(is_code(c) for c in node.findall()):
            self.fold(html(title), body)
            return
        folded = "dropdown" in node.get("classes", []) and ends_section(node)
        self.heading(self.inlines(without_links(title)).strip(), self.level + 2, folded)
        for child in body:
            self.block(child)

    def proof_title(self, node: nodes.Element) -> nodes.Node:
        kind = node["realtype"]
        text = node[0].astext() if node.children and is_title(node[0]) else ""
        title = nodes.title()
        title += nodes.Text(self.numbered(kind, node, text))
        return title

    def numbered(self, kind: str, node: nodes.Element, text: str) -> str:
        """Such as `Exercise 2.1: On toys`, whatever of it the title already says."""
        name = kind.title()
        rest = re.sub(rf"^\s*(?:{name}|{kind})\b", "", text).strip()
        rest = re.sub(r"^\((.*)\)$", r"\1", rest)
        head = " ".join(filter(None, [name, self.number(kind, node["ids"])]))
        return f"{head}: {rest}" if rest else head

    def equation_number(self, node: nodes.Element) -> str:
        if not node.get("number"):
            return ""
        return self.number("displaymath", node["ids"]) or str(node["number"])

    # ---- inline

    def inline(self, node: nodes.Node) -> str:
        name = type(node).__name__
        if isinstance(node, nodes.Text):
            return escape(node.astext())
        if isinstance(node, SILENT):
            return ""
        if method := getattr(self, f"inline_{name}", None):
            return method(node)
        if tag := INLINE_TAGS.get(name):
            return f"<{tag}>{self.inlines(node)}</{tag}>"
        return self.inlines(node)

    def inlines(self, node: nodes.Node) -> str:
        text = ""
        for child in node.children:
            more = self.inline(child)
            if text.endswith("!") and more.startswith("["):
                text = text[:-1] + "\\!"  # a link after an exclamation mark is no image
            text += more
        return text

    def inline_math(self, node: nodes.Node) -> str:
        return f"${' '.join(node.astext().split())}$"

    def inline_literal(self, node: nodes.Node) -> str:
        return code_span(node.astext())

    def inline_emphasis(self, node: nodes.Node) -> str:
        return self.marked(node, "*", "em")

    inline_title_reference = inline_emphasis

    def inline_strong(self, node: nodes.Node) -> str:
        return self.marked(node, "**", "strong")

    def marked(self, node: nodes.Node, mark: str, tag: str) -> str:
        """`*so*`, or <em>so</em> where the neighbours keep the mark from being one."""
        text = self.inlines(node)
        inner = text.strip()
        if not inner:
            return text
        parent = node.parent.children if node.parent else []
        at = next((i for i, c in enumerate(parent) if c is node), 0)
        before = parent[at - 1].astext()[-1:] if at else ""
        after = parent[at + 1].astext()[:1] if at + 1 < len(parent) else ""
        touching = (before.isalnum() and not inner[0].isalnum()) or (
            after.isalnum() and not inner[-1].isalnum()
        )
        if touching or before == "*" or after == "*":
            return f"<{tag}>{inner}</{tag}>"
        lead, tail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
        return f"{lead}{mark}{inner}{mark}{tail}"

    def inline_reference(self, node: nodes.Element) -> str:
        text = self.inlines(node)
        address = node.get("refuri") or (f"#{node['refid']}" if node.get("refid") else "")
        if not address or not text.strip():
            return text
        label = re.sub(r"(?<![\\!])([\[\]])", r"\\\1", text.strip()) if "](" not in text else text
        lead = " " if text[:1] == " " else ""
        return f"{lead}[{label}]({address_text(self.link(address))})"

    inline_number_reference = inline_reference

    def inline_download_reference(self, node: nodes.Element) -> str:
        return self.inlines(node)

    def inline_footnote_reference(self, node: nodes.Element) -> str:
        return f"<sup>{node.astext()}</sup>"

    def inline_image(self, node: nodes.Element) -> str:
        alt = re.sub(r"([\[\]])", r"\\\1", " ".join(node.get("alt", "").split()))
        return f"![{alt}]({self.picture(node)})"

    def inline_raw(self, node: nodes.Element) -> str:
        """HTML in a chapter: tags that notebooks show are kept; icons (inline SVG) are left out."""
        if "html" not in node.get("format", "").split():
            return ""
        text = node.astext()
        if HTML_KEPT.fullmatch(text) or text.lstrip().startswith("<!--"):
            return text if "<!--" not in text else ""
        if not re.match(r"\s*<(svg|i|span)\b", text):
            self.unknown.add("raw html " + " ".join(text.split())[:40])
        return ""


# ---- nodes --------------------------------------------------------------------------------


def html(node: nodes.Node) -> str:
    """A title for <summary>, where Markdown is not read and a link would take the click."""
    if isinstance(node, nodes.math):
        return f"${' '.join(node.astext().split())}$"
    if isinstance(node, nodes.raw):  # an icon
        return ""
    if isinstance(node, nodes.Text):
        return node.astext().replace("&", "&amp;").replace("<", "&lt;")
    tags = {nodes.literal: "code", nodes.emphasis: "em", nodes.strong: "strong"}
    text = "".join(map(html, node.children))
    tag = tags.get(type(node))
    return f"<{tag}>{text}</{tag}>" if tag else text


def without_links(node: nodes.Element) -> nodes.Element:
    node = node.deepcopy()
    for link in list(node.findall(nodes.reference)):
        link.replace_self(link.children)
    return node


def alignment(entry: nodes.Element) -> str:
    for side, ruler in (("right", "---:"), ("center", ":---:"), ("left", ":---")):
        if any(f"text-{side}" == c for c in entry.get("classes", [])):
            return ruler
    return "---"


def is_title(node: nodes.Node) -> bool:
    return isinstance(node, nodes.title)


def is_code(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def ends_section(node: nodes.Node) -> bool:
    """Would folding everything to the next heading hide this node only?"""
    parent = node.parent
    following = parent.children[parent.index(node) + 1 :] if parent else []
    for other in following:
        if isinstance(other, SILENT):
            continue
        name = type(other).__name__
        return isinstance(other, nodes.section) or name.startswith("exercise")
    return True
