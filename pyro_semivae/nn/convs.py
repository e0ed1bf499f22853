"""Convolutions, from images to vectors and back, for images of at least 16x16 pixels."""

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
    """Maps images `batch + (C, H, W)` to `batch + (out_size,)`: convolutions and a linear layer.

    At 64x64 the layers are those of CCVAE's Table 3. Each convolution halves the sides, rounded down, until the shorter
    one is 4 to 7 pixels: 2 convolutions at 16 to 31 pixels, 3 up to 63, 4 up to 127, and so on. Their channels are the
    last of ..., 32, 32, 64, 128. A convolution over the whole remaining image follows, to 256 features.

    Args:
        x_shape: `(C, H, W)`. out_size: the number of outputs. extra: the sizes of vectors, or spaces of labels, that
            are concatenated before the linear layer. dropout: the dropout probability after every convolution.

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
    """Maps vectors, concatenated, to raw images `batch + (C, H, W)`: the mirror image of `ConvEncoder`.

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
            f"x_shape: got {tuple(x_shape)}; expected images (C, H, W) of at least {LEAST}x{LEAST} pixels for "
            f"convolutions; MLPs() take any shape"
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
    """Initialises a convolution before or after a ReLU as in He et al. 2015, so that signals keep their scale.

    With PyTorch's default initialisation they shrink in every layer.
    """
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        # The fan is the number of inputs of an output. In a transposed convolution, an output uses one in stride^2 of a
        # kernel's weights, or a single one if the input is a single pixel (without padding).
        reached = math.prod(layer.stride if layer.padding[0] else layer.kernel_size) if layer.transposed else 1
        fan = layer.in_channels * math.prod(layer.kernel_size) / reached
        nn.init.normal_(layer.weight, std=math.sqrt(2 / fan))
        nn.init.zeros_(layer.bias)
