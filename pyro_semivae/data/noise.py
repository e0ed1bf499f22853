"""Noise on batches of images: what a guide may see instead of them in training (see `fit`'s `corrupt`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.errors import InputError


def shift(x: Tensor, pixels: int = 2) -> Tensor:
    """Moves each image by up to `pixels` rows and columns, drawn independently and uniformly; zeros come in.

    Shapes: `(B, C, H, W)` in and out.

    >>> shift(torch.ones(3, 1, 4, 4), 0).equal(torch.ones(3, 1, 4, 4))
    True
    """
    if pixels < 0:
        raise InputError(f"pixels: got {pixels}; accepted are 0, 1, ...")
    b, _, h, w = x.shape
    padded = F.pad(x, (pixels,) * 4).movedim(1, -1)  # (B, H + 2p, W + 2p, C)
    top, left = torch.randint(0, 2 * pixels + 1, (2, b, 1), device=x.device)
    rows = top + torch.arange(h, device=x.device)  # (B, H)
    columns = left + torch.arange(w, device=x.device)  # (B, W)
    batch = torch.arange(b, device=x.device)[:, None, None]
    return padded[batch, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
