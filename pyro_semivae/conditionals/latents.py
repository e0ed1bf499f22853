"""Conditionals of latents: vectors of Gaussians, products of experts, boxes."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_semivae.conditionals.base import Conditional
from pyro_semivae.distributions import SquashedNormal
from pyro_semivae.nn import positive


class Gaussian(Conditional):
    """Diagonal Gaussian over vectors: p(z | parents) = N(z | mu, diag(sigma^2)).

    Args:
        net: maps the parents to `batch + (2 * D,)`, the locations and the raw scales.

    `sigma = softplus(raw) + 1e-3`. Batch shape: the parents' broadcast; event shape `(D,)`.

    >>> from pyro_semivae.nn import MLP
    >>> Gaussian(MLP([(5,)], [8], (2 * 3,)))(torch.zeros(7, 5)).event_shape
    torch.Size([3])
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, *parents: Tensor) -> dist.TorchDistribution:
        loc, raw = self.net(*parents).chunk(2, -1)
        return dist.Normal(loc, positive(raw)).to_event(1)


class SplitGaussian(Conditional):
    """Several independent diagonal Gaussians from one network, e.g. q(z_c, z_s | x) = q(z_c | x) q(z_s | x).

    Args:
        net: maps the parents to `batch + (2 * sum(sizes),)`.
        sizes: the event size of each Gaussian. A size of 0 gives an empty latent, whose density is 1.

    Returns a tuple with one distribution per size.
    """

    def __init__(self, net: nn.Module, sizes: Sequence[int]):
        super().__init__()
        self.net = net
        self.sizes = list(sizes)

    def forward(self, *parents: Tensor) -> tuple[dist.TorchDistribution, ...]:
        loc, raw = self.net(*parents).chunk(2, -1)
        scale = positive(raw)
        parts = zip(loc.split(self.sizes, -1), scale.split(self.sizes, -1), strict=True)
        return tuple(dist.Normal(m, s).to_event(1) for m, s in parts)


class ProductOfExperts(Conditional):
    """q(z | x, y) = N(z | 0, I) q(z | x) prod_i q(z | y_i), normalised: one Gaussian expert per observed modality.

    Precisions add up, and so do the means weighted by them (Wu and Goodman 2018, Section 2.2). If no modality is
    observed, it is the prior.

    Args:
        net: maps images to the raw parameters of their expert, `batch + (2 D_z,)`.
        num_values: E, the total number of values of all labels.
        size: D_z.

    `forward` takes images, or `None`, and `known`, `batch + (E,)`: 1 for each value that a label is known to have and
    0 elsewhere, or `None`. The experts of label values are tables of means and scales, `(E, D_z)`, which can represent
    any network on such an input.
    """

    def __init__(self, net: nn.Module, num_values: int, size: int):
        super().__init__()
        self.net, self.size = net, size
        self.loc = nn.Parameter(0.1 * torch.randn(num_values, size))
        self.raw = nn.Parameter(torch.full((num_values, size), 0.54))  # scales of 1

    def forward(self, x: Tensor | None = None, known: Tensor | None = None) -> dist.TorchDistribution:
        precision, weighted = self.loc.new_ones(self.size), self.loc.new_zeros(self.size)
        if x is not None:
            loc, raw = self.net(x).chunk(2, -1)
            of_x = positive(raw) ** -2
            precision, weighted = precision + of_x, weighted + of_x * loc
        if known is not None:
            of_y = positive(self.raw) ** -2
            each = known.unsqueeze(-1) * of_y  # batch + (E, D_z); no matrix product, which autocast would round
            precision, weighted = precision + each.sum(-2), weighted + (each * self.loc).sum(-2)
        return dist.Normal(weighted / precision, precision**-0.5).to_event(1)


class GaussianExperts(Conditional):
    """q(z | x_1, x_2, ...) = N(z | 0, I) prod_i q(z | x_i), normalised, over the x_i that are not missing.

    Args:
        nets: a network for each parent, which maps it to the raw parameters of its expert, `batch + (2 D_z,)`.
        size: D_z.

    `forward` takes one parent per network, each `batch + event`. A row of NaN, or `None`, is missing, and has no
    expert.

    >>> experts = GaussianExperts([nn.Linear(3, 4), nn.Linear(2, 4)], 2)
    >>> experts(torch.full((5, 3), torch.nan), None).mean.abs().max().item()
    0.0
    """

    def __init__(self, nets: Sequence[nn.Module], size: int):
        super().__init__()
        self.nets, self.size = nn.ModuleList(nets), size
        self.register_buffer("one", torch.ones(size), persistent=False)

    def forward(self, *parents: Tensor | None) -> dist.TorchDistribution:
        precision, weighted = self.one, torch.zeros_like(self.one)
        for net, x in zip(self.nets, parents, strict=True):
            if x is not None:
                raw = net(x.nan_to_num())
                events = x.dim() - (raw.dim() - 1)
                there = ~x[(..., *(0,) * events)].isnan().unsqueeze(-1)
                loc, raw = raw.chunk(2, -1)
                of_x = torch.where(there, positive(raw) ** -2, 0.0)
                precision, weighted = precision + of_x, weighted + of_x * loc
        return dist.Normal(weighted / precision, precision**-0.5).to_event(1)


class StandardNormal(Conditional):
    """N(z | 0, I) over vectors of `size` entries; no parents. Batch shape `()`."""

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("loc", torch.zeros(size), persistent=False)
        self.register_buffer("scale", torch.ones(size), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, self.scale).to_event(1)


class UniformBox(Conditional):
    """A uniform p(z) on `[low, high]^size`; no parents. Batch shape `()`."""

    def __init__(self, size: int, low: float, high: float):
        super().__init__()
        self.register_buffer("low", torch.full((size,), low), persistent=False)
        self.register_buffer("high", torch.full((size,), high), persistent=False)

    def extra_repr(self) -> str:
        return f"size={len(self.low)}, low={self.low[0]:g}, high={self.high[0]:g}"

    def forward(self) -> dist.TorchDistribution:
        return dist.Uniform(self.low, self.high).to_event(1)


class SquashedGaussian(Conditional):
    """A diagonal Gaussian squashed into a box, `[low, high]^D`, see `SquashedNormal`.

    Args:
        net: maps the parents to `batch + (2 * D,)`, the locations and the raw scales before the squashing.
    """

    def __init__(self, net: nn.Module, low: float, high: float):
        super().__init__()
        self.net, self.low, self.high = net, low, high

    def extra_repr(self) -> str:
        return f"low={self.low:g}, high={self.high:g}"

    def forward(self, *parents: Tensor) -> dist.TorchDistribution:
        loc, raw = self.net(*parents).chunk(2, -1)
        return SquashedNormal(loc, positive(raw), self.low, self.high).to_event(1)
