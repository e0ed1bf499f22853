"""Accuracy of class probabilities, and of binary labels."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor
from pyro_semivae.metrics.checks import check_binary, check_classes, check_probs
from pyro_semivae.spaces import is_missing, label_space


def accuracy(probs: Tensor, y: Tensor) -> float:
    """The fraction of the rows with a known label whose most probable class is that; NaN where no label is known.

    Args:
        probs: `(..., N, C)` probabilities, log-probabilities or logits; leading dimensions are averaged.
        y: `(N,)` classes, -1 where missing.

    >>> accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]), torch.tensor([0, 0, -1]))
    0.5

    Raises:
        InputError: `probs` has NaN; the shapes do not fit; `y` is outside of -1 to C - 1.
    """
    probs = as_tensor("probs", probs)
    if probs.isnan().any():
        raise InputError(f"probs: got NaN in shape {tuple(probs.shape)}; expected probabilities or logits")
    y = check_classes("probs", probs, y, leading=True)
    right = probs.argmax(-1) == y
    return right[..., ~is_missing(y)].double().mean().item()


def confusion(probs: Tensor, y: Tensor) -> Tensor:
    """How many rows of each class (row) have each class as their most probable one (column), int64 `(C, C)`.

    Args:
        probs: `(N, C)` probabilities, log-probabilities or logits. y: `(N,)` classes; missing ones (-1) do not count.

    >>> confusion(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), torch.tensor([0, 0, -1]))
    tensor([[1, 1],
            [0, 0]])

    Raises:
        InputError: the shapes do not fit; `y` is outside of -1 to C - 1.
    """
    y = check_classes("probs", probs, y)
    known, size = ~is_missing(y), probs.shape[-1]
    return torch.bincount(y[known] * size + probs.argmax(-1)[known], minlength=size * size).view(size, size)


def label_accuracy(probs: Tensor, y: Tensor) -> Tensor:
    """The fraction of rows in which each binary label is right (on where its probability is above 1/2), `(L,)`.

    Args:
        probs: `(N, L)` probabilities of on. y: `(N, L)`, 0 or 1; missing ones (NaN) do not count, and a label that is
            missing everywhere gets NaN.

    >>> label_accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    tensor([0.5000, 1.0000], dtype=torch.float64)

    Raises:
        InputError: `probs` is outside of [0, 1]; the shapes differ; `y` has other values.
    """
    probs = check_probs("probs", probs, of_classes=False)
    y = check_binary("probs", probs, y)
    right = ((probs > 0.5) == (y > 0.5)).double()
    return right.where(~y.isnan(), torch.nan).nanmean(0)


def mean_accuracy(probs: Tensor, y: Tensor) -> float:
    """`accuracy` of class labels; of binary ones the mean of `label_accuracy` over the labels of which any is known.

    Raises:
        InputError: see there.
    """
    if label_space(y, 2).entries is None:
        return accuracy(probs, y)
    return label_accuracy(probs, y).nanmean().item()


def balanced_label_accuracy(probs: Tensor, y: Tensor) -> Tensor:
    """The mean of the accuracies where a binary label is on and where it is off, `(L,)`; 1/2 is to know nothing.

    Args:
        probs, y: see `label_accuracy`. A label that has only one value gets NaN.

    >>> balanced_label_accuracy(torch.tensor([[0.1], [0.2], [0.3]]), torch.tensor([[1.0], [0.0], [0.0]]))
    tensor([0.5000], dtype=torch.float64)

    Raises:
        InputError: see `label_accuracy`.
    """
    probs = check_probs("probs", probs, of_classes=False)
    y = check_binary("probs", probs, y)
    return sum(label_accuracy(probs, y.where(y == value, torch.nan)) for value in (0, 1)) / 2
