"""Recorded outputs as they are published: the same bytes whenever the same thing happened."""

from __future__ import annotations

import re
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_output

# Lines a kernel writes on its own account; they say nothing about the chapter.
BANNERS = re.compile(
    r"^(\[IPKernelApp\] .*|.*Kernel is running over TCP without encryption.*"
    r"|0\.00s - .*|.*frozen modules.*)\n?",
    re.MULTILINE,
)


def tidy(outputs: list[NotebookNode], root: Path) -> list[NotebookNode]:
    """Outputs without what changes from run to run or names this machine's folders.

    Neighbouring stream outputs become one of stdout and one of stderr (the kernel cuts them where
    its timer happens to fire), a progress bar becomes its last state, and paths lose the part
    above the repository or above site-packages.
    """
    tidied: list[NotebookNode] = []
    streams: dict[str, str] = {}

    def flush() -> None:
        for stream in ("stdout", "stderr"):
            text = collapse(streams.pop(stream, ""))
            if stream == "stderr":
                text = BANNERS.sub("", text)
            if text:
                tidied.append(new_output("stream", name=stream, text=_paths(text, root)))

    for output in outputs:
        if output.output_type == "stream":
            streams[output.name] = streams.get(output.name, "") + output.text
            continue
        flush()
        if output.output_type == "error":
            output.traceback = [_paths(line, root) for line in output.traceback]
            output.evalue = _paths(output.evalue, root)
        elif "text/plain" in output.get("data", {}):
            output.data["text/plain"] = _paths(output.data["text/plain"], root)
        output.pop("transient", None)
        tidied.append(output)
    flush()
    return tidied


def collapse(text: str) -> str:
    """What a terminal would show: of each line only what follows its last carriage return."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)


def _paths(text: str, root: Path) -> str:
    text = re.sub(r"/tmp/ipykernel_\d+/\d+\.py", "<cell>", text)
    text = re.sub(r"[^\s\"'\x1b(<]*/site-packages/", "site-packages/", text)
    for folder in dict.fromkeys((str(root), str(root.resolve()))):
        text = text.replace(f"{folder}/", "").replace(folder, ".")
    home = str(Path.home())
    return text.replace(f"{home}/", "~/") if len(home) > 1 else text
