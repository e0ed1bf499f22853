"""What is measured and drawn of a trained model: the papers' numbers and figures, for class and for binary labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_semivae import metrics, tasks
from pyro_semivae.check import descendants
from pyro_semivae.data import ImageData
from pyro_semivae.labels import Binary
from pyro_semivae.models import SemiVAE
from pyro_semivae.plot import image_grid, training_curves
from pyro_semivae.train import History


def measure_classes(
    vae: SemiVAE,
    data: ImageData,
    *,
    corrupt: Callable[[Tensor], Tensor] | None = None,
    quick: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracies of q(y | x) on the test set, and what an independent classifier makes of generated images.

    Args:
        vae: a trained model, on the device to compute on. data: the data set.
        corrupt: the noise that the guide was trained with, if any.
        quick: seconds of everything, to see that it runs.
        seed: of the draws. The independent classifier is the same for every seed.

    Returns `bound_per_row` (`vae.elbo()` without labels, all weights 1, in nats per test row, one draw of z each),
    `test_accuracy` (arg max of E_q(z|x)[q(y|z)], 100 samples, q(z|x) being the guide as it was trained),
    `test_accuracy_clean` (the same, nothing corrupted), `test_accuracy_mean` (at the posterior mean, nor there),
    `generation_accuracy` (of the independent classifier, on 200 images a class), `mutual_information` of those images
    and `mutual_information_real` of test images (nats), and `judge_accuracy`, the independent classifier's own.
    """
    device = next(vae.parameters()).device
    x, y = data.x_test.to(device), data.y_test.to(device)
    judge, judge_accuracy = metrics.independent_classifier(data, device=device, steps=20 if quick else 900)
    with _seeded(seed, device):
        labels = torch.arange(len(data.label_names), device=device).repeat(10 if quick else 200)
        generation, images = metrics.generation_accuracy(lambda y: tasks.generate(vae, y)[0], judge.classify, labels)
        hows = ({"corrupt": corrupt}, {}, {"mean": True})
        sampled, clean, mean = (tasks.in_batches(partial(tasks.classify, vae, **how), x) for how in hows)
        rows = torch.randperm(len(data.x))[:20_000]
        bound = tasks.in_batches(partial(_bound, vae), x).double().mean().item()
        features = judge.embed(data.x[rows].to(device))
    posterior = metrics.LastLayerGP(features, data.y[rows], len(data.label_names), steps=5 if quick else 300)
    return {
        "bound_per_row": bound,
        "test_accuracy": metrics.accuracy(sampled, y),
        "test_accuracy_clean": metrics.accuracy(clean, y),
        "test_accuracy_mean": metrics.accuracy(mean, y),
        "generation_accuracy": generation,
        "mutual_information": metrics.image_mutual_information(images, judge.embed, posterior),
        "mutual_information_real": metrics.image_mutual_information(x[:2000], judge.embed, posterior),
        "judge_accuracy": judge_accuracy,
    }


def measure_attributes(
    vae: SemiVAE,
    data: ImageData,
    *,
    corrupt: Callable[[Tensor], Tensor] | None = None,
    quick: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """The same for binary labels, and what the latents hold of each.

    Args:
        vae, data, corrupt, quick, seed: see `measure_classes`.

    Returns `bound_per_row` (M2's is relaxed, and no bound); `test_accuracy` (mean over labels, at E_q(z|x)[q(y|z)], as
    the guide was trained), `test_accuracy_clean`, `test_accuracy_mean` and `test_accuracy_per_label`;
    `generation_accuracy` and `mutual_information` of images drawn with labels of the test set, and
    `mutual_information_real`; `frechet_distance` of these images (with the independent classifier's features, not the
    FID); `swap_difference`;
    `intervention_condition_number`, `intervention_selectivity` and `intervention_matrix` (rows: what changes);
    `characteristic_capture` where the data has strengths (mean held-out R^2); `judge_accuracy`.
    """
    device = next(vae.parameters()).device
    x, y = data.x_test.to(device), data.y_test.to(device)
    judge, judge_accuracy = metrics.independent_classifier(data, device=device, steps=20 if quick else 900)
    few, hows = slice(0, 50 if quick else 500), ({"corrupt": corrupt}, {}, {"mean": True})
    with _seeded(seed, device):
        generate = partial(tasks.in_batches, lambda y: tasks.generate(vae, y)[0])
        generation, images = metrics.generation_accuracy(generate, judge.classify, y)
        sampled, clean, mean = (tasks.in_batches(partial(tasks.classify, vae, **how), x) for how in hows)
        swap = partial(tasks.in_batches, partial(tasks.swap, vae))
        swap_difference = metrics.swap_difference(swap, judge.logits, x, y, num_partners=1 if quick else 5)
        intervene, reconstruct = (lambda x, y: tasks.intervene(vae, x, y)[0]), partial(tasks.reconstruct, vae)
        matrix = metrics.intervention_matrix(intervene, reconstruct, judge.logits, x[few], y[few])
        bound = tasks.in_batches(partial(_bound, vae), x).double().mean().item()
        rows = torch.randperm(len(data.x))[: 1000 if quick else 10_000]
        features = judge.embed(data.x[rows].to(device))
    posterior = metrics.LastLayerGP(features, data.y[rows], None, steps=5 if quick else 300)
    per_label = metrics.label_accuracy(sampled, y)
    out = {
        "bound_per_row": bound,
        "test_accuracy": per_label.mean().item(),
        "test_accuracy_clean": metrics.label_accuracy(clean, y).mean().item(),
        "test_accuracy_mean": metrics.label_accuracy(mean, y).mean().item(),
        "test_accuracy_per_label": dict(zip(data.label_names, per_label.tolist(), strict=True)),
        "generation_accuracy": generation,
        "mutual_information": metrics.image_mutual_information(images, judge.embed, posterior),
        "mutual_information_real": metrics.image_mutual_information(x, judge.embed, posterior),
        "frechet_distance": metrics.frechet_distance(judge.embed(images), judge.embed(x)),
        "swap_difference": swap_difference,
        "intervention_condition_number": metrics.condition_number(matrix),
        "intervention_selectivity": metrics.selectivity(matrix),
        "intervention_matrix": [[round(value, 4) for value in row] for row in matrix.tolist()],
        "judge_accuracy": judge_accuracy,
    }
    if data.strengths is not None:
        own, others = _own_and_others(vae, data.x[rows].to(device))
        out["characteristic_capture"] = metrics.characteristic_capture(own, others, data.strengths[rows]).mean()
    return out


def _own_and_others(vae: SemiVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the model holds of each label, `(N, L)`, and the other latents, `(N, D)`: posterior means.

    Of a label it holds its characteristic latent, or, where the label is a latent itself (M2), q(y_i = 1 | x).
    """
    parts = [tasks.infer(vae, part) for part in x.split(500)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    own = [joined[name] for name in vae.characteristic if name in joined]
    own = torch.cat(own, -1) if own else tasks.in_batches(partial(tasks.classify, vae), x)
    others = [value.flatten(1) for name, value in joined.items() if name not in vae.characteristic]
    return own, torch.cat([own.new_empty(len(x), 0), *others], 1)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draws from `seed`, and leaves the caller's random state as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def _bound(vae: SemiVAE, x: Tensor) -> Tensor:
    """The bound of each row, its label missing, `(B,)`."""
    return sum(vae.elbo().terms(vae.model, vae.guide, vae.images(x)).values())


# Neighbours between which the papers interpolate (REVAE Fig. 7, CCVAE Fig. 21), where the data set has them.
CORNERS = (("T-shirt/top", "Pullover", "Coat", "Dress"), ("5", "8", "3", "0"))


def draw_classes(vae: SemiVAE, data: ImageData, history: History, out: str | Path) -> None:
    """The papers' figures for multi-class data, as PNG files in `out`.

    `reconstructions`, `generations` (per class, all but the characteristic latents fixed), `interventions` (a test
    image per class, its label set to every class, the rest kept), `interpolation` (between four classes' prior
    means) and `training` (the bound's terms).
    """
    device, out = next(vae.parameters()).device, Path(out)
    present = data.y_test.unique()  # the classes
    labels = torch.arange(len(data.label_names), device=device)
    first = torch.stack([(data.y_test == c).nonzero()[0, 0] for c in present])
    x = vae.images(data.x_test[first])  # one test image per class
    names = [data.label_names[c] for c in present]

    both = torch.stack([x, tasks.reconstruct(vae, x)])
    image_grid(both, rows=["x", "reconstruction"], columns=names, path=out / "reconstructions.png")

    rest = {name: z[:1] for name, z in tasks.infer(vae, x).items() if name not in vae.characteristic}
    if tasks.infers_from_labels(vae):  # then all there is descends from the label
        rest = {}
    drawn = tasks.generate(vae, labels, 8, given=rest).transpose(0, 1)
    image_grid(
        drawn,
        rows=data.label_names,
        title="p(x | y): the characteristic varies, the rest is fixed",
        path=out / "generations.png",
    )

    changed = [tasks.intervene(vae, x, labels[c].expand(len(x)))[0] for c in labels]
    image_grid(
        torch.stack([x, *changed], 1),
        rows=names,
        columns=["x", *data.label_names],
        title="interventions: y set to the column, the rest kept",
        path=out / "interventions.png",
    )

    training_curves(history, path=out / "training.png")
    if not set(vae.characteristic) <= descendants(vae, x):  # nothing to interpolate: the label has no latents below it
        return
    corners = next((names for names in CORNERS if set(names) <= set(data.label_names)), data.label_names[:4])
    y = torch.tensor([data.label_names.index(name) for name in corners], device=device)
    title = f"between the prior means of {', '.join(corners)}"
    image_grid(tasks.interpolate(vae, y), title=title, path=out / "interpolation.png")


# What the papers' figures walk along and vary; those that the data set has are drawn.
WALKS = (("Pale_Skin", "Young"), ("Smiling", "Wearing_Necktie"), ("Cardiomegaly", "Pleural Effusion"))
VARIED = ("Bangs", "Eyeglasses", "Pale_Skin", "Smiling", "Wearing_Necktie", "Blond_Hair")


def draw_attributes(vae: SemiVAE, data: ImageData, history: History, out: str | Path, *, seed: int = 0) -> None:
    """The papers' figures for data with several binary labels, as PNG files in `out`.

    `interventions` (each label of a face switched; CCVAE Fig. 11), `walks` (two characteristics on a grid; Fig. 3),
    `diversity` (draws for one label, and the variance of each pixel in green; Figs. 4 and 5), `swaps` (characteristics
    of the row's face, the rest of the column's; Fig. 7), `generations` (draws for the labels of a test face) and
    `training`.
    """
    device, out = next(vae.parameters()).device, Path(out)
    names = data.label_names
    with _seeded(seed, device):
        x, y = vae.images(data.x_test[:8].to(device)), data.y_test[:8].to(device)
        _draw_interventions(vae, x, y, names, out)
        if vae.characteristic[0] in tasks.infer(vae, x[:1]):  # M2 has no latent of a label to walk along
            _draw_walks(vae, x, names, out)
        _draw_diversity(vae, x, names, out)
        swapped = torch.stack([tasks.swap(vae, x[i : i + 1].expand_as(x), x) for i in range(len(x))])
        swapped = torch.cat([x.unsqueeze(1), swapped], 1)
        top = torch.cat([torch.ones_like(x[:1]), x]).unsqueeze(0)
        title = "characteristics of the row's image, the rest of the column's"
        image_grid(torch.cat([top, swapped]), title=title, path=out / "swaps.png")
        drawn = torch.cat([x.unsqueeze(1), tasks.generate(vae, y, 7).transpose(0, 1)], 1)
        title = "x, and draws of p(x | y) for its labels"
        image_grid(drawn, title=title, path=out / "generations.png")
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
    """Two labels at a time, each from the far side of `off` to the far side of `on`."""
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
    varied = [name for name in VARIED if name in names] or list(names[:6])
    rows = []
    for i, name in enumerate(varied):
        y = torch.full((1, len(names)), torch.nan, device=x.device)
        y[:, names.index(name)] = 1
        face = x[i % len(x)].unsqueeze(0)
        images = tasks.intervene(vae, face, y, 40)[:, 0]  # (40, C, H, W)
        variance = images.var(0).sum(0)
        overlay = tasks.reconstruct(vae, face)[0].mean(0).expand(3, -1, -1).clone() * 0.7
        overlay[1] += variance / variance.max().clamp(min=1e-6)
        rows.append(torch.stack([tasks.reconstruct(vae, face)[0], *images[:draws], overlay.clamp(0, 1)]))
    columns = ["reconstruction", *[f"draw {k + 1}" for k in range(draws)], "variance"]
    image_grid(torch.stack(rows), rows=varied, columns=columns, title="the row's label on", path=out / "diversity.png")


def measure_images(vae: SemiVAE, data: ImageData, *, seed: int = 0) -> dict[str, float]:
    """Of a model that no label generates (VAE, M1), on the test set.

    Returns `bound_per_row` (nats), `reconstruction_error` (|x - x'| a pixel) and, where the guide has a classifier,
    `test_accuracy`.
    """
    device = next(vae.parameters()).device
    x, y = data.x_test.to(device), data.y_test.to(device)
    with _seeded(seed, device):
        bound = tasks.in_batches(partial(_bound, vae), x).double().mean().item()
        rebuilt = tasks.in_batches(partial(tasks.reconstruct, vae), x)
        out = {"bound_per_row": bound, "reconstruction_error": (vae.images(x) - rebuilt).abs().double().mean().item()}
        if tasks.classifies(vae):
            probs = tasks.in_batches(partial(tasks.classify, vae), x)
            several = isinstance(data.labels, Binary)
            out["test_accuracy"] = (
                metrics.label_accuracy(probs, y).mean().item() if several else metrics.accuracy(probs, y)
            )
    return out


def draw_images(vae: SemiVAE, data: ImageData, history: History, out: str | Path, *, seed: int = 0) -> None:
    """Of a model without labels: `reconstructions`, `generations` and `training`, as PNG files in `out`."""
    device, out = next(vae.parameters()).device, Path(out)
    x = vae.images(data.x_test[:10].to(device))
    both = torch.stack([x, tasks.reconstruct(vae, x)])
    image_grid(both, rows=["x", "reconstruction"], path=out / "reconstructions.png")
    with _seeded(seed, device):
        drawn = tasks.decode(vae, {}, data.labels.missing(80, device)).unflatten(0, (8, 10))
    image_grid(drawn, title="draws from the model", path=out / "generations.png")
    training_curves(history, path=out / "training.png")


@torch.no_grad()
def measure_extraction(
    vae: SemiVAE, data: ImageData, labelled_rows: Tensor, num_known: int, *, seed: int = 0
) -> tuple[dict[str, Any], Tensor]:
    """Of a model whose classes from `num_known` on had no label: which value of the label stands for which.

    The canonical image of a value is that at the mean of q(z | x, y) over the labelled rows (Gemp et al. 2017, Section
    3); a logistic regression on the training set's pixels tells what it shows.

    Args:
        labelled_rows: of the training set.

    Returns `bound_per_row`, `test_accuracy` (on the classes with labels), `cross_entropy_unseen` and `accuracy_unseen`
    (nats; on the others, under the paper's greedy assignment), both `.._optimal` (the best assignment),
    `distinct_digits` (how many classes the canonical images show), `assigned`, `judge_accuracy`; and the canonical
    images `(C, ...)`.
    """
    judge, judge_accuracy = metrics.logistic_regression(data)
    device = next(vae.parameters()).device
    x, y = data.x_test.to(device), data.y_test.to(device)

    def latents(rows: Tensor) -> Tensor:
        return tasks.infer(vae, data.x[rows].to(device), data.y[rows].to(device))["z"]

    z = torch.cat([latents(rows) for rows in labelled_rows.split(1000)]).mean(0, keepdim=True)
    labels = torch.arange(len(data.label_names), device=device)
    canonical = tasks.decode(vae, {"z": z.expand(len(labels), -1)}, labels)
    scores = judge(canonical)
    log_probs = tasks.in_batches(partial(tasks.log_classify, vae), vae.images(x))
    greedy, optimal = (metrics.extraction(log_probs, y, scores, num_known, how) for how in ("greedy", "optimal"))
    with _seeded(seed, device):
        bound = tasks.in_batches(partial(_bound, vae), x).double().mean().item()
    known = y < num_known
    out = {
        "bound_per_row": bound,
        "test_accuracy": metrics.accuracy(log_probs[known].exp(), y[known]),
        "cross_entropy_unseen": greedy.cross_entropy,
        "cross_entropy_unseen_optimal": optimal.cross_entropy,
        "accuracy_unseen": greedy.accuracy,
        "accuracy_unseen_optimal": optimal.accuracy,
        "distinct_digits": metrics.distinct_classes(scores),
        "assigned": greedy.assigned,
        "judge_accuracy": judge_accuracy,
    }
    return out, canonical


def draw_extraction(
    vae: SemiVAE, data: ImageData, canonical: Tensor, measured: dict[str, Any], history: History, out: str | Path
) -> None:
    """`canonical` (an image a value of the label; Fig. 2), `manifold` (each on a walk of z) and `training`, as PNGs."""
    out, values = Path(out), torch.arange(len(canonical), device=canonical.device)
    names = [f"{value}: {data.label_names[c]}" for value, c in enumerate(measured["assigned"])]
    title = "E[x | y, z], z the mean over the labelled rows; the value of y: the class that it is taken for"
    image_grid(canonical.unsqueeze(0), columns=names, title=title, path=out / "canonical.png")
    prior = vae.p_z()
    low, high = prior.support.base_constraint.lower_bound, prior.support.base_constraint.upper_bound
    t = torch.linspace(0.05, 0.95, 8, device=values.device)[:, None]
    images = [tasks.decode(vae, {"z": (low + s * (high - low)).expand(len(values), -1)}, values) for s in t]
    title = "the same along a diagonal of z"
    image_grid(torch.stack(images, 1), rows=names, title=title, path=out / "manifold.png")
    training_curves(history, path=out / "training.png")


def measure(
    vae: SemiVAE,
    data: ImageData,
    *,
    corrupt: Callable[[Tensor], Tensor] | None = None,
    quick: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """`measure_classes` or `measure_attributes`, as the labels are; `measure_images` where no label generates."""
    if not vae.characteristic:
        return measure_images(vae, data, seed=seed)
    task = measure_attributes if isinstance(data.labels, Binary) else measure_classes
    return task(vae, data, corrupt=corrupt, quick=quick, seed=seed)


def draw(vae: SemiVAE, data: ImageData, history: History, out: str | Path) -> None:
    """`draw_classes` or `draw_attributes`, as the labels are; `draw_images` where no label generates."""
    if not vae.characteristic:
        draw_images(vae, data, history, out)
    else:
        (draw_attributes if isinstance(data.labels, Binary) else draw_classes)(vae, data, history, out)
