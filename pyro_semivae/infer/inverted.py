"""The inverted VAE's objective: the ELBO of images, and the reverse one of labels that have no image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pyro import poutine
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.errors import check_number
from pyro_semivae.infer.base import RowELBO, Rows
from pyro_semivae.infer.evidence import Impute
from pyro_semivae.infer.handlers import LabelledFirst
from pyro_semivae.infer.labels import TraceLabels_ELBO
from pyro_semivae.infer.reverse import Gradient, TraceReverse_ELBO
from pyro_semivae.infer.roles import sample_sites
from pyro_semivae.spaces import is_missing


class TraceInverted_ELBO(RowELBO):
    r"""J_f of rows with images, J_r of labels without, and the discriminative terms (Gemp et al. 2017, Eqs. 3 to 8).

    .. math::
        J = \underbrace{\sum_{(x, y)} J_f^l + \sum_x J_f^u}_{\text{Eqs. 3, 4}}
            + r \underbrace{\sum_y J_r^u}_{\text{Eq. 5 or 17}}
            + \alpha_f^d \sum_{(x, y)} \log q(y|x)
            - \alpha_r^d \sum_{(x, y)} E_{p(z)} \lVert x - E[x|y,z] \rVert^2

    A batch with images is scored by `TraceLabels_ELBO` and the discriminative terms, one without (`x` missing, `y`
    given) by `TraceReverse_ELBO`. In `fit`, labels without images are its `labels_alone`; without any it is M2's.

    Args:
        classifier_weight: alpha_f^d.
        image_weight: alpha_r^d; the paper says "L2", here its square. One z is drawn.
        reverse_weight: r, 1 in the paper.
        beta: of the rows with images, see `TraceLabels_ELBO`.
        observed, gradient: of the reverse bound, see `TraceReverse_ELBO`; with z observed it is Eq. 17.
        labels: missing labels of images, `"sum"`, `"score"` or `"relaxed"`, see `TraceLabels_ELBO`.
        temperature: of relaxed labels and images.
        max_plate_nesting: 1 for class labels, 2 where a label has entries in a plate inside of the rows'.

    Terms: those of `TraceLabels_ELBO`, `image`, or those of `TraceReverse_ELBO`.

    Raises:
        ValueError: an option is not one of those above.
    """

    scores_labels_alone = True

    def __init__(
        self,
        *,
        classifier_weight: float = 0.0,
        image_weight: float = 0.0,
        reverse_weight: float = 1.0,
        beta: float = 1.0,
        observed: Sequence[str] = ("y", "z"),
        gradient: Gradient = "relaxed",
        labels: Literal["sum", "score", "relaxed"] = "sum",
        temperature: float = 0.5,
        max_plate_nesting: int = 1,
    ):
        super().__init__(max_plate_nesting=max_plate_nesting)
        for name, value in (("image_weight", image_weight), ("reverse_weight", reverse_weight)):
            check_number(name, value, least=0)
        shared = {"temperature": temperature, "max_plate_nesting": max_plate_nesting}
        self.image_weight, self.reverse_weight = image_weight, reverse_weight
        self.forward = TraceLabels_ELBO(classifier_weight=classifier_weight, beta=beta, labels=labels, **shared)
        self.reverse = TraceReverse_ELBO(observed=observed, gradient=gradient, **shared)

    @property
    def beta(self) -> float:
        return self.forward.beta

    @beta.setter
    def beta(self, value: float) -> None:
        self.forward.beta = value

    def rows(
        self, model: Callable, guide: Callable, x: Tensor | None = None, y: Tensor | None = None, **kwargs
    ) -> Rows:
        if x is None:
            rows = self.reverse.rows(model, guide, x, y, **kwargs)
            return Rows({name: self.reverse_weight * term for name, term in rows.terms.items()}, rows.scale)
        rows = self.forward.rows(model, guide, x, y, **kwargs)
        if self.image_weight and y is not None:
            rows.terms["image"] = -self.image_weight * self._distance(model, x, y, **kwargs)
        return rows

    def _distance(self, model: Callable, x: Tensor, y: Tensor, **kwargs) -> Tensor:
        """The squared distance between x and the mean of p(x|y,z), z from its prior; 0 without labels, `(B,)`."""
        number = LabelledFirst.number_now() or len(x)
        labelled_x, labelled_y = x[:number], y[:number]
        trace = poutine.trace(Impute()(model)).get_trace(labelled_x, labelled_y, **kwargs)
        (site,) = [site for _, site in sample_sites(trace) if site["is_observed"]]
        distance = (site["value"] - site["fn"].mean).square().flatten(1).sum(1)
        distance = distance * ~is_missing(labelled_y).reshape(number, -1).any(1)
        return F.pad(distance, (0, len(x) - number))
