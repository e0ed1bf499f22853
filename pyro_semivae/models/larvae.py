"""LaRVAE, a VAE whose code includes continuous labels (Nie et al. 2020)."""

from __future__ import annotations

from typing import Literal

import pyro
from torch import Tensor

from pyro_semivae.conditionals import LabelAndGaussian, LabelPrior, StandardNormal
from pyro_semivae.errors import InputError, check_count, check_number
from pyro_semivae.infer import BatchTotalCorrelation, Objective, TotalCorrelation, TraceLabels_ELBO, label_replacement
from pyro_semivae.infer.weights import Weight
from pyro_semivae.models import parts
from pyro_semivae.models.base import SemiVAE
from pyro_semivae.nn import Networks
from pyro_semivae.spaces import Data, Labels, any_known

Base = Literal["beta", "tc", "factor"]


class LaRVAE(SemiVAE):
    """A VAE whose code consists of the labels, which are continuous factors, and a nuisance latent.

    ::

        p(y) p(z) p(x | y, z)     generative model
        q(y | x) q(z | x)         inference model

    ====  ======  ===============  =======================================================
    site  symbol  shape            role
    ====  ======  ===============  =======================================================
    y     y       (B, F)           label: observed, or a latent of the guide where missing
    z     z       (B, 1, D_z)      latent: the nuisance
    x     x       (B, 1, C, H, W)  data
    ====  ======  ===============  =======================================================

    Args:
        x_shape: `(C, H, W)` of the images, float in [0, 1].
        labels: `Real(F)`, the factors; of mean 0 and variance 1, or with their `loc` and `scale`.
        z: D_z; 0 for no nuisance. networks, likelihood: see `CCVAE`. One network computes q(y|x) and q(z|x).

    The objective is `label_replacement`, the sum of an unsupervised objective that never sees the labels (a VAE's, with
    a beta, or with the total correlation estimated from the batch or by a critic), the squared error of the means of
    q(y|x) on labelled rows, and the bound on log p(x|y) on these rows. It works for any other graph with `Real` labels.

    Differs from the paper: see docs/larvae.md.

    >>> import torch
    >>> from pyro_semivae.nn import MLPs
    >>> from pyro_semivae.spaces import Real
    >>> vae = LaRVAE((1, 8, 8), Real(2), z=3, networks=MLPs((16,)))
    >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([[0.3, -1.0], *[[float("nan")] * 2] * 3])
    >>> terms = vae.elbo().terms(vae.model, vae.guide, x, y)
    >>> [name for name in terms if name.startswith("labelled: -")]
    ['labelled: -log q(z|x)', 'labelled: -log q(y_m|x)', 'labelled: -|y_o - E[y|.]|^2']

    Reference: W. Nie, Z. Wang, A. B. Patel, R. G. Baraniuk, "LaRVAE: Label Replacement VAE for Semi-Supervised
    Disentanglement Learning", 2020 (arXiv 2006.07460; "An Improved Semi-Supervised VAE for Learning Disentangled
    Representations" in its second version).
    """

    characteristic = ("y",)

    def __init__(
        self,
        x_shape: tuple[int, int, int] | Data,
        labels: Labels,
        *,
        z: int = 5,
        networks: Networks | None = None,
        likelihood: parts.MakeLikelihood | None = None,
        prior: Tensor | None = None,
    ):
        super().__init__(x=x_shape, y=labels)
        if not labels.is_label or labels.num_values is not None:
            raise InputError(f"labels: got {labels}; expected Real(..), continuous factors")
        check_count("z", z, 0)
        networks, likelihood = parts.defaults(self.spaces["x"], networks, likelihood)
        self.p_y, self.p_z = LabelPrior(labels, prior), StandardNormal(z)
        self.p_x = parts.decoder(likelihood, networks, [labels, z], self.spaces["x"])
        self.q_y_z = LabelAndGaussian(labels, networks.encoder(self.x_shape, labels.raw_size + 2 * z), z)

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        self.register()
        with self.rows(x, y) as (x, y):
            with self.entries("y"):
                y = pyro.sample("y", self.p_y(), obs=y)
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(y, z), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        with self.rows(x, y) as (x, y):
            q_y, q_z = self.q_y_z(x)
            with self.entries("y"):
                pyro.sample("y", q_y, obs=y)
            pyro.sample("z", q_z)

    def elbo(
        self,
        *,
        base: Objective | None = None,
        alpha: Weight = 1.0,
        tau: Weight = 1.0,
        **options,
    ) -> Objective:
        """LaRVAE's objective; see `label_replacement` for its options.

        Args:
            base: the unsupervised part, see the method `base` (default: the ELBO).
        """
        base = TraceLabels_ELBO(max_plate_nesting=self.max_plate_nesting) if base is None else base
        return label_replacement(base, "y", alpha=alpha, tau=tau, **options)

    def base(self, kind: Base, weight: float, num_rows: int) -> Objective:
        """The unsupervised objectives that the paper builds on.

        Args:
            kind: `"beta"`: the beta-VAE; `"tc"`: beta-TCVAE, with the total correlation estimated from the batch;
                `"factor"`: FactorVAE, with the total correlation estimated by a critic.
            weight: beta for `"beta"` and for `"tc"`, where the total correlation has the weight beta - 1; gamma for
                `"factor"`.
            num_rows: N, the size of the training set.

        Raises:
            InputError: `kind` is none of these, or `weight` is no number from 0.
        """
        check_number("weight", weight, least=0)
        elbo = TraceLabels_ELBO(max_plate_nesting=self.max_plate_nesting, beta=weight if kind == "beta" else 1.0)
        if kind == "beta":
            return elbo
        if kind == "tc":
            return elbo + (weight - 1) * BatchTotalCorrelation(num_rows, "y", "z")
        if kind == "factor":
            return elbo + weight * TotalCorrelation("y", "z")
        raise InputError(f"kind: got {kind!r}; expected beta, tc or factor")

    def elbo_for(self, y: Tensor | None) -> Objective:
        """The objective with alpha = 100 N / N_labelled and tau = N / N_labelled: 100 and 1 on means over labelled
        rows."""
        share = 1.0
        if y is not None and (known := int(any_known(y).sum())):
            share = len(y) / known
        return self.elbo(alpha=100.0 * share, tau=share)
