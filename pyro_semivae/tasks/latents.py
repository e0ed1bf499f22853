"""From images to latents and labels, and from latents to images: the building blocks of the other tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.condition_messenger import ConditionMessenger
from torch import Tensor

from pyro_semivae.contract import Values
from pyro_semivae.data import noise
from pyro_semivae.errors import InputError, as_tensor, check_count
from pyro_semivae.infer import LocalParameters, Mean, Particles, Roles, Until, sample_sites
from pyro_semivae.infer.evidence import Evidence, Impute, enumerates
from pyro_semivae.infer.run import Run, log_sum
from pyro_semivae.infer.tables import log_prob, plates_of_entries
from pyro_semivae.models import SemiVAE
from pyro_semivae.models.base import of_size
from pyro_semivae.structure import check_available, covariate_sites, infers_from_labels

Latents = dict[str, Tensor]
Labels = dict[str, Tensor]
Images = Tensor | dict[str, Tensor]
Out = TypeVar("Out")


def task(run: Callable[..., Out]) -> Callable[..., Out]:
    """Runs a function without gradients and in evaluation mode; the model's mode is restored afterwards."""

    @wraps(run)
    def task(vae: SemiVAE, *args, **kwargs) -> Out:
        training = vae.training
        vae.eval()
        try:
            with torch.no_grad():
                return run(vae, *args, **kwargs)
        finally:
            vae.train(training)

    return task


@task
def infer(vae: SemiVAE, x: Any, y: Any = None, *, mean: bool = True) -> Latents:
    """The latents of images: site name -> `(B, ...)`, the guide's mean or, with `mean=False`, one sample.

    Labels are not included. If the guide uses them, missing labels are its most probable ones or, with `mean=False`,
    samples.
    """
    return infer_latents(vae, x, y, mean=mean)[0]


def infer_latents(vae: SemiVAE, x: Any = None, y: Any = None, *, mean: bool = True) -> tuple[Latents, Any]:
    """The latents and labels of a batch; missing labels are inferred by the guide, if it has label sites.

    Args:
        x, y: a batch, as `SemiVAE.table` takes it.

    Returns the latents by site, and the labels: in a model with one label its values (or None), otherwise a mapping
    from site to values.

    Raises:
        InputError: there are no data, and the model does not infer latents from labels (only MVAE does).
    """
    latents, labels = infer_from_inputs(vae, vae.inputs(x, y), mean=mean)
    return latents, next(iter(labels.values()), None) if len(vae.label_sites) < 2 else labels


def infer_from_inputs(vae: SemiVAE, values: Values, *, mean: bool = True) -> tuple[Latents, Labels]:
    """Like `infer_latents`, for a model's inputs (see `SemiVAE.inputs`); the labels are returned by site."""
    given = vae.by_site(values)
    if any(given[name] is not None for name in vae.data_sites) or not infers_from_labels(vae):
        values = with_absent(vae, values)
    impute = Impute(most_probable=mean, continuous=vae.continuous_labels)
    with LocalParameters(), impute, Mean() if mean else nullcontext():
        trace = poutine.trace(vae.guide).get_trace(*values)
    sites = dict(sample_sites(trace))
    labels = {name: given[name] for name in vae.label_sites if given[name] is not None}
    for name in set(vae.label_sites) & set(sites):
        labels[name] = vae.spaces[name].outward(sites[name]["value"], vae.max_plate_nesting)
    return latents_of(vae, trace), labels


@task
def decode(vae: SemiVAE, latents: Latents, y: Any = None) -> Images:
    """The mean of p(x | latents, y), `(B, C, H, W)`; latents that are not given are sampled from the prior.

    Args:
        y: labels; or a mapping from site to values, for labels and for data that the model does not generate.
    """
    return image_of(vae, run_model(vae, latents, y, _num_rows(latents, y)))


@task
def classify(
    vae: SemiVAE,
    x: Any,
    *,
    num_samples: int = 100,
    mean: bool = False,
    corrupt: Callable[[Tensor], Tensor] | None = None,
) -> Any:
    """q(y | x) = E_q(z|x)[q(y | z)]: probabilities of the classes, `(B, C)`, or of binary labels being 1, `(B, L)`.

    Args:
        x: images; or a mapping from site to values, which may include known labels.
        num_samples: number of samples of z for the expectation. mean: use the posterior mean of z instead.
        corrupt: the noise of training (see `fit`), with which the guide is q(z|x) = E[q(z|corrupt(x))]; the samples
            are then spread over thirty corruptions.

    For a model with several labels, or a continuous one, returns a mapping: each label's probabilities given the known
    values, with the other labels marginalised; for continuous labels the means of q, `(B, K)`.

    Raises:
        InputError: neither the guide nor the model has a label site.
    """
    if corrupt is not None:
        return _spread(lambda seen: classify(vae, seen, num_samples=-(-num_samples // 30), mean=mean), vae, x, corrupt)
    check_available(vae, "classify")
    values = with_absent(vae, vae.inputs(x))
    if len(vae.label_sites) > 1 or vae.continuous_labels:
        return _marginals(vae, values, num_samples, mean)
    probs = vae.labels.probabilities(_log_classify(vae, values, num_samples=num_samples, mean=mean).exp())
    y = vae.by_site(values)[vae.label_sites[0]]
    return probs if y is None else vae.labels.where_known(y, probs)


def _spread(classify: Callable[[Any], Any], vae: SemiVAE, x: Any, corrupt: Any) -> Any:
    """The mean of `classify`'s results over thirty corruptions of the data; `corrupt` is as in `fit`."""
    values = vae.by_site(vae.inputs(x))
    noises = noise.noises_by_site(corrupt, vae.data_sites)
    total: Any = None
    for _ in range(30):
        seen = {name: noises[name](v) if name in noises and v is not None else v for name, v in values.items()}
        found = classify(seen)
        if isinstance(found, Mapping):
            total = {name: part / 30 + (0 if total is None else total[name]) for name, part in found.items()}
        else:
            total = found + (0 if total is None else total)
    return total if isinstance(total, Mapping) else total / 30


def log_classify(vae: SemiVAE, x: Tensor, *, num_samples: int = 100, mean: bool = False) -> Tensor:
    """log q(y | x) for every value of the label, `(B, C)` or `(B, L, 2)`, with gradients.

    Args:
        x: float images as `SemiVAE.images` returns them; they are not checked. num_samples, mean: see `classify`.

    Raises:
        ValueError: the guide does not have one label site.
    """
    data = vae.data_sites[0]
    return _log_classify(vae, tuple(x if n == data else None for n in vae.spaces), num_samples=num_samples, mean=mean)


def _log_classify(vae: SemiVAE, values: Values, *, num_samples: int, mean: bool) -> Tensor:
    dim, num_samples = -1 - vae.max_plate_nesting, check_count("num_samples", num_samples)
    draw = Mean() if mean else Particles(num_samples, dim)
    with LocalParameters(), Impute(most_probable=True), draw:
        trace = poutine.trace(vae.guide).get_trace(*values)
        labels = [site for _, site in sample_sites(trace) if enumerates(site)]
        if not labels and infers_from_labels(vae):  # the model has p(y | z)
            latents = {name: site["value"] for name, site in sample_sites(trace)}
            with poutine.condition(data=latents), Until() as label:
                vae.model(*values)
            labels = [*label.sites.values()]
    if len(labels) != 1:
        raise InputError(
            f"classify: the guide of {type(vae).__name__} samples {len(labels)} labels; expected a model with one"
        )
    q = labels[0]["fn"]
    table = q.log_prob(q.enumerate_support(expand=False))  # (C [, particles], B) or (2 [, particles], B, L)
    table = table.reshape(table.shape[0], -1, *table.shape[-vae.max_plate_nesting :])
    return (torch.logsumexp(table, 1) - math.log(table.shape[1])).movedim(0, -1)


def _marginals(vae: SemiVAE, values: Values, num_samples: int, mean: bool) -> dict[str, Tensor]:
    """The probabilities or means of each label, given data and known labels, see `classify`.

    Let Z be the sum over all missing labels of the product of classifiers. The probability of a value is the derivative
    of log Z with respect to the logarithm of that value's factor. The mean of t is the derivative with respect to s, at
    0, of log Z with an additional factor e^(st).
    """
    nesting = vae.max_plate_nesting
    dim = -1 - nesting
    draw = Mean() if mean else Particles(check_count("num_samples", num_samples), dim)
    evidence = Evidence(draw=(lambda fn: fn.mean) if mean else draw.draw)
    with LocalParameters(), poutine.enum(first_available_dim=dim - 1), draw:
        trace = poutine.trace(evidence(vae.guide)).get_trace(*values)
    sites = dict(sample_sites(trace))
    discrete = tuple(name for name, site in sites.items() if enumerates(site))
    run = Run(trace, trace, Roles((), discrete, ()), evidence.observed, tuple(evidence.continuous))
    given, factors, wanted = vae.by_site(values), {}, {}
    for name in (name for name in vae.label_sites if name in sites):
        site = sites[name]
        if name in discrete:
            table = log_prob(site)
            for other in run.labels_of(table):
                if plates_of_entries(sites[other], site):
                    raise InputError(
                        f"classify: '{name}' depends on all entries of the label '{other}' at once, which is 2^L terms"
                    )
            shape = [1] * table.dim()
            shape[run.enumeration_dim(name)] = table.shape[run.enumeration_dim(name)]
            shape[dim] = table.shape[dim]
            shape[-nesting:] = table.shape[-nesting:]
            wanted[name] = torch.zeros(shape, dtype=table.dtype, device=table.device, requires_grad=True)
            factors[name] = torch.where(run.known(name, site["value"]), table, -torch.inf)
        else:
            if name in run.continuous:
                factors[name] = torch.where(run.missing(name), 0.0, log_prob(site))
            t = site["fn"].mean
            wanted[name] = torch.zeros(t.shape[-nesting:], dtype=t.dtype, device=t.device, requires_grad=True)
            factors[f"{name}'s mean"] = t
    if not wanted:
        raise InputError(f"classify: {type(vae).__name__} has no label that its guide samples")
    with torch.enable_grad():
        terms = {key: table.detach() for key, table in factors.items()}
        for name, zero in wanted.items():
            key = name if name in discrete else f"{name}'s mean"
            terms[key] = terms[key] + zero if name in discrete else terms[key] * zero
        left = log_sum(run, terms, discrete)
        rows = [table.reshape(-1, *table.shape[-nesting:]) for table in left]  # (1 or S, B[, E])
        rows = [table.sum(-1) if nesting > 1 else table for table in rows]
        log_z = sum(rows)  # (1 or S, B)
        # Samples are weighted by the likelihood of the known labels.
        total = (log_z.logsumexp(0) - math.log(len(log_z))).sum()
        found = dict(zip(wanted, torch.autograd.grad(total, [*wanted.values()]), strict=True))
    out = {}
    for name, table in found.items():
        space = vae.spaces[name]
        if name in discrete:
            table = table.movedim(run.enumeration_dim(name), 0)
            table = table.reshape(table.shape[0], -1, *table.shape[-nesting:]).sum(1)
            out[name] = space.probabilities(space.outward(table, nesting).movedim(0, -1))
        else:
            out[name] = space.outward(table, nesting)
        if given[name] is not None:
            out[name] = space.where_known(given[name], out[name])
    return out


def with_absent(vae: SemiVAE, values: Values) -> Values:
    """A model's inputs, with missing rows (NaN) at the data sites without values.

    Raises:
        InputError: no data site has values.
    """
    given, parameter = vae.by_site(values), next(vae.parameters())
    there = [given[name] for name in vae.data_sites if given[name] is not None]
    if not there:
        raise InputError(f"{vae.data_sites[0]}: got nothing; expected {vae.spaces[vae.data_sites[0]]}")
    for name in vae.data_sites:
        if given[name] is None:
            given[name] = vae.spaces[name].missing(len(there[0])).to(parameter)
    return (*given.values(),)


def run_model(vae: SemiVAE, latents: Latents, y: Any, num_rows: int) -> Trace:
    """A trace of the model with `num_rows` rows, given latents, and no values for the data that it generates.

    Args:
        y: labels, or a mapping from site to values, for labels and for data that the model takes but does not generate.
    """
    given = dict(y) if isinstance(y, Mapping) else {} if y is None else {vae.only(vae.label_sites, "labels"): y}
    for name in covariate_sites(vae):
        if given.get(name) is None:
            raise InputError(f"{name}: got nothing; expected {vae.spaces[name]}, which the model does not generate")
    for name in vae.label_sites:
        if given.get(name) is None:
            given[name] = vae.spaces[name].missing(num_rows)
    parameter = next(vae.parameters())
    latents = {name: as_tensor(f"latents[{name!r}]", value).to(parameter) for name, value in latents.items()}
    impute, values = Impute(continuous=vae.continuous_labels), vae.inputs(given)
    with LocalParameters(), impute, of_size(num_rows), poutine.trace() as trace, Given(latents, vae.spaces):
        vae.model(*values)
    sites = dict(sample_sites(trace.trace))
    if extra := [name for name in vae.data_sites if given.get(name) is not None and name in sites]:
        raise InputError(f"{extra[0]}: got values of data that the model generates; expected none")
    known = [name for name in sites if name not in vae.spaces]
    if unknown := set(latents) - set(known):
        raise InputError(f"latents: got {sorted(unknown)}; expected {', '.join(map(repr, known))}")
    return trace.trace


class Given(ConditionMessenger):
    """Sets latents to given values; those outside a label's plate may be `(B, D)` instead of `(B, 1, D)`.

    Args:
        data: the latents. observed: the names of sites that are not latents.

    Raises:
        InputError: the shape of a latent does not fit its site, or the site is not a latent.
    """

    def __init__(self, data: Latents, observed: Collection[str]):
        super().__init__(data)
        self.observed = observed

    def _pyro_sample(self, msg) -> None:
        if msg["name"] in self.data and msg["name"] in self.observed:
            raise InputError(f"latents: got {[msg['name']]}; expected latents, neither labels nor images")
        super()._pyro_sample(msg)
        if msg["name"] not in self.data:
            return
        fn, value = msg["fn"], msg["value"]
        if len(fn.batch_shape) == 2 and fn.batch_shape[1] == 1 and value.dim() == fn.event_dim + 1:
            value = msg["value"] = value.unsqueeze(1)
        fits = all(have in (1, want) for have, want in zip(value.shape, fn.shape(), strict=False))
        if value.dim() != len(fn.shape()) or not fits:
            raise InputError(
                f"latents: got shape {tuple(value.shape)} for '{msg['name']}'; expected {tuple(fn.shape())}"
            )


def image_of(vae: SemiVAE, trace: Trace) -> Images:
    """The means of the data that the model generates in a trace, `(B, C, H, W)`; by name if there are several sites."""
    sites = {name: site for name, site in sample_sites(trace) if name in vae.data_sites and not site["is_observed"]}
    means = {name: vae.spaces[name].outward(site["fn"].mean, vae.max_plate_nesting) for name, site in sites.items()}
    return next(iter(means.values())) if len(means) == 1 else means


def latents_of(vae: SemiVAE, trace: Trace) -> Latents:
    """The latents in a trace, by site."""
    return {name: site["value"] for name, site in sample_sites(trace) if name not in vae.spaces}


def stacked(images: Sequence[Images]) -> Images:
    """Stacks several results of `image_of`: `(S, B, C, H, W)`."""
    if isinstance(images[0], Mapping):
        return {name: torch.stack([of_sites[name] for of_sites in images]) for name in images[0]}
    return torch.stack([*images])


def covariates(vae: SemiVAE, values: Values) -> dict[str, Tensor | None]:
    """The data among a model's inputs that it does not generate, by site."""
    return {name: vae.by_site(values)[name] for name in covariate_sites(vae)}


def num_rows(vae: SemiVAE, values: Values) -> int:
    """The number of rows of a model's inputs.

    Raises:
        InputError: all inputs are None.
    """
    for value in values:
        if value is not None:
            return len(value)
    raise InputError(f"{vae.data_sites[0]}: got nothing; expected {vae.spaces[vae.data_sites[0]]}")


def check_rows(**values: Tensor) -> None:
    """Raises an InputError unless the tensors, passed by their arguments' names, have the same number of rows."""
    sizes = {name: len(value) for name, value in values.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"{', '.join(sizes)}: got {list(sizes.values())} rows; expected the same number of each")


def _num_rows(latents: Latents, y: Any) -> int:
    y = y or None if isinstance(y, Mapping) else y
    if y is None and not latents:
        raise InputError("latents, y: got neither; expected latents by site name, labels, or both")
    y = next(iter(y.values())) if isinstance(y, Mapping) else y
    return len(y) if y is not None else len(next(iter(latents.values())))


def in_batches(task: Callable[..., Tensor], *images: Tensor, size: int = 500) -> Tensor:
    """Applies a task to many images (labels, ...) in batches of `size` rows, and concatenates the results."""
    return torch.cat([task(*parts) for parts in zip(*(x.split(size) for x in images), strict=True)])


@task
def prior_of_characteristics(vae: SemiVAE, y: Tensor) -> tuple[Tensor, Tensor]:
    """The means and standard deviations of p(z_c | y) for labels `y` (of p(z_c) in M3), each in the shape of z_c.

    Raises:
        InputError: the characteristics are not latents.
    """
    check_available(vae, "prior_of_characteristics")
    trace = run_model(vae, {}, y, len(y))
    fn = trace.nodes[vae.characteristic[0]]["fn"]
    return fn.mean, fn.stddev
