"""Modularity and explicitness (Ridgeway and Mozer, NeurIPS 2018)."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from pyro_semivae.errors import InputError, check_count
from pyro_semivae.metrics.disentanglement.mig import informations
from pyro_semivae.metrics.disentanglement.score import Score, binned, codes_and_factors, drawn, halves


def modularity(representation: Any, factors: Any, *, bins: int = 20, rows: int = 10_000, seed: int = 0) -> Score:
    r"""Whether each dimension is informative about one factor only.

    .. math::
        \frac{1}{D} \sum_i 1 - \frac{\sum_j I_{ij}^2 - \max_j I_{ij}^2}{(F - 1) \max_j I_{ij}^2}

    A dimension without information counts as 0.

    Args:
        representation: the means of q(z|x), `(N, D)`. factors: classes `(N, F)`, F >= 2.
        bins, rows, seed: see `mutual_information_gap`.

    Parts: `information` `(D, F)`, in nats.

    Raises:
        InputError: see `score.codes_and_factors`; there is only one factor.
    """
    codes, classes = codes_and_factors(representation, factors)
    if classes.shape[1] < 2:
        raise InputError("factors: got one; expected two or more")
    chosen = drawn(rows, len(codes), np.random.default_rng(seed))
    information = informations(binned(codes[chosen], check_count("bins", bins, 2)), classes[chosen])
    squared = information**2
    best = squared.max(1)
    tells = best > 1e-12
    rest = (squared.sum(1) - best) / ((classes.shape[1] - 1) * np.where(tells, best, 1))
    value = np.where(tells, 1 - rest, 0).mean()
    return Score(float(value), {"bins": bins, "rows": len(chosen)}, {"information": information})


def explicitness(
    representation: Any, factors: Any, *, rows: int = 10_000, rows_test: int = 5_000, seed: int = 0
) -> Score:
    """How well a logistic regression on all dimensions predicts the factors: the area under the ROC curve, one class
    against the rest, averaged over classes and factors. 1 is perfect, 0.5 is chance.

    Args:
        representation: the means of q(z|x), `(N, D)`, which are standardised. factors: classes `(N, F)`.
        rows, rows_test: the numbers of rows for training and for testing; with fewer rows, the same proportions.

    Parts: `of_factor` `(F,)`.

    Raises:
        InputError: see `score.codes_and_factors`; a class is in only one of the two sets of rows.
    """
    codes, classes = codes_and_factors(representation, factors)
    fitted, tested = halves(rows, rows_test, classes, seed)
    scaler = StandardScaler().fit(codes[fitted])
    train, test = scaler.transform(codes[fitted]), scaler.transform(codes[tested])
    found = []
    for j, factor in enumerate(classes.T):
        if unseen := {*factor[tested]} ^ {*factor[fitted]}:
            number, some = len(fitted) + len(tested), sorted(map(int, unseen))[:5]
            got = f"{number} rows, in which classes {some} of column {j} are in one part"
            raise InputError(f"factors: got {got}; expected enough rows for every class to be in both")
        classifier = LogisticRegression(max_iter=1000).fit(train, factor[fitted])
        areas = [
            roc_auc_score(factor[tested] == value, probs)
            for value, probs in zip(classifier.classes_, _probs(classifier, test), strict=True)
        ]
        found.append(np.mean(areas))
    protocol = {"rows": len(fitted), "rows_test": len(tested)}
    return Score(float(np.mean(found)), protocol, {"of_factor": np.array(found)})


def _probs(classifier: LogisticRegression, codes: np.ndarray) -> np.ndarray:
    """The probabilities of the classes, `(classes, N)`."""
    return classifier.predict_proba(codes).T
