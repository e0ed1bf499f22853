"""Metrics and figures for several binary labels: CCVAE's Tables 1 and 2, and its figures of faces."""

from __future__ import annotations

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
from pyro_semivae.plot import image_grid, latents_by_label, training_curves
from pyro_semivae.report.common import elbo_per_example, missing_labels
from pyro_semivae.streams import RandomStreams
from pyro_semivae.train import History


def measure_attributes(
    vae: SemiVAE,
    data: ImageData,
    *,
    corrupt: Callable[[Tensor], Tensor] | None = None,
    quick: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Computes metrics for binary labels. Missing labels (NaN) are left out.

    Args:
        vae, data, corrupt, quick, seed: see `measure_classes`.

    Returns `elbo_per_example` (M2's is relaxed, and not a bound); `test_accuracy` (mean over labels, by
    E_q(z|x)[q(y|z)], with the guide as trained), `test_accuracy_clean`, `test_accuracy_mean`,
    `test_accuracy_per_label` and `test_accuracy_balanced` (on and off have the same weight); `generation_accuracy` (for
    images sampled with the test set's labels), also `_balanced` and `_per_label`; `majority_accuracy` (of predicting
    each label's more frequent value); `mutual_information` for the generated images and `mutual_information_real` for
    the test images; `frechet_distance` between the two (in the independent classifier's features, not the FID);
    `swap_difference`; `intervention_condition_number`, `intervention_selectivity` and `intervention_matrix` (row: the
    label whose probability changes; column: the label switched); if the data have strengths, `characteristic_capture`
    (mean held-out R^2, from the latents of training images) and `characteristic_capture_per_label` (R^2 from the
    label's own latent, by ridge and by non-linear regression); `evaluator_accuracy`; and `test_labels_missing`, if any
    are.
    """
    device = next(vae.parameters()).device
    x, y = data.x_test.to(device), data.y_test.to(device)
    evaluator, evaluator_accuracy = evaluators.independent_classifier(data, device=device, steps=20 if quick else 900)
    few = slice(0, 50 if quick else 500)
    with RandomStreams(seed, device):  # the order matters: each step continues the random stream of the previous one
        generation, images = _generated(vae, evaluator, y)
        probs = _classified(vae, x, corrupt)
        swap = partial(tasks.in_batches, partial(tasks.swap, vae))
        swap_difference = metrics.swap_difference(swap, evaluator.logits, x, y, num_partners=1 if quick else 5)
        interventions = _of_interventions(vae, evaluator, x[few], y[few])
        elbo = elbo_per_example(vae, x)
        rows = torch.randperm(len(data.x))[: 1000 if quick else 10_000]
    posterior = evaluators.independent_posterior(data, evaluator, num_rows=10_000, steps=5 if quick else 300)
    out = {
        "elbo_per_example": elbo,
        **_accuracies(probs, y, data.label_names),
        "generation_accuracy": generation,
        **_of_generations(evaluator.classify(images), y, data.label_names),
        "majority_accuracy": _accuracy((y.nanmean(0) > 0.5).double().expand_as(y), y),
        "mutual_information": metrics.image_mutual_information(images, evaluator.embed, posterior),
        "mutual_information_real": metrics.image_mutual_information(x, evaluator.embed, posterior),
        "frechet_distance": metrics.frechet_distance(evaluator.embed(images), evaluator.embed(x)),
        "swap_difference": swap_difference,
        **interventions,
        "evaluator_accuracy": evaluator_accuracy,
    }
    if data.strengths is not None:
        out |= _captured(vae, data.x[rows].to(device), data.strengths[rows], data.label_names)
    return out | missing_labels(y)


def _generated(vae: SemiVAE, evaluator: evaluators.ImageClassifier, y: Tensor) -> tuple[float, Tensor]:
    """Generates images with labels `y`; returns their generation accuracy and the images, uint8."""
    generate = partial(tasks.in_batches, lambda y: _to_bytes(tasks.generate(vae, y)[0]))
    return metrics.generation_accuracy(generate, evaluator.classify, y)


def _classified(vae: SemiVAE, x: Tensor, corrupt: Callable[[Tensor], Tensor] | None) -> dict[str, Tensor]:
    """q(y|x) for images, `(N, L)`: with the guide as trained (""), without its input noise, at the posterior mean."""
    hows = {"": {"corrupt": corrupt}, "_clean": {}, "_mean": {"mean": True}}
    return {name: tasks.in_batches(partial(tasks.classify, vae, **how), x) for name, how in hows.items()}


def _accuracy(probs: Tensor, y: Tensor) -> float:
    """The accuracy, averaged over labels."""
    return metrics.label_accuracy(probs, y).nanmean().item()


def _accuracies(probs: dict[str, Tensor], y: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """The test accuracies, from the result of `_classified`."""
    return {
        **{f"test_accuracy{how}": _accuracy(part, y) for how, part in probs.items()},
        "test_accuracy_balanced": metrics.balanced_label_accuracy(probs[""], y).nanmean().item(),
        "test_accuracy_per_label": _per_label(probs[""], y, names),
    }


def _of_generations(classified: Tensor, y: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Further generation accuracies, from the independent classifier's output on images generated with labels `y`."""
    return {
        "generation_accuracy_balanced": metrics.balanced_label_accuracy(classified, y).nanmean().item(),
        "generation_accuracy_per_label": _per_label(classified, y, names),
    }


def _per_label(probs: Tensor, y: Tensor, names: Sequence[str]) -> dict[str, float]:
    return dict(zip(names, metrics.label_accuracy(probs, y).tolist(), strict=True))


def _of_interventions(vae: SemiVAE, evaluator: evaluators.ImageClassifier, x: Tensor, y: Tensor) -> dict[str, Any]:
    """The intervention matrix and the metrics computed from it."""
    intervene, reconstruct = (lambda x, y: tasks.intervene(vae, x, y)[0]), partial(tasks.reconstruct, vae)
    matrix = metrics.intervention_matrix(intervene, reconstruct, evaluator.logits, x, y)
    return {
        "intervention_condition_number": metrics.condition_number(matrix),
        "intervention_selectivity": metrics.selectivity(matrix),
        "intervention_matrix": [[round(value, 4) for value in row] for row in matrix.tolist()],
    }


def _captured(vae: SemiVAE, x: Tensor, strengths: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """How well each label's strength is predicted from the latents of images."""
    own, others = _own_and_others(vae, x)
    capture = metrics.characteristic_capture(own, others, strengths)
    both = zip(names, capture.own_linear.tolist(), capture.own_nonlinear.tolist(), strict=True)
    return {
        "characteristic_capture": capture.mean(),
        "characteristic_capture_per_label": {name: [linear, other] for name, linear, other in both},
    }


def _to_bytes(images: Tensor) -> Tensor:
    """Converts images to uint8, to save memory."""
    return (images * 255).round().to(torch.uint8)


def _own_and_others(vae: SemiVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Each label's own latent, `(N, L)`, and the other latents, `(N, D)`: posterior means.

    A label's own latent is its characteristic latent, or q(y_i = 1 | x) if the label itself is a latent (M2).
    """
    parts = [tasks.infer(vae, part) for part in x.split(500)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    own = [joined[name] for name in vae.characteristic if name in joined]
    own = torch.cat(own, -1) if own else tasks.in_batches(partial(tasks.classify, vae), x)
    others = [value.flatten(1) for name, value in joined.items() if name not in vae.characteristic]
    return own, torch.cat([own.new_empty(len(x), 0), *others], 1)


# The labels in the papers' figures of walks and of diversity; those in the data set are drawn.
WALKS = (("Pale_Skin", "Young"), ("Smiling", "Wearing_Necktie"), ("Cardiomegaly", "Pleural Effusion"))
VARIED = ("Bangs", "Eyeglasses", "Pale_Skin", "Smiling", "Wearing_Necktie", "Blond_Hair")


def draw_attributes(vae: SemiVAE, data: ImageData, history: History, out: str | Path, *, seed: int = 0) -> None:
    """Writes the papers' figures for data with several binary labels as PNG files into `out`.

    `interventions` (each label of a face switched; CCVAE Fig. 11), `walks` (two characteristics on a grid; Fig. 3),
    `diversity` (samples with one label on, and each pixel's standard deviation in green; Figs. 4 and 5), `swaps` (the
    characteristics from the row's face, the rest from the column's; Fig. 7), `generations` (samples for the labels of a
    test face), `latents` (each label's own latent, or its probability if the label itself is a latent, for up to 2,000
    test images, by the label's value) and `training`.
    """
    device, out = next(vae.parameters()).device, writable_folder(out, "out")
    names = data.label_names
    with RandomStreams(seed, device):
        x, y = vae.images(data.x_test[:8].to(device)), data.y_test[:8].to(device)
        _draw_interventions(vae, x, y, names, out)
        if len(names) > 1 and vae.characteristic[0] in tasks.infer(vae, x[:1]):  # M2 has no latent to walk along
            _draw_walks(vae, x, names, out)
        _draw_diversity(vae, x, names, out)
        swapped = torch.stack([tasks.swap(vae, x[i : i + 1].expand_as(x), x) for i in range(len(x))])
        swapped = torch.cat([x.unsqueeze(1), swapped], 1)
        top = torch.cat([torch.ones_like(x[:1]), x]).unsqueeze(0)
        title = "characteristics from the row's image, the rest from the column's"
        image_grid(torch.cat([top, swapped]), title=title, path=out / "swaps.png")
        drawn = torch.cat([x.unsqueeze(1), tasks.generate(vae, y, 7).transpose(0, 1)], 1)
        title = "x, and samples of p(x | y) for its labels"
        image_grid(drawn, title=title, path=out / "generations.png")
        own, _ = _own_and_others(vae, data.x_test[:2000].to(device))
        if own.shape[1] == len(names):
            title = "each label's own latent (or probability), for test images where the label is off and on"
            latents_by_label(own, data.y_test[:2000], names, title=title, path=out / "latents.png")
    training_curves(history, path=out / "training.png")


def _draw_interventions(vae: SemiVAE, x: Tensor, y: Tensor, names: Sequence[str], out: Path) -> None:
    columns = [x, tasks.reconstruct(vae, x)]
    for c in range(y.shape[1]):
        switched = torch.full_like(y, torch.nan)
        switched[:, c] = 1 - y[:, c]
        columns.append(tasks.intervene(vae, x, switched)[0])
    image_grid(
        torch.stack(columns, 1),
        columns=["x", "reconstruction", *names],
        title="interventions: the column's label switched, the rest kept",
        path=out / "interventions.png",
    )


def _draw_walks(vae: SemiVAE, x: Tensor, names: Sequence[str], out: Path, steps: int = 6) -> None:
    """Pairs of labels, each from the prior mean for off minus one standard deviation to that for on plus one."""
    pairs = [pair for pair in WALKS if set(pair) <= set(names)] or [tuple(names[:2])]
    rows = []
    for pair in pairs:
        indices = [names.index(name) for name in pair]
        y = torch.arange(2, device=x.device)[:, None].expand(2, len(names)).to(x)  # all off, all on
        prior = tasks.prior_of_characteristics(vae, y)  # (2, L) means and scales
        low, high = (prior[0][k, indices] + side * prior[1][k, indices] for k, side in ((0, -1), (1, 1)))
        t = torch.linspace(0, 1, steps, device=x.device)
        grid = torch.cartesian_prod(t, t)  # (steps^2, 2)
        images = tasks.walk(vae, x[:3], vae.characteristic[0], indices, low + grid * (high - low))
        rows += list(images.unflatten(0, (steps, steps)).permute(2, 0, 1, 3, 4, 5))
    grids = torch.stack(rows).unflatten(0, (len(pairs), 3))  # (pairs, faces, steps, steps, C, H, W)
    tiled = grids.permute(0, 2, 1, 3, 4, 5, 6).flatten(2, 3).flatten(0, 1)
    title = "; ".join(f"{a} down, {b} right" for a, b in pairs)
    image_grid(tiled, title=f"walks: {title}", path=out / "walks.png")


def _draw_diversity(vae: SemiVAE, x: Tensor, names: Sequence[str], out: Path, draws: int = 6) -> None:
    """Draws samples and variance maps; all maps share a scale relative to the largest value, stated in the title."""
    varied = [name for name in VARIED if name in names] or list(names[:6])
    rows, maps = [], []
    for i, name in enumerate(varied):
        y = torch.full((1, len(names)), torch.nan, device=x.device)
        y[:, names.index(name)] = 1
        face = x[i % len(x)].unsqueeze(0)
        images = tasks.intervene(vae, face, y, 40)[:, 0]  # (40, C, H, W)
        maps.append(images.var(0).sum(0))
        rows.append(torch.stack([tasks.reconstruct(vae, face)[0], *images[:draws]]))
    variances, shown = torch.stack(maps), torch.stack(rows).expand(-1, -1, 3, -1, -1)  # grey images become RGB
    largest = variances.max().clamp(min=1e-12)
    overlay = 0.7 * shown[:, 0].mean(1, keepdim=True).repeat(1, 3, 1, 1)
    overlay[:, 1] += (variances / largest).sqrt()
    shown = torch.cat([shown, overlay.clamp(0, 1).unsqueeze(1)], 1)
    columns = ["reconstruction", *[f"sample {k + 1}" for k in range(draws)], "deviation"]
    title = f"the row's label on; green: a pixel's standard deviation, up to {largest.sqrt():.2g}"
    image_grid(shown, rows=varied, columns=columns, title=title, path=out / "diversity.png")
