"""Noise on batches of images: what a guide may see instead of them in training (see `fit`'s `corrupt`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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


def jitter(
    x: Tensor,
    pixels: float = 2.0,
    degrees: float = 15.0,
    zoom: float = 0.15,
    shear: float = 0.0,
    each_axis: bool = False,
) -> Tensor:
    """Moves, turns, zooms and shears each image by up to so much, each drawn uniformly; zeros come in, pixels are
    interpolated.

    Args:
        pixels: along rows and along columns. degrees: to either side. zoom: as a fraction, 0.1 being 0.9 to 1.1 times.
        shear: how many columns a row moves per row that it is off the middle, to either side, before the zoom.
        each_axis: zoom rows and columns by amounts of their own.

    Shapes: `(B, C, H, W)` in and out.
    """
    if not (all(0 <= most < math.inf for most in (pixels, degrees, shear)) and 0 <= zoom < 1):
        got = f"{pixels}, {degrees}, {zoom}, {shear}"
        raise InputError(f"pixels, degrees, zoom, shear: got {got}; accepted are finite, from 0, zoom below 1")
    b, _, h, w = x.shape

    def drawn(number: int) -> Tensor:
        return 2 * torch.rand(number, b, device=x.device, dtype=x.dtype) - 1

    down, right, turn, size = drawn(4)
    angle, across = turn * (degrees * math.pi / 180), 1 / (1 + zoom * size)
    along = 1 / (1 + zoom * drawn(1)[0]) if each_axis else across
    slant = shear * drawn(1)[0] if shear else 0.0
    cos, sin = angle.cos(), angle.sin()
    # From places in the new image to places in the old one, in coordinates of [-1, 1] along each axis.
    first = torch.stack([across * cos, (slant * cos - along * sin) * h / w, right * (2 * pixels / w)], -1)
    second = torch.stack([across * sin * w / h, slant * sin + along * cos, down * (2 * pixels / h)], -1)
    with torch.autocast(x.device.type, enabled=False):  # which would round places to a fifth of a pixel
        grid = F.affine_grid(torch.stack([first, second], 1), x.shape, align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def adversarial(x: Tensor, log_probs: Callable[[Tensor], Tensor], radius: float = 3.0, probe: float = 10.0) -> Tensor:
    """Moves each image against a classifier: to where, nearby, its answer differs most from the one it gives to `x`.

    The direction is the gradient of KL(p(y|x) || p(y|x + r)) at a random r of length `probe`: one step of the power
    iteration of Miyato et al., *Virtual Adversarial Training*, 2018 (Algorithm 1). No label is needed.

    Args:
        log_probs: the classifier's log-probabilities, along the last dimension; differentiable.
        radius: the length of the step, in the units of pixels. Pixels may leave [0, 1].

    Shapes: `(B, C, H, W)` in and out.
    """
    if not 0 < radius < math.inf or not 0 < probe < math.inf:
        raise InputError(f"radius, probe: got {radius}, {probe}; accepted are finite numbers above 0")
    with torch.enable_grad():
        r = probe * F.normalize(torch.randn_like(x).flatten(1), dim=1).view_as(x)
        r.requires_grad_()
        with torch.no_grad():
            answer = log_probs(x)
        divergence = (answer.exp() * (answer - log_probs(x + r))).sum()
        (gradient,) = torch.autograd.grad(divergence, r)
    return x + radius * F.normalize(gradient.flatten(1), dim=1).view_as(x)


def in_turn(x: Tensor, noises: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """Image i of a batch gets noise i modulo their number; `fit` draws batches in random order."""
    out = torch.empty_like(x)
    for i, noise in enumerate(noises[: len(x)]):
        out[i :: len(noises)] = noise(x[i :: len(noises)])
    return out


def where_learning(x: Tensor, noise: Callable[[Tensor], Tensor]) -> Tensor:
    """Noise where gradients are taken and none elsewhere: the answer that `consistency_weight` asks to keep under noise
    is then the one to the image as it is."""
    return noise(x) if torch.is_grad_enabled() else x
