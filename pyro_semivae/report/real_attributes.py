"""Metrics and figures for models that represent binary attributes as numbers (Nie et al. 2020, Fig. 4d-f)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_semivae import evaluators, tasks
from pyro_semivae.data import ImageData
from pyro_semivae.files import writable_folder
from pyro_semivae.metrics import disentanglement
from pyro_semivae.models import SemiVAE
from pyro_semivae.plot import image_grid, training_curves
from pyro_semivae.report.factors import decoded, representation
from pyro_semivae.train import History

TRAVERSED = 500  # images whose labels are traversed
SHOWN = 6  # attributes in the figure
STEPS = 7
ENDS = (-0.5, 1.5)  # the range of a traversal, beyond off (0) and on (1) by one half


@torch.no_grad()
def measure_real_attributes(vae: SemiVAE, data: ImageData, *, quick: bool = False) -> dict[str, Any]:
    """Computes the accuracy of the inferred attributes, and the effect of changing one of them.

    Args:
        data: with binary labels, which the model represents as numbers, 0 for off and 1 for on. quick: a quick
            end-to-end check, with a hardly trained evaluator.

    Returns `accuracy_<label>`, the accuracy of thresholding the mean of q(y|x) at 1/2, and its mean over labels,
    `test_accuracy`; `l2`, the distance between these means and the labels, in standard deviations of the training
    labels; and `evaluator_accuracy`, an independent classifier's accuracy. For the traversal of a label from off to on,
    with z and the other labels as inferred, as evaluated by this classifier: `effect` and `effect_<label>`, the
    increase in the attribute's probability, and `leak` and `leak_<label>`, the total change in the probabilities of all
    other attributes. Missing labels are left out.
    """
    device = next(vae.parameters()).device
    evaluator, own = evaluators.independent_classifier(data, device=device, steps=20 if quick else 900)
    inferred, _ = representation(vae, data.x_test)
    y = data.y_test.to(inferred)
    known = ~y.isnan()
    right = ((inferred > 0.5) == (y > 0.5)).double()
    each = torch.where(known, right, 0.0).sum(0) / known.sum(0)
    _, scale = vae.labels.prior().to(inferred)
    error = torch.where(known, (inferred - y) / scale, 0.0)
    out: dict[str, Any] = {
        "test_accuracy": each.nanmean().item(),
        "l2": float(disentanglement.label_distance(error, torch.zeros_like(error))),
        "evaluator_accuracy": own,
    }
    x = data.x_test[: 50 if quick else TRAVERSED]
    y, z = inferred[: len(x)], tasks.infer(vae, x)
    effects, leaks = [], []
    for j in range(y.shape[1]):
        probs = [evaluator.classify(decoded(vae, _moved(y, j, end), z).to(device)).cpu() for end in (0.0, 1.0)]
        change = probs[1] - probs[0]
        effects.append(change[:, j].mean().item())
        leaks.append((change.abs().sum(1) - change[:, j].abs()).mean().item())
    out |= {"effect": sum(effects) / len(effects), "leak": sum(leaks) / len(leaks)}
    for what, values in (("accuracy", each.tolist()), ("effect", effects), ("leak", leaks)):
        out |= {f"{what}_{name}": value for name, value in zip(data.label_names, values, strict=True)}
    return out


@torch.no_grad()
def draw_real_attributes(
    vae: SemiVAE, data: ImageData, history: History, out: str | Path, *, others: dict[str, SemiVAE] | None = None
) -> None:
    """Writes `traversals` (an attribute moves from -0.5 to 1.5, one row per model), `reconstructions` and `training`,
    as PNGs.

    Args:
        others: further models, by name.
    """
    out, x = writable_folder(out, "out"), data.x_test[:8]
    y, z = representation(vae, x)[0], tasks.infer(vae, x)
    image_grid(
        torch.stack([vae.images(x).cpu(), decoded(vae, y, z)]),
        rows=["image", "reconstruction"],
        path=out / "reconstructions.png",
    )
    training_curves(history, path=out / "training.png")
    rows, names = [], []
    for j in torch.linspace(0, len(data.label_names) - 1, SHOWN).round().long().tolist():
        one = x[j % len(x)].unsqueeze(0)
        for name, model in {**(others or {}), type(vae).__name__: vae}.items():
            y, z = representation(model, one)[0].repeat(STEPS, 1), tasks.infer(model, one)
            y[:, j] = torch.linspace(*ENDS, STEPS)
            z = {site: value.repeat(STEPS, *(1,) * (value.dim() - 1)) for site, value in z.items()}
            rows.append(torch.cat([model.images(one).cpu(), decoded(model, y, z)]))
            names.append(f"{data.label_names[j]}: {name}")
    columns = ["image", *(f"{value:.2f}" for value in torch.linspace(*ENDS, STEPS).tolist())]
    image_grid(torch.stack(rows), rows=names, columns=columns, path=out / "traversals.png")


def _moved(y: Tensor, label: int, value: float) -> Tensor:
    y = y.clone()
    y[:, label] = value
    return y
