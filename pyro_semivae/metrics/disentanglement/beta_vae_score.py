"""beta-VAE's score (Higgins et al., ICLR 2017): which factor two images share, from how their codes differ."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from pyro_semivae.errors import check_count
from pyro_semivae.metrics.disentanglement.score import Groups, Score, codes_and_factors

CHUNK = 1000  # points at once


def beta_vae_score(
    representation: Any,
    factors: Any,
    *,
    points: int = 10_000,
    points_test: int = 5_000,
    batch: int = 64,
    seed: int = 0,
) -> Score:
    """The accuracy of a logistic regression that tells the factor which pairs of rows share.

    A point is the mean of |r(x) - r(x')| over `batch` pairs that have the same value of one factor, the others as they
    come. The regression is scikit-learn's, with up to 1,000 iterations.

    Args:
        representation: the means of q(z|x), `(N, D)`. factors: classes `(N, F)`, drawn independently.
        points, points_test: to fit and to judge.

    Raises:
        InputError: see `score.codes_and_factors`; there is one factor only.
    """
    codes, classes = codes_and_factors(representation, factors)
    check_count("batch", batch)
    number = check_count("points", points, 2), check_count("points_test", points_test)
    rng = np.random.default_rng(seed)
    groups = Groups(classes)
    factor = rng.integers(classes.shape[1], size=sum(number))
    found = np.zeros((sum(number), codes.shape[1]))
    for j in np.unique(factor):
        of = (factor == j).nonzero()[0]
        for part in np.array_split(of, -(-len(of) // CHUNK)):
            first = rng.integers(len(codes), size=(len(part), batch))
            second = groups.like(first.reshape(-1), j, 1, rng).reshape(first.shape)
            found[part] = np.abs(codes[first] - codes[second]).mean(1)
    protocol = {"points": points, "points_test": points_test, "batch": batch, "rows": len(codes)}
    if classes.shape[1] == 1:
        return Score(1.0, protocol)
    told = LogisticRegression(max_iter=1000).fit(found[:points], factor[:points])
    return Score(float(told.score(found[points:], factor[points:])), protocol)
