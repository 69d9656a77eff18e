"""Run chapters once and keep what they show: `chapters/NAME.md` → `chapters/NAME.ipynb`.

    python -m utils.record                       # every chapter whose recording is not current
    python -m utils.record --chapter resnet      # one chapter
    python -m utils.record --chapter resnet --profile full --device cuda --force

Chapter by chapter, each written whole at its end, so an interrupted run loses one chapter's work
and no file. The book is built from these recordings and runs nothing itself.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from utils import notebooks
from utils.notebooks import ROOT, ChapterError, duration
from utils.outputs import tidy

PROFILES = ("smoke", "cpu", "full")
CLEAR = "\r\x1b[K"  # a terminal's "back to the start of the line and wipe it"

# Asked in the chapter's kernel after its last cell; not part of the notebook.
PROBE = """
import json as _json, platform as _platform, sys as _sys
_here = {"device": _platform.processor() or _platform.machine(), "torch": None,
         "python": _platform.python_version()}
if "torch" in _sys.modules:
    import utils.runtime as _runtime
    _here = _runtime.machine()
_data = getattr(_sys.modules.get("utils.data"), "LAST_PROVENANCE", None)
_seeds = getattr(_sys.modules.get("utils.train"), "SEEDS_USED", [])
print(_json.dumps({**_here, "data": _data, "seeds": list(_seeds)}, default=str))
"""


class RecordError(Exception):
    """A chapter that could not be recorded; the message says where, why and what to do."""


def record(
    name: str,
    *,
    root: Path = ROOT,
    output: Path | None = None,
    profile: str = "full",
    device: str | None = None,
    timeout: int = 3600,
    allow_stand_in: bool = False,
    progress: Callable[[int, int, float], None] = lambda cell, cells, seconds: None,
) -> NotebookNode:
    """Run one chapter in a fresh kernel and write its notebook; returns it.

    Args:
        name: the chapter, as in _toc.yml.
        root: the repository.
        output: a folder to write to instead of chapters/.
        profile: smoke, cpu or full: COURSE_PROFILE of the run.
        device: COURSE_DEVICE of the run; None leaves the choice to the machine.
        timeout: seconds a cell may take.
        allow_stand_in: accept outputs computed from synthetic data.
        progress: called before each code cell with its number, their count and the seconds
            the cell before it took.

    Raises:
        RecordError: a cell failed, showed a widget or ran too long, or the data were synthetic.
            The old recording is untouched.
        ChapterError: the chapter cannot be read.
    """
    md = notebooks.chapter_path(name, root)
    chapter = notebooks.read_chapter(md)
    notebook = notebooks.to_notebook(chapter, notebooks.repository(root).url)
    hashes = {
        "code_hash": notebooks.code_hash(chapter.code),
        "utils_hash": notebooks.utils_hash(root),
    }
    started = time.monotonic()
    facts = _execute(notebook, chapter, root, profile, device, timeout, progress)
    seconds = time.monotonic() - started

    data = facts["data"]
    if data is not None:
        data = {k: data[k] for k in ("source", "sha256", "md5", "synthetic") if k in data}
        if data.get("synthetic") and not allow_stand_in:
            raise RecordError(
                f"chapters/{name}.md ran on the synthetic stand-in, not on CIFAR-10, and its "
                "numbers mean nothing; nothing was written. Give it the data (CIFAR10_ROOT=…, or "
                f"a network to download from) and run: make record CHAPTER={name}"
            )
    for number, (cell, ran) in enumerate(
        zip(chapter.code, notebooks.code_of(notebook), strict=True), start=1
    ):
        ran.outputs = tidy(ran.outputs, root)
        if any("widget-view" in kind for out in ran.outputs for kind in out.get("data", {})):
            raise RecordError(
                f"chapters/{name}.md:{cell.line}: cell {number} shows a widget, which only works "
                "in a live notebook; nothing was written. Use text instead: "
                "`from tqdm import tqdm`, not tqdm.auto"
            )
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = dict(notebooks.LANGUAGE_INFO)
    notebook.metadata["course"] = {
        "recorded": datetime.date.today().isoformat(),
        "device": facts["device"],
        "torch": facts["torch"],
        "python": facts["python"],
        "profile": profile,
        "seeds": list(dict.fromkeys(facts["seeds"])),
        "seconds": round(seconds),
        "data": data,
        **hashes,
    }
    notebooks.write_notebook(notebook, (output or md.parent) / f"{name}.ipynb")
    return notebook


def _execute(
    notebook: NotebookNode,
    chapter: notebooks.Chapter,
    root: Path,
    profile: str,
    device: str | None,
    timeout: int,
    progress: Callable[[int, int, float], None],
) -> dict[str, Any]:
    """Run the notebook's code cells in place; returns what the probe found in the kernel."""
    environment = {
        **os.environ,
        "COURSE_PROFILE": profile,
        "TQDM_DISABLE": "1",
        "PYTHONHASHSEED": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what deterministic matrix products need on CUDA
    }
    if device:
        environment["COURSE_DEVICE"] = device
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        shutdown_kernel="immediate",
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(root / "chapters")}},
    )
    lines = [cell.line for cell in chapter.code]
    number, before = 0, time.monotonic()
    with client.setup_kernel(env=environment):
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            number, now = number + 1, time.monotonic()
            progress(number, len(lines), now - before)
            before = now
            try:
                client.execute_cell(cell, index)
            except CellExecutionError as error:
                failure = "\n".join(
                    out.get("traceback", "")
                    if isinstance(out.get("traceback"), str)
                    else "\n".join(out.get("traceback", []))
                    for out in cell.outputs
                    if out.output_type == "error"
                )
                reason = f"{error.ename}: {error.evalue}".strip().splitlines()[0]
                raise _failed(chapter, number, lines, reason, failure) from None
            except CellTimeoutError:
                reason = f"did not finish in {timeout} s; allow more with --timeout"
                raise _failed(chapter, number, lines, reason) from None
            except DeadKernelError:
                reason = "the kernel died, most likely for want of memory"
                raise _failed(chapter, number, lines, reason) from None
        notebook.cells.append(new_code_cell(PROBE))
        try:
            client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1, store_history=False)
            text = "".join(out.get("text", "") for out in notebook.cells[-1].outputs)
            return json.loads(text.strip().splitlines()[-1])
        except (CellExecutionError, DeadKernelError, ValueError, IndexError) as error:
            raise RecordError(
                f"chapters/{chapter.path.name}: all cells ran, but the kernel could not say on "
                f"what machine and data ({error}); nothing was written"
            ) from None
        finally:
            notebook.cells.pop()


def _failed(
    chapter: notebooks.Chapter, number: int, lines: list[int], reason: str, traceback: str = ""
) -> RecordError:
    where = f"chapters/{chapter.path.name}:{lines[number - 1]}"
    head = f"{traceback.rstrip()}\n" if traceback else ""
    return RecordError(
        f"{head}{where}: cell {number} of {len(lines)} failed: {reason}\n"
        f"The old recording, if there was one, is untouched. Mend the cell and run: "
        f"make record CHAPTER={chapter.path.stem}"
    )


# ---- command line ------------------------------------------------------------------------------


def current(name: str, profile: str, root: Path = ROOT) -> bool:
    """Whether there is a recording of this very code, on real data, on this profile or above."""
    md = notebooks.chapter_path(name, root)
    try:
        if notebooks.stale_reason(md):
            return False
        past = notebooks.provenance(notebooks.read_notebook(md.with_suffix(".ipynb")))
    except ChapterError:
        return False
    real = not (past.get("data") or {}).get("synthetic", False)
    known = past.get("profile") in PROFILES
    return real and known and PROFILES.index(past["profile"]) >= PROFILES.index(profile)


class Line:
    """One line on the terminal that tells how far a chapter is; in a log, only slow cells."""

    def __init__(self, name: str) -> None:
        self.name, self.started, self.cell, self.cells = name, time.monotonic(), 0, 0
        self.live = sys.stdout.isatty()

    def __call__(self, cell: int, cells: int, seconds: float) -> None:
        """Say that `cell` begins, and what the one before it took."""
        if not self.live and seconds > 10:
            print(f"{self.name}: cell {cell - 1}/{cells} took {duration(seconds)}", flush=True)
        self.cell, self.cells = cell, cells
        if self.live:
            elapsed = duration(time.monotonic() - self.started)
            print(f"{CLEAR}{self.name}: cell {cell}/{cells}, {elapsed}", end="", flush=True)

    def end(self, text: str) -> None:
        """The last word about this chapter."""
        print(f"{CLEAR if self.live else ''}{self.name}: {text}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m utils.record",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--chapter", nargs="+", default=[], metavar="NAME", help="default: all of _toc.yml")
    add("--profile", choices=PROFILES, default="full")
    add("--device", metavar="cpu|cuda|mps", help="default: the best there is")
    add("--force", action="store_true", help="record again what is current")
    add("--timeout", type=int, default=3600, help="seconds a cell may take (3600)")
    add("--output", type=Path, metavar="DIR", help="write there instead of chapters/")
    add("--allow-stand-in", action="store_true", help="for trials; only with --output")
    add("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Record what is asked for; 0 when all is recorded, 1 on a failure, 130 when interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    if options.allow_stand_in and not options.output:
        parser.error("--allow-stand-in needs --output DIR: stand-in numbers are not published")
    try:
        known = notebooks.chapters(root)
        notebooks.repository(root)
    except (ChapterError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    names = list(dict.fromkeys(Path(name).stem for name in options.chapter)) or known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no chapter {', '.join(unknown)} in _toc.yml; there are {', '.join(known)}")

    lock = FileLock(root / "_build" / "record.lock")
    lock_folder = root / "_build"
    lock_folder.mkdir(exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(
            "Another recording is running in this checkout. Wait for it, or stop it with Ctrl-C.",
            file=sys.stderr,
        )
        return 1
    # A polite kill ends like Ctrl-C: kernel shut down, one sentence.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _record_all(names, options, root)
    finally:
        lock.release()


def _record_all(names: list[str], options: argparse.Namespace, root: Path) -> int:
    done, failed = [], []
    for name in names:
        if not options.output and not options.force and current(name, options.profile, root):
            print(f"{name}: recording is current (--force records it again)", flush=True)
            continue
        line = Line(name)
        if not line.live:
            print(f"{name}: recording on profile {options.profile}", flush=True)
        try:
            record(
                name,
                root=root,
                output=options.output,
                profile=options.profile,
                device=options.device,
                timeout=options.timeout,
                allow_stand_in=options.allow_stand_in,
                progress=line,
            )
        except (RecordError, ChapterError, OSError) as error:
            line.end("failed")
            text = str(error) if sys.stderr.isatty() else re.sub(r"\x1b\[[0-9;]*m", "", str(error))
            print(text, file=sys.stderr, flush=True)
            failed.append(name)
        except KeyboardInterrupt:
            line.end(f"interrupted in cell {line.cell}/{line.cells}, nothing of it written")
            kept = f"Recorded before: {', '.join(done)}. " if done else ""
            print(f"{kept}The same command goes on from here.", file=sys.stderr, flush=True)
            return 130
        else:
            elapsed = duration(time.monotonic() - line.started)
            line.end(f"recorded, {line.cells} cells, {elapsed}")
            done.append(name)
    if failed:
        print(f"Not recorded: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
