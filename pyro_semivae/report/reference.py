"""Metrics and figures for models that learn target factors from reference images: Ruiz et al. 2019, Table 1 and Fig. 2,
and metrics for results that the paper only shows as figures."""

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
RIDGE = 10.0  # penalty of the regression on pixels, whose number is similar to that of the images
LEAST_KL = 2.0  # nats; below this KL the common factors carry hardly any information


@torch.no_grad()
def measure_reference(
    vae: SemiVAE, data: ReferenceData, *, seed: int = 0, quick: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Evaluates how well the target factors are predicted from their latents, and transferred between images.

    Features are the means of q(e | x), where e is `vae.characteristic`, or all latents if the model has none. Linear
    regressions are fitted on the probing images and evaluated on the test images.

    Args:
        quick: a quick end-to-end check, with few training steps of the probe. seed: of the pairs of images.

    Returns `elbo_per_example`, `vae.elbo()` on test images; `kl_common`, `kl_target` and `kl_common_reference`, the
    KL(q || p) of the common and the target factors on unlabelled images, and of the common factors on references, in
    nats; and

    - for numeric factors: `mean_absolute_error` (Table 1, from e) and `error_<factor>`; `mean_absolute_error_all`, from
      all latents; `style_from_common`, the error of the first factor (a digit's scale) predicted from the common
      factors, and `error_from_common_<factor>`; and errors without any model, `error_median` (of the median),
      `error_pixels` (ridge regression) and `error_components` (linear regression on 32 principal components);
    - for target factors with classes: `attribute_from_target`, the accuracy of a logistic regression, averaged over
      classes (Table 1 for AffectNet), `attribute_from_target_<class>`, and the same `from_common`;
    - for the class of the remaining content: `class_from_target` and `class_from_common`, the accuracy over all images;
    - for transfer, on images with the common factors of B and the target factors of A: `transfer_error` and
      `transfer_error_<factor>`, the errors of the factors predicted by an independent probe from A's factors;
      `transfer_attribute` and `digit_kept`, how often the probe predicts A's attribute and B's class. `probe_error`,
      `probe_attribute` and `probe_accuracy` are the probe's own on test images.

    For models without separate target factors there are no transfer metrics.
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
    """KL(q || p) of the latents on up to `number` unlabelled and reference images, in nats; see `measure_reference`."""
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
    """The guide's means, `(N, D)` for each latent, with the images treated as unlabelled."""
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
    """Baseline errors without a model: the median, linear regression on pixels and on principal components."""
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
    """The accuracies of logistic regressions from latents to the class and the attribute of test images."""
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
    """Warnings if the common factors of references are unused, or a discriminator is at chance or nearly perfect.

    Args:
        measured: the result of `measure_reference` or `divergences`. history: the result of `fit`; its last entry is
            checked.
    """
    notes = []
    if (kl := measured.get("kl_common_reference", math.inf)) < LEAST_KL:
        notes.append(
            f"KL of the common factors on reference images is {kl:.2f} nats: their reconstruction ignores the image. "
            f"Try more scales in the reconstruction term (the median of thin lines is black), or a warm-up of beta"
        )
    last = history[-1] if history else {}
    for name, loss in ((n, v) for n, v in last.items() if n.startswith("monitor/loss of d(")):
        if abs(loss - 2 * math.log(2)) < 0.03:
            notes.append(f"the {name.removeprefix('monitor/')} is {loss:.2f}, 2 log 2: the discriminator is at chance")
        if loss < 0.1:
            notes.append(
                f"the {name.removeprefix('monitor/')} is {loss:.2f}: the discriminator is nearly perfect, so its "
                f"gradient is not informative. Try r1, or a larger weight of the density ratios"
            )
    return notes


@torch.no_grad()
def draw_reference(vae: SemiVAE, data: ReferenceData, history: History, out: str | Path, *, seed: int = 0) -> None:
    """Writes figures as PNGs: `transfer` (common factors from the row's image, target factors from the column's;
    Fig. 2c), `synthesis` (target factors sampled from their prior, one sample per column; Fig. 2a, b), `interpolation`
    (target factors interpolated between two images), `reconstructions` and `training`. For models without separate
    target factors, only the last two."""
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
        """Decodes the common factors of each row with each style, `(R, K, C, H, W)`."""
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
    title = "the first image with target factors from N(0, I), one sample per column"
    image_grid(body, title=title, path=out / "synthesis.png")
    t = torch.linspace(0, 1, SHOWN, device=device).unsqueeze(1).to(x)
    rows = []
    for i in range(SHOWN // 2):
        between = {name: (1 - t) * of_x[name][i] + t * of_x[name][-1 - i] for name in target}
        rows.append(mixed({name: value[i : i + 1] for name, value in of_x.items()}, between)[0])
    image_grid(torch.stack(rows), title="target factors from one image's to another's", path=out / "interpolation.png")
