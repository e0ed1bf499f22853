"""The mutual information gap (Chen et al., NeurIPS 2018)."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import mutual_info_score

from pyro_semivae.errors import check_count
from pyro_semivae.metrics.disentanglement.score import Score, binned, codes_and_factors, drawn


def mutual_information_gap(
    representation: Any, factors: Any, *, bins: int = 20, rows: int = 10_000, seed: int = 0
) -> Score:
    r"""MIG: the gap in mutual information with a factor between the best dimension and the second best.

    .. math::
        \frac{1}{F} \sum_j \frac{I(z_{(1)}; v_j) - I(z_{(2)}; v_j)}{H(v_j)}

    with each dimension in `bins` bins of equal width between its extremes. For a perfect code it is below 1 if a factor
    has more values than there are bins: 0.896 on the grid of dSprites (40 and 32 values). On that of 3D Shapes it is
    above 0.99.

    Args:
        representation: the means of q(z|x), `(N, D)`, D >= 2. factors: classes `(N, F)`.
        bins: the number of bins per dimension. rows: the maximum number of rows, sampled from all. seed: seeds the
            sampling.

    Parts: `information` `(D, F)` and `entropy` `(F,)`, in nats.

    Raises:
        InputError: see `score.codes_and_factors`.

    >>> import torch
    >>> v = torch.cartesian_prod(torch.arange(4), torch.arange(3))
    >>> float(mutual_information_gap(v.double(), v))
    1.0
    """
    codes, classes = codes_and_factors(representation, factors, least_codes=2)
    chosen = drawn(rows, len(codes), np.random.default_rng(seed))
    information = informations(binned(codes[chosen], check_count("bins", bins, 2)), classes[chosen])
    entropy = np.array([mutual_info_score(column, column) for column in classes[chosen].T])
    best = np.sort(information, 0)
    value = ((best[-1] - best[-2]) / entropy).mean()
    return Score(float(value), {"bins": bins, "rows": len(chosen)}, {"information": information, "entropy": entropy})


def informations(bins: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The mutual information between each dimension and each factor, `(D, F)`, in nats."""
    return np.array([[mutual_info_score(factor, code) for factor in classes.T] for code in bins.T])
