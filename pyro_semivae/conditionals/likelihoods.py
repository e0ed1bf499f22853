"""Likelihoods: p(x | parents) over a space of data, whose entries are independent given the parents."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from pyro_semivae.conditionals.base import Conditional
from pyro_semivae.distributions import GreyBernoulli, GreyContinuousBernoulli, NegativeBinomial
from pyro_semivae.errors import InputError, check_number
from pyro_semivae.nn import positive
from pyro_semivae.spaces import Data
from pyro_semivae.spaces.base import absent_rows


class Likelihood(Conditional):
    """Abstract: p(x | parents) over a space of data.

    Args:
        space: the data's space. net: maps the parents to `batch + raw_shape(space)`.

    The event shape is that of one row. If a density has a location, this is the space's `mean_of(net)`: sigmoid(net)
    for images, net for vectors, exp(net) for counts.

    Attributes:
        support: the values that have a density; data are checked against it.
    """

    support: ClassVar[constraints.Constraint] = constraints.real

    def __init__(self, space: Data, net: nn.Module):
        super().__init__()
        self.space, self.net = space, net

    @classmethod
    def raw_shape(cls, space: Data) -> tuple[int, ...]:
        """The shape of the network's output per row: here one number for each entry of the data."""
        return space.shape

    def extra_repr(self) -> str:
        return str(self.space)

    @abstractmethod
    def entries(self, raw: Tensor) -> dist.TorchDistribution:
        """The distributions of the entries, `batch + shape`, parameterised by a network's output."""

    def forward(self, *parents: Tensor) -> dist.TorchDistribution:
        return self.entries(self.net(*parents)).to_event(len(self.space.shape))

    def check(self, values: Tensor, name: str) -> None:
        """Checks data that have passed the checks of their space.

        Raises:
            InputError: values are outside the support; missing rows, NaN throughout, are allowed.
        """
        if self.support in self.space.within:
            return
        outside = ~self.support.check(values) & ~absent_rows(values).view(-1, *[1] * (values.dim() - 1))
        if outside.any():
            got = values[outside][:5].tolist()
            accepted = _SUPPORTS.get(self.support, self.support)
            raise InputError(f"{name}: got {got}; {type(self).__name__} accepts {accepted}")


_SUPPORTS = {
    constraints.unit_interval: "numbers in [0, 1]",
    constraints.nonnegative_integer: "non-negative integers",
}


class BernoulliLikelihood(Likelihood):
    """Independent `GreyBernoulli` entries: the cross-entropy, normalised over 0 and 1 but not over [0, 1]."""

    support = constraints.unit_interval

    def entries(self, raw: Tensor) -> dist.TorchDistribution:
        return GreyBernoulli(logits=raw)


class ContinuousBernoulliLikelihood(Likelihood):
    """Independent continuous Bernoullis: the cross-entropy of grey levels, normalised over [0, 1].

    p(x) = C(pi) pi^x (1 - pi)^(1 - x), C(pi) = 2 atanh(1 - 2 pi) / (1 - 2 pi), 2 at pi = 1/2; the mean is not pi.

    Reference: G. Loaiza-Ganem, J. P. Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational
    autoencoders", NeurIPS 2019 (Eqs. 5 to 8).
    """

    support = constraints.unit_interval

    def entries(self, raw: Tensor) -> dist.TorchDistribution:
        return GreyContinuousBernoulli(logits=raw)


class LaplaceLikelihood(Likelihood):
    """Independent Laplace entries with one fixed scale (images: CCVAE, C.3, where it is 1).

    Args:
        scale: above 0.
    """

    def __init__(self, space: Data, net: nn.Module, scale: float = 1.0):
        super().__init__(space, net)
        self.scale = check_number("scale", scale, above=0)

    def extra_repr(self) -> str:
        return f"{self.space}, scale={self.scale:g}"

    def entries(self, raw: Tensor) -> dist.TorchDistribution:
        loc = self.space.mean_of(raw)
        return dist.Laplace(loc, torch.full_like(loc, self.scale))


class GaussianLikelihood(Likelihood):
    """Independent Gaussian entries with one scale, fixed or learned.

    Args:
        scale: sigma, above 1e-3; if it is learned, its initial value. learned: whether it is a parameter (the
            sigma-VAE): a scale that fits the data balances log p(x|.) against the latents' terms.

    Reference: O. Rybkin, K. Daniilidis, S. Levine, "Simple and Effective VAE Training with Calibrated Decoders", ICML
    2021.
    """

    FLOOR: ClassVar[float] = 1e-3

    def __init__(self, space: Data, net: nn.Module, scale: float = 1.0, learned: bool = False):
        super().__init__(space, net)
        self.scale = check_number("scale", scale, above=self.FLOOR)
        above = self.scale - self.FLOOR
        raw = torch.tensor(above + math.log(-math.expm1(-above)))  # the inverse of `positive`
        self.raw = nn.Parameter(raw) if learned else None

    def extra_repr(self) -> str:
        return f"{self.space}, scale={self.scale:g}{', learned' if self.raw is not None else ''}"

    def entries(self, raw: Tensor) -> dist.TorchDistribution:
        loc = self.space.mean_of(raw)
        scale = torch.full_like(loc, self.scale) if self.raw is None else positive(self.raw, self.FLOOR).expand_as(loc)
        return dist.Normal(loc, scale)


class HeteroscedasticGaussianLikelihood(Likelihood):
    """Independent Gaussian entries with means and scales from the network: `raw_shape` has twice as many channels.

    At entries that are constant in the data the density could grow without bound; sigma >= 1e-3 limits it.
    """

    @classmethod
    def raw_shape(cls, space: Data) -> tuple[int, ...]:
        return (2 * space.shape[0], *space.shape[1:])

    def entries(self, raw: Tensor) -> dist.TorchDistribution:
        loc, scale = raw.chunk(2, -len(self.space.shape))
        return dist.Normal(self.space.mean_of(loc), positive(scale))


class _CountLikelihood(Likelihood):
    """Abstract: a likelihood of counts with the mean exp(net), or size * softmax(net).

    Args:
        sized: whether the first parent is a size, `batch + (1,)` and above 0: the sum of the means, such as the total
            number of molecules observed in a cell. `net` takes the other parents.
    """

    support = constraints.nonnegative_integer

    def __init__(self, space: Data, net: nn.Module, sized: bool = False):
        if self.support not in space.within:
            raise InputError(f"likelihood: got {type(self).__name__} for {space}; it accepts Counts")
        super().__init__(space, net)
        self.sized = sized

    def extra_repr(self) -> str:
        return f"{self.space}{', sized' if self.sized else ''}"

    def forward(self, *parents: Tensor) -> dist.TorchDistribution:
        if self.sized:
            size, *parents = parents
            log_mean = self.net(*parents).log_softmax(-1) + size.log()
        else:
            log_mean = self.net(*parents)
        return self.entries(log_mean).to_event(len(self.space.shape))


class PoissonLikelihood(_CountLikelihood):
    """Independent Poisson counts.

    Args:
        sized: whether the first parent is the size that the means sum to.

    >>> from pyro_semivae.spaces import Counts
    >>> PoissonLikelihood(Counts(3), nn.Identity())(torch.zeros(5, 3)).mean.shape
    torch.Size([5, 3])
    """

    def entries(self, raw: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(raw.exp())


class NegativeBinomialLikelihood(_CountLikelihood):
    """Independent negative binomial counts with the variance mean + mean^2 / r and a learned r for each entry.

    Args:
        sized: whether the first parent is the size that the means sum to.

    >>> from pyro_semivae.spaces import Counts
    >>> p_x = NegativeBinomialLikelihood(Counts(3), nn.Identity(), sized=True)
    >>> p_x(torch.tensor([90.0]), torch.zeros(3)).mean
    tensor([30.0000, 30.0000, 30.0000], grad_fn=<MulBackward0>)
    """

    def __init__(self, space: Data, net: nn.Module, sized: bool = False):
        super().__init__(space, net, sized)
        self.log_r = nn.Parameter(torch.zeros(space.shape))

    def entries(self, raw: Tensor) -> dist.TorchDistribution:
        return NegativeBinomial(self.log_r.exp(), raw - self.log_r)


class UniformImage(Conditional):
    """An uninformative density of images: every pixel is a `GreyBernoulli` with pi = 1/2; no parents. Batch shape `()`.

    Args:
        x_shape: `(C, H, W)`.
    """

    def __init__(self, x_shape: Sequence[int]):
        super().__init__()
        self.register_buffer("logits", torch.zeros(*x_shape), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return GreyBernoulli(logits=self.logits).to_event(3)
