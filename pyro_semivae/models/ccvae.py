"""CCVAE, the characteristic capturing VAE (Joy et al., ICLR 2021; REVAE, 2020)."""

from __future__ import annotations

from typing import Literal

import pyro
import torch
from torch import Tensor, nn

from pyro_semivae.conditionals import (
    BayesBernoulli,
    BayesCategorical,
    BernoulliPrior,
    Categorical,
    CategoricalPrior,
    Gaussian,
    GreyBernoulliImage,
    LaplaceImage,
    PerLabelAndRestGaussian,
    PerLabelBernoulli,
    PerLabelGaussian,
    SplitGaussian,
    StandardNormal,
)
from pyro_semivae.errors import InputError
from pyro_semivae.infer import TraceCCVAE_ELBO
from pyro_semivae.labels import Binary, Classes
from pyro_semivae.models.base import SemiVAE
from pyro_semivae.nn import MLP, ConvDecoder, ConvEncoder, OneHot


class CCVAE(SemiVAE):
    """A VAE whose latents z_c carry what the label stands for, for one label with several classes.

    ::

        p(y) p(z_c | y) p(z_s) p(x | z_c, z_s)          generative model
        q(z_c, z_s | x) q(y | z_c)                      inference model

    ====  ====================  =================  ==========================================
    site  symbol                shape              role
    ====  ====================  =================  ==========================================
    y     y                     (B,)               label: observed, or enumerated where missing
    z_c   z_c                   (B, D_c)           latent, characteristic
    z_s   z\\c (the rest)        (B, D_s)           latent
    x     x                     (B, C, H, W)       data
    ====  ====================  =================  ==========================================

    Args:
        x_shape: `(C, H, W)` of the images, float in [0, 1].
        num_classes: the number of values of y; p(y) is uniform.
        z_c: D_c, the size of the characteristic latent. z_s: D_s, the size of the rest; 0 leaves it empty
            (REVAE: 4 + 10, 10 + 0, 20 + 0; CCVAE's Tables 6 and 7 do not say).
        hidden: hidden sizes of encoder and decoder (REVAE's Table 3: 600, 600).
        classifier: `"network"`, q(y | z_c) = an MLP with one hidden layer of 50 (Table 3 prints its first layer
            as "50 x 50", a slip for D_c x 50); or `"bayes"`, p(z_c | y) p(y) normalised, without parameters.
        label_hidden: hidden sizes of the classifier and the conditional prior.
        dropout: of the encoder's hidden units while training: noise of the guide, so that the bound stays one.

    The objective is `TraceCCVAE_ELBO`, CCVAE's Eqs. 4 and 5.

    Differs from the reference code (github.com/thwjoy/ccvae), which has no multi-class model: y is summed where
    it is missing, not sampled. Trains by `pyro_semivae.fit` and by `pyro.infer.SVI`.

    >>> vae = CCVAE((1, 8, 8), num_classes=10, hidden=(16,))
    >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([3, -1, -1, 0])
    >>> sorted(vae.elbo().terms(vae.model, vae.guide, x, y))
    ['p(x)', 'p(y)', 'p(z_c)', 'p(z_s)', 'q(y|x)', 'q(y|z)', 'q(z_c)', 'q(z_s)']

    Reference: T. Joy, S. M. Schmon, P. H. S. Torr, N. Siddharth, T. Rainforth, "Capturing Label Characteristics
    in VAEs", ICLR 2021; "Rethinking Semi-Supervised Learning in VAEs", 2020.
    """

    characteristic = ("z_c",)

    def __init__(
        self,
        x_shape: tuple[int, int, int],
        num_classes: int,
        *,
        z_c: int = 10,
        z_s: int = 0,
        hidden: tuple[int, ...] = (600, 600),
        classifier: Literal["network", "bayes"] = "network",
        label_hidden: tuple[int, ...] = (50,),
        dropout: float = 0.0,
    ):
        super().__init__()
        if classifier not in ("network", "bayes"):
            raise InputError(f"classifier: got {classifier!r}; accepted are 'network', 'bayes'")
        if len(x_shape) != 3 or num_classes < 2:
            raise InputError(f"x_shape, num_classes: got {x_shape}, {num_classes}; accepted are (C, H, W), 2 ...")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout: got {dropout}; accepted is 0 <= dropout < 1")
        if z_c < 1 or z_s < 0:
            raise InputError(f"z_c, z_s: got {z_c}, {z_s}; accepted are z_c >= 1 and z_s >= 0")
        self.x_shape = tuple(x_shape)
        self.labels = Classes(num_classes)

        self.p_y = CategoricalPrior(torch.full((num_classes,), 1 / num_classes))
        self.p_z_c = Gaussian(nn.Sequential(OneHot(num_classes), MLP([(num_classes,)], label_hidden, (2 * z_c,))))
        self.p_z_s = StandardNormal(z_s)
        self.p_x = GreyBernoulliImage(MLP([(z_c,), (z_s,)], hidden, self.x_shape))
        self.q_z = SplitGaussian(MLP([self.x_shape], hidden, (2 * (z_c + z_s),), dropout=dropout), (z_c, z_s))
        if classifier == "network":
            self.q_y = Categorical(MLP([(z_c,)], label_hidden, (num_classes,)))
        else:
            self.q_y = BayesCategorical(self.p_z_c, self.p_y)

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        self.register()
        with self.rows(x, y):
            y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z_c = pyro.sample("z_c", self.p_z_c(y))
            z_s = pyro.sample("z_s", self.p_z_s())
            return pyro.sample("x", self.p_x(z_c, z_s), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        with self.rows(x, y):
            q_z_c, q_z_s = self.q_z(x)
            z_c = pyro.sample("z_c", q_z_c)
            pyro.sample("z_s", q_z_s)
            pyro.sample("y", self.q_y(z_c), obs=y, infer={"enumerate": "parallel", "is_auxiliary": y is not None})

    def elbo(self, **options) -> TraceCCVAE_ELBO:
        """The CCVAE bound; see `TraceCCVAE_ELBO` for its options."""
        return TraceCCVAE_ELBO(max_plate_nesting=self.max_plate_nesting, **options)


class MultiLabelCCVAE(SemiVAE):
    """A VAE with a latent z_c^i for each of several binary labels y_i, any of which may be missing.

    ::

        p(y) p(z_c | y) p(z_s) p(x | z_c, z_s)          generative model
        q(z_c, z_s | x) q(y | z_c)                      inference model

    where p(y), p(z_c | y) and q(y | z_c) are products over labels, p(z_c | y) = prod_i p(z_c^i | y_i).

    ====  ====================  =================  ==========================================
    site  symbol                shape              role
    ====  ====================  =================  ==========================================
    y     y                     (B, L)             labels: observed, or enumerated where missing
    z_c   z_c                   (B, L)             latent, characteristic: entry i of label i
    z_s   z\\c (the rest)        (B, 1, D_s)        latent
    x     x                     (B, 1, C, H, W)    data
    ====  ====================  =================  ==========================================

    The plate "data" is dim -2, the plate "labels" dim -1: summing out the labels costs 2 L terms, not 2^L.

    Args:
        x_shape: `(C, 64, 64)` of the images, float in [0, 1].
        num_labels: L.
        z_s: D_s, the size of the rest (CCVAE on CelebA: 27, with L = 18).
        prior: p(y_i = 1), `(L,)`; uniform where not given. `labels.frequencies` has that of observed labels.
        classifier: `"network"`, q(y_i | z_c^i) = Ber(sigmoid(a_i z_c^i + b_i)), or `"bayes"`, p(z_c^i | y_i) p(y_i)
            normalised, without parameters.
        separation: how far apart the means of p(z_c^i | y_i) start.

    Networks of CCVAE's Table 3 (its "32 x 32" input is 64 x 64), Laplace likelihood of scale 1. The objective is
    `TraceCCVAE_ELBO`, CCVAE's Eqs. 4 and 5.

    Differs from the reference code (github.com/thwjoy/ccvae): any single label may be missing; missing ones are summed;
    the prior's frequencies are probabilities (the Pyro code puts them through a sigmoid).

    >>> vae = MultiLabelCCVAE((3, 64, 64), num_labels=2, z_s=5)
    >>> x, y = torch.rand(2, 3, 64, 64), torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    >>> vae.elbo().terms(vae.model, vae.guide, x, y)["q(y|x)"].shape
    torch.Size([2])

    Reference: T. Joy, S. M. Schmon, P. H. S. Torr, N. Siddharth, T. Rainforth, "Capturing Label Characteristics
    in VAEs", ICLR 2021.
    """

    characteristic = ("z_c",)
    max_plate_nesting = 2

    def __init__(
        self,
        x_shape: tuple[int, int, int],
        num_labels: int,
        *,
        z_s: int = 27,
        prior: Tensor | None = None,
        classifier: Literal["network", "bayes"] = "network",
        separation: float = 2.0,
    ):
        super().__init__()
        prior = torch.full((num_labels,), 0.5) if prior is None else prior
        if classifier not in ("network", "bayes"):
            raise InputError(f"classifier: got {classifier!r}; accepted are 'network', 'bayes'")
        if len(x_shape) != 3 or tuple(x_shape[1:]) != (64, 64):
            raise InputError(f"x_shape: got {x_shape}; accepted is (C, 64, 64)")
        if num_labels < 1 or z_s < 0:
            raise InputError(f"num_labels, z_s: got {num_labels}, {z_s}; accepted are num_labels >= 1 and z_s >= 0")
        if prior.shape != (num_labels,) or not ((prior > 0) & (prior < 1)).all():
            raise InputError(f"prior: got {prior}; accepted are {num_labels} probabilities in (0, 1)")
        self.x_shape = tuple(x_shape)
        self.labels = Binary(num_labels)

        self.p_y = BernoulliPrior(prior)
        self.p_z_c = PerLabelGaussian(num_labels, separation)
        self.p_z_s = StandardNormal(z_s)
        self.p_x = LaplaceImage(ConvDecoder([num_labels, z_s], x_shape[0]))
        self.q_z = PerLabelAndRestGaussian(ConvEncoder(x_shape[0], 2 * (num_labels + z_s)), num_labels, z_s)
        self.q_y = PerLabelBernoulli(num_labels) if classifier == "network" else BayesBernoulli(self.p_z_c, self.p_y)

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        self.register()
        with self.rows(x, y):
            with self.label_plate():
                y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
                z_c = pyro.sample("z_c", self.p_z_c(y))
            z_s = pyro.sample("z_s", self.p_z_s())
            x = None if x is None else x.unsqueeze(1)  # (B, 1, C, H, W)
            return pyro.sample("x", self.p_x(z_c.unsqueeze(-2), z_s), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        with self.rows(x, y):
            q_z_c, q_z_s = self.q_z(x)
            with self.label_plate():
                z_c = pyro.sample("z_c", q_z_c)
                pyro.sample("y", self.q_y(z_c), obs=y, infer={"enumerate": "parallel", "is_auxiliary": y is not None})
            pyro.sample("z_s", q_z_s)

    def label_plate(self) -> pyro.plate:
        """The plate "labels", dim -1."""
        return pyro.plate("labels", self.labels.num_labels, dim=-1)

    def elbo(self, **options) -> TraceCCVAE_ELBO:
        """The CCVAE bound; see `TraceCCVAE_ELBO` for its options."""
        return TraceCCVAE_ELBO(max_plate_nesting=self.max_plate_nesting, **options)
