"""DIVA (Ilse et al., MIDL 2020) as CCVAE's Appendix C.4 modifies it: one domain, labels factorised."""

from __future__ import annotations

from torch import Tensor

from pyro_semivae.infer import Objective
from pyro_semivae.infer.weights import Weight
from pyro_semivae.models import parts
from pyro_semivae.models.characteristic import CharacteristicVAE


class DIVA(CharacteristicVAE):
    """CCVAE's graph with another objective: the ELBO and a classifier term.

    ::

        p(y) p(z_c | y) p(z_s) p(x | z_c, z_s)          generative model
        q(z_c, z_s | x) q(y | z_c)                      inference model

    ====  ======  ========================================  ============================================
    site  symbol  shape: one class label | L binary labels  role
    ====  ======  ========================================  ============================================
    y     y       (B,) | (B, L)                             label: observed, or enumerated where missing
    z_c   z_c     (B, D_c) | (B, L)                         latent, characteristic
    z_s   z_s     (B, D_s) | (B, 1, D_s)                    latent
    x     x       (B, C, H, W) | (B, 1, C, H, W)            data
    ====  ======  ========================================  ============================================

    Args:
        x_shape, labels, networks, likelihood, prior, classifier, label_hidden, separation: see `CCVAE`.
        z_c, z_s: see there; 10 and 10 by default.

    The objective is `TraceLabels_ELBO` with beta, plus a `ClassifierTerm`, alpha log q(y | z_c) for observed labels
    (CCVAE C.4, whose last line attaches the classifier to unlabelled rows by mistake). alpha is 1 in `elbo()` and
    larger in `elbo_for(y)`, the default of `fit`. An observed label affects the encoder through p(z_c | y) and the
    classifier; there are no weights q(y|z_c) / q(y|x) as in CCVAE.

    Differs from the original: no domain latent; beta also multiplies log p(y) - log q(y|z_c) of missing labels, as in
    C.4; KL terms are estimated with one sample.

    >>> from pyro_semivae.spaces import Classes
    >>> from pyro_semivae.nn import MLPs
    >>> import torch
    >>> vae = DIVA((1, 8, 8), Classes(10), networks=MLPs((16,)))
    >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([3, -1, -1, 0])
    >>> list(vae.elbo(classifier_weight=9.0).terms(vae.model, vae.guide, x, y))[-3:]
    ['log p(y)', '-log q(y_m|z_c)', 'log q(y_o|z_c)']

    Reference: M. Ilse, J. M. Tomczak, C. Louizos, M. Welling, "DIVA: Domain Invariant Variational Autoencoders", 2019.
    """

    sizes = (10, 10)

    def elbo(self, *, classifier_weight: Weight = 1.0, **options) -> Objective:
        """The modified DIVA objective; see `TraceLabels_ELBO` for its options.

        Args:
            classifier_weight: alpha, the weight of the `ClassifierTerm`; 0 for the bound alone.
        """
        return parts.classified(self.max_plate_nesting, classifier_weight, **options)

    def elbo_for(self, y: Tensor | None) -> Objective:
        """The objective with the recipe's weights: alpha is 1000 N / N_labelled for a class label and
        100 N / N_labelled for binary labels; beta is 4 for small images and 1 for other data."""
        return self.elbo(**parts.recipe_weights(self.labels, y, self.spaces["x"]))
