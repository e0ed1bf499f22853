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
    """The accuracy of a logistic regression that predicts the factor that pairs of rows share.

    A point is the mean of |r(x) - r(x')| over `batch` pairs of rows with the same value of one factor and random values
    of the others. The regression is scikit-learn's, with up to 1,000 iterations. With a single factor the score is 1.

    Args:
        representation: the means of q(z|x), `(N, D)`. factors: classes `(N, F)`, sampled independently.
        points, points_test: the numbers of points for training and for testing. batch: the pairs per point.

    Raises:
        InputError: see `score.codes_and_factors`.
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
    classifier = LogisticRegression(max_iter=1000).fit(found[:points], factor[:points])
    return Score(float(classifier.score(found[points:], factor[points:])), protocol)
