"""Reference-based VAEs (Ruiz, Martinez, Binefa, Verbeek, 2019)."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn

from pyro_semivae.conditionals import Gaussian, KnownIn, LabelPrior, LaplaceLikelihood, StandardNormal
from pyro_semivae.errors import InputError, check_count, check_number
from pyro_semivae.infer import (
    DensityRatio,
    Generate,
    LatentReconstruction,
    MultiScaleTerm,
    Objective,
    TraceLabels_ELBO,
    TraceSymmetricKL_ELBO,
)
from pyro_semivae.infer.weights import Weight, check_weight
from pyro_semivae.models import parts
from pyro_semivae.models.base import SemiVAE
from pyro_semivae.nn import Networks
from pyro_semivae.spaces import Data, Groups

UNLABELLED, REFERENCE = 0, 1


class RbVAE(SemiVAE):
    """Target factors e and common factors z, separated by a set of reference images, which all have the same e.

    ::

        p(y) p(z) p(e | y) p(x | z, e)     generative model
        q(z | x) q(e | x, y)               inference model

    ====  ======  ============  ==========================================================
    site  symbol  shape         role
    ====  ======  ============  ==========================================================
    y     y       (B,)          known of every row: 0 of the unlabelled set, 1 a reference
    z     z       (B, D_z)      latent: the common factors
    e     e       (B, D_e)      latent: the target factors; the vector e_r of a reference
    x     x       (B, C, H, W)  data
    ====  ======  ============  ==========================================================

    p(e | y=0) is a standard Gaussian. p(e | y=1) and q(e | x, y=1) are a point mass at the learned vector e_r. Its
    density cancels in every bound and is set to 1 in both.

    Args:
        x_shape: `(C, H, W)` of the images, float in [0, 1].
        z, e: D_z, D_e.
        networks, likelihood: see `CCVAE`; by default `PixelNormConvs()` (MLPs where a side has fewer than 16 pixels)
            and a Laplace likelihood of scale 0.1.

    A step of `fit` has equally many reference and unlabelled images, with the same total weight, as in the paper
    (p(y) = 1/2).

    `elbo()` is the conventional objective, Eq. 1 (Rb-VAE). `symmetric()` is the symmetric objective as printed in the
    paper (sRb-VAE). `elbo(adversarial=.., latents=.., ..)` is our variant of it, see there.

    Differs from the paper: images are in [0, 1]; the networks are `PixelNormConvs` (the paper's figure of its networks
    is not available); D_z, D_e and the Laplace scale, which the paper does not state, are ours.

    >>> import torch
    >>> from pyro_semivae.nn import MLPs
    >>> vae = RbVAE((1, 8, 8), z=3, e=2, networks=MLPs((16,)))
    >>> list(vae.elbo().terms(vae.model, vae.guide, torch.rand(4, 1, 8, 8), torch.tensor([0, 0, 1, 1])))
    ['log p(y)', 'log p(x|z,e)', 'log p(z)', '-log q(z|x)', 'log p(e|y)', '-log q(e|x,y)']

    Reference: A. Ruiz, O. Martinez, X. Binefa, J. Verbeek, "Learning Disentangled Representations with Reference-Based
    Variational Autoencoders", 2019 (arXiv 1901.08534).
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
        self.sizes = {"z": z, "e": e}
        networks, likelihood = parts.reference_defaults(self.spaces["x"], networks, likelihood)
        self.networks = networks
        e_r = nn.Parameter(torch.zeros(e))
        self.p_y = LabelPrior(self.spaces["y"])
        self.p_z, self.p_e = StandardNormal(z), KnownIn(StandardNormal(e), e_r, REFERENCE)
        self.p_x = parts.decoder(likelihood, networks, [z, e], self.spaces["x"])
        self.q_z = Gaussian(networks.encoder(self.x_shape, 2 * z))
        self.q_e = KnownIn(Gaussian(networks.encoder(self.x_shape, 2 * e)), e_r, REFERENCE)

    @property
    def e_r(self) -> nn.Parameter:
        """The target factors of reference images, `(D_e,)`."""
        return self.p_e.vector

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        self.register()
        with self.rows(x, y) as (x, y):
            y = pyro.sample("y", self.p_y(), obs=y)
            z = pyro.sample("z", self.p_z())
            e = pyro.sample("e", self.p_e(y))
            return pyro.sample("x", self.p_x(z, e), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        with self.rows(x, y) as (x, y):
            pyro.sample("z", self.q_z(x))
            pyro.sample("e", self.q_e(x, y))

    def elbo(
        self,
        *,
        beta: Weight = 1.0,
        scales: int = 1,
        adversarial: Weight = 0.0,
        latents: Weight = 0.0,
        crossed: float = 0.0,
        r1: float = 0.0,
        lr: float = 1e-3,
    ) -> Objective:
        r"""Eq. 1, the ELBO, plus weighted terms of the other half of the symmetric divergence.

        Args:
            beta: see `TraceLabels_ELBO`.
            scales: 1 for log p(x|z,e); K > 1 to replace it with a `MultiScaleTerm` of K scales.
            adversarial: weight of two `DensityRatio` terms: d(x, z, e) on unlabelled rows and d(x, z) on references.
            latents: weight of log q(z, e|x~), see `LatentReconstruction`; its gradient stops at x~ and the latents.
            crossed: the fraction of generated rows that combine the row's own e with the z of an image of the other
                set, see `Generate`. An image generated from a reference's z and an unlabelled image's e must then look
                like an image with this e, and the reverse. (Ours.)
            r1, lr: options of the discriminators, see `DensityRatio`.

        The defaults give the objective of Rb-VAE.
        """
        check_weight("adversarial", adversarial, least=0)
        check_weight("latents", latents, least=0)
        check_number("crossed", crossed, least=0, most=1)
        objective: Objective = TraceLabels_ELBO(beta=beta)
        if check_count("scales", scales) > 1:
            if not isinstance(self.p_x, LaplaceLikelihood):
                raise InputError(
                    f"scales: got {scales}; expected 1 with {type(self.p_x).__name__}; more need LaplaceLikelihood"
                )
            objective = objective.replaced("log p(x)", MultiScaleTerm(scales, self.p_x.scale))
        generate = self._generate(crossed)
        if adversarial != 0:
            for ratio in self.discriminators(generate, r1=r1, lr=lr):
                objective = objective + adversarial * ratio
        return objective if latents == 0 else objective + latents * LatentReconstruction(generate)

    def symmetric(
        self, *, crossed: float = 0.0, stop_gradients: bool = True, r1: float = 0.0, lr: float = 1e-4
    ) -> Objective:
        """sRb-VAE as in the paper: Eq. 3 and the reconstructions of Eqs. 1 and 2, all with weight 1.

        Args:
            crossed: as in `elbo`; 0 in the paper. stop_gradients: see `TraceSymmetricKL_ELBO`.
            r1, lr: options of the discriminators, see `DensityRatio`.
        """
        ratios = self.discriminators(self._generate(crossed), r1=r1, lr=lr)
        return TraceSymmetricKL_ELBO(*ratios, stop_gradients=stop_gradients)

    def discriminators(self, generate: Generate, *, r1: float = 0.0, lr: float = 1e-3) -> list[DensityRatio]:
        """Creates the discriminators d(x, z, e) for unlabelled rows and d(x, z) for references.

        Args:
            generate: how the model generates. r1, lr: see `DensityRatio`.
        """
        parameter, found = next(self.parameters()), []
        for group, latents in ((UNLABELLED, ("z", "e")), (REFERENCE, ("z",))):
            net = self.networks.discriminator(self.x_shape, [self.sizes[name] for name in latents])
            net = net.to(parameter.device, parameter.dtype)
            found.append(DensityRatio(*latents, net=net, group=("y", group), generate=generate, r1=r1, lr=lr))
        return found

    def _generate(self, crossed: float) -> Generate:
        return Generate(mean=True, crossed=crossed, latents=("z",), by="y", kept=("e",))
