"""Figures: image grids, training curves, confusion matrices, latents by label; optionally with notes below them."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure as MatplotlibFigure
from torch import Tensor

from pyro_semivae.files import atomic_open, user_path
from pyro_semivae.train import History

_NOTES: ContextVar[tuple[str, ...]] = ContextVar("notes", default=())


class Figure(MatplotlibFigure):
    """A figure that notebooks display without a window or settings."""

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
        turned = 45 if max(map(len, columns)) > 2 else 0
        axis.set_xticks(
            [k * (width + pad) + width / 2 for k in range(num_columns)], columns, fontsize=7, rotation=turned
        )
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
    """Objective, ELBO, unweighted terms and monitors over epochs, one panel each; constant ones are left out (constant
    except for rounding)."""
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


def confusion_matrix(
    counts: Tensor, names: Sequence[str], *, title: str = "", path: str | Path | None = None
) -> Figure:
    """A confusion matrix of true classes (rows) and predicted classes (columns) from `(C, C)` counts.

    It shows fractions of the row's examples; a row without examples stays empty.
    """
    counts = counts.detach().cpu().double()
    shares = (counts / counts.sum(1, keepdim=True)).numpy()  # NaN in a row without examples
    size = 1.6 + 0.42 * len(names)
    figure = Figure(figsize=(size, size))
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005 and len(names) <= 20:
            axis.text(
                column,
                row,
                f"{share:.2f}",
                ha="center",
                va="center",
                fontsize=6,
                color="white" if share > 0.5 else "black",
            )
    axis.set_xticks(range(len(names)), names, fontsize=7, rotation=90)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_xlabel("said", fontsize=8)
    axis.set_ylabel("true", fontsize=8)
    if title:
        axis.set_title(title, fontsize=8)
    return _finish(figure, path)


def latents_by_class(
    z: Tensor, y: Tensor, names: Sequence[str], *, title: str = "", path: str | Path | None = None
) -> Figure:
    """A scatter of latents `(N, D)`, coloured by class `(N,)`; missing classes (-1) are not shown.

    If D is above 2, it shows the first two principal components and their share of the variance.
    """
    known = (y >= 0).cpu()
    z, y = z.detach().cpu().double()[known], y.cpu()[known]
    across, down = "first entry", "second entry"
    if z.shape[1] == 1:
        z, down = torch.cat([z, torch.zeros_like(z)], 1), ""
    elif z.shape[1] > 2 and len(z) > 2:
        _, strengths, axes = torch.linalg.svd(z - z.mean(0), full_matrices=False)
        z = (z - z.mean(0)) @ axes[:2].T
        shares = strengths.square() / strengths.square().sum()
        across, down = (f"component {i + 1}, {shares[i]:.0%} of the variance" for i in range(2))
    figure = Figure(figsize=(5.2, 4))
    axis = figure.subplots()
    colours = colormaps["tab10" if len(names) <= 10 else "gist_ncar"]
    for c, name in enumerate(names):
        colour = colours(c if len(names) <= 10 else c / len(names))
        axis.scatter(*z[y == c, :2].T.numpy(), s=5, alpha=0.6, color=[colour], label=name)
    axis.set_xlabel(across, fontsize=8)
    axis.set_ylabel(down, fontsize=8)
    axis.tick_params(labelsize=7)
    if len(names) <= 30:
        axis.legend(fontsize=6, markerscale=2, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    if title:
        axis.set_title(title, fontsize=8)
    return _finish(figure, path)


def latents_by_label(
    z: Tensor, y: Tensor, names: Sequence[str], *, title: str = "", path: str | Path | None = None
) -> Figure:
    """Histograms of each binary label's latent, `z` `(N, L)`, by the label's value (on, off), `y` `(N, L)`."""
    z, y = z.detach().cpu().double(), y.cpu()
    columns = min(6, len(names))
    height = -(-len(names) // columns)
    figure = Figure(figsize=(1.7 * columns, 1.3 * height + 0.4))
    axes = figure.subplots(height, columns, squeeze=False)
    for axis, values, on, name in zip(axes.flat, z.T, y.T, names, strict=False):
        bins = np.linspace(float(values.min()), float(values.max()) + 1e-9, 30)
        for value, colour, label in ((0, "tab:gray", "off"), (1, "tab:orange", "on")):
            axis.hist(values[on == value].numpy(), bins, color=colour, alpha=0.6, density=True, label=label)
        axis.set_title(name, fontsize=7)
        axis.tick_params(labelsize=5, left=False, labelleft=False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    axes.flat[0].legend(fontsize=6, frameon=False)
    if title:
        figure.suptitle(title, fontsize=8)
    figure.tight_layout()
    return _finish(figure, path)


@contextmanager
def noted(notes: Sequence[str]) -> Iterator[None]:
    """Context in which figures have these notes below them, e.g. on what the model has not learnt."""
    token = _NOTES.set(tuple(notes))
    try:
        yield
    finally:
        _NOTES.reset(token)


def _changes(values: Sequence[float]) -> bool:
    """Whether values differ by more than the rounding error of a mean over a data set."""
    return max(values) - min(values) > 1e-6 * max(map(abs, values))


def _finish(figure: Figure, path: str | Path | None) -> Figure:
    if _NOTES.get():
        width = int(18 * figure.get_figwidth())
        lines = [line for note in _NOTES.get() for line in textwrap.wrap(f"NOTE: {note}", width)]
        figure.text(0.5, -0.02, "\n".join(lines), color="firebrick", fontsize=7, ha="center", va="top")
    if path is not None:
        with atomic_open(user_path(path, "path")) as file:
            figure.savefig(file, format="png", dpi=130, bbox_inches="tight")
    return figure
