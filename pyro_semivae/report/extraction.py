"""Metrics and figures for classes without any labels in training: Gemp et al. 2017, Section 3 and Fig. 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_semivae import evaluators, metrics, tasks
from pyro_semivae.data import ImageData
from pyro_semivae.errors import InputError, as_tensor
from pyro_semivae.files import writable_folder
from pyro_semivae.models import SemiVAE
from pyro_semivae.plot import image_grid, training_curves
from pyro_semivae.report.common import elbo_per_example, missing_labels
from pyro_semivae.spaces import is_missing
from pyro_semivae.streams import RandomStreams
from pyro_semivae.train import History

MANIFOLD = 7  # grid points of z, vertically and horizontally


@torch.no_grad()
def canonical_images(vae: SemiVAE, data: ImageData, labelled_rows: Tensor) -> Tensor:
    """E[x | y, z] for each value of y, with z the mean of q(z | x, y) over the labelled rows (Gemp et al. 2017,
    Section 3).

    Args:
        labelled_rows: indices of training rows with known labels, one or more.

    Returns `(C, ...)`, one image per value of the label.

    Raises:
        InputError: there are no rows, or a row's label is missing.
    """
    device, labelled_rows = next(vae.parameters()).device, as_tensor("labelled_rows", labelled_rows)
    if not len(labelled_rows) or is_missing(data.y[labelled_rows]).any():
        raise InputError(f"labelled_rows: got {len(labelled_rows)} rows; expected one or more with known labels")

    def latents(rows: Tensor) -> Tensor:
        return tasks.infer(vae, data.x[rows].to(device), data.y[rows].to(device))["z"]

    z = torch.cat([latents(rows) for rows in labelled_rows.split(1000)]).mean(0, keepdim=True)
    labels = torch.arange(len(data.label_names), device=device)
    return tasks.decode(vae, {"z": z.expand(len(labels), -1)}, labels)


@torch.no_grad()
def measure_extraction(
    vae: SemiVAE, data: ImageData, labelled_rows: Tensor, num_known: int, *, seed: int = 0
) -> tuple[dict[str, Any], Tensor]:
    """Evaluates a model trained without labels for the classes from `num_known` on, whose label values are therefore
    matched to classes.

    A logistic regression on the training set's pixels classifies the canonical image of each value.

    Args:
        labelled_rows: indices of training rows with known labels.

    Returns a dict of metrics and the canonical images `(C, ...)`. The metrics are `elbo_per_example`; `test_accuracy`
    (on the classes with labels); `cross_entropy_unseen` (nats), `accuracy_unseen` and `calibration_error_unseen` (on
    the other classes, under the paper's greedy assignment), each also as `.._pairwise` and `.._optimal` (the other
    assignments of `metrics.assign`); `distinct_digits` (the number of distinct classes among the canonical images);
    `assigned` (the class of each label value); `evaluator_accuracy`; and `test_labels_missing`, if any are.
    """
    evaluator, evaluator_accuracy = evaluators.logistic_regression(data)
    device = next(vae.parameters()).device
    x, y = data.x_test.to(device), data.y_test.to(device)
    canonical = canonical_images(vae, data, labelled_rows)
    scores = evaluator(canonical)
    log_probs = tasks.in_batches(lambda part: tasks.log_classify(vae, vae.images(part)), x)
    hows = {"": "greedy", "_pairwise": "pairwise", "_optimal": "optimal"}
    found = {end: metrics.extraction(log_probs, y, scores, num_known, how) for end, how in hows.items()}
    with RandomStreams(seed, device):
        elbo = elbo_per_example(vae, x)
    known = y < num_known  # includes missing labels, which `metrics.accuracy` leaves out
    out = {
        "elbo_per_example": elbo,
        "test_accuracy": metrics.accuracy(log_probs[known].exp(), y[known]),
        **{f"cross_entropy_unseen{end}": under.cross_entropy for end, under in found.items()},
        **{f"accuracy_unseen{end}": under.accuracy for end, under in found.items()},
        **{f"calibration_error_unseen{end}": under.calibration_error for end, under in found.items()},
        "distinct_digits": metrics.distinct_classes(scores),
        "assigned": found[""].assigned,
        "evaluator_accuracy": evaluator_accuracy,
    }
    return out | missing_labels(y), canonical


def draw_extraction(
    vae: SemiVAE, data: ImageData, canonical: Tensor, measured: dict[str, Any], history: History, out: str | Path
) -> None:
    """Writes `canonical` (one image per label value; Fig. 2), `manifold` (each value on a grid of z) and `training`."""
    out, values = writable_folder(out, "out"), torch.arange(len(canonical), device=canonical.device)
    names = [f"{value}: {data.label_names[c]}" for value, c in enumerate(measured["assigned"])]
    title = "E[x | y, z], z the mean over the labelled rows; the value of y: the class assigned to it"
    image_grid(canonical.unsqueeze(0), columns=names, title=title, path=out / "canonical.png")
    prior = vae.p_z()
    low, high = prior.support.base_constraint.lower_bound, prior.support.base_constraint.upper_bound
    t = torch.linspace(0.05, 0.95, MANIFOLD, device=values.device)
    first, second = torch.meshgrid(t, t, indexing="ij")  # down, across
    unit = torch.full((MANIFOLD**2, len(low)), 0.5, device=values.device)
    unit[:, 0], unit[:, -1] = first.flatten(), second.flatten()
    images = torch.stack(
        [tasks.decode(vae, {"z": low + unit * (high - low)}, value.expand(len(unit))) for value in values]
    )  # (values, n * n, C, H, W)
    tiles = images.unflatten(1, (MANIFOLD, MANIFOLD)).permute(0, 3, 1, 4, 2, 5).flatten(2, 3).flatten(3, 4)
    per_row = -(-len(tiles) // 2)
    tiles = torch.cat([tiles, tiles.new_ones(2 * per_row - len(tiles), *tiles.shape[1:])]).unflatten(0, (2, per_row))
    title = f"each value of y on a grid of z, its first entry down, its last across; {per_row} values per row"
    image_grid(tiles, title=title, path=out / "manifold.png", cell=2.2)
    training_curves(history, path=out / "training.png")
