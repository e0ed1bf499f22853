"""Accuracy of class probabilities, and of binary labels."""

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


def label_accuracy(probs: Tensor, y: Tensor) -> Tensor:
    """The fraction of rows in which each binary label is right (on where its probability is above 1/2), `(L,)`.

    Args:
        probs: `(B, L)` probabilities of on. y: `(B, L)`, 0 or 1.

    >>> import torch
    >>> label_accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    return ((probs > 0.5) == (y > 0.5)).double().mean(0)
