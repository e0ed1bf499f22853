"""The reconstruction error of images at several scales."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.errors import InputError, check_count, check_number
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.tables import masked


class MultiScaleTerm(Term):
    r"""Minus the L1 distance between an image and its reconstruction at K scales, in units of a Laplace scale.

    .. math::
        -\frac{1}{K \lambda} \sum_{k=0}^{K-1} 4^k \lVert P_k(x) - P_k(E[x|z]) \rVert_1

    P_k averages 2^k x 2^k pixels (an odd row or column is left out), and 4^k compensates for their smaller number. Up
    to a constant it is the log-likelihood of a density of x with dependent entries; with one scale, of independent
    Laplace pixels. It replaces log p(x|z) where thin lines matter: the pixelwise median of a thin line at a random
    position is an image without the line, but the mean of a patch contains it.

    Args:
        scales: K. scale: lambda.

    Raises:
        InputError: when evaluated: data are not images, or too small.
    """

    def __init__(self, scales: int = 3, scale: float = 1.0):
        self.scales, self.scale = check_count("scales", scales), check_number("scale", scale, above=0)

    def values(self, run: Run) -> Mapping[str, Tensor]:
        name = next(name for name in run.roles.data if run.model.nodes[name]["value"].is_floating_point())
        site = run.model.nodes[name]
        difference = site["value"] - site["fn"].mean
        least = 2 ** (self.scales - 1)
        if difference.dim() != 4 or min(difference.shape[2:]) < least:
            got = f"data of shape {tuple(difference.shape)}"
            raise InputError(
                f"MultiScaleTerm: got {got}; expected images (B, C, H, W) of at least {least} x {least} pixels"
            )
        total: Tensor | float = 0.0
        for k in range(self.scales):
            total = total + 4**k * difference.abs().flatten(1).sum(1)
            difference = F.avg_pool2d(difference, 2) if k + 1 < self.scales else difference
        return {f"-|{name} - E[{name}|.]|": masked(-total / (self.scales * self.scale), site)}
