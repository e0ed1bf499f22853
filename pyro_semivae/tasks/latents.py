"""From images to latents and labels, and from latents to images: what the other tasks are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import TypeVar

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.condition_messenger import ConditionMessenger
from torch import Tensor

from pyro_semivae.check import descendants
from pyro_semivae.errors import InputError, as_tensor, check_count
from pyro_semivae.infer import LocalParameters, Mean, Particles, Until, sample_sites
from pyro_semivae.infer.evidence import Impute, enumerates
from pyro_semivae.models import SemiVAE

Latents = dict[str, Tensor]
Out = TypeVar("Out")


def task(run: Callable[..., Out]) -> Callable[..., Out]:
    """Without gradients and in evaluation mode, which is then what it was."""

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
def infer(vae: SemiVAE, x: Tensor, y: Tensor | None = None, *, mean: bool = True) -> Latents:
    """The latents of images: site name -> `(B, ...)`, the guide's mean or, with `mean=False`, one draw.

    Labels are not among them. Where the guide uses them, missing ones are its most probable ones, or drawn as well.
    """
    return abduct(vae, x, y, mean=mean)[0]


def abduct(
    vae: SemiVAE, x: Tensor | None, y: Tensor | None = None, *, mean: bool = True
) -> tuple[Latents, Tensor | None]:
    """The latents of images, and their labels where the guide has any, the missing ones being the guide's.

    Raises:
        InputError: there are no images, and labels are not evidence on the latents (all but MVAE).
    """
    if x is None and not infers_from_labels(vae):
        raise InputError("x: got nothing; accepted are images")
    x, y = None if x is None else vae.images(x), None if y is None else vae.label_values(y)
    if x is not None and y is not None:
        check_rows(x=x, y=y)
    with LocalParameters(), Impute(most_probable=mean), Mean() if mean else nullcontext():
        trace = poutine.trace(vae.guide).get_trace(x, y)
    sites = dict(sample_sites(trace))
    labels = [site["value"] for site in sites.values() if enumerates(site)]
    latents = {name: site["value"] for name, site in sites.items() if not (enumerates(site) or site["is_observed"])}
    return latents, labels[0] if labels else y


@task
def decode(vae: SemiVAE, latents: Latents, y: Tensor | None = None) -> Tensor:
    """The mean of p(x | latents, y), `(B, C, H, W)`; latents that are not given are drawn from the prior."""
    return image_of(run_model(vae, latents, y, _num_rows(latents, y)))


@task
def classify(
    vae: SemiVAE,
    x: Tensor,
    *,
    num_samples: int = 100,
    mean: bool = False,
    corrupt: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """q(y | x) = E_q(z|x)[q(y | z)]: probabilities of the classes `(B, C)`, or that binary labels are on `(B, L)`.

    Args:
        num_samples: draws of z for the expectation. mean: use the posterior mean of z instead.
        corrupt: the noise that the guide was trained with (see `fit`), whose guide is q(z|x) = E[q(z|corrupt(x))]:
            the draws are then spread over thirty corruptions.

    Raises:
        ValueError: neither guide nor model has a label site (VAE).
    """
    if corrupt is not None:
        x = vae.images(x)
        return sum(classify(vae, corrupt(x), num_samples=-(-num_samples // 30), mean=mean) for _ in range(30)) / 30
    probs = log_classify(vae, vae.images(x), num_samples=num_samples, mean=mean).exp()
    return vae.labels.probabilities(probs)


def log_classify(vae: SemiVAE, x: Tensor, *, num_samples: int = 100, mean: bool = False) -> Tensor:
    """log q(y | x) of every value of the label, `(B, C)` or `(B, L, 2)`, with gradients.

    Args:
        x: float images as the model takes them (see `SemiVAE.images`), not checked. num_samples, mean: see `classify`.

    Raises:
        ValueError: the guide does not have one label site.
    """
    dim, num_samples = -1 - vae.max_plate_nesting, check_count("num_samples", num_samples)
    draw = Mean() if mean else Particles(num_samples, dim)
    with LocalParameters(), Impute(most_probable=True), draw:
        trace = poutine.trace(vae.guide).get_trace(x)
        labels = [site for _, site in sample_sites(trace) if enumerates(site)]
        if not labels and infers_from_labels(vae):  # the model reads it off the latents
            latents = {name: site["value"] for name, site in sample_sites(trace)}
            with poutine.condition(data=latents), Until() as label:
                vae.model(x)
            labels = [*label.sites.values()]
    if not labels:
        raise InputError(
            f"classify: the guide of {type(vae).__name__} has no label; M1 fits a classifier to a VAE's latents, and "
            f"CCVAE, DIVA, M2, M1M2, M3 and MVAE are trained with one"
        )
    if len(labels) > 1:
        raise InputError(f"classify: the guide of {type(vae).__name__} has {len(labels)} label sites; accepted is one")
    q = labels[0]["fn"]
    table = q.log_prob(q.enumerate_support(expand=False))  # (C [, particles], B) or (2 [, particles], B, L)
    table = table.reshape(table.shape[0], -1, *table.shape[-vae.max_plate_nesting :])
    return (torch.logsumexp(table, 1) - math.log(table.shape[1])).movedim(0, -1)


def run_model(vae: SemiVAE, latents: Latents, y: Tensor | None, num_rows: int) -> Trace:
    """A trace of the model on `num_rows` rows with latents (and labels) set and no image observed."""
    y = vae.label_values(vae.labels.missing(num_rows) if y is None else y)
    parameter = next(vae.parameters())
    latents = {name: as_tensor(f"latents[{name!r}]", value).to(parameter) for name, value in latents.items()}
    with LocalParameters(), Impute(), poutine.trace() as trace, Given(latents):
        vae.model(None, y)
    known = [name for name, site in sample_sites(trace.trace) if is_latent(site)]
    if unknown := set(latents) - set(known):
        raise InputError(f"latents: got {sorted(unknown)}; accepted are {', '.join(map(repr, known))}")
    return trace.trace


class Given(ConditionMessenger):
    """Sets latents, which may lack the plate of labels that they are outside of: `(B, D)` for `(B, 1, D)`.

    Raises:
        InputError: a latent has another shape than its site, or the site is no latent.
    """

    def _pyro_sample(self, msg) -> None:
        if msg["name"] in self.data and not is_latent(msg):
            raise InputError(f"latents: got {[msg['name']]}; accepted are latents, neither labels nor images")
        super()._pyro_sample(msg)
        if msg["name"] not in self.data:
            return
        fn, value = msg["fn"], msg["value"]
        if len(fn.batch_shape) == 2 and fn.batch_shape[1] == 1 and value.dim() == fn.event_dim + 1:
            value = msg["value"] = value.unsqueeze(1)
        fits = all(have in (1, want) for have, want in zip(value.shape, fn.shape(), strict=False))
        if value.dim() != len(fn.shape()) or not fits:
            raise InputError(
                f"latents: got shape {tuple(value.shape)} for '{msg['name']}'; accepted is {tuple(fn.shape())}"
            )


def image_of(trace: Trace) -> Tensor:
    """The mean of p(x | .) in a trace of a model, `(B, C, H, W)`."""
    return next(site for name, site in sample_sites(trace) if name == "x")["fn"].mean.flatten(0, -4)  # (B, C, H, W)


def is_latent(site: dict) -> bool:
    """Whether a model's random site is neither a label nor the image."""
    return not enumerates(site) and site["name"] != "x"


def check_rows(**values: Tensor) -> None:
    """Raises an InputError unless the tensors, by their arguments' names, have as many rows."""
    sizes = {name: len(value) for name, value in values.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"{', '.join(sizes)}: got {list(sizes.values())} rows; accepted are as many of each")


def _num_rows(latents: Latents, y: Tensor | None) -> int:
    if y is None and not latents:
        raise InputError("latents, y: got neither; accepted are latents by site name, labels, or both")
    return len(y) if y is not None else len(next(iter(latents.values())))


def blank_images(vae: SemiVAE, num_rows: int = 1) -> Tensor:
    """Data without content, for those who look at a graph alone."""
    return vae.images(torch.zeros(num_rows, *vae.x_shape))


def infers_from_labels(vae: SemiVAE) -> bool:
    """Whether labels are evidence on the latents (MVAE): leaves of the model, and of the guide an input only."""
    blank = blank_images(vae)
    return has_label(vae) and not classifies(vae) and not descendants(vae, blank)


def classifies(vae: SemiVAE) -> bool:
    """Whether the guide has a label site."""
    return _samples_labels(vae, vae.guide, blank_images(vae))


def has_label(vae: SemiVAE) -> bool:
    """Whether the generative model has a label site."""
    return _samples_labels(vae, vae.model)


def _samples_labels(vae: SemiVAE, fn: Callable, *args: Tensor) -> bool:
    with torch.no_grad(), LocalParameters(), Impute(), Until() as label:
        fn(*args)
    return bool(label.sites)


def in_batches(task: Callable[..., Tensor], *images: Tensor, size: int = 500) -> Tensor:
    """Applies a task to many images (labels ...) in batches of rows, and concatenates the results."""
    return torch.cat([task(*parts) for parts in zip(*(x.split(size) for x in images), strict=True)])


@task
def prior_of_characteristics(vae: SemiVAE, y: Tensor) -> tuple[Tensor, Tensor]:
    """The means and standard deviations of p(z_c | y) for labels `y`, each of z_c's shape; of p(z_c) in M3.

    Raises:
        ValueError: the characteristics are no latents (VAE, M1, M2, M1M2, MVAE).
    """
    check_characteristic_latents(vae, "prior_of_characteristics")
    trace = run_model(vae, {}, y, len(y))
    fn = trace.nodes[vae.characteristic[0]]["fn"]
    return fn.mean, fn.stddev


def check_told(vae: SemiVAE, task: str) -> None:
    """Raises an InputError unless the model has characteristics of labels, and can be told which they are."""
    if not vae.characteristic:
        raise InputError(
            f"{task}: {type(vae).__name__} has no label in its model, and latents that know nothing of labels: it "
            f"cannot be told any; use CCVAE, DIVA, M2, M1M2, M3 or MVAE"
        )


def check_characteristic_latents(vae: SemiVAE, task: str, *, below_labels: bool = False) -> None:
    """Raises an InputError unless the labels' characteristics are latents (below the labels, in the model)."""
    blank = blank_images(vae)
    names = descendants(vae, blank) if below_labels else set(abduct(vae, blank)[0])
    if not vae.characteristic or not set(vae.characteristic) <= names:
        which = "latents below its labels" if below_labels else "latents that its labels are read off"
        fit = "CCVAE and DIVA" if below_labels else "CCVAE, DIVA and M3"
        raise InputError(
            f"{task}: {type(vae).__name__} has no {which}; {fit} have, and `generate` and `intervene` are for every "
            f"model that can be told labels: CCVAE, DIVA, M2, M1M2, M3 and MVAE"
        )
