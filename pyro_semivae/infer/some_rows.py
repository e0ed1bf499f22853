"""Some rows of a run, for terms that cost as much as the bound does and are as good on fewer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_semivae.infer.run import Run
from pyro_semivae.infer.tables import row_dim


class SomeRows:
    """A random share of a run's rows, other ones each time.

    Args:
        share: the fraction, of which there is one row or more; 1: all of them, in their order.
    """

    def __init__(self, run: Run, share: float = 1.0):
        self.run, self.total = run, run.step.num_rows
        self.index: Tensor | None = None
        if share < 1:
            first = next(value for value in run.step.named().values() if isinstance(value, Tensor))
            number = max(1, round(share * self.total))
            self.index = torch.randperm(self.total, device=first.device)[:number]

    def of(self, values: Any, dim: int = 0) -> Any:
        """Their part of a tensor whose rows lie in dimension `dim`; anything else as it is."""
        whole = self.index is None or not isinstance(values, Tensor)
        return values if whole else values.index_select(dim, self.index)

    def latent(self, name: str) -> Tensor:
        """What the model has of a latent or continuous label."""
        site = self.run.model.nodes[name]
        return self.of(site["value"], row_dim(site) - site["fn"].event_dim)

    def named(self) -> dict[str, Any]:
        """The arguments of model and guide by name."""
        return {name: self.of(value) for name, value in self.run.step.named().items()}

    def spread(self, values: Tensor) -> Tensor:
        """Values of these rows as values of all, `(B,)`: 0 of the others, and so much larger that the mean is right."""
        if self.index is None:
            return values
        zeros = torch.zeros(self.total, dtype=values.dtype, device=values.device)
        return zeros.index_put((self.index,), values * (self.total / len(values)))
