"""Multilayer perceptrons, and the conversion of parents to vectors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
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
    """A scalar for each of L entries of a label, `(..., B, L)`, as one vector per row, `(..., B, 1, L)`.

    >>> Entries(3).code(torch.zeros(5, 3), torch.float32).shape
    torch.Size([5, 1, 3])
    """

    code_size: int

    def code(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        return values.unsqueeze(-2)


def parent_of(size: int | Parent) -> Parent:
    """A parent in the form that `MLP` takes; a number is the size of a vector."""
    return (int(size),) if isinstance(size, Integral) else tuple(size) if isinstance(size, Sequence) else size


def size_of(parent: Parent) -> int:
    """The size of a parent as a vector."""
    return math.prod(parent) if isinstance(parent, tuple) else parent.code_size


def positive(raw: Tensor, floor: float = 1e-3) -> Tensor:
    """Maps a raw network output to a scale: softplus(raw) + floor, elementwise (the only such map in the library).

    >>> positive(torch.tensor(-100.0)).item() >= 1e-3
    True
    """
    return F.softplus(raw) + floor


class MLP(nn.Module):
    """A multilayer perceptron over one or several parents, each flattened and concatenated.

    Args:
        in_shapes: the event shape of each parent, in the order they are passed, e.g. `[(1, 28, 28)]`; for labels their
            space, e.g. `[(1, 28, 28), Classes(10)]`.
        hidden: sizes of the hidden layers.
        out_shape: the event shape of the output.
        activation: the class of the non-linearity between layers.
        dropout: the dropout probability of hidden units.

    Shapes: parents `batch_i + in_shapes[i]`, whose batch shapes broadcast; output `batch + out_shape`. If a large
    parent has a smaller batch than the others (an image and its enumerated labels), its part of the first layer is
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
        sizes = [sum(map(size_of, self.in_shapes)), *hidden, math.prod(out_shape)]
        layers: list[nn.Module] = []
        for d_in, d_out in itertools.pairwise(sizes):
            after = nn.Sequential(activation(), nn.Dropout(dropout)) if dropout else activation()
            layers += [nn.Linear(d_in, d_out), after]  # parameters have the same names with and without dropout
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, *parents: Tensor) -> Tensor:
        dtype = self.layers[0].weight.dtype
        h = _joint_linear(self.layers[0], flat_parents(parents, self.in_shapes, dtype))
        for layer in self.layers[1:]:
            h = layer(h)
        h = h.to(dtype)
        return h.reshape(h.shape[:-1] + self.out_shape) if len(self.out_shape) != 1 else h


def _joint_linear(layer: nn.Linear, parents: Sequence[Tensor]) -> Tensor:
    """A linear layer on the concatenation of vectors, computed as a sum over the vectors if that saves much."""
    rows = math.prod(torch.broadcast_shapes(*(parent.shape[:-1] for parent in parents)))
    saved = sum((rows - math.prod(parent.shape[:-1])) * parent.shape[-1] for parent in parents)  # products per output
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
                    f"parent {i}: got {code.shape[-1]} entries for {shape}; expected {shape.code_size}. Enumerated "
                    f"entries of a label come one at a time: a site that depends on all of them would need 2^L terms; "
                    f"missing_labels='gumbel' or 'reinforce' of TraceLabels_ELBO sample them"
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


class Joined(nn.Module):
    """Concatenates the flattened parents to one vector, `batch + (sum of sizes,)`.

    Args:
        in_shapes: as in `MLP`.

    >>> from pyro_semivae.spaces import Classes
    >>> Joined([(1, 2, 2), Classes(3)])(torch.zeros(7, 1, 2, 2), torch.zeros(7, dtype=torch.long)).shape
    torch.Size([7, 7])
    """

    def __init__(self, in_shapes: Sequence[int | Parent]):
        super().__init__()
        self.in_shapes = [parent_of(shape) for shape in in_shapes]

    def forward(self, *parents: Tensor) -> Tensor:
        floats = [parent.dtype for parent in parents if parent.is_floating_point()]
        return flatten_parents(parents, self.in_shapes, floats[0] if floats else torch.get_default_dtype())


class Noisy(nn.Module):
    """A network with noise on its first parent, images, in training mode only.

    In a guide, q(y | noise(x)) is valid for every sample of the noise, so that the mean of the ELBOs is still a bound.
    In a model (such as the guide of a reverse bound) it gives a bound for the density averaged over the noise, by
    Jensen's inequality.

    Args:
        net: the network. noise: a function of images `(B, C, H, W)`, e.g. `data.jitter`.
    """

    def __init__(self, net: nn.Module, noise: Callable[[Tensor], Tensor]):
        super().__init__()
        self.net, self.noise = net, noise

    def forward(self, x: Tensor, *parents: Tensor) -> Tensor:
        if self.training:
            x = self.noise(x.reshape(-1, *x.shape[-3:])).reshape(x.shape)
        return self.net(x, *parents)
