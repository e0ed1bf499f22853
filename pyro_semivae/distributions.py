"""Distributions that torch and Pyro do not provide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.nn import functional as F


class GreyBernoulli(dist.Bernoulli):
    """Bernoulli cross-entropy on grey levels: log p(x) = x log pi + (1 - x) log(1 - pi) for x in [0, 1].

    The usual likelihood of VAEs on grey-level images. It is **not normalised** over [0, 1] (for x in {0, 1}
    it is the Bernoulli), so bounds that use it do not bound a density of grey-level images. With validation, values
    outside [0, 1] are an error. Samples are binary; `mean` is pi.

    >>> GreyBernoulli(logits=torch.tensor(0.0)).log_prob(torch.tensor(0.3)).item()
    -0.6931471824645996
    """

    support = constraints.unit_interval

    def expand(self, batch_shape: torch.Size, _instance: GreyBernoulli | None = None) -> GreyBernoulli:
        return super().expand(batch_shape, self._get_checked_instance(GreyBernoulli, _instance))


class GreyContinuousBernoulli(dist.ContinuousBernoulli):
    """A continuous Bernoulli parameterised by its logit l, exact for any l; torch's uses clamped probabilities.

    p(x) = l exp(l x) / (exp(l) - 1) on [0, 1], and 1 for l = 0. In float32 torch's log-density is too small by .06 nats
    per pixel at l = 17 and by 1.1 at l = 50, and its mean is at most .94. (Loaiza-Ganem and Cunningham 2019, Eq. 5,
    with l = log pi - log(1 - pi).) Entropy, variance and `cdf` are torch's.

    >>> GreyContinuousBernoulli(logits=torch.tensor([0.0, 50.0])).log_prob(torch.tensor(1.0))
    tensor([0.0000, 3.9120])
    """

    NEAR: ClassVar[float] = 0.05  # below it a series is used, with an error of less than 1e-13

    def expand(
        self, batch_shape: torch.Size, _instance: GreyContinuousBernoulli | None = None
    ) -> GreyContinuousBernoulli:
        return super().expand(batch_shape, self._get_checked_instance(GreyContinuousBernoulli, _instance))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Whether l is near 0; l where it is, else 0; |l| where it is not, else 1: all formulas stay finite."""
        near = self.logits.abs() < self.NEAR
        return near, torch.where(near, self.logits, 0.0), torch.where(near, 1.0, self.logits).abs()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        near, small, large = self._parts()
        series = small / 2 + small**2 / 24 - small**4 / 2880
        far = self.logits.clamp(min=0) + (-torch.expm1(-large)).log() - large.log()
        return self.logits * value - torch.where(near, series, far)  # log((exp(l) - 1) / l)

    @property
    def mean(self) -> Tensor:
        near, small, large = self._parts()
        far = -1 / torch.expm1(-large) - 1 / large
        return torch.where(near, 0.5 + small / 12 - small**3 / 720, torch.where(self.logits > 0, far, 1 - far))

    def icdf(self, value: Tensor) -> Tensor:
        rises, size = self.logits > 0, self.logits.abs().clamp(min=1e-6)  # nearly uniform below
        falling = torch.log1p(torch.where(rises, 1 - value, value) * torch.expm1(-size)) / -size
        return torch.where(rises, 1 - falling, falling).clamp(0, 1)


class NegativeBinomial(dist.NegativeBinomial):
    """A negative binomial with r `total_count` and logits l; terms without l are computed once for all values of l.

    Torch's computes its three lgamma, the slowest of all, anew for each value of an enumerated parent.

    >>> given_r_alone = NegativeBinomial(2.0, torch.zeros(5, 3))
    >>> given_r_alone.log_prob(torch.tensor([0.0, 1.0, 2.0])).shape
    torch.Size([5, 3])
    """

    def __init__(self, total_count: Tensor | float, logits: Tensor, validate_args: bool | None = None):
        self.r = total_count if isinstance(total_count, Tensor) else logits.new_full((), total_count)
        super().__init__(self.r, logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: NegativeBinomial | None = None) -> NegativeBinomial:
        new = self._get_checked_instance(NegativeBinomial, _instance)
        new.r = self.r
        return super().expand(batch_shape, new)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        ways = torch.lgamma(value + self.r) - torch.lgamma(1 + value) - torch.lgamma(self.r)
        ways = ways.masked_fill(value + self.r == 0, 0.0)  # r that is rounded to 0
        return ways + value * self.logits - (value + self.r) * F.softplus(self.logits)


class _Squash(dist.transforms.SigmoidTransform):
    """The sigmoid, whose inverse clamps values that round to 0 or 1 to the float's precision."""

    def __init__(self) -> None:
        super().__init__(cache_size=1)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.logit(eps=torch.finfo(y.dtype).eps)


class SquashedNormal(dist.TransformedDistribution):
    """A Gaussian pushed through the scaled sigmoid z = low + (high - low) sigmoid(u), elementwise.

    log q(z) = log N(u | loc, scale^2) - log(high - low) - log sigmoid(u) - log sigmoid(-u) (Gemp et al. 2017, Appendix
    A, whose Eqs. 14 to 16 print the sigmoid of (z - low) / (high - low) in place of this ratio itself). The u of the
    last sample is cached, so that its density is exact if z rounds to an end of the interval. `mean` uses quadrature,
    with an error of at most 1e-12 of the interval's length for any location and scale (in float64).

    >>> q = SquashedNormal(torch.tensor(0.0), torch.tensor(1.0), -1.5, 1.5)
    >>> bool(q.mean.abs() < 1e-6), bool(q.sample((100,)).abs().max() < 1.5)
    (True, True)
    """

    def __init__(self, loc: Tensor, scale: Tensor, low: float, high: float):
        self.low, self.high = low, high
        squash = [_Squash(), dist.transforms.AffineTransform(low, high - low, cache_size=1)]
        super().__init__(dist.Normal(loc, scale), squash)

    def expand(self, batch_shape: torch.Size, _instance: SquashedNormal | None = None) -> SquashedNormal:
        new = self._get_checked_instance(SquashedNormal, _instance)
        new.low, new.high = self.low, self.high
        return super().expand(batch_shape, new)

    @property
    def mean(self) -> Tensor:
        return self.low + (self.high - self.low) * mean_of_sigmoid(self.base_dist.loc, self.base_dist.scale)


def mean_of_sigmoid(loc: Tensor, scale: Tensor) -> Tensor:
    """E[sigmoid(loc + scale e)] for a standard Gaussian e; `loc` and `scale` have the same shape.

    It uses the trapezoid rule, whose error decreases exponentially with the number of nodes for smooth integrands. For
    scales up to 1 the integrand is the sigmoid as a function of e. For larger scales this approaches a step; there the
    mean is the probability that l < loc + scale e for a logistic l, E_l[Phi((loc - l) / scale)], which is smooth in l.

    >>> mean_of_sigmoid(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 20.0]))
    tensor([0.5000, 0.5199])
    """
    e, logistic = (torch.arange(-end, end + 0.25, 0.5, dtype=loc.dtype, device=loc.device) for end in (8, 32))
    # Each scale is clamped to the range of its rule, so that the gradients of the unused rule are finite.
    small, large = scale.clamp(max=1).unsqueeze(-1), scale.clamp(min=1).unsqueeze(-1)
    at_small = (torch.sigmoid(loc.unsqueeze(-1) + small * e) * torch.softmax(-0.5 * e**2, -1)).sum(-1)  # (..., 33)
    weights = torch.softmax(F.logsigmoid(logistic) + F.logsigmoid(-logistic), -1)  # the logistic density
    at_large = (torch.special.ndtr((loc.unsqueeze(-1) - logistic) / large) * weights).sum(-1)  # (..., 129)
    return torch.where(scale <= 1, at_small, at_large)


class RelaxedLogits(LogitRelaxedBernoulli):
    """The logit of a relaxed Bernoulli, exact for large logits; torch's clamps its samples, but not its density.

    (Maddison et al. 2017, Appendix B: l = (logits + logistic noise) / temperature.)
    """

    has_rsample = True  # torch's class does not declare it

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        noise = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device).logit(eps=1e-7)
        return (self.logits + noise) / self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        noise = value * self.temperature - self.logits
        return self.temperature.log() - noise - 2 * F.softplus(-noise)

    def expand(self, batch_shape: torch.Size, _instance: RelaxedLogits | None = None) -> RelaxedLogits:
        return super().expand(batch_shape, self._get_checked_instance(RelaxedLogits, _instance))


class KnownWhere(dist.TorchDistribution):
    """A distribution over vectors that is a point mass in some rows, where its log-density is set to 0.

    The density of a point mass is infinite; in a bound it occurs in both model and guide, and cancels. In these rows
    `log_prob` ignores the value.

    Args:
        base: over vectors, batch shape `(..., B)` or `()`. known: `(B,)`, where the vector is `value`, `(D,)`.

    >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    >>> d = KnownWhere(base, torch.tensor([True, False]), torch.tensor([5.0, 7.0]))
    >>> d.rsample()[0], d.log_prob(torch.zeros(2, 2))
    (tensor([5., 7.]), tensor([ 0.0000, -1.8379]))
    """

    has_rsample = True
    arg_constraints: ClassVar[dict] = {}

    def __init__(self, base: dist.TorchDistribution, known: Tensor, value: Tensor):
        self.base, self.known, self.value = base, known, value
        batch_shape = torch.broadcast_shapes(base.batch_shape, known.shape)
        super().__init__(batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return self.base.support

    def expand(self, batch_shape: torch.Size, _instance: KnownWhere | None = None) -> KnownWhere:
        return KnownWhere(self.base.expand(batch_shape), self.known.expand(batch_shape), self.value)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        return self.put_in(self.base.expand(self.batch_shape).rsample(sample_shape))

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        seen = torch.where(self.known.unsqueeze(-1), torch.zeros_like(value), value)  # keeps gradients finite
        return torch.where(self.known, 0.0, self.base.log_prob(seen))

    @property
    def mean(self) -> Tensor:
        return self.put_in(self.base.mean)

    @property
    def variance(self) -> Tensor:
        return torch.where(self.known.unsqueeze(-1), 0.0, self.base.variance)

    def put_in(self, drawn: Tensor) -> Tensor:
        """The values, with the known vector in the rows where it is known."""
        return torch.where(self.known.unsqueeze(-1), self.value, drawn)
