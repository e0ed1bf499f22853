"""A data set: images and labels, for training and for the test."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.labels import Binary, Classes


@dataclass(frozen=True)
class ImageData:
    """A data set with class labels or several binary ones.

    Attributes:
        name: the data set actually loaded.
        label_names: the names of the classes, or of the binary labels.
        x, y: training images, uint8 `(N, C, H, W)`, in memory or memory-mapped, and labels, int64 `(N,)` or
            float32 `(N, L)`.
        x_test, y_test: the same for the test set.
        strengths, strengths_test: of rendered data, how strong each label is in each image, `(N, L)` in [0, 1]; NaN
            where it is off. Nothing trains on them.
    """

    name: str
    label_names: tuple[str, ...]
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    strengths: Tensor | None = None
    strengths_test: Tensor | None = None

    @property
    def labels(self) -> Classes | Binary:
        """The label space."""
        return Binary(len(self.label_names)) if self.y.dim() == 2 else Classes(len(self.label_names))

    @property
    def x_shape(self) -> tuple[int, int, int]:
        return tuple(self.x.shape[1:])

    def hold_out(self, num_rows: int) -> ImageData:
        """The same with the last `num_rows` training rows in the place of the test set, to choose recipes on.

        Raises:
            InputError: there are not that many rows.
        """
        x, y = self.x, self.y
        if not 1 <= num_rows < len(x):
            raise InputError(f"num_rows: got {num_rows} rows to hold out; accepted are 1 to {len(x) - 1}")
        first, last = slice(None, -num_rows), slice(-num_rows, None)
        s = self.strengths
        return replace(
            self,
            name=f"{self.name}-held-out",
            x=x[first],
            y=y[first],
            x_test=x[last],
            y_test=y[last],
            strengths=None if s is None else s[first],
            strengths_test=None if s is None else s[last],
        )
