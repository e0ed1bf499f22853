"""What is measured and drawn of models that learn target factors from reference images: Ruiz et al. 2019, Table 1 and
Fig. 2, and what the paper shows as pictures alone, as numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from pyro_semivae import metrics, probes, tasks
from pyro_semivae.data.reference import ReferenceData, Shown
from pyro_semivae.files import writable_folder
from pyro_semivae.infer.graph import same_term
from pyro_semivae.models import SemiVAE
from pyro_semivae.plot import image_grid, training_curves
from pyro_semivae.spaces import to_unit
from pyro_semivae.streams import RandomStreams
from pyro_semivae.train import History

SHOWN = 8  # images in a figure's row
RIDGE = 10.0  # of lines on pixels, which are as many as the images
LEAST_KL = 2.0  # nats; below it an image's common factors are as good as unused


@torch.no_grad()
def measure_reference(
    vae: SemiVAE, data: ReferenceData, *, seed: int = 0, quick: bool = False, progress: bool = True
) -> dict[str, Any]:
    """How well the target factors are read off the latents that are to have them, and moved from image to image.

    Features are the means of q(e | x), e being `vae.characteristic`, or of all latents in a model that has none. Lines
    are fitted on the probing images and measured on the test images.

    Args:
        quick: a quick end-to-end check, with few steps of the probe. seed: of the pairs of images.

    Returns `elbo_per_example`, `vae.elbo()` of test images; `kl_common`, `kl_target`, `kl_common_reference`: KL(q || p)
    of the common and the target factors of unlabelled images, and of the common factors of references, in nats. And

    - of factors that are numbers: `mean_absolute_error` (Table 1's, of e) and `error_<factor>`;
      `mean_absolute_error_all`, of all latents; `style_from_common`, the error of the first factor (a digit's scale)
      read off the common factors, and `error_from_common_<factor>`; the same without any model, `error_median`,
      `error_pixels` (ridge regression) and `error_components` (lines on 32 principal components);
    - of target factors with classes: `attribute_from_target`, the mean over classes of the accuracy of a logistic
      regression in each (Table 1's for AffectNet), `attribute_from_target_<class>`, and the same `from_common`;
    - of the class of what else is shown: `class_from_target` and `class_from_common`, the accuracy over all images;
    - transfer, of images with the common factors of B and the target factors of A: `transfer_error` and
      `transfer_error_<factor>`, how far an independent probe finds the factors from A's; `transfer_attribute`, how
      often it finds A's attribute, and `digit_kept`, B's class; `probe_error`, `probe_attribute` and `probe_accuracy`
      are the probe's own on test images.

    Without target factors of their own there is no transfer.
    """
    device = next(vae.parameters()).device
    found, found_test = _latents(vae, data.probing), _latents(vae, data.test)
    target = [name for name in found if name in vae.characteristic] or [*found]
    common = [name for name in found if name not in target]
    out = {}
    if data.factor_names:
        out |= _errors(found, found_test, target, data, "error")
        out["mean_absolute_error_all"] = _errors(found, found_test, [*found], data, "all")["mean_absolute_error"]
        out |= _anchors(data)
    if data.factor_names and common:
        of_common = _errors(found, found_test, common, data, "error_from_common")
        out["style_from_common"] = of_common[f"error_from_common_{data.factor_names[0]}"]
        out |= {name: value for name, value in of_common.items() if name != "mean_absolute_error"}
    for what, names in (("target", target), ("common", common)):
        if names:
            out |= _accuracies(found, found_test, names, data, what)
    probe = probes.independent_probe(data, steps=10 if quick else 2500, device=device, progress=progress)
    if common:
        with RandomStreams(seed, device):
            out |= _transfer(vae, data, found_test, target, common, probe)
    out |= {"probe_error": probe.errors.mean().item()} if data.factor_names else {}
    own = dict(zip(("probe_accuracy", "probe_attribute"), probe.accuracies, strict=True))
    out |= {name: value for name, value in own.items() if not math.isnan(value)}
    with RandomStreams(seed, device):
        bound = sum(_terms(vae, data.test.x, 0).values()).mean().item()
        return {"elbo_per_example": bound, **divergences(vae, data), **out}


@torch.no_grad()
def divergences(vae: SemiVAE, data: ReferenceData, number: int = 500) -> dict[str, float]:
    """KL(q || p) of the latents on up to `number` unlabelled and reference images, nats: see `measure_reference`."""
    out, target = {}, set(vae.characteristic)
    for group, end in ((0, ""), (1, "_reference")):
        values = _terms(vae, data.x[(data.y == group).nonzero()[:number, 0]], group)
        latents = [*tasks.infer(vae, data.test.x[:1])]
        for what, names in (("common", set(latents) - target), ("target", set(latents) & target)):
            if names and not (group and what == "target"):
                own = [f"{sign}({name})" for name in names for sign in ("log p", "-log q")]
                densities = [value for key, value in values.items() if any(same_term(key, name) for name in own)]
                out[f"kl_{what}{end}"] = -sum(densities).mean().item()
    return out


def _terms(vae: SemiVAE, x: Tensor, group: int) -> dict[str, Tensor]:
    """The terms of `vae.elbo()` on images of one group, `(N,)` each."""
    found = []
    for part in x.split(500):
        y = {"y": torch.full((len(part),), group)} if "y" in vae.spaces else {}
        found.append(vae.elbo().terms(vae.model, vae.guide, *vae.inputs({"x": part, **y})))
    return {name: torch.cat([terms[name] for terms in found]) for name in found[0]}


def _latents(vae: SemiVAE, images: Shown) -> dict[str, Tensor]:
    """The means of the guide, `(N, D)` each, the images taken as unlabelled ones."""
    parts = [tasks.infer(vae, x) for x in images.x.split(500)]
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def _errors(
    found: dict[str, Tensor], found_test: dict[str, Tensor], names: list[str], data: ReferenceData, what: str
) -> dict[str, float]:
    features, features_test = (torch.cat([of[name] for name in names], 1) for of in (found, found_test))
    errors = metrics.linear_errors(features, data.probing.factors, features_test, data.test.factors)
    each = {f"{what}_{name}": error.item() for name, error in zip(data.factor_names, errors, strict=True)}
    return {"mean_absolute_error": errors.mean().item(), **each}


def _anchors(data: ReferenceData) -> dict[str, float]:
    """The errors without a model."""
    factors, factors_test = data.probing.factors, data.test.factors
    pixels = tuple(to_unit(part.x).flatten(1) for part in (data.probing, data.test))
    components = metrics.principal_components(*pixels)
    found = {"median": metrics.median_errors(factors, factors_test)}
    for name, (x, x_test), ridge in (("pixels", pixels, RIDGE), ("components", components, 0.0)):
        found[name] = metrics.linear_errors(x, factors, x_test, factors_test, ridge=ridge)
    return {f"error_{name}": errors.mean().item() for name, errors in found.items()}


def _accuracies(
    found: dict[str, Tensor], found_test: dict[str, Tensor], names: list[str], data: ReferenceData, what: str
) -> dict[str, float]:
    """How often a logistic regression of latents finds the class, and the attribute, of test images."""
    features, features_test = (torch.cat([of[name] for name in names], 1).numpy() for of in (found, found_test))

    def right(values: Tensor, values_test: Tensor) -> Tensor:
        regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(features, values.numpy())
        return (torch.from_numpy(regression.predict(features_test)) == values_test).double()

    out = {}
    if data.class_names:
        out[f"class_from_{what}"] = right(data.probing.classes, data.test.classes).mean().item()
    if data.attribute_names:
        values = data.test.attributes
        found_right = right(data.probing.attributes, values)
        each = {data.attribute_names[i]: found_right[values == i].mean().item() for i in values.unique().tolist()}
        out[f"attribute_from_{what}"] = sum(each.values()) / len(each)
        out |= {f"attribute_from_{what}_{name.replace(' ', '_')}": value for name, value in each.items()}
    return out


def _transfer(
    vae: SemiVAE,
    data: ReferenceData,
    found: dict[str, Tensor],
    target: list[str],
    common: list[str],
    probe: probes.Probe,
) -> dict[str, float]:
    number, device = len(data.test), next(vae.parameters()).device
    a, b = torch.randperm(number), torch.arange(number)
    mixed = {**{name: found[name][a] for name in target}, **{name: found[name][b] for name in common}}
    images = [
        tasks.decode(vae, {name: value[rows].to(device) for name, value in mixed.items()}) for rows in b.split(500)
    ]
    images = torch.cat(images)
    test, out = data.test, {}
    if data.factor_names:
        errors = (probe.factors(images).cpu() - test.factors[a]).abs().mean(0)
        each = {f"transfer_error_{name}": error.item() for name, error in zip(data.factor_names, errors, strict=True)}
        out |= {"transfer_error": errors.mean().item(), **each}
    if data.attribute_names:
        out["transfer_attribute"] = (probe.attributes(images).cpu() == test.attributes[a]).double().mean().item()
    if data.class_names:
        out["digit_kept"] = (probe.classes(images).cpu() == test.classes[b]).double().mean().item()
    return out


def signs_of_collapse(measured: dict[str, Any], history: History = ()) -> list[str]:
    """Whether references are drawn without their common factors, or discriminators tell nothing or everything.

    Args:
        measured: by `measure_reference` or `divergences`. history: of `fit`; its last line is looked at.
    """
    notes = []
    if (kl := measured.get("kl_common_reference", math.inf)) < LEAST_KL:
        notes.append(
            f"KL of the common factors on reference images is {kl:.2f} nats: their reconstruction ignores the image. "
            f"Try more scales of the reconstruction (thin lines are black in the median), or a warm-up of beta"
        )
    last = history[-1] if history else {}
    for name, loss in ((n, v) for n, v in last.items() if n.startswith("monitor/loss of d(")):
        if abs(loss - 2 * math.log(2)) < 0.03:
            notes.append(f"the {name.removeprefix('monitor/')} is {loss:.2f}, 2 log 2: the discriminator tells nothing")
        if loss < 0.1:
            notes.append(
                f"the {name.removeprefix('monitor/')} is {loss:.2f}: the discriminator tells everything, and teaches "
                f"nothing. Try r1, or a larger weight of the density ratios"
            )
    return notes


@torch.no_grad()
def draw_reference(vae: SemiVAE, data: ReferenceData, history: History, out: str | Path, *, seed: int = 0) -> None:
    """`transfer` (the common factors of a row's image, the target factors of a column's; Fig. 2c), `synthesis` (target
    factors from their prior, the same down a column; Fig. 2a, b), `interpolation` (target factors between two images'),
    `reconstructions` and `training`, as PNGs. Of a model without target factors of its own: the last two."""
    out, device = writable_folder(out, "out"), next(vae.parameters()).device
    x = vae.images(data.test.x[:SHOWN])
    reference = vae.images(data.x[(data.y == 1).nonzero()[:SHOWN, 0]])
    given = {} if "y" not in vae.spaces else {"y": torch.ones(len(reference), dtype=torch.long)}
    of_x, of_reference = tasks.infer(vae, x), tasks.infer(vae, {"x": reference, **given} if given else reference)
    rows = [x, tasks.decode(vae, of_x), reference, tasks.decode(vae, of_reference)]
    names = ["unlabelled", "reconstruction", "reference", "reconstruction"]
    image_grid(torch.stack(rows), rows=names, path=out / "reconstructions.png")
    training_curves(history, path=out / "training.png")
    if not vae.characteristic:
        return
    target = [name for name in of_x if name in vae.characteristic]

    def mixed(common: dict[str, Tensor], style: dict[str, Tensor]) -> Tensor:
        """The common factors of each row with each style, `(R, K, C, H, W)`."""
        r, k = (len(next(iter(of.values()))) for of in (common, style))
        pairs = {
            name: (style[name].repeat(r, 1) if name in target else value.repeat_interleave(k, 0))
            for name, value in common.items()
        }
        return tasks.decode(vae, pairs).unflatten(0, (r, k))

    blank = torch.ones_like(x[:1])
    of_style = {name: of_x[name] for name in target}
    head = torch.cat([blank, x])
    body = torch.cat([x.unsqueeze(1), mixed(of_x, of_style)], 1)
    title = "the row's image with the target factors of the column's"
    image_grid(torch.cat([head.unsqueeze(0), body]), title=title, path=out / "transfer.png")
    rows = []
    with RandomStreams(seed, device):
        drawn = {name: torch.randn(SHOWN, of_x[name].shape[1], device=device).to(of_x[name]) for name in target}
    both = {name: torch.cat([of_x[name][:4], of_reference[name][:4]]) for name in of_x}
    body = torch.cat([torch.cat([x[:4], reference[:4]]).unsqueeze(1), mixed(both, drawn)], 1)
    title = "the first image with target factors from N(0, I), the same down a column"
    image_grid(body, title=title, path=out / "synthesis.png")
    t = torch.linspace(0, 1, SHOWN, device=device).unsqueeze(1).to(x)
    rows = []
    for i in range(SHOWN // 2):
        between = {name: (1 - t) * of_x[name][i] + t * of_x[name][-1 - i] for name in target}
        rows.append(mixed({name: value[i : i + 1] for name, value in of_x.items()}, between)[0])
    image_grid(torch.stack(rows), title="target factors from one image's to another's", path=out / "interpolation.png")
