"""A weakly supervised baseline with a reference set: Mathieu et al., NIPS 2016, adapted."""

from __future__ import annotations

import pyro
from torch import Tensor

from pyro_semivae.conditionals import Gaussian, LabelPrior, Point, StandardNormal, WithoutDensity
from pyro_semivae.infer import DensityRatio, Generate, Objective, SwapTerm, TraceLabels_ELBO
from pyro_semivae.infer.weights import Weight, check_weight
from pyro_semivae.models import parts
from pyro_semivae.models.base import SemiVAE
from pyro_semivae.nn import Networks
from pyro_semivae.spaces import Data, Groups


class SwapVAE(SemiVAE):
    """Deterministic target factors e and common factors z, separated by swaps and by image discriminators.

    ::

        p(y) p(z) p(e) p(x | z, e)     generative model
        q(z | x) q(e | x)              inference model

    ====  ======  ============  ===========================================================
    site  symbol  shape         role
    ====  ======  ============  ===========================================================
    y     y       (B,)          known of every row: 0 of the unlabelled set, 1 a reference
    z     z       (B, D_z)      latent: the common factors, Gaussian
    e     e       (B, D_e)      latent: the target factors, a function of x without density
    x     x       (B, C, H, W)  data
    ====  ======  ============  ===========================================================

    Mathieu et al. have classes whose images share s, and pairs of images from one class. Here the method is adapted to
    a reference set, whose images form one class. e takes the place of s, and the swap of s within a class becomes a
    swap of e between references (`SwapTerm`). Two discriminators compare images generated with another image's z to
    real ones (`DensityRatio` without latents): G(z of an unlabelled image, e of a reference) to references, and
    G(z of a reference, e of an unlabelled image) to unlabelled images. There is no label to condition a discriminator
    on.

    Further differences from the original: the networks, D_e, D_z and likelihood of `RbVAE`; log-density ratios instead
    of the discriminator's cross-entropy; KL(z) with weight 1, times beta.

    Args:
        x_shape, z, e, networks, likelihood: see `RbVAE`.

    >>> import torch
    >>> from pyro_semivae.nn import MLPs
    >>> vae = SwapVAE((1, 8, 8), z=3, e=2, networks=MLPs((16,)))
    >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 0, 1, 1])
    >>> list(vae.elbo().terms(vae.model, vae.guide, x, y))[:2], list(vae.elbo().terms(vae.model, vae.guide, x, y))[-1]
    (['log p(y)', 'log p(x|z,e)'], 'swap: log p(x|z,e)')

    Reference: M. Mathieu, J. Zhao, P. Sprechmann, A. Ramesh, Y. LeCun, "Disentangling factors of variation in deep
    representations using adversarial training", NIPS 2016.
    """

    characteristic = ("e",)
    stratify = "y"

    def __init__(
        self,
        x_shape: tuple[int, int, int] | Data,
        *,
        z: int = 32,
        e: int = 32,
        networks: Networks | None = None,
        likelihood: parts.MakeLikelihood | None = None,
    ):
        super().__init__(x=x_shape, y=Groups(2))
        parts.check_sizes(z=z, e=e)
        networks, likelihood = parts.reference_defaults(self.spaces["x"], networks, likelihood)
        self.networks = networks
        self.p_y = LabelPrior(self.spaces["y"])
        self.p_z, self.p_e = StandardNormal(z), WithoutDensity(StandardNormal(e))
        self.p_x = parts.decoder(likelihood, networks, [z, e], self.spaces["x"])
        self.q_z = Gaussian(networks.encoder(self.x_shape, 2 * z))
        self.q_e = Point(networks.encoder(self.x_shape, e))

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        self.register()
        with self.rows(x, y) as (x, y):
            pyro.sample("y", self.p_y(), obs=y)
            z = pyro.sample("z", self.p_z())
            e = pyro.sample("e", self.p_e())
            return pyro.sample("x", self.p_x(z, e), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        with self.rows(x, y) as (x, y):
            pyro.sample("z", self.q_z(x))
            pyro.sample("e", self.q_e(x))

    def elbo(
        self, *, beta: Weight = 1.0, swap: Weight = 1.0, adversarial: Weight = 0.0, r1: float = 0.0, lr: float = 1e-3
    ) -> Objective:
        """log p(x|z,e), the KL divergence of z, the swap between references and, if `adversarial`, the discriminators.

        Args:
            beta: weight of the latents' densities. swap, adversarial: weights of these terms.
            r1, lr: see `DensityRatio`.
        """
        check_weight("adversarial", adversarial, least=0)
        check_weight("swap", swap, least=0)
        objective = TraceLabels_ELBO(beta=beta) + swap * SwapTerm("e", ("y", 1))
        generate = Generate(mean=True, crossed=1.0, latents=("z",), by="y", kept=("e",))
        for group in (0, 1) if adversarial != 0 else ():
            net = self.networks.discriminator(self.x_shape, [])
            ratio = DensityRatio(net=net, group=("y", group), generate=generate, r1=r1, lr=lr)
            objective = objective + adversarial * ratio
        return objective
