"""Conditionals of labels, over a space of labels."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_semivae.conditionals.base import Conditional
from pyro_semivae.nn import positive
from pyro_semivae.spaces import Labels


class Label(Conditional):
    """p(y | parents) over a space of labels; `net` maps the parents to its raw parameters, `batch + (raw_size,)`.

    Args:
        space: the labels' space. Entries of a label have a plate of their own: `batch` then ends in their dimension, 1,
            and the distribution's batch shape is `(..., B, E)`.

    >>> import torch
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


class LabelAndGaussian(Conditional):
    """q(y | x) q(z | x) from one network: a label, and a diagonal Gaussian over vectors.

    Args:
        space: the labels' space. net: maps the parents to `batch + (raw_size + 2 * size,)`. size: the size of the
            vectors; 0 gives an empty latent, whose density is 1.

    Returns both distributions.
    """

    def __init__(self, space: Labels, net: nn.Module, size: int):
        super().__init__()
        self.space, self.net, self.size = space, net, size

    def extra_repr(self) -> str:
        return f"{self.space}, {self.size}"

    def forward(self, *parents: Tensor) -> tuple[dist.TorchDistribution, ...]:
        raw = self.net(*parents)
        of_label, loc, scale = raw.split([self.space.raw_size, self.size, self.size], -1)
        return self.space.distribution(of_label), dist.Normal(loc, positive(scale)).to_event(1)


class LabelPrior(Conditional):
    """A fixed p(y) over a space of labels; no parents. Batch shape `()`, or `(E,)` for a label with entries.

    Args:
        space: the labels' space. given: the parameters, see the space's `prior`: probabilities of the classes or of
            labels being 1, or means and standard deviations. They are in the state dict, in the default dtype.

    >>> import torch
    >>> from pyro_semivae.spaces import Classes
    >>> LabelPrior(Classes(2), torch.tensor([0.25, 0.75]))().probs
    tensor([0.2500, 0.7500])
    """

    def __init__(self, space: Labels, given: Tensor | None = None):
        super().__init__()
        self.space = space
        self.register_buffer("logits", space.logits(space.prior(given).to(torch.get_default_dtype())))

    def extra_repr(self) -> str:
        return str(self.space)

    def forward(self) -> dist.TorchDistribution:
        return self.space.prior_distribution(self.logits)


class BayesLabel(Conditional):
    """The classifier from Bayes' rule: q(y | z) = p(z | y) p(y) / sum_y' p(z | y') p(y').

    It has no parameters of its own but uses the given `p_z` and `p_y` (a model that replaces them must create it
    again). The Jensen bound with this q(y | z) is the exact marginal.

    Args:
        p_z: the conditional of z given the label; for a label with entries, of a scalar for each entry.
        p_y: the label's prior.
    """

    def __init__(self, p_z: Conditional, p_y: LabelPrior):
        super().__init__()
        self._parts = (p_z, p_y)  # a tuple: the modules stay registered once, with the model

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        p_z, p_y = self._parts
        return p_y.space.posterior(p_z, p_y.logits, z)
