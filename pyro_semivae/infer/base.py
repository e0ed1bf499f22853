"""What all objectives share: weighted terms of one step, their scaled total, the loss.

An objective is a weighted sum (`Summand.parts`) of bounds, which run guide and model, and of terms (`infer.terms`),
which read the same runs. The base class applies weights and scales in one place. It provides the three entry points of
`pyro.infer.ELBO` and a module form for torch optimisers. Everything stays a tensor from end to end: no `.item()`, and
no branch or shape depends on a tensor's value.
"""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_semivae.errors import InputError
from pyro_semivae.infer.evaluation import Evaluation, Value, check_names, evaluated, joined, merged, together
from pyro_semivae.infer.graph import PLAIN, NamedTerms, with_parents
from pyro_semivae.infer.handlers import LocalParameters
from pyro_semivae.infer.module import ObjectiveModule
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.step import Step
from pyro_semivae.infer.tables import row_scale
from pyro_semivae.infer.weights import WarmUp, Weight, check_weight


class Part(NamedTuple):
    """A bound or term in a sum, with the factors of its weight and those of single terms by name (None: removed)."""

    what: Bound | Term
    weights: tuple[Weight, ...] = ()
    of_terms: tuple[tuple[str, Weight | None], ...] = ()


class Summand(ABC):
    """Abstract base of bounds, terms and their sums, which can be added and weighted.

    `a + b`, `a - b`, `2.0 * a` and `schedule * a` are objectives, see `Sum`. A schedule is a function of the fraction
    of training done, such as `WarmUp`.
    """

    @abstractmethod
    def parts(self) -> Sequence[Part]:
        """The summands: bounds and terms with their weights."""

    def is_same(self, other: Summand) -> bool:
        """Whether both are the same summand, so that their weights add up."""
        return self is other

    def configuration(self) -> dict[str, Any]:
        """The attributes that are not modules; two terms of one class with equal configurations are the same."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, nn.Module)}

    def described(self) -> str:
        """The class name and the options that differ from the defaults."""
        options: list[str] = []
        parameters = inspect.signature(type(self)).parameters
        many = [name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_POSITIONAL]
        for name, parameter in parameters.items():
            value = vars(self).get(name, parameter.default)
            if name in many:
                options += map(repr, value if isinstance(value, tuple) else ())
            elif many and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:  # arguments before *args are positional
                options.append(repr(value))
            elif isinstance(value, Summand) or (type(value) in PLAIN and value != parameter.default):
                options.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(options)})"

    def __repr__(self) -> str:
        """The summands, each with its weight and the options that differ from the defaults.

        >>> from pyro_semivae.infer import ClassifierTerm, TraceCCVAE_ELBO
        >>> TraceCCVAE_ELBO(beta=2.0) + 7.0 * ClassifierTerm()
        TraceCCVAE_ELBO(beta=2.0) + 7.0 * ClassifierTerm()
        """
        return " + ".join(_described(list(parts), of) for of, parts in groupby(self.parts(), lambda p: p.of_terms))

    def __add__(self, other: Any) -> Sum:
        return Sum(*self.parts(), *other.parts()) if isinstance(other, Summand) else NotImplemented

    def __mul__(self, factor: Any) -> Sum:
        schedule = callable(factor) and not isinstance(factor, Tensor | nn.Module | Summand | type)
        if not (schedule or isinstance(factor, int | float)):
            return NotImplemented
        check_weight("weight", factor)
        return Sum(*(part._replace(weights=(factor, *part.weights)) for part in self.parts()))

    __rmul__ = __mul__

    def __neg__(self) -> Sum:
        return -1.0 * self

    def __sub__(self, other: Any) -> Sum:
        return self + -other if isinstance(other, Summand) else NotImplemented


class Term(Summand):
    """Abstract term to add to a bound: a function of the bound's run of guide and model.

    Attributes:
        whole_batch: whether the bound must run all rows together, labelled and unlabelled.
        needs_labels: whether a data set without any observed label is an error.
    """

    whole_batch = False
    needs_labels = False

    @abstractmethod
    def values(self, run: Run) -> Mapping[str, Tensor]:
        """Name -> `(B,)` in nats, or a scalar for the batch, which is not scaled; unweighted.

        The name is mathematics, such as `"log q(y_o|x)"`.
        """

    def module(self) -> tuple[str, nn.Module] | None:
        """The name and the module that the term owns, if any; its own optimiser trains it to minimise `loss`."""
        return None

    def loss(self, run: Run) -> Tensor:
        """The loss of the term's own module, a scalar with gradients for that module only.

        Raises:
            InputError: the term has a module but no loss.
        """
        raise InputError(f"{type(self).__name__}: got a module without a loss; expected a term that has both")

    def monitors(self, run: Run) -> dict[str, Tensor]:
        """Diagnostics: name -> scalar; called after `values` and `loss`."""
        return {}

    def optimiser(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser for the term's own module."""
        return torch.optim.Adam(parameters, 1e-4, fused=True)

    def parts(self) -> Sequence[Part]:
        return [Part(self)]

    def _owning(self) -> dict[str, tuple[Term, nn.Module]]:
        owned = self.module()
        return {} if owned is None else {owned[0]: (self, owned[1])}

    def is_same(self, other: Summand) -> bool:
        """Whether they are one object, or terms of one class without a module whose options are equal plain values."""
        if self is other or type(self) is not type(other) or self.module() is not None:
            return self is other
        mine, theirs = self.configuration(), other.configuration()
        plain = (bool, int, float, str, tuple, type(None))
        comparable = all(isinstance(value, plain) or is_dataclass(value) for value in mine.values())
        return comparable and mine == theirs


class Objective(ELBO, Summand):
    """Abstract objective: a sum of weighted terms, evaluated on one step.

    Args:
        max_plate_nesting: the number of nested plates in model and guide: 1 if the plate of rows is dim -1, 2 if it is
            dim -2 and has a plate of a label's entries inside.

    Attributes:
        needs_labels: whether a data set without any observed label is an error.
        scores_unpaired_labels: whether it contains a bound for labels without an image.

    Works in `pyro.infer.SVI`. `objective(model, guide)` is a module that owns the parameters of the modules whose
    methods these are; its forward is the loss. The loss is minus the scaled total of the weighted terms. Terms are 0
    for rows and sites that `poutine.mask` excludes.
    """

    def __init__(self, *, max_plate_nesting: int = 1):
        super().__init__(max_plate_nesting=max_plate_nesting)

    @property
    def needs_labels(self) -> bool:
        return any(part.what.needs_labels for part in self.parts())

    @property
    def scores_unpaired_labels(self) -> bool:
        return any(part.what.scores_unpaired_labels for part in self.parts() if _is_bound(part))

    def terms(self, model: Callable, guide: Callable, *args, **kwargs) -> NamedTerms:
        """Name -> `(B,)` in nats, unweighted and before the plate's scale; terms for the whole batch are scalars.

        Names are mathematics, such as `"log p(x|z)"` or `"-log q(z|x)"`; `terms["log p(x)"]` also finds the former.
        """
        return self._terms(Step(model, guide, args, kwargs), lambda value: value.value)

    def weighted_terms(self, model: Callable, guide: Callable, *args, **kwargs) -> NamedTerms:
        """As `terms`, multiplied by their weights; they add up to the objective."""
        return self._terms(Step(model, guide, args, kwargs), Value.summed)

    def named_values(self, model: Callable, guide: Callable, *args, **kwargs) -> dict[str, Value]:
        """As `terms`, each with its weight: a `Value`."""
        return self._terms(Step(model, guide, args, kwargs), lambda value: value)

    def differentiable_loss(self, model: Callable, guide: Callable, *args, **kwargs) -> Tensor:
        """Minus the scaled total, a scalar to call `backward` on."""
        return -self.evaluate(Step(model, guide, args, kwargs)).total()

    def loss(self, model: Callable, guide: Callable, *args, **kwargs) -> Tensor:
        """As `differentiable_loss`, without gradients."""
        with torch.no_grad(), LocalParameters():
            return self.differentiable_loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Callable, guide: Callable, *args, **kwargs) -> Tensor:
        """Adds the gradients to the parameters' `.grad` and returns the loss; `pyro.infer.SVI` calls it."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.detach()

    def __call__(self, model: Callable, guide: Callable) -> ObjectiveModule:
        return ObjectiveModule(self, model, guide)

    def _get_trace(self, model, guide, args, kwargs):
        """The guide's trace and the model's against it, labels enumerated (Pyro's hook)."""
        run = Step(model, guide, args, kwargs).run(self.max_plate_nesting)
        return run.model, run.guide

    def _terms(self, step: Step, of: Callable[[Value], Any]) -> NamedTerms:
        with LocalParameters():
            values = [value for value in self.evaluate(step).values if not value.removed]
            names = with_parents([value.name for value in values], step.graphs())
        return NamedTerms(zip(names, map(of, values), strict=True))

    # Evaluation and composition.

    def evaluate(self, step: Step) -> Evaluation:
        """Evaluates all terms on a batch; they share runs of guide and model.

        Raises:
            InputError: there is no bound among the summands; two terms with different values have the same name; a name
                in `without` or `weighted` matches no term.
        """
        parts = merged(self.parts(), step.done)
        every = [part for part in parts if _is_bound(part)]
        terms = [part for part in parts if not _is_bound(part)]
        if not every:
            got = ", ".join(type(part.what).__name__ for part in terms) or "no terms"
            raise InputError(f"objective: got {got}; expected a sum with a bound, such as vae.elbo() + ...")
        # Bounds with scores_unpaired_labels run on labels without data; if there are others, only those run on data.
        alone = [bound for bound in every if bound.what.scores_unpaired_labels]
        bounds = (alone if step.without_data else [bound for bound in every if bound not in alone]) or every
        if step.labelled and any(term.what.whole_batch or term.what.module() is not None for term in terms):
            step = replace(step, labelled=0)
        found: Evaluation | None = None
        for i, bound in enumerate(bounds):
            here = bound.what.evaluation(step, bound, () if i else terms, not i)
            found = here if found is None else together(found, here, f"bound {i + 1}: ")
        if found.any_label and len(bounds) == len(every):  # otherwise the terms of the other bounds are absent
            check_names(self.parts(), found.values)
        return replace(found, scale=found.scale * step.scale)

    def weighted(self, weights: Mapping[str, Weight]) -> Sum:
        """This objective, with the named terms multiplied by a number or a schedule.

        Args:
            weights: name -> factor; names may omit the condition, `"-log q(z)"` for `"-log q(z|x)"`.
        """
        for name, weight in weights.items():
            check_weight(name, weight)
        return self._of_terms(*weights.items())

    def without(self, *names: str) -> Sum:
        """This objective without the named terms."""
        return self._of_terms(*((name, None) for name in names))

    def replaced(self, name: str, by: Summand) -> Sum:
        """This objective with another summand in place of the named term."""
        return self.without(name) + by

    def _of_terms(self, *factors: tuple[str, Weight | None]) -> Sum:
        return Sum(*(part._replace(of_terms=(*part.of_terms, *factors)) for part in self.parts()))

    def warmed_up(self, until: float) -> Objective:
        """This objective, with the bounds' beta rising linearly from 0 to its value over a fraction of training.

        Raises:
            InputError: no bound has a `beta`.
        """
        warmed = [
            (part, part.what.warming_up(until) if isinstance(part.what, Bound) else None) for part in self.parts()
        ]
        if not any(own is not None for _, own in warmed):
            raise InputError(f"warm_up: got {until}; expected 0 with {type(self).__name__}, which has no beta")
        return Sum(*(part if own is None else part._replace(what=own) for part, own in warmed))

    @property
    def bound(self) -> Bound:
        """The first bound, whose runs the terms read."""
        found = next(part.what for part in self.parts() if isinstance(part.what, Bound))
        return found if found is self else found.bound

    def modules(self) -> nn.ModuleDict:
        """The modules that terms own, by name."""
        return nn.ModuleDict({name: module for name, (_, module) in self._owning().items()})

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """An optimiser for each module that a term owns, by name."""
        return {name: term.optimiser(module.parameters()) for name, (term, module) in self._owning().items()}

    def _owning(self) -> dict[str, tuple[Term, nn.Module]]:
        """Module name -> the term that owns the module, and the module."""
        found: dict[str, tuple[Term, nn.Module]] = {}
        for part in self.parts():
            for name, owned in part.what._owning().items() if part.what is not self else ():
                if name in found and found[name][1] is not owned[1]:
                    raise InputError(f"terms: got two different modules named {name!r}; expected one")
                found[name] = owned
        return found


class Bound(Objective):
    """Abstract bound: runs guide and model and computes the bound's terms.

    A bound defines how guide and model are run (`runs`, once by default) and its terms (`values`). Terms added to it
    read the same runs. A bound that supports a warm-up has an attribute `beta`.
    """

    needs_labels = False
    scores_unpaired_labels = False

    def parts(self) -> Sequence[Part]:
        return [Part(self)]

    def runs(self, step: Step) -> Sequence[Run]:
        """The runs for a batch; several, in the order of the rows, if parts of the batch are run separately.

        Create a modified step with `step.another(key, guide=..)`, which lives as long as the first one.
        """
        return [step.run(self.max_plate_nesting)]

    @abstractmethod
    def values(self, run: Run) -> list[Value]:
        """The terms of a run."""

    def runs_of_terms(self, step: Step) -> Sequence[Run]:
        """The runs that the added terms read."""
        return self.runs(step)

    def evaluation(self, step: Step, part: Part, terms: Sequence[Part], first: bool) -> Evaluation:
        """Evaluates this bound and the terms added to it, as a part of a sum.

        Args:
            part: this bound with its weights. terms: the added terms. first: whether it is the sum's first bound, the
                ELBO.
        """
        of_runs = [evaluated(run, part, () if run.in_reverse else terms, first) for run in self.runs(step)]
        return of_runs[0] if len(of_runs) == 1 else joined(of_runs)

    def most_terms(self) -> float:
        """The maximum number of joint label values that are enumerated for one site; infinite by default."""
        return math.inf

    def surrogates(self, run: Run, values: Sequence[Value]) -> list[Value]:
        """Terms of value 0 that carry the gradient of sampling, computed from all `values` of the objective."""
        return []

    def monitors(self, run: Run) -> dict[str, Tensor]:
        """Diagnostics."""
        return {}

    def scale(self, run: Run) -> float | Tensor:
        """The scale of the rows from Pyro's handlers."""
        return row_scale(run.model, run.roles.data + run.roles.latents)

    def warming_up(self, until: float) -> Bound | None:
        """A copy whose beta rises over a fraction of training; None for a bound without beta."""
        beta = getattr(self, "beta", None)
        if beta is None:
            return None
        own = copy.copy(self)
        own.beta = WarmUp(until, beta)
        return own


class Sum(Objective):
    """A sum of weighted bounds and terms. The first bound is the ELBO; terms read its runs."""

    def __init__(self, *parts: Part):
        super().__init__(max_plate_nesting=max((p.what.max_plate_nesting for p in parts if _is_bound(p)), default=1))
        self._parts = parts

    def parts(self) -> Sequence[Part]:
        return self._parts

    def configuration(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for i, (what, weights, of_terms) in enumerate(self._parts, 1):
            name = f"{i}, {type(what).__name__}"
            found[f"part {name}"] = what
            found |= {f"weight of {name}": weights[0] if len(weights) == 1 else weights} if weights else {}
            found |= {f"weight of {term} in {name}": weight for term, weight in of_terms}
        return found


def _is_bound(part: Part) -> bool:
    return isinstance(part.what, Bound)


def _described(parts: Sequence[Part], of_terms: Sequence[tuple[str, Weight | None]]) -> str:
    """The source text for parts of a sum: each with its weights, then the weights of single terms."""
    text = " + ".join("".join(f"{weight} * " for weight in p.weights) + p.what.described() for p in parts)
    text = f"({text})" if of_terms and (len(parts) > 1 or parts[0].weights) else text
    for removed, terms in groupby(of_terms, lambda term: term[1] is None):
        factors = ", ".join(repr(name) if removed else f"{name!r}: {weight}" for name, weight in terms)
        text += f".without({factors})" if removed else f".weighted({{{factors}}})"
    return text
