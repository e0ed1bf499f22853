"""Networks. They map parents to raw parameters; what the parameters mean is `conditionals.py`'s business."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_semivae.errors import InputError

Shape = tuple[int, ...]


def positive(raw: Tensor, floor: float = 1e-3) -> Tensor:
    """Maps a raw network output to a scale: softplus(raw) + floor, elementwise (the only such map here).

    >>> positive(torch.tensor(-100.0)).item() >= 1e-3
    True
    """
    return F.softplus(raw) + floor


class MLP(nn.Module):
    """A multilayer perceptron over one or several parents, each flattened and concatenated.

    Args:
        in_shapes: the event shape of each parent, in the order they are passed, e.g. `[(1, 28, 28)]`.
        hidden: sizes of the hidden layers.
        out_shape: the event shape that comes out.
        activation: the class of the non-linearity between layers.

    Shapes: parents `batch_i + in_shapes[i]`, whose batch shapes broadcast; output `batch + out_shape`.

    >>> MLP([(3,), (1, 2, 2)], [8], (5, 2))(torch.zeros(7, 1, 3), torch.zeros(4, 1, 2, 2)).shape
    torch.Size([7, 4, 5, 2])
    """

    def __init__(
        self,
        in_shapes: Sequence[Shape],
        hidden: Sequence[int],
        out_shape: Shape,
        activation: type[nn.Module] = nn.ReLU,
    ):
        super().__init__()
        self.in_shapes = [tuple(shape) for shape in in_shapes]
        self.out_shape = tuple(out_shape)
        sizes = [sum(math.prod(shape) for shape in self.in_shapes), *hidden, math.prod(out_shape)]
        layers: list[nn.Module] = []
        for d_in, d_out in itertools.pairwise(sizes):
            layers += [nn.Linear(d_in, d_out), activation()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, *parents: Tensor) -> Tensor:
        h = self.layers(flatten_parents(parents, self.in_shapes))
        return h.reshape(h.shape[:-1] + self.out_shape) if len(self.out_shape) != 1 else h


def flatten_parents(parents: Sequence[Tensor], shapes: Sequence[Shape]) -> Tensor:
    """Concatenates parents `batch_i + shapes[i]` into one tensor `batch + (sum of sizes,)`.

    Raises:
        ValueError: a parent's trailing shape is not the declared one.
    """
    if len(parents) != len(shapes):
        raise InputError(f"the network takes {len(shapes)} parents of shapes {shapes}, got {len(parents)}")
    flat = []
    for i, (parent, shape) in enumerate(zip(parents, shapes, strict=True)):
        batch_dim = parent.dim() - len(shape)
        if batch_dim < 0 or parent.shape[batch_dim:] != shape:
            raise InputError(f"parent {i}: expected a shape ending in {shape}, got {tuple(parent.shape)}")
        flat.append(parent if len(shape) == 1 else parent.reshape((*parent.shape[:batch_dim], math.prod(shape))))
    if len(flat) == 1:
        return flat[0]
    batch = torch.broadcast_shapes(*(f.shape[:-1] for f in flat))
    return torch.cat([f.expand(batch + f.shape[-1:]) for f in flat], -1)


class OneHot(nn.Module):
    """Integer labels `batch` to one-hot rows `batch + (num_classes,)`, in the dtype of the module.

    A table look-up rather than `torch.nn.functional.one_hot`, which reads its input back to the host. A missing
    label (-1) that gets here by mistake becomes NaN, not another class.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        table = torch.cat([torch.eye(num_classes), torch.full((1, num_classes), math.nan)])
        self.register_buffer("table", table, persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        return self.table[y]
