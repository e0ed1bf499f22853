"""What a label's switch does to each label: the intervention matrix (CCVAE, D.1, Figs. 10 and 12)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def intervention_matrix(
    intervene: Callable[[Tensor, Tensor], Tensor],
    reconstruct: Callable[[Tensor], Tensor],
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
) -> Tensor:
    """Entry (r, c): how much switching label c moves log p_c(y_r = 1), in nats, `(L, L)`.

    For each image label c is set to the other value than y's. The change is against the reconstruction, and counts as
    positive in the direction of the switch (on: log p rises; off: it falls), so that the two kinds do not cancel. The
    diagonal is what was asked for, the rest is what came with it.

    Args:
        intervene: images, labels to set `(B, L)` with NaN where kept -> images. reconstruct: images -> images.
        logits: images -> an independent classifier's logits `(B, L)`.
        x: `(B, C, H, W)`. y: `(B, L)`; a row whose label c is missing (NaN) does not count in column c.
    """
    before = F.logsigmoid(logits(reconstruct(x)))
    columns = []
    for c in range(y.shape[1]):
        switched = torch.full_like(y, torch.nan)
        switched[:, c] = 1 - y[:, c]
        change = F.logsigmoid(logits(intervene(x, switched))) - before
        columns.append(((2 * switched[:, c] - 1)[:, None] * change).double().nanmean(0))
    return torch.stack(columns, 1)


def intervention_accuracy(
    intervene: Callable[[Tensor, Tensor], Tensor],
    probs: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    num_classes: int,
) -> float:
    """How often an image whose class is set to another one is of that class: the fraction of all such interventions.

    Args:
        intervene: images, classes to set `(B,)` -> images. probs: images -> an independent classifier's `(B, C)`.
        x: `(B, C, H, W)`. y: `(B,)` their classes.
    """
    right = []
    for c in range(num_classes):
        others = x[y != c]
        set_to = torch.full((len(others),), c, device=y.device)
        right.append((probs(intervene(others, set_to)).argmax(-1) == c).double())
    return torch.cat(right).mean().item()


def condition_number(matrix: Tensor) -> float:
    """The ratio of the largest to the smallest singular value; 1 for a multiple of an orthogonal matrix.

    Infinite for a singular matrix, NaN for one with entries that are not finite.
    """
    matrix = matrix.cpu().numpy()
    return float(np.linalg.cond(matrix)) if np.isfinite(matrix).all() else math.nan


def selectivity(matrix: Tensor) -> float:
    """The mean |diagonal| over the mean |off-diagonal|; infinite for a diagonal matrix, NaN for a single label.

    >>> selectivity(torch.tensor([[2.0, 0.5], [-0.5, 2.0]]))
    4.0
    """
    size = len(matrix)
    off = ~torch.eye(size, dtype=torch.bool, device=matrix.device)
    return (matrix.diagonal().abs().mean() / matrix[off].abs().mean()).item()
