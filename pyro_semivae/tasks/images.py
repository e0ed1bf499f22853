"""Tasks that return images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Number
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_semivae.contract import Values
from pyro_semivae.errors import InputError, as_tensor, check_count
from pyro_semivae.infer import Mean
from pyro_semivae.models import SemiVAE
from pyro_semivae.spaces import is_missing
from pyro_semivae.structure import check_available, descendants, has_label, infers_from_labels
from pyro_semivae.tasks.latents import (
    Images,
    Labels,
    Latents,
    classify,
    covariates,
    decode,
    image_of,
    infer_from_inputs,
    latents_of,
    num_rows,
    run_model,
    stacked,
    task,
)
from pyro_semivae.tasks.search import sample_characteristics, where_rows


@task
def reconstruct(vae: SemiVAE, x: Any, y: Any = None, *, mean: bool = True) -> Images:
    """Infers the latents of images and decodes them, `(B, C, H, W)`; see `infer` for `mean`."""
    values = vae.inputs(x, y)
    latents, labels = infer_from_inputs(vae, values, mean=mean)
    return decode(vae, latents, {**labels, **covariates(vae, values)})


@task
def generate(
    vae: SemiVAE, y: Any, num_samples: int = 1, *, given: Latents | None = None, confidence: float = 0.5
) -> Images:
    """Images sampled from the model given labels, `(num_samples, B, C, H, W)`.

    Args:
        y: labels `(B,)`, of which missing ones are sampled from their prior; or a mapping from site to values, for
            labels and for data that the model does not generate.
        given: latents to hold fixed, e.g. `{"z_s": z}` with z `(B, D)` or `(1, D)`, so that only the
            characteristic varies.
        confidence: see below.

    If only the guide has the label, as a classifier on latents (M3), these latents are sampled by rejection until the
    classifier's probability exceeds `confidence`, see `sample_characteristics`.
    If the model infers latents from labels (MVAE), they are sampled from q(z | y).

    Raises:
        InputError: the model has neither a label nor characteristic latents.
    """
    check_available(vae, "generate")
    table = vae.table(y if isinstance(y, Mapping) else {vae.only(vae.label_sites, "labels"): y})
    if not table:
        raise InputError("y: got no values; expected labels, or a mapping from site to values")
    number, given, out, of_labels = len(next(iter(table.values()))), given or {}, [], infers_from_labels(vae)
    read_off = not has_label(vae)
    for _ in range(check_count("num_samples", num_samples)):
        latents = infer_from_inputs(vae, vae.inputs(table), mean=False)[0] if of_labels else {}
        if read_off:
            latents = sample_characteristics(vae, table[vae.label_sites[0]], confidence=confidence)
        out.append(image_of(vae, run_model(vae, {**latents, **given}, table, number)))
    return stacked(out)


@task
def intervene(vae: SemiVAE, x: Any, y_new: Any, num_samples: int = 1, *, confidence: float = 0.5) -> Images:
    """Counterfactual images: infers the latents of x, sets labels, resamples their descendants, and decodes.

    Args:
        x: `(B, C, H, W)`, or a mapping from site to values. y_new: the labels to set, `(B,)` or `(B, L)`; descendants
            of missing labels are kept. With several labels a mapping: labels that it does not name, and missing
            entries, are kept. A number sets the label of all rows.
        confidence: of the classifier, if only the guide has the label (M3); see `generate`.

    Returns `(num_samples, B, C, H, W)`. Latents that do not descend from a label that is set are those of x. If the
    model infers latents from labels (MVAE), they are sampled anew, from q(z | x, y_new).

    Raises:
        InputError: the model has neither a label nor characteristic latents.
    """
    check_available(vae, "intervene")
    draws, values = range(check_count("num_samples", num_samples)), vae.inputs(x)
    number = num_rows(vae, values)
    new = _labels_to_set(vae, y_new, number)
    found = infer_from_inputs(vae, values) if not infers_from_labels(vae) else ({}, {})
    return stacked([with_labels(vae, values, found, new, confidence=confidence)[2] for _ in draws])


def with_labels(
    vae: SemiVAE, values: Values, found: tuple[Latents, Labels], new: Labels, *, confidence: float = 0.5
) -> tuple[Latents, Labels, Images]:
    """One sample of latents, labels and images after labels are set: a step of `intervene`, given inferred latents.

    Args:
        values: the batch, as `SemiVAE.inputs` returns it. found: its latents and labels, from `infer_from_inputs`;
            not used if the model infers latents from labels (MVAE). new: the labels to set, by site; missing entries
            are kept.
        confidence: see `generate`.
    """
    latents, labels = found
    if infers_from_labels(vae):
        evidence = (*{**vae.by_site(values), **new}.values(),)
        latents = infer_from_inputs(vae, evidence, mean=False)[0]
        return latents, new, decode(vae, latents, new)
    is_set = {name: ~is_missing(y) for name, y in new.items()}
    if not has_label(vae):  # new characteristics for the labels that are set, by the guide's classifier
        ((name, y),) = new.items()
        drawn = sample_characteristics(vae, y, confidence=confidence)
        latents = {**latents, **{site: where_rows(is_set[name], z, latents[site]) for site, z in drawn.items()}}
        return latents, labels, decode(vae, latents)
    below = {name: descendants(vae, [name], kept=set(vae.label_sites) - {name}) for name in new}
    redrawn = {site: {name: is_set[name] for name in new if site in below[name]} for site in latents}
    kept = {site: value for site, value in latents.items() if not redrawn[site]}
    inferred = {site: (latents[site], masks) for site, masks in redrawn.items() if masks}
    set_to = {name: torch.where(is_set[name], y, labels[name]) if name in labels else y for name, y in new.items()}
    labels = {**labels, **set_to}
    with _Redraw(inferred):
        trace = run_model(vae, kept, {**labels, **covariates(vae, values)}, num_rows(vae, values))
    return latents_of(vae, trace), labels, image_of(vae, trace)


def _labels_to_set(vae: SemiVAE, y_new: Any, number: int) -> dict[str, Tensor]:
    """Checks new labels and returns them by site, `number` rows each."""
    given = y_new if isinstance(y_new, Mapping) else {vae.only(vae.label_sites, "labels"): y_new}
    if unknown := [name for name in given if name not in vae.label_sites]:
        raise InputError(f"y_new: got {unknown}; expected {', '.join(vae.label_sites)}")
    out = {}
    for name, y in given.items():
        space, device = vae.spaces[name], next(vae.parameters()).device
        if isinstance(y, Number):
            blank = space.missing(number)
            y = torch.full(blank.shape, float(y) if blank.is_floating_point() and not isinstance(y, bool) else y)
        argument = "y_new" if len(vae.label_sites) == 1 else f"y_new[{name!r}]"
        out[name] = space.model_values(space.validate(y, argument), next(vae.parameters()).dtype).to(device)
        if len(out[name]) != number:
            raise InputError(f"x, {argument}: got {[number, len(out[name])]} rows; expected the same number of each")
    return out


@task
def swap(vae: SemiVAE, x_characteristics: Any, x_rest: Any) -> Images:
    """Images that combine the characteristics of the first images with the other latents of the second, `(B, C, H, W)`.

    The model's `characteristic` names the sites: latents, or the labels themselves (M2). If the model infers latents
    from labels (MVAE), they are inferred from the second image and the first image's labels.

    Raises:
        InputError: the model has no characteristics.
    """
    latents, labels = swapped(vae, x_characteristics, x_rest)
    return decode(vae, latents, labels)


@task
def swapped(vae: SemiVAE, x_characteristics: Any, x_rest: Any) -> tuple[Latents, Labels]:
    """The latents and labels that `swap` decodes, without the latents that it samples anew."""
    check_available(vae, "swap")
    values, of_rest = vae.inputs(x_characteristics), vae.inputs(x_rest)
    sizes = [num_rows(vae, part) for part in (values, of_rest)]
    if sizes[0] != sizes[1]:
        raise InputError(f"x_characteristics, x_rest: got {sizes} rows; expected the same number of each")
    of_x = covariates(vae, of_rest)
    if infers_from_labels(vae):
        y = vae.labels.most_probable(classify(vae, x_characteristics, mean=True))
        latents, labels = infer_from_inputs(vae, vae.inputs({**vae.by_site(of_rest), vae.label_sites[0]: y}))
        return latents, {**labels, **of_x}
    (characteristics, y), (rest, y_rest) = infer_from_inputs(vae, values), infer_from_inputs(vae, of_rest)
    named = set(vae.characteristic or vae.label_sites)
    labels = {name: (y if name in named or not named & set(y) else y_rest)[name] for name in y}
    if not named & set(rest):  # the characteristics are labels: their descendants are sampled anew
        redrawn = descendants(vae, named & set(vae.label_sites), kept=set(vae.label_sites) - named)
        return {name: z for name, z in rest.items() if name not in redrawn}, {**labels, **of_x}
    return {name: (characteristics if name in named else rest)[name] for name in rest}, {**labels, **of_x}


@task
def traverse(vae: SemiVAE, x: Tensor, site: str, index: int, values: Tensor) -> Tensor:
    """Images along one coordinate of one latent, with the others kept, `(T, B, C, H, W)`; see `walk`.

    Args:
        site, index: the latent and its coordinate. values: `(T,)`, the values of the coordinate.

    Raises:
        InputError: there is no such site or coordinate; `values` has another shape.
    """
    values = as_tensor("values", values)
    if values.dim() != 1:
        raise InputError(f"values: got shape {tuple(values.shape)}; expected (T,)")
    return walk(vae, x, site, (index,), values.unsqueeze(-1))


@task
def walk(vae: SemiVAE, x: Tensor, site: str, indices: Sequence[int], values: Tensor) -> Tensor:
    """Images with several coordinates of one latent set and the others kept; latents below it take their means.

    Args:
        site, indices: the latent and n of its coordinates, each once.
        values: `(T, n)`, the values of the coordinates, T >= 1.

    Returns `(T, B, C, H, W)`.

    Raises:
        InputError: there is no such site or coordinate; `values` has another shape, or is not finite.
    """
    rows = vae.inputs(x)
    latents, labels = infer_from_inputs(vae, rows)
    y = {**labels, **covariates(vae, rows)}
    if site not in latents:
        raise InputError(f"site: got {site!r}; expected {', '.join(map(repr, latents))}")
    size = latents[site].shape[-1]
    whole = all(isinstance(index, Integral) and -size <= index < size for index in indices)
    if not whole or len({index % size for index in indices}) < len(indices):
        accepted = f"0 to {size - 1} for site {site!r}, each once" if size else f"none: site {site!r} is empty"
        raise InputError(f"indices: got {tuple(indices)}; expected {accepted}")
    values = as_tensor("values", values)
    if values.dim() != 2 or values.shape[1] != len(indices) or not len(values) or not values.isfinite().all():
        raise InputError(
            f"values: got shape {tuple(values.shape)}; expected finite numbers (T, {len(indices)}), T >= 1"
        )
    out, below = [], descendants(vae, [site])
    kept = {name: z for name, z in latents.items() if name not in below}
    for point in values:
        z = latents[site].clone()
        z[..., list(indices)] = point.to(z)
        with Mean():
            out.append(decode(vae, {**kept, site: z}, y))
    return stacked(out)


@task
def interpolate(vae: SemiVAE, y: Tensor, steps: int = 8) -> Tensor:
    """Images on the polytope between the prior means of four labels, `(steps, steps, C, H, W)` (CCVAE, D.6).

    Args:
        y: four labels, for the corners [top left, top right, bottom left, bottom right].

    The characteristic latents are interpolated linearly; the other latents stay at their prior means.

    Raises:
        InputError: the model has no latents below its labels; there are not four labels; `steps` is not a positive
            integer.
    """
    check_available(vae, "interpolate")
    check_count("steps", steps)
    y = vae.labels.validate(y)
    if len(y) != 4:
        raise InputError(f"y: got {len(y)} labels; expected the four corners' labels")
    with Mean():
        trace = run_model(vae, {}, y, 4)
    latents = latents_of(vae, trace)
    t = torch.linspace(0, 1, steps, device=y.device)
    row, column = (axis.reshape(-1) for axis in torch.meshgrid(t, t, indexing="ij"))
    corners = torch.stack([(1 - row) * (1 - column), (1 - row) * column, row * (1 - column), row * column], -1)
    points = {name: corners.to(z) @ z.reshape(4, -1) for name, z in latents.items()}
    points = {name: z.reshape(len(corners), *latents[name].shape[1:]) for name, z in points.items()}
    return decode(vae, points).unflatten(0, (steps, steps))


class _Redraw(Messenger):
    """Samples sites anew where a label above them was set, and keeps their inferred values elsewhere.

    Args:
        inferred: site -> its inferred value, and for each label above it a mask, `(B,)` or `(B, L)`, of where the
            label was set.
    """

    def __init__(self, inferred: dict[str, tuple[Tensor, dict[str, Tensor]]]):
        super().__init__()
        self.inferred = inferred

    def _pyro_sample(self, msg) -> None:
        if msg["name"] in self.inferred:
            value, masks = self.inferred[msg["name"]]
            batch, anywhere = msg["fn"].batch_shape, False
            plates = {frame.name for frame in msg["cond_indep_stack"]}
            for label, mask in masks.items():
                if mask.dim() == 1:  # a label without entries
                    mask = mask.reshape(-1, *(1,) * (len(batch) - 1))
                elif f"entries of {label}" not in plates:  # outside this plate a site depends on all entries
                    mask = mask.any(1, keepdim=True)
                anywhere = mask | anywhere
            msg["value"] = where_rows(anywhere.expand(batch), msg["fn"].sample(), value)
            msg["done"] = True
