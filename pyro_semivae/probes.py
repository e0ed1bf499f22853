"""An independent network that reads style and class off images, to judge what a model makes of them."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.caches import cache_folder, cached_checkpoint
from pyro_semivae.checkpoints import load_weights
from pyro_semivae.data.reference import ReferenceData, Shown
from pyro_semivae.digests import digest
from pyro_semivae.evaluators import ImageClassifier
from pyro_semivae.files import check_fields
from pyro_semivae.progress import steps_of

VERSION = 1  # of its training


class Probe:
    """Reads factors and the class off images.

    Attributes:
        errors: the mean absolute error of each factor on the test images, `(F,)`. accuracy: of the class, there.
    """

    def __init__(self, network: ImageClassifier, num_factors: int, errors: Tensor, accuracy: float):
        self.network, self.num_factors, self.errors, self.accuracy = network, num_factors, errors, accuracy

    def factors(self, x: Tensor) -> Tensor:
        """`(N, F)` of images `(N, C, H, W)`."""
        return self.network.logits(x)[:, : self.num_factors]

    def classes(self, x: Tensor) -> Tensor:
        """The most probable classes, `(N,)`."""
        return self.network.logits(x)[:, self.num_factors :].argmax(1)


def independent_probe(
    data: ReferenceData,
    *,
    steps: int = 2500,
    device: torch.device | str = "cpu",
    cache: str | Path | None = None,
    progress: bool = True,
) -> Probe:
    """The probe of a data set, trained once on its pool with all factors and classes, and cached.

    Args:
        steps: Adam steps on batches of 128 with a cosine learning rate from 1e-3: the absolute error of the factors and
            the cross-entropy of the class. cache: see `caches.cache_folder`.
    """
    number = len(data.factor_names)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ImageClassifier(data.x_shape, number + len(data.class_names)).to(device)

        def make() -> dict[str, Any]:
            _train(network, data.pool, number, steps, f"independent probe on {data.name}", progress)
            logits = network.logits(data.test.x.to(device)).cpu()
            errors = (logits[:, :number] - data.test.factors).abs().mean(0)
            accuracy = (logits[:, number:].argmax(1) == data.test.classes).double().mean().item()
            weights = {name: value.cpu() for name, value in network.state_dict().items()}
            return {"weights": weights, "errors": errors, "accuracy": accuracy}

        digests = [digest(part) for part in (data.pool.x, data.test.x, data.pool.factors, data.pool.classes)]
        about = " ".join(map(str, (data.name, *digests, steps, VERSION)))
        path = cache_folder(cache) / f"probe-{data.name}-{hashlib.sha256(about.encode()).hexdigest()[:12]}.pt"

        def use(state: dict[str, Any]) -> tuple[Tensor, float]:
            check_fields(state, path, {"errors": Tensor, "accuracy": float})
            load_weights(network, state, path)
            return state["errors"], state["accuracy"]

        errors, accuracy = cached_checkpoint(path, "Probe", make, use)
    return Probe(network.eval(), number, errors, accuracy)


@torch.enable_grad()
def _train(network: ImageClassifier, pool: Shown, number: int, steps: int, what: str, progress: bool) -> None:
    device = next(network.parameters()).device
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    for step in steps_of(steps, what, progress):
        optimiser.param_groups[0]["lr"] = 5e-4 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(pool), (128,))
        out = network(pool.x[rows].to(device))
        loss = 4 * F.l1_loss(out[:, :number], pool.factors[rows].to(device))
        loss = loss + F.cross_entropy(out[:, number:], pool.classes[rows].to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
