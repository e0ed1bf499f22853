"""Characteristic capture: how much of a label's strength its own latents know, and how much the others do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from torch import Tensor

from pyro_semivae.errors import InputError


@dataclass(frozen=True)
class Capture:
    """Held-out R^2 per label, `(L,)` arrays: of the label's own latents and of all others, linear and not.

    0 is what the mean strength explains, 1 is all; NaN where the label is on in too few rows.
    """

    own_linear: np.ndarray
    own_nonlinear: np.ndarray
    others_linear: np.ndarray
    others_nonlinear: np.ndarray

    def mean(self) -> dict[str, float]:
        """The means over the labels that have a value, by the names of the fields; NaN where none has."""
        return {n: float(v[~np.isnan(v)].mean()) if not np.isnan(v).all() else np.nan for n, v in vars(self).items()}


def characteristic_capture(own: Tensor, others: Tensor, strengths: Tensor, *, min_rows: int = 100) -> Capture:
    """How well latents explain the hidden strengths of labels, among the rows where the label is on.

    There, the label itself explains nothing. The first half of these rows fits a regressor (ridge; a support vector one
    with a Gaussian kernel), the second half scores it. A negative R^2, worse than the mean, counts as 0.

    Args:
        own: `(N, L)` or `(N, L, d)`, entry i being the latents of label i.
        others: `(N, D)`, the rest; the other labels' latents are added to it.
        strengths: `(N, L)` in [0, 1], NaN where the label is off.
        min_rows: a label that is on in fewer rows gets NaN.

    Raises:
        InputError: the three do not have as many rows, or `own` and `strengths` as many labels.
    """
    if own.shape[:2] != strengths.shape or len(others) != len(own):
        shapes = ", ".join(str(tuple(part.shape)) for part in (own, others, strengths))
        raise InputError(f"own, others, strengths: got shapes {shapes}; accepted are (N, L, ...), (N, D), (N, L)")
    own, others, strengths = (t.detach().cpu().double().numpy() for t in (own, others, strengths))
    own = own.reshape(*own.shape[:2], -1)
    scores: dict[str, list[float]] = {name: [] for name in Capture.__dataclass_fields__}
    for i in range(strengths.shape[1]):
        on = ~np.isnan(strengths[:, i])
        rest = np.concatenate([np.delete(own, i, 1).reshape(len(own), -1), others], 1)
        for whose, features in (("own", own[:, i]), ("others", rest)):
            for kind in ("linear", "nonlinear"):
                enough = on.sum() >= min_rows and features.shape[1] > 0
                score = _held_out_r2(features[on], strengths[on, i], kind) if enough else np.nan
                scores[f"{whose}_{kind}"].append(score)
    return Capture(**{name: np.array(values) for name, values in scores.items()})


def _held_out_r2(features: np.ndarray, target: np.ndarray, kind: str) -> float:
    regressor = RidgeCV(np.logspace(-3, 3, 7)) if kind == "linear" else SVR(C=0.2, epsilon=0.05)
    regressor = make_pipeline(StandardScaler(), regressor)
    half = len(target) // 2
    regressor.fit(features[:half], target[:half])
    return max(0.0, regressor.score(features[half:], target[half:]))
