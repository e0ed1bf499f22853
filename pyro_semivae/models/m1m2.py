"""M1+M2, an M2 on the features of a trained M1 (Kingma, Rezende, Mohamed, Welling, NIPS 2014)."""

from __future__ import annotations

import pyro
from torch import Tensor

from pyro_semivae.conditionals import Gaussian, Label, LabelPrior, StandardNormal
from pyro_semivae.errors import InputError
from pyro_semivae.infer import Objective
from pyro_semivae.infer.weights import Weight
from pyro_semivae.models import parts
from pyro_semivae.models.base import SemiVAE
from pyro_semivae.models.m1 import M1
from pyro_semivae.nn import MLP


class M1M2(SemiVAE):
    """M2 on the latents of M1 instead of images; M1 is trained first and then held fixed.

    ::

        p(y) p(z) p(f | y, z) p(x | f)             generative model
        q(f | x) q(y | f) q(z | f, y)              inference model

    ====  ======  ========================================  ===========================================================
    site  symbol  shape: one class label | L binary labels  role
    ====  ======  ========================================  ===========================================================
    y     y       (B,) | (B, L)                             label: observed, or marginalised (or sampled) where missing
    z     z_2     (B, D_z) | (B, 1, D_z)                    latent
    f     z_1     (B, D_f) | (B, 1, D_f)                    latent, M1's
    x     x       (B, C, H, W) | (B, 1, C, H, W)            data
    ====  ======  ========================================  ===========================================================

    Two stages: train an `M1` on all rows, then `M1M2(m1)`, which copies its p(x | f) and q(f | x) and holds them fixed.
    The ELBO of the whole graph, a bound on log p(x, y_o), is then the expectation over q(f | x) of M2's objective on f,
    plus a constant. As in the authors' code, the features are sampled anew in every step.

    Args:
        m1: a trained M1; this model has its label and image spaces.
        z: D_z. hidden: hidden layers of the three new networks (the authors' code: 300, with 100 labels, or 500).
        prior: p(y), see `CCVAE`.

    The objective is `TraceLabels_ELBO`. Its beta does not multiply the densities of the features, which are M2's data.
    See `M2`.

    >>> import torch
    >>> from pyro_semivae.spaces import Classes
    >>> from pyro_semivae.nn import MLPs
    >>> vae = M1M2(M1((1, 8, 8), Classes(10), z=5, networks=MLPs((16,))), z=3, hidden=(16,))
    >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([3, -1, -1, 0])
    >>> list(vae.elbo().terms(vae.model, vae.guide, x, y))[-3:]
    ['log p(y)', '-log q(y_m|f)', 'log q(y_o|f)']

    Reference: D. P. Kingma, D. J. Rezende, S. Mohamed, M. Welling, "Semi-supervised Learning with Deep Generative
    Models", NIPS 2014.
    """

    characteristic = ("y",)

    def __init__(self, m1: M1, *, z: int = 50, hidden: tuple[int, ...] = (500,), prior: Tensor | None = None):
        if not isinstance(m1, M1):
            raise InputError(f"m1: got {type(m1).__name__}; expected a trained M1")
        super().__init__(**m1.spaces)
        parts.check_sizes(z=z)
        f, labels = m1.p_z.loc.numel(), m1.labels
        self.p_x, self.q_f = parts.frozen(m1.p_x), parts.frozen(m1.q_z)
        self.p_y = LabelPrior(labels, prior)
        self.p_z = StandardNormal(z)
        self.p_f = Gaussian(MLP([labels, z], hidden, (2 * f,)))
        self.q_y = Label(labels, MLP([f], hidden, (labels.raw_size,)))
        self.q_z = Gaussian(MLP([f, labels], hidden, (2 * z,)))
        self.to(next(m1.parameters()).device)

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        self.register()
        with self.rows(x, y) as (x, y):
            with self.entries("y"):
                y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.p_z())
            f = pyro.sample("f", self.p_f(y, z))
            return pyro.sample("x", self.p_x(f), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        with self.rows(x, y) as (x, y):
            f = pyro.sample("f", self.q_f(x))
            with self.entries("y"):
                y = pyro.sample("y", self.q_y(f), obs=y, infer={"enumerate": "parallel"})
            pyro.sample("z", self.q_z(f, y))

    def elbo(self, *, classifier_weight: Weight = 1.0, **options) -> Objective:
        """The M2 objective on features; see `TraceLabels_ELBO` for its options.

        Args:
            classifier_weight: alpha, the weight of the `ClassifierTerm`; 0 for the bound alone.
        """
        options = {"unscaled": ("f",), **parts.drawn_labels(self.labels, options)}
        return parts.classified(self.max_plate_nesting, classifier_weight, **options)

    def elbo_for(self, y: Tensor | None) -> Objective:
        """The objective with the recipe's weights: alpha is 1000 N / N_labelled for a class label and
        100 N / N_labelled for binary labels; beta is 1.

        The authors' code has alpha = 0.1 N / N_labelled.
        """
        return self.elbo(**{**parts.recipe_weights(self.labels, y, self.spaces["x"]), "beta": 1.0})
