"""Objectives on a modified step: with hidden labels, labelled rows only, or latents from the prior."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import ref

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn import functional as F

from pyro_semivae.errors import InputError, check_count
from pyro_semivae.infer.base import Bound, Objective, Part, Term
from pyro_semivae.infer.evaluation import Evaluation, Value, add, add_terms, joined, weighed
from pyro_semivae.infer.evidence import Evidence, enumerates
from pyro_semivae.infer.graph import graphs_of
from pyro_semivae.infer.roles import Roles, sample_sites
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.step import Step
from pyro_semivae.infer.tables import row_scale
from pyro_semivae.spaces import any_known


class Derived(Bound):
    """Abstract: an objective, a bound with its added terms, evaluated on a step derived from the given one.

    Terms added to a sum whose first bound is this one read the runs of the objective's first bound.

    Args:
        what: the objective. prefix: a prefix for the names of its terms.

    Raises:
        InputError: `what` is not an objective.
    """

    def __init__(self, what: Objective, prefix: str = ""):
        if not isinstance(what, Objective):
            raise InputError(f"{type(self).__name__}: got {type(what).__name__}; expected an objective")
        super().__init__(max_plate_nesting=what.max_plate_nesting)
        self.what, self.prefix = what, prefix

    @abstractmethod
    def derived(self, step: Step) -> tuple[Step, tuple[int, int]]:
        """The derived step, with scale 1, and the numbers of the given step's rows before and after its rows."""

    @property
    def needs_labels(self) -> bool:
        return self.what.needs_labels

    @property
    def bound(self) -> Bound:
        return self.what.bound

    def runs_of_terms(self, step: Step) -> Sequence[Run]:
        first = next(part.what for part in self.what.parts() if isinstance(part.what, Bound))
        return first.runs_of_terms(self.derived(step)[0])

    def evaluation(self, step: Step, part: Part, terms: Sequence[Part], first: bool) -> Evaluation:
        other, around = self.derived(step)
        found = self._of_rows(step, _padded(self._evaluated(other), around))
        values = [self._own(value, part, step.done, first) for value in found.values]
        monitors = {f"{self.prefix}{name}": value for name, value in found.monitors.items()}
        found = replace(found, values=values, monitors=monitors)
        if terms:
            added = self._of_rows(step, _padded(self._added(step, terms), around))
            for value in added.values:
                add(found.values, replace(value, name=f"{self.prefix}{value.name}"))
            found.losses.update(added.losses)
            found.monitors.update({f"{self.prefix}{name}": value for name, value in added.monitors.items()})
        return found

    def _evaluated(self, other: Step) -> Evaluation:
        """Evaluates the objective on the derived step."""
        return self.what.evaluate(other)

    def _added(self, step: Step, terms: Sequence[Part]) -> Evaluation:
        """Evaluates added terms on the runs of the objective's first bound."""
        of_runs = []
        for run in self.runs_of_terms(step):
            of_runs.append(Evaluation([]))
            if not run.in_reverse:
                add_terms(of_runs[-1], run, terms, torch.Size([run.step.num_rows]))
        return of_runs[0] if len(of_runs) == 1 else joined(of_runs)

    def _of_rows(self, step: Step, found: Evaluation) -> Evaluation:
        """Adapts an evaluation to the rows of the given step; unchanged by default."""
        return found

    def _own(self, value: Value, part: Part, done: float, first: bool) -> Value:
        named = replace(value, name=f"{self.prefix}{value.name}", in_elbo=value.in_elbo and first)
        return weighed(named, part, done)

    def values(self, run: Run) -> list[Value]:
        raise InputError(f"{type(self).__name__}: it has no terms of a single run; expected a call of `evaluate`")

    def warming_up(self, until: float) -> Bound | None:
        own = copy.copy(self)
        try:
            own.what = self.what.warmed_up(until)
        except InputError:  # nothing in it has a beta
            return None
        return own

    def _owning(self) -> dict[str, tuple[Term, nn.Module]]:
        return self.what._owning()


class Hidden(Derived):
    """An objective evaluated as if labels were missing: `vae.elbo() + 0.5 * Hidden(vae.elbo().bound, "y")`.

    Args:
        what: the objective. labels: names of the arguments of model and guide that are hidden from it.
        also_labelled: whether it is evaluated on all rows. Otherwise, if the step says which rows are labelled (`fit`
            does), it is evaluated on the other rows only; with `fit(.., also_unlabelled=True)` the labelled rows are
            among these, too.

    Terms: those of the objective, with the prefix `"without y: "`.
    """

    needs_labels = False

    def __init__(self, what: Objective, *labels: str, also_labelled: bool = True, prefix: str | None = None):
        if not labels:
            raise InputError("Hidden: got no label; expected the names of one label or more")
        super().__init__(what, f"without {','.join(labels)}: " if prefix is None else prefix)
        self.labels, self.also_labelled = labels, also_labelled

    def derived(self, step: Step) -> tuple[Step, tuple[int, int]]:
        if unknown := set(self.labels) - set(step.named()):
            raise InputError(f"Hidden: got {sorted(unknown)}; expected {', '.join(step.named())}")
        first = 0 if self.also_labelled or step.labelled == step.num_rows else step.labelled
        return (step.rows(first, None) if first else step).hiding(self.labels), (first, 0)


class Labelled(Derived):
    """An objective on the rows that have at least one label.

    If the step says which rows are labelled (`fit` does), only these are run. Otherwise all rows are run, and the terms
    are 0 for rows without labels.

    Args:
        what: the objective. labels: names of the labels, one or more. prefix: a prefix for the names of its terms.
    """

    needs_labels = True

    def __init__(self, what: Objective, *labels: str, prefix: str = "labelled: "):
        if not labels:
            raise InputError("Labelled: got no label; expected the names of one label or more")
        super().__init__(what, prefix)
        self.labels = labels

    def derived(self, step: Step) -> tuple[Step, tuple[int, int]]:
        if step.labelled:
            return step.rows(0, step.labelled), (0, step.num_rows - step.labelled)
        return step.another("labelled", scale=1.0), (0, 0)

    def _of_rows(self, step: Step, found: Evaluation) -> Evaluation:
        if step.labelled:
            return found
        given = step.named()
        if unknown := set(self.labels) - set(given):
            raise InputError(f"Labelled: got {sorted(unknown)}; expected {', '.join(given)}")
        first = next(value for value in given.values() if isinstance(value, Tensor))
        known = torch.zeros(len(first), dtype=torch.bool, device=first.device)
        for y in (given[name] for name in self.labels if given[name] is not None):
            known = known | any_known(y)

        def masked(value: Tensor | None) -> Tensor | None:
            return value if value is None or not value.dim() else torch.where(known, value, 0.0)

        values = [replace(v, value=masked(v.value), weighted=masked(v.weighted)) for v in found.values]
        return replace(found, values=values)


class FromPrior(Derived):
    r"""A bound whose guide samples some latents from the model's prior, so that their log p and -log q cancel.

    .. math::
        \log p(x | y) \ge E_{p(z)}[\log p(x | y, z)]

    by Jensen's inequality; it is tight if x does not depend on z.

    Args:
        what: the objective. latents: names of latents without parents in the model, one or more.
        scored: names of sites whose densities in the guide have terms of their own, such as a label loss: those must
            be the guide's.

    Raises:
        InputError: there is no latent. When evaluated: a name is not a latent, or a latent has parents in the model;
            a site in `scored` depends on one of the latents in the guide.
    """

    def __init__(self, what: Objective, *latents: str, scored: Sequence[str] = ()):
        super().__init__(what)
        if not latents:
            raise InputError("latents: got none; expected names of latents without parents in the model")
        self.latents, self.scored = latents, tuple(scored)
        self._checked = False

    def configuration(self) -> dict[str, Any]:
        return {"what": self.what, "latents": self.latents, **({"scored": self.scored} if self.scored else {})}

    def derived(self, step: Step) -> tuple[Step, tuple[int, int]]:
        if not self._checked and get_proxy_mode() is None:  # otherwise the step is being traced
            graphs = graphs_of(step.model, step.guide, step.named(), ())
            if wrong := [name for name in self.latents if graphs["p"].get(name) != ()]:
                got = f"{wrong}, of the sites {', '.join(graphs['p'])}"
                raise InputError(f"FromPrior: got {got}; expected latents without parents in the model")
            below = {*self.latents}
            for name, parents in graphs["q"].items():  # parents come first
                if below & {*parents}:
                    below.add(name)
            if wrong := [name for name in self.scored if name in below]:
                raise InputError(
                    f"FromPrior: got a guide in which {wrong} depend on {[*self.latents]}; expected others, as "
                    f"their loss would be at latents from the prior (replacement='guide' keeps the guide's)"
                )
            self._checked = True
        densities = _Densities(self.latents)
        try:
            with poutine.block(), densities:
                step.model(*step.args, **step.kwargs)
        except _AllFound:
            pass

        own = step.guide

        def guide(*args: Any, **kwargs: Any) -> Any:
            with _Replaced(densities.found):
                return own(*args, **kwargs)

        return step.another(("prior", self.latents), guide=guide, scale=1.0), (0, 0)


class ImportanceWeighted(Derived):
    r"""The log of the mean of exp(objective) over K samples: IWAE's bound (Burda et al., ICLR 2016).

    .. math::
        \log p(x) \ge E\Big[\log \frac{1}{K} \sum_k \frac{p(x, z_k)}{q(z_k | x)}\Big]

    Every row is repeated K times; the gradient goes through samples and densities. It has one term.

    Args:
        what: the objective, with per-row terms only. samples: K.

    Raises:
        InputError: when evaluated: a term belongs to the batch, not to its rows.
    """

    def __init__(self, what: Objective, samples: int = 5):
        super().__init__(what)
        self.samples = check_count("samples", samples)

    def derived(self, step: Step) -> tuple[Step, tuple[int, int]]:
        def repeated(value: Any) -> Any:
            return value.repeat(self.samples, *(1,) * (value.dim() - 1)) if isinstance(value, Tensor) else value

        args = tuple(repeated(value) for value in step.args)
        kwargs = {name: repeated(value) for name, value in step.kwargs.items()}
        changes: dict[str, Any] = {"labelled": 0, "strata": {}, "scale": 1.0}
        return step.another(("repeated", self.samples), args=args, kwargs=kwargs, **changes), (0, 0)

    def runs_of_terms(self, step: Step) -> Sequence[Run]:
        first = next(part.what for part in self.what.parts() if isinstance(part.what, Bound))
        return first.runs_of_terms(step)  # each row once

    def _evaluated(self, other: Step) -> Evaluation:
        found = self.what.evaluate(other)
        if batch := [value.name for value in found.values if not value.by_row and not value.removed]:
            raise InputError(f"ImportanceWeighted: got {batch}, of the batch; expected only terms per example")
        total = sum(value.summed() for value in found.values if not value.removed)
        mean = total.reshape(self.samples, -1).logsumexp(0) - math.log(self.samples)
        return replace(found, values=[Value(f"log of the mean of {self.samples}", mean)], scale=1.0)


class GuideAlone(Bound):
    """Not a bound: runs only the guide, for terms that need nothing else, such as a label loss."""

    def runs(self, step: Step) -> list[Run]:
        evidence, dim = Evidence(data_complete=step.data_complete), -1 - int(self.max_plate_nesting)
        with poutine.enum(first_available_dim=dim - 1):
            trace = poutine.trace(evidence(step.guide)).get_trace(*step.args, **step.kwargs)
        labels = tuple(name for name, site in sample_sites(trace) if enumerates(site))
        return [Run(trace, trace, Roles((), labels, ()), evidence.observed, tuple(evidence.continuous), ref(step), dim)]

    def values(self, run: Run) -> list[Value]:
        first = next(value for value in run.step.named().values() if isinstance(value, Tensor))
        dtype = torch.get_default_dtype()
        return [Value("0", torch.zeros(len(first), dtype=dtype, device=first.device), removed=True)]

    def scale(self, run: Run) -> float | Tensor:
        return row_scale(run.guide, [name for name, _ in sample_sites(run.guide)])


class _AllFound(Exception):
    pass


class _Densities(Messenger):
    """Records the distributions of some sites, and stops the run when it has all of them."""

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self.names, self.found = names, {}

    def _pyro_post_sample(self, msg: dict) -> None:
        if msg["name"] in self.names:
            self.found[msg["name"]] = msg["fn"]
            if len(self.found) == len(self.names):
                raise _AllFound


class _Replaced(Messenger):
    """Replaces the distributions of some sites."""

    def __init__(self, densities: dict[str, Any]):
        super().__init__()
        self.densities = densities

    def _pyro_sample(self, msg: dict) -> None:
        msg["fn"] = self.densities.get(msg["name"], msg["fn"])


def _padded(found: Evaluation, around: tuple[int, int]) -> Evaluation:
    """An evaluation padded with zeros for the numbers of rows before and after."""
    if around == (0, 0):
        return found

    def padded(value: Tensor | None, by: float = 0.0) -> Tensor | None:
        return value if value is None or not value.dim() else F.pad(value, around, value=by)

    values = [replace(v, value=padded(v.value), weighted=padded(v.weighted)) for v in found.values]
    scale = padded(found.scale, 1.0) if isinstance(found.scale, Tensor) else found.scale
    return replace(found, values=values, scale=scale)
