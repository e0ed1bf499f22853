"""Characteristic capture: how well a label's own latents, and all others, predict the label's strength."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor, check_count
from pyro_semivae.metrics.checks import check_finite
from pyro_semivae.metrics.regression import held_out_r2


@dataclass(frozen=True)
class Capture:
    """Held-out R^2 per label, `(L,)` arrays, from the label's own latents and from all others, linear and nonlinear.

    0 is the mean strength as prediction, 1 a perfect prediction; NaN if the label is on in too few rows.
    """

    own_linear: np.ndarray
    own_nonlinear: np.ndarray
    others_linear: np.ndarray
    others_nonlinear: np.ndarray

    def mean(self) -> dict[str, float]:
        """The means over the labels that have a value, by field name; NaN if no label has one."""
        return {n: float(v[~np.isnan(v)].mean()) if not np.isnan(v).all() else np.nan for n, v in vars(self).items()}


def characteristic_capture(own: Tensor, others: Tensor, strengths: Tensor, *, min_rows: int = 100) -> Capture:
    """How well latents explain the hidden strengths of labels, among the rows where the label is on.

    On these rows the label itself explains nothing. A regressor (ridge, or support vector regression with a Gaussian
    kernel) is fitted to the first half of the rows and scored on the second half. A negative R^2, worse than the mean,
    counts as 0.

    Args:
        own: `(N, L)` or `(N, L, d)`; entry i is the latents of label i.
        others: `(N, D)`, the remaining latents; the other labels' latents are added to them.
        strengths: `(N, L)` in [0, 1], NaN where the label is off.
        min_rows: a label that is on in fewer rows gets NaN; at least 4.

    Raises:
        InputError: the three differ in their numbers of rows, or `own` and `strengths` in their numbers of labels;
            latents are not finite, or strengths not in [0, 1].
    """
    check_count("min_rows", min_rows, 4)
    own, others = check_finite("own", own), check_finite("others", others)
    strengths = as_tensor("strengths", strengths)
    outside = strengths[(strengths < 0) | (strengths > 1)]
    if outside.numel():
        raise InputError(f"strengths: got {outside[:5].tolist()}; expected 0 to 1, and NaN where a label is off")
    fits = own.dim() in (2, 3) and own.shape[:2] == strengths.shape and others.dim() == 2
    if not fits or len(others) != len(own):
        shapes = ", ".join(str(tuple(part.shape)) for part in (own, others, strengths))
        raise InputError(f"own, others, strengths: got shapes {shapes}; expected (N, L[, d]), (N, D), (N, L)")
    own, others, strengths = (t.detach().cpu().double().numpy() for t in (own, others, strengths))
    own = own.reshape(*own.shape[:2], -1)
    scores: dict[str, list[float]] = {name: [] for name in Capture.__dataclass_fields__}
    for i in range(strengths.shape[1]):
        on = ~np.isnan(strengths[:, i])
        rest = np.concatenate([np.delete(own, i, 1).reshape(len(own), -1), others], 1)
        for whose, features in (("own", own[:, i]), ("others", rest)):
            for kind in ("linear", "nonlinear"):
                enough = on.sum() >= min_rows and features.shape[1] > 0
                last = np.arange(on.sum()) >= on.sum() // 2
                score = held_out_r2(features[on], strengths[on, i], last, kind) if enough else np.nan
                scores[f"{whose}_{kind}"].append(score)
    return Capture(**{name: np.array(values) for name, values in scores.items()})
