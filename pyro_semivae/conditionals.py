"""A conditional is a module that returns a distribution given its parents.

Models and guides are lists of `pyro.sample` lines over conditionals; a conditional knows its family and
how a network's raw output becomes that family's parameters, and nothing of sites, plates or labels that
are missing. Conditionals broadcast on the left: extra batch dimensions of the parents (Monte-Carlo
samples, enumerated labels) become batch dimensions of the distribution.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_semivae.distributions import GreyBernoulli, SquashedNormal
from pyro_semivae.nn import positive
from pyro_semivae.spaces import Labels


class Conditional(nn.Module, ABC):
    """A conditional density p(child | parents), the parents being the arguments of `forward`."""

    @classmethod
    def raw_shape(cls, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape that a network's output must have for a child of this event shape: here the same."""
        return tuple(shape)

    @abstractmethod
    def forward(self, *parents: Tensor) -> dist.TorchDistribution:
        """The distribution of the child given its parents `batch + event`."""


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

    @classmethod
    def raw_shape(cls, shape: Sequence[int]) -> tuple[int, ...]:
        (size,) = shape
        return (2 * size,)

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
    """q(z | x, y) = N(z | 0, I) q(z | x) prod_i q(z | y_i), normalised: a Gaussian expert for each thing that is known.

    Precisions add up, and means weighted by them (Wu and Goodman 2018, Section 2.2). Nothing known, it is the prior.

    Args:
        net: maps images to the raw parameters of their expert, `batch + (2 D_z,)`.
        num_values: E, the number of values that labels can take (of all labels together).
        size: D_z.

    `forward` takes images, or `None`, and `known`, `batch + (E,)`: 1 for each value that a label is known to have and
    0 elsewhere, or `None`. The experts of label values are tables of means and scales, `(E, D_z)`: what any network on
    such an input could say.
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
    """q(z | x_1, x_2, ...) = N(z | 0, I) prod_i q(z | x_i), normalised, over the x_i that are there.

    Args:
        nets: a network for each parent, to the raw parameters of its expert, `batch + (2 D_z,)`.
        size: D_z.

    `forward` takes as many parents as there are networks, each `batch + event`; a row of NaN, or `None`, is one that is
    missing, and says nothing.

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
    """A diagonal Gaussian conformed to a box, `[low, high]^D`: see `SquashedNormal`.

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


class NegativeBinomialCounts(Conditional):
    """p(x | size, parents) of counts, such as those of a cell's genes: independent negative binomials.

    The mean is size * softmax(net(parents)), and the variance mean + mean^2 / r with an r for each entry, learned.

    Args:
        net: maps the parents, less the first, to `batch + (D,)`. num_entries: D.

    `forward` takes the size, `batch + (1,)` and above 0, first: the sum of the counts, or whatever scales them.

    >>> p_x = NegativeBinomialCounts(nn.Identity(), 3)
    >>> p_x(torch.tensor([90.0]), torch.zeros(3)).mean
    tensor([30.0000, 30.0000, 30.0000], grad_fn=<MulBackward0>)
    """

    def __init__(self, net: nn.Module, num_entries: int):
        super().__init__()
        self.net = net
        self.log_r = nn.Parameter(torch.zeros(num_entries))

    def forward(self, size: Tensor, *parents: Tensor) -> dist.TorchDistribution:
        log_mean = self.net(*parents).log_softmax(-1) + size.log()
        return dist.NegativeBinomial(self.log_r.exp(), logits=log_mean - self.log_r).to_event(1)


class Label(Conditional):
    """p(y | parents) over a space of labels; `net` maps the parents to its raw parameters, `batch + (raw_size,)`.

    Args:
        space: of the labels. A label with entries has a plate of its own: `batch` then ends in its dimension, 1, and
            the batch shape is `(..., B, E)`.

    >>> from pyro_semivae.nn import MLP
    >>> from pyro_semivae.spaces import Binary, Classes
    >>> Label(Classes(3), MLP([(5,)], [8], (3,)))(torch.zeros(7, 5)).batch_shape
    torch.Size([7])
    >>> Label(Binary(3), MLP([(5,)], [8], (3,)))(torch.zeros(7, 1, 5)).batch_shape
    torch.Size([7, 3])
    """

    def __init__(self, space: Labels, net: nn.Module):
        super().__init__()
        self.space, self.net = space, net

    def extra_repr(self) -> str:
        return str(self.space)

    def forward(self, *parents: Tensor) -> dist.TorchDistribution:
        return self.space.distribution(self.net(*parents))


class LabelPrior(Conditional):
    """A fixed p(y) over a space of labels; no parents. Batch shape `()`, or `(E,)` of a label with entries.

    Args:
        space: of the labels. given: its parameters, see the space's `prior`: probabilities of the classes, that labels
            are on, or means and deviations. They are kept in the state dict.

    >>> from pyro_semivae.spaces import Classes
    >>> LabelPrior(Classes(2), torch.tensor([0.25, 0.75]))().probs
    tensor([0.2500, 0.7500])
    """

    def __init__(self, space: Labels, given: Tensor | None = None):
        super().__init__()
        self.space = space
        self.register_buffer("logits", space.logits(space.prior(given)))

    def extra_repr(self) -> str:
        return str(self.space)

    def forward(self) -> dist.TorchDistribution:
        return self.space.prior_distribution(self.logits)


class BayesLabel(Conditional):
    """The classifier that Bayes' rule gives: q(y | z) = p(z | y) p(y) / sum_y' p(z | y') p(y').

    It has no parameters of its own: it reads the `p_z` and `p_y` that it was made with (a model that replaces
    them must make it anew), so that the Jensen bound with this q(y | z) is the exact marginal.

    Args:
        p_z: conditional of z given a label; of a label with entries, of a scalar for each entry.
        p_y: the label's prior.
    """

    def __init__(self, p_z: Conditional, p_y: LabelPrior):
        super().__init__()
        self._parts = (p_z, p_y)  # a tuple: the modules stay registered once, with the model

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        p_z, p_y = self._parts
        return p_y.space.posterior(p_z, p_y.logits, z)


class GreyBernoulliImage(Conditional):
    """p(x | parents) over images in [0, 1]: independent `GreyBernoulli` pixels.

    Args:
        net: maps the parents to logits `batch + (C, H, W)`.

    Event shape `(C, H, W)`. See `GreyBernoulli` for what the density of grey levels means.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, *parents: Tensor) -> dist.TorchDistribution:
        return GreyBernoulli(logits=self.net(*parents)).to_event(3)


class UniformImage(Conditional):
    """An uninformative density of images: every pixel is a fair `GreyBernoulli`; no parents. Batch shape `()`.

    Args:
        x_shape: `(C, H, W)`.
    """

    def __init__(self, x_shape: Sequence[int]):
        super().__init__()
        self.register_buffer("logits", torch.zeros(*x_shape), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return GreyBernoulli(logits=self.logits).to_event(3)


class LaplaceImage(Conditional):
    """p(x | parents) over images: independent Laplace pixels of scale 1 around sigmoid(net) (CCVAE, C.3).

    Args:
        net: maps the parents to `batch + (C, H, W)`.

    Event shape `(C, H, W)`; `mean` is in [0, 1].
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, *parents: Tensor) -> dist.TorchDistribution:
        loc = self.net(*parents).sigmoid()
        return dist.Laplace(loc, torch.ones_like(loc)).to_event(3)


# Conditionals for a plate of labels: entry i of the last batch dimension belongs to label i.


class PerLabelGaussian(Conditional):
    """p(z^i | y_i) = N(mu_i(y_i), sigma_i(y_i)^2), a scalar for each of L binary labels.

    Args:
        num_labels: L.
        separation: how far apart mu_i(0) and mu_i(1) start, in units of the standard deviations they start with (1).

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
        slope: a_i at the start. For p(z^i | y_i) = N(+-d / 2, 1), Bayes' rule has slope d.
    """

    def __init__(self, num_labels: int, slope: float = 1.0):
        super().__init__()
        self.slope = nn.Parameter(torch.full((num_labels,), slope))
        self.bias = nn.Parameter(torch.zeros(num_labels))

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=self.slope * z + self.bias)


class PerLabelAndRestGaussian(Conditional):
    """q(z_c, z_s | x) where z_c has a scalar for each label of a plate and z_s is a vector of its own.

    Args:
        net: maps the parents `batch` to `batch + (2 * (L + D_s),)`, the last dimension of `batch` being the labels', 1.
        num_labels: L. rest: D_s.

    Returns q(z_c | .) of batch shape `(..., B, L)`, event shape `()`, and q(z_s | .) of batch shape `(..., B, 1)`,
    event shape `(D_s,)`.
    """

    def __init__(self, net: nn.Module, num_labels: int, rest: int):
        super().__init__()
        self.net = net
        self.sizes = [num_labels, rest]

    def forward(self, *parents: Tensor) -> tuple[dist.TorchDistribution, dist.TorchDistribution]:
        loc, raw = self.net(*parents).chunk(2, -1)
        (loc_c, loc_s), (scale_c, scale_s) = loc.split(self.sizes, -1), positive(raw).split(self.sizes, -1)
        return dist.Normal(loc_c.squeeze(-2), scale_c.squeeze(-2)), dist.Normal(loc_s, scale_s).to_event(1)
