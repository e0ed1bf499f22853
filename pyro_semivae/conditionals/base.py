"""The abstract base of all conditionals."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyro.distributions as dist
from torch import Tensor, nn


class Conditional(nn.Module, ABC):
    """A conditional density p(child | parents); the parents are the arguments of `forward`."""

    @abstractmethod
    def forward(self, *parents: Tensor) -> dist.TorchDistribution:
        """The distribution of the child given its parents `batch + event`."""
