"""Networks. They map parents to raw parameters; what the parameters mean is `conditionals.py`'s business.

Under autocast (`fit(precision="bf16-mixed")`) layers compute in the lower precision, and what a network returns is in
its weights' own again: densities are never summed in half precision.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_semivae.errors import InputError, check_count

Shape = tuple[int, ...]


class Coded(Protocol):
    """A parent that networks take as a vector: a space of labels, or `Entries`."""

    code_size: int

    def code(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Values as vectors, `batch + (code_size,)`."""


Parent = Shape | Coded


@dataclass(frozen=True)
class Entries:
    """A scalar for each of L entries of a label, `(..., B, L)`, as a vector of the row, `(..., B, 1, L)`.

    >>> Entries(3).code(torch.zeros(5, 3), torch.float32).shape
    torch.Size([5, 1, 3])
    """

    code_size: int

    def code(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        return values.unsqueeze(-2)


def parent_of(size: int | Parent) -> Parent:
    """A parent as `MLP` takes it; a number is the size of a vector."""
    return (size,) if isinstance(size, int) else tuple(size) if isinstance(size, Sequence) else size


def _size_of(parent: Parent) -> int:
    return math.prod(parent) if isinstance(parent, tuple) else parent.code_size


def positive(raw: Tensor, floor: float = 1e-3) -> Tensor:
    """Maps a raw network output to a scale: softplus(raw) + floor, elementwise (the only such map here).

    >>> positive(torch.tensor(-100.0)).item() >= 1e-3
    True
    """
    return F.softplus(raw) + floor


class MLP(nn.Module):
    """A multilayer perceptron over one or several parents, each flattened and concatenated.

    Args:
        in_shapes: the event shape of each parent, in the order they are passed, e.g. `[(1, 28, 28)]`; or its space, for
            labels, e.g. `[(1, 28, 28), Classes(10)]`.
        hidden: sizes of the hidden layers.
        out_shape: the event shape that comes out.
        activation: the class of the non-linearity between layers.
        dropout: the probability that a hidden unit is left out, while training.

    Shapes: parents `batch_i + in_shapes[i]`, whose batch shapes broadcast; output `batch + out_shape`. Where a large
    parent has a smaller batch than the others (an image beside its enumerated labels), its part of the first layer is
    computed once.

    >>> MLP([(3,), (1, 2, 2)], [8], (5, 2))(torch.zeros(7, 1, 3), torch.zeros(4, 1, 2, 2)).shape
    torch.Size([7, 4, 5, 2])
    """

    def __init__(
        self,
        in_shapes: Sequence[Parent],
        hidden: Sequence[int],
        out_shape: Shape,
        activation: type[nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.in_shapes = [parent_of(shape) for shape in in_shapes]
        self.out_shape = tuple(out_shape)
        for size in hidden:
            check_count("hidden", size)
        sizes = [sum(map(_size_of, self.in_shapes)), *hidden, math.prod(out_shape)]
        layers: list[nn.Module] = []
        for d_in, d_out in itertools.pairwise(sizes):
            after = nn.Sequential(activation(), nn.Dropout(dropout)) if dropout else activation()
            layers += [nn.Linear(d_in, d_out), after]  # the same names of parameters with and without dropout
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, *parents: Tensor) -> Tensor:
        dtype = self.layers[0].weight.dtype
        h = _joint_linear(self.layers[0], flat_parents(parents, self.in_shapes, dtype))
        for layer in self.layers[1:]:
            h = layer(h)
        h = h.to(dtype)
        return h.reshape(h.shape[:-1] + self.out_shape) if len(self.out_shape) != 1 else h


def _joint_linear(layer: nn.Linear, parents: Sequence[Tensor]) -> Tensor:
    """A layer on the concatenation of vectors, or the sum of its parts for each where that saves much."""
    rows = math.prod(torch.broadcast_shapes(*(parent.shape[:-1] for parent in parents)))
    saved = sum((rows - math.prod(parent.shape[:-1])) * parent.shape[-1] for parent in parents)  # products an output
    if saved <= 32 * rows:
        return layer(_concatenate(parents))
    first, *others = zip(parents, layer.weight.split([parent.shape[-1] for parent in parents], 1), strict=True)
    return sum((F.linear(*part) for part in others), F.linear(*first, layer.bias))


def flatten_parents(parents: Sequence[Tensor], shapes: Sequence[Parent], dtype: torch.dtype) -> Tensor:
    """Concatenates parents `batch_i + shapes[i]` into one tensor `batch + (sum of sizes,)`.

    Raises:
        ValueError: a parent's trailing shape is not the declared one.
    """
    return _concatenate(flat_parents(parents, shapes, dtype))


def flat_parents(parents: Sequence[Tensor], shapes: Sequence[Parent], dtype: torch.dtype) -> list[Tensor]:
    """Parents `batch_i + shapes[i]`, or labels of the space `shapes[i]`, as vectors, `batch_i + (size_i,)`.

    Raises:
        ValueError: a parent's trailing shape is not the declared one.
    """
    if len(parents) != len(shapes):
        raise InputError(f"the network takes {len(shapes)} parents of shapes {shapes}, got {len(parents)}")
    flat = []
    for i, (parent, shape) in enumerate(zip(parents, shapes, strict=True)):
        if not isinstance(shape, tuple):
            code = shape.code(parent, dtype)
            if code.shape[-1] != shape.code_size:
                raise InputError(
                    f"parent {i}: got {code.shape[-1]} entries for {shape}; accepted are {shape.code_size}. Entries of "
                    f"a label that are summed out come one at a time: a site below all of them would make 2^L terms, "
                    f"and 'relaxed' or 'score' are accepted for `labels` of TraceLabels_ELBO, which sample them"
                )
            flat.append(code)
            continue
        batch_dim = parent.dim() - len(shape)
        if batch_dim < 0 or parent.shape[batch_dim:] != shape:
            raise InputError(f"parent {i}: expected a shape ending in {shape}, got {tuple(parent.shape)}")
        flat.append(parent if len(shape) == 1 else parent.reshape((*parent.shape[:batch_dim], math.prod(shape))))
    return flat


def _concatenate(flat: Sequence[Tensor]) -> Tensor:
    if len(flat) == 1:
        return flat[0]
    batch = torch.broadcast_shapes(*(f.shape[:-1] for f in flat))
    return torch.cat([f.expand(batch + f.shape[-1:]) for f in flat], -1)


class Noisy(nn.Module):
    """A network that sees noise on its first parent, images, while it trains, and none after.

    In a guide, q(y | noise(x)): it is one whatever the noise draws, so that the mean of its ELBOs is a bound still. In
    a model (the guide, in reverse) it is a bound on the density that is the mean over noise, by Jensen's inequality.

    Args:
        net: the network. noise: of images `(B, C, H, W)`, e.g. `data.jitter`.
    """

    def __init__(self, net: nn.Module, noise: Callable[[Tensor], Tensor]):
        super().__init__()
        self.net, self.noise = net, noise

    def forward(self, x: Tensor, *parents: Tensor) -> Tensor:
        if self.training:
            x = self.noise(x.reshape(-1, *x.shape[-3:])).reshape(x.shape)
        return self.net(x, *parents)


class ConvEncoder(nn.Module):
    """Images `batch + (C, 64, 64)` to `batch + (out_size,)`: five convolutions and a linear layer (CCVAE, Table 3).

    Args:
        channels: C. out_size: the number of outputs. extra: the sizes of vectors, or spaces of labels, that join before
            the linear layer.
    """

    def __init__(self, channels: int, out_size: int, extra: Sequence[int | Coded] = ()):
        super().__init__()
        self.extra = [parent_of(size) for size in extra]
        sizes = [channels, 32, 32, 64, 128]
        layers: list[nn.Module] = []
        for c_in, c_out in itertools.pairwise(sizes):
            layers += [nn.Conv2d(c_in, c_out, 4, 2, 1), nn.ReLU()]  # 32, 16, 8, 4
        self.layers = nn.Sequential(*layers, nn.Conv2d(128, 256, 4), nn.ReLU(), nn.Flatten()).apply(_keep_scale)
        self.last = nn.Linear(256 + sum(map(_size_of, self.extra)), out_size)

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        h, dtype = self.layers(x.reshape(-1, *x.shape[-3:])).reshape(*x.shape[:-3], -1), self.last.weight.dtype
        return self.last(flatten_parents((h, *extra), [(256,), *self.extra], dtype)).to(dtype)


class ConvDecoder(nn.Module):
    """Vectors, concatenated, to images `batch + (C, 64, 64)` of raw outputs: the mirror of `ConvEncoder`.

    Args:
        in_sizes: the sizes of the parents, or their spaces, in the order they are passed. channels: C.
    """

    def __init__(self, in_sizes: Sequence[int | Coded], channels: int):
        super().__init__()
        self.in_shapes = [parent_of(size) for size in in_sizes]
        layers: list[nn.Module] = [nn.Linear(sum(map(_size_of, self.in_shapes)), 256), nn.Unflatten(1, (256, 1, 1))]
        layers += [nn.ReLU(), nn.ConvTranspose2d(256, 128, 4)]  # 4
        for c_in, c_out in itertools.pairwise([128, 64, 32, 32, channels]):
            layers += [nn.ReLU(), nn.ConvTranspose2d(c_in, c_out, 4, 2, 1)]  # 8, 16, 32, 64
        self.layers = nn.Sequential(*layers).apply(_keep_scale)

    def forward(self, *parents: Tensor) -> Tensor:
        dtype = self.layers[0].weight.dtype
        h = flatten_parents(parents, self.in_shapes, dtype)
        x = self.layers(h.reshape(-1, h.shape[-1])).to(dtype)
        return x.reshape(*h.shape[:-1], *x.shape[1:])


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


class Networks(ABC):
    """A family of networks between images and vectors, from which a model makes its encoders and decoders."""

    @abstractmethod
    def encoder(self, x_shape: Shape, out_size: int, extra: Sequence[int | Coded] = ()) -> nn.Module:
        """Data `batch + x_shape`, and vectors or labels of the sizes or spaces `extra`, to `batch + (out_size,)`."""

    @abstractmethod
    def decoder(self, in_sizes: Sequence[int | Coded], x_shape: Shape) -> nn.Module:
        """Vectors of these sizes (or labels of these spaces) to `batch + x_shape`."""


@dataclass(frozen=True)
class MLPs(Networks):
    """Multilayer perceptrons.

    Args:
        hidden: sizes of the hidden layers, in both directions.
        dropout: of the encoder's hidden units while training: noise of a guide, with which its bound stays one.

    Raises:
        ValueError: `dropout` is outside of [0, 1).
    """

    hidden: tuple[int, ...] = (600, 600)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout: got {self.dropout}; accepted is 0 <= dropout < 1")

    def encoder(self, x_shape: Shape, out_size: int, extra: Sequence[int | Coded] = ()) -> nn.Module:
        return MLP([x_shape, *extra], self.hidden, (out_size,), dropout=self.dropout)

    def decoder(self, in_sizes: Sequence[int | Coded], x_shape: Shape) -> nn.Module:
        return MLP(in_sizes, self.hidden, x_shape)


@dataclass(frozen=True)
class Convs(Networks):
    """`ConvEncoder` and `ConvDecoder`, for 64x64 images (CCVAE's Table 3; another size is an error)."""

    def encoder(self, x_shape: Shape, out_size: int, extra: Sequence[int | Coded] = ()) -> nn.Module:
        return ConvEncoder(_channels(x_shape), out_size, extra)

    def decoder(self, in_sizes: Sequence[int | Coded], x_shape: Shape) -> nn.Module:
        return ConvDecoder(in_sizes, _channels(x_shape))


def _channels(x_shape: Shape) -> int:
    if tuple(x_shape[1:]) != (64, 64):
        raise InputError(f"x_shape: got {tuple(x_shape)}; accepted by Convs() is (C, 64, 64)")
    return x_shape[0]
