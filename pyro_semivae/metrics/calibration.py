"""The calibration of a classifier: whether its confidence equals its accuracy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_semivae.errors import check_count
from pyro_semivae.metrics.checks import check_classes, check_probs
from pyro_semivae.spaces import is_missing


def calibration_error(probs: Tensor, y: Tensor, *, bins: int = 15) -> float:
    """The expected calibration error: the mean of `|confidence - accuracy|` over bins of confidence.

    Confidence is the largest probability; the `bins` divide [0, 1] evenly and are weighted by their numbers of rows
    (Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017, Eq. 3).

    Args:
        probs: `(N, C)` probabilities. y: `(N,)` classes; rows where it is missing (-1) do not count.

    Returns NaN if no label is known.

    >>> round(calibration_error(torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([0, 1])), 6)
    0.4

    Raises:
        InputError: `bins` is not a positive integer; `probs` are not probabilities; the shapes do not fit; `y` is
            outside -1 to C - 1.
    """
    check_count("bins", bins)
    probs = check_probs("probs", probs)
    y = check_classes("probs", probs, y)
    known = ~is_missing(y)
    confidence, found = probs[known].double().max(1)
    if not len(confidence):
        return math.nan
    right = (found == y[known]).double()
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1  # bins (k / n, (k + 1) / n]
    gaps = torch.zeros(bins, dtype=torch.double, device=probs.device).index_add_(0, which, confidence - right)
    return gaps.abs().sum().item() / len(right)
