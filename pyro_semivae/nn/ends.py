"""Adapters for networks with one batch dimension: they handle further batch dimensions and further parents.

`Encoder` and `Decoder` wrap both the convolutions here and your own networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyro_semivae.errors import InputError
from pyro_semivae.nn.mlp import Coded, Shape, flatten_parents, parent_of, size_of


class Encoder(nn.Module):
    """Maps data `batch + x_shape` to `batch + (out_size,)`: features, concatenated with further parents, and a linear
    layer.

    Args:
        layers: maps `(B, *x_shape)` to features, `(B, ...)`, which are flattened. x_shape: the shape of one row.
        features: the number of features per row. out_size: the number of outputs.
        extra: the sizes of vectors, or spaces of labels, that are concatenated before the linear layer.
    """

    def __init__(
        self, layers: nn.Module, x_shape: Shape, features: int, out_size: int, extra: Sequence[int | Coded] = ()
    ):
        super().__init__()
        self.x_shape, self.features = tuple(x_shape), features
        self.extra = [parent_of(size) for size in extra]
        self.layers = layers
        self.last = nn.Linear(features + sum(map(size_of, self.extra)), out_size)

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        left = x.dim() - len(self.x_shape)
        if left < 0 or x.shape[left:] != self.x_shape:
            raise InputError(f"x: got shape {tuple(x.shape)}; expected shapes that end in {self.x_shape}")
        h, dtype = self.layers(x.reshape(-1, *self.x_shape)), self.last.weight.dtype
        h = h.reshape(*x.shape[:left], self.features)
        return self.last(flatten_parents((h, *extra), [(self.features,), *self.extra], dtype)).to(dtype)


class Decoder(nn.Module):
    """Maps parents, concatenated to one vector, to `batch + out_shape`.

    Args:
        layers: maps vectors `(B, D)`, D the sum of the sizes, to `(B, *out_shape)`.
        in_sizes: the sizes of the parents, or their spaces, in the order they are passed.
        out_shape: the shape of one row of the output.
    """

    def __init__(self, layers: nn.Module, in_sizes: Sequence[int | Coded], out_shape: Shape):
        super().__init__()
        self.in_shapes, self.out_shape = [parent_of(size) for size in in_sizes], tuple(out_shape)
        self.layers = layers

    def forward(self, *parents: Tensor) -> Tensor:
        dtype = placed(self.layers)["dtype"]
        h = flatten_parents(parents, self.in_shapes, dtype)
        return self.layers(h.reshape(-1, h.shape[-1])).to(dtype).reshape(*h.shape[:-1], *self.out_shape)


def placed(net: nn.Module) -> dict[str, Any]:
    """The dtype and device of a network's floating-point parameters and buffers; the defaults if it has none."""
    of_net = itertools.chain(net.parameters(), net.buffers())
    return next(
        ({"dtype": part.dtype, "device": part.device} for part in of_net if part.is_floating_point()),
        {"dtype": torch.get_default_dtype(), "device": None},
    )


def shape_from(name: str, net: Any, in_shape: Shape, accepted: str) -> Shape:
    """The shape of a network's output per row, from one pass of zeros in evaluation mode, which leaves it unchanged.

    Args:
        name: the argument that made the network. accepted: the expected output. Both are for error messages.

    Raises:
        InputError: the network is not a module, fails, or returns anything but one tensor with an entry for each row.
    """
    wanted = f"expected a torch.nn.Module that maps (B, {', '.join(map(str, in_shape))}) to {accepted}"
    if not isinstance(net, nn.Module):
        raise InputError(f"{name}: it returned {type(net).__name__}; {wanted}")
    zeros = torch.zeros(2, *in_shape, **placed(net))
    try:
        with as_it_is(net), torch.no_grad():
            out = net(zeros)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{name}: {type(net).__name__} fails on a batch {tuple(zeros.shape)}: {reason}; {wanted}"
        ) from error
    if not isinstance(out, Tensor) or out.dim() < 2 or len(out) != 2:
        got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise InputError(f"{name}: {type(net).__name__} returns {got} for a batch {tuple(zeros.shape)}; {wanted}")
    return tuple(out.shape[1:])


@contextmanager
def as_it_is(owner: Any) -> Iterator[None]:
    """Puts a module in evaluation mode; its modes and buffers (running means) are restored afterwards."""
    if not isinstance(owner, nn.Module):
        yield
        return
    modes = {module: module.training for module in owner.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in owner.buffers() if not is_lazy(buffer)]
    owner.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for buffer, before in buffers:
            if not torch.equal(buffer, before):  # an in-place change would prevent a backward pass through it
                buffer.copy_(before)
