"""One run of guide and model: the observed labels, and exact sums over the missing ones.

Each label is enumerated in its own dimension; a density that depends on several labels varies along several dimensions.
Labels may be parents of each other, in guide and model. Sums are joint and per row, by variable elimination, children
before parents; so no summed table has more dimensions than one density together with its label's parents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import proxy, ref

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.infer.evidence import enumerates, enumeration_dim, select
from pyro_semivae.infer.roles import Roles
from pyro_semivae.infer.tables import (
    log_prob,
    masked,
    plate_dims,
    plates_of_entries,
    reduce_plates,
    row_dim,
    to_rows,
    varies,
)
from pyro_semivae.spaces import any_known, is_missing

if TYPE_CHECKING:
    from pyro_semivae.infer.step import Step


@dataclass(frozen=True, eq=False)
class Run:
    """One run of guide and model.

    Attributes:
        guide, model: the traces. roles: the roles of the sites. observed: label -> values, some entries missing.
            continuous: the names of the continuous observed labels.
        step_ref: a weak reference to the step. The step keeps its runs; a strong reference would form a cycle, which
            stays in memory until the garbage collector runs.
        particle_dim: the batch dimension of particles. particles: the number of values of each latent in the guide; the
            model uses the first one. detached: whether there is an additional last particle, the first one detached.
        fully_observed: whether no entry of a discrete label is missing, so that none is enumerated.
        in_reverse: whether the guide generates and the model infers; terms are not evaluated on such a run.
        kept: a cache for intermediate results.
    """

    guide: Trace
    model: Trace
    roles: Roles
    observed: dict[str, Tensor]
    continuous: tuple[str, ...] = ()
    step_ref: ref[Step] | None = None
    particle_dim: int = -2
    particles: int = 1
    detached: bool = False
    fully_observed: bool = False
    in_reverse: bool = False
    kept: dict[Any, Any] = field(default_factory=dict)

    @property
    def step(self) -> Step:
        """The batch.

        Raises:
            RuntimeError: the step no longer exists, or the run was created without one.
        """
        step = None if self.step_ref is None else self.step_ref()
        if step is None:
            raise RuntimeError(
                "step: this run's step no longer exists; expected a bound to create it with step.another(..), which "
                "keeps it alive"
            )
        return step

    @property
    def latents(self) -> tuple[str, ...]:
        """The latents, without continuous labels."""
        return tuple(name for name in self.roles.latents if name not in self.continuous)

    def enumeration_dim(self, label: str) -> int | None:
        """The (negative) batch dimension in which a label's values lie; None if the label is not enumerated."""
        trace = self.model if label in self.model.nodes else self.guide
        return enumeration_dim(trace.nodes[label])

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """All labels, including those that only the guide has."""
        of_guide = [name for name, site in self.guide.nodes.items() if site["type"] == "sample" and enumerates(site)]
        return tuple(dict.fromkeys([*self.roles.labels, *self.observed, *of_guide]))

    def labels_of(self, table: Tensor) -> tuple[str, ...]:
        """The labels whose enumeration dimensions a table varies along."""
        return tuple(label for label in self.labels if varies(table, self.enumeration_dim(label)))

    def where_missing(self, label: str, values: Tensor) -> Tensor:
        """`values` where a label is missing, 0 where it is observed."""
        return torch.where(self.missing(label), values, 0.0) if label in self.observed else values

    def where_beta(self, beta: float, label: str, values: Tensor) -> Tensor:
        """`values`, multiplied by beta where a label is missing."""
        if label not in self.observed:
            return beta * values
        return (1 + (beta - 1) * self.missing(label).to(values)) * values

    def known(self, label: str, values: Tensor) -> Tensor:
        """Mask of the enumerated `values` that agree with the observed label; all of them where it is missing."""
        if label not in self.observed:
            return torch.ones_like(values, dtype=torch.bool)
        return self.missing(label) | self.matches(label, values)

    def missing(self, label: str) -> Tensor:
        """Mask of the missing entries of a label, of its batch shape; one-hot labels are missing as a whole."""
        missing = is_missing(self.observed[label])
        return missing.any(-1) if self._event_dim(label) else missing

    def matches(self, label: str, values: Tensor) -> Tensor:
        """Mask of the `values` that equal the observed label; none where the label is missing."""
        same = values == self.observed[label]
        return same.all(-1) if self._event_dim(label) else same

    def _event_dim(self, label: str) -> int:
        trace = self.guide if label in self.guide.nodes else self.model
        return trace.nodes[label]["fn"].event_dim

    def elimination_order(self, labels: Iterable[str]) -> list[str]:
        """Labels in the order of marginalisation: those with several entries first, and children before parents."""
        where = {name: i for i, name in enumerate(self.guide.nodes)}
        plates = {name: sum(f.size > 1 for f in self.guide.nodes[name]["cond_indep_stack"]) for name in labels}
        return sorted(plates, key=lambda name: (plates[name], where[name]), reverse=True)

    @cached_property
    def sums(self) -> Sums:
        """The tables of the labels, and means over the missing labels."""
        return Sums(self)

    @cached_property
    def known_rows(self) -> Tensor:
        """Mask of the rows with at least one observed label, `(B,)`."""
        return torch.stack([any_known(y) for y in self.observed.values()]).any(0)

    def value(self, latent: str) -> Tensor:
        """The value of a latent in the model (the guide's first particle), flattened to `(B, D)`.

        Raises:
            InputError: there is no latent of that name; it depends on an enumerated label, so that it has one value for
                each value of the label.
        """
        value, dim, event_dim = self._value(latent)
        if by := [label for label in self.labels if varies(value, _left(self.enumeration_dim(label), event_dim))]:
            raise InputError(
                f"latent '{latent}' has a value for each value of {by} where that is missing, not one sample per row; "
                f"run.mean('{latent}', ..) computes means over labels"
            )
        axis = self.particle_dim - event_dim
        value = value.select(axis, 0) if value.dim() >= -axis else value
        return value.reshape(value.shape[dim - event_dim], -1)

    def mean(self, latent: str, of: Callable[[Tensor], Tensor]) -> Tensor:
        """The mean of a function of a latent over the missing labels that it depends on in the guide, `(B,)`.

        Args:
            of: maps values `(..., D)` to `(...)`.
        """
        value, _, _ = self._value(latent)
        site = self.model.nodes[latent]
        return to_rows(self.sums.mean(of(value), site), site)

    def _value(self, latent: str) -> tuple[Tensor, int, int]:
        if latent not in self.roles.latents:
            raise InputError(f"latent: got {latent!r}; expected {', '.join(self.roles.latents)}")
        site = self.model.nodes[latent]
        return site["value"], row_dim(site), site["fn"].event_dim

    def first_log_q(self, latent: str) -> Tensor:
        """The guide's log-density of a latent at its first particle, `(B,)`."""
        return to_rows(self.first_log_q_table(latent), self.guide.nodes[latent])

    def first_log_q_table(self, latent: str) -> Tensor:
        """The guide's log-density of a latent at its first particle, of the latent's batch shape."""
        site = self.guide.nodes[latent]
        fn, value = site["fn"], site["value"]
        axis = self.particle_dim - fn.event_dim
        if len(fn.batch_shape) < -self.particle_dim and value.dim() >= -axis:  # only the value has particles
            table = fn.log_prob(value.select(axis, 0))
        else:
            table = fn.log_prob(value)
            table = table.select(self.particle_dim, 0) if table.dim() >= -self.particle_dim else table
        return masked(table, site)

    def classifier(self, label: str) -> Tensor:
        """log q(y|z) for every value of a label, `(C, ..., particles, plates)`.

        Raises:
            InputError: the guide does not have the label; there are several particles, and the label depends on none.
        """
        self.check_classified(label)
        table = log_prob(self.guide.nodes[label])
        if self.particles > 1 and table.shape[self.particle_dim] == 1:
            raise InputError(f"label '{label}': the guide's q({label}|..) must depend on a sampled latent")
        return table

    @cached_property
    def log_q_known(self) -> Tensor:
        """log q(y_o|z), summed over the observed entries, `(particles, B)`; 0 in rows without observed labels.

        The labels must not depend on each other.
        """
        total: Tensor | float = 0.0
        for label, y in self.observed.items():
            log_q, site = self.classifier(label), self.guide.nodes[label]
            self._check_alone(label, log_q)
            table = select(log_q, site["value"], y, enumeration_dim(site))
            table = reduce_plates(table, site, keep={row_dim(site)})
            total = total + table.reshape(table.shape[self.particle_dim], table.shape[row_dim(site)])
        return total

    @cached_property
    def log_q_given_data(self) -> Tensor:
        """log q(y_o|x) = log E_q(z|x)[q(y_o|z)], from all particles except the first, `(B,)`; 0 without labels."""
        others = self.log_q_known[1 : self.particles]
        log_q = torch.logsumexp(others, 0) - math.log(len(others))
        return torch.where(self.known_rows, log_q, 0.0)  # exactly 0, without rounding errors

    @cached_property
    def groups(self) -> list[tuple[str, ...]]:
        """Groups of labels that depend on each other in the guide, those with an observed label."""
        groups = {label: {label} for label in self.labels}
        for label in self.labels:
            for other in self.labels_of(self.sums.log_q[label]):
                joined = groups[label] | groups[other]
                groups |= dict.fromkeys(joined, joined)
        found = dict.fromkeys(tuple(sorted(group, key=self.labels.index)) for group in groups.values())
        return [group for group in found if set(group) & set(self.observed)]

    def log_q_observed(self, group: Sequence[str]) -> Tensor:
        """log q(y_o|.) of a group's observed labels, with the missing discrete ones marginalised, `(B,)`."""
        key = ("log q", tuple(group))
        if key not in self.kept:
            self.kept[key] = self._log_q_observed(group)
        return self.kept[key]

    def _log_q_observed(self, group: Sequence[str]) -> Tensor:
        if len(group) == 1 and group[0] not in self.continuous:
            (label,) = group
            site, sums = self.guide.nodes[label], self.sums
            at_known = torch.where(self.matches(label, sums.values[label]), sums.log_q[label], 0.0)
            return to_rows(masked(at_known.sum(sums.dims[label]), site), site)
        factors = {label: self.sums.log_q_observed(label) for label in group}
        outside = self.guide.nodes[min(group, key=lambda label: len(plate_dims(self.guide.nodes[label])))]
        left = log_sum(self, factors, [label for label in group if label not in self.continuous])
        total = sum(to_rows(table, outside) for table in left)
        given = [self.observed[label] for label in group if label in self.observed]
        anything = torch.stack([any_known(y).reshape(len(total)) for y in given]).any(0)
        by_plates = torch.where(anything, total, 0.0).reshape(-1, *(1,) * (-1 - row_dim(outside)))
        return masked(by_plates, outside).reshape(len(total))

    def over_missing(self, of: Callable[[str, Tensor, int], Tensor]) -> Tensor:
        """The sum over a row's missing discrete labels of a function of q(y|z), `(B,)`.

        Args:
            of: called with each label's name, its log q(y|z) at the first particle and the dimension of its values.

        Raises:
            InputError: the guide has no discrete label; one is missing and not enumerated.
        """
        discrete = [label for label in self.labels if label not in self.continuous]
        if not discrete:
            raise InputError("labels: the guide has no discrete label; expected a classifier for at least one")
        total: Tensor | float = 0.0
        for label in discrete:
            if self.fully_observed:  # none is missing
                site = self.guide.nodes[label]
                total = total + torch.zeros_like(to_rows(log_prob(site), site))
                continue
            log_q, site = self.first_classifier(label), self.guide.nodes[label]
            total = total + to_rows(self.where_missing(label, of(label, log_q, self.enumeration_dim(label))), site)
        return total

    def first_classifier(self, label: str) -> Tensor:
        """log q(y|z) for every value of a label at the first particle, `(C, ..., 1, plates)`.

        Raises:
            InputError: as for `classifier`; or the label is not enumerated, or depends on other labels.
        """
        table = self.classifier(label)
        if self.enumeration_dim(label) is None or label in self.continuous:
            raise InputError(f"label '{label}': it is not enumerated; expected a discrete label to marginalise")
        self._check_alone(label, table)
        return table.narrow(self.particle_dim, 0, 1)

    def check_classified(self, label: str) -> None:
        """Raises an InputError unless the guide has the label."""
        if label not in self.guide.nodes:
            raise InputError(
                f"label '{label}' is not in the guide: its classifier q({label}|z) is needed there, with "
                f'infer={{"enumerate": "parallel"}}'
            )

    def _check_alone(self, label: str, table: Tensor) -> None:
        if others := [other for other in self.labels_of(table) if other != label]:
            raise InputError(f"label '{label}' depends on the labels {others} in the guide; expected none here")


def _left(dim: int | None, event_dim: int) -> int | None:
    """A batch dimension, converted to a dimension of values."""
    return None if dim is None else dim - event_dim


def log_sum(run: Run, factors: Mapping[str, Tensor], summed: Iterable[str]) -> list[Tensor]:
    """The log of a product of factors, summed over labels, as a list of the remaining log-factors.

    The result is the sum of these log-factors, each summed over its plates.

    Args:
        factors: name -> log-factor, a table over the labels that it depends on. summed: the labels to sum out.
    """
    left = list(factors.values())
    for label in run.elimination_order(summed):
        dim, site = run.enumeration_dim(label), run.guide.nodes[label]
        inside = [table for table in left if varies(table, dim)]
        left = [table for table in left if not varies(table, dim)]
        own = {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}
        entries = [d for d in (-1,) if d not in own and own]  # a label outside the plate: sum over others' entries
        tables = [table.sum(entries, keepdim=True) if entries and table.shape[-1] > 1 else table for table in inside]
        left.append(torch.logsumexp(sum(tables), dim, keepdim=True))
    return left


class Sums:
    """The tables of the labels in a run, and means over the missing labels.

    The weights of a mean are q(y|.) where y is missing, and 1 and 0 where it is observed.

    Attributes:
        values, log_q, dims: label -> its values, log q(y|.) for each, and the dimension in which they lie. Labels that
            are sampled or fully observed have tables over their own values only, in the first dimension.
    """

    def __init__(self, run: Run):
        self.run = proxy(run)  # a weak reference: the run holds this object
        self.values: dict[str, Tensor] = {}
        self.log_q: dict[str, Tensor] = {}
        self.dims: dict[str, int] = {}
        for label in run.labels:
            run.check_classified(label)
            fn, dim = run.guide.nodes[label]["fn"], run.enumeration_dim(label)
            if label in run.continuous:
                self.values[label] = run.guide.nodes[label]["value"]
                self.log_q[label] = fn.log_prob(self.values[label])
                continue
            self.values[label] = fn.enumerate_support(expand=False) if dim is None else run.guide.nodes[label]["value"]
            self.log_q[label] = fn.log_prob(self.values[label])
            self.dims[label] = -self.log_q[label].dim() if dim is None else dim

    def log_p(self, label: str) -> Tensor:
        """log p(y|.) for each value."""
        return self.run.model.nodes[label]["fn"].log_prob(self.values[label])

    def log_q_observed(self, label: str) -> Tensor:
        """log q(y|.) for the values of an observed label: -inf except at the known value; unchanged where missing.

        For a continuous label, log q(y|.) at the known value, and 0 where it is missing (it is sampled there).
        """
        if label in self.run.continuous:
            return torch.where(self.run.missing(label), 0.0, self.log_q[label])
        return torch.where(self.run.known(label, self.values[label]), self.log_q[label], -torch.inf)

    def weights(self, label: str) -> Tensor:
        log_q = self.log_q[label]
        if label not in self.run.observed:
            return log_q.exp()
        return torch.where(self.run.missing(label), log_q.exp(), self.run.matches(label, self.values[label]).to(log_q))

    def mean(self, table: Tensor, site: dict, own: str | None = None, max_terms: float = math.inf) -> Tensor:
        """The mean of a site's table over all labels that it varies with; their dimensions then have size 1.

        Args:
            own: the label that the table belongs to, if any. max_terms: the maximum number of joint label values.

        Raises:
            InputError: the site depends on all entries of a label at once, or on more than `max_terms` values.
        """
        enumerated = [label for label in self.dims if label == own or self.run.enumeration_dim(label) is not None]
        along = [label for label in enumerated if varies(table, self.dims[label])]
        terms = math.prod(table.shape[self.dims[label]] for label in along)
        if terms > max_terms:
            raise InputError(
                f"max_terms: got {max_terms}, and site '{site['name']}' is summed over the {terms} values of the "
                f"labels {along}; expected at least {terms}, or missing_labels='gumbel' or 'reinforce' to sample them"
            )
        for label in self.run.elimination_order(enumerated):
            if varies(table, self.dims[label]):
                if plates_of_entries(self.run.guide.nodes[label], site):
                    raise InputError(
                        f"missing_labels: got 'enumerate', but site '{site['name']}' depends on all the labels "
                        f"'{label}' at once, which gives 2^L terms; expected 'gumbel' or 'reinforce' for this model"
                    )
                table = (self.weights(label) * table).sum(self.dims[label], keepdim=True)
        return table
