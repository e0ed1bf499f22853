"""Accuracy of class probabilities, and of binary labels."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor
from pyro_semivae.metrics.checks import check_binary, check_classes, check_probs
from pyro_semivae.spaces import is_missing, label_space


def accuracy(probs: Tensor, y: Tensor) -> float:
    """The fraction of rows with a known label whose most probable class is the label; NaN if no label is known.

    Args:
        probs: `(..., N, C)` probabilities, log-probabilities or logits; leading dimensions are averaged.
        y: `(N,)` classes, -1 where missing.

    >>> accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]), torch.tensor([0, 0, -1]))
    0.5

    Raises:
        InputError: `probs` has NaN; the shapes do not fit; `y` is outside -1 to C - 1.
    """
    probs = as_tensor("probs", probs)
    if probs.isnan().any():
        raise InputError(f"probs: got NaN in shape {tuple(probs.shape)}; expected probabilities or logits")
    y = check_classes("probs", probs, y, leading=True)
    right = probs.argmax(-1) == y
    return right[..., ~is_missing(y)].double().mean().item()


def confusion(probs: Tensor, y: Tensor) -> Tensor:
    """The confusion matrix, int64 `(C, C)`: counts of the true class (row) and the most probable class (column).

    Args:
        probs: `(N, C)` probabilities, log-probabilities or logits. y: `(N,)` classes; missing ones (-1) do not count.

    >>> confusion(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), torch.tensor([0, 0, -1]))
    tensor([[1, 1],
            [0, 0]])

    Raises:
        InputError: the shapes do not fit; `y` is outside -1 to C - 1.
    """
    y = check_classes("probs", probs, y)
    known, size = ~is_missing(y), probs.shape[-1]
    return torch.bincount(y[known] * size + probs.argmax(-1)[known], minlength=size * size).view(size, size)


def label_accuracy(probs: Tensor, y: Tensor) -> Tensor:
    """The accuracy of each binary label, `(L,)`, which is predicted as 1 if its probability is above 1/2.

    Args:
        probs: `(N, L)` probabilities of 1. y: `(N, L)`, 0 or 1; missing labels (NaN) do not count, and a label that is
            missing everywhere gets NaN.

    >>> label_accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    tensor([0.5000, 1.0000], dtype=torch.float64)

    Raises:
        InputError: `probs` is outside [0, 1]; the shapes differ; `y` has other values.
    """
    probs = check_probs("probs", probs, of_classes=False)
    y = check_binary("probs", probs, y)
    right = ((probs > 0.5) == (y > 0.5)).double()
    return right.where(~y.isnan(), torch.nan).nanmean(0)


def mean_accuracy(probs: Tensor, y: Tensor) -> float:
    """`accuracy` for class labels; for binary labels the mean of `label_accuracy` over labels with any known value.

    Raises:
        InputError: see there.
    """
    if label_space(y, 2).entries is None:
        return accuracy(probs, y)
    return label_accuracy(probs, y).nanmean().item()


def balanced_label_accuracy(probs: Tensor, y: Tensor) -> Tensor:
    """The mean of a binary label's accuracies on rows where it is 1 and on rows where it is 0, `(L,)`; 1/2 is chance.

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
