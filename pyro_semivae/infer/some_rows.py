"""Some rows of a run, for terms that would cost as much as the bound does on all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.infer.roles import sample_sites
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.tables import row_dim


class SomeRows:
    """A random share of a run's rows, other ones each time.

    Args:
        share: the fraction, of which there is one row or more; 1: all of them, in their order.

    Raises:
        InputError: rows are masked by a handler around the model, which knows nothing of a part of them.
    """

    def __init__(self, run: Run, share: float = 1.0):
        self.run, self.total = run, run.step.num_rows
        self.index: Tensor | None = None
        if share < 1:
            # Data have masks of their own, of rows that are missing.
            masks = [site["mask"] for name, site in sample_sites(run.model) if name not in run.roles.data]
            if any(isinstance(mask, Tensor) and mask.dim() for mask in masks):
                raise InputError(f"share: got {share} of rows some of which poutine.mask leaves out; expected 1")
            first = next(value for value in run.step.named().values() if isinstance(value, Tensor))
            number = max(1, round(share * self.total))
            self.index = torch.randperm(self.total, device=first.device)[:number]

    def of(self, values: Any, dim: int = 0) -> Any:
        """Their part of a tensor whose rows lie in dimension `dim`, or of all such tensors in a tuple or mapping;
        anything else as it is."""
        if isinstance(values, tuple):
            return tuple(self.of(value, dim) for value in values)
        if isinstance(values, dict):
            return {name: self.of(value, dim) for name, value in values.items()}
        rows = isinstance(values, Tensor) and values.dim() and values.shape[dim] == self.total
        return values.index_select(dim, self.index) if rows and self.index is not None else values

    def latent(self, name: str) -> Tensor:
        """What the model has of a latent or continuous label."""
        site = self.run.model.nodes[name]
        return self.of(site["value"], row_dim(site) - site["fn"].event_dim)

    def arguments(self, values: Mapping[str, Any] | None = None) -> tuple[tuple, dict[str, Any]]:
        """The arguments of model and guide, positional and others.

        Args:
            values: other ones of some, of these rows already.
        """
        step = self.run.step
        given = {*[*step.named()][: len(step.args)], *step.kwargs}
        own = {name: self.of(value) for name, value in step.named().items() if name in given}
        return step.with_arguments({**own, **({} if values is None else values)})

    def spread(self, values: Tensor) -> Tensor:
        """Values of these rows as values of all, `(B,)`: 0 of the others, and so much larger that the mean is right."""
        if self.index is None:
            return values
        zeros = torch.zeros(self.total, dtype=values.dtype, device=values.device)
        return zeros.index_put((self.index,), values * (self.total / len(values)))
