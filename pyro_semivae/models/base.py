"""The abstract base of all models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import pyro
from pyro import poutine
from pyro.params.param_store import _MODULE_NAMESPACE_DIVIDER
from torch import Tensor, nn

from pyro_semivae.data.batches import to_unit
from pyro_semivae.data.checks import check_images
from pyro_semivae.errors import InputError, check_count
from pyro_semivae.infer import RowELBO
from pyro_semivae.infer.handlers import ROW_PLATE, LocalParameters
from pyro_semivae.labels import Binary, Classes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class SemiVAE(nn.Module, ABC):
    """A model and a guide over images `x` and labels `y`, either of which may be missing.

    A subclass is two lists of `pyro.sample` lines (`model`, `guide`), its paper's objective (`elbo`), and the
    statement of which sites carry what a label stands for (`characteristic`). Subclasses are siblings: none
    inherits another.

    One list of lines serves one class label and several binary ones. With a class label the plate "data" is dim -1;
    with L binary labels it is dim -2 and a plate "labels" (dim -1) lies inside of it. `label_plate`, `as_vector`,
    `as_labels`, `as_data` and `as_image` are where the two differ.

    Args:
        x_shape: the shape `(C, H, W)` of one image.
        labels: the label space.

    Attributes:
        x_shape, labels: as given.
        characteristic: names of the sites that carry the labels' characteristics.
        warm_up: the fraction of training over which `fit` lets the objective's beta rise from 0, unless it is told.

    Raises:
        InputError: `x_shape` or `labels` is something else.
    """

    x_shape: tuple[int, int, int]
    labels: Classes | Binary
    characteristic: tuple[str, ...] = ()
    warm_up: float = 0.0

    def __init__(self, x_shape: tuple[int, int, int], labels: Classes | Binary):
        super().__init__()
        if not isinstance(x_shape, Sequence) or len(x_shape) != 3:
            raise InputError(f"x_shape: got {x_shape!r}; accepted is (C, H, W)")
        if not isinstance(labels, Classes | Binary):
            old = type(labels).__name__ in ("Classes", "Binary")
            got = f"{labels!r}, of a module that was reloaded since" if old else repr(labels)
            raise InputError(f"labels: got {got}; accepted are Classes(number) and Binary(number)")
        self.x_shape, self.labels = tuple(check_count("x_shape", size) for size in x_shape), labels

    @property
    def max_plate_nesting(self) -> int:
        """1 where the plate "data" is dim -1, 2 where it is dim -2."""
        return 2 if isinstance(self.labels, Binary) else 1

    def label_plate(self) -> AbstractContextManager:
        """The plate "labels" of binary labels, dim -1; nothing with a class label."""
        if isinstance(self.labels, Binary):
            return pyro.plate("labels", self.labels.num_labels, dim=-1)
        return nullcontext()

    def as_vector(self, z: Tensor) -> Tensor:
        """What lives in the plate "labels", `(..., B, L)`, as a parent of what does not, `(..., B, 1, L)`."""
        return z.unsqueeze(-2) if isinstance(self.labels, Binary) else z

    def as_labels(self, z: Tensor) -> Tensor:
        """What does not live in the plate "labels", `(..., B, 1, D)`, as a parent of what does, `(..., B, D)`."""
        return z.squeeze(-2) if isinstance(self.labels, Binary) else z

    def as_data(self, x: Tensor | None) -> Tensor | None:
        """Images `(B, C, H, W)` as the value of a site in the plate "data": `(B, 1, C, H, W)` with binary labels."""
        return x.unsqueeze(1) if x is not None and isinstance(self.labels, Binary) else x

    def as_image(self, x: Tensor) -> Tensor:
        """The value of a site of images as what networks take: the inverse of `as_data`."""
        return x.squeeze(-4) if isinstance(self.labels, Binary) else x

    @abstractmethod
    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """The generative model; observes `x` `(B, C, H, W)` and `y` where given, returns x."""

    @abstractmethod
    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        """The inference model, given `x` `(B, C, H, W)` and, where given, `y`."""

    @abstractmethod
    def elbo(self, **options) -> RowELBO:
        """The paper's objective, with its options as arguments."""

    def elbo_for(self, y: Tensor | None) -> RowELBO:
        """The objective for a data set with these labels, some missing: what `fit` maximises unless it is given one.

        `elbo()`, but for models with a classifier beside the bound, whose weight depends on how many rows have labels.
        """
        return self.elbo()

    def corruption(self) -> Callable[[Tensor], Tensor] | None:
        """Noise on the images that the guide sees in training, which `fit` takes unless it is told; none here."""
        return None

    def rows(self, x: Tensor | None, y: Tensor | None) -> pyro.plate:
        """The plate "data" over the rows of whichever of `x` and `y` is given; one row if none is.

        Labels may have batch dimensions left of the rows' (several guesses at the same images).

        Raises:
            ValueError: they have different numbers of rows, or none.
        """
        images = None if x is None else len(x)
        labels = None if y is None else y.shape[-min(self.max_plate_nesting, y.dim())]
        sizes = {images, labels} - {None}
        if len(sizes) > 1:
            raise InputError(f"x, y: got {images} images and {labels} labels; accepted are as many of one as the other")
        size = sizes.pop() if sizes else 1
        if size < 1:
            raise InputError("x, y: got no rows; accepted are batches of one or more")
        return pyro.plate(ROW_PLATE, size, dim=-self.max_plate_nesting)

    def validate(self, x: Any = None, y: Any = None) -> tuple[Tensor | None, Tensor | None]:
        """Checks a batch and returns what is to be used from there on, on the devices where they are.

        Args:
            x: images, uint8 or float in [0, 1], `(B, *x_shape)`. y: labels, some missing. Tensors, numpy arrays, lists.

        Returns x, uint8 or float as it is, and y, int64, or floats of the parameters' dtype.

        Raises:
            InputError: `x` is something else; `y` is outside of the label space; their lengths differ.
        """
        if x is not None:
            x = check_images(x, self.x_shape)
        if y is not None:
            y = self._labels(y, "y")
        if x is not None and y is not None and len(x) != len(y):
            raise InputError(f"x, y: got {len(x)} images and {len(y)} labels; accepted are as many of one as the other")
        return x, y

    def images(self, x: Any) -> Tensor:
        """Images as the model takes them: checked, float in [0, 1], of the parameters' dtype and on their device.

        Raises:
            InputError: as `validate`, or `x` is None.
        """
        parameter = next(self.parameters())
        return to_unit(check_images(x, self.x_shape).to(parameter.device), parameter.dtype)

    def label_values(self, y: Any, name: str = "y") -> Tensor:
        """Labels as the model takes them: checked, int64 or of the parameters' dtype, on the parameters' device.

        Raises:
            InputError: as `validate`; the message names the argument `name`.
        """
        return self._labels(y, name).to(next(self.parameters()).device)

    def _labels(self, y: Any, name: str) -> Tensor:
        y = self.labels.validate(y, name)
        return y.to(next(self.parameters()).dtype) if y.is_floating_point() else y

    def show(self, x: Tensor | None = None, y: Tensor | None = None, *, path: str | None = None) -> Figure:
        """Draws model and guide with what is observed, summed and sampled; prints factorisations and bound.

        Args:
            x, y: a batch, labels missing or not (default: grey images without labels).
            path: where to write the drawing as PNG.

        Returns the matplotlib figure.
        """
        from pyro_semivae.plot import show  # drawing needs matplotlib, models do not

        return show(self, x, y, path=path)

    def register(self) -> None:
        """Puts the parameters into Pyro's store, where a plain `pyro.infer.SVI` loop finds them.

        The first line of `model`. Inside of `elbo(model, guide)` modules, and so in `fit`, it does nothing.

        Raises:
            RuntimeError: the store holds another model's parameters under this model's name.
        """
        if any(isinstance(handler, LocalParameters) for handler in poutine.runtime._PYRO_STACK):
            return
        name = type(self).__name__.lower()
        pyro.module(name, self)
        store = pyro.get_param_store()
        for parameter_name, parameter in self.named_parameters():
            stored = f"{name}{_MODULE_NAMESPACE_DIVIDER}{parameter_name}"
            if stored in store and store[stored] is not parameter:
                raise RuntimeError(
                    f"Pyro's parameter store holds other parameters under the name '{name}', loaded ones or another "
                    f"{type(self).__name__}'s, which SVI would train instead of this one's: to go on with them, call "
                    f"pyro.module('{name}', vae, update_module_params=True) first; to discard them, "
                    f"pyro.clear_param_store(). fit() leaves the store alone"
                )
