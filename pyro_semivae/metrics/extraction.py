"""Which class each value of a partly supervised label has come to stand for (Gemp et al. 2017, Section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.metrics.calibration import calibration_error


def assign(scores: Tensor, num_known: int, how: Literal["greedy", "optimal"] = "greedy") -> list[int]:
    """The class that each value of a label stands for: the first `num_known` are themselves, the rest is assigned.

    Args:
        scores: `(C, C)`, the probability that the image of value r (row) is of class c (column).
        how: `"greedy"`, the paper's: the most probable pair of an unassigned value and an unused class, again and
            again; `"optimal"`: the assignment of the greatest summed log-probability.

    >>> scores = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.6, 0.4], [0.0, 0.7, 0.3]])
    >>> assign(scores, 1, "greedy"), assign(scores, 1, "optimal")
    ([0, 2, 1], [0, 2, 1])

    Raises:
        InputError: `how` is something else.
    """
    if how not in ("greedy", "optimal"):
        raise InputError(f"how: got {how!r}; accepted are 'greedy', 'optimal'")
    assigned = list(range(num_known))
    rest = scores[num_known:, num_known:].double().cpu().numpy()
    if how == "optimal":
        _, columns = linear_sum_assignment(-np.log(np.maximum(rest, 1e-300)))
        return assigned + [num_known + int(c) for c in columns]
    found, left = {}, rest.copy()
    for _ in range(len(rest)):
        r, c = np.unravel_index(left.argmax(), left.shape)
        found[int(r)] = num_known + int(c)
        left[r], left[:, c] = -1.0, -1.0
    return assigned + [found[r] for r in range(len(rest))]


@dataclass(frozen=True)
class Extraction:
    """How well the classes that had no label were found.

    Attributes:
        assigned: the class of each value of the label.
        cross_entropy: the mean of -log q(y | x) over images of classes without labels, in nats.
        accuracy: the fraction of these whose most probable value, of all, stands for their class.
        calibration_error: the expected one, see `calibration_error`, on these.
    """

    assigned: list[int]
    cross_entropy: float
    accuracy: float
    calibration_error: float


def extraction(
    log_probs: Tensor, y: Tensor, scores: Tensor, num_known: int, how: Literal["greedy", "optimal"] = "greedy"
) -> Extraction:
    """What q(y | x) knows of classes that had no label, under an assignment of the label's values to classes.

    Args:
        log_probs: `(N, C)`, log q(y | x) of test images. y: `(N,)` their classes.
        scores, num_known, how: see `assign`.
    """
    assigned = assign(scores, num_known, how)
    value_of = torch.tensor(assigned, device=y.device).argsort()  # class -> value
    unseen = y >= num_known
    log_probs, value = log_probs[unseen], value_of[y[unseen]]
    cross_entropy = -log_probs.gather(1, value[:, None]).double().mean().item()
    accuracy = (log_probs.argmax(1) == value).double().mean().item()
    return Extraction(assigned, cross_entropy, accuracy, calibration_error(log_probs.exp(), value))


def distinct_classes(scores: Tensor) -> int:
    """How many classes the canonical images show, each by its most probable class."""
    return scores.argmax(1).unique().numel()
