"""Recorded measurements, `benchmarks/recorded/NAME.json`: their schema, and how they are shown.

Knows no torch, so that the book can be built from them without it.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jsonschema

FOLDER = Path(__file__).resolve().parent / "recorded"
SCHEMA_VERSION = 1

_text = {"type": "string"}
_name = {"type": "string", "minLength": 1}
_positive = {"type": "number", "exclusiveMinimum": 0}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": [
        "schema", "name", "date", "machine", "versions", "data", "unit", "rounds", "settings",
        "rows",
    ],
    "properties": {
        "schema": {"const": SCHEMA_VERSION},
        "name": {"type": "string", "pattern": "^[a-z0-9_]+$"},
        "date": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
        "machine": {
            "type": "object",
            "required": ["device", "torch", "python", "platform"],
            "additionalProperties": _text,
        },
        "versions": {"type": "object", "additionalProperties": _text},
        "data": {
            "anyOf": [{"type": "null"}, {"type": "object", "required": ["source", "synthetic"]}]
        },
        "unit": _name,
        "rounds": {"type": "integer", "minimum": 1},
        "settings": {"type": "object"},
        "rows": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": [
                    "group", "name", "note", "values", "median", "min", "max", "ratio",
                ],
                "properties": {
                    "group": _text,
                    "name": _name,
                    "note": _text,
                    "values": {"type": "array", "minItems": 1, "items": _positive},
                    "median": _positive,
                    "min": _positive,
                    "max": _positive,
                    "ratio": _positive,
                },
            },
        },
        "runs": {"type": "array", "items": {"type": "object"}},
    },
}  # fmt: skip


def row(
    name: str, values: Sequence[float], baseline: Sequence[float], note: str = "", group: str = ""
) -> dict[str, Any]:
    """One row: the values, one a round, and how many times the baseline's they are.

    The ratio is the median of the ratios of each round, whose two values were measured within
    minutes of each other; the ratio of the two medians would compare different rounds.
    """
    return {
        "group": group,
        "name": name,
        "note": note,
        "values": list(values),
        "median": _short(statistics.median(values)),
        "min": min(values),
        "max": max(values),
        "ratio": _short(statistics.median(v / b for v, b in zip(values, baseline, strict=False))),
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def groups(record: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each group, in order; a group has a baseline of its own, its first row."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in record["rows"]:
        found.setdefault(one["group"], []).append(one)
    return found


# ---- files -------------------------------------------------------------------------------------


def validate(record: Any, where: str) -> None:
    """Raise ValueError, in one sentence, unless `record` follows the schema."""
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(SCHEMA).iter_errors(record)
    )
    if error is not None:
        place = "/".join(map(str, error.absolute_path)) or "top level"
        raise ValueError(
            f"{where} is not a valid measurement ({place}: {error.message}): measure it again "
            "with `make bench`."
        )


def load(path: Path) -> dict[str, Any]:
    """The record in a file.

    Raises:
        ValueError: there is no such file, or it is not a record.
    """
    name = path.stem.partition("-")[0]
    if not path.is_file():
        raise ValueError(f"{path.name} is not in {path.parent}: run make bench BENCH={name}")
    try:
        record = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path.name} is not JSON ({error}): run make bench BENCH={name}"
        ) from None
    validate(record, path.name)
    return record


def save(record: dict[str, Any], path: Path) -> None:
    """Write the record, validated, so that a reader sees the old file or the new one."""
    validate(record, path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", "utf-8")
    os.replace(part, path)


# ---- words -------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Three digits at least, without more behind the point than that takes: 13,033, 21.7, 0.051."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


# The columns that `cells` fills. A group's first row is its baseline.
HEAD = ("variant", "median", "min..max", "× the first", "note")


def cells(one: dict[str, Any]) -> tuple[str, ...]:
    """A row as text: name, median, range, ratio and note."""
    spread = f"{number(one['min'])}..{number(one['max'])}"
    return one["name"], number(one["median"]), spread, number(one["ratio"]), one["note"]


def line(record: dict[str, Any], date: str) -> str:
    """Where and when it was measured, with what, how often and on which data."""
    machine, data = record["machine"], record["data"]
    rounds = record["rounds"]
    parts = [
        f"Measured {date} on {machine['device']}",
        f"Python {machine['python']}",
        f"torch {machine['torch']}",
        *(f"{name} {version}" for name, version in sorted(record["versions"].items())),
        f"{rounds} round{'' if rounds == 1 else 's'}",
    ]
    if data:
        digest = data.get("sha256") or data.get("md5") or ""
        size = f"{data['train']:,} training images" if "train" in data else ""
        parts.append(" ".join(filter(None, ["data:", data["source"], digest[:8], size])))
    return " · ".join(parts)


def table(record: dict[str, Any]) -> str:
    """The whole record as aligned text, for a terminal."""
    rows = [cells(one) for one in record["rows"]]
    widths = [max(len(r[i]) for r in [HEAD, *rows]) for i in range(4)]

    def aligned(entries: Iterable[str]) -> str:
        name, *figures, note = entries
        right = (figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True))
        return "  ".join([name.ljust(widths[0]), *right, note]).rstrip()

    lines = [f"{record['name']}: {record['unit']}", line(record, record["date"]), ""]
    for title, members in groups(record).items():
        lines += [f"[{title}]"] if title else []
        lines += [aligned(HEAD), *(aligned(cells(one)) for one in members), ""]
    return "\n".join(lines).rstrip()
