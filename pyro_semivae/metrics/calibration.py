"""Whether a classifier is right as often as it says."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, check_count


def calibration_error(probs: Tensor, y: Tensor, *, bins: int = 15) -> float:
    """The expected calibration error: the mean of |confidence - accuracy| over bins of confidence.

    Confidence is the largest probability; the `bins` divide [0, 1] evenly and count by their number of rows (Guo et
    al., *On Calibration of Modern Neural Networks*, ICML 2017, Eq. 3).

    Args:
        probs: `(N, C)`. y: `(N,)` classes.

    >>> round(calibration_error(torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([0, 1])), 6)
    0.4

    Raises:
        InputError: `bins` is not 1, 2, ..., or there are other numbers of probabilities and classes.
    """
    check_count("bins", bins)
    if len(probs) != len(y) or not len(y):
        raise InputError(f"probs, y: got {len(probs)} and {len(y)} rows; accepted are as many of each, 1 or more")
    confidence, found = probs.double().max(1)
    right = (found == y).double()
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1  # bins (k / n, (k + 1) / n]
    gaps = torch.zeros(bins, dtype=torch.double, device=probs.device).index_add_(0, which, confidence - right)
    return gaps.abs().sum().item() / len(y)
