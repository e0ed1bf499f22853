"""Metrics shared by the reports: the ELBO per example without labels, the number of missing labels."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_semivae import tasks
from pyro_semivae.models import SemiVAE
from pyro_semivae.spaces import is_missing


@torch.no_grad()
def elbo_per_example(vae: SemiVAE, x: Tensor) -> float:
    """The mean of `vae.elbo()` over images, without their labels, in nats; one sample of the latents per image."""

    def bound(x: Tensor) -> Tensor:
        return sum(vae.elbo().terms(vae.model, vae.guide, vae.images(x)).values())

    return tasks.in_batches(bound, x).double().mean().item()


def shown_latents(vae: SemiVAE, x: Tensor) -> tuple[str, Tensor] | None:
    """The names and the posterior means `(B, D)` of the latents to plot, concatenated over sites; None without latents.

    These are the characteristic latents if the model has any of positive size, otherwise all latents.
    """
    parts = [tasks.infer(vae, part) for part in x.split(500)]
    joined = {name: torch.cat([part[name] for part in parts]).flatten(1) for name in parts[0]}
    joined = {name: z for name, z in joined.items() if z.shape[1]}
    own = {name: z for name, z in joined.items() if name in vae.characteristic} or joined
    return (", ".join(own), torch.cat([*own.values()], 1)) if own else None


def missing_labels(y: Tensor) -> dict[str, int]:
    """`test_labels_missing`: the number of missing entries of the test labels, which are left out; {} if it is 0."""
    missing = int(is_missing(y).sum())
    return {"test_labels_missing": missing} if missing else {}
