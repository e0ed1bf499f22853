"""An independent network that predicts style and class from images, to evaluate generated images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.caches import cache_folder, cached_checkpoint
from pyro_semivae.checkpoints import load_weights
from pyro_semivae.data.reference import Shown
from pyro_semivae.digests import digest
from pyro_semivae.evaluators import ImageClassifier
from pyro_semivae.files import check_fields
from pyro_semivae.progress import steps_of

VERSION = 2  # version of the training; it is part of the cached file's name


class Probed(Protocol):
    """The images on which a probe is trained and tested, with the names of their factors, classes and attributes; see
    `data.ReferenceData`."""

    name: str
    factor_names: Sequence[str]
    class_names: Sequence[str]
    attribute_names: Sequence[str]
    pool: Shown
    test: Shown

    @property
    def x_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the images."""


class Probe:
    """Predicts factors, class and attribute from images, as far as the data set has them.

    Attributes:
        errors: the mean absolute error of each factor on the test images, `(F,)`.
        accuracies: the test accuracies of the class and of the attribute; NaN if the data have none.
    """

    def __init__(self, network: ImageClassifier, sizes: Sequence[int], errors: Tensor, accuracies: Sequence[float]):
        self.network, self.sizes, self.errors, self.accuracies = network, list(sizes), errors, tuple(accuracies)

    def factors(self, x: Tensor) -> Tensor:
        """The predicted factors, `(N, F)`, of images `(N, C, H, W)`."""
        return self._read(x)[0]

    def classes(self, x: Tensor) -> Tensor:
        """The most probable classes, `(N,)`."""
        return self._read(x)[1].argmax(1)

    def attributes(self, x: Tensor) -> Tensor:
        """The most probable attributes, `(N,)`."""
        return self._read(x)[2].argmax(1)

    def _read(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.network.logits(x).split(self.sizes, 1)


def independent_probe(
    data: Probed,
    *,
    steps: int = 2500,
    device: torch.device | str = "cpu",
    cache: str | Path | None = None,
    progress: bool = True,
) -> Probe:
    """The probe of a data set, trained once on its pool with all known factors, classes and attributes, and cached.

    Args:
        steps: the number of Adam steps on batches of 128, with a cosine learning rate from 1e-3. The loss is the
            absolute error of the factors plus the cross-entropies of class and attribute.
        cache: see `caches.cache_folder`.
    """
    sizes = [len(data.factor_names), len(data.class_names), len(data.attribute_names)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ImageClassifier(data.x_shape, sum(sizes)).to(device)

        def make() -> dict[str, Any]:
            _train(network, data.pool, sizes, steps, f"independent probe on {data.name}", progress)
            test = data.test
            factors, *logits = network.logits(test.x.to(device)).cpu().split(sizes, 1)
            accuracies = [
                _accuracy(of, values) for of, values in zip(logits, (test.classes, test.attributes), strict=True)
            ]
            weights = {name: value.cpu() for name, value in network.state_dict().items()}
            return {"weights": weights, "errors": (factors - test.factors).abs().mean(0), "accuracies": accuracies}

        pool = data.pool
        digests = [digest(part) for part in (pool.x, data.test.x, pool.factors, pool.classes, pool.attributes)]
        about = " ".join(map(str, (data.name, *digests, steps, VERSION)))
        path = cache_folder(cache) / f"probe-{data.name}-{hashlib.sha256(about.encode()).hexdigest()[:12]}.pt"

        def use(state: dict[str, Any]) -> tuple[Tensor, list[float]]:
            check_fields(state, path, {"errors": Tensor, "accuracies": list})
            load_weights(network, state, path)
            return state["errors"], state["accuracies"]

        errors, accuracies = cached_checkpoint(path, "Probe", make, use)
    return Probe(network.eval(), sizes, errors, accuracies)


def _accuracy(logits: Tensor, values: Tensor) -> float:
    known = values != -1
    return (logits[known].argmax(1) == values[known]).double().mean().item() if logits.shape[1] else math.nan


@torch.enable_grad()
def _train(network: ImageClassifier, pool: Shown, sizes: Sequence[int], steps: int, what: str, progress: bool) -> None:
    device = next(network.parameters()).device
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    for step in steps_of(steps, what, progress):
        optimiser.param_groups[0]["lr"] = 5e-4 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(pool), (128,))
        factors, *logits = network(pool.x[rows].to(device)).split(list(sizes), 1)
        loss = 4 * (factors - pool.factors[rows].to(device)).abs().sum() / max(factors.numel(), 1)
        for of, values in zip(logits, (pool.classes[rows], pool.attributes[rows]), strict=True):
            if of.shape[1] and (values != -1).any():
                loss = loss + F.cross_entropy(of, values.to(device), ignore_index=-1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
