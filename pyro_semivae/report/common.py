"""What the measures have in common: the bound of rows without labels, missing labels."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_semivae import tasks
from pyro_semivae.models import SemiVAE
from pyro_semivae.spaces import is_missing


@torch.no_grad()
def elbo_per_example(vae: SemiVAE, x: Tensor) -> float:
    """The mean of `vae.elbo()` over images without labels, in nats; one sample of the latents each."""

    def bound(x: Tensor) -> Tensor:
        return sum(vae.elbo().terms(vae.model, vae.guide, vae.images(x)).values())

    return tasks.in_batches(bound, x).double().mean().item()


def shown_latents(vae: SemiVAE, x: Tensor) -> tuple[str, Tensor] | None:
    """The name and the posterior means of what is shown of images' latents; None where there are none.

    The characteristic latents where the model has some, of size one or more, else all latents; `(B, ...)`, the entries
    of several sites side by side.
    """
    parts = [tasks.infer(vae, part) for part in x.split(500)]
    joined = {name: torch.cat([part[name] for part in parts]).flatten(1) for name in parts[0]}
    joined = {name: z for name, z in joined.items() if z.shape[1]}
    own = {name: z for name, z in joined.items() if name in vae.characteristic} or joined
    return (", ".join(own), torch.cat([*own.values()], 1)) if own else None


def missing_labels(y: Tensor) -> dict[str, int]:
    """`test_labels_missing`: how many entries of the test labels are missing and count nowhere; {} where none is."""
    missing = int(is_missing(y).sum())
    return {"test_labels_missing": missing} if missing else {}
