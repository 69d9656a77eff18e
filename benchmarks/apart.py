"""Measure in a second process, so that what it changes for itself leaves the first as it was."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.common import Variant

Build = Callable[..., Sequence[Variant]]


@contextmanager
def apart(build: Build, *arguments: Any) -> Iterator[list[Variant]]:
    """The variants that `build(*arguments)` makes in a process of its own, to be run from here.

    Raises:
        RuntimeError: that process ended; why, it has said on the terminal.
    """
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=_serve, args=(its, build, arguments), daemon=True)
    process.start()
    its.close()

    def ask(question: int | None = None) -> Any:
        try:
            if question is not None:
                mine.send(question)
            return mine.recv()
        except (EOFError, BrokenPipeError):
            raise RuntimeError("The process that measures apart has ended; see above.") from None

    try:
        described = ask()
        yield [
            Variant(name, lambda number=number: ask(number), note)
            for number, (name, note) in enumerate(described)
        ]
    finally:
        mine.close()
        process.join(timeout=30)


def _serve(connection: Connection, build: Build, arguments: Sequence[Any]) -> None:
    variants = build(*arguments)
    connection.send([(variant.name, variant.note) for variant in variants])
    while True:
        try:
            number = connection.recv()
        except EOFError:  # the other end was closed: all is measured
            return
        connection.send(variants[number].run())
