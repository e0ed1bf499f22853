"""What objectives with labels share: one run of guide and model, and exact sums over the labels that are missing.

Labels are enumerated, each in a dimension of its own; a density that depends on several varies along several of them.
Labels may be parents of each other, in the guide as in the model. Sums are joint and per row, by variable elimination:
children before parents, so that what is summed never has more dimensions than a density and its label's parents have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.infer.roles import Roles
from pyro_semivae.spaces import is_missing


def varies(table: Tensor, dim: int | None) -> bool:
    """Whether a table varies along a (negative) dimension."""
    return dim is not None and table.dim() >= -dim and table.shape[dim] > 1


@dataclass(frozen=True)
class Run:
    """One run of guide and model: their traces, the sites' roles, the observed labels (some entries missing), and which
    of these are continuous."""

    guide: Trace
    model: Trace
    roles: Roles
    observed: dict[str, Tensor]
    continuous: tuple[str, ...] = ()

    @property
    def latents(self) -> tuple[str, ...]:
        """The latents that are no labels."""
        return tuple(name for name in self.roles.latents if name not in self.continuous)

    def enumeration_dim(self, label: str) -> int | None:
        """The (negative) batch dimension in which a label's values lie; None if the label is not enumerated."""
        trace = self.model if label in self.model.nodes else self.guide
        return trace.nodes[label]["infer"].get("_enumerate_dim")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """All labels, of the model and of the guide alone."""
        return tuple(dict.fromkeys([*self.roles.labels, *self.observed]))

    def labels_of(self, table: Tensor) -> tuple[str, ...]:
        """The labels with whose values a table varies."""
        return tuple(label for label in self.labels if varies(table, self.enumeration_dim(label)))

    def label_of(self, name: str, table: Tensor) -> str | None:
        """The label that a site depends on, if any: the one with whose values its density `table` varies.

        Raises:
            InputError: there are several.
        """
        found = self.labels_of(table)
        if len(found) > 1:
            raise InputError(f"site '{name}' depends on the labels {[*found]} at once: only one label is summed here")
        return found[0] if found else None

    def where_missing(self, label: str, values: Tensor) -> Tensor:
        """`values` where a label is missing, 0 where it is observed."""
        return torch.where(self.missing(label), values, 0.0) if label in self.observed else values

    def where_beta(self, beta: float, label: str, values: Tensor) -> Tensor:
        """`values`, times beta where a label is missing."""
        if label not in self.observed:
            return beta * values
        return (1 + (beta - 1) * self.missing(label).to(values)) * values

    def known(self, label: str, values: Tensor) -> Tensor:
        """Where the `values` of an enumerated label are what is observed of it; everywhere where it is missing."""
        if label not in self.observed:
            return torch.ones_like(values, dtype=torch.bool)
        return self.missing(label) | self.matches(label, values)

    def missing(self, label: str) -> Tensor:
        """Where an observed label is missing, of its batch shape: one-hot labels are missing as a whole."""
        missing = is_missing(self.observed[label])
        return missing.any(-1) if self._event_dim(label) else missing

    def matches(self, label: str, values: Tensor) -> Tensor:
        """Where the `values` of a label are the observed ones; nowhere where it is missing."""
        same = values == self.observed[label]
        return same.all(-1) if self._event_dim(label) else same

    def _event_dim(self, label: str) -> int:
        trace = self.guide if label in self.guide.nodes else self.model
        return trace.nodes[label]["fn"].event_dim

    def elimination_order(self, labels: Iterable[str]) -> list[str]:
        """Labels as they are summed out: those of entries first, and children before their parents."""
        where = {name: i for i, name in enumerate(self.guide.nodes)}
        plates = {name: len(self.guide.nodes[name]["cond_indep_stack"]) for name in labels}
        return sorted(plates, key=lambda name: (plates[name], where[name]), reverse=True)


def log_sum(run: Run, factors: Mapping[str, Tensor], summed: Iterable[str]) -> list[Tensor]:
    """log of the sum over labels of the product of factors, as the factors that are left: their logs, summed over the
    plates that they are in, add up to it.

    Args:
        factors: log-factors by name, tables over the labels that they depend on. summed: the labels to sum out.
    """
    left = list(factors.values())
    for label in run.elimination_order(summed):
        dim, site = run.enumeration_dim(label), run.guide.nodes[label]
        inside = [table for table in left if varies(table, dim)]
        left = [table for table in left if not varies(table, dim)]
        own = {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}
        entries = [d for d in (-1,) if d not in own and own]  # of a label outside: those of other labels multiply
        tables = [table.sum(entries, keepdim=True) if entries and table.shape[-1] > 1 else table for table in inside]
        left.append(torch.logsumexp(sum(tables), dim, keepdim=True))
    return left
