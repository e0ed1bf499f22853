"""Metrics and figures for class labels: CCVAE's Tables 6 and 7, and its figures of digits and garments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_semivae import evaluators, metrics, tasks
from pyro_semivae.data import ImageData
from pyro_semivae.files import writable_folder
from pyro_semivae.models import SemiVAE
from pyro_semivae.plot import confusion_matrix, image_grid, latents_by_class, training_curves
from pyro_semivae.report.common import elbo_per_example, missing_labels, shown_latents
from pyro_semivae.spaces import is_missing
from pyro_semivae.streams import RandomStreams
from pyro_semivae.structure import descendants
from pyro_semivae.train import History


def measure_classes(
    vae: SemiVAE,
    data: ImageData,
    *,
    corrupt: Callable[[Tensor], Tensor] | None = None,
    quick: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Computes accuracies of q(y | x) on the test set, and metrics of generated images by an independent classifier.

    Missing labels (-1) are left out everywhere.

    Args:
        vae: a trained model, on the device to compute on. data: the data set.
        corrupt: the noise with which the guide was trained, if any.
        quick: a quick end-to-end check, with few steps and samples.
        seed: of the sampling. The independent classifier is the same for every seed.

    Returns `elbo_per_example` (`vae.elbo()` without labels, all weights 1, in nats per test image, with one sample of z
    each); `test_accuracy` (arg max of E_q(z|x)[q(y|z)], 100 samples, with the guide as trained), `test_accuracy_clean`
    (the same without noise) and `test_accuracy_mean` (the same at the posterior mean); `generation_accuracy` (by the
    independent classifier, on 200 images per class); `swap_difference` (nats, see `metrics.swap_difference`);
    `intervention_accuracy` (how often the classifier predicts the class that was set; 1000 images, each set to every
    other class) and `intervention_precision` (like `generation_precision`, on 200 of these images per class set,
    because a classifier may be confident about unrealistic images); `mutual_information` for the generated images and
    `mutual_information_real` for test images (nats); `evaluator_accuracy` (of the independent classifier on the test
    set); and `test_labels_missing`, if any are.

    Metrics of the diversity within a class, compared with the same number of test images: `generation_variance_share`,
    `generation_precision` and `generation_recall` (means over classes; see `metrics.variance_share` and
    `metrics.precision_recall`, the latter in the independent classifier's features), and `generation_per_class` (the
    three for each class). Metrics of what interventions keep: `kept`, for each of `metrics.image_statistics` (see
    `metrics.kept`); `kept_by_fresh_samples` (the same with generated images of the new class instead of interventions,
    as a reference for keeping nothing); and, if the model has latents that interventions keep, `rest_explained` (see
    `metrics.rest_explained`).
    """
    device, names = next(vae.parameters()).device, data.label_names
    x, y = data.x_test.to(device), data.labels.validate(data.y_test, "y_test").to(device)
    evaluator, evaluator_accuracy = evaluators.independent_classifier(data, device=device, steps=20 if quick else 900)
    few = (~is_missing(y)).nonzero()[: 100 if quick else 1000, 0]
    with RandomStreams(seed, device):
        labels = torch.arange(len(names), device=device).repeat(10 if quick else 200)
        generation, images = metrics.generation_accuracy(
            lambda y: tasks.generate(vae, y)[0], evaluator.classify, labels
        )
        hows = ({"corrupt": corrupt}, {}, {"mean": True})
        sampled, clean, mean = (tasks.in_batches(partial(tasks.classify, vae, **how), x) for how in hows)
        elbo = elbo_per_example(vae, x)
        swap = partial(tasks.in_batches, partial(tasks.swap, vae))
        swap_difference = metrics.swap_difference(swap, evaluator.logits, x, y, num_partners=1)
        intervene = partial(tasks.in_batches, lambda x, y: tasks.intervene(vae, x, y)[0])
        changed: list[dict[str, Tensor]] = []  # the statistics of all interventions, class by class
        seen: list[Tensor] = []  # the features of as many interventions per class as there are generated images

        def classified(results: Tensor) -> Tensor:
            changed.append(metrics.image_statistics(results))
            seen.append(evaluator.embed(results[: 10 if quick else 200]))
            return evaluator.classify(results)

        of_interventions = metrics.intervention_accuracy(intervene, classified, x[few], y[few], len(names))
        kept = _kept(vae, x[few], y[few], changed, metrics.image_statistics(images), labels)
    posterior = evaluators.independent_posterior(data, evaluator, steps=5 if quick else 300)
    share = metrics.variance_share(x, y, images, labels, len(names))
    rows = torch.cat([(y == c).nonzero()[: int((labels == c).sum()), 0] for c in labels.unique()])
    embedded = evaluator.embed(x[rows]), y[rows], evaluator.embed(images), labels
    precision, recall = metrics.class_precision_recall(*embedded, len(names))
    set_to = metrics.intervention_pairs(y[few], len(names))[1].unique()
    of_set = [c.expand(len(part)) for c, part in zip(set_to, seen, strict=True)]
    interventions = (torch.cat(seen), torch.cat(of_set)) if seen else (embedded[0][:0], labels[:0])
    faithful, _ = metrics.class_precision_recall(*embedded[:2], *interventions, len(names))
    return {
        "elbo_per_example": elbo,
        "test_accuracy": metrics.accuracy(sampled, y),
        "test_accuracy_clean": metrics.accuracy(clean, y),
        "test_accuracy_mean": metrics.accuracy(mean, y),
        "generation_accuracy": generation,
        "generation_variance_share": share.nanmean().item(),
        "generation_precision": precision.nanmean().item(),
        "generation_recall": recall.nanmean().item(),
        "generation_per_class": {
            name: {"variance_share": v, "precision": p, "recall": r}
            for name, v, p, r in zip(names, share.tolist(), precision.tolist(), recall.tolist(), strict=True)
        },
        "swap_difference": swap_difference,
        "intervention_accuracy": of_interventions,
        "intervention_precision": faithful.nanmean().item(),
        **kept,
        "mutual_information": metrics.image_mutual_information(images, evaluator.embed, posterior),
        "mutual_information_real": metrics.image_mutual_information(x[:2000], evaluator.embed, posterior),
        "evaluator_accuracy": evaluator_accuracy,
        **missing_labels(y),
    }


def sign_of_chance(measured: dict[str, Any], num_classes: int) -> str:
    """A warning if generated images hardly depend on the label, as measured by a sufficiently good evaluator; else "".

    Args:
        measured: the result of `measure_classes`; for the results of other functions the string is empty.
    """
    if "intervention_precision" not in measured or num_classes < 3:
        return ""
    right, chance = measured["generation_accuracy"], 1 / num_classes
    if right > 2 * chance or not measured["evaluator_accuracy"] > 3 * chance:
        return ""
    return (
        f"the evaluator finds the class of {right:.2f} of the generated images, and chance is {chance:.2f}: images do "
        f"not depend on the label. Try more epochs, or a larger classifier_weight"
    )


def _kept(
    vae: SemiVAE,
    x: Tensor,
    y: Tensor,
    changed: Sequence[dict[str, Tensor]],
    generated: dict[str, Tensor],
    labels: Tensor,
) -> dict[str, dict[str, float]]:
    """`kept`, `kept_by_fresh_samples` and `rest_explained`, see `measure_classes`.

    Args:
        x, y: images and their classes, all known. changed: statistics of the interventions, in the order of
            `metrics.intervention_pairs`, class by class; empty if no class is known. generated: statistics of the
            images generated with `labels`.
    """
    if not changed:
        nothing = dict.fromkeys(generated, math.nan)
        return {"kept": nothing, "kept_by_fresh_samples": nothing}
    rows, set_to = metrics.intervention_pairs(y, vae.labels.num_classes)
    before = {name: value[rows] for name, value in metrics.image_statistics(vae.images(x)).items()}
    after = {name: torch.cat([part[name] for part in changed]) for name in before}
    fresh = torch.empty_like(set_to)  # for each intervention, the index of a generated image of the same class
    for c in labels.unique():
        choice = torch.randint(int((labels == c).sum()), (int((set_to == c).sum()),)).to(labels.device)
        fresh[set_to == c] = (labels == c).nonzero()[choice, 0]
    out = {
        "kept": metrics.kept(before, after, y[rows], set_to),
        "kept_by_fresh_samples": metrics.kept(
            before, {name: value[fresh] for name, value in generated.items()}, y[rows], set_to
        ),
    }
    rest = _rest(vae, x)
    if rest.shape[1]:
        out["rest_explained"] = metrics.rest_explained(rest, after, y[rows], set_to, rows)
    return out


def _rest(vae: SemiVAE, x: Tensor) -> Tensor:
    """The posterior means of the latents that interventions keep, `(B, D)`; see `_kept_latents`."""
    parts = [_kept_latents(vae, part) for part in x.split(500)]
    joined = [torch.cat(values).flatten(1) for values in zip(*(part.values() for part in parts), strict=True)]
    return torch.cat([vae.images(x).new_empty(len(x), 0), *joined], 1)


def _kept_latents(vae: SemiVAE, x: Tensor) -> dict[str, Tensor]:
    """The latents that interventions keep, by site: the guide's means; none if labels are evidence on the latents."""
    if tasks.infers_from_labels(vae):  # all latents depend on the label then
        return {}
    varied = {*vae.characteristic, *descendants(vae)}
    return {name: z for name, z in tasks.infer(vae, x).items() if name not in varied}


# Classes between which the papers interpolate (REVAE Fig. 7, CCVAE Fig. 21), if the data set has them.
CORNERS = (("T-shirt/top", "Pullover", "Coat", "Dress"), ("5", "8", "3", "0"))


def draw_classes(vae: SemiVAE, data: ImageData, history: History, out: str | Path) -> None:
    """Writes the papers' figures for multi-class data as PNG files into `out`.

    `reconstructions`, `generations` (for each class a test image and samples, with all latents except the
    characteristic ones fixed), `interventions` (one test image per class, its label set to every class; the title
    states which latents are kept, if any), `confusion` (the classifier's confusion matrix), `latents` (the posterior
    means of up to 2,000 test images), `interpolation` (between four classes' prior means; with two or three classes
    some are repeated) and `training` (the bound's terms). If no test label is known, the first test images are used
    instead of one image per class.
    """
    device, out = next(vae.parameters()).device, writable_folder(out, "out")
    y_test = data.labels.validate(data.y_test, "y_test")
    labels = torch.arange(len(data.label_names), device=device)
    first = {c: (y_test == c).nonzero()[0, 0] for c in y_test[~is_missing(y_test)].unique().tolist()}
    rows = torch.stack([*first.values()]) if first else torch.arange(min(len(y_test), len(labels)))
    x = vae.images(data.x_test[rows])  # one test image per class
    names = [data.label_names[c] for c in first] or ["class unknown"] * len(rows)

    both = torch.stack([x, tasks.reconstruct(vae, x)])
    image_grid(both, rows=["x", "reconstruction"], columns=names, path=out / "reconstructions.png")

    kept = {name: z for name, z in _kept_latents(vae, x).items() if z.numel()}
    rest, of_rest = {name: z[:1] for name, z in kept.items()}, ", ".join(kept)
    drawn = tasks.generate(vae, labels, 8, given=rest).transpose(0, 1)
    real = torch.ones_like(drawn[:, :1])  # a test image of the class next to the samples, or blank
    for i, c in enumerate(first):
        real[c, 0] = x[i]
    image_grid(
        torch.cat([real, drawn], 1) if first else drawn,
        rows=data.label_names,
        columns=["x", *[""] * 8] if first else (),
        title=f"samples of p(x | y){f', {of_rest} fixed' if rest else ''}",
        path=out / "generations.png",
    )

    changed = [tasks.intervene(vae, x, labels[c].expand(len(x)))[0] for c in labels]
    image_grid(
        torch.stack([x, *changed], 1),
        rows=names,
        columns=["x", *data.label_names],
        title=f"y set to the column, {f'{of_rest} kept' if kept else 'no latent kept: all are resampled'}",
        path=out / "interventions.png",
    )

    some = slice(0, 2000)
    probs = tasks.in_batches(partial(tasks.classify, vae, mean=True), data.x_test[some].to(device))
    confusion = metrics.confusion(probs, y_test[some].to(device))
    if confusion.any():
        title = "test images: q(y | x) at the mean of z"
        confusion_matrix(confusion, data.label_names, title=title, path=out / "confusion.png")
    if (shown := shown_latents(vae, data.x_test[some].to(device))) and first:
        title = f"E[{shown[0]} | x] of test images, by class"
        latents_by_class(shown[1], y_test[some], data.label_names, title=title, path=out / "latents.png")
    training_curves(history, path=out / "training.png")
    if not set(vae.characteristic) <= descendants(vae):  # the label has no latents below it to interpolate
        return
    first_four = (data.label_names * 2)[:4]  # with two or three classes some are repeated
    corners = next((names for names in CORNERS if set(names) <= set(data.label_names)), first_four)
    y = torch.tensor([data.label_names.index(name) for name in corners], device=device)
    title = f"between the prior means of {', '.join(corners)}"
    image_grid(tasks.interpolate(vae, y), title=title, path=out / "interpolation.png")
