"""The house figure style and the plots that more than one chapter uses.

Every function makes one pyplot figure and returns it; none shows it. A notebook cell ends in
``plot.curves(...);`` and the inline backend draws the figure once. Arrays may be NumPy, lists or
torch tensors on any device. Nothing is kept between calls except matplotlib's own rcParams.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from utils.draw import (
    COLORS,
    INK,
    LIGHT,
    MUTED,
    SAVE,
    WIDTH,
    array,
    arrow,
    box,
    canvas,
    circle,
    path,
    require,
    style,
)
from utils.pictures import heat, image_grid

__all__ = [
    "COLORS",
    "INK",
    "LIGHT",
    "MUTED",
    "SAVE",
    "WIDTH",
    "arrow",
    "bars",
    "box",
    "canvas",
    "circle",
    "curves",
    "dot_range",
    "heat",
    "human",
    "image_grid",
    "mean_band",
    "path",
    "style",
]

METRICS = {  # panel: (training key, validation key, title, transformation)
    "loss": ("loss", "val_loss", "loss", lambda y: y),
    "accuracy": ("train_accuracy", "val_accuracy", "accuracy (%)", lambda y: 100 * y),
    "error": ("train_accuracy", "val_accuracy", "error (%)", lambda y: 100 - 100 * y),
}


def curves(histories: Mapping[str, Any], metrics: Sequence[str] = ("loss", "accuracy")) -> Figure:
    """Learning curves, one panel for each metric, one colour for each run.

    Args:
        histories: at most six of ``{label: History}`` or ``{label: dict}``, with the lists
            ``loss``, ``train_accuracy``, ``val_loss``, ``val_accuracy``, one number an epoch,
            accuracies 0..1. A list that is missing or empty is not drawn.
        metrics: from "loss", "accuracy" and "error" (1 - accuracy), the last two in per cent.
    """
    require(histories, "histories", "{'ResNet-20': history}")
    if not metrics or isinstance(metrics, str) or not set(metrics) <= set(METRICS):
        raise ValueError(f"metrics is a tuple of {', '.join(METRICS)}; got {metrics!r}.")
    colors = _line_colors(histories)
    given = [h if isinstance(h, Mapping) else vars(h) for h in histories.values()]
    wanted = [key for metric in metrics for key in METRICS[metric][:2]]
    tables = [{k: array([] if t.get(k) is None else t[k]) for k in wanted} for t in given]
    if not any(y.size for table in tables for y in table.values()):
        raise ValueError(f"histories hold no numbers under {', '.join(wanted)}.")
    fig, axes = plt.subplots(1, len(metrics), squeeze=False)
    drawn = set()
    for ax, metric in zip(axes[0], metrics, strict=True):
        *keys, title, transform = METRICS[metric]
        for color, table in zip(colors, tables, strict=True):
            for key, dashes in zip(keys, ("--", "-"), strict=True):
                y = table[key]
                if y.size:
                    drawn.add(dashes)
                    ax.plot(
                        np.arange(1, y.size + 1),
                        transform(y),
                        linestyle=dashes,
                        linewidth=1.8 if dashes == "-" else 1.3,
                        color=color,
                        marker="o" if y.size == 1 else "",
                    )
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    _legend(fig, histories)
    if len(drawn) == 2:
        _note(fig, "solid: validation; dashed: training, average over the epoch")
    return fig


def mean_band(
    runs: Mapping[str, Any],
    x: Any = None,
    *,
    xlabel: str = "epoch",
    ylabel: str = "",
    spread: str = "range",
    percent: bool = False,
) -> Figure:
    """Mean over seeds as a line and the spread as a band; a note under the figure says which.

    Args:
        runs: at most six of ``{label: array (seeds, points)}``; (points,) is a single run.
        x: positions of the points, (points,); by default 1, 2, 3, ...
        xlabel: under the axis.
        ylabel: above the axis, read without turning the head.
        spread: "range", from the lowest to the highest run, or "std", one standard deviation
            (with n - 1) to either side.
        percent: draw 100 times the values, for accuracies given as 0..1.
    """
    require(runs, "runs", "{'ResNet-20': array of shape (seeds, epochs)}")
    if spread not in ("range", "std"):
        raise ValueError(f"spread is 'range' or 'std'; got {spread!r}.")
    colors, table = _line_colors(runs), {}
    for label, values in runs.items():
        y = np.atleast_2d(array(values)) * (100 if percent else 1)
        require(y.ravel(), f"runs[{label!r}]", "an array of shape (seeds, points)")
        at = np.arange(1, y.shape[-1] + 1) if x is None else array(x)
        if y.ndim != 2 or at.shape != y.shape[1:]:
            raise ValueError(
                f"runs[{label!r}] has shape {y.shape}; expected (seeds, {at.size}), one value for "
                "each point of x."
            )
        table[f"{label} (n = {len(y)})"] = at, y
    fig, ax = plt.subplots()
    for color, (at, y) in zip(colors, table.values(), strict=True):
        mean, low, high = y.mean(axis=0), y.min(axis=0), y.max(axis=0)
        if spread == "std" and len(y) > 1:
            low, high = mean - y.std(axis=0, ddof=1), mean + y.std(axis=0, ddof=1)
        ax.plot(at, mean, color=color, marker="o" if at.size <= 12 else "", markersize=4)
        if len(y) > 1:
            ax.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
    if x is None:
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    ax.set(xlabel=xlabel, title=ylabel)
    _legend(fig, table)
    if any(len(y) > 1 for _, y in table.values()):
        band = "lowest to highest run" if spread == "range" else "± one standard deviation"
        _note(fig, f"line: mean over seeds; band: {band}")
    return fig


def dot_range(
    groups: Mapping[str, Any], *, xlabel: str = "test accuracy", percent: bool = False
) -> Figure:
    """One row for each model: a dot for each seed, a bar at the mean, a line over the range.

    Args:
        groups: ``{label: values of the seeds}``.
        xlabel: what the values are.
        percent: draw 100 times the values, for accuracies given as 0..1.
    """
    require(groups, "groups", "{'ResNet-20': [0.91, 0.92]}")
    table = {label: array(v).ravel() * (100 if percent else 1) for label, v in groups.items()}
    for label, values in table.items():
        require(values, f"groups[{label!r}]", "[0.91, 0.92]")
    fig, ax = plt.subplots(figsize=(WIDTH, 1.1 + 0.45 * len(table)))
    for row, values in enumerate(table.values()):
        color, mean = COLORS[row % len(COLORS)], values.mean()
        ax.plot([values.min(), values.max()], [row, row], color=color, linewidth=1.3)
        ax.plot(values, [row] * values.size, "o", color=color, markersize=6, alpha=0.75)
        ax.plot([mean, mean], [row - 0.25, row + 0.25], color=color, linewidth=2.4)
        text = f"{mean:.1f}" if percent else f"{mean:.3g}"
        if values.size > 1:
            text += f" ± {values.std(ddof=1):{'.1f' if percent else '.2g'}}"
        ax.annotate(text, (1.02, row), xycoords=("axes fraction", "data"), va="center")
    ax.set(xlabel=xlabel + (" (%)" if percent else ""), ylim=(len(table) - 0.5, -0.5))
    ax.set_yticks(range(len(table)), list(table))
    _rows_only(ax)
    if any(values.size > 1 for values in table.values()):
        _note(fig, "dot: one seed; upright bar and number: mean ± one standard deviation")
    return fig


def bars(values: Mapping[str, Any], *, xlabel: str = "") -> Figure:
    """Horizontal bars with their numbers, first row on top.

    Args:
        values: ``{row: number}`` for one panel labelled ``xlabel``, or ``{panel: {row: number}}``
            for panels side by side over the same rows, such as parameters and MACs by layer.
    """
    require(values, "values", "{'conv1': 9408}")
    panels = values if isinstance(next(iter(values.values())), Mapping) else {xlabel: values}
    rows = list(dict.fromkeys(row for panel in panels.values() for row in panel))
    require(rows, "values", "{'MACs': {'conv1': 118_013_952}}")
    size = (WIDTH, 0.8 + 0.32 * len(rows))
    fig, axes = plt.subplots(1, len(panels), sharey=True, squeeze=False, figsize=size)
    for i, (title, panel) in enumerate(panels.items()):
        ax = axes[0, i]
        numbers = [float(panel.get(row, 0)) for row in rows]
        ax.barh(range(len(rows)), numbers, height=0.7, color=COLORS[i % len(COLORS)])
        for y, number in enumerate(numbers):
            at = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
            ax.annotate(human(number), (number, y), **at)
        ax.set(title=title, ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.45 * max([*numbers, 1e-9])))
        ax.set_yticks(range(len(rows)), rows)
        ax.set_xticks([])
        _rows_only(ax)
        ax.spines.bottom.set_visible(False)
    return fig


def human(number: float) -> str:
    """A number for a narrow place: 9,408, then 11.69 M, 1.81 G."""
    for unit, size in ((" G", 1e9), (" M", 1e6)):
        if abs(number) >= size:
            return f"{number / size:,.2f}{unit}"
    return f"{number:,.0f}" if number == int(number) else f"{number:.3g}"


def _line_colors(series: Mapping[str, Any]) -> Sequence[str]:
    if len(series) > len(COLORS):
        raise ValueError(
            f"{len(series)} lines in one figure cannot be told apart by colour; draw at most "
            f"{len(COLORS)}, or use dot_range."
        )
    return COLORS[: len(series)]


def _rows_only(ax: Axes) -> None:
    """Leave the names of the rows and take away the axis beside them."""
    ax.grid(False)
    ax.spines.left.set_visible(False)
    ax.tick_params(axis="y", length=0)


def _note(fig: Figure, text: str) -> None:
    fig.supxlabel(text, x=0.01, ha="left", fontsize=10, color=MUTED)


def _legend(fig: Figure, labels: Iterable[str]) -> None:
    """Names above the axes, in as few rows as their length allows."""
    names = list(labels)
    handles = [
        Line2D([], [], color=color, label=name) for color, name in zip(COLORS, names, strict=False)
    ]
    fit = max(1, int(70 / (6 + max(map(len, names)))))  # in a line of about 70 letters
    columns = -(-len(names) // -(-len(names) // fit))  # rows of equal length
    fig.legend(handles=handles, loc="outside upper left", ncols=columns, handlelength=1.4)
