"""Figures: grids of images, the bound's terms over training. Matplotlib is used here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from pyro_semivae.check import Graph, factorisation, inspect_model
from pyro_semivae.contract import check_sites
from pyro_semivae.files import atomic_open, user_path
from pyro_semivae.models import SemiVAE
from pyro_semivae.train import History


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
    """Objective, ELBO, unweighted terms and monitors over epochs, a panel each (except those that never change)."""
    names = ["objective", *(n for n in history[0] if n == "elbo" or n.startswith(("term/", "monitor/")))]
    names = [n for n in names if n == "objective" or len({record[n] for record in history}) > 1]
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


def _finish(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        with atomic_open(user_path(path, "path")) as file:
            figure.savefig(file, format="png", dpi=130, bbox_inches="tight")
    return figure


KINDS = {"observed": "0.8", "marginalised where missing": "#ffd28a", "sampled": "white"}


def draw_graphs(
    graphs: dict[str, Graph], kinds: dict[str, dict[str, str]], *, path: str | Path | None = None
) -> Figure:
    """Model and guide side by side as directed graphs, the nodes coloured by what happens at them.

    Args:
        graphs: title -> site -> parents. kinds: title -> site -> one of `KINDS`.
    """
    figure = Figure(figsize=(3.2 * len(graphs), 3.4))
    axes = figure.subplots(1, len(graphs), squeeze=False)
    for axis, (title, sites) in zip(axes[0], graphs.items(), strict=True):
        given = {parent: () for parents in sites.values() for parent in parents if parent not in sites}
        sites = {**given, **sites}
        depth: dict[str, int] = {}
        for name, parents in sites.items():  # sites come in the order of sampling, parents first
            depth[name] = 1 + max((depth[parent] for parent in parents), default=-1)
        where = {}
        for level in set(depth.values()):
            names = [name for name in sites if depth[name] == level]
            where.update({name: (i - (len(names) - 1) / 2, -level) for i, name in enumerate(names)})
        for name, (x, y) in where.items():
            for parent in sites[name]:
                arrow = {"arrowstyle": "-|>", "shrinkA": 17, "shrinkB": 17, "color": "0.3"}
                axis.annotate("", xy=(x, y), xytext=where[parent], arrowprops=arrow)
            colour = KINDS["observed" if name in given else kinds[title][name]]
            axis.scatter([x], [y], s=900, facecolor=colour, edgecolor="0.2", zorder=2)
            axis.text(x, y, name, ha="center", va="center", fontsize=9, zorder=3)
        axis.set_title(title, fontsize=9)
        axis.margins(0.35)
        axis.axis("off")
    handles = [Line2D([], [], marker="o", ls="", mfc=c, mec="0.2", ms=9, label=k) for k, c in KINDS.items()]
    figure.legend(handles=handles, loc="lower center", ncols=3, fontsize=7, frameon=False)
    return _finish(figure, path)


def show(vae: SemiVAE, x: Any = None, y: Any = None, *, path: str | Path | None = None) -> Figure:
    """Draws a model and its guide as they run on a batch, and prints their factorisations, roles and bound.

    Args:
        x, y: rows, as `SemiVAE.table` takes them (default: one without content).
    """
    if x is None and y is not None:
        x = torch.full((len(y), *vae.x_shape), 0.5)
    values = vae.blank(3) if x is None else vae.inputs(x, y)
    check_sites(vae, values)
    report = inspect_model(vae, x, y)
    summed = [name for name in report.labels if name not in vae.continuous_labels]
    kind = {**dict.fromkeys(report.data, "observed"), **dict.fromkeys(summed, "marginalised where missing")}
    graphs = {
        f"model\n{factorisation(report.model, 'p')}": report.model,
        f"guide\n{factorisation(report.guide, 'q')}": report.guide,
    }
    print(report)
    terms = vae.elbo().terms(vae.model, vae.guide, *values)
    print("bound  " + " + ".join(f"{name} [{value.mean().item():.2f}]" for name, value in terms.items()))
    kinds = {title: {name: kind.get(name, "sampled") for name in sites} for title, sites in graphs.items()}
    return draw_graphs(graphs, kinds, path=path)
