"""What an objective says about a batch: its terms, weighted and scaled, and how those of several runs come together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.infer.graph import NamedTerms, same_term


@dataclass(frozen=True)
class Value:
    """One term of a batch of `B` rows.

    Attributes:
        name: what it is in mathematics, such as `"-log q(z)"`; names of sites alone, without what they depend on.
        value: `(B,)` in nats, as the name says; a scalar where the term belongs to the batch and not to its rows, which
            is then not scaled.
        weight: its factor in the objective.
        in_elbo: whether it is a part of the ELBO, and not an addition to it.
        weighted: what is summed, where that is not `weight * value` (a weight for some entries of a label alone).
        removed: whether it is no part of the objective, by `Objective.without`.
    """

    name: str
    value: Tensor
    weight: float = 1.0
    in_elbo: bool = True
    weighted: Tensor | None = None
    removed: bool = False

    @property
    def by_row(self) -> bool:
        return self.value.dim() > 0

    def summed(self) -> Tensor:
        """Its part of the objective, `(B,)` or a scalar."""
        if self.weighted is not None:
            return self.weighted
        return self.value if isinstance(self.weight, float | int) and self.weight == 1 else self.weight * self.value

    def times(self, factor: float | None) -> Value:
        """The same with another weight; removed, if the factor is None."""
        if factor is None or factor == 1:
            return self if factor == 1 else replace(self, removed=True)
        weighted = None if self.weighted is None else factor * self.weighted
        return replace(self, weight=factor * self.weight, weighted=weighted)


@dataclass
class Evaluation:
    """What an objective says about a batch of `B` rows.

    Attributes:
        values: its terms. scale: of the rows, a number or `(B,)`.
        monitors: name -> scalar; diagnostics that are no part of the objective.
        losses: of modules that terms own, by the term's name: scalars, to be minimised by their own optimiser.
    """

    values: list[Value]
    scale: float | Tensor = 1.0
    monitors: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)

    def contributions(self) -> NamedTerms:
        """Name -> the term's part of the objective, before the scale of the rows; without those that were removed."""
        return NamedTerms((value.name, value.summed()) for value in self.values if not value.removed)

    def total(self) -> Tensor:
        """What is maximised: the sum over rows of scale times the sum of the weighted terms, and the batch's terms."""
        values = [value for value in self.values if not value.removed]
        rows = sum(value.summed() for value in values if value.by_row)
        return (rows * self.scale).sum() + sum(value.summed() for value in values if not value.by_row)


def add(values: list[Value], new: Value) -> None:
    """Adds a term to others; one that is there already has both weights.

    Raises:
        InputError: another term has the same name.
    """
    for i, value in enumerate(values):
        if same_term(value.name, new.name):
            if value.value is not new.value:
                if value.removed or new.removed:
                    continue
                raise InputError(f"terms: got two different ones named '{new.name}'; accepted are names of their own")
            if not new.removed:
                weight = new.weight + (0.0 if value.removed else value.weight)
                values[i] = replace(value, weight=weight, removed=False)
            return
    values.append(new)


def together(one: Evaluation, other: Evaluation, prefix: str) -> Evaluation:
    """Two bounds on the same rows. If a name of the other's is one of the first's, all of its get a prefix."""
    own = [value.name for value in one.values]
    clash = any(same_term(name, value.name) for value in other.values for name in own)
    values = [replace(value, name=f"{prefix}{value.name}") if clash else value for value in other.values]
    monitors = {f"{prefix}{name}" if name in one.monitors else name: value for name, value in other.monitors.items()}
    return Evaluation([*one.values, *values], one.scale, {**one.monitors, **monitors}, {**one.losses, **other.losses})


def joined(of_runs: Sequence[Evaluation]) -> Evaluation:
    """The rows of several runs after one another; a term that one of them does not have is 0 there."""
    own = [{(value.name, value.removed): value for value in found.values} for found in of_runs]
    zeros = [torch.zeros_like(found.values[0].value) for found in of_runs]
    values = []
    for name in dict.fromkeys(name for named in own for name in named):
        there = next(named[name] for named in own if name in named)
        value = torch.cat(
            [named[name].value if name in named else zero for named, zero in zip(own, zeros, strict=True)]
        )
        weighted = None
        if any(named[name].weighted is not None for named in own if name in named):
            parts = zip(own, zeros, strict=True)
            weighted = torch.cat([named[name].summed() if name in named else zero for named, zero in parts])
        values.append(replace(there, value=value, weighted=weighted))
    monitors = {name: value for found in of_runs for name, value in found.monitors.items()}
    losses = {name: value for found in of_runs for name, value in found.losses.items()}
    return Evaluation(values, of_runs[0].scale, monitors, losses)
