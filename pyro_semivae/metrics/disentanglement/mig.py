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
    r"""MIG: how much more the best dimension tells of a factor than the second best.

    .. math::
        \frac{1}{F} \sum_j \frac{I(z_{(1)}; v_j) - I(z_{(2)}; v_j)}{H(v_j)}

    with each dimension in `bins` bins of equal width between its extremes. Of a perfect code it is below 1 where a
    factor has more values than there are bins: .896 on the grid of dSprites (40 and 32 values), .996 on that of 3D
    Shapes.

    Args:
        representation: the means of q(z|x), `(N, D)`, D two or more. factors: classes `(N, F)`.
        bins: of each dimension. rows: drawn of all, at most. seed: of the draw.

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
    """The mutual information of each dimension and factor, `(D, F)`, in nats."""
    return np.array([[mutual_info_score(factor, code) for factor in classes.T] for code in bins.T])
