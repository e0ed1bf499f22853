"""Random subsets of a run's rows, for terms that would cost as much as the bound on all rows."""

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
    """A random subset of a run's rows, sampled anew for each instance.

    Args:
        share: the fraction of the rows, at least one row; 1: all rows, in their order.

    Raises:
        InputError: a handler around the model masks rows; such a mask cannot be restricted to a subset.
    """

    def __init__(self, run: Run, share: float = 1.0):
        self.run, self.total = run, run.step.num_rows
        self.index: Tensor | None = None
        if share < 1:
            # Data sites may be masked where rows are missing.
            masks = [site["mask"] for name, site in sample_sites(run.model) if name not in run.roles.data]
            if any(isinstance(mask, Tensor) and mask.dim() for mask in masks):
                raise InputError(f"share: got {share}, and poutine.mask excludes some rows; expected 1")
            first = next(value for value in run.step.named().values() if isinstance(value, Tensor))
            number = max(1, round(share * self.total))
            self.index = torch.randperm(self.total, device=first.device)[:number]

    def of(self, values: Any, dim: int = 0) -> Any:
        """The selected rows of a tensor with its rows in dimension `dim`, or of all such tensors in a tuple or dict.

        Other values are returned unchanged.
        """
        if isinstance(values, tuple):
            return tuple(self.of(value, dim) for value in values)
        if isinstance(values, dict):
            return {name: self.of(value, dim) for name, value in values.items()}
        rows = isinstance(values, Tensor) and values.dim() and values.shape[dim] == self.total
        return values.index_select(dim, self.index) if rows and self.index is not None else values

    def latent(self, name: str) -> Tensor:
        """The selected rows of a latent's or continuous label's value in the model."""
        site = self.run.model.nodes[name]
        return self.of(site["value"], row_dim(site) - site["fn"].event_dim)

    def arguments(self, values: Mapping[str, Any] | None = None) -> tuple[tuple, dict[str, Any]]:
        """The positional and keyword arguments of model and guide for the selected rows.

        Args:
            values: replacements for some arguments, for the selected rows already.
        """
        step = self.run.step
        given = {*[*step.named()][: len(step.args)], *step.kwargs}
        own = {name: self.of(value) for name, value in step.named().items() if name in given}
        return step.with_arguments({**own, **({} if values is None else values)})

    def spread(self, values: Tensor) -> Tensor:
        """Values of the selected rows as `(B,)`: 0 elsewhere, scaled so that the mean over rows is unbiased."""
        if self.index is None:
            return values
        zeros = torch.zeros(self.total, dtype=values.dtype, device=values.device)
        return zeros.index_put((self.index,), values * (self.total / len(values)))
