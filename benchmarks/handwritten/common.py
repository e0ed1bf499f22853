"""What the hand-written programs share: densities, and the interface that the benchmark and its tests use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_semivae.data import Batch
from pyro_semivae.infer import Objective
from pyro_semivae.models import SemiVAE

Losses = dict[str, Tensor]  # "loss", the model's, and one for each critic; scalars


@dataclass(frozen=True)
class Case:
    """A model, its objective, synthetic data, and the same objective in plain torch.

    Attributes:
        make: returns a new model and its objective.
        rows: a number of rows -> arguments of `Batches` (and of `fit`): data, labels, some missing, and options.
        losses: the model, the critics that the objective owns, and a batch with the labelled rows first -> the losses.
        batch_sizes: the sizes to measure, of each part of a batch. adam: options of the model's optimiser.
        svi: whether `pyro.infer.SVI` can train it: not where critics have losses of their own.
        num_rows: of an epoch.
    """

    make: Callable[[], tuple[SemiVAE, Objective]]
    rows: Callable[[int], dict[str, Any]]
    losses: Callable[[SemiVAE, nn.ModuleDict, Batch], Losses]
    batch_sizes: tuple[int, ...]
    adam: Mapping[str, Any] = field(default_factory=dict)
    svi: bool = True
    num_rows: int = 12_000


def gaussian(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Location and scale from a network's output."""
    loc, scale = raw.chunk(2, -1)
    return loc, F.softplus(scale) + 1e-3


def noisy(loc: Tensor, scale: Tensor) -> Tensor:
    """A sample from a Gaussian."""
    return loc + scale * torch.randn(loc.shape, dtype=loc.dtype, device=loc.device)


def log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log N(z | loc, scale^2), summed over the last dimension."""
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def log_standard(z: Tensor) -> Tensor:
    """log N(z | 0, I), summed over the last dimension."""
    return (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(-1)


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """Minus the cross-entropy of pixels, summed over the last dimension."""
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
