"""M2, the semi-supervised VAE with the label as a latent (Kingma, Rezende, Mohamed, Welling, NIPS 2014)."""

from __future__ import annotations

from collections.abc import Callable

import pyro
from torch import Tensor

from pyro_semivae.conditionals import (
    Gaussian,
    Label,
    LabelPrior,
    StandardNormal,
)
from pyro_semivae.infer import Objective
from pyro_semivae.infer.weights import Weight
from pyro_semivae.models import parts
from pyro_semivae.models.base import SemiVAE
from pyro_semivae.nn import Networks
from pyro_semivae.spaces import Data, Labels


class M2(SemiVAE):
    """A VAE in which the label, where it is missing, is a latent.

    ::

        p(y) p(z) p(x | y, z)          generative model
        q(y | x) q(z | x, y)           inference model

    ====  ======  ========================================  ===========================================================
    site  symbol  shape: one class label | L binary labels  role
    ====  ======  ========================================  ===========================================================
    y     y       (B,) | (B, L)                             label: observed, or marginalised (or sampled) where missing
    z     z       (B, D_z) | (B, 1, D_z)                    latent
    x     x       (B, C, H, W) | (B, 1, C, H, W)            data
    ====  ======  ========================================  ===========================================================

    Args:
        x_shape: `(C, H, W)` of the images, float in [0, 1].
        labels: the label space, `Classes(10)` or `Binary(18)`; for binary labels q(y | x) is a product over labels.
        z: D_z. networks, likelihood, prior: see `CCVAE`. With the true frequencies of unbalanced classes as the prior,
            rare classes are found less often than with a uniform prior (docs/labels.md).

    The objective is `TraceLabels_ELBO` with a `ClassifierTerm`: Kingma et al.'s Eqs. 6 to 9, with their alpha as the
    term's weight: 1 in `elbo()`, more in `elbo_for(y)`, the default of `fit`. A missing class label is marginalised.
    Missing binary labels are all parents of x, so that marginalising them would need 2^L terms. They are sampled
    instead: relaxed by default, or with the score-function gradient (`missing_labels="reinforce"`).

    Differs from the original: 600-600 ReLU networks as in the other models (there: one or two softplus layers of 500
    or 600); no prior on the weights.

    >>> from pyro_semivae.spaces import Classes
    >>> from pyro_semivae.nn import MLPs
    >>> import torch
    >>> vae = M2((1, 8, 8), Classes(10), networks=MLPs((16,)))
    >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([3, -1, -1, 0])
    >>> list(vae.elbo().terms(vae.model, vae.guide, x, y))[:3]
    ['log p(x|y,z)', 'log p(z)', '-log q(z|x,y)']

    Reference: D. P. Kingma, D. J. Rezende, S. Mohamed, M. Welling, "Semi-supervised Learning with Deep Generative
    Models", NIPS 2014.
    """

    characteristic = ("y",)

    def __init__(
        self,
        x_shape: tuple[int, int, int] | Data,
        labels: Labels,
        *,
        z: int = 20,
        networks: Networks | None = None,
        likelihood: parts.MakeLikelihood | None = None,
        prior: Tensor | None = None,
    ):
        super().__init__(x=x_shape, y=labels)
        parts.check_sizes(z=z)
        networks, likelihood = parts.defaults(self.spaces["x"], networks, likelihood)
        self.p_y = LabelPrior(labels, prior)
        self.p_z = StandardNormal(z)
        self.p_x = parts.decoder(likelihood, networks, [labels, z], self.spaces["x"])
        self.q_y = Label(labels, networks.encoder(self.x_shape, labels.raw_size))
        self.q_z = Gaussian(networks.encoder(self.x_shape, 2 * z, [labels]))

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        self.register()
        with self.rows(x, y) as (x, y):
            with self.entries("y"):
                y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(y, z), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        with self.rows(x, y) as (x, y):
            with self.entries("y"):
                y = pyro.sample("y", self.q_y(x), obs=y, infer={"enumerate": "parallel"})
            pyro.sample("z", self.q_z(x, y))

    def elbo(self, *, classifier_weight: Weight = 1.0, **options) -> Objective:
        """The M2 objective; see `TraceLabels_ELBO` for its options.

        Args:
            classifier_weight: alpha, the weight of the `ClassifierTerm`; 0 for the bound alone.
        """
        options = {"split_labelled": self.labels.entries is None, **parts.drawn_labels(self.labels, options)}
        return parts.classified(self.max_plate_nesting, classifier_weight, **options)

    def elbo_for(self, y: Tensor | None) -> Objective:
        """The objective with the recipe's weights: alpha is 1000 N / N_labelled for a class label and
        100 N / N_labelled for binary labels; beta is 4 for small images and 1 for other data.

        The authors' code has alpha = 0.1 N / N_labelled.
        """
        return self.elbo(**parts.recipe_weights(self.labels, y, self.spaces["x"]))

    def corruption(self) -> Callable[[Tensor], Tensor] | None:
        """The recipe's noise, see `parts.recipe_corruption`."""
        return parts.recipe_corruption(self.labels, self.x_shape)
