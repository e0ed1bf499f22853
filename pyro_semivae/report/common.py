"""What the measures have in common: the bound of rows without labels, missing labels."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_semivae import tasks
from pyro_semivae.models import SemiVAE
from pyro_semivae.spaces import is_missing


@torch.no_grad()
def bound_per_row(vae: SemiVAE, x: Tensor) -> float:
    """The mean of `vae.elbo()` over images without labels, in nats; one sample of the latents each."""

    def bound(x: Tensor) -> Tensor:
        return sum(vae.elbo().terms(vae.model, vae.guide, vae.images(x)).values())

    return tasks.in_batches(bound, x).double().mean().item()


def missing_labels(y: Tensor) -> dict[str, int]:
    """`test_labels_missing`: how many entries of the test labels are missing and count nowhere; {} where none is."""
    missing = int(is_missing(y).sum())
    return {"test_labels_missing": missing} if missing else {}
