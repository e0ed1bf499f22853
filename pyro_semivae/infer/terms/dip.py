"""Moment matching of the aggregate posterior: DIP-VAE I and II (Kumar et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, check_choice, check_number
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.tables import masked_rows


class DIPTerm(Term):
    r"""Minus the squared distance of the aggregate posterior's covariance from the identity, a scalar per batch.

    .. math::
        -\sum_{i \ne j} C_{ij}^2 - r \sum_i (C_{ii} - 1)^2

    C is the covariance of the means of q(z | x) over the batch (DIP-VAE-I), plus the mean of its variances (II; the
    law of total covariance). The term's weight is lambda_od; `ratio` is lambda_d / lambda_od.

    Args:
        kind: "I" or "II". ratio: r; default as in the paper: 10 for I, 1 for II.
        latents: names of the sites (default: all), which are flattened and concatenated.

    Raises:
        InputError: when evaluated: a site is not a latent; a batch has one row.
    """

    whole_batch = True

    def __init__(self, kind: Literal["I", "II"] = "I", *latents: str, ratio: float | None = None):
        self.kind, self.latents = check_choice("kind", kind, ("I", "II")), latents
        default = 10.0 if kind == "I" else 1.0
        self.ratio = default if ratio is None else check_number("ratio", ratio, least=0)

    def values(self, run: Run) -> Mapping[str, Tensor]:
        names = self.latents or run.latents
        if unknown := [name for name in names if name not in run.latents]:
            raise InputError(f"DIPTerm: got {unknown}; expected latents, {', '.join(run.latents)}")
        densities = [run.guide.nodes[name]["fn"] for name in names]
        mean = torch.cat([fn.mean.flatten(1) for fn in densities], 1)  # (B, D)
        if len(mean) < 2:
            raise InputError("DIPTerm: got a batch of one row; expected two or more")
        counts = masked_rows(torch.ones_like(mean[:, 0]), run.model.nodes[names[0]])
        weights = (counts / counts.sum().clamp(min=1)).unsqueeze(1)  # of the unmasked rows
        centred = mean - (weights * mean).sum(0)
        covariance = centred.T @ (weights * centred)
        if self.kind == "II":
            variance = torch.cat([fn.variance.flatten(1) for fn in densities], 1)
            covariance = covariance + (weights * variance).sum(0).diag()
        diagonal = covariance.diagonal()
        off = covariance.square().sum() - diagonal.square().sum()
        return {f"-DIP-{self.kind}({','.join(names)})": -off - self.ratio * (diagonal - 1).square().sum()}
