"""A training step: the objective, its optimisers, their schedule and the averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from pyro import poutine
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pyro_semivae.checkpoints import Average
from pyro_semivae.data.batches import Batch, as_floats
from pyro_semivae.data.noise import Corruption, noises_by_site
from pyro_semivae.errors import InputError
from pyro_semivae.infer import Objective, ObjectiveModule
from pyro_semivae.infer.graph import as_it_is
from pyro_semivae.infer.traced import Gradients, NotTraceable, Traced
from pyro_semivae.models import SemiVAE
from pyro_semivae.processes import Processes
from pyro_semivae.updates import Update, hooked, plain_state
from pyro_semivae.watch import FiniteWatch

Optimiser = Callable[..., Optimizer]
Given = tuple[tuple[Tensor | None, ...], Tensor, int, tuple[tuple[str, tuple[int, ...]], ...]]  # see `Batch`

OF_MODEL = "the model"  # the name of its loss, beside those of modules that terms own


@dataclass(frozen=True)
class Names:
    """What the values of a step are called.

    Attributes:
        terms: the names of the terms.
        of_rows: the term's name for each row of `StepReport.terms`.
        in_elbo: whether each term belongs to the ELBO.
        monitors: the names of the monitors.
    """

    terms: tuple[str, ...]
    of_rows: tuple[str, ...]
    in_elbo: tuple[bool, ...]
    monitors: tuple[str, ...]

    @property
    def reported(self) -> tuple[str, ...]:
        """Terms and monitors."""
        return self.terms + self.monitors


@dataclass(frozen=True)
class StepReport:
    """The values of a step to report, other than its loss.

    Attributes:
        names: their names.
        weights: the terms' weights in the objective.
        terms: `(T, B)`, the terms per example (those of the batch repeated).
        sums: `(T + 2 + M,)`: the scaled, unweighted sum of each term; the objective; the sum of the ELBO's terms that
            were removed from the objective; the monitors.
    """

    names: Names
    weights: Sequence[float | Tensor]
    terms: Tensor
    sums: Tensor


class Trainer:
    """Takes optimiser steps on batches and returns the values to report.

    Args:
        optimiser: called with the parameters and `lr=...`; modules owned by terms have their own optimisers.
        clip: a function that clips the gradients of the model's parameters.
        ema_decay: the decay of the averaged weights.
        data_complete: whether no row of data is missing.

    Attributes:
        traced: the graph of the objective, if it is compiled.
        processes: the processes that train together.
    """

    def __init__(
        self,
        vae: SemiVAE,
        elbo: Objective,
        fabric: Fabric,
        *,
        optimiser: Optimiser,
        lr: float,
        corrupt: Corruption | None,
        clip: Callable[[Iterable[nn.Parameter]], Any] | None,
        ema_decay: float,
        data_complete: bool = False,
    ):
        self.data_complete = data_complete
        self.vae, self.fabric, self.clip, self.sites = vae, fabric, clip, tuple(vae.spaces)
        self.processes = Processes(fabric)
        guide = vae.guide if corrupt is None else corrupted(vae, corrupt)
        self.objective: ObjectiveModule = elbo(vae.model, guide)
        self.optimiser = _made(optimiser, [p for p in vae.parameters() if p.requires_grad], lr)
        self.processes.share([*vae.parameters(), *vae.buffers()])
        self.averaged = Average(vae, ema_decay)
        self.critics = elbo.modules()
        self.critic_optimisers: dict[str, Optimizer] = {}
        self.traced: Traced | None = None
        self._may_be_eager, self._notes = False, []
        self.watch = FiniteWatch(every=1 if fabric.device.type == "cpu" else 25)

    @property
    def graphs(self) -> int:
        """How many graphs of steps there are; 0 if nothing is compiled."""
        return 0 if self.traced is None else self.traced.graphs

    @property
    def optimisers(self) -> list[Optimizer]:
        """The model's, and those of the modules that terms own."""
        return [self.optimiser, *self.critic_optimisers.values()]

    @property
    def notes(self) -> list[str]:
        """Fallbacks, such as a step that could not be compiled."""
        return self._notes + ([] if self.traced is None else self.traced.notes + self._update.notes)

    def prepare(self, batch: Batch) -> None:
        """Initialises the sizes of the modules owned by terms, from a batch, and creates their optimisers."""
        if self.critics:
            self.critics.to(self.fabric.device, next(self.vae.parameters()).dtype)
            with torch.no_grad(), as_it_is(self.vae):
                self.losses([batch], 0.0)
            self.processes.share([*self.critics.parameters(), *self.critics.buffers()])
            self.critic_optimisers = self.objective.objective.optimisers()

    def compile(self, *, optional: bool = False) -> None:
        """Evaluates the objective as a graph from the next step on, which traces and compiles it.

        Args:
            optional: if this fails at the first step, continue without a graph and add a note.
        """
        self._may_be_eager = optional
        self.traced = Traced(self._evaluate, [self.objective, self.critics], {OF_MODEL: self.vae, **self.critics})

    def start(self, factor: Callable[[int], float], step: int) -> None:
        """Sets up the learning-rate schedule, from a step on, and the optimisers for Fabric's precision."""
        for group in self.optimiser.param_groups:
            group["initial_lr"] = float(group.get("initial_lr", group["lr"]))  # no tensor that a schedule fills
        self.schedule = LambdaLR(self.optimiser, factor, last_epoch=step - 1)
        self._step = self.fabric.setup_optimizers(self.optimiser)
        self._critic_steps = [self.fabric.setup_optimizers(own) for own in self.critic_optimisers.values()]
        if self.traced is not None:
            alone = self.processes.number == 1
            self._update = Update(self.traced.trained, self._take, self.optimisers, captures=alone)

    def learn(self, batch: Batch, done: float, where: str) -> StepReport:
        """Takes one step, at the fraction `done` of training; returns the values to report."""
        parts = [batch] if batch.alone is None else [batch, batch.alone]
        rows = batch.rows if batch.alone is None else torch.cat([part.rows for part in parts])
        with self.fabric.autocast():
            found = self._of_graph(parts, done)
            if found is None:
                loss, losses, told = self.losses(parts, done)
            else:
                loss, told = found.losses[OF_MODEL], StepReport(**found.out)
        self.watch(told.terms, rows, told.names.of_rows, where, loss.detach())
        if found is not None:
            self._update(found)
        else:
            for optimiser in (self._step, *self._critic_steps):
                optimiser.zero_grad()
            for name, own in losses.items():  # first, since the other backward pass frees the shared graph
                self._owned(name, own)
            self.fabric.backward(loss)
            self._take()
        self.schedule.step()
        self.averaged.update()
        return told

    def _take(self) -> None:
        """A step of all optimisers with the gradients that parameters have."""
        self.processes.mean_gradients(
            p for module in (self.vae, self.critics) for p in module.parameters() if p.requires_grad
        )
        if self.clip is not None:
            self.fabric.strategy.precision.unscale_gradients(self.optimiser)
            self.clip(self.vae.parameters())
        for optimiser in (self._step, *self._critic_steps):
            optimiser.step()

    def _owned(self, name: str, loss: Tensor) -> None:
        """Sets the gradient of a term's own loss on the parameters of the term's module, and on no others."""
        parameters = [p for p in self.critics[name].parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient

    def losses(self, parts: list[Batch], done: float) -> tuple[Tensor, dict[str, Tensor], StepReport]:
        """The model's loss; name -> loss of each module owned by a term; the values to report.

        Args:
            parts: the rows with data, and those without. The terms of one part are 0 for the rows of the other.
        """
        losses, told = self._evaluate(*self._given(parts), done=done)
        return losses.pop(OF_MODEL), losses, StepReport(**told)

    def _given(self, parts: list[Batch]) -> list[Given]:
        return [
            (tuple(map(part.values.get, self.sites)), part.scale, part.labelled, tuple(part.strata.items()))
            for part in parts
        ]

    def _of_graph(self, parts: list[Batch], done: float) -> Gradients | None:
        """Losses, their gradients and the values to report by the graph; None if there is none.

        A graph that is optional is given up if it fails at the first step, or if there are hooks.
        """
        if self.traced is None:
            return None
        try:
            _check_hooks(self.optimisers)
            return self.traced.gradients(*self._given(parts), done=done)
        except NotTraceable as error:
            if not (self._may_be_eager and error.first):
                raise NotTraceable(f"{error}; compile='off' trains without a graph") from error
            self._notes = [*self.notes, f"{error}; training goes on without a graph"]
            self.traced = None
            return None

    def _evaluate(self, *parts: Given, done: float) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Name -> loss, including the model's, and the values to report, for rows with data and rows without."""
        blocks, of_rows, monitors = [], [], {}
        names: dict[str, tuple[float, bool]] = {}
        sums: dict[str, Tensor] = {}
        loss: Tensor | float = 0.0
        removed: list[Tensor] = []
        losses: dict[str, Tensor] = {}
        for values, scale, labelled, strata in parts:
            how = {"scale": scale, "labelled": labelled, "data_complete": self.data_complete, "strata": dict(strata)}
            values = [None if value is None else as_floats(value, scale.dtype) for value in values]
            found = self.objective.evaluate(*values, done=done, **how)
            loss = loss - found.total()
            for name, own in found.losses.items():
                _check_owned(name, own)
            losses |= found.losses
            kept = [value for value in found.values if not value.removed]
            taken_out = [value for value in found.values if value.removed and value.in_elbo]
            removed += [(value.value.detach() * found.scale).sum() for value in taken_out]
            blocks.append(torch.stack([value.value.detach().expand(len(scale)) for value in kept]))
            of_rows += [value.name for value in kept]
            for value in kept:
                own = value.value.detach()
                own = (own * found.scale).sum() if value.by_row else own
                sums[value.name] = sums[value.name] + own if value.name in sums else own
                names[value.name] = (value.weight, value.in_elbo)
            monitors |= {name: value.detach() for name, value in found.monitors.items()}
            monitors |= {f"loss of {name}": value.detach() for name, value in found.losses.items()}
        objective = -loss.detach()
        weights, in_elbo = zip(*names.values(), strict=True)
        out_of_elbo = sum(removed, torch.zeros_like(objective))
        told = {
            "names": Names(tuple(names), tuple(of_rows), in_elbo, tuple(monitors)),
            "weights": [*weights],
            "terms": torch.block_diag(*blocks) if len(blocks) > 1 else blocks[0],
            "sums": torch.stack([*sums.values(), objective, out_of_elbo, *monitors.values()]),
        }
        return {OF_MODEL: loss, **losses}, told

    def states(self) -> dict[str, Any]:
        """The states of the modules owned by terms, and of their optimisers."""
        return {
            name: {"weights": dict(self.critics[name].state_dict()), "optimiser": plain_state(own)}
            for name, own in self.critic_optimisers.items()
        }

    def load_states(self, states: Mapping[str, Any]) -> None:
        """Restores what `states` returned."""
        for name, own in self.critic_optimisers.items():
            self.critics[name].load_state_dict(states[name]["weights"])
            own.load_state_dict(states[name]["optimiser"])


def _check_hooks(optimisers: Sequence[Optimizer]) -> None:
    if hooked(optimisers):
        error = NotTraceable("compile: got parameters or optimisers with hooks, which a graph does not call")
        error.first = True
        raise error


def _check_owned(name: str, loss: Tensor) -> None:
    """Checks the loss of a module that a term owns."""
    if loss.dim() or (torch.is_grad_enabled() and not loss.requires_grad):
        got = f"shape {tuple(loss.shape)}" if loss.dim() else "one that does not depend on its module"
        raise InputError(f"loss of {name}: got {got}; expected a scalar that depends on the parameters of {name}")


def _made(optimiser: Optimiser, parameters: list[nn.Parameter], lr: float) -> Optimizer:
    """Calls an optimiser factory and checks the result."""
    accepted = "expected a function of parameters and lr= that returns a torch.optim.Optimizer of them"
    try:
        made = optimiser(parameters, lr=lr)
    except TypeError as error:
        raise InputError(f"optimiser: {error}; {accepted}") from error
    if not isinstance(made, Optimizer) or isinstance(made, torch.optim.LBFGS):
        raise InputError(f"optimiser: returned {type(made).__name__}; {accepted} that needs no closure")
    if {id(p) for group in made.param_groups for p in group["params"]} != {id(p) for p in parameters}:
        raise InputError(f"optimiser: returned one of other parameters; {accepted}")
    return made


def corrupted(vae: SemiVAE, corrupt: Corruption) -> Callable:
    """The guide with noise on its data."""
    noises = noises_by_site(corrupt, vae.data_sites)

    def noisy(name: str, x: Tensor) -> Tensor:
        with poutine.block():  # noise may ask the model
            seen = noises[name](x)
        if not isinstance(seen, Tensor) or seen.shape != x.shape:
            got = tuple(seen.shape) if isinstance(seen, Tensor) else type(seen).__name__
            raise InputError(f"corrupt: returned {got}; expected images of the shape {tuple(x.shape)} that it gets")
        return seen

    def guide_of_corrupted(*values: Tensor | None) -> None:
        pairs = zip(vae.spaces, values, strict=False)
        return vae.guide(*(noisy(name, x) if name in noises and x is not None else x for name, x in pairs))

    return guide_of_corrupted
