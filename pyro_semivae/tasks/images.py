"""Tasks that end in images."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_semivae.check import descendants
from pyro_semivae.errors import InputError, as_tensor, check_count
from pyro_semivae.infer import Mean, sample_sites
from pyro_semivae.infer.evidence import enumerates
from pyro_semivae.models import SemiVAE
from pyro_semivae.spaces import is_missing
from pyro_semivae.tasks.latents import (
    Latents,
    abduct,
    check_characteristic_latents,
    check_rows,
    check_told,
    classify,
    decode,
    has_label,
    image_of,
    infer,
    infers_from_labels,
    is_latent,
    run_model,
    task,
)
from pyro_semivae.tasks.search import characterise, where_rows


@task
def reconstruct(vae: SemiVAE, x: Tensor, y: Tensor | None = None, *, mean: bool = True) -> Tensor:
    """The images that the model makes of the images' latents, `(B, C, H, W)`; see `infer` for `mean`."""
    return decode(vae, *abduct(vae, x, y, mean=mean))


@task
def generate(
    vae: SemiVAE, y: Tensor, num_samples: int = 1, *, given: Latents | None = None, confidence: float = 0.5
) -> Tensor:
    """Images drawn from the model given labels, `(num_samples, B, C, H, W)`.

    Args:
        y: `(B,)` labels; missing ones are drawn from their prior.
        given: latents to hold fixed, e.g. `{"z_s": z}` with z `(B, D)` or `(1, D)`, so that only the
            characteristic varies.
        confidence: see below.

    Where the model has no label and the guide reads it off latents (M3), those are drawn by rejection, until the
    classifier is so confident: `characterise`.
    Where labels are evidence on the latents (MVAE), these are drawn from q(z | y).

    Raises:
        ValueError: the model has neither a label nor characteristic latents (VAE, M1).
    """
    check_told(vae, "generate")
    y, given, out, of_labels = vae.label_values(y), given or {}, [], infers_from_labels(vae)
    for _ in range(check_count("num_samples", num_samples)):
        trace = run_model(vae, {**(abduct(vae, None, y, mean=False)[0] if of_labels else {}), **given}, y, len(y))
        if not any(enumerates(site) for _, site in sample_sites(trace)):
            trace = run_model(vae, {**characterise(vae, y, confidence=confidence), **given}, y, len(y))
        out.append(image_of(trace))
    return torch.stack(out)


@task
def intervene(vae: SemiVAE, x: Tensor, y_new: Tensor, num_samples: int = 1, *, confidence: float = 0.5) -> Tensor:
    """Counterfactual images: infer the latents of x, set labels, redraw what descends from them, decode.

    Args:
        x: `(B, C, H, W)`. y_new: the labels to set, `(B,)` or `(B, L)`; what descends from missing ones is kept.
        confidence: of the classifier where it alone knows labels (M3); see `generate`.

    Returns `(num_samples, B, C, H, W)`. All latents that do not descend from a label are those of x. Where labels are
    evidence on the latents (MVAE), these are drawn anew, from q(z | x, y_new).

    Raises:
        ValueError: the model has neither a label nor characteristic latents (VAE, M1).
    """
    check_told(vae, "intervene")
    y_new = vae.label_values(y_new, "y_new")
    draws, x = range(check_count("num_samples", num_samples)), vae.images(x)
    check_rows(x=x, y_new=y_new)
    if infers_from_labels(vae):
        return torch.stack([decode(vae, infer(vae, x, y_new, mean=False), y_new) for _ in draws])
    latents, y = abduct(vae, x)
    is_set = ~is_missing(y_new)
    if not has_label(vae):  # new characteristics for the labels that are set, by the guide's classifier
        out = []
        for _ in draws:
            drawn = characterise(vae, y_new, confidence=confidence)
            set_to = {name: where_rows(is_set, z, latents[name]) for name, z in drawn.items()}
            out.append(decode(vae, {**latents, **set_to}))
        return torch.stack(out)
    redrawn = descendants(vae, vae.images(x)) & set(latents)
    kept = {name: value for name, value in latents.items() if name not in redrawn}
    inferred = {name: latents[name] for name in redrawn}
    y = y_new if y is None else torch.where(is_set, y_new, y)
    with _Redraw(inferred, is_set):
        return torch.stack([image_of(run_model(vae, kept, y, len(x))) for _ in draws])


@task
def swap(vae: SemiVAE, x_characteristics: Tensor, x_rest: Tensor) -> Tensor:
    """Images with the characteristics of some images and the rest of others, `(B, C, H, W)`.

    Which sites the characteristics are is the model's statement: latents, or the label itself (M2). Where labels are
    evidence on the latents (MVAE), these are inferred from the image whose rest it is and the other one's labels.

    Raises:
        ValueError: the model has no characteristics (VAE, M1).
    """
    check_told(vae, "swap")
    x_characteristics, x_rest = vae.images(x_characteristics), vae.images(x_rest)
    check_rows(x_characteristics=x_characteristics, x_rest=x_rest)
    if infers_from_labels(vae):
        return reconstruct(vae, x_rest, vae.labels.most_probable(classify(vae, x_characteristics, mean=True)))
    (characteristics, y), (rest, _) = abduct(vae, x_characteristics), abduct(vae, x_rest)
    if not set(vae.characteristic) & set(rest):  # the label itself: what descends from it is drawn anew
        redrawn = descendants(vae, vae.images(x_rest))
        return decode(vae, {name: z for name, z in rest.items() if name not in redrawn}, y)
    chosen = {name: (characteristics if name in vae.characteristic else rest)[name] for name in rest}
    return decode(vae, chosen, y)


@task
def traverse(vae: SemiVAE, x: Tensor, site: str, index: int, values: Tensor) -> Tensor:
    """Images along one coordinate of one latent, the rest kept, `(T, B, C, H, W)`; see `walk`.

    Args:
        site, index: the latent and its coordinate. values: `(T,)`, what it is set to.

    Raises:
        InputError: there is no such site or coordinate; values are something else.
    """
    values = as_tensor("values", values)
    if values.dim() != 1:
        raise InputError(f"values: got shape {tuple(values.shape)}; accepted is (T,)")
    return walk(vae, x, site, (index,), values.unsqueeze(-1))


@task
def walk(vae: SemiVAE, x: Tensor, site: str, indices: Sequence[int], values: Tensor) -> Tensor:
    """Images with several coordinates of one latent set, the rest kept; what descends from it is its mean given it.

    Args:
        site, indices: the latent and n of its coordinates, each once.
        values: `(T, n)`, what they are set to, T one or more.

    Returns `(T, B, C, H, W)`.

    Raises:
        InputError: there is no such site or coordinate; values are something else, or not finite.
    """
    latents, y = abduct(vae, x)
    if site not in latents:
        raise InputError(f"site: got {site!r}; accepted are {', '.join(map(repr, latents))}")
    size = latents[site].shape[-1]
    whole = all(isinstance(index, Integral) and -size <= index < size for index in indices)
    if not whole or len({index % size for index in indices}) < len(indices):
        accepted = f"0 to {size - 1} for site {site!r}, each once" if size else f"none for site {site!r}, it is empty"
        raise InputError(f"indices: got {tuple(indices)}; accepted are {accepted}")
    values = as_tensor("values", values)
    if values.dim() != 2 or values.shape[1] != len(indices) or not len(values) or not values.isfinite().all():
        raise InputError(
            f"values: got shape {tuple(values.shape)}; accepted is (T, {len(indices)}), T 1 or more, of finite numbers"
        )
    out, below = [], descendants(vae, vae.images(x), [site])
    kept = {name: z for name, z in latents.items() if name not in below}
    for point in values:
        z = latents[site].clone()
        z[..., list(indices)] = point.to(z)
        with Mean():
            out.append(decode(vae, {**kept, site: z}, y))
    return torch.stack(out)


@task
def interpolate(vae: SemiVAE, y: Tensor, steps: int = 8) -> Tensor:
    """Images on the polytope between the prior means of four labels, `(steps, steps, C, H, W)` (CCVAE, D.6).

    Args:
        y: four labels, for the corners [top left, top right, bottom left, bottom right].

    The characteristic latents are interpolated linearly, the others stay at their prior means.

    Raises:
        InputError: the model has no latents below its labels (all but CCVAE and DIVA); there are not four labels, or
            `steps` is not 1, 2, ...
    """
    check_characteristic_latents(vae, "interpolate", below_labels=True)
    check_count("steps", steps)
    y = vae.labels.validate(y)
    if len(y) != 4:
        raise InputError(f"y: got {len(y)} labels; accepted are the four corners' labels")
    with Mean():
        trace = run_model(vae, {}, y, 4)
    latents = {name: site["value"] for name, site in sample_sites(trace) if is_latent(site)}
    t = torch.linspace(0, 1, steps, device=y.device)
    row, column = (axis.reshape(-1) for axis in torch.meshgrid(t, t, indexing="ij"))
    corners = torch.stack([(1 - row) * (1 - column), (1 - row) * column, row * (1 - column), row * column], -1)
    points = {name: corners.to(z) @ z.reshape(4, -1) for name, z in latents.items()}
    points = {name: z.reshape(len(corners), *latents[name].shape[1:]) for name, z in points.items()}
    return decode(vae, points).unflatten(0, (steps, steps))


class _Redraw(Messenger):
    """Draws sites anew where their label, or one of several, was set, and takes their inferred values elsewhere."""

    def __init__(self, inferred: Latents, is_set: Tensor):
        super().__init__()
        self.inferred, self.is_set = inferred, is_set

    def _pyro_sample(self, msg) -> None:
        if msg["name"] in self.inferred:
            batch, is_set = msg["fn"].batch_shape, self.is_set
            if is_set.dim() == len(batch) == 2 and batch[1] == 1:  # a site below all labels, outside of their plate
                is_set = is_set.any(1, keepdim=True)
            msg["value"] = where_rows(is_set, msg["fn"].sample(), self.inferred[msg["name"]])
            msg["done"] = True
