"""How well characteristics survive in another image: the swap difference (CCVAE, Table 2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def log_prob_of_labels(logits: Tensor, y: Tensor) -> Tensor:
    """log p(y_i) of binary labels `y` `(B, L)` under a classifier's `logits` `(B, L)`, elementwise."""
    return F.logsigmoid(torch.where(y > 0.5, logits, -logits))


def swap_difference(
    swap: Callable[[Tensor, Tensor], Tensor],
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    num_partners: int = 5,
    seed: int = 0,
) -> float:
    """The mean |log p_c(y_i | x) - log p_c(y_i | x')| over rows, labels and partners, in nats; lower is better.

    x' has the characteristics of x and the rest of a random partner, p_c is an independent classifier, y are the labels
    of x. CCVAE's Table 2 reports "the average difference in log probabilities for multiple swaps"; that the difference
    is absolute and of the labels of x is our reading.

    Args:
        swap: images whose characteristics to take, images whose rest to take -> images.
        logits: images -> the classifier's logits `(B, L)`.
        x: `(B, C, H, W)` images. y: `(B, L)` their labels.
        num_partners: how many partners every image gets (REVAE: 20). seed: of their choice.
    """
    generator = torch.Generator().manual_seed(seed)
    before = log_prob_of_labels(logits(x), y)
    differences = []
    for _ in range(num_partners):
        partner = torch.randperm(len(x), generator=generator).to(x.device)
        after = log_prob_of_labels(logits(swap(x, x[partner])), y)
        differences.append((after - before).abs().double().mean())
    return torch.stack(differences).mean().item()
