"""Convolutions, from images to vectors and back, for images of any size from 16x16 up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import nn

from pyro_semivae.errors import InputError
from pyro_semivae.nn.ends import Decoder, Encoder
from pyro_semivae.nn.mlp import Coded, Shape, parent_of, size_of

LEAST = 16  # pixels of the shorter side


class ConvEncoder(Encoder):
    """Images `batch + (C, H, W)` to `batch + (out_size,)`: convolutions and a linear layer.

    At 64x64 they are those of CCVAE's Table 3. Each convolution halves the sides, rounded down, until the shorter one
    is 4 to 7 pixels: 2 of them at 16 to 31 pixels, 3 up to 63, 4 up to 127, and so on, with the last of ..., 32, 32,
    64, 128 channels. One over all that is left follows, to 256 features.

    Args:
        x_shape: `(C, H, W)`. out_size: the number of outputs. extra: the sizes of vectors, or spaces of labels, that
            join before the linear layer. dropout: of the features of every layer, while training.

    Raises:
        InputError: a side is shorter than 16 pixels.
    """

    def __init__(self, x_shape: Shape, out_size: int, extra: Sequence[int | Coded] = (), dropout: float = 0.0):
        sides, channels = sides_of(x_shape), _channels(x_shape)

        def after() -> nn.Module:  # the same names of parameters with and without dropout
            return nn.Sequential(nn.ReLU(), nn.Dropout(dropout)) if dropout else nn.ReLU()

        layers: list[nn.Module] = []
        for c_in, c_out in itertools.pairwise(channels):
            layers += [nn.Conv2d(c_in, c_out, 4, 2, 1), after()]
        layers += [nn.Conv2d(channels[-1], 256, sides[-1]), after(), nn.Flatten()]
        super().__init__(nn.Sequential(*layers).apply(_keep_scale), x_shape, 256, out_size, extra)


class ConvDecoder(Decoder):
    """Vectors, concatenated, to images `batch + (C, H, W)` of raw outputs: the mirror of `ConvEncoder`.

    Args:
        in_sizes: the sizes of the parents, or their spaces, in the order they are passed. x_shape: `(C, H, W)`.

    Raises:
        InputError: a side is shorter than 16 pixels.
    """

    def __init__(self, in_sizes: Sequence[int | Coded], x_shape: Shape):
        sides, channels = sides_of(x_shape)[::-1], _channels(x_shape)[::-1]
        size = sum(size_of(parent_of(part)) for part in in_sizes)
        layers: list[nn.Module] = [nn.Linear(size, 256), nn.Unflatten(1, (256, 1, 1))]
        layers += [nn.ReLU(), nn.ConvTranspose2d(256, channels[0], sides[0])]
        steps = zip(itertools.pairwise(channels), itertools.pairwise(sides), strict=True)
        for (c_in, c_out), (small, large) in steps:
            odd = tuple(b - 2 * a for a, b in zip(small, large, strict=True))  # 1 where halving has rounded down
            layers += [nn.ReLU(), nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, output_padding=odd)]
        super().__init__(nn.Sequential(*layers).apply(_keep_scale), in_sizes, x_shape)


def sides_of(x_shape: Shape) -> list[tuple[int, int]]:
    """(H, W) of an image and after each halving, until the shorter side is 4 to 7.

    >>> sides_of((3, 45, 64))
    [(45, 64), (22, 32), (11, 16), (5, 8)]
    """
    if len(x_shape) != 3 or min(x_shape[1:]) < LEAST:
        raise InputError(
            f"x_shape: got {tuple(x_shape)}; expected images (C, H, W) from {LEAST}x{LEAST} pixels up by networks "
            f"of convolutions; MLPs() take any shape"
        )
    height, width = x_shape[1:]
    return [(height >> i, width >> i) for i in range(min(height, width).bit_length() - 2)]


def _channels(x_shape: Shape) -> list[int]:
    """The channels of an image and after each halving.

    >>> _channels((3, 64, 64)), _channels((1, 28, 20))
    ([3, 32, 32, 64, 128], [1, 64, 128])
    """
    halvings = len(sides_of(x_shape)) - 1
    return [x_shape[0], *[32] * (halvings - 2), 64, 128]


def _keep_scale(layer: nn.Module) -> None:
    """Starts a convolution before or after a ReLU as He et al. 2015 do, so that signals keep their scale.

    With PyTorch's own start they shrink in every layer.
    """
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        # The number of inputs of an output. A transposed convolution reaches each with one in stride^2 of its weights,
        # or, from a single pixel (without padding), with one in all.
        reached = math.prod(layer.stride if layer.padding[0] else layer.kernel_size) if layer.transposed else 1
        fan = layer.in_channels * math.prod(layer.kernel_size) / reached
        nn.init.normal_(layer.weight, std=math.sqrt(2 / fan))
        nn.init.zeros_(layer.bias)
