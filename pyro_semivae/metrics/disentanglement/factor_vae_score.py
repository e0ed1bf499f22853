"""FactorVAE's score (Kim and Mnih, ICML 2018): which dimension varies least if a factor is constant."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyro_semivae.errors import check_count, check_number
from pyro_semivae.metrics.disentanglement.score import Groups, Score, codes_and_factors

CHUNK = 1000  # votes at once


def factor_vae_score(
    representation: Any,
    factors: Any,
    *,
    votes: int = 10_000,
    votes_test: int = 5_000,
    batch: int = 64,
    least_deviation: float = 0.05,
    seed: int = 0,
) -> Score:
    """The accuracy of predicting the factor that was held constant from the dimension that varied least.

    For each vote, `batch` rows with the same value of a random factor are sampled (with replacement). The dimension
    with the least variance, relative to its variance over all rows, votes for the factor. Each dimension then predicts
    the factor that it voted for most often, and the score is the accuracy of these predictions on other votes.

    Args:
        representation: the means of q(z|x), `(N, D)`. factors: classes `(N, F)`, sampled independently.
        votes, votes_test: the numbers of votes for training and for testing. batch: the rows per vote.
        least_deviation: dimensions with a smaller standard deviation do not vote; if none is left, the score is 0.

    Parts: `votes` `(F, D)`, of the training votes.

    Raises:
        InputError: see `score.codes_and_factors`.
    """
    codes, classes = codes_and_factors(representation, factors)
    check_count("batch", batch, 2)
    rng = np.random.default_rng(seed)
    deviation = codes.std(0, ddof=1)
    active = deviation >= check_number("least_deviation", least_deviation, least=0)
    active &= deviation > 0
    protocol = {
        "votes": check_count("votes", votes),
        "votes_test": check_count("votes_test", votes_test),
        "batch": batch,
        "rows": len(codes),
        "active": int(active.sum()),
    }
    table = np.zeros((classes.shape[1], codes.shape[1]))
    if not active.any():
        return Score(0.0, protocol, {"votes": table})
    groups, scaled = Groups(classes), codes[:, active] / deviation[active]
    factor, dimension = _votes(scaled, groups, votes + votes_test, batch, rng)
    dimension = active.nonzero()[0][dimension]
    np.add.at(table, (factor[:votes], dimension[:votes]), 1)
    right = table.argmax(0)[dimension[votes:]] == factor[votes:]
    return Score(float(right.mean()), protocol, {"votes": table})


def _votes(
    scaled: np.ndarray, groups: Groups, number: int, batch: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The factor that was held constant and the dimension that varied least, `(number,)` each."""
    factor = rng.integers(groups.factors.shape[1], size=number)
    rows = rng.integers(len(scaled), size=number)
    dimension = np.zeros(number, np.int64)
    for j in np.unique(factor):
        of = (factor == j).nonzero()[0]
        for part in np.array_split(of, -(-len(of) // CHUNK)):
            drawn = groups.like(rows[part], j, batch, rng)
            dimension[part] = scaled[drawn].var(1, ddof=1).argmin(1)
    return factor, dimension
