"""The result of an objective on a batch: weighted and scaled terms, combined over several runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from pyro_semivae.errors import InputError
from pyro_semivae.infer.graph import NamedTerms, same_term
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.weights import Weight, at, is_one

if TYPE_CHECKING:
    from pyro_semivae.infer.base import Bound, Part, Term


@dataclass(frozen=True)
class Value:
    """One term of a batch of `B` rows.

    Attributes:
        name: the term in mathematics, such as `"-log q(z)"`, with sites but without their conditions.
        value: `(B,)` in nats, without the weight; a scalar if the term belongs to the batch and not to its rows, which
            is then not scaled.
        weight: the factor in the objective.
        in_elbo: whether it is part of the ELBO, and not an addition to it.
        weighted: the weighted value if it is not `weight * value` (a weight only for some entries of a label).
        removed: whether it is excluded from the objective by `Objective.without`.
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
        """The weighted value, the term's contribution to the objective, `(B,)` or a scalar."""
        if self.weighted is not None:
            return self.weighted
        return self.value if is_one(self.weight) else self.weight * self.value

    def times(self, factor: float | None) -> Value:
        """This value with its weight multiplied by a factor; removed if the factor is None."""
        if factor is None:
            return replace(self, removed=True)
        if is_one(factor):
            return self
        weighted = None if self.weighted is None else factor * self.weighted
        return replace(self, weight=factor * self.weight, weighted=weighted)


@dataclass
class Evaluation:
    """The result of an objective on a batch of `B` rows.

    Attributes:
        values: the terms. scale: the scale of the rows, a number or `(B,)`.
        monitors: name -> scalar; diagnostics that are not part of the objective.
        losses: name of a module that a term owns -> its loss, a scalar that the module's own optimiser minimises.
        any_label: whether labels were passed, some of which may be missing.
    """

    values: list[Value]
    scale: float | Tensor = 1.0
    monitors: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    any_label: bool = False

    def contributions(self) -> NamedTerms:
        """Name -> the term's contribution to the objective, before the scale of the rows; without removed terms."""
        return NamedTerms((value.name, value.summed()) for value in self.values if not value.removed)

    def total(self) -> Tensor:
        """The objective to maximise: the scaled sum of the weighted terms over rows, plus the batch's terms."""
        values = [value for value in self.values if not value.removed]
        rows = sum(value.summed() for value in values if value.by_row)
        return (rows * self.scale).sum() + sum(value.summed() for value in values if not value.by_row)


def merged(parts: Sequence[Part], done: float) -> list[Part]:
    """The parts, with equal ones merged and their weights added; see `Summand.is_same`."""
    found: list[Part] = []
    for part in parts:
        weight = at(part.weights, done)
        for i, other in enumerate(found):
            if part.of_terms == other.of_terms and part.what.is_same(other.what):
                found[i] = other._replace(weights=(other.weights[0] + weight,))
                break
        else:
            found.append(part._replace(weights=(weight,)))
    return found


def evaluated(run: Run, part: Part, terms: Sequence[Part], first: bool) -> Evaluation:
    """Evaluates a bound and the terms added to it on one run."""
    bound, done = part.what, run.step.done
    values = [weighed(value, part, done) for value in bound.values(run)]
    values = values if first else [replace(value, in_elbo=False) for value in values]
    for value in values:
        _check_value(bound, value.name, value.value, values[0].value.shape)
    found = Evaluation(values, bound.scale(run), bound.monitors(run), any_label=bool(run.observed))
    add_terms(found, run, terms, values[0].value.shape)
    surrogates = bound.surrogates(run, [value for value in values if not value.removed])
    values += surrogates if first else [replace(value, in_elbo=False) for value in surrogates]
    return found


def add_terms(found: Evaluation, run: Run, terms: Sequence[Part], shape: torch.Size) -> None:
    """Adds the values of terms on a run, with the losses of their modules and their monitors.

    Args:
        shape: the shape of per-row values, `(B,)`.
    """
    done = run.step.done
    for term in terms:
        weight = at(term.weights, done)
        for name, value in _values_of(term.what, run, shape).items():
            add(found.values, _times(Value(name, value, weight, in_elbo=False), term.of_terms, done))
        owned = term.what.module()
        if owned is not None:
            found.losses[owned[0]] = term.what.loss(run)
        found.monitors.update(term.what.monitors(run))


def weighed(value: Value, part: Part, done: float) -> Value:
    """A value multiplied by the weights of its part."""
    return _times(value.times(at(part.weights, done)), part.of_terms, done)


def _values_of(term: Term, run: Run, shape: torch.Size) -> Mapping[str, Tensor]:
    """The checked values of a term on a run; the parameters of its own module get no gradient from them."""
    owned = term.module()
    own = [] if owned is None else [p for p in owned[1].parameters() if p.requires_grad and not is_lazy(p)]
    for parameter in own:
        parameter.requires_grad_(False)
    try:
        values = term.values(run)
    finally:
        for parameter in own:
            parameter.requires_grad_(True)
    if not isinstance(values, Mapping):
        got = type(values).__name__
        raise InputError(f"{type(term).__name__}: values returned a {got}; expected a mapping from name to tensor")
    for name, value in values.items():
        _check_value(term, name, value, shape)
        if not value.dim() and not term.whole_batch:
            raise InputError(f"{type(term).__name__}: got a scalar for {name!r}; expected one where whole_batch = True")
    return values


def _check_value(what: Bound | Term, name: str, value: Any, shape: torch.Size) -> None:
    if not isinstance(value, Tensor) or (value.shape != shape and value.dim()):
        got = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
        raise InputError(
            f"{type(what).__name__}: got {got} for the term {name!r}; expected a tensor of shape {tuple(shape)}, "
            f"one number per row, or a scalar for the batch"
        )


def _times(value: Value, factors: Iterable[tuple[str, Weight | None]], done: float) -> Value:
    for name, factor in factors:
        if same_term(value.name, name):
            value = value.times(None if factor is None else at((factor,), done))
    return value


def add(values: list[Value], new: Value) -> None:
    """Adds a term to a list; if it is there already, the weights are added.

    Raises:
        InputError: another term has the same name.
    """
    for i, value in enumerate(values):
        if same_term(value.name, new.name):
            if value.value is not new.value:
                if value.removed or new.removed:
                    continue
                raise InputError(f"terms: got two different ones named '{new.name}'; expected distinct names")
            if not new.removed:
                weight = new.weight + (0.0 if value.removed else value.weight)
                values[i] = replace(value, weight=weight, removed=False)
            return
    values.append(new)


def together(one: Evaluation, other: Evaluation, prefix: str) -> Evaluation:
    """Combines two bounds on the same rows; if any names clash, all names of the other one get a prefix."""
    own = [value.name for value in one.values]
    clash = any(same_term(name, value.name) for value in other.values for name in own)
    values = [replace(value, name=f"{prefix}{value.name}") if clash else value for value in other.values]
    monitors = {f"{prefix}{name}" if name in one.monitors else name: value for name, value in other.monitors.items()}
    monitors, losses = {**one.monitors, **monitors}, {**one.losses, **other.losses}
    return Evaluation([*one.values, *values], one.scale, monitors, losses, one.any_label or other.any_label)


def joined(of_runs: Sequence[Evaluation]) -> Evaluation:
    """Concatenates the rows of several runs; a term that a run does not have is 0 there."""
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
        values.append(Value(there.name, value, there.weight, there.in_elbo, weighted, there.removed))
    monitors = {name: value for found in of_runs for name, value in found.monitors.items()}
    losses = {name: value for found in of_runs for name, value in found.losses.items()}
    return Evaluation(values, of_runs[0].scale, monitors, losses, any(found.any_label for found in of_runs))


def check_names(parts: Sequence[Part], values: Sequence[Value]) -> None:
    """Checks that the names in `weighted` and `without` are names of terms."""
    for name in dict.fromkeys(name for part in parts for name, _ in part.of_terms):
        if not any(same_term(value.name, name) for value in values):
            own = ", ".join(repr(value.name) for value in values)
            raise InputError(f"terms: got the name {name!r}; expected {own}")
