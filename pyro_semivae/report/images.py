"""Metrics and figures for models whose labels do not generate the images (VAE, M1)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from pyro_semivae import tasks
from pyro_semivae.data import ImageData
from pyro_semivae.files import writable_folder
from pyro_semivae.models import SemiVAE
from pyro_semivae.plot import image_grid, training_curves
from pyro_semivae.report.common import elbo_per_example, missing_labels
from pyro_semivae.streams import RandomStreams
from pyro_semivae.train import History


def measure_images(vae: SemiVAE, data: ImageData, *, seed: int = 0) -> dict[str, float]:
    """Computes metrics on the test set for a model whose labels do not generate the images (VAE, M1).

    Returns `elbo_per_example` (nats), `reconstruction_error` (mean |x - x'| per pixel) and, if the guide has a
    classifier, `test_accuracy` on the known labels; `test_labels_missing`, if any are.
    """
    device = next(vae.parameters()).device
    x, y = data.x_test.to(device), data.y_test.to(device)
    with RandomStreams(seed, device):
        elbo = elbo_per_example(vae, x)
        rebuilt = tasks.in_batches(partial(tasks.reconstruct, vae), x)
        out = {
            "elbo_per_example": elbo,
            "reconstruction_error": (vae.images(x) - rebuilt).abs().double().mean().item(),
        }
        if tasks.classifies(vae):
            probs = tasks.in_batches(partial(tasks.classify, vae), x)
            out["test_accuracy"] = data.labels.accuracy(probs, y)
    return out | missing_labels(y)


def draw_images(vae: SemiVAE, data: ImageData, history: History, out: str | Path, *, seed: int = 0) -> None:
    """Writes `reconstructions`, `generations` and `training` as PNG files into `out`."""
    device, out = next(vae.parameters()).device, writable_folder(out, "out")
    x = vae.images(data.x_test[:10].to(device))
    both = torch.stack([x, tasks.reconstruct(vae, x)])
    image_grid(both, rows=["x", "reconstruction"], path=out / "reconstructions.png")
    with RandomStreams(seed, device):
        drawn = tasks.decode(vae, {}, data.labels.missing(80, device)).unflatten(0, (8, 10))
    image_grid(drawn, title="samples from the model", path=out / "generations.png")
    training_curves(history, path=out / "training.png")
