"""Families of networks, with which a model creates its encoders and decoders."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_semivae.errors import InputError
from pyro_semivae.nn.convs import ConvDecoder, ConvEncoder
from pyro_semivae.nn.ends import Decoder, Encoder, shape_from
from pyro_semivae.nn.mlp import MLP, Coded, Shape, parent_of, size_of


class Discriminator(nn.Module):
    """Maps data `(B, *x_shape)` and latents `(B, D)` to one number per row, `(B,)`, by linear layers on features and
    latents.

    Args:
        trunk: maps data to features, `(B, ...)`. x_shape: the shape of one row. features: the number of features per
            row.
        sizes: D of each latent. hidden: units of each hidden linear layer.
    """

    def __init__(self, trunk: nn.Module, x_shape: Shape, features: int, sizes: Sequence[int], hidden: int = 256):
        super().__init__()
        self.x_shape, self.trunk = tuple(x_shape), trunk
        self.of_data = nn.Linear(features, hidden)
        self.of_latents = nn.Sequential(nn.Linear(sum(sizes), hidden), nn.LeakyReLU(0.2)) if sizes else None
        layers = [nn.Linear(hidden * (2 if sizes else 1), hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)]
        self.last = nn.Sequential(*layers)

    def forward(self, x: Tensor, *latents: Tensor) -> Tensor:
        h = F.leaky_relu(self.of_data(self.trunk(x).flatten(1)), 0.2)
        if self.of_latents is not None:
            h = torch.cat([h, self.of_latents(torch.cat(latents, 1))], 1)
        return self.last(h).squeeze(1)


class Networks(ABC):
    """A family of networks between images and vectors, with which a model creates its encoders and decoders."""

    @abstractmethod
    def encoder(self, x_shape: Shape, out_size: int, extra: Sequence[int | Coded] = ()) -> nn.Module:
        """Creates a network from data `batch + x_shape`, and vectors or labels of the sizes or spaces `extra`, to
        `batch + (out_size,)`."""

    @abstractmethod
    def decoder(self, in_sizes: Sequence[int | Coded], x_shape: Shape) -> nn.Module:
        """Creates a network from vectors of these sizes (or labels of these spaces) to `batch + x_shape`."""

    def discriminator(self, x_shape: Shape, sizes: Sequence[int]) -> Discriminator:
        """Creates a network from data `(B, *x_shape)` and latents `(B, D)` of these sizes to `(B,)`; its first part is
        an encoder to 256 features."""
        return Discriminator(self.encoder(x_shape, 256), x_shape, 256, sizes)


@dataclass(frozen=True)
class MLPs(Networks):
    """Multilayer perceptrons.

    Args:
        hidden: sizes of the hidden layers, in both directions.
        dropout: the dropout probability of the encoder's hidden units; with this noise in the guide the bound remains
            a bound.

    Raises:
        ValueError: `dropout` is outside [0, 1).
    """

    hidden: tuple[int, ...] = (600, 600)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_dropout(self.dropout)

    def encoder(self, x_shape: Shape, out_size: int, extra: Sequence[int | Coded] = ()) -> nn.Module:
        return MLP([x_shape, *extra], self.hidden, (out_size,), dropout=self.dropout)

    def decoder(self, in_sizes: Sequence[int | Coded], x_shape: Shape) -> nn.Module:
        return MLP(in_sizes, self.hidden, x_shape)


@dataclass(frozen=True)
class Convs(Networks):
    """`ConvEncoder` and `ConvDecoder`, for images of at least 16x16 pixels, square or not (at 64x64 CCVAE's Table 3).

    Args:
        dropout: see `MLPs`.

    Raises:
        ValueError: `dropout` is outside [0, 1).
    """

    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_dropout(self.dropout)

    def encoder(self, x_shape: Shape, out_size: int, extra: Sequence[int | Coded] = ()) -> nn.Module:
        return ConvEncoder(x_shape, out_size, extra, self.dropout)

    def decoder(self, in_sizes: Sequence[int | Coded], x_shape: Shape) -> nn.Module:
        return ConvDecoder(in_sizes, x_shape)


@dataclass(frozen=True)
class Custom(Networks):
    """Your own networks: any `torch.nn.Module`.

    Args:
        make_encoder: called without arguments, returns a module that maps data `(B, *x_shape)` to features `(B, ...)`.
            The number of features is found by one pass of zeros. They are flattened and concatenated with labels and
            vectors, and a final linear layer maps them to the parameters of the density.
        make_decoder: called with the number of inputs, D, and the shape that the likelihood needs, returns a module
            that maps `(B, D)` to `(B, *shape)`.
        others: the family of encoders, or decoders, for which there is no function (None).

    A model has several encoders, for latents and for labels, so each call must return a new module; a module that is
    returned twice is shared. The inputs of a module have one batch dimension, which includes samples and enumerated
    labels. BatchNorm is allowed. In training its statistics are those of all rows that pass at once: labelled and
    unlabelled rows separately, if the bound runs them separately; in a decoder one row for each sample and each value
    of an enumerated label. A bound is then one for the whole batch, not for each row.

    >>> import torch
    >>> own = Custom(lambda: nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(2)))
    >>> own.encoder((3, 20, 30), 7)(torch.zeros(4, 3, 20, 30)).shape
    torch.Size([4, 7])

    Raises:
        InputError: an argument is a module instead of a function that returns one; the function returns something else;
            the module fails, or returns another shape.
    """

    make_encoder: Callable[[], nn.Module] | None = None
    make_decoder: Callable[[int, Shape], nn.Module] | None = None
    others: Networks = field(default_factory=MLPs)

    def __post_init__(self) -> None:
        for name, make in (("make_encoder", self.make_encoder), ("make_decoder", self.make_decoder)):
            _check_factory(name, make)
        if not isinstance(self.others, Networks):
            raise InputError(f"others: got {self.others!r}; expected a family such as MLPs() or Convs()")

    def encoder(self, x_shape: Shape, out_size: int, extra: Sequence[int | Coded] = ()) -> nn.Module:
        if self.make_encoder is None:
            return self.others.encoder(x_shape, out_size, extra)
        net = self.make_encoder()
        features = shape_from("make_encoder", net, x_shape, "features (B, ...)")
        return Encoder(net, x_shape, math.prod(features), out_size, extra)

    def decoder(self, in_sizes: Sequence[int | Coded], x_shape: Shape) -> nn.Module:
        if self.make_decoder is None:
            return self.others.decoder(in_sizes, x_shape)
        size = sum(size_of(parent_of(part)) for part in in_sizes)
        net, accepted = self.make_decoder(size, tuple(x_shape)), f"(B, {', '.join(map(str, x_shape))})"
        shape = shape_from("make_decoder", net, (size,), accepted)
        if shape != tuple(x_shape):
            got = f"(B, {', '.join(map(str, shape))})"
            raise InputError(f"make_decoder: {type(net).__name__} maps (B, {size}) to {got}; expected {accepted}")
        return Decoder(net, in_sizes, x_shape)


def _check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise InputError(f"dropout: got {dropout}; expected 0 <= dropout < 1")


def _check_factory(name: str, make: Any) -> None:
    arguments = {"make_encoder": "", "make_decoder": " in_size, out_shape"}[name]
    if make is not None and (isinstance(make, nn.Module) or not callable(make)):
        raise InputError(
            f"{name}: got {type(make).__name__}; expected a function that returns a new torch.nn.Module, as a model "
            f"needs several: lambda{arguments}: {type(make).__name__}(...)"
        )
