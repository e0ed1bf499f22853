"""The class that each value of a partly supervised label represents (Gemp et al. 2017, Section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor, check_count
from pyro_semivae.metrics.calibration import calibration_error
from pyro_semivae.metrics.checks import check_classes, check_probs

How = Literal["greedy", "pairwise", "optimal"]


def assign(scores: Tensor, num_known: int, how: How = "greedy") -> list[int]:
    """The class that each value of a label represents: the first `num_known` are their own, the others are assigned.

    `"greedy"` is the paper's: "If j = arg max_i p(digit = i | image) is unique to a single dimension, we assign that
    dimension the digit j. We use the highest probability to split ties otherwise." The arg max is over all classes,
    including the known ones. The paper does not define the class of values whose arg max is a known class, or that lose
    a tie: here they get the remaining classes by `"pairwise"`.

    Args:
        scores: `(C, C)`, the probability that the image of value r (row) has class c (column).
        num_known: the number of values that represent their own class.
        how: `"greedy"`; `"pairwise"`: repeatedly the most probable pair of an unassigned value and an unused class,
            whatever the arg max is; `"optimal"`: the assignment with the greatest sum of log-probabilities.

    >>> scores = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.45, 0.05], [0.3, 0.4, 0.3]])
    >>> assign(scores, 1, "greedy"), assign(scores, 1, "pairwise"), assign(scores, 1, "optimal")
    ([0, 2, 1], [0, 1, 2], [0, 1, 2])

    Raises:
        InputError: `how` is something else; `scores` are not square, or not probabilities; `num_known` is not 0 to C.
    """
    if how not in get_args(How):
        raise InputError(f"how: got {how!r}; expected {', '.join(map(repr, get_args(How)))}")
    scores = _check_scores(scores)
    if scores.shape[0] != scores.shape[1]:
        raise InputError(f"scores: got shape {tuple(scores.shape)}; expected (C, C)")
    if check_count("num_known", num_known, 0) > len(scores):
        raise InputError(f"num_known: got {num_known}; expected 0 to {len(scores)}")
    scores, values = scores.double().cpu().numpy(), range(num_known, len(scores))
    if how == "optimal":
        _, columns = linear_sum_assignment(-np.log(np.maximum(scores[num_known:, num_known:], 1e-300)))
        return [*range(num_known), *(num_known + int(c) for c in columns)]
    found = {value: value for value in range(num_known)}
    if how == "greedy":
        likely = scores.argmax(1)
        for c in values:
            if claims := [r for r in values if likely[r] == c]:
                found[max(claims, key=lambda r: scores[r, c])] = c
    left = scores.copy()
    left[list(found)], left[:, list(found.values())] = -1.0, -1.0
    while len(found) < len(scores):
        r, c = map(int, np.unravel_index(left.argmax(), left.shape))
        found[r] = c
        left[r], left[:, c] = -1.0, -1.0
    return [found[r] for r in range(len(scores))]


def _check_scores(scores: Tensor) -> Tensor:
    scores = check_probs("scores", scores, of_classes=False)
    if scores.dim() != 2 or not scores.numel():
        raise InputError(f"scores: got shape {tuple(scores.shape)}; expected a row of C probabilities per value")
    return scores


@dataclass(frozen=True)
class Extraction:
    """How well the classes without labels were found.

    Attributes:
        assigned: the class of each value of the label.
        cross_entropy: the mean of -log q(y | x) over images of classes without labels, in nats.
        accuracy: the fraction of these images whose most probable value, of all values, represents their class.
        calibration_error: the expected calibration error on these images, see `calibration_error`.
    """

    assigned: list[int]
    cross_entropy: float
    accuracy: float
    calibration_error: float


def extraction(log_probs: Tensor, y: Tensor, scores: Tensor, num_known: int, how: How = "greedy") -> Extraction:
    """Evaluates q(y | x) on the classes without labels, with an assignment of the label's values to classes.

    Args:
        log_probs: `(N, C)`, log q(y | x) of test images. y: `(N,)` their classes; missing ones (-1) do not count.
        scores, num_known, how: see `assign`.

    If there is no known image of a class without labels, all attributes except `assigned` are NaN.

    Raises:
        InputError: `log_probs` are not logarithms of probabilities; the shapes do not fit; `y` is outside -1 to C - 1;
            otherwise see `assign`.
    """
    log_probs = as_tensor("log_probs", log_probs)
    check_probs("log_probs.exp()", log_probs.exp())
    y = check_classes("log_probs", log_probs, y)
    assigned = assign(scores, num_known, how)
    if len(assigned) != log_probs.shape[1]:
        shapes = f"{tuple(log_probs.shape)} and {len(assigned)} rows"
        raise InputError(f"log_probs, scores: got {shapes}; expected (N, C) and (C, C)")
    value_of = torch.tensor(assigned, device=y.device).argsort()  # class -> value
    unseen = y >= num_known  # so these are not missing
    log_probs, value = log_probs[unseen], value_of[y[unseen]]
    cross_entropy = -log_probs.gather(1, value[:, None]).double().mean().item()
    accuracy = (log_probs.argmax(1) == value).double().mean().item()
    return Extraction(assigned, cross_entropy, accuracy, calibration_error(log_probs.exp(), value))


def distinct_classes(scores: Tensor) -> int:
    """The number of different classes among the canonical images, each classified by its most probable class.

    Args:
        scores: `(V, C)`, the probabilities of the classes for each image.

    >>> distinct_classes(torch.tensor([[0.9, 0.1], [0.6, 0.4]]))
    1

    Raises:
        InputError: they are not probabilities.
    """
    return _check_scores(scores).argmax(1).unique().numel()
