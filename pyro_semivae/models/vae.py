"""The VAE and the beta-VAE (Kingma and Welling, ICLR 2014; Higgins et al., ICLR 2017)."""

from __future__ import annotations

import pyro
from torch import Tensor

from pyro_semivae.conditionals import Gaussian, StandardNormal
from pyro_semivae.infer import TraceLabels_ELBO
from pyro_semivae.models import parts
from pyro_semivae.models.base import SemiVAE
from pyro_semivae.nn import Networks
from pyro_semivae.spaces import Data, Labels


class VAE(SemiVAE):
    """A VAE, which ignores labels.

    ::

        p(z) p(x | z)          generative model
        q(z | x)               inference model

    ====  ======  ==============================  ======
    site  symbol  shape: class | binary labels    role
    ====  ======  ==============================  ======
    z     z       (B, D_z) | (B, 1, D_z)          latent
    x     x       (B, C, H, W) | (B, 1, C, H, W)  data
    ====  ======  ==============================  ======

    Args:
        x_shape: `(C, H, W)` of the images, float in [0, 1].
        labels: the data set's label space, so that labels can be passed as to any other model (they are ignored).
        z: D_z. networks, likelihood: see `CCVAE`.

    The objective is `TraceLabels_ELBO` without labels: the ELBO, or with `beta` above 1 the objective of the beta-VAE.

    >>> from pyro_semivae.spaces import Classes
    >>> from pyro_semivae.nn import MLPs
    >>> import torch
    >>> vae = VAE((1, 8, 8), Classes(10), networks=MLPs((16,)))
    >>> sorted(vae.elbo(beta=4.0).terms(vae.model, vae.guide, torch.rand(4, 1, 8, 8)))
    ['-log q(z|x)', 'log p(x|z)', 'log p(z)']
    """

    def __init__(
        self,
        x_shape: tuple[int, int, int] | Data,
        labels: Labels,
        *,
        z: int = 20,
        networks: Networks | None = None,
        likelihood: parts.MakeLikelihood | None = None,
    ):
        super().__init__(x=x_shape, y=labels)
        parts.check_sizes(z=z)
        networks, likelihood = parts.defaults(self.spaces["x"], networks, likelihood)
        self.p_z = StandardNormal(z)
        self.p_x = parts.decoder(likelihood, networks, [z], self.spaces["x"])
        self.q_z = Gaussian(networks.encoder(self.x_shape, 2 * z))

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        self.register()
        with self.rows(x, y) as (x, y):
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(z), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        with self.rows(x, y) as (x, y):
            pyro.sample("z", self.q_z(x))

    def elbo(self, **options) -> TraceLabels_ELBO:
        """The ELBO; see `TraceLabels_ELBO` for its options."""
        return TraceLabels_ELBO(max_plate_nesting=self.max_plate_nesting, **options)
