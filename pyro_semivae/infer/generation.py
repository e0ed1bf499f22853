"""The other way round: latents from the model, data that it generates of them, and what the guide says of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.infer.inspect import site_is_deterministic
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_semivae.errors import InputError, check_number
from pyro_semivae.infer.tables import log_prob, to_rows

if TYPE_CHECKING:
    from pyro_semivae.infer.run import Run


@dataclass(frozen=True)
class Generate:
    """How a run's model generates.

    Args:
        mean: data are the mean of p(x | .), and no sample: noise of the pixels, which a discriminator would look at, is
            left out. For a likelihood with a reparameterised sample both have a gradient.
        crossed: the fraction of the rows whose latents named in `latents` are no sample of the prior but one of
            q(z | x) of a row with another value of the label `by`. What is generated of these and of the row's own
            label must look like the row's own data: this is what keeps a latent free of what the label stands for. The
            gradient goes on through the latent to the guide, which learns to leave that out.
        latents: names of latents; they must not depend on the label in the model.
        by: the label.
        kept: names of latents that are, in the crossed rows, the row's own as the guide has them: what is generated is
            then the transfer of these to another row's image.
    """

    mean: bool = False
    crossed: float = 0.0
    latents: tuple[str, ...] = ()
    by: str | None = None
    kept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("crossed", self.crossed, least=0, most=1)
        if self.crossed and not (self.latents and self.by):
            raise InputError(f"crossed: got {self.crossed} without `latents` and `by`; expected these, or 0")


@dataclass(frozen=True, eq=False)
class Generation:
    """What a model generates, `B` rows, with the labels that the data have.

    Attributes:
        model: its trace, data sampled. data: the names of the sites of data.
        arguments: those of the step by name, generated data in the place of the given. guide: the pair's other half.
    """

    model: Trace
    data: tuple[str, ...]
    arguments: Mapping[str, Any]
    guide: Callable

    def value(self, name: str) -> Tensor:
        """The values of a site, `batch + event`."""
        return self.model.nodes[name]["value"]

    def log_q(self, latents: tuple[str, ...], *, stop_gradients: bool) -> dict[str, Tensor]:
        """Latent -> log q(z | x~), `(B,)` each, of the latents of which x~ was generated.

        Args:
            stop_gradients: no gradient goes through x~ and the latents: it is the guide's parameters' alone.
        """

        def given(value: Any) -> Any:
            return value.detach() if stop_gradients and isinstance(value, Tensor) else value

        at = {name: given(self.value(name)) for name in latents}
        arguments = (given(value) for value in self.arguments.values())
        trace = poutine.trace(poutine.condition(self.guide, data=at)).get_trace(*arguments)
        return {name: to_rows(log_prob(trace.nodes[name]), trace.nodes[name]) for name in latents}


def generation(run: Run, how: Generate) -> Generation:
    """What the model of a run generates; asked for again, the same."""
    if ("generation", how) not in run.kept:
        run.kept["generation", how] = _generation(run, how)
    return run.kept["generation", how]


def _generation(run: Run, how: Generate) -> Generation:
    step = run.step
    given = step.named()
    names = generated_sites(run)
    if run.labels or run.continuous or run.particle_dim != -2:
        got = f"a model with {', '.join(map(repr, (*run.labels, *run.continuous))) or 'entries of a label'}"
        raise InputError(
            f"generate: got {got}; expected one without labels that may be missing (known ones are Groups)"
        )
    if unknown := [name for name in (*how.latents, *how.kept) if name not in run.latents]:
        raise InputError(f"generate: got the latents {unknown}; expected {', '.join(run.latents)}")
    given_latents = _crossed(run, how) if how.crossed else {}
    with Generating(names, given_latents, how.mean):
        trace = poutine.trace(step.model).get_trace(*given.values())
    if unknown := [name for name in names if name not in given]:
        raise InputError(f"model: its data {unknown} are no arguments of that name; expected x=... for the site 'x'")
    arguments = {**given, **{name: trace.nodes[name]["value"] for name in names}}
    return Generation(trace, names, arguments, step.guide)


def generated_sites(run: Run) -> tuple[str, ...]:
    """The sites of data that a model generates: those of floats; groups, which are given, are integers."""
    return tuple(name for name in run.roles.data if run.model.nodes[name]["value"].is_floating_point())


def _crossed(run: Run, how: Generate) -> dict[str, tuple[Tensor, Tensor]]:
    """Latent -> which rows have another row's or keep their own, `(B,)`, and these values."""
    if how.by not in run.model.nodes:
        raise InputError(f"by: got {how.by!r}; expected a label of the model")
    y = run.model.nodes[how.by]["value"]
    other = y.unsqueeze(1) != y.unsqueeze(0)  # (B, B)
    score = torch.rand(other.shape, device=y.device)
    partner = torch.where(other, score, -1.0).argmax(1)
    rows = other.any(1) & (torch.rand(len(y), device=y.device) < how.crossed)
    values = {name: run.guide.nodes[name]["value"] for name in (*how.latents, *how.kept)}
    return {name: (rows, of if name in how.kept else of[partner]) for name, of in values.items()}


class Generating(Messenger):
    """Samples data that are given, and takes some rows of latents from elsewhere."""

    def __init__(self, data: tuple[str, ...], crossed: Mapping[str, tuple[Tensor, Tensor]], mean: bool):
        super().__init__()
        self.data, self.crossed, self.mean = data, crossed, mean

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] in self.data and not site_is_deterministic(msg):
            fn = msg["fn"]
            value = fn.mean if self.mean else fn.rsample() if fn.has_rsample else fn.sample()
            msg["is_observed"], msg["value"], msg["done"] = False, value, True
        elif msg["name"] in self.crossed:
            rows, values = self.crossed[msg["name"]]
            msg["value"] = torch.where(rows.unsqueeze(-1), values, msg["fn"].rsample())
            msg["done"] = True
