"""What a model that learns from reference images is trained and measured on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

SIZES = (32, 64)


@dataclass(frozen=True)
class Shown:
    """Images, and what each of them shows.

    Attributes:
        x: `(N, C, H, W)`, uint8 or float in [0, 1]. factors: `(N, F)`, the target factors, numbers. classes: `(N,)`, of
            what else is in the image. attributes: `(N,)`, the class of the target factors. -1 where one is not known.
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
    """A pool of unlabelled images, a set of reference images whose target factors are constant, and images to measure.

    Attributes:
        name: of the data set. factor_names: of the target factors. class_names: of what else is in an image.
            attribute_names: of the classes of the target factors. Any may be empty.
        x, y: training images, `(N, C, H, W)`, and 0 of unlabelled ones, 1 of references. The former come first.
        pool: the unlabelled images with what they show, on which no model is trained.
        probing: images to learn how to read features, such as the pool's. test: others, to measure.
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
