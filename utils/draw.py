"""The house style of figures: colours, matplotlib settings, and drawings of boxes and arrows.

`utils.plot` passes on all of it, so that a notebook imports ``plot`` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

# After Okabe and Ito, darkened until each has a contrast of 3.5:1 on white and, under the book's
# dark mode (invert(1) hue-rotate(180deg)), of 6:1 on black. With protanopia, deuteranopia or
# tritanopia any two still differ; tests/test_plot.py measures it.
COLORS = ("#0072B2", "#D55E00", "#159A78", "#6A1B6E", "#C0609A", "#333333")
INK, MUTED, LIGHT = "#222222", "#666666", "#E4E4E4"
WIDTH = 6.4  # inches: the text column of the book

STYLE = {
    "figure.figsize": (WIDTH, 3.6),
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.labelsize": 12,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LIGHT,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.prop_cycle": mpl.cycler(color=COLORS),
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "image.cmap": "gray",
    "svg.fonttype": "path",  # outlines: the same letters on every machine
    "svg.hashsalt": "course",  # fixed ids: the same bytes on every run
}
SAVE = {"metadata": {"Date": None, "Creator": None}, "bbox_inches": "tight", "facecolor": "white"}


def style() -> None:
    """Set the house style, and under IPython's inline backend SVG output with stable bytes."""
    mpl.rcParams.update(STYLE)
    try:
        from IPython import get_ipython
        from matplotlib_inline.config import InlineBackend
    except ImportError:
        return
    if (shell := get_ipython()) is not None:
        inline = InlineBackend.instance(parent=shell)
        inline.shell = shell
        inline.print_figure_kwargs = dict(SAVE)
        inline.figure_formats = {"svg"}


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty drawing, ``width`` x ``height`` units, y upwards, as wide as the text column."""
    fig, ax = plt.subplots(figsize=(WIDTH, WIDTH * height / width))
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    return fig, ax


def box(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    w: float = 2.0,
    h: float = 0.8,
    color: str | None = None,
) -> None:
    """A rounded box with its centre at (x, y); ``color`` draws the outline and tints the inside."""
    color = color or MUTED
    tint = 1 - 0.12 * (1 - np.array(mpl.colors.to_rgb(color)))
    ax.add_patch(
        FancyBboxPatch(
            (x - w / 2, y - h / 2),
            w,
            h,
            facecolor=tuple(tint),
            lw=1.2,
            edgecolor=color,
            boxstyle=f"round,pad=0,rounding_size={0.15 * h}",
        )
    )
    ax.text(x, y, text, ha="center", va="center")


def arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str = "",
    bend: float = 0.0,
    color: str | None = None,
) -> None:
    """An arrow, curved to its right by ``bend``; ``text`` stands right of its middle."""
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=12,
            lw=1.2,
            color=color or MUTED,
            shrinkA=0,
            shrinkB=0,
            connectionstyle=f"arc3,rad={bend}",
        )
    )
    (x0, y0), (x1, y1) = start, end
    x, y = (x0 + x1) / 2 + bend * (y1 - y0) / 2, (y0 + y1) / 2 - bend * (x1 - x0) / 2
    ax.annotate(text, (x, y), xytext=(6, 0), textcoords="offset points", va="center")


def path(
    ax: Axes, points: Sequence[tuple[float, float]], text: str = "", color: str | None = None
) -> None:
    """Straight lines through ``points``, an arrow head at the last: a skip connection."""
    xs, ys = zip(*points[:-1], strict=True)
    ax.plot(xs, ys, color=color or MUTED, lw=1.2, solid_joinstyle="round")
    arrow(ax, points[-2], points[-1], color=color)
    middle = len(points) // 2
    (x0, y0), (x1, y1) = points[middle - 1], points[middle]
    ax.annotate(
        text, ((x0 + x1) / 2, (y0 + y1) / 2), xytext=(6, 0), textcoords="offset points", va="center"
    )


def circle(ax: Axes, x: float, y: float, text: str = "+", r: float = 0.25) -> None:
    """A small circle, for a sum or a product."""
    ax.add_patch(plt.Circle((x, y), r, facecolor="white", edgecolor=INK, lw=1.2, zorder=3))
    ax.text(x, y, text, ha="center", va="center", zorder=4)


def array(values: Any) -> np.ndarray:
    """Anything like an array as a NumPy array; torch tensors from a GPU or in bfloat16 as well."""
    if hasattr(values, "detach"):  # as torch tensors have, and so without importing torch
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def require(values: Any, name: str, example: str) -> None:
    """Raise a ValueError that says what was expected where there is nothing to draw."""
    if not len(values):
        raise ValueError(
            f"{name} is empty: there is nothing to draw. Expected something like {example}."
        )
