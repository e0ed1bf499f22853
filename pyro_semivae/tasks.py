"""Tasks: what one does with a trained model. Each is written once, over any model/guide pair.

A task runs the model and the guide under effect handlers and uses only their roles and what the model states
of itself (`characteristic`). None trains; all run without gradients, in evaluation mode (no dropout), and take images
as float or uint8.
Images that come out are means of p(x|.), float `(..., C, H, W)`, with the leading shapes given below.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import TypeVar

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_semivae.check import descendants
from pyro_semivae.errors import InputError, check_count
from pyro_semivae.infer import LocalParameters, Mean, Particles, Until, sample_sites
from pyro_semivae.labels import Binary, Impute, enumerates, is_missing
from pyro_semivae.models import SemiVAE

Latents = dict[str, Tensor]
Out = TypeVar("Out")


def _task(run: Callable[..., Out]) -> Callable[..., Out]:
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


@_task
def infer(vae: SemiVAE, x: Tensor, y: Tensor | None = None, *, mean: bool = True) -> Latents:
    """The latents of images: site name -> `(B, ...)`, the guide's mean or, with `mean=False`, one draw.

    Labels are not among them. Where the guide uses them, missing ones are its most probable ones, or drawn as well.
    """
    return _abduct(vae, x, y, mean=mean)[0]


def _abduct(
    vae: SemiVAE, x: Tensor | None, y: Tensor | None = None, *, mean: bool = True
) -> tuple[Latents, Tensor | None]:
    """The latents of images, and their labels where the guide has any, the missing ones being the guide's."""
    vae.validate(x, y)
    with LocalParameters(), Impute(most_probable=mean), Mean() if mean else nullcontext():
        trace = poutine.trace(vae.guide).get_trace(None if x is None else vae.images(x), y)
    sites = dict(sample_sites(trace))
    labels = [site["value"] for site in sites.values() if enumerates(site)]
    latents = {name: site["value"] for name, site in sites.items() if not enumerates(site)}
    return latents, labels[0] if labels else y


@_task
def decode(vae: SemiVAE, latents: Latents, y: Tensor | None = None) -> Tensor:
    """The mean of p(x | latents, y), `(B, C, H, W)`; latents that are not given are drawn from the prior."""
    return _image(_run_model(vae, latents, y, _num_rows(latents, y)))


@_task
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
        ValueError: the guide has no label site.
    """
    if corrupt is not None:
        x = vae.images(x)
        return sum(classify(vae, corrupt(x), num_samples=-(-num_samples // 30), mean=mean) for _ in range(30)) / 30
    probs = log_classify(vae, vae.images(x), num_samples=num_samples, mean=mean).exp()
    return probs[..., 1] if isinstance(vae.labels, Binary) else probs


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
    if len(labels) != 1:
        raise InputError(f"classify: the guide of {type(vae).__name__} has {len(labels)} label sites; accepted is one")
    q = labels[0]["fn"]
    table = q.log_prob(q.enumerate_support(expand=False))  # (C [, particles], B) or (2 [, particles], B, L)
    table = table.reshape(table.shape[0], -1, *table.shape[-vae.max_plate_nesting :])
    return (torch.logsumexp(table, 1) - math.log(table.shape[1])).movedim(0, -1)


@_task
def reconstruct(vae: SemiVAE, x: Tensor, y: Tensor | None = None, *, mean: bool = True) -> Tensor:
    """The images that the model makes of the images' latents, `(B, C, H, W)`; see `infer` for `mean`."""
    return decode(vae, *_abduct(vae, x, y, mean=mean))


@_task
def generate(vae: SemiVAE, y: Tensor, num_samples: int = 1, *, given: Latents | None = None) -> Tensor:
    """Images drawn from the model given labels, `(num_samples, B, C, H, W)`.

    Args:
        y: `(B,)` labels; missing ones are drawn from their prior.
        given: latents to hold fixed, e.g. `{"z_s": z}` with z `(B, D)` or `(1, D)`, so that only the
            characteristic varies.

    Where the model has no label and the guide reads it off latents (M3), those are drawn by rejection: `characterise`.
    Where labels are evidence on the latents (MVAE), these are drawn from q(z | y).

    Raises:
        ValueError: the model has neither a label nor characteristic latents (VAE, M1).
    """
    y, given, out, of_labels = vae.labels.validate(y), given or {}, [], infers_from_labels(vae)
    for _ in range(check_count("num_samples", num_samples)):
        trace = _run_model(vae, {**(_abduct(vae, None, y, mean=False)[0] if of_labels else {}), **given}, y, len(y))
        if not any(enumerates(site) for _, site in sample_sites(trace)):
            trace = _run_model(vae, {**characterise(vae, y), **given}, y, len(y))
        out.append(_image(trace))
    return torch.stack(out)


@_task
def characterise(vae: SemiVAE, y: Tensor, *, confidence: float = 0.5, max_draws: int = 1000) -> Latents:
    """Characteristic latents for labels, where only the guide's classifier knows both: rejection (REVAE, Appendix A).

    Draws from the prior, entry by entry of several labels, until q(y | z) exceeds `confidence`; a missing label accepts
    its first draw.

    Args:
        y: labels, `(B,)` or `(B, L)`.
        max_draws: after so many, an entry takes the best of its draws, and a warning says for how many.

    Returns the characteristic sites' values, by name.

    Raises:
        ValueError: the model has no characteristic latents (VAE, M1).
    """
    if not vae.characteristic:
        raise InputError(
            f"y: {type(vae).__name__} has no label in its model, and latents that it does not know: it cannot be told "
            f"what to generate, nor intervened on; M2, M3, DIVA and CCVAE can"
        )
    y = vae.labels.validate(y).to(next(vae.parameters()).device)
    missing, best, found = is_missing(y), torch.full(y.shape, -1.0, device=y.device), {}
    blank, at_once = vae.images(torch.zeros(len(y), *vae.x_shape)), 50
    samples = pyro.plate("samples", at_once, dim=-1 - vae.max_plate_nesting)
    for _ in range(-(-max_draws // at_once)):
        with LocalParameters(), Impute(), Until(vae.characteristic) as prior, samples:
            vae.model(None, y)
        drawn = {name: site["value"] for name, site in prior.sites.items()}
        with LocalParameters(), Impute(), poutine.condition(data=drawn), samples:
            sites = dict(sample_sites(poutine.trace(vae.guide).get_trace(blank)))
        (label,) = (site for site in sites.values() if enumerates(site))
        prob = torch.where(missing, 1.0, label["fn"].log_prob(torch.where(missing, 0, y)).exp())  # (S, B [, L])
        sure = prob > confidence
        chosen = torch.where(sure.any(0), sure.int().argmax(0), prob.argmax(0)).unsqueeze(0)  # the first, else the best
        prob = prob.gather(0, chosen)[0]
        better, best = (prob > best) & (best <= confidence), torch.where(best > confidence, best, prob.maximum(best))
        for name, value in drawn.items():
            index = chosen.reshape(chosen.shape + (1,) * (value.dim() - chosen.dim())).expand(1, *value.shape[1:])
            value = value.gather(0, index)[0]
            found[name] = _where(better, value, found.get(name, value))
        if (best > confidence).all():
            break
    else:
        late = int((best <= confidence).sum())
        warnings.warn(f"{late} of {best.numel()} labels found no draw with q(y|z) > {confidence}", stacklevel=2)
    return found


def _where(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` in the rows (or entries) of a mask, `b` elsewhere; the mask has fewer dimensions, on the right."""
    return torch.where(mask.reshape(mask.shape + (1,) * (b.dim() - mask.dim())), a, b)


def infers_from_labels(vae: SemiVAE) -> bool:
    """Whether labels are evidence on the latents (MVAE): leaves of the model, and of the guide an input only."""
    blank = vae.images(torch.zeros(1, *vae.x_shape))
    return _has_label(vae) and not classifies(vae) and not descendants(vae, blank)


def classifies(vae: SemiVAE) -> bool:
    """Whether the guide has a label site."""
    return _samples_labels(vae, vae.guide, vae.images(torch.zeros(1, *vae.x_shape)))


def _has_label(vae: SemiVAE) -> bool:
    """Whether the generative model has a label site."""
    return _samples_labels(vae, vae.model)


def _samples_labels(vae: SemiVAE, fn: Callable, *args: Tensor) -> bool:
    with torch.no_grad(), LocalParameters(), Impute(), Until() as label:
        fn(*args)
    return bool(label.sites)


@_task
def intervene(vae: SemiVAE, x: Tensor, y_new: Tensor, num_samples: int = 1) -> Tensor:
    """Counterfactual images: infer the latents of x, set labels, redraw what descends from them, decode.

    Args:
        x: `(B, C, H, W)`. y_new: the labels to set, `(B,)` or `(B, L)`; what descends from missing ones is kept.

    Returns `(num_samples, B, C, H, W)`. All latents that do not descend from a label are those of x. Where labels are
    evidence on the latents (MVAE), these are drawn anew, from q(z | x, y_new).
    """
    y_new = vae.labels.validate(y_new, "y_new")
    draws = range(check_count("num_samples", num_samples))
    _check_rows(x=x, y_new=y_new)
    if infers_from_labels(vae):
        return torch.stack([decode(vae, infer(vae, x, y_new, mean=False), y_new) for _ in draws])
    latents, y = _abduct(vae, x)
    is_set = ~is_missing(y_new).to(next(vae.parameters()).device)
    if not _has_label(vae):  # new characteristics for the labels that are set, by the guide's classifier
        out = []
        for _ in draws:
            drawn = {name: _where(is_set, z, latents[name]) for name, z in characterise(vae, y_new).items()}
            out.append(decode(vae, {**latents, **drawn}))
        return torch.stack(out)
    redrawn = descendants(vae, vae.images(x)) & set(latents)
    kept = {name: value for name, value in latents.items() if name not in redrawn}
    inferred = {name: latents[name] for name in redrawn}
    y = y_new if y is None else torch.where(is_set, y_new.to(y), y)
    with _Redraw(inferred, is_set):
        return torch.stack([_image(_run_model(vae, kept, y, len(x))) for _ in draws])


@_task
def swap(vae: SemiVAE, x_characteristics: Tensor, x_rest: Tensor) -> Tensor:
    """Images with the characteristics of some images and the rest of others, `(B, C, H, W)`.

    Which sites the characteristics are is the model's statement: latents, or the label itself (M2). Where labels are
    evidence on the latents (MVAE), these are inferred from the image whose rest it is and the other one's labels.
    """
    _check_rows(x_characteristics=x_characteristics, x_rest=x_rest)
    if infers_from_labels(vae):
        probs = classify(vae, x_characteristics, mean=True)
        y = (probs > 0.5).to(probs) if isinstance(vae.labels, Binary) else probs.argmax(-1)
        return reconstruct(vae, x_rest, y)
    (characteristics, y), (rest, _) = _abduct(vae, x_characteristics), _abduct(vae, x_rest)
    if not set(vae.characteristic) & set(rest):  # the label itself: what descends from it is drawn anew
        redrawn = descendants(vae, vae.images(x_rest))
        return decode(vae, {name: z for name, z in rest.items() if name not in redrawn}, y)
    chosen = {name: (characteristics if name in vae.characteristic else rest)[name] for name in rest}
    return decode(vae, chosen, y)


@_task
def traverse(vae: SemiVAE, x: Tensor, site: str, index: int, values: Tensor) -> Tensor:
    """Images along one coordinate of one latent, the rest kept, `(len(values), B, C, H, W)`.

    Raises:
        ValueError: there is no such site or coordinate.
    """
    return walk(vae, x, site, (index,), torch.as_tensor(values).unsqueeze(-1))


@_task
def walk(vae: SemiVAE, x: Tensor, site: str, indices: Sequence[int], values: Tensor) -> Tensor:
    """Images with several coordinates of one latent set, the rest kept.

    Args:
        site, indices: the latent and n of its coordinates.
        values: `(T, n)`, what they are set to.

    Returns `(T, B, C, H, W)`.
    """
    latents, y = _abduct(vae, x)
    if site not in latents:
        raise InputError(f"site: got {site!r}; accepted are {', '.join(map(repr, latents))}")
    size = latents[site].shape[-1]
    if not all(-size <= index < size for index in indices):
        accepted = f"0 to {size - 1}" if size else "none, it is empty,"
        raise InputError(f"indices: got {tuple(indices)}; accepted are {accepted} for site {site!r}")
    if values.dim() != 2 or values.shape[1] != len(indices):
        raise InputError(f"values: got shape {tuple(values.shape)}; accepted is (T, {len(indices)})")
    out = []
    for point in values:
        z = latents[site].clone()
        z[..., list(indices)] = point.to(z)
        out.append(decode(vae, {**latents, site: z}, y))
    return torch.stack(out)


@_task
def interpolate(vae: SemiVAE, y: Tensor, steps: int = 8) -> Tensor:
    """Images on the polytope between the prior means of four labels, `(steps, steps, C, H, W)` (CCVAE, D.6).

    Args:
        y: four labels, for the corners [top left, top right, bottom left, bottom right].

    The characteristic latents are interpolated linearly, the others stay at their prior means.
    """
    if len(y) != 4:
        raise InputError(f"y: got {len(y)} labels; accepted are the four corners' labels")
    with Mean():
        trace = _run_model(vae, {}, y, 4)
    latents = {name: site["value"] for name, site in sample_sites(trace) if _is_latent(site)}
    t = torch.linspace(0, 1, steps, device=y.device)
    row, column = (axis.reshape(-1) for axis in torch.meshgrid(t, t, indexing="ij"))
    corners = torch.stack([(1 - row) * (1 - column), (1 - row) * column, row * (1 - column), row * column], -1)
    points = {name: corners.to(z) @ z.reshape(4, -1) for name, z in latents.items()}
    points = {name: z.reshape(len(corners), *latents[name].shape[1:]) for name, z in points.items()}
    return decode(vae, points).unflatten(0, (steps, steps))


@_task
def prior_of_characteristics(vae: SemiVAE, y: Tensor) -> tuple[Tensor, Tensor]:
    """The means and standard deviations of p(z_c | y) for labels `y`, each of z_c's shape."""
    trace = _run_model(vae, {}, y, len(y))
    fn = trace.nodes[vae.characteristic[0]]["fn"]
    return fn.mean, fn.stddev


def in_batches(task: Callable[..., Tensor], *images: Tensor, size: int = 500) -> Tensor:
    """Applies a task to many images (labels ...) in batches of rows, and concatenates the results."""
    return torch.cat([task(*parts) for parts in zip(*(x.split(size) for x in images), strict=True)])


def _run_model(vae: SemiVAE, latents: Latents, y: Tensor | None, num_rows: int) -> Trace:
    """A trace of the model on `num_rows` rows with latents (and labels) set and no image observed."""
    y = vae.labels.missing(num_rows) if y is None else vae.labels.validate(y)
    parameter = next(vae.parameters())
    y = y.to(parameter.device)
    latents = {name: value.to(parameter) if value.is_floating_point() else value for name, value in latents.items()}
    with LocalParameters(), Impute(), poutine.trace() as trace, poutine.condition(data=latents):
        vae.model(None, y)
    known = [name for name, site in sample_sites(trace.trace) if _is_latent(site)]
    if unknown := set(latents) - set(known):
        raise InputError(f"latents: got {sorted(unknown)}; accepted are {', '.join(map(repr, known))}")
    return trace.trace


def _image(trace: Trace) -> Tensor:
    return next(site for name, site in sample_sites(trace) if name == "x")["fn"].mean.flatten(0, -4)  # (B, C, H, W)


def _is_latent(site: dict) -> bool:
    return not enumerates(site) and site["name"] != "x"


def _check_rows(**values: Tensor) -> None:
    sizes = {name: len(value) for name, value in values.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"{', '.join(sizes)}: got {list(sizes.values())} rows; accepted are as many of each")


def _num_rows(latents: Latents, y: Tensor | None) -> int:
    if y is None and not latents:
        raise InputError("latents, y: got neither; accepted are latents by site name, labels, or both")
    return len(y) if y is not None else len(next(iter(latents.values())))


class _Redraw(Messenger):
    """Draws sites anew where their label was set, and takes their inferred values elsewhere."""

    def __init__(self, inferred: Latents, is_set: Tensor):
        super().__init__()
        self.inferred, self.is_set = inferred, is_set

    def _pyro_sample(self, msg) -> None:
        if msg["name"] in self.inferred:
            msg["value"] = _where(self.is_set, msg["fn"].sample(), self.inferred[msg["name"]])
            msg["done"] = True
