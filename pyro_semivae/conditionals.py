"""A conditional is a module that returns a distribution given its parents.

Models and guides are lists of `pyro.sample` lines over conditionals; a conditional knows its family and
how a network's raw output becomes that family's parameters, and nothing of sites, plates or labels that
are missing. Conditionals broadcast on the left: extra batch dimensions of the parents (Monte-Carlo
samples, enumerated labels) become batch dimensions of the distribution.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from pyro_semivae.nn import positive


class Conditional(nn.Module, ABC):
    """A conditional density p(child | parents), the parents being the arguments of `forward`."""

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


class StandardNormal(Conditional):
    """N(z | 0, I) over vectors of `size` entries; no parents. Batch shape `()`."""

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("loc", torch.zeros(size), persistent=False)
        self.register_buffer("scale", torch.ones(size), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, self.scale).to_event(1)


class Categorical(Conditional):
    """p(y | parents) over `C` classes; `net` maps the parents to logits `batch + (C,)`."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, *parents: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=self.net(*parents))


class CategoricalPrior(Conditional):
    """A fixed p(y) over classes; no parents. Batch shape `()`.

    Args:
        probs: the `C` class probabilities. They are kept in the state dict.

    >>> CategoricalPrior(torch.tensor([0.25, 0.75]))().probs
    tensor([0.2500, 0.7500])
    """

    def __init__(self, probs: Tensor):
        super().__init__()
        self.register_buffer("logits", probs.log())

    def forward(self) -> dist.TorchDistribution:
        return dist.Categorical(logits=self.logits)


class BayesCategorical(Conditional):
    """The classifier that Bayes' rule gives: q(y | z) = p(z | y) p(y) / sum_y' p(z | y') p(y').

    It has no parameters of its own: it reads the `p_z` and `p_y` that it was made with (a model that replaces
    them must make it anew), so that the Jensen bound with this q(y | z) is the exact marginal.

    Args:
        p_z: conditional of z given an integer label.
        p_y: the `CategoricalPrior`.
    """

    def __init__(self, p_z: Conditional, p_y: CategoricalPrior):
        super().__init__()
        self._parts = (p_z, p_y)  # a tuple: the modules stay registered once, with the model

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        p_z, p_y = self._parts
        prior = p_y()
        y = torch.arange(prior.logits.shape[-1], device=z.device)  # (C,)
        log_joint = p_z(y).log_prob(z.unsqueeze(-2)) + prior.logits  # (..., C)
        return dist.Categorical(logits=log_joint)


class GreyBernoulli(dist.Bernoulli):
    """Bernoulli cross-entropy on grey levels: log p(x) = x log pi + (1 - x) log(1 - pi) for x in [0, 1].

    The usual likelihood of VAEs on grey-level images. It is **not normalised** over [0, 1] (at x in {0, 1}
    it is the Bernoulli), so bounds that use it are not densities of grey-level images. Values outside
    [0, 1] are an error with validation on. Samples are binary; `mean` is pi.

    >>> GreyBernoulli(logits=torch.tensor(0.0)).log_prob(torch.tensor(0.3)).item()
    -0.6931471824645996
    """

    support = constraints.unit_interval

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, self._get_checked_instance(GreyBernoulli, _instance))


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
