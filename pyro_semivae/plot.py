"""Figures: grids of images, the bound's terms over training."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure as MatplotlibFigure
from torch import Tensor

from pyro_semivae.files import atomic_open, user_path
from pyro_semivae.train import History


class Figure(MatplotlibFigure):
    """A figure that a notebook shows as it is, without a window or a setting."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=110, bbox_inches="tight")
        return file.getvalue()


def image_grid(
    images: Tensor,
    *,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    title: str = "",
    path: str | Path | None = None,
    cell: float = 0.7,
) -> Figure:
    """A grid of images `(R, K, C, H, W)` in [0, 1]: R rows, K columns.

    Args:
        columns, rows: labels of the columns and rows.
        cell: the side of an image in inches. path: where to write the PNG.
    """
    num_rows, num_columns, channels, height, width = images.shape
    pixels = images.detach().cpu().float().clamp(0, 1)
    pad = max(1, height // 14)
    tiled = np.ones((num_rows * (height + pad) - pad, num_columns * (width + pad) - pad, channels), np.float32)
    for r in range(num_rows):
        for k in range(num_columns):
            top, left = r * (height + pad), k * (width + pad)
            tiled[top : top + height, left : left + width] = pixels[r, k].permute(1, 2, 0).numpy()
    size = (cell * num_columns + 0.15 * max(map(len, rows), default=0) + 0.3, cell * num_rows + 0.9)
    figure = Figure(figsize=size)
    axis = figure.subplots()
    axis.imshow(tiled.squeeze(-1) if channels == 1 else tiled, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    if columns:
        axis.set_xticks([k * (width + pad) + width / 2 for k in range(num_columns)], columns, fontsize=7, rotation=45)
        axis.xaxis.tick_top()
        for label in axis.get_xticklabels():
            label.set(ha="left", rotation_mode="anchor")
    else:
        axis.set_xticks([])
    axis.set_yticks([r * (height + pad) + height / 2 for r in range(num_rows)] if rows else [], rows, fontsize=7)
    axis.tick_params(length=0)
    axis.set_frame_on(False)
    if title:
        axis.set_xlabel(title, fontsize=8)
    return _finish(figure, path)


def training_curves(history: History, *, path: str | Path | None = None) -> Figure:
    """Objective, ELBO, unweighted terms and monitors over epochs, a panel each (except those that never change, or by
    rounding alone)."""
    names = ["objective", *(n for n in history[0] if n == "elbo" or n.startswith(("term/", "monitor/")))]
    names = [n for n in names if n == "objective" or _changes([record[n] for record in history])]
    columns = 3
    height = -(-len(names) // columns)
    figure = Figure(figsize=(3.2 * columns, 2 * height))
    axes = figure.subplots(height, columns, squeeze=False, sharex=True)
    epochs = [record["epoch"] for record in history]
    for axis, name in zip(axes.flat, names, strict=False):
        axis.plot(epochs, [record[name] for record in history], marker="." if len(epochs) < 30 else None)
        unit = " (nats per example)" if not name.startswith("monitor/") else ""
        axis.set_title(name.removeprefix("term/").removeprefix("monitor/") + unit, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("epoch", fontsize=8)
    figure.tight_layout()
    return _finish(figure, path)


def _changes(values: Sequence[float]) -> bool:
    """Whether numbers differ by more than the rounding of a mean over a data set."""
    return max(values) - min(values) > 1e-6 * max(map(abs, values))


def _finish(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        with atomic_open(user_path(path, "path")) as file:
            figure.savefig(file, format="png", dpi=130, bbox_inches="tight")
    return figure
