"""MVAE, a product of experts over the image and each label (Wu and Goodman, NeurIPS 2018)."""

from __future__ import annotations

import pyro
from torch import Tensor

from pyro_semivae.conditionals import (
    Label,
    ProductOfExperts,
    StandardNormal,
)
from pyro_semivae.infer import TraceMVAE_ELBO
from pyro_semivae.models import parts
from pyro_semivae.models.base import SemiVAE
from pyro_semivae.nn import MLP, Networks
from pyro_semivae.spaces import Data, Labels


class MVAE(SemiVAE):
    """A VAE with image and labels as modalities of one latent, with one expert for each observed modality.

    ::

        p(z) p(y | z) p(x | z)         generative model
        q(z | x, y)                    inference model

    ====  ======  ========================================  ===========================================
    site  symbol  shape: one class label | L binary labels  role
    ====  ======  ========================================  ===========================================
    z     z       (B, D_z) | (B, 1, D_z)                    latent
    y     y       (B,) | (B, L)                             label: scored where observed, else left out
    x     x       (B, C, H, W) | (B, 1, C, H, W)            data
    ====  ======  ========================================  ===========================================

    q(z | x, y) is proportional to p(z) q(z | x) prod_i q(z | y_i) over the observed modalities, so that any label may
    be missing. q(y | x) is E_q(z|x)[p(y | z)]. Labels have no latents of their own: an intervention infers z anew from
    the image and the new labels, and a swap infers it from one image and the other image's labels.

    Args:
        x_shape, labels, z, networks, likelihood: see `M2`.
        label_hidden: hidden layers of p(y | z).

    The objective is `TraceMVAE_ELBO`, Wu and Goodman's Eq. 5.

    Differs from the original: the expert of a label value is a table entry (there: an MLP of 512-512 on an embedding of
    it); softplus scales; MLPs of 600-600 or CCVAE's convolutions. As there, beta should rise from 0 in the first part
    of training (`fit`'s `warm_up`): without it, z was hardly used in a trial on the digits.

    >>> from pyro_semivae.spaces import Classes
    >>> from pyro_semivae.nn import MLPs
    >>> import torch
    >>> vae = MVAE((1, 8, 8), Classes(10), networks=MLPs((16,)))
    >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([3, -1, -1, 0])
    >>> list(vae.elbo().terms(vae.model, vae.guide, x, y))[:4]
    ['log p(z)', '-log q(z|x,y)', 'log p(y|z)', 'log p(x|z)']

    Reference: M. Wu, N. Goodman, "Multimodal Generative Models for Scalable Weakly-Supervised Learning", NeurIPS 2018.
    """

    characteristic = ("y",)
    warm_up = 0.3  # without it z is hardly used

    def __init__(
        self,
        x_shape: tuple[int, int, int] | Data,
        labels: Labels,
        *,
        z: int = 20,
        networks: Networks | None = None,
        likelihood: parts.MakeLikelihood | None = None,
        label_hidden: tuple[int, ...] = (50,),
    ):
        super().__init__(x=x_shape, y=labels)
        parts.check_sizes(z=z)
        networks, likelihood = parts.defaults(self.spaces["x"], networks, likelihood)
        self.p_z = StandardNormal(z)
        self.p_y = Label(labels, MLP([z], label_hidden, (labels.raw_size,)))
        self.p_x = parts.decoder(likelihood, networks, [z], self.spaces["x"])
        self.q_z = ProductOfExperts(networks.encoder(self.x_shape, 2 * z), labels.num_values, z)

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        self.register()
        with self.rows(x, y) as (x, y):
            z = pyro.sample("z", self.p_z())
            with self.entries("y"):
                pyro.sample("y", self.p_y(z), obs=y, infer={"enumerate": "parallel"})
            return pyro.sample("x", self.p_x(z), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        with self.rows(x, y) as (x, y):
            known = None if y is None else self.labels.known(y, self.q_z.loc.dtype)
            pyro.sample("z", self.q_z(x, known))

    def elbo(self, **options) -> TraceMVAE_ELBO:
        """The MVAE objective; see `TraceMVAE_ELBO` for its options."""
        return TraceMVAE_ELBO(max_plate_nesting=self.max_plate_nesting, **options)

    def elbo_for(self, y: Tensor | None) -> TraceMVAE_ELBO:
        """The objective with a label weight of 10, as in the authors' code for MNIST and CelebA."""
        return self.elbo(label_weight=10.0)
