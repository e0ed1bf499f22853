"""The contract that the sites of a model/guide pair meet: the checks that `check_model`, `fit` and `show` share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.infer import Bound, LocalParameters, Objective, assign_roles, sample_sites
from pyro_semivae.infer.evidence import Impute, enumerates
from pyro_semivae.infer.graph import as_it_is
from pyro_semivae.models import SemiVAE
from pyro_semivae.models.base import of_size
from pyro_semivae.spaces import is_missing
from pyro_semivae.structure import structure, summed_labels

Values = tuple[Tensor | None, ...]
Sites = dict[str, dict]


class ContractError(InputError, AssertionError):
    """A model/guide pair violates the contract; the message says where, and how to fix it."""


def guarded(what: str, run: Callable[[], Any]) -> Any:
    """Calls a function; turns its errors into a ContractError that begins with `what`."""
    try:
        return run()
    except ContractError:
        raise
    except Exception as error:
        raise ContractError(f"{what}: {_explained(error)}") from error


def _explained(error: Exception) -> str:
    """The first line of an error; for Pyro's shape mismatch, a message with a fix."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    shapes = re.search(r"Shape mismatch inside plate\('(.+?)'\) at site (\S+) dim (-?\d+), (\d+) vs (\d+)", text)
    if shapes:
        plate, site, dim, rows, got = shapes.groups()
        return (
            f"site '{site}' has {got} at dim {dim} of its batch shape, where the plate '{plate}' has {rows}: a vector "
            f"is one value by .to_event(1); what is outside of the plate of a label's entries needs the size 1 there"
        )
    return text


def check_sites(vae: SemiVAE, values: Values, *, missing: bool = True) -> None:
    """Checks the sites of model and guide on a few rows: plates, batch shapes, labels, and that both functions match.

    Neither the model nor the random generators are changed.

    Args:
        values: the model's inputs (see `SemiVAE.inputs`); labels may be missing.
        missing: whether labels may be missing; if not, the model may use its label arguments directly.

    Raises:
        ContractError: a check fails; the message names the site, its shape, its plate, and a fix.
    """
    devices = {value.device for value in values if value is not None and value.is_cuda}
    with torch.random.fork_rng([*devices]), torch.no_grad(), as_it_is(vae), pyro.validation_enabled(False):
        complete = _completed(vae, values)
        sites = check_shapes(vae, complete)
        _check_events(*sites.values())  # before the model gets the guide's values, at whose size a network would fail
        check_labels(vae, complete)
        if missing:
            _check_missing(vae, complete)
        if stated := [name for name in vae.characteristic if name not in sites["model"]]:
            raise ContractError(
                f"characteristic: {stated} are no sites of the model, which has {[*sites['model']]}: is the line of it "
                f"missing there?"
            )


def check_terms(vae: SemiVAE, elbo: Objective) -> None:
    """Checks, before any computation, the number of label values that each site would be enumerated for.

    Raises:
        ContractError: it is larger than the objective's bounds allow (`max_terms`).
    """
    most = min(part.what.most_terms() for part in elbo.parts() if isinstance(part.what, Bound))
    labels = {*vae.label_sites} - {*vae.continuous_labels}
    for letter, where in (("p", "model"), ("q", "guide")):
        for site, along in summed_labels(structure(vae)[letter], labels).items():
            spaces = [vae.spaces[name] for name in along]
            terms = math.prod(space.num_values // (space.entries or 1) for space in spaces)
            if terms > most:
                raise ContractError(
                    f"{where}: site '{site}' would be computed for the {terms} values of the labels {along}; expected "
                    f"up to max_terms={most:g}; fewer labels above one site are needed, or missing_labels='gumbel' or "
                    f"'reinforce', which enumerate none"
                )


def _completed(vae: SemiVAE, values: Values) -> Values:
    """The inputs, with missing entries of labels replaced by 0."""
    given = vae.by_site(values)
    for name in vae.label_sites:
        if given[name] is not None:
            given[name] = torch.where(is_missing(given[name]), 0, given[name])
    return (*given.values(),)


def traced(vae: SemiVAE, fn: Callable, values: Values, number: int, sizes: tuple[int, ...] = ()) -> Sites:
    """The sites of a run of model or guide on `number` rows, with missing labels sampled, inside a plate of `sizes[0]`
    samples if `sizes` is given."""
    plate = pyro.plate("samples", sizes[0], dim=-1 - vae.max_plate_nesting) if sizes else nullcontext()
    with LocalParameters(), Impute(continuous=vae.continuous_labels), of_size(number), plate:
        return dict(sample_sites(poutine.trace(fn).get_trace(*values)))


def check_shapes(vae: SemiVAE, values: Values, sizes: tuple[int, ...] = ()) -> dict[str, Sites]:
    """Checks that every site has the batch shape of its plates, also inside an outer plate of samples.

    Returns the sites of `"guide"` and of `"model"`; the model is run without data, so that it generates.

    Raises:
        ContractError: a site has another shape or is outside the plate of rows, or a function fails.
    """
    nesting, number = vae.max_plate_nesting, next(len(v) for v in values if v is not None)
    outer = f" under a plate of {sizes[0]} samples" if sizes else ""
    of_guide = guarded(f"guide{outer}", lambda: traced(vae, vae.guide, values, number, sizes))
    of_model = set(guarded("model", lambda: traced(vae, vae.model, values, number)))
    pairs = vae.by_site(values).items()
    without = tuple(None if name in vae.data_sites and name in of_model else value for name, value in pairs)
    try:
        sites = {"guide": of_guide, "model": traced(vae, vae.model, without, number, sizes)}
    except Exception as error:
        if outer or not any(part is None for part in without):
            raise ContractError(f"model{outer}: {_explained(error)}") from error
        names, data = ", ".join(vae.spaces), ", ".join(name for name in vae.data_sites if name in of_model)
        raise ContractError(
            f"model: fails where it has to generate, {data} being None: {_explained(error)}; take the plate of rows, "
            f"and what is given, from `with self.rows({names}) as ({names}):`"
        ) from error
    _check_kinds(vae, sites)
    _check_gradients(vae, sites["guide"])
    for where, found in sites.items():
        for name, site in found.items():
            _check_batch_shape(where, name, site, nesting, number)
    return sites


def _check_batch_shape(where: str, name: str, site: dict, nesting: int, number: int) -> None:
    frames = {frame.dim: frame for frame in site["cond_indep_stack"]}
    rows = frames.get(-nesting)
    if rows is None or rows.size != number:
        within = ", ".join(f"'{frame.name}' at dim {dim}, of size {frame.size}" for dim, frame in frames.items())
        raise ContractError(
            f"{where}: site '{name}' is outside of the plate of rows, the one of size {number} at dim {-nesting} (it "
            f"is in {within or 'no plate'}); `with self.rows(..):` is that plate"
        )
    expected = tuple(frames[dim].size if dim in frames else 1 for dim in range(min(frames), 0))
    got = tuple(site["fn"].batch_shape)
    if got != expected:
        hint = ""
        if got[-2:] == (number,) * 2:
            hint = (
                "; a site in dim -2 needs the batch shape (B, 1), not (B,)"
                if nesting == 2
                else (f"; rows are in two dimensions, as {(number, 1)} and {(number,)} make them together")
            )
        raise ContractError(f"{where}: site '{name}' has the batch shape {got}, its plates say {expected}{hint}")


def _check_kinds(vae: SemiVAE, sites: dict[str, Sites]) -> None:
    """Checks labels: discrete ones are enumerated, and each has one value per row or per entry."""
    for name in vae.continuous_labels:
        if name in sites["model"] and name not in sites["guide"]:
            raise ContractError(
                f"label '{name}' is in the model and not in the guide, which samples its missing entries: "
                f"pyro.sample('{name}', q({name} | ..), obs={name}) is needed there"
            )
    for where, found in sites.items():
        for name in (name for name in vae.label_sites if name in found):
            site, space = found[name], vae.spaces[name]
            event = tuple(site["fn"].event_shape)
            one_hot = isinstance(getattr(site["fn"], "support", None), type(constraints.one_hot))
            if event and not one_hot:
                plate = f", its entries are a plate, `with self.entries('{name}'):`" if space.entries else ""
                why = "so that each entry may be missing" if space.entries else "so that it can be marginalised"
                raise ContractError(
                    f"{where}: label '{name}' has the event shape {event}, one value for a whole row: leave .to_event "
                    f"out, {why}{plate}"
                )
            if space.always_known and (enumerates(site) or where == "guide"):
                raise ContractError(
                    f"{where}: label '{name}', {space}, is known of every row: pyro.sample('{name}', .., obs={name}) "
                    f"in the model alone, which the guide takes as an argument"
                )
            if space.num_values is not None and not (space.always_known or enumerates(site)):
                mend = f"pyro.sample('{name}', .., obs={name}, infer={{'enumerate': 'parallel'}})"
                raise ContractError(f"{where}: label '{name}', {space}, is not enumerated: {mend}")


def _check_gradients(vae: SemiVAE, of_guide: Sites) -> None:
    """Checks that the guide's latents are reparameterised."""
    for name, site in of_guide.items():
        latent = name not in vae.spaces and not site["is_observed"] and not enumerates(site)
        if latent and not site["fn"].has_rsample:
            raise ContractError(
                f"guide: site '{name}' is sampled without a gradient ({type(site['fn']).__name__} has no rsample), so "
                f"that its parameters would not be trained: a distribution with reparameterised samples is needed, or "
                f"for discrete latents infer={{'enumerate': 'parallel'}}"
            )


def check_labels(vae: SemiVAE, values: Values) -> None:
    """Checks that, with all labels given, roles can be assigned and every label site observes the labels it is given.

    Raises:
        ContractError: a check fails; the message names the site.
    """
    given = vae.by_site(values)
    labels = {name: given[name] for name in vae.label_sites if given[name] is not None}

    def run() -> tuple:
        guide_trace = poutine.trace(vae.guide).get_trace(*values)
        return poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(*values), guide_trace

    with LocalParameters(), Impute(continuous=vae.continuous_labels):
        traces = guarded("model and guide with all labels given", run)
    guarded("the sites of model and guide", lambda: assign_roles(*traces))
    for where, fn in (("guide", vae.guide), ("model", vae.model)):
        # the model is run alone: replayed against the guide, it would have the guide's labels
        with LocalParameters(), Impute(continuous=vae.continuous_labels), _Given() as seen:
            sites = dict(sample_sites(poutine.trace(fn).get_trace(*values)))
        for name, site in sites.items():
            y = labels.get(name)
            if (y is None and name in vae.label_sites) or (not enumerates(site) and name not in vae.label_sites):
                continue
            held = site["value"]
            if name in vae.spaces:
                held = vae.spaces[name].outward(held, vae.max_plate_nesting)
            if y is None or not (name in seen.observed and torch.equal(held.to(y), y)):
                raise ContractError(f"{where}: site '{name}' does not have the labels that it is given (obs=y?)")


class _Given(Messenger):
    """Records the sites that observe a value. It must be innermost, since other handlers make labels unobserved."""

    def __init__(self) -> None:
        super().__init__()
        self.observed: set[str] = set()

    def _pyro_sample(self, msg) -> None:
        if msg["is_observed"]:
            self.observed.add(msg["name"])


def _check_missing(vae: SemiVAE, complete: Values) -> None:
    """Checks that the marker of missing labels (-1, NaN) does not reach a network."""
    given, number = vae.by_site(complete), next(len(value) for value in complete if value is not None)
    for name in vae.label_sites:
        if given[name] is not None:
            given[name] = vae.spaces[name].missing(len(given[name])).to(given[name])
    for where, fn in (("guide", vae.guide), ("model", vae.model)):
        mend = (
            "a missing label is -1 or NaN: networks take what pyro.sample(.., obs=..) returns for it, not the argument"
        )
        try:
            sites = traced(vae, fn, (*given.values(),), number)
        except Exception as error:
            raise ContractError(f"{where}: fails where labels are missing: {_explained(error)}; {mend}") from error
        for name, site in sites.items():
            if name not in vae.spaces and site["value"].is_floating_point() and site["value"].isnan().any():
                raise ContractError(f"{where}: site '{name}' is NaN where labels are missing; {mend}")


def _check_events(of_guide: Sites, of_model: Sites) -> None:
    """Checks that latents have the same event shape in model and guide."""
    for name in (name for name in of_guide if name in of_model):
        q, p = (tuple(sites[name]["fn"].event_shape) for sites in (of_guide, of_model))
        if q != p:
            raise ContractError(
                f"site '{name}' has the event shape {p} in the model and {q} in the guide: the same size, and the same "
                f".to_event, are needed in both"
            )
