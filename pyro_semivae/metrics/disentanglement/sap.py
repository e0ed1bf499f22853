"""The separated attribute predictability (Kumar et al., ICLR 2018)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from sklearn.svm import LinearSVC

from pyro_semivae.errors import check_choice
from pyro_semivae.metrics.disentanglement.score import Score, codes_and_factors, halves


def separated_predictability(
    representation: Any,
    factors: Any,
    *,
    kind: Literal["discrete", "continuous"] = "discrete",
    rows: int = 10_000,
    rows_test: int = 5_000,
    seed: int = 0,
) -> Score:
    """SAP: how much better the best single dimension predicts a factor than the second best, averaged over factors.

    Args:
        representation: the means of q(z|x), `(N, D)`, D >= 2. factors: classes `(N, F)`.
        kind: `"discrete"`: the accuracy of a linear support vector machine on one dimension (C = 0.01, balanced
            classes); `"continuous"`: the squared correlation, with a factor's classes as numbers, on the `rows` alone.
        rows, rows_test: the numbers of rows for training and for testing; with fewer rows, the same proportions.

    Parts: `scores` `(D, F)`.

    Raises:
        InputError: see `score.codes_and_factors`.
    """
    codes, classes = codes_and_factors(representation, factors, least_codes=2)
    check_choice("kind", kind, ("discrete", "continuous"))
    fitted, tested = halves(rows, rows_test, classes, seed)
    of = _accuracies if kind == "discrete" else _correlations
    scores = of(codes[fitted], classes[fitted], codes[tested], classes[tested])
    best = np.sort(scores, 0)
    protocol = {"kind": kind, "rows": len(fitted), "rows_test": len(tested)}
    return Score(float((best[-1] - best[-2]).mean()), protocol, {"scores": scores})


def _accuracies(codes: np.ndarray, classes: np.ndarray, codes_test: np.ndarray, classes_test: np.ndarray) -> np.ndarray:
    scores = np.zeros((codes.shape[1], classes.shape[1]))
    for i, (code, code_test) in enumerate(zip(codes.T, codes_test.T, strict=True)):
        for j, (factor, factor_test) in enumerate(zip(classes.T, classes_test.T, strict=True)):
            machine = LinearSVC(C=0.01, class_weight="balanced", max_iter=5000).fit(code[:, None], factor)
            scores[i, j] = machine.score(code_test[:, None], factor_test)
    return scores


def _correlations(codes: np.ndarray, classes: np.ndarray, *_: np.ndarray) -> np.ndarray:
    codes, classes = _standardised(codes), _standardised(classes.astype(np.float64))
    return (codes.T @ classes / len(codes)) ** 2


def _standardised(columns: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and variance 1; zeros where they do not vary by more than rounding."""
    deviation = columns.std(0)
    varies = deviation > 1e-12 * np.abs(columns).max(0)
    return np.where(varies, (columns - columns.mean(0)) / np.where(varies, deviation, 1.0), 0.0)
