"""Images of every combination of some factors, and what a run takes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.data import room, sprites

SIZES = (64, 32)


@dataclass(frozen=True, eq=False)
class Grid:
    """Images of every combination of factors; image n has the classes that n is in the mixed base of the sizes.

    Attributes:
        name: of the data. factor_names, sizes: of each factor, and how many classes it has. x_shape: `(C, H, W)`.
        draw: the images uint8 `(N, C, H, W)` of classes `(N, F)`.
        symmetric: names of factors of which images of several classes look alike, as a square's orientations do.
        version: of what renders the images, so that a run's may be kept in the cache; None: they are not.
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
        """The factors' classes of images, `(N, F)`, the last factor's the fastest."""
        return torch.stack(torch.unravel_index(rows, self.sizes), 1)

    def rows(self, classes: Tensor) -> Tensor:
        """The numbers of the images with these classes, `(N,)`: `classes` the other way round."""
        found = torch.zeros(len(classes), dtype=torch.int64)
        for column, size in zip(classes.unbind(1), self.sizes, strict=True):
            found = found * size + column
        return found

    def sample(self, number: int, generator: torch.Generator | None = None) -> Tensor:
        """Classes `(N, F)`, each uniform."""
        return torch.stack([torch.randint(size, (number,), generator=generator) for size in self.sizes], 1)

    def values(self, classes: Tensor) -> Tensor:
        """What stands for the classes as numbers, `(N, F)`: in their order, over all images of mean 0, variance 1."""
        size = torch.tensor(self.sizes, dtype=torch.get_default_dtype())
        return (classes - (size - 1) / 2) / ((size.square() - 1) / 12).sqrt()

    def images(self, classes: Tensor) -> Tensor:
        """The images with these classes, uint8 `(N, C, H, W)`."""
        return self.draw(classes)

    def halved(self) -> Grid:
        """The same at half of the resolution: means over 2x2 pixels."""
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
