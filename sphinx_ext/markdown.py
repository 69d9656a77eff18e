"""Pieces of CommonMark text, as JupyterLab, Colab, VS Code and GitHub all read it."""

from __future__ import annotations

import re


def join(blocks: list[str]) -> str:
    return "\n\n".join(b.strip("\n") for b in blocks if b.strip())


def indent(text: str, by: int) -> str:
    return re.sub(r"\n(?=[^\n])", "\n" + " " * by, text)


def quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def escape(text: str) -> str:
    """Text as CommonMark, with backslashes only where a sign would otherwise mean something."""
    text = " ".join(text.replace("\n", " ").split(" ")) if "\n" in text else text
    text = re.sub(r"\\(?=[!-/:-@\[-`{-~]|$)", r"\\\\", text)
    text = re.sub(r"([`$])", r"\\\1", text)
    text = re.sub(r"(?<!\s)\*|\*(?!\s)", r"\\*", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    text = re.sub(r"\](?=[(\[:])", r"\\]", text)
    text = re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text)
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text)
    return re.sub(r"~(?=.*~)|(?<=~)~", r"\\~", text)


def at_start(text: str) -> str:
    """A paragraph that would begin as a list, heading, quotation or rule does not."""
    text = text.strip()
    text = re.sub(r"^(\d{1,9})([.)])(?=\s|$)", r"\1\\\2", text)
    return re.sub(r"^([-+>]|#{1,6}(?=\s|$)|[-=]{3,}$|\*(?=\s))", r"\\\1", text)


def code_span(text: str) -> str:
    run = max((len(m) for m in re.findall(r"`+", text)), default=0)
    fence = "`" * (run + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def fenced(text: str, language: str) -> str:
    run = max((len(m) for m in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (run + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def address_text(address: str) -> str:
    balanced = address.count("(") == address.count(")")
    return address if balanced and " " not in address else f"<{address}>"


def display_math(text: str, number: str) -> str:
    r"""One $$ block. MathJax forbids align inside $$, KaTeX outside: aligned is right in both."""
    text = text.strip()
    found = re.fullmatch(r"\\begin\{(align|gather|equation|multline)(\*?)\}(.*)\\end\{\1\2\}",
                         text, re.S)  # fmt: skip
    if found:
        inner = found[3].strip()
        kind = {"align": "aligned", "gather": "gathered", "multline": "gathered"}.get(found[1])
        text = f"\\begin{{{kind}}}\n{inner}\n\\end{{{kind}}}" if kind else inner
    elif re.search(r"\\\\", text) and not text.startswith(r"\begin{"):
        text = f"\\begin{{aligned}}\n{text}\n\\end{{aligned}}"  # as Sphinx does in the page
    tag = f" \\tag{{{number}}}" if number else ""
    return f"$$\n{re.sub(chr(10) + '{2,}', chr(10), text)}{tag}\n$$"


def no_bars(math: str) -> str:
    """A pipe would end the table's cell."""
    return math.replace(r"\|", r"\Vert ").replace("|", r"\vert ")
