"""Accuracy of class probabilities, and of binary labels."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(probs: Tensor, y: Tensor) -> float:
    """The fraction of rows whose most probable class is the true one.

    Args:
        probs: `(..., B, C)` probabilities or logits. y: `(B,)` labels; leading dimensions are averaged.

    >>> accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]))
    0.5
    """
    return (probs.argmax(-1) == y).double().mean().item()


def label_accuracy(probs: Tensor, y: Tensor) -> Tensor:
    """The fraction of rows in which each binary label is right (on where its probability is above 1/2), `(L,)`.

    Args:
        probs: `(B, L)` probabilities of on. y: `(B, L)`, 0 or 1; missing ones (NaN) do not count, and a label that is
            missing everywhere gets NaN.

    >>> label_accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    right = ((probs > 0.5) == (y > 0.5)).double()
    return right.where(~y.isnan(), torch.nan).nanmean(0)


def balanced_label_accuracy(probs: Tensor, y: Tensor) -> Tensor:
    """The mean of the accuracies where a binary label is on and where it is off, `(L,)`; 1/2 is to know nothing.

    Args:
        probs, y: see `label_accuracy`. A label that has only one value gets NaN.

    >>> balanced_label_accuracy(torch.tensor([[0.1], [0.2], [0.3]]), torch.tensor([[1.0], [0.0], [0.0]]))
    tensor([0.5000], dtype=torch.float64)
    """
    return sum(label_accuracy(probs, y.where(y == value, torch.nan)) for value in (0, 1)) / 2
