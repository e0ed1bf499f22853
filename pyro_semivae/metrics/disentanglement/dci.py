"""Disentanglement, completeness and informativeness (Eastwood and Williams, ICLR 2018)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

from pyro_semivae.errors import check_choice, check_count
from pyro_semivae.metrics.disentanglement.score import Score, codes_and_factors, halves


def dci(
    representation: Any,
    factors: Any,
    *,
    trees: Literal["boosted", "forest"] = "boosted",
    number: int = 100,
    rows: int = 10_000,
    rows_test: int = 5_000,
    seed: int = 0,
) -> Score:
    """DCI: whether each dimension is important for one factor only, and each factor depends on one dimension only.

    The value is the disentanglement: 1 minus the entropy (to base F) of a dimension's importance over factors, averaged
    over dimensions with their importance as weights. The importances are those of decision trees that predict a
    factor's class.

    Args:
        representation: the means of q(z|x), `(N, D)`. factors: classes `(N, F)`.
        trees: `"boosted"`: scikit-learn's gradient boosting, the common choice, whose time grows with the number of
            classes; `"forest"`: a random forest whose splits consider every dimension. The choice changes the values.
            number: the number of trees.
        rows, rows_test: the numbers of rows for training and for testing; with fewer rows, the same proportions.

    Parts: `importance` `(D, F)`; `completeness`, the value with dimensions and factors exchanged; `informativeness`,
    the mean accuracy on the test rows.

    Raises:
        InputError: see `score.codes_and_factors`.
    """
    codes, classes = codes_and_factors(representation, factors)
    check_choice("trees", trees, ("boosted", "forest"))
    check_count("number", number)
    fitted, tested = halves(rows, rows_test, classes, seed)
    importance, right = np.zeros((codes.shape[1], classes.shape[1])), []
    for j, factor in enumerate(classes.T):
        if trees == "boosted":
            model = GradientBoostingClassifier(n_estimators=number, random_state=seed)
        else:
            model = RandomForestClassifier(number, max_features=None, random_state=seed)
        model.fit(codes[fitted], factor[fitted])
        importance[:, j] = np.abs(model.feature_importances_)
        right.append(model.score(codes[tested], factor[tested]))
    parts = {
        "importance": importance,
        "completeness": np.array(_one_each(importance.T)),
        "informativeness": np.array(np.mean(right)),
    }
    protocol = {"trees": trees, "number": number, "rows": len(fitted), "rows_test": len(tested)}
    return Score(_one_each(importance), protocol, parts)


def _one_each(importance: np.ndarray) -> float:
    """1 minus the entropy of each row, to the base of the number of columns; the mean weighted by the rows' sums."""
    sums = importance.sum(1)
    if not sums.any():
        sums = np.ones_like(sums)
    shares = (importance + 1e-11) / (importance + 1e-11).sum(1, keepdims=True)
    base = np.log(max(importance.shape[1], 2))
    alone = 1 + (shares * np.log(shares)).sum(1) / base
    return float((alone * sums / sums.sum()).sum())
