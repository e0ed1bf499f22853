"""What is measured and drawn with class labels: CCVAE's Tables 6 and 7, its figures of digits and garments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pyro_semivae import metrics, tasks
from pyro_semivae.check import descendants
from pyro_semivae.data import ImageData
from pyro_semivae.files import user_path
from pyro_semivae.models import SemiVAE
from pyro_semivae.plot import image_grid, training_curves
from pyro_semivae.report.common import bound_per_row, seeded
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
    `generation_accuracy` (of the independent classifier, on 200 images a class), `swap_difference` (nats, see
    `metrics.swap_difference`), `intervention_accuracy` (how often it says the class that was set; 1000 images, each set
    to every other class), `mutual_information` of the generations
    and `mutual_information_real` of test images (nats), and `judge_accuracy`, the independent classifier's own.
    """
    device = next(vae.parameters()).device
    x, y = data.x_test.to(device), data.y_test.to(device)
    judge, judge_accuracy = metrics.independent_classifier(data, device=device, steps=20 if quick else 900)
    with seeded(seed, device):
        labels = torch.arange(len(data.label_names), device=device).repeat(10 if quick else 200)
        generation, images = metrics.generation_accuracy(lambda y: tasks.generate(vae, y)[0], judge.classify, labels)
        hows = ({"corrupt": corrupt}, {}, {"mean": True})
        sampled, clean, mean = (tasks.in_batches(partial(tasks.classify, vae, **how), x) for how in hows)
        per_row = bound_per_row(vae, x)
        swap = partial(tasks.in_batches, partial(tasks.swap, vae))
        swap_difference = metrics.swap_difference(swap, judge.logits, x, y, num_partners=1)
        few = slice(100 if quick else 1000)
        intervene = partial(tasks.in_batches, lambda x, y: tasks.intervene(vae, x, y)[0])
        of_interventions = metrics.intervention_accuracy(
            intervene, judge.classify, x[few], y[few], len(data.label_names)
        )
    posterior = metrics.independent_posterior(data, judge, steps=5 if quick else 300)
    return {
        "bound_per_row": per_row,
        "test_accuracy": metrics.accuracy(sampled, y),
        "test_accuracy_clean": metrics.accuracy(clean, y),
        "test_accuracy_mean": metrics.accuracy(mean, y),
        "generation_accuracy": generation,
        "swap_difference": swap_difference,
        "intervention_accuracy": of_interventions,
        "mutual_information": metrics.image_mutual_information(images, judge.embed, posterior),
        "mutual_information_real": metrics.image_mutual_information(x[:2000], judge.embed, posterior),
        "judge_accuracy": judge_accuracy,
    }


# Neighbours between which the papers interpolate (REVAE Fig. 7, CCVAE Fig. 21), where the data set has them.
CORNERS = (("T-shirt/top", "Pullover", "Coat", "Dress"), ("5", "8", "3", "0"))


def draw_classes(vae: SemiVAE, data: ImageData, history: History, out: str | Path) -> None:
    """The papers' figures for multi-class data, as PNG files in `out`.

    `reconstructions`, `generations` (per class, all but the characteristic latents fixed), `interventions` (a test
    image per class, its label set to every class, the rest kept), `interpolation` (between four classes' prior
    means) and `training` (the bound's terms).
    """
    device, out = next(vae.parameters()).device, user_path(out, "out")
    present = data.y_test.unique()  # the classes
    labels = torch.arange(len(data.label_names), device=device)
    first = torch.stack([(data.y_test == c).nonzero()[0, 0] for c in present])
    x = vae.images(data.x_test[first])  # one test image per class
    names = [data.label_names[c] for c in present]

    both = torch.stack([x, tasks.reconstruct(vae, x)])
    image_grid(both, rows=["x", "reconstruction"], columns=names, path=out / "reconstructions.png")

    varied = {*vae.characteristic, *descendants(vae, x)}
    rest = {name: z[:1] for name, z in tasks.infer(vae, x).items() if name not in varied}
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
