"""Accuracy of class probabilities."""

from __future__ import annotations

from torch import Tensor


def accuracy(probs: Tensor, y: Tensor) -> float:
    """The fraction of rows whose most probable class is the true one.

    Args:
        probs: `(..., B, C)` probabilities or logits. y: `(B,)` labels; leading dimensions are averaged.

    >>> import torch
    >>> accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]))
    0.5
    """
    return (probs.argmax(-1) == y).double().mean().item()
