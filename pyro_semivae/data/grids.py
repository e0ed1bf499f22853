"""Grids: images of every combination of some factors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.data import room, sprites
from pyro_semivae.errors import InputError

SIZES = (64, 32)


@dataclass(frozen=True, eq=False)
class Grid:
    """Images of every combination of factors; image n's classes are the digits of n in the mixed radix `sizes`.

    Attributes:
        name: the data set's name. factor_names, sizes: each factor's name and number of classes. x_shape: `(C, H, W)`.
        draw: maps classes `(N, F)` to images, uint8 `(N, C, H, W)`.
        symmetric: names of factors for which several classes may look the same, such as a square's orientation.
        version: the renderer's version, which allows rendered images to be cached; None: they are not cached.
    """

    name: str
    factor_names: tuple[str, ...]
    sizes: tuple[int, ...]
    x_shape: tuple[int, int, int]
    draw: Callable[[Tensor], Tensor]
    symmetric: tuple[str, ...] = ()
    version: int | None = None

    def __len__(self) -> int:
        return math.prod(self.sizes)

    def classes(self, rows: Tensor) -> Tensor:
        """The factors' classes `(N, F)` of the images with these numbers; the last factor varies fastest."""
        return torch.stack(torch.unravel_index(rows, self.sizes), 1)

    def rows(self, classes: Tensor) -> Tensor:
        """The numbers of the images with these classes, `(N,)`: the inverse of `classes`.

        Raises:
            InputError: see `images`.
        """
        classes = self._checked(classes)
        found = torch.zeros(len(classes), dtype=torch.int64)
        for column, size in zip(classes.unbind(1), self.sizes, strict=True):
            found = found * size + column
        return found

    def sample(self, number: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples classes `(N, F)` uniformly."""
        return torch.stack([torch.randint(size, (number,), generator=generator) for size in self.sizes], 1)

    def values(self, classes: Tensor) -> Tensor:
        """Converts classes, or numbers between them, to numbers `(N, F)` in the same order, with mean 0 and variance 1
        over all images.

        Raises:
            InputError: see `images`.
        """
        classes = self._checked(classes, whole=False)
        size = torch.tensor(self.sizes, dtype=torch.get_default_dtype())
        return (classes - (size - 1) / 2) / ((size.square() - 1) / 12).sqrt()

    def images(self, classes: Tensor) -> Tensor:
        """The images with these classes, uint8 `(N, C, H, W)`.

        Raises:
            InputError: they are not integers `(N, F)` from 0 to the factors' sizes.
        """
        return self.draw(self._checked(classes))

    def _checked(self, classes: Tensor, *, whole: bool = True) -> Tensor:
        wrong = classes.dim() != 2 or classes.shape[1] != len(self.sizes)
        if wrong or (whole and classes.is_floating_point()):
            got, kind = f"{classes.dtype} of shape {tuple(classes.shape)}", "integers" if whole else "numbers"
            raise InputError(f"classes: got {got}; expected {kind} (N, {len(self.sizes)})")
        if classes.is_floating_point():
            return classes
        for name, column, size in zip(self.factor_names, classes.unbind(1), self.sizes, strict=True):
            if (outside := (column < 0) | (column >= size)).any():
                raise InputError(f"classes: got {column[outside][0]} for {name}; expected 0 to {size - 1}")
        return classes.long()

    def halved(self) -> Grid:
        """The same grid at half the resolution: means over 2x2 pixels."""
        channels, height, width = self.x_shape

        def draw(classes: Tensor) -> Tensor:
            return torch.cat([_halved(self.draw(part)) for part in classes.split(1000)])

        return replace(self, x_shape=(channels, height // 2, width // 2), draw=draw)


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x.float(), 2).round().to(torch.uint8)


SPRITES = Grid(
    "sprites",
    ("shape", "scale", "orientation", "x", "y"),
    (len(sprites.SHAPES), sprites.SCALES, sprites.ANGLES, sprites.PLACES, sprites.PLACES),
    (1, sprites.PIXELS, sprites.PIXELS),
    sprites.sprite_images,
    ("orientation",),
    version=1,
)
ROOM = Grid(
    "room",
    ("floor", "wall", "object", "scale", "shape", "orientation"),
    (room.HUES, room.HUES, room.HUES, room.SCALES, len(room.SHAPES), room.ANGLES),
    (3, room.PIXELS, room.PIXELS),
    room.room_images,
    version=1,
)
