"""A data set: images and labels, for training and for the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor, check_count
from pyro_semivae.spaces import Labels, as_labels, check_images, label_space


@dataclass(frozen=True)
class ImageData:
    """A data set with class labels or several binary ones, any of which may be missing, in training and test set.

    Attributes:
        name: the data set actually loaded.
        label_names: the names of the classes, or of the binary labels.
        x, y: training images, uint8 or float in [0, 1], `(N, C, H, W)`, in memory or memory-mapped, and labels, int64
            `(N,)`, -1 for missing, or float `(N, L)` of 0, 1 and NaN for missing.
        x_test, y_test: the same for the test set.
        strengths, strengths_test: of rendered data, how strong each label is in each image, `(N, L)` in [0, 1]; NaN
            where it is off. Nothing trains on them.

    Numpy arrays and lists become tensors.

    Raises:
        InputError: the images are none (see `check_images`), those of the test are of another shape; there are not as
            many labels as images, or they are outside of the label space; a name comes twice.
    """

    name: str
    label_names: tuple[str, ...]
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    strengths: Tensor | None = None
    strengths_test: Tensor | None = None

    def __post_init__(self) -> None:
        names = self.label_names
        listed = isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(n, str) for n in names)
        if not listed or len(set(names)) < len(names):
            raise InputError(f"label_names: got {names!r}; expected different names, one for each label")
        self._set("label_names", tuple(names))
        self._set("x", check_images(self.x))
        self._set("x_test", check_images(self.x_test, self.x_shape, "x_test"))
        self._set("y", as_labels(self.y))
        for name, x in (("y", self.x), ("y_test", self.x_test)):
            y = self.labels.validate(getattr(self, name), name)
            if len(x) != len(y) or not len(x):
                got = f"{len(x)} images and {len(y)} labels"
                raise InputError(f"{name.replace('y', 'x')}, {name}: got {got}; expected as many, one or more")
            self._set(name, y)
        for name, y in (("strengths", self.y), ("strengths_test", self.y_test)):
            if (value := getattr(self, name)) is not None:
                self._set(name, as_tensor(name, value))
                if getattr(self, name).shape != y.shape:
                    got = tuple(getattr(self, name).shape)
                    raise InputError(f"{name}: got shape {got}; expected the labels', {tuple(y.shape)}")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the class is frozen

    def __repr__(self) -> str:
        numbers = f"{len(self.x):,} images of {self.x_shape} to train on, {len(self.x_test):,} to test"
        return f"{self.name}: {numbers}; labels {self.labels}: {', '.join(self.label_names)}"

    @property
    def labels(self) -> Labels:
        """The label space."""
        return label_space(self.y, len(self.label_names))

    @property
    def x_shape(self) -> tuple[int, int, int]:
        return tuple(self.x.shape[1:])

    def hold_out(self, num_rows: int) -> ImageData:
        """The same with the last `num_rows` training rows in the place of the test set: a validation set.

        Raises:
            InputError: there are not that many rows.
        """
        x, y = self.x, self.y
        num_rows = check_count("num_rows", num_rows, most=len(x) - 1)
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
