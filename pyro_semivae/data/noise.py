"""Noise on batches of images: what a guide may see instead of them in training (see `fit`'s `corrupt`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.errors import InputError, check_count, check_number

Corruption = Callable[[Tensor], Tensor] | Mapping[str, Callable[[Tensor], Tensor]]


def shift(x: Tensor, pixels: int = 2) -> Tensor:
    """Moves each image by up to `pixels` rows and columns, sampled independently and uniformly; zeros come in.

    Shapes: `(B, C, H, W)` in and out.

    Raises:
        InputError: `pixels` is no whole number from 0 to the longer side of the images; `x` are none.

    >>> shift(torch.ones(3, 1, 4, 4), 0).equal(torch.ones(3, 1, 4, 4))
    True
    """
    b, _, h, w = _check_batch(x)
    pixels = check_count("pixels", pixels, 0, max(h, w))
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
    """Translates, rotates, zooms and shears each image by uniform random amounts; zeros come in, pixels are
    interpolated.

    Args:
        pixels: along rows and along columns. degrees: to either side. zoom: as a fraction, 0.1 being 0.9 to 1.1 times.
        shear: how many columns a row moves per row that it is off the middle, to either side, before the zoom.
        each_axis: zoom rows and columns by amounts of their own.

    Shapes: `(B, C, H, W)`, floats, in and out.

    Raises:
        InputError: `pixels` or `shear` is no number from 0 to the longer side of the images, `degrees` none from 0 to
            360, `zoom` none from 0 and below 1; `x` are no such images.
    """
    b, _, h, w = _check_batch(x, floats=True)
    for name, value in (("pixels", pixels), ("shear", shear)):
        check_number(name, value, least=0, most=max(h, w))  # all of it is out of sight then
    check_number("degrees", degrees, least=0, most=360)
    check_number("zoom", zoom, least=0, below=1)

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

    Shapes: `(B, C, H, W)`, floats, in and out.

    Raises:
        InputError: a length is no finite number above 0; `x` are no such images.
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
    """Image i of a batch gets noise i modulo their number; `fit` draws batches in random order.

    Raises:
        InputError: there is no noise, or one changes the images' shape.
    """
    if not len(noises):
        raise InputError("noises: got none; expected one or more")
    out = torch.empty_like(x)
    for i, noise in enumerate(noises[: len(x)]):
        part = x[i :: len(noises)]
        moved = noise(part)
        if moved.shape != part.shape:
            raise InputError(f"noises: got shape {tuple(moved.shape)} from number {i}, of {tuple(part.shape)}")
        out[i :: len(noises)] = moved
    return out


def noises_by_site(corrupt: Corruption, sites: Sequence[str]) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """The noise on each site of data: one for the only site, or a mapping from site to noise.

    Raises:
        InputError: one noise for several sites, or noise on a site that there is not.
    """
    if not isinstance(corrupt, Mapping) and len(sites) == 1:
        return {sites[0]: corrupt}
    unknown = [name for name in corrupt if name not in sites] if isinstance(corrupt, Mapping) else ()
    if unknown or not isinstance(corrupt, Mapping):
        got = f"noise on {unknown}" if unknown else "one noise for several sites of data"
        raise InputError(f"corrupt: got {got}; expected a mapping from {', '.join(sites)} to noises")
    return corrupt


def only_with_grad(x: Tensor, noise: Callable[[Tensor], Tensor]) -> Tensor:
    """Noise where gradients are taken and none elsewhere: the answer that `consistency_weight` asks to keep under noise
    is then the one to the image as it is."""
    return noise(x) if torch.is_grad_enabled() else x


def _check_batch(x: Tensor, floats: bool = False) -> torch.Size:
    """The shape `(B, C, H, W)` of a batch of images, none of it 0; `floats`: of floats only."""
    accepted = f"images (B, C, H, W), B from 1{', floats' if floats else ''}"
    if not isinstance(x, Tensor):
        raise InputError(f"x: got {type(x).__name__}; expected {accepted}")
    if x.dim() != 4 or min(x.shape) < 1 or (floats and not x.is_floating_point()):
        raise InputError(f"x: got {x.dtype} of shape {tuple(x.shape)}; expected {accepted}")
    return x.shape
