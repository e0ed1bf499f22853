"""The effect of switching one label on each label: the intervention matrix (CCVAE, D.1, Figs. 10 and 12)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.errors import InputError, as_tensor, check_count
from pyro_semivae.metrics.checks import check_binary, check_classes, check_finite, check_probs, check_rows
from pyro_semivae.spaces import Classes, as_binary, as_labels, is_missing


def intervention_matrix(
    intervene: Callable[[Tensor, Tensor], Tensor],
    reconstruct: Callable[[Tensor], Tensor],
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
) -> Tensor:
    """Entry (r, c): how much switching label c moves log p_c(y_r = 1), in nats, `(L, L)`.

    In each image, label c is set to the opposite of its value in y. The change is relative to the reconstruction, and
    is positive in the direction of the switch (to 1: log p rises; to 0: it falls), so that the two kinds do not cancel.
    The diagonal is the intended effect, the other entries are side effects.

    Args:
        intervene: images, labels to set `(B, L)` with NaN where kept -> images. reconstruct: images -> images.
        logits: images -> an independent classifier's logits `(B, L)`.
        x: `(B, C, H, W)`. y: `(B, L)`; a row whose label c is missing (NaN) does not count in column c, which is NaN
            if all rows are missing.

    Raises:
        InputError: `y` are not binary labels `(B, L)`; logits are not finite, or have another shape.
    """

    def log_p(images: Tensor) -> Tensor:
        found = check_finite("logits", logits(images))
        check_binary("logits", found, y)
        return F.logsigmoid(found)

    y = as_binary(y)
    x = check_rows("x", x, y)
    before, columns = log_p(reconstruct(x)), []
    for c in range(y.shape[1]):
        switched = torch.full_like(y, torch.nan)
        switched[:, c] = 1 - y[:, c]
        change = log_p(intervene(x, switched)) - before
        columns.append(((2 * switched[:, c] - 1)[:, None] * change).double().nanmean(0))
    return torch.stack(columns, 1)


def intervention_pairs(y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """All interventions that set an image of known class to another class, ordered by the new class.

    Args:
        y: `(B,)` classes; images of unknown class (-1) are left out, as theirs may be any.

    Returns the index of the image and the class to set, `(M,)` each, M = (known images) x (classes - 1).

    >>> intervention_pairs(torch.tensor([1, -1, 0]), 2)
    (tensor([0, 2]), tensor([0, 1]))

    Raises:
        InputError: `y` is not `(B,)` or outside -1 to `num_classes` - 1.
    """
    y = Classes(check_count("num_classes", num_classes, 2)).validate(y)
    set_to, rows = ((y != torch.arange(num_classes, device=y.device)[:, None]) & ~is_missing(y)).nonzero().T
    return rows, set_to


def intervention_accuracy(
    intervene: Callable[[Tensor, Tensor], Tensor],
    probs: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    num_classes: int,
) -> float:
    """The fraction of interventions on the class after which a classifier assigns the new class to the image.

    Args:
        intervene: images, classes to set `(B,)` -> images.
        probs: images -> an independent classifier's probabilities `(B, C)`.
        x: `(B, C, H, W)`. y: `(B,)` their classes; images of unknown class (-1) are left out.

    The interventions are those of `intervention_pairs`, evaluated one class at a time. Returns NaN if no label is
    known.

    Raises:
        InputError: see `intervention_pairs`; `x` has another number of rows; `probs` does not return probabilities
            `(B, num_classes)`.
    """
    rows, set_to = intervention_pairs(y, num_classes)
    x, right = check_rows("x", x, as_labels(y)), []
    for c in set_to.unique():
        y_new = set_to[set_to == c]
        found = check_probs("probs", probs(intervene(x[rows[set_to == c]], y_new)))
        right.append((found.argmax(-1) == check_classes("probs", found, y_new)).double())
    return torch.cat(right).mean().item() if right else math.nan


def condition_number(matrix: Tensor) -> float:
    """The ratio of the largest to the smallest singular value; 1 for a multiple of an orthogonal matrix.

    Infinite for a singular matrix, NaN if entries are not finite (those of a label that is missing everywhere).

    Raises:
        InputError: it is not an `(N, M)` matrix.

    >>> condition_number(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
    2.0
    """
    matrix = as_tensor("matrix", matrix).double().cpu().numpy()
    if matrix.ndim != 2 or not matrix.size:
        raise InputError(f"matrix: got shape {matrix.shape}; expected (N, M)")
    return float(np.linalg.cond(matrix)) if np.isfinite(matrix).all() else math.nan


def selectivity(matrix: Tensor) -> float:
    """The mean absolute diagonal entry divided by the mean absolute off-diagonal entry.

    Infinite for a diagonal matrix, NaN for a single label. Entries that are NaN (those of a label that is missing
    everywhere) do not count.

    >>> selectivity(torch.tensor([[2.0, 0.5], [-0.5, 2.0]]))
    4.0

    Raises:
        InputError: the matrix is not square.
    """
    matrix = as_tensor("matrix", matrix).double()
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"matrix: got shape {tuple(matrix.shape)}; expected (L, L)")
    off = ~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    return (matrix.diagonal().abs().nanmean() / matrix[off].abs().nanmean()).item()
