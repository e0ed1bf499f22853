"""Noise for batches of images, applied to the guide's input in training (see the argument `corrupt` of `fit`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.errors import InputError, check_count, check_number

Corruption = Callable[[Tensor], Tensor] | Mapping[str, Callable[[Tensor], Tensor]]


def shift(x: Tensor, pixels: int = 2) -> Tensor:
    """Shifts each image by up to `pixels` rows and columns, sampled independently and uniformly, with zero padding.

    Shapes: `(B, C, H, W)` in and out.

    Raises:
        InputError: `pixels` is not an integer from 0 to the longer side of the images, or `x` is not a batch of images.

    >>> shift(torch.ones(3, 1, 4, 4), 0).equal(torch.ones(3, 1, 4, 4))
    True
    """
    b, _, h, w = _check_batch(x)
    pixels = check_count("pixels", pixels, 0, max(h, w))
    windows = F.pad(x, (pixels,) * 4).unfold(2, h, 1).unfold(3, w, 1)  # (B, C, 2p + 1, 2p + 1, H, W)
    top, left = torch.randint(0, 2 * pixels + 1, (2, b), device=x.device)
    return windows[torch.arange(b, device=x.device), :, top, left]


def jitter(
    x: Tensor,
    pixels: float = 2.0,
    degrees: float = 15.0,
    zoom: float = 0.15,
    shear: float = 0.0,
    each_axis: bool = False,
) -> Tensor:
    """Translates, rotates, zooms and shears each image by uniform random amounts, with interpolation and zero padding.

    Args:
        pixels: the largest shift along rows and along columns. degrees: the largest rotation in either direction.
            zoom: the largest change of scale, as a fraction: with 0.1 images are scaled by 0.9 to 1.1.
        shear: the largest horizontal shear in either direction, in columns per row of distance from the middle row,
            before the zoom.
        each_axis: sample separate zooms for rows and columns.

    Shapes: `(B, C, H, W)`, floats, in and out.

    Raises:
        InputError: `pixels` or `shear` is not between 0 and the longer side of the images, `degrees` is not between 0
            and 360, `zoom` is not in [0, 1), or `x` is not a batch of float images.
    """
    b, _, h, w = _check_batch(x, floats=True)
    for name, value in (("pixels", pixels), ("shear", shear)):
        check_number(name, value, least=0, most=max(h, w))  # at this shift the whole image is out of view
    check_number("degrees", degrees, least=0, most=360)
    check_number("zoom", zoom, least=0, below=1)

    def drawn(number: int) -> Tensor:
        return 2 * torch.rand(number, b, device=x.device, dtype=x.dtype) - 1

    down, right, turn, size = drawn(4)
    angle, across = turn * (degrees * math.pi / 180), 1 / (1 + zoom * size)
    along = 1 / (1 + zoom * drawn(1)[0]) if each_axis else across
    slant = shear * drawn(1)[0] if shear else 0.0
    cos, sin = angle.cos(), angle.sin()
    # Maps positions in the new image to positions in the old one, in coordinates in [-1, 1] along each axis.
    first = torch.stack([across * cos, (slant * cos - along * sin) * h / w, right * (2 * pixels / w)], -1)
    second = torch.stack([across * sin * w / h, slant * sin + along * cos, down * (2 * pixels / h)], -1)
    with torch.autocast(x.device.type, enabled=False):  # it would round positions to a fifth of a pixel
        grid = F.affine_grid(torch.stack([first, second], 1), x.shape, align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def adversarial(x: Tensor, log_probs: Callable[[Tensor], Tensor], radius: float = 3.0, probe: float = 10.0) -> Tensor:
    """Adds a virtual adversarial perturbation: a step that approximately maximises the change in a classifier's output.

    Its direction is the gradient of KL(p(y|x) || p(y|x + r)) at a random r of length `probe`: one step of the power
    iteration in Miyato et al., *Virtual Adversarial Training*, 2018 (Algorithm 1). Labels are not needed.

    Args:
        log_probs: maps images to the classifier's log-probabilities, along the last dimension; differentiable.
        radius: the L2 norm of the perturbation, in the units of pixel values. Pixels may leave [0, 1].
        probe: the L2 norm of r.

    Shapes: `(B, C, H, W)`, floats, in and out.

    Raises:
        InputError: `radius` or `probe` is not a finite number above 0, or `x` is not a batch of float images.
    """
    _check_batch(x, floats=True)
    check_number("radius", radius, above=0)
    check_number("probe", probe, above=0)
    with torch.enable_grad():
        r = probe * F.normalize(torch.randn_like(x).flatten(1), dim=1).view_as(x)
        r.requires_grad_()
        with torch.no_grad():
            answer = log_probs(x)
        divergence = (answer.exp() * (answer - log_probs(x + r))).sum()
        (gradient,) = torch.autograd.grad(divergence, r)
    return x + radius * F.normalize(gradient.flatten(1), dim=1).view_as(x)


def alternate(x: Tensor, noises: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """Applies noise `i % len(noises)` to image i of a batch; `fit` samples batches in random order.

    Raises:
        InputError: `noises` is empty, or one of them changes the images' shape.
    """
    if not len(noises):
        raise InputError("noises: got none; expected one or more")
    out = torch.empty_like(x)
    for i, noise in enumerate(noises[: len(x)]):
        part = x[i :: len(noises)]
        moved = noise(part)
        if moved.shape != part.shape:
            raise InputError(f"noises: got shape {tuple(moved.shape)} from number {i}; expected {tuple(part.shape)}")
        out[i :: len(noises)] = moved
    return out


def noises_by_site(corrupt: Corruption, sites: Sequence[str]) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Normalises `corrupt` to a mapping from data site to noise; a single noise is for the only data site.

    Raises:
        InputError: a single noise is given for several sites, or noise for an unknown site.
    """
    if not isinstance(corrupt, Mapping) and len(sites) == 1:
        return {sites[0]: corrupt}
    unknown = [name for name in corrupt if name not in sites] if isinstance(corrupt, Mapping) else ()
    if unknown or not isinstance(corrupt, Mapping):
        got = f"noise on {unknown}" if unknown else "one noise for several sites of data"
        raise InputError(f"corrupt: got {got}; expected a mapping from {', '.join(sites)} to noises")
    return corrupt


def only_with_grad(x: Tensor, noise: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies noise only where gradients are enabled. The target of the consistency loss (`consistency_weight`), which
    is computed without gradient, is then the classifier's output for the clean image."""
    return noise(x) if torch.is_grad_enabled() else x


def _check_batch(x: Tensor, floats: bool = False) -> torch.Size:
    """The shape `(B, C, H, W)` of a non-empty batch of images; `floats` requires a float dtype."""
    accepted = f"images (B, C, H, W), B from 1{', floats' if floats else ''}"
    if not isinstance(x, Tensor):
        raise InputError(f"x: got {type(x).__name__}; expected {accepted}")
    if x.dim() != 4 or min(x.shape) < 1 or (floats and not x.is_floating_point()):
        raise InputError(f"x: got {x.dtype} of shape {tuple(x.shape)}; expected {accepted}")
    return x.shape
