"""What all objectives share: the two traces of a step, named terms per row, their scaled total, the loss.

An objective is written as `rows(...)`, which returns named terms per row; everything else (the three entry
points of `pyro.infer.ELBO`, the scale of the plate, the module form for torch optimisers) is here. All of it
stays tensors from end to end: no `.item()`, no branch on a tensor's value, no shape that depends on one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_semivae.errors import InputError
from pyro_semivae.infer.evidence import Evidence, enumerates
from pyro_semivae.infer.handlers import LocalParameters, Particles
from pyro_semivae.infer.roles import sample_sites


@dataclass
class Rows:
    """What an objective says about a batch of `B` rows.

    Attributes:
        terms: name -> `(B,)` tensor, weights included, before the plate's scale. Their sum is the bound. A term
            that belongs to the batch and not to rows is a scalar under `"batch/<name>"`, and is not scaled.
        scale: the scale of the rows, a number or a `(B,)` tensor.
        monitors: name -> tensor; diagnostics that are not part of the bound.
    """

    terms: dict[str, Tensor]
    scale: float | Tensor = 1.0
    monitors: dict[str, Tensor] = field(default_factory=dict)

    def total(self) -> Tensor:
        """What is maximised: the sum over rows of scale times the sum of the terms."""
        rows = sum(term for name, term in self.terms.items() if not name.startswith("batch/"))
        batch = sum(term for name, term in self.terms.items() if name.startswith("batch/"))
        return (rows * self.scale).sum() + batch


def joined(first: Rows, others: Rows) -> Rows:
    """The rows of two parts of a batch after one another; a term that one of them does not have is 0 there.

    Neither has terms of the batch. The scale is the batch's, which `RowScale` gives to both.
    """
    zeros = [torch.zeros_like(next(iter(rows.terms.values()))) for rows in (first, others)]
    names = dict.fromkeys([*first.terms, *others.terms])
    terms = {name: torch.cat([first.terms.get(name, zeros[0]), others.terms.get(name, zeros[1])]) for name in names}
    return Rows(terms, first.scale)


class RowELBO(ELBO):
    """Abstract objective: named terms per row of the plate "data".

    Args:
        max_plate_nesting: the number of nested plates of model and guide (1 where "data" is dim -1, 2 where
            it is dim -2 with a plate "labels" inside).

    Attributes:
        needs_labels: whether a data set without any observed label is an error (set by objectives with terms that
            would then be empty).
        scores_labels_alone: whether it has a bound for labels without an image, `rows(model, guide, None, y)`.

    Works in `pyro.infer.SVI`, and as `objective(model, guide)`, a module that owns the parameters of the
    methods' owner and whose forward is the loss. The loss is minus the scaled total of `terms`. Rows and sites that
    `poutine.mask` leaves out have terms of 0.
    """

    needs_labels = False
    scores_labels_alone = False

    def __init__(self, *, max_plate_nesting: int = 1):
        super().__init__(max_plate_nesting=max_plate_nesting)

    @abstractmethod
    def rows(self, model: Callable, guide: Callable, *args, **kwargs) -> Rows:
        """One stochastic evaluation of the bound."""

    def terms(self, model: Callable, guide: Callable, *args, **kwargs) -> dict[str, Tensor]:
        """Name -> `(B,)` tensor in nats, weights included, before the plate's scale; a term of the batch is a scalar.

        They sum to the bound.
        """
        with LocalParameters():
            return self.rows(model, guide, *args, **kwargs).terms

    def differentiable_loss(self, model: Callable, guide: Callable, *args, **kwargs) -> Tensor:
        """Minus the scaled total, a scalar to call `backward` on."""
        return -self.rows(model, guide, *args, **kwargs).total()

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
        guide_trace, model_trace, _ = self.traces(model, guide, args, kwargs)
        return model_trace, guide_trace

    # What objectives are made of.

    @property
    def particle_dim(self) -> int:
        """The batch dimension of Monte-Carlo particles; enumerated labels lie left of it, plates right."""
        return -1 - int(self.max_plate_nesting)

    def traces(
        self,
        model: Callable,
        guide: Callable,
        args: tuple,
        kwargs: dict,
        particles: int = 1,
        detach_first: bool = False,
        complete: bool = False,
    ) -> tuple[Trace, Trace, Evidence]:
        """One run of the guide, with `particles`, and one of the model against the first of them.

        Discrete labels are enumerated in both, in the same dimensions; those passed are not where they are `complete`.
        Returns the guide's trace, the model's trace and what is observed of labels.
        """
        evidence = Evidence(complete=complete)
        draw = Particles(particles, self.particle_dim, detach_first)
        many = particles > 1 or detach_first
        with poutine.enum(first_available_dim=self.particle_dim - 1):
            with draw if many else nullcontext():
                guide_trace = poutine.trace(evidence(guide)).get_trace(*args, **kwargs)
            values = first_particle(guide_trace, self.particle_dim) if many else guide_trace
            model = evidence.then_model()(model)
            model_trace = poutine.trace(poutine.replay(model, trace=values)).get_trace(*args, **kwargs)
        return guide_trace, model_trace, evidence

    def first_log_prob(self, site: dict) -> Tensor:
        """The log-density of a guide's site at its first particle, per row, `(B,)`."""
        fn, value = site["fn"], site["value"]
        axis = self.particle_dim - fn.event_dim
        if len(fn.batch_shape) < -self.particle_dim and value.dim() >= -axis:  # only the value has particles
            table = fn.log_prob(value.select(axis, 0))
        else:
            table = fn.log_prob(value)
            table = table.select(self.particle_dim, 0) if table.dim() >= -self.particle_dim else table
        return self.to_rows(masked(table, site), site)

    def to_rows(self, table: Tensor, site: dict) -> Tensor:
        """Sums a site's `table` over the plates inside of "data", `(B,)`; its other dimensions must be 1."""
        dim = row_dim(site)
        return reduce_plates(table, site, keep={dim}).reshape(table.shape[dim])


class ObjectiveModule(nn.Module):
    """An objective bound to a model and a guide; the forward is the loss.

    It owns the parameters of the modules whose methods (or which themselves) model and guide are, and reads
    them from there: Pyro's global parameter store is neither read nor written.

    Raises:
        ValueError: neither model nor guide is a module or a method of one.
    """

    def __init__(self, objective: RowELBO, model: Callable, guide: Callable):
        super().__init__()
        owners: list[nn.Module] = []
        for fn in (model, guide):
            owner = fn if isinstance(fn, nn.Module) else getattr(fn, "__self__", None)
            if isinstance(owner, nn.Module) and not any(owner is known for known in owners):
                owners.append(owner)
        if not owners:
            raise InputError(
                f"model, guide: got {model!r}, {guide!r}; accepted are modules or bound methods of modules, "
                f"for nothing else has parameters to train"
            )
        self.owners = nn.ModuleList(owners)
        self.objective = objective
        self._pair = (model, guide)

    def rows(self, *args: Any, **kwargs: Any) -> Rows:
        """The objective's terms, scale and monitors on a batch."""
        with LocalParameters():
            return self.objective.rows(*self._pair, *args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return -self.rows(*args, **kwargs).total()


def log_prob(site: dict) -> Tensor:
    """The log-density of a site, of its batch shape, masked as the site is and not scaled."""
    return masked(site["fn"].log_prob(site["value"]), site)


def masked(table: Tensor, site: dict) -> Tensor:
    """A table of a site's batch shape, 0 where `poutine.mask` leaves the site out."""
    return scale_and_mask(table, mask=site["mask"])


def advantage(reward: Tensor) -> Tensor:
    """Each row's reward less the mean of the other rows', which keeps a score-function gradient unbiased; detached."""
    others = (reward.sum() - reward) / max(len(reward) - 1, 1)
    return (reward - others).detach()


def row_dim(site: dict) -> int:
    """The batch dimension of the plate of rows, which is the outermost one, whatever its name.

    Raises:
        ValueError: the site is in no plate.
    """
    dims = plate_dims(site)
    if not dims:
        raise InputError(f"site '{site['name']}' is outside of the plate of rows: its terms belong to no row")
    return min(dims)


def plate_dims(site: dict) -> set[int]:
    """The batch dimensions of the plates that a site is in."""
    return {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}


def reduce_plates(table: Tensor, site: dict, keep: set[int]) -> Tensor:
    """Sums a site's `table` over the plates it is in, but for the dimensions to `keep` (dims stay, size 1)."""
    dims = sorted(plate_dims(site) - keep)
    return table.sum(dims, keepdim=True) if dims else table


def row_scale(trace: Trace, names: Iterable[str]) -> float | Tensor:
    """The scale that the sites of a trace have in common, a number or `(B,)`.

    Raises:
        ValueError: the sites are scaled differently (weights of single terms are options of an objective).
    """
    sites = [trace.nodes[name] for name in names]
    scales = [site["scale"] for site in sites]
    if any(isinstance(scale, Tensor) and scale.dim() for scale in scales) or any(s != scales[0] for s in scales):
        raise InputError(
            f"sites {[site['name'] for site in sites]} are scaled differently: scale whole rows "
            f"(their plate, or RowScale), and weight single terms by the objective's options"
        )
    return scales[0] * sites[0]["infer"].get("_row_scale", 1.0)


def first_particle(trace: Trace, dim: int) -> Trace:
    """A copy of a guide's trace in which every latent has the value of its first particle."""
    first = trace.copy()
    for name, site in sample_sites(trace):
        fn, value = site["fn"], site["value"]
        axis = dim - fn.event_dim
        if not enumerates(site) and value.dim() >= -axis and value.shape[axis] > 1:
            first.nodes[name] = {**site, "value": value.select(axis, 0)}
    return first
