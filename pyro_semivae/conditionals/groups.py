"""Conditionals of latents that are known in one group of rows."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_semivae.conditionals.base import Conditional
from pyro_semivae.distributions import KnownWhere


class KnownIn(Conditional):
    """p(e | parents, y): a density of the parents, except in one group of rows, where e is a fixed vector.

    The vector is a parameter of the model, which its two conditionals, prior and posterior, share. There the density is
    a point mass, and its logarithm is set to 0: it is the same in prior and posterior.

    Args:
        otherwise: the density of the other rows. group: the value of y where e is known.
        vector: the parameter, `(D,)`.

    `forward` takes the parents of `otherwise` and, last, y `(B,)`; or None, where all rows are others.
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
