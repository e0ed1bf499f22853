"""What objectives with labels share: one run of guide and model, and which label a site's density varies with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.infer.roles import Roles
from pyro_semivae.spaces import is_missing


@dataclass(frozen=True)
class Run:
    """One run of guide and model: their traces, the sites' roles, the observed labels (some entries missing)."""

    guide: Trace
    model: Trace
    roles: Roles
    observed: dict[str, Tensor]

    def enumeration_dim(self, label: str) -> int | None:
        """The (negative) batch dimension in which a label's values lie; None if the label is not enumerated."""
        trace = self.model if label in self.model.nodes else self.guide
        return trace.nodes[label]["infer"].get("_enumerate_dim")

    def label_of(self, name: str, table: Tensor) -> str | None:
        """The label that a site depends on, if any: the one with whose values its density `table` varies.

        Raises:
            InputError: there are several.
        """
        dims = {label: self.enumeration_dim(label) for label in self.roles.labels}
        found = [label for label, dim in dims.items() if dim and table.dim() >= -dim and table.shape[dim] > 1]
        if len(found) > 1:
            raise InputError(f"site '{name}' depends on the labels {found} at once: only one label is summed here")
        return found[0] if found else None

    def where_missing(self, label: str, values: Tensor) -> Tensor:
        """`values` where a label is missing, 0 where it is observed."""
        return torch.where(is_missing(self.observed[label]), values, 0.0) if label in self.observed else values
