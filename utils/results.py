"""Recorded training runs: `results/CHAPTER.json`, a list of records of one schema.

Chapters draw from them, `python -m utils.train` appends to them, and the tests read the same
files. A record without provenance is refused.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import jsonschema

FOLDER = Path(__file__).resolve().parent.parent / "results"
SCHEMA_VERSION = 1

_numbers = {"type": "array", "items": {"type": "number"}}
_fraction = {"type": "number", "minimum": 0, "maximum": 1}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": [
        "schema", "chapter", "model", "experiment", "seed", "epochs", "parameters", "val_accuracy",
        "test_accuracy", "seconds", "history", "config", "provenance",
    ],
    "properties": {
        "schema": {"const": SCHEMA_VERSION},
        "chapter": {"type": "string", "pattern": "^[a-z0-9_]+$"},
        "model": {"type": "string"},
        "experiment": {"type": "string"},
        "seed": {"type": "integer"},
        "epochs": {"type": "number", "exclusiveMinimum": 0},
        "parameters": {"type": "integer", "minimum": 1},
        "val_accuracy": _fraction,
        "test_accuracy": {"anyOf": [_fraction, {"type": "null"}]},
        "seconds": {"type": "number", "minimum": 0},
        "diverged": {"type": "boolean"},
        "history": {
            "type": "object",
            "required": ["loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds"],
            "additionalProperties": _numbers,
        },
        "config": {"type": "object"},
        "provenance": {
            "type": "object",
            "required": [
                "date", "device", "torch", "python", "profile", "data", "code_hash", "utils_hash",
            ],
            "properties": {
                "date": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
                "data": {"type": "object", "required": ["source", "synthetic"]},
            },
        },
    },
}  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """Mean and spread of one figure over runs; `std` is the sample deviation (n - 1)."""

    n: int
    mean: float
    std: float
    min: float
    max: float

    def __str__(self) -> str:
        """As a percentage, `86.9 ± 0.2 % (n = 3)`; for accuracies, which are fractions."""
        spread = f" ± {100 * self.std:.1f}" if self.n > 1 else ""
        return f"{100 * self.mean:.1f}{spread} % (n = {self.n})"


def validate(record: dict[str, Any], where: str = "record") -> None:
    """Raise ValueError, in one sentence, unless `record` follows the schema."""
    if isinstance(record, dict) and record.get("schema") != SCHEMA_VERSION:
        raise ValueError(
            f"{where} has schema {record.get('schema')!r}, but this version of the course reads "
            f"schema {SCHEMA_VERSION}: record the run again with `python -m utils.train`."
        )
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(SCHEMA).iter_errors(record)
    )
    if error is not None:
        place = "/".join(map(str, error.absolute_path)) or "top level"
        raise ValueError(
            f"{where} is not a valid result ({place}: {error.message}): record the run again "
            "with `python -m utils.train`, which writes all fields and their provenance."
        )


def load(chapter: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """All records of `results/CHAPTER.json`, validated; an empty list where there is none."""
    path = (folder or FOLDER) / f"{chapter}.json"
    if not path.exists():
        return []
    try:
        records = json.loads(path.read_text("utf8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}): restore it from git and record the run again."
        ) from None
    if not isinstance(records, list):
        raise ValueError(f"{path} holds no list of records: restore it from git.")
    for number, record in enumerate(records):
        validate(record, f"{path.name}, record {number}")
    return records


def select(records: Iterable[dict[str, Any]], **where: Any) -> list[dict[str, Any]]:
    """The records whose fields, or fields of `config`, equal what is asked for.

    `select(load("resnet"), model="resnet20", lr=0.1)`.
    """
    missing = object()

    def value(record: dict[str, Any], key: str) -> Any:
        return record.get(key, record["config"].get(key, missing))

    return [r for r in records if all(value(r, k) == v for k, v in where.items())]


def summary(records: Iterable[dict[str, Any]], key: str = "test_accuracy") -> Summary:
    """Mean and spread of `key` over the records.

    Raises:
        ValueError: no record holds a number under `key`.
    """
    values = [r[key] for r in records if r.get(key) is not None]
    if not values:
        raise ValueError(
            f"no record with {key!r} to summarise: the run asked for was never recorded; "
            "`python -m utils.train --help` shows how to record it."
        )
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return Summary(len(values), statistics.fmean(values), std, min(values), max(values))


def append(chapter: str, record: dict[str, Any], folder: Path | None = None) -> Path:
    """Add one record to `results/CHAPTER.json`, atomically; returns the file's path.

    Raises:
        ValueError: the record breaks the schema, lacks provenance or comes from stand-in data.
    """
    validate(record)
    if record["provenance"]["data"]["synthetic"]:
        raise ValueError(
            "this run was trained on the synthetic stand-in, which is no result: set "
            "CIFAR10_ROOT to the real images and train again."
        )
    folder = folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{chapter}.json"
    with filelock.FileLock(folder / f".{chapter}.lock"):  # two runs may end at once
        _replace(path, [*load(chapter, folder), record])
    return path


def _replace(path: Path, records: list[dict[str, Any]]) -> None:
    text = "[\n" + ",\n".join(json.dumps(r, sort_keys=True) for r in records) + "\n]\n"
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".json")
    try:
        with os.fdopen(handle, "w", encoding="utf8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
