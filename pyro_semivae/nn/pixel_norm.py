"""Convolutions with pixel-wise normalisation, from images to vectors and back (Karras et al., ICLR 2018)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from pyro_semivae.errors import check_count
from pyro_semivae.nn.convs import sides_of
from pyro_semivae.nn.ends import Decoder, Encoder
from pyro_semivae.nn.mlp import Coded, Shape, parent_of, size_of
from pyro_semivae.nn.networks import Discriminator, Networks

SLOPE = 0.2  # of the leaky ReLUs


class PixelNorm(nn.Module):
    """x / sqrt(mean of x^2 over channels), at each pixel; `(B, C, ...)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class _Resize(nn.Module):
    """Nearest-neighbour upsampling to a given size."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=self.size)


@dataclass(frozen=True)
class PixelNormConvs(Networks):
    """Networks made of Karras et al.'s blocks, as those of Ruiz et al., for images of at least 16x16 pixels.

    The encoder has a 1x1 convolution to `width` channels, blocks that halve the image until the shorter side is 4 to 7
    pixels, and a linear layer. A block is a 3x3 convolution to twice as many channels (at most 8 `width`), a leaky
    ReLU, pixel-wise normalisation and 2x2 average pooling. The decoder has a linear layer to the smallest image, then
    nearest-neighbour upsampling and `depth` 3x3 convolutions for each size. The discriminator is an encoder without
    normalisation, whose features enter linear layers with the latents.

    Differs from the paper, whose Figure 5 of the networks is not available: sizes are those of Karras et al.; images
    are in [0, 1] (a sigmoid instead of tanh).

    Args:
        width: channels at full size; 32 at 64x64 gives Karras et al.'s 32 to 256. depth: see above; theirs is 2.
        strided: halve and double sizes with 4x4 convolutions of stride 2, without convolutions at full size (`width`
            channels at half the size): about eight times as fast on a CPU.
        start: the initial bias of the decoder's outputs, before the sigmoid.

    Raises:
        InputError: `width` or `depth` is not a positive integer.
    """

    width: int = 32
    depth: int = 2
    strided: bool = False
    start: float = 0.0

    def __post_init__(self) -> None:
        check_count("width", self.width)
        check_count("depth", self.depth)

    def encoder(self, x_shape: Shape, out_size: int, extra: Sequence[int | Coded] = ()) -> nn.Module:
        trunk, features = self._trunk(x_shape, normalised=True)
        return Encoder(trunk, x_shape, features, out_size, extra)

    def decoder(self, in_sizes: Sequence[int | Coded], x_shape: Shape) -> nn.Module:
        sides, channels = sides_of(x_shape)[::-1], self._channels(x_shape)[::-1]
        first = (channels[0], *sides[0])
        size = sum(size_of(parent_of(part)) for part in in_sizes)
        layers: list[nn.Module] = [PixelNorm(), nn.Linear(size, math.prod(first)), nn.Unflatten(1, first)]
        layers += [nn.LeakyReLU(SLOPE), PixelNorm()]
        if self.strided:
            pairs = zip(itertools.pairwise(channels), itertools.pairwise(sides[:-1]), strict=True)
            for (c_in, c_out), (small, large) in pairs:
                layers += [_doubling(c_in, c_out, small, large), nn.LeakyReLU(SLOPE), PixelNorm()]
            last = _doubling(channels[-1], x_shape[0], sides[-2], sides[-1])
        else:
            for side, c_in, c_out in zip(sides[1:], channels[:-1], channels[1:], strict=True):
                layers.append(_Resize(side))
                for i in range(self.depth):
                    layers += [nn.Conv2d(c_out if i else c_in, c_out, 3, padding=1), nn.LeakyReLU(SLOPE), PixelNorm()]
            last = nn.Conv2d(channels[-1], x_shape[0], 1)
        net = nn.Sequential(*layers, last).apply(_keep_scale)
        nn.init.constant_(last.bias, self.start)
        return Decoder(net, in_sizes, x_shape)

    def discriminator(self, x_shape: Shape, sizes: Sequence[int]) -> Discriminator:
        trunk, features = self._trunk(x_shape, normalised=False)
        return Discriminator(trunk, x_shape, features, sizes)

    def _channels(self, x_shape: Shape) -> list[int]:
        """The channels at each size; without the full size if `strided`."""
        number = len(sides_of(x_shape)) - self.strided
        return [min(self.width * 2**i, 8 * self.width) for i in range(number)]

    def _trunk(self, x_shape: Shape, *, normalised: bool) -> tuple[nn.Module, int]:
        """A module from images to features, and the number of features."""
        sides, channels = sides_of(x_shape), self._channels(x_shape)
        norm = [PixelNorm()] if normalised else []
        layers: list[nn.Module] = []
        if self.strided:
            for c_in, c_out in itertools.pairwise((x_shape[0], *channels)):
                layers += [nn.Conv2d(c_in, c_out, 4, 2, 1), nn.LeakyReLU(SLOPE), *norm]
        else:
            layers += [nn.Conv2d(x_shape[0], channels[0], 1), nn.LeakyReLU(SLOPE)]
            for c_in, c_out in itertools.pairwise(channels):
                layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.LeakyReLU(SLOPE), *norm, nn.AvgPool2d(2)]
        layers += [nn.Flatten()]
        return nn.Sequential(*layers).apply(_keep_scale), channels[-1] * math.prod(sides[-1])


def _doubling(c_in: int, c_out: int, small: tuple[int, int], large: tuple[int, int]) -> nn.Module:
    """A transposed convolution to twice the size, plus one pixel where halving has rounded down."""
    odd = tuple(b - 2 * a for a, b in zip(small, large, strict=True))
    return nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, output_padding=odd)


def _keep_scale(layer: nn.Module) -> None:
    """Initialises weights as in He et al. 2015, so that signals keep their scale."""
    if isinstance(layer, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(layer.weight, SLOPE)
        if isinstance(layer, nn.ConvTranspose2d):  # each output uses a quarter of the weights of a channel
            layer.weight.data *= 2 * math.sqrt(layer.out_channels / layer.in_channels)
        nn.init.zeros_(layer.bias)
