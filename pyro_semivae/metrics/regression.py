"""Regression on held-out rows."""

from __future__ import annotations

from typing import Literal

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR


def held_out_r2(
    features: np.ndarray, target: np.ndarray, held_out: np.ndarray, kind: Literal["linear", "nonlinear"] = "linear"
) -> float:
    """R^2 on held-out rows of a regressor fitted to the others: ridge, or support vector with a Gaussian kernel.

    A negative R^2, worse than the mean, counts as 0.

    Args:
        features: `(N, F)`. target: `(N,)`. held_out: `(N,)` mask, with at least two rows on either side.
    """
    regressor = RidgeCV(np.logspace(-3, 3, 7)) if kind == "linear" else SVR(C=0.2, epsilon=0.05)
    regressor = make_pipeline(StandardScaler(), regressor)
    regressor.fit(features[~held_out], target[~held_out])
    return max(0.0, float(regressor.score(features[held_out], target[held_out])))
