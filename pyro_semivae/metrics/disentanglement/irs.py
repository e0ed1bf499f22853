"""The interventional robustness score (Suter et al., ICML 2019)."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyro_semivae.errors import check_count, check_number
from pyro_semivae.metrics.disentanglement.score import Score, binned, codes_and_factors, drawn


def robustness(
    representation: Any, factors: Any, *, quantile: float = 0.99, bins: int = 20, rows: int = 10_000, seed: int = 0
) -> Score:
    """IRS: how little a dimension changes if its factor is constant and the others vary.

    For a dimension and a factor: take the rows with one value of the factor, the `quantile` of their distances to their
    mean, and average over the values. The score is 1 minus this average divided by the greatest distance of any row to
    the mean of all rows. A dimension has the score of its best factor. The value is the mean over dimensions, weighted
    by the greatest distances.

    Args:
        representation: the means of q(z|x), `(N, D)`; dimensions that do not vary are left out. factors: classes
            `(N, F)`; neighbouring classes are merged if there are more than `bins`.
        quantile: 1 in the paper, commonly 0.99. rows, seed: see `mutual_information_gap`.

    Parts: `scores` `(D, F)`, for the dimensions that vary.

    Raises:
        InputError: see `score.codes_and_factors`.
    """
    codes, classes = codes_and_factors(representation, factors)
    check_number("quantile", quantile, above=0, most=1)
    chosen = drawn(rows, len(codes), np.random.default_rng(seed))
    check_count("bins", bins, 2)
    ranks = np.stack([np.unique(column, return_inverse=True)[1].reshape(-1) for column in classes[chosen].T], 1)
    codes, classes = codes[chosen], binned(ranks.astype(np.float64), bins)
    codes = codes[:, codes.var(0) > 0]
    protocol = {"quantile": quantile, "bins": bins, "rows": len(chosen), "active": codes.shape[1]}
    if not codes.shape[1]:
        return Score(0.0, protocol, {"scores": np.zeros((0, classes.shape[1]))})
    greatest = np.abs(codes - codes.mean(0)).max(0)
    scores = np.stack([1 - _moved(codes, factor, quantile) / greatest for factor in classes.T], 1)
    value = np.average(scores.max(1), weights=greatest)
    return Score(float(value), protocol, {"scores": scores})


def _moved(codes: np.ndarray, factor: np.ndarray, quantile: float) -> np.ndarray:
    """The `quantile` of each dimension's distances to the mean for a factor's value, averaged over values, `(D,)`."""
    found = []
    for value in np.unique(factor):
        group = codes[factor == value]
        found.append(np.quantile(np.abs(group - group.mean(0)), quantile, axis=0))
    return np.mean(found, 0)
