"""Strided convolutions with instance normalisation, and pairs of families (Nie et al. 2020, Table D.2)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from pyro_semivae.errors import InputError, check_count
from pyro_semivae.nn.ends import Decoder, Encoder
from pyro_semivae.nn.mlp import Coded, Shape, parent_of, size_of
from pyro_semivae.nn.networks import MLPs, Networks

SIDES = (32, 64, 128, 256)


@dataclass(frozen=True)
class InstanceNormConvs(Networks):
    """LaRVAE's networks, for square images with sides of 32, 64, 128 or 256 pixels.

    At 64x64 they are those of Table D.2 (Locatello et al.'s with instance normalisation before each ReLU). The encoder
    has convolutions of stride 2, two 4x4 with `width` channels and two 2x2 with twice as many, and a linear layer to
    `hidden` units. The decoder has linear layers to `hidden` units and to 4x4 pixels, and four 4x4 transposed
    convolutions. Larger images have more of the layers with `width` channels in both; images of 32x32 have one
    transposed convolution fewer.

    Args:
        width: channels of the first convolution. hidden: units of the linear layers. normalise: whether to use instance
            normalisation.

    Raises:
        InputError: a size is not a positive integer; when it makes a network: images have another size.
    """

    width: int = 32
    hidden: int = 256
    normalise: bool = True

    def __post_init__(self) -> None:
        check_count("width", self.width)
        check_count("hidden", self.hidden)

    def encoder(self, x_shape: Shape, out_size: int, extra: Sequence[int | Coded] = ()) -> nn.Module:
        side, width = _side(x_shape), self.width
        layers: list[nn.Module] = []
        channels = [x_shape[0], *[width] * (2 + max(0, SIDES.index(side) - 1)), 2 * width, 2 * width]
        for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
            kernel = 4 if i < len(channels) - 3 else 2
            layers.append(nn.Conv2d(c_in, c_out, kernel, 2, kernel // 2 - 1))
            layers += self._after(c_out)
        size = side >> (len(channels) - 1)
        layers += [nn.Flatten(), nn.Linear(2 * width * size**2, self.hidden), nn.ReLU()]
        return Encoder(nn.Sequential(*layers), x_shape, self.hidden, out_size, extra)

    def decoder(self, in_sizes: Sequence[int | Coded], x_shape: Shape) -> nn.Module:
        doublings, width = SIDES.index(_side(x_shape)) + 3, self.width
        layers: list[nn.Module] = [
            nn.Linear(sum(size_of(parent_of(part)) for part in in_sizes), self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, 2 * width * 16),
            nn.ReLU(),
            nn.Unflatten(1, (2 * width, 4, 4)),
        ]
        channels = [2 * width, 2 * width, *[width] * (doublings - 2), x_shape[0]]
        for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
            layers.append(nn.ConvTranspose2d(c_in, c_out, 4, 2, 1))
            layers += self._after(c_out) if i < doublings - 1 else []
        return Decoder(nn.Sequential(*layers), in_sizes, x_shape)

    def _after(self, channels: int) -> list[nn.Module]:
        return [*([nn.InstanceNorm2d(channels)] if self.normalise else []), nn.ReLU()]


@dataclass(frozen=True)
class Paired(Networks):
    """Encoders of one family and decoders of another.

    Args:
        encoders, decoders: the families.
    """

    encoders: Networks = field(default_factory=InstanceNormConvs)
    decoders: Networks = field(default_factory=MLPs)

    def encoder(self, x_shape: Shape, out_size: int, extra: Sequence[int | Coded] = ()) -> nn.Module:
        return self.encoders.encoder(x_shape, out_size, extra)

    def decoder(self, in_sizes: Sequence[int | Coded], x_shape: Shape) -> nn.Module:
        return self.decoders.decoder(in_sizes, x_shape)


def _side(x_shape: Shape) -> int:
    if len(x_shape) != 3 or x_shape[1] != x_shape[2] or x_shape[1] not in SIDES:
        sides = ", ".join(map(str, SIDES))
        raise InputError(f"x_shape: got {tuple(x_shape)}; expected square images of {sides} pixels")
    return x_shape[1]
