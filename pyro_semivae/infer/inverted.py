"""The inverted VAE's objective: the ELBO for images, and the reverse ELBO for labels without an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pyro_semivae.infer.base import Part, Sum
from pyro_semivae.infer.labels import TraceLabels_ELBO
from pyro_semivae.infer.reverse import Gradient, TraceReverse_ELBO
from pyro_semivae.infer.terms import ClassifierTerm, ImageTerm
from pyro_semivae.infer.weights import Weight, check_weight


class TraceInverted_ELBO(Sum):
    r"""J_f for images, J_r for labels without images, and the discriminative terms (Gemp et al. 2017, Eqs. 3 to 8).

    .. math::
        J = \underbrace{\sum_{(x, y)} J_f^l + \sum_x J_f^u}_{\text{Eqs. 3, 4}}
            + r \underbrace{\sum_y J_r^u}_{\text{Eq. 5 or 17}}
            + \alpha_f^d \sum_{(x, y)} \log q(y|x)
            - \alpha_r^d \sum_{(x, y)} E_{p(z)} \lVert x - E[x|y,z] \rVert^2

    For a batch with images it is `TraceLabels_ELBO` and the discriminative terms; for a batch without (`x` missing, `y`
    given) it is `TraceReverse_ELBO`. In `fit`, pass labels without images as `unpaired_labels`; without these it is
    M2's objective.

    Args:
        classifier_weight: alpha_f^d.
        image_weight: alpha_r^d, see `terms.ImageTerm`.
        reverse_weight: r, 1 in the paper.
        beta: for the rows with images, see `TraceLabels_ELBO`.
        observed, gradient: for the reverse bound, see `TraceReverse_ELBO`; with z observed it is Eq. 17.
        missing_labels: for the rows with images, `"enumerate"`, `"reinforce"` or `"gumbel"`, see `TraceLabels_ELBO`.
        temperature: the temperature of relaxed labels and images.
        max_plate_nesting: 1 for class labels, 2 if a label has entries in a plate inside the plate of rows.

    Terms: those of `TraceLabels_ELBO`, `log q(y_o|x)` and `-||x - E[x|y,z]||^2`; or those of `TraceReverse_ELBO`.

    Raises:
        ValueError: an option has an invalid value.
    """

    def __init__(
        self,
        *,
        classifier_weight: Weight = 0.0,
        image_weight: Weight = 0.0,
        reverse_weight: Weight = 1.0,
        beta: Weight = 1.0,
        observed: Sequence[str] = ("y", "z"),
        gradient: Gradient = "relaxed",
        missing_labels: Literal["enumerate", "reinforce", "gumbel"] = "enumerate",
        temperature: float = 0.5,
        max_plate_nesting: int = 1,
    ):
        shared = {"temperature": temperature, "max_plate_nesting": max_plate_nesting}
        parts = [
            Part(TraceLabels_ELBO(beta=beta, missing_labels=missing_labels, **shared)),
            Part(TraceReverse_ELBO(observed=observed, gradient=gradient, **shared), (reverse_weight,)),
        ]
        weights = {
            "classifier_weight": classifier_weight,
            "image_weight": image_weight,
            "reverse_weight": reverse_weight,
        }
        for name, weight in weights.items():
            check_weight(name, weight, least=0)
        parts += [Part(ClassifierTerm(), (classifier_weight,))] if classifier_weight != 0 else []
        parts += [Part(ImageTerm(), (image_weight,))] if image_weight != 0 else []
        super().__init__(*parts)
