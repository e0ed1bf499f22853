"""Data for models that learn from reference images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

SIZES = (32, 64)


@dataclass(frozen=True)
class Shown:
    """Images with their ground truth.

    Attributes:
        x: `(N, C, H, W)`, uint8 or float in [0, 1]. factors: `(N, F)`, the numeric target factors. classes: `(N,)`, the
            class of the remaining content, -1 if unknown. attributes: `(N,)`, the class of the target factors, -1 if
            unknown.
    """

    x: Tensor
    factors: Tensor
    classes: Tensor
    attributes: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice) -> Shown:
        return Shown(self.x[rows], self.factors[rows], self.classes[rows], self.attributes[rows])


@dataclass(frozen=True)
class ReferenceData:
    """A pool of unlabelled images, reference images whose target factors are constant, and images for evaluation.

    Attributes:
        name: the data set's name. factor_names: the target factors' names. class_names: the names of `classes` in
            `Shown`. attribute_names: the names of its `attributes`. Each of these three may be empty.
        x, y: training images, `(N, C, H, W)`, and their labels: 0 for unlabelled images, which come first, 1 for
            references.
        pool: the unlabelled images with their ground truth, which is not used in training.
        probing: images for training probes, distributed like the pool. test: other images, for evaluation.
    """

    name: str
    factor_names: tuple[str, ...]
    class_names: tuple[str, ...]
    x: Tensor
    y: Tensor
    pool: Shown
    probing: Shown
    test: Shown
    attribute_names: tuple[str, ...] = ()

    @property
    def x_shape(self) -> tuple[int, int, int]:
        return tuple(self.x.shape[1:])
