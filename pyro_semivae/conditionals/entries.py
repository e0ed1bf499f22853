"""Conditionals for a plate of labels: entry i of the last batch dimension belongs to label i."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_semivae.conditionals.base import Conditional
from pyro_semivae.nn import positive


class PerLabelGaussian(Conditional):
    """p(z^i | y_i) = N(mu_i(y_i), sigma_i(y_i)^2), a scalar for each of L binary labels.

    Args:
        num_labels: L.
        separation: the initial distance between mu_i(0) and mu_i(1), in units of the initial standard deviations (1).

    Takes y `batch + (L,)` or broadcastable to it, in {0, 1}. Batch shape: the broadcast; event shape `()`.
    """

    def __init__(self, num_labels: int, separation: float = 2.0):
        super().__init__()
        start = torch.tensor([-0.5, 0.5]).mul(separation)[:, None].repeat(1, num_labels)
        self.loc = nn.Parameter(start)  # (2, L): off, on
        self.raw = nn.Parameter(torch.full((2, num_labels), math.log(math.e - 1)))

    def forward(self, y: Tensor) -> dist.TorchDistribution:
        scale = positive(self.raw)
        return dist.Normal(self.loc[0].lerp(self.loc[1], y), scale[0].lerp(scale[1], y))


class PerLabelNormal(Conditional):
    """N(z^i | 0, 1), a scalar for each of L labels; no parents. Batch shape `(L,)`, event shape `()`."""

    def __init__(self, num_labels: int):
        super().__init__()
        self.register_buffer("loc", torch.zeros(num_labels), persistent=False)
        self.register_buffer("scale", torch.ones(num_labels), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, self.scale)


class PerLabelBernoulli(Conditional):
    """q(y_i | z^i) = Ber(sigmoid(a_i z^i + b_i)): the diagonal classifier of CCVAE's Table 3; `z` is `batch + (L,)`.

    Args:
        num_labels: L.
        slope: the initial a_i. For p(z^i | y_i) = N(+-d / 2, 1), Bayes' rule has slope d.
    """

    def __init__(self, num_labels: int, slope: float = 1.0):
        super().__init__()
        self.slope = nn.Parameter(torch.full((num_labels,), slope))
        self.bias = nn.Parameter(torch.zeros(num_labels))

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=self.slope * z + self.bias)


class PerLabelAndRestGaussian(Conditional):
    """q(z_c, z_s | x), where z_c has a scalar for each label of a plate and z_s is a vector.

    Args:
        net: maps the parents `batch` to `batch + (2 * (L + D_s),)`; the last dimension of `batch` is the labels', 1.
        num_labels: L. rest: D_s.

    Returns q(z_c | .) with batch shape `(..., B, L)` and event shape `()`, and q(z_s | .) with batch shape
    `(..., B, 1)` and event shape `(D_s,)`.
    """

    def __init__(self, net: nn.Module, num_labels: int, rest: int):
        super().__init__()
        self.net = net
        self.sizes = [num_labels, rest]

    def forward(self, *parents: Tensor) -> tuple[dist.TorchDistribution, dist.TorchDistribution]:
        loc, raw = self.net(*parents).chunk(2, -1)
        (loc_c, loc_s), (scale_c, scale_s) = loc.split(self.sizes, -1), positive(raw).split(self.sizes, -1)
        return dist.Normal(loc_c.squeeze(-2), scale_c.squeeze(-2)), dist.Normal(loc_s, scale_s).to_event(1)
