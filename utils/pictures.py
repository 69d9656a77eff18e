"""Matrices and photographs in the house style; `utils.plot` passes them on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from utils.draw import INK, WIDTH, array, require

BLUES = LinearSegmentedColormap.from_list("course", ["#F3F7FA", "#7DB3D6", "#0072B2", "#00314F"])


def heat(
    matrix: Any,
    rows: Sequence[Any] | None = None,
    columns: Sequence[Any] | None = None,
    *,
    label: str = "",
    fmt: str = ".2f",
    xlabel: str = "",
    ylabel: str = "",
) -> Figure:
    """A matrix as shades of blue, first row on top; up to 12 columns with the numbers written in.

    Args:
        matrix: (R, C); NaN stays empty.
        rows: R names, by default 0, 1, 2, ...
        columns: C names.
        label: what the numbers are, beside the scale.
        fmt: how they are written, "d" for integers.
        xlabel: what the columns are.
        ylabel: what the rows are.
    """
    m = array(matrix)
    if m.ndim != 2 or not np.isfinite(m).any():
        raise ValueError(f"matrix has two axes and at least one number; got shape {m.shape}.")
    for name, names, n in (("rows", rows, m.shape[0]), ("columns", columns, m.shape[1])):
        if names is not None and len(names) != n:
            raise ValueError(f"the matrix has {n} {name}, but {len(names)} names were given.")
    width = min(WIDTH, 2.4 + 0.55 * m.shape[1])
    height = min(WIDTH, 1.0 + (width - 1.6) * m.shape[0] / m.shape[1])
    fig, ax = plt.subplots(figsize=(width, height))
    if m.size <= 2500:  # cells as vectors stay sharp at any size; more of them as one bitmap
        masked = np.ma.masked_invalid(m)
        image = ax.pcolormesh(masked, cmap=BLUES, edgecolors="white", linewidth=0.5)
        ax.set(xlim=(0, m.shape[1]), ylim=(m.shape[0], 0), aspect="equal")
    else:
        extent = (0, m.shape[1], m.shape[0], 0)
        image = ax.imshow(m, cmap=BLUES, interpolation="none", extent=extent)
    if m.shape[1] <= 12:
        for (r, c), value in np.ndenumerate(m):
            if np.isfinite(value):
                color = "white" if image.norm(value) > 0.58 else INK  # whichever contrasts more
                ax.text(c + 0.5, r + 0.5, format(value, fmt), ha="center", va="center", color=color)
    for axis, names, n in ((ax.xaxis, columns, m.shape[1]), (ax.yaxis, rows, m.shape[0])):
        step = 1 if names is not None else max(1, n // 10)
        axis.set_ticks(
            np.arange(0, n, step) + 0.5, [(names or range(n))[i] for i in range(0, n, step)]
        )
    if columns and max(len(str(c)) for c in columns) > 3:
        plt.setp(ax.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    fig.colorbar(image, ax=ax, shrink=0.8, label=label).outline.set_visible(False)
    return fig


def image_grid(images: Any, titles: Sequence[Any] | None = None, columns: int = 8) -> Figure:
    """Small pictures in rows, every pixel a square. About 5 kB of SVG for each of 32 x 32.

    Args:
        images: (N, 3, H, W), (N, H, W, 3) or (N, H, W); uint8, or floats 0..1. Above 96 pixels
            they are reduced to the size shown.
        titles: N short texts, written above the pictures.
        columns: pictures in a row.
    """
    x = array(images)
    require(x, "images", "an array of shape (N, 3, 32, 32)")
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3):
        x = x.transpose(0, 2, 3, 1)
    if x.ndim not in (3, 4) or not x.size or (x.ndim == 4 and x.shape[3] not in (1, 3)):
        raise ValueError(
            f"images have the shape (N, 3, H, W), (N, H, W, 3) or (N, H, W); got {x.shape}."
        )
    if x.dtype != np.uint8 and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(
            f"images are uint8 or floats 0..1; got {x.min():.2f} to {x.max():.2f}. For normalised "
            "ones, utils.data.denormalize comes first."
        )
    if titles is not None and len(titles) != len(x):
        raise ValueError(f"{len(x)} images need {len(x)} titles; got {len(titles)}.")
    x = x[..., 0] if x.ndim == 4 and x.shape[3] == 1 else x
    columns = min(columns, len(x))
    rows = -(-len(x) // columns)
    side = min(WIDTH / columns, 1.6)  # inches
    widest = max((len(line) for t in titles or () for line in str(t).split("\n")), default=1)
    points = min(11, max(8, 72 * side / (0.62 * widest)))  # a letter is about 0.62 em wide
    lines = max((str(t).count("\n") + 1 for t in titles or ()), default=0)
    height = side * x.shape[1] / x.shape[2] + 1.4 * points / 72 * lines
    size = (side * columns, rows * height)
    fig, axes = plt.subplots(rows, columns, squeeze=False, figsize=size)
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for ax in axes.flat:
        ax.axis("off")
    small = max(x.shape[1:3]) <= 96  # then the SVG holds each pixel once, and browsers enlarge it
    for i, (ax, image) in enumerate(zip(axes.flat, x, strict=False)):
        top = 255 if x.dtype == np.uint8 else 1
        ax.imshow(image, vmin=0, vmax=top, interpolation="none" if small else "antialiased")
        if titles is not None:
            ax.set_title(titles[i], fontsize=points, loc="center", pad=2)
    return fig
