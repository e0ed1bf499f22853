"""M3, a VAE with a classifier on some of its latents (CCVAE's Eq. 2; REVAE's Section 4 and Appendix A)."""

from __future__ import annotations

from collections.abc import Callable

import pyro
from torch import Tensor

from pyro_semivae.conditionals import PerLabelNormal, StandardNormal
from pyro_semivae.infer import Objective
from pyro_semivae.infer.weights import Weight
from pyro_semivae.models import parts
from pyro_semivae.models.base import SemiVAE
from pyro_semivae.nn import Networks
from pyro_semivae.spaces import Data, Labels


class M3(SemiVAE):
    """A VAE without labels in its generative model, and a classifier of the labels on z_c.

    ::

        p(z_c) p(z_s) p(x | z_c, z_s)          generative model
        q(z_c, z_s | x) q(y | z_c)             inference model

    ====  ======  ========================================  =========================
    site  symbol  shape: one class label | L binary labels  role
    ====  ======  ========================================  =========================
    y     y       (B,) | (B, L)                             label, in the guide alone
    z_c   z_c     (B, D_c) | (B, L)                         latent, characteristic
    z_s   z_s     (B, D_s) | (B, 1, D_s)                    latent
    x     x       (B, C, H, W) | (B, 1, C, H, W)            data
    ====  ======  ========================================  =========================

    Args:
        x_shape, labels, z_c, z_s, networks, likelihood, label_hidden: see `CCVAE`.

    The objective is `TraceLabels_ELBO`, the VAE's ELBO on all rows, plus a `ClassifierTerm`, alpha log q(y | z_c) for
    observed labels (CCVAE Eq. 2). alpha is 1 in `elbo()` and larger in `elbo_for(y)`, the default of `fit`. (REVAE's
    Eq. 3 has a labelled bound L(x, y) where only the VAE's L(x) is possible.)

    >>> from pyro_semivae.spaces import Classes
    >>> from pyro_semivae.nn import MLPs
    >>> import torch
    >>> vae = M3((1, 8, 8), Classes(10), networks=MLPs((16,)))
    >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([3, -1, -1, 0])
    >>> list(vae.elbo().terms(vae.model, vae.guide, x, y))[-2:]
    ['-log q(z_s|x)', 'log q(y_o|z_c)']
    """

    characteristic = ("z_c",)

    def __init__(
        self,
        x_shape: tuple[int, int, int] | Data,
        labels: Labels,
        *,
        z_c: int = 10,
        z_s: int = 10,
        networks: Networks | None = None,
        likelihood: parts.MakeLikelihood | None = None,
        label_hidden: tuple[int, ...] = (50,),
    ):
        super().__init__(x=x_shape, y=labels)
        parts.check_sizes(z_c=z_c, z_s=z_s)
        networks, likelihood = parts.defaults(self.spaces["x"], networks, likelihood)
        self.p_z_c = StandardNormal(z_c) if labels.entries is None else PerLabelNormal(labels.entries)
        self.p_z_s = StandardNormal(z_s)
        self.p_x = parts.decoder(likelihood, networks, [parts.characteristic(labels, z_c), z_s], self.spaces["x"])
        self.q_z = parts.split_encoder(labels, networks, self.x_shape, z_c, z_s)
        self.q_y = parts.characteristic_classifier(labels, z_c, label_hidden)

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        self.register()
        with self.rows(x, y) as (x, y):
            with self.entries("y"):
                z_c = pyro.sample("z_c", self.p_z_c())
            z_s = pyro.sample("z_s", self.p_z_s())
            return pyro.sample("x", self.p_x(z_c, z_s), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        with self.rows(x, y) as (x, y):
            q_z_c, q_z_s = self.q_z(x)
            with self.entries("y"):
                z_c = pyro.sample("z_c", q_z_c)
                pyro.sample("y", self.q_y(z_c), obs=y, infer={"enumerate": "parallel"})
            pyro.sample("z_s", q_z_s)

    def elbo(self, *, classifier_weight: Weight = 1.0, **options) -> Objective:
        """The M3 objective; see `TraceLabels_ELBO` for its options.

        Args:
            classifier_weight: alpha, the weight of the `ClassifierTerm`; 0 for the bound alone.
        """
        return parts.classified(self.max_plate_nesting, classifier_weight, **options)

    def elbo_for(self, y: Tensor | None) -> Objective:
        """The objective with the recipe's weights: alpha is 1000 N / N_labelled for a class label and
        100 N / N_labelled for binary labels; beta is 4 for small images and 1 for other data."""
        return self.elbo(**parts.recipe_weights(self.labels, y, self.spaces["x"]))

    def corruption(self) -> Callable[[Tensor], Tensor] | None:
        """The recipe's noise, see `parts.recipe_corruption`."""
        return parts.recipe_corruption(self.labels, self.x_shape)
