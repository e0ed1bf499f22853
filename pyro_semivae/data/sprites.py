"""Rendered white shapes on black, with the five factors of dSprites (Matthey et al. 2017) and similar images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHAPES = ("square", "ellipse", "heart")
SCALES, ANGLES, PLACES = 6, 40, 32
PIXELS = 64
CHUNK = 512  # images painted at once


def scale_of(index: Tensor) -> Tensor:
    """The shape's scale, .5 to 1."""
    return 0.5 + 0.1 * index


def angle_of(index: Tensor) -> Tensor:
    """The shape's orientation, 0 to 2 pi inclusive, as in dSprites: the first and the last are the same."""
    return 2 * math.pi * index / (ANGLES - 1)


def place_of(index: Tensor) -> Tensor:
    """The shape's position along one axis, 0 to 1."""
    return index / (PLACES - 1)


def sprite_images(classes: Tensor) -> Tensor:
    """Images of one shape each, uint8 `(N, 1, 64, 64)` of 0 and 255, with the sizes and nearly the shapes of dSprites.

    Args:
        classes: `(N, 5)`: shape (3 values), scale (6), orientation (40), position from the left (32) and top (32).
    """
    return torch.cat([_painted(part) for part in classes.split(CHUNK)]) if len(classes) else _painted(classes)


def _painted(classes: Tensor) -> Tensor:
    shape, scale, angle, left, top = (column.double()[:, None, None] for column in classes.unbind(1))
    at = torch.arange(PIXELS, dtype=torch.float64) + 0.5
    dx, dy = at[None, None, :] - 16 - 32 * place_of(left), at[None, :, None] - 16 - 32 * place_of(top)
    s, c = torch.sin(angle_of(angle)), torch.cos(angle_of(angle))
    u, v = (c * dx - s * dy) / scale_of(scale), (s * dx + c * dy) / scale_of(scale)
    inside = torch.where(shape == 0, _square(u, v), torch.where(shape == 1, _ellipse(u, v), _heart(u, v)))
    return (255 * inside).to(torch.uint8).unsqueeze(1)


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) <= 9.6


def _ellipse(u: Tensor, v: Tensor) -> Tensor:
    return (u / 12.8).square() + (v / 7.2).square() <= 1


def _heart(u: Tensor, v: Tensor) -> Tensor:
    """Two discs above a tip with curved sides."""
    discs = (u.abs() - 4.8).square() + (v + 4.4).square() <= 4.8**2
    down = ((v + 4.4) / 12.8).clamp(0, 1)
    return discs | ((v >= -4.4) & (v <= 8.4) & (u.abs() <= 9.6 * (1 - down**1.6)))
