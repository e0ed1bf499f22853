"""Reports on a trained model: the papers' metrics and figures, for class labels, binary labels and factors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_semivae.data import ImageData
from pyro_semivae.models import SemiVAE
from pyro_semivae.report.attributes import draw_attributes, measure_attributes
from pyro_semivae.report.classes import draw_classes, measure_classes, sign_of_chance
from pyro_semivae.report.extraction import canonical_images, draw_extraction, measure_extraction
from pyro_semivae.report.factors import draw_factors, measure_factors, representation
from pyro_semivae.report.images import draw_images, measure_images
from pyro_semivae.report.real_attributes import draw_real_attributes, measure_real_attributes
from pyro_semivae.report.reference import SHOWN, divergences, draw_reference, measure_reference, signs_of_collapse
from pyro_semivae.report.rows import draw_rows, measure_rows
from pyro_semivae.train import History

# The version of the metrics, in every `metrics.json`. 2: one GP per data set for the mutual information. 3: unseen
# classes are assigned by the paper's rule (before: pairwise); class labels have metrics of the samples' diversity and
# of what interventions keep.
MEASURES = 3

__all__ = [
    "MEASURES",
    "SHOWN",
    "canonical_images",
    "divergences",
    "draw",
    "draw_attributes",
    "draw_classes",
    "draw_extraction",
    "draw_factors",
    "draw_images",
    "draw_real_attributes",
    "draw_reference",
    "draw_rows",
    "measure",
    "measure_attributes",
    "measure_classes",
    "measure_extraction",
    "measure_factors",
    "measure_images",
    "measure_real_attributes",
    "measure_reference",
    "measure_rows",
    "representation",
    "sign_of_chance",
    "signs_of_collapse",
]


# By the attribute `report` of a label space.
MEASURE = {"classes": measure_classes, "attributes": measure_attributes}
DRAW = {"classes": draw_classes, "attributes": draw_attributes}


def measure(
    vae: SemiVAE,
    data: ImageData,
    *,
    corrupt: Callable[[Tensor], Tensor] | None = None,
    quick: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Calls `measure_classes` or `measure_attributes`, depending on the labels, or `measure_images` for a model whose
    `characteristic` is empty."""
    if not vae.characteristic:
        return measure_images(vae, data, seed=seed)
    return MEASURE[data.labels.report](vae, data, corrupt=corrupt, quick=quick, seed=seed)


def draw(vae: SemiVAE, data: ImageData, history: History, out: str | Path) -> None:
    """Calls `draw_classes` or `draw_attributes`, depending on the labels, or `draw_images` for a model whose
    `characteristic` is empty."""
    if not vae.characteristic:
        draw_images(vae, data, history, out)
    else:
        DRAW[data.labels.report](vae, data, history, out)
