"""Metrics and figures for models whose labels are a grid's factors: disentanglement, and generation from labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_semivae import probes, tasks
from pyro_semivae.data.factors import FactorData, Seen
from pyro_semivae.data.grids import Grid
from pyro_semivae.data.reference import Shown
from pyro_semivae.errors import InputError
from pyro_semivae.files import writable_folder
from pyro_semivae.metrics import disentanglement
from pyro_semivae.models import SemiVAE
from pyro_semivae.plot import image_grid, training_curves
from pyro_semivae.train import History

TREES = {"trees": "forest", "number": 20}  # for DCI; boosted trees take longer
TRAVERSED = 500  # images whose labels are traversed


@torch.no_grad()
def measure_factors(vae: SemiVAE, data: FactorData, *, quick: bool = False, progress: bool = True) -> dict[str, Any]:
    """Computes disentanglement metrics, and metrics of the images generated from labels.

    The representation is the means of q(y|x) and q(z|x) on the test images.

    Args:
        quick: a quick end-to-end check, without the slow metrics and with few training steps of the probe.

    Returns

    - `mig`, `l2` (and `l2_without_<factor>`, without a factor for which several classes may look the same),
      `factor_vae_score`, `beta_vae_score`, `sap` (continuous), `dci`, `modularity`, `explicitness`, `irs`: see
      `metrics.disentanglement`; `rmse_<factor>`, and `protocol`, by metric. `explicitness` is None, and a note is
      printed, if a class is not in both of its parts of the rows;
    - `generation_error`: the mean squared error per image, summed over pixels, between an image and the decoding of its
      true labels and z = 0;
    - for the traversal of a label from one end of its factor to the other, with z and the other labels as inferred, as
      evaluated by an independent probe that predicts factors from images: `effect` and `effect_<factor>`, the factor's
      change as a share of the label's change (1: the same); `leak` and `leak_<factor>`, the total change of all other
      factors, in the same units (0: none); `probe_error`, the probe's mean absolute error on test images.
    """
    grid, test = data.grid, data.test
    inferred, code = representation(vae, test.x)
    true, classes = grid.values(test.classes), test.classes
    scores: dict[str, disentanglement.Score] = {
        "mig": disentanglement.mutual_information_gap(code, classes),
        "l2": disentanglement.label_distance(inferred, true),
        "factor_vae_score": disentanglement.factor_vae_score(code, classes),
        "sap": disentanglement.separated_predictability(code, classes, kind="continuous"),
        "modularity": disentanglement.modularity(code, classes),
        "irs": disentanglement.robustness(code, classes),
    }
    if not quick:
        scores["beta_vae_score"] = disentanglement.beta_vae_score(code, classes)
        try:
            scores["explicitness"] = disentanglement.explicitness(code, classes)
        except InputError as error:  # too few rows
            print(f"NOTE: explicitness is not measured: {error}")
        scores["dci"] = disentanglement.dci(code, classes, **TREES)
    for name in grid.symmetric:
        without = [grid.factor_names.index(name)]
        scores[f"l2_without_{name}"] = disentanglement.label_distance(inferred, true, without=without)
    out: dict[str, Any] = {name: float(score) for name, score in scores.items()}
    rmse = scores["l2"].parts["rmse"]
    out |= {f"rmse_{name}": float(error) for name, error in zip(grid.factor_names, rmse, strict=True)}
    if not quick:
        out.setdefault("explicitness", None)
    out["protocol"] = {name: dict(score.protocol) for name, score in scores.items()}
    out["generation_error"] = generation_error(vae, grid, test)
    return {**out, **_traversals(vae, data, quick, progress)}


@torch.no_grad()
def representation(vae: SemiVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """The means of q(y|x), `(N, F)`, and these concatenated with the means of the latents, `(N, F + D)`."""
    labels, latents = [], []
    for part in x.split(500):
        labels.append(tasks.classify(vae, part)[vae.label_sites[0]].cpu())
        found = tasks.infer(vae, part)
        latents.append(torch.cat([labels[-1], *(value.flatten(1).cpu() for value in found.values())], 1))
    return torch.cat(labels), torch.cat(latents)


def decoded(vae: SemiVAE, y: Tensor, z: dict[str, Tensor]) -> Tensor:
    """Decodes labels and latents into images, on the CPU."""
    parts, device = [], next(vae.parameters()).device
    for rows in torch.arange(len(y)).split(500):
        latents = {name: value[rows.to(value.device)] for name, value in z.items()}
        parts.append(tasks.decode(vae, latents, y[rows].to(device)).cpu())
    return torch.cat(parts)


def generation_error(vae: SemiVAE, grid: Grid, seen: Seen, number: int = 2000) -> float:
    """The `generation_error` of `measure_factors`, over the first `number` images."""
    x = seen.x[:number]
    found = tasks.infer(vae, x[:1])
    zeros = {name: torch.zeros(len(x), *value.shape[1:]).to(value) for name, value in found.items()}
    made = decoded(vae, grid.values(seen.classes[:number]).to(torch.get_default_dtype()), zeros)
    return (made - vae.images(x).cpu()).square().flatten(1).sum(1).mean().item()


def _traversals(vae: SemiVAE, data: FactorData, quick: bool, progress: bool) -> dict[str, float]:
    grid, device = data.grid, next(vae.parameters()).device
    probe = probes.independent_probe(_probed(data), steps=10 if quick else 2500, device=device, progress=progress)
    x = data.test.x[:TRAVERSED]
    y, z = tasks.classify(vae, x)[vae.label_sites[0]].cpu(), tasks.infer(vae, x)
    ends = grid.values(torch.stack([torch.zeros(len(grid.sizes)), torch.tensor(grid.sizes) - 1.0]))
    effects, leaks = [], []
    for j in range(len(grid.sizes)):
        read = []
        for end in ends:
            moved = y.clone()
            moved[:, j] = end[j]
            read.append(probe.factors(decoded(vae, moved, z).to(device)).cpu())
        change = (read[1] - read[0]) / (ends[1, j] - ends[0, j])
        effects.append(change[:, j].mean().item())
        leaks.append((change.abs().sum(1) - change[:, j].abs()).mean().item())
    out = {"effect": sum(effects) / len(effects), "leak": sum(leaks) / len(leaks)}
    for what, values in (("effect", effects), ("leak", leaks)):
        out |= {f"{what}_{name}": value for name, value in zip(grid.factor_names, values, strict=True)}
    return {**out, "probe_error": probe.errors.mean().item()}


@dataclass(frozen=True)
class _Probed:
    """Images in the form that a probe accepts."""

    name: str
    x_shape: tuple[int, int, int]
    factor_names: tuple[str, ...]
    pool: Shown
    test: Shown
    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()


def _probed(data: FactorData) -> _Probed:
    """The training and test images for a probe, with the factors as numbers."""

    def shown(part: Seen) -> Shown:
        none = torch.full((len(part),), -1)
        return Shown(part.x, data.grid.values(part.classes).float(), none, none)

    grid = data.grid
    name = f"{grid.name}-{grid.x_shape[1]}"
    return _Probed(name, grid.x_shape, grid.factor_names, shown(data.train), shown(data.test))


@torch.no_grad()
def draw_factors(
    vae: SemiVAE, data: FactorData, history: History, out: str | Path, *, others: dict[str, SemiVAE] | None = None
) -> None:
    """Writes `traversal-<factor>` for each factor, `traversals` for all, `reconstructions` and `training`, as PNGs.

    A traversal is Nie et al.'s Fig. 4: one factor's label takes the values of its classes, with the other labels and z
    as inferred from an image. The first row is the ground truth, then come those of `others` (e.g. a baseline), and
    last the model's.

    Args:
        others: further models, by name.
    """
    out, grid = writable_folder(out, "out"), data.grid
    x, classes = data.test.x[:8], data.test.classes[:8]
    y, z = tasks.classify(vae, x)[vae.label_sites[0]].cpu(), tasks.infer(vae, x)
    rows = torch.stack([vae.images(x).cpu(), decoded(vae, y, z)])
    image_grid(rows, rows=["image", "reconstruction"], path=out / "reconstructions.png")
    training_curves(history, path=out / "training.png")
    models = {**(others or {}), type(vae).__name__: vae}
    every, names = [], []
    for j, factor in enumerate(grid.factor_names):
        steps = torch.linspace(0, grid.sizes[j] - 1, min(8, grid.sizes[j])).round().long()
        along = classes[j % len(classes)].repeat(len(steps), 1)
        along[:, j] = steps
        rows = [vae.images(grid.images(along)).cpu()]
        rows += [
            _traversed(model, x[j % len(x)].unsqueeze(0), j, grid.values(along)[:, j]) for model in models.values()
        ]
        image_grid(torch.stack(rows), rows=["truth", *models], title=factor, path=out / f"traversal-{factor}.png")
        blank = torch.ones(8 - len(steps), *rows[0].shape[1:])
        every += [torch.cat([row, blank]) for row in rows]
        names += [f"{factor}: truth", *models]
    image_grid(torch.stack(every), rows=names, title="one label varies, the others stay", path=out / "traversals.png")


def _traversed(vae: SemiVAE, x: Tensor, factor: int, values: Tensor) -> Tensor:
    """The image decoded with one label set to each of `values`."""
    y, z = tasks.classify(vae, x)[vae.label_sites[0]].cpu(), tasks.infer(vae, x)
    y = y.repeat(len(values), 1)
    y[:, factor] = values
    return decoded(vae, y, {name: value.repeat(len(values), *(1,) * (value.dim() - 1)) for name, value in z.items()})
