"""Conditionals of latents that are known: in one group of rows, or everywhere."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_semivae.conditionals.base import Conditional
from pyro_semivae.distributions import KnownWhere


class KnownIn(Conditional):
    """p(e | parents, y): a density given the parents, except in one group of rows, where e is a fixed vector.

    The vector is a parameter that prior and posterior share. In the group, both densities are the same point mass, and
    their logarithm is set to 0.

    Args:
        otherwise: the density of the other rows. group: the value of y for which e is known.
        vector: the parameter, `(D,)`.

    `forward` takes the parents of `otherwise` and, last, y `(B,)`, or None if no row is in the group.
    """

    def __init__(self, otherwise: Conditional, vector: nn.Parameter, group: int = 1):
        super().__init__()
        self.otherwise, self.group, self.vector = otherwise, group, vector

    def extra_repr(self) -> str:
        return f"group={self.group}"

    def forward(self, *parents: Tensor | None) -> dist.TorchDistribution:
        *others, y = parents
        density = self.otherwise(*others)
        return density if y is None else KnownWhere(density, y == self.group, self.vector)


class Point(Conditional):
    """q(e | parents) at a point: a function of the parents, whose density is set to 1 (see `WithoutDensity`).

    Args:
        net: maps the parents to `batch + (D,)`.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, *parents: Tensor) -> dist.TorchDistribution:
        value = self.net(*parents)
        known = torch.ones(value.shape[:-1], dtype=torch.bool, device=value.device)
        return KnownWhere(dist.Normal(torch.zeros_like(value), 1.0).to_event(1), known, value)


class WithoutDensity(Conditional):
    """A prior that is sampled but not scored: its log-density is 0, like that of a `Point` in the guide.

    Args:
        sampled: the conditional to sample from.
    """

    def __init__(self, sampled: Conditional):
        super().__init__()
        self.sampled = sampled

    def forward(self, *parents: Tensor) -> dist.TorchDistribution:
        fn = self.sampled(*parents)
        return fn.mask(torch.zeros(fn.batch_shape, dtype=torch.bool, device=fn.mean.device))
