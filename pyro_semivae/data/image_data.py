"""A data set: training and test images with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor, check_count
from pyro_semivae.spaces import Labels, as_labels, check_images, label_space


@dataclass(frozen=True)
class ImageData:
    """A data set of training and test images with class labels or several binary labels, any of which may be missing.

    Attributes:
        name: the data set actually loaded.
        label_names: the names of the classes, or of the binary labels.
        x, y: training images, uint8 or float in [0, 1], `(N, C, H, W)`, in memory or memory-mapped; and their labels,
            int64 `(N,)` with -1 for missing, or float `(N, L)` with 0, 1 and NaN for missing.
        x_test, y_test: the same for the test set.
        strengths, strengths_test: for rendered data, the strength of each label in each image, `(N, L)` in [0, 1], NaN
            if the label is off. They are not used in training.

    Numpy arrays and lists become tensors.

    Raises:
        InputError: `x` or `x_test` is not a batch of images (see `check_images`), their image shapes differ, the
            numbers of images and labels differ, labels are outside the label space, or a name occurs twice.
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
        """The same data with the last `num_rows` training rows as a validation set in place of the test set.

        Raises:
            InputError: `num_rows` is not an integer from 1 to the number of training rows minus 1.
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
