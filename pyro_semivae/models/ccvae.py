"""CCVAE, the characteristic capturing VAE (Joy et al., ICLR 2021; REVAE, 2020)."""

from __future__ import annotations

from torch import Tensor

from pyro_semivae.infer import ClassifierTerm, Objective, TraceCCVAE_ELBO, style_terms
from pyro_semivae.models import parts
from pyro_semivae.models.characteristic import CharacteristicVAE


class CCVAE(CharacteristicVAE):
    """A VAE whose latents z_c capture the characteristics of the labels.

    ::

        p(y) p(z_c | y) p(z_s) p(x | z_c, z_s)          generative model
        q(z_c, z_s | x) q(y | z_c)                      inference model

    ====  ==============  ========================================  ============================================
    site  symbol          shape: one class label | L binary labels  role
    ====  ==============  ========================================  ============================================
    y     y               (B,) | (B, L)                             label: observed, or enumerated where missing
    z_c   z_c             (B, D_c) | (B, L)                         latent, characteristic
    z_s   z_s (the rest)  (B, D_s) | (B, 1, D_s)                    latent
    x     x               (B, C, H, W) | (B, 1, C, H, W)            data
    ====  ==============  ========================================  ============================================

    Each binary label has a latent of its own: p(y), p(z_c | y) and q(y | z_c) are products over labels of p(y_i),
    p(z_c^i | y_i) and q(y_i | z_c^i), in a plate inside the plate of rows. Any single label may then be missing, and
    marginalising the missing ones takes 2 L terms, not 2^L.

    Args:
        x_shape: `(C, H, W)` of the images, float in [0, 1].
        labels: the label space, `Classes(10)` or `Binary(18)` (a data set's `labels`).
        z_c: D_c, the size of the characteristic latent of a class label (default: 10).
        z_s: D_s, the size of the other latent (default: 20). With 0 an intervention on a class label preserves nothing
            of the image. (D_c + D_s in REVAE on MNIST: 4 + 10, 10 + 0, 20 + 0; CCVAE's Tables 6 and 7 do not give them;
            on CelebA 18 + 27.)
        networks: `MLPs()` of 600-600 (REVAE's Table 3), `Convs()` (CCVAE's Table 3), or others; the default depends on
            the data, see `parts.networks_for`.
        likelihood: the class of p(x | .) in `conditionals`, or a `partial` of it: `BernoulliLikelihood`,
            `LaplaceLikelihood` (CCVAE on CelebA), ...; the default depends on the data, see `parts.likelihood_for`.
        prior: p(y): the probability of each class, or of each binary label being 1; uniform by default.
            `labels.frequencies(y)` estimates it from observed labels.
        classifier: `"network"`, or `"bayes"`: p(z_c | y) p(y), normalised, without parameters of its own. The network
            is an MLP for a class label (Table 3 prints its first layer as "50 x 50", a misprint for D_c x 50), and
            Ber(sigmoid(a_i z_c^i + b_i)) for binary labels.
        label_hidden: hidden sizes of the classifier and the conditional prior of a class label.
        separation: for binary labels, the initial distance between the means of p(z_c^i | y_i), and the initial slope
            of q(y_i | z_c^i), which then equals Bayes' rule except for the prior.

    The objective is `TraceCCVAE_ELBO`, CCVAE's Eqs. 4 and 5. Train it with `train.fit` or with `pyro.infer.SVI`.

    Differs from the reference code (github.com/thwjoy/ccvae), which has no multi-class model: a missing y is
    marginalised, not sampled; any single label may be missing; the prior's frequencies are probabilities (the Pyro code
    applies a sigmoid to them).

    >>> from pyro_semivae.nn import MLPs
    >>> from pyro_semivae.spaces import Binary, Classes
    >>> import torch
    >>> vae = CCVAE((1, 8, 8), Classes(10), networks=MLPs((16,)))
    >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([3, -1, -1, 0])
    >>> terms = vae.elbo().terms(vae.model, vae.guide, x, y)
    >>> list(terms)[:4]
    ['w log p(x|z_c,z_s)', 'w log p(z_s)', 'w log p(z_c|y_o)', '-w log q(z_c|x)']
    >>> list(terms)[4:]
    ['-w log q(z_s|x)', '-w log q(y_o|z)', 'log q(y_o|x)', 'log p(y_o)']
    >>> vae = CCVAE((1, 8, 8), Binary(2), networks=MLPs((16,)))
    >>> y = torch.tensor([[1, 0], [1, torch.nan], [torch.nan, 0], [0, 1]])
    >>> vae.elbo().terms(vae.model, vae.guide, x, y)["log q(y_o|x)"].shape
    torch.Size([4])

    Reference: T. Joy, S. M. Schmon, P. H. S. Torr, N. Siddharth, T. Rainforth, "Capturing Label Characteristics
    in VAEs", ICLR 2021; "Rethinking Semi-Supervised Learning in VAEs", 2020.
    """

    sizes = (10, 20)

    def elbo(self, **options) -> TraceCCVAE_ELBO:
        """The CCVAE bound; see `TraceCCVAE_ELBO` for its options."""
        return TraceCCVAE_ELBO(max_plate_nesting=self.max_plate_nesting, **options)

    def elbo_for(self, y: Tensor | None) -> Objective:
        """The recipe's objective: Jensen's bound and, with labels, a `ClassifierTerm`; for images that show style (with
        sides of at least 16 pixels) and a model with z_s also `style_terms`, with binary labels for the latent of one
        label at a time. The paper's objective is `elbo(weights="independent")`.

        Beta is 4 for small images (2 if they show style) and 1 for other data. The classifier's weight is
        1000 N / N_labelled for a class label and N / N_labelled for binary labels."""
        classes, styled = self.labels.entries is None, parts.shows_style(self.spaces["x"])
        weights = parts.recipe_weights(self.labels, y, self.spaces["x"])
        beta = min(weights["beta"], parts.STYLE_BETA) if styled else weights["beta"]
        alpha = weights["classifier_weight"] if classes else parts.classifier_weight(1.0, y)
        objective: Objective = self.elbo(marginal="jensen", beta=beta)
        if alpha:
            objective = objective + alpha * ClassifierTerm()
        if alpha and styled and self.p_z_s().event_shape.numel():
            options = parts.STYLE if classes else parts.STYLE_OF_BINARY
            objective = objective + style_terms("z_c", kept=["z_s"], **options)
        return objective
