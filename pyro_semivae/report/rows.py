"""Metrics and figures for any graph: its ELBO, each label's metrics, images with each label set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_semivae import plot, tasks
from pyro_semivae.files import writable_folder
from pyro_semivae.infer import LocalParameters, Step
from pyro_semivae.models import SemiVAE
from pyro_semivae.report.common import missing_labels
from pyro_semivae.spaces import any_known
from pyro_semivae.streams import RandomStreams
from pyro_semivae.train import History


def measure_rows(vae: SemiVAE, rows: Mapping[str, Any], *, seed: int = 0, size: int = 500) -> dict[str, float]:
    """Computes metrics for models with several or continuous labels, or with data other than images.

    Args:
        rows: site -> values, labels possibly missing. seed: of the sampling. size: the batch size.

    Returns `elbo_per_example`, the ELBO of the data without labels in nats, with one sample of z per example. For each
    label that is known for some rows and that the model can predict, it also has `<label>/accuracy` or
    `<label>/mean_absolute_error` of the prediction from the data alone, and `<label>/missing`, the number of missing
    entries, if any are.
    """
    table, device = vae.table(rows), next(vae.parameters()).device
    data = {name: table[name] for name in vae.data_sites if name in table}
    number = len(next(iter(data.values())))
    parts = [{name: values[at : at + size] for name, values in data.items()} for at in range(0, number, size)]
    found: dict[str, float] = {}
    with RandomStreams(seed, device), torch.no_grad(), LocalParameters():
        steps = [Step(vae.model, vae.guide, vae.inputs(part)) for part in parts]
        elbos = [vae.elbo().bound.evaluate(step) for step in steps]
        total = sum(sum(v.value.sum() for v in elbo.values if v.in_elbo and v.by_row) for elbo in elbos)
        found["elbo_per_example"] = (total / number).item()
        if tasks.available(vae)["classify"] is not None:
            return found
        guesses = [_by_label(vae, tasks.classify(vae, part)) for part in parts]
    for name in (name for name in vae.label_sites if name in table and any_known(table[name]).any()):
        if name in guesses[0]:
            guess, y = torch.cat([part[name] for part in guesses]).cpu(), table[name].cpu()
            scores = vae.spaces[name].score(guess, y)
            found |= {f"{name}/{measure}": value for measure, value in scores.items()}
            found |= {f"{name}/missing": missing for missing in missing_labels(y).values()}
    return found


def draw_rows(
    vae: SemiVAE, rows: Mapping[str, Any], history: History | None, out: str | Path, *, number: int = 8
) -> None:
    """Writes `training.png`, and for images `reconstructions-<site>.png` and, for each label,
    `interventions-<site>-<label>.png`: the label set to each of its values (a continuous one to five quantiles), with
    the other labels and all sites that do not descend from it kept.

    Args:
        rows: as in `measure_rows`; the first `number` are shown. history: the result of `fit`; None (for a loaded
            model): no `training.png`. out: the folder, which is created.
    """
    out, table = writable_folder(out), vae.table(rows)
    if history:
        plot.training_curves(history, path=out / "training.png")
    number = min(number, len(next(iter(table.values()))))
    some = {name: values[:number] for name, values in table.items() if name in vae.data_sites}
    shown = [name for name in some if vae.spaces[name].pictures]
    seen = vae.by_site(vae.inputs(some))
    rebuilt = _by_site(vae, tasks.reconstruct(vae, some))
    for site in (site for site in shown if site in rebuilt):
        images = torch.stack([seen[site].nan_to_num(), rebuilt[site]])
        plot.image_grid(_shown(images), rows=["x", "reconstructed"], path=out / f"reconstructions-{site}.png")
        if tasks.available(vae)["intervene"] is not None:
            continue
        for label in vae.label_sites:
            known = table.get(label, vae.spaces[label].missing(1)).cpu()
            settings = vae.spaces[label].settings(known)
            changed = [
                _by_site(vae, tasks.intervene(vae, some, {label: row.expand(number, *row.shape)}))[site][0]
                for _, row in settings
            ]
            if changed:
                images = torch.stack([seen[site].nan_to_num(), *changed])
                names = ["x", *(f"{label} {name}" for name, _ in settings)]
                plot.image_grid(_shown(images), rows=names, path=out / f"interventions-{site}-{label}.png")


def _shown(images: Tensor) -> Tensor:
    """Images with one or three channels; other numbers of channels are averaged."""
    return images if images.shape[-3] in (1, 3) else images.mean(-3, keepdim=True)


def _by_label(vae: SemiVAE, found: Any) -> dict[str, Tensor]:
    return dict(found) if isinstance(found, Mapping) else {vae.label_sites[0]: found}


def _by_site(vae: SemiVAE, found: Any) -> dict[str, Tensor]:
    return dict(found) if isinstance(found, Mapping) else {vae.data_sites[0]: found}
