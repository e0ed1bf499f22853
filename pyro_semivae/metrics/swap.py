"""How well characteristics are preserved in another image: the swap difference (CCVAE, Table 2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, check_count
from pyro_semivae.metrics.checks import check_finite, check_labels, check_rows
from pyro_semivae.spaces import label_space


def log_prob_of_labels(logits: Tensor, y: Tensor) -> Tensor:
    """log p(y) of labels under a classifier's logits; NaN where y is missing.

    Shapes of `y`, logits and the result: `(N, L)`, `(N, L)`, `(N, L)` for binary labels; `(N,)`, `(N, C)`, `(N,)` for
    class labels.

    Raises:
        InputError: the shapes do not fit, `y` is outside the label space, or logits are not finite.
    """
    logits = check_finite("logits", logits)
    y = check_labels("logits", logits, y)
    return label_space(y, logits.shape[-1]).log_prob(logits, y)


def swap_difference(
    swap: Callable[[Tensor, Tensor], Tensor],
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    num_partners: int = 5,
    seed: int = 0,
) -> float:
    """The mean of `|log p_c(y_i|x) - log p_c(y_i|x')|` over rows, labels and partners, in nats; lower is better.

    x' has the characteristics of x and the other latents of a random partner, p_c is an independent classifier, and y
    are the labels of x. CCVAE's Table 2 reports "the average difference in log probabilities for multiple swaps"; that
    the difference is absolute, and for the labels of x, is our interpretation.

    Args:
        swap: images with the characteristics, images with the other latents -> images.
        logits: images -> the classifier's logits `(B, L)`, or `(B, C)` for a class label.
        x: `(B, C, H, W)` images, two or more. y: their labels, `(B, L)` or `(B,)`; missing ones do not count.
        num_partners: the number of partners of each image (REVAE: 20), never itself. seed: seeds their choice.

    The images are swapped 500 at a time, to limit memory. Returns NaN if no label is known.

    Raises:
        InputError: `num_partners` is not a positive integer, or there is only one image; otherwise see
            `log_prob_of_labels`.
    """
    check_count("num_partners", num_partners)
    x = check_rows("x", x)
    if len(x) < 2:
        raise InputError(f"x: got {len(x)} images; expected two or more, as a partner is another image")
    generator = torch.Generator().manual_seed(seed)
    before = log_prob_of_labels(logits(x), y)
    differences = []
    for _ in range(num_partners):
        order = torch.randperm(len(x), generator=generator)
        partner = torch.empty_like(order).index_copy_(0, order, order.roll(1)).to(x.device)
        rows = torch.arange(len(x), device=x.device).split(500)
        after = torch.cat([logits(swap(x[part], x[partner[part]])) for part in rows])
        differences.append((log_prob_of_labels(after, y) - before).abs().double().nanmean())
    return torch.stack(differences).mean().item()
