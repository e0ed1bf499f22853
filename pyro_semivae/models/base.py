"""The abstract base of all models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro.params import param_with_module_name
from torch import Tensor, nn

from pyro_semivae import spaces
from pyro_semivae.conditionals import Likelihood
from pyro_semivae.errors import InputError
from pyro_semivae.infer import Objective
from pyro_semivae.infer.handlers import ROW_PLATE, LocalParameters
from pyro_semivae.models.saving import save
from pyro_semivae.spaces import Images, Labels, Space

if TYPE_CHECKING:
    pass


_rows_without_values: ContextVar[int] = ContextVar("rows_without_values", default=1)


@contextmanager
def of_size(num_rows: int) -> Iterator[None]:
    """Sets the number of rows of a model that is given no values for any site (default: 1)."""
    token = _rows_without_values.set(num_rows)
    try:
        yield
    finally:
        _rows_without_values.reset(token)


class SemiVAE(nn.Module, ABC):
    """A model and a guide over data and labels, any of which may be missing.

    A subclass declares the spaces of its observed sites. It defines `model` and `guide` as `pyro.sample` statements,
    its paper's objective (`elbo`), and the names of the sites that carry the labels' characteristics
    (`characteristic`). No model inherits from another model.

    The same statements serve one class label and several binary ones. `rows` is the plate over the batch: dim -1, or
    dim -2 if a label has several entries, which are in the inner plate `entries`, dim -1. `rows` yields its values in
    that layout. Networks take labels, and per-entry latents, as vectors (see `nn.MLP`).

    Args:
        spaces: site name -> space of the observed values, in the order of the arguments of `model` and `guide`. A
            sequence of three sizes means `Images(*sizes)`.

    Attributes:
        spaces: as given.
        characteristic: names of the sites that carry the labels' characteristics.
        states_graph: whether the class's docstring has its factorisations, which `check_model` compares with the code.
        warm_up: the default of `fit`'s `warm_up`: the fraction of training over which the objective's beta rises
            from 0.
        stratify: the name of a label; each step of `fit` then has equally many rows of each of its values, see
            `data.Batches`.

    Raises:
        InputError: a space is neither a `Space` nor a sequence of three sizes.
    """

    spaces: dict[str, Space]
    characteristic: tuple[str, ...] = ()
    warm_up: float = 0.0
    stratify: str | None = None
    states_graph: bool = True

    def __new__(cls, *args: Any, **kwargs: Any) -> SemiVAE:
        new = super().__new__(cls)
        object.__setattr__(new, "_built", (args, kwargs))  # `save` writes these with the weights
        return new

    def __init__(self, **spaces: Space | Sequence[int]):
        super().__init__()
        self._entries = {}
        self.spaces = {name: _space(name, space) for name, space in spaces.items()}

    @property
    def built_with(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and the keyword arguments of the constructor's call."""
        return self._built

    @property
    def data_sites(self) -> tuple[str, ...]:
        """The names of the data sites."""
        return tuple(name for name, space in self.spaces.items() if not space.is_label)

    @property
    def label_sites(self) -> tuple[str, ...]:
        """The names of the label sites."""
        return tuple(name for name, space in self.spaces.items() if space.is_label)

    @property
    def continuous_labels(self) -> tuple[str, ...]:
        """The names of the label sites that cannot be enumerated."""
        return tuple(name for name in self.label_sites if self.spaces[name].num_values is None)

    @property
    def labels(self) -> Labels:
        """The space of the label, in a model with one label site."""
        return self.spaces[self.only(self.label_sites, "labels")]

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one example's data, in a model with one data site."""
        return self.spaces[self.only(self.data_sites, "data")].shape

    def only(self, names: tuple[str, ...], what: str) -> str:
        """The only name among `names`, sites of the kind `what`.

        Raises:
            InputError: there are several names, or none.
        """
        if len(names) != 1:
            raise InputError(
                f"{type(self).__name__} has {len(names)} sites of {what}, {', '.join(names) or 'none'}; expected "
                f"one{': pass the values of several sites as a mapping from site to values' if names else ''}"
            )
        return names[0]

    @property
    def max_plate_nesting(self) -> int:
        """1 if the plate of rows is dim -1; 2 if it is dim -2, outside the plate of a label's entries."""
        return max(space.nesting for space in self.spaces.values())

    @contextmanager
    def rows(self, *values: Tensor | None) -> Iterator[tuple[Tensor | None, ...]]:
        """The plate over the batch (one row without values, see `of_size`); yields the values in the sites' layout.

        Args:
            values: the values of the sites in `spaces`, in that order; None for a site without any. Labels may have
                batch dimensions to the left of the rows' (several candidate labels for the same images).

        Raises:
            InputError: the numbers of rows differ, or there are no rows.
        """
        given = [(name, space, value) for (name, space), value in zip(self.spaces.items(), values, strict=True)]
        sizes = {name: space.num_rows(value) for name, space, value in given if value is not None}
        if len(set(sizes.values())) > 1:
            got = f"{' and '.join(map(str, sizes.values()))} rows"
            raise InputError(f"{', '.join(sizes)}: got {got}; expected the same number of each")
        size = next(iter(sizes.values()), _rows_without_values.get())
        if size < 1:
            raise InputError(f"{', '.join(self.spaces)}: got no rows; expected batches of one or more")
        nesting = self.max_plate_nesting
        with pyro.plate(ROW_PLATE, size, dim=-nesting):
            self._entries: dict[str, AbstractContextManager] = {}
            yield tuple(None if value is None else space.arranged(value, nesting) for _, space, value in given)

    def entries(self, label: str) -> AbstractContextManager:
        """The plate of a label's entries, inside `rows`, such as several binary labels; no plate for a class label."""
        if label not in self._entries:  # it may be entered again
            self._entries[label] = self.spaces[label].plate(f"entries of {label}")
        return self._entries[label]

    @abstractmethod
    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """The generative model; observes `x` `(B, C, H, W)` and `y` where they are given, and returns x."""

    @abstractmethod
    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        """The inference model; takes `x` `(B, C, H, W)` and observes `y` where it is given."""

    @abstractmethod
    def elbo(self, **options) -> Objective:
        """The paper's objective, with its options as arguments."""

    def elbo_for(self, y: Tensor | None) -> Objective:
        """The objective for a data set with these labels, some missing; the default of `fit`.

        This is `elbo()`, unless the model overrides it, e.g. with a classifier weight that depends on the number of
        labelled rows.
        """
        return self.elbo()

    def corruption(self) -> Callable[[Tensor], Tensor] | None:
        """The default of `fit`'s `corrupt`: noise on the images that the guide sees in training; None here."""
        return None

    def table(self, x: Any = None, y: Any = None) -> dict[str, Tensor]:
        """Checks a batch and returns it as a mapping from site to tensors; each stays on its device.

        Args:
            x: a mapping from site to values (tensors, numpy arrays, lists), in which sites without any values are None
                or left out; or, in a model with one data site, the values of that site.
            y: in the latter case, the values of the label site.

        Raises:
            InputError: values are outside their space or the support of a likelihood `p_<site>`, or belong to no site;
                the numbers of rows differ.
        """
        if isinstance(x, Mapping):
            if y is not None:
                raise InputError("y: got labels and a mapping of all sites; expected one of the two")
            given = dict(x)
        else:
            given = {} if x is None else {self.only(self.data_sites, "data"): x}
            given |= {} if y is None else {self.only(self.label_sites, "labels"): y}
        if unknown := [name for name in given if name not in self.spaces]:
            raise InputError(f"x: got values of {unknown}; expected those of {', '.join(self.spaces)}")
        dtype = next(self.parameters()).dtype
        out = {}
        for name, space in self.spaces.items():
            if given.get(name) is not None:
                values = space.validate(given[name], name)
                if isinstance(likelihood := getattr(self, f"p_{name}", None), Likelihood):
                    likelihood.check(values, name)
                out[name] = space.model_values(values, dtype) if space.is_label else values
        sizes = [len(values) for values in out.values()]
        if len(set(sizes)) > 1:
            got = " and ".join(f"{size} rows of {name}" for name, size in zip(out, sizes, strict=True))
            raise InputError(f"{', '.join(out)}: got {got}; expected the same number of each")
        return out

    def inputs(self, x: Any = None, y: Any = None) -> tuple[Tensor | None, ...]:
        """A batch as the arguments of `model` and `guide`, in the order of the spaces: checked (see `table`), on the
        parameters' device, data as floats of the parameters' dtype."""
        rows, parameter = self.table(x, y), next(self.parameters())
        return tuple(
            space.model_values(rows[name].to(parameter.device), parameter.dtype) if name in rows else None
            for name, space in self.spaces.items()
        )

    def configuration(self) -> dict[str, Any]:
        """The model's class, its sites' spaces, and its submodules by name with class and settings; no weights.

        Models with the same configuration can load each other's checkpoints.
        """
        with torch.random.fork_rng([]):  # the repr of some flows uses random numbers
            named = self.named_modules()
            parts = {name or "model": f"{type(part).__qualname__}({part.extra_repr()})" for name, part in named}
        return {"spaces": dict(self.spaces), "characteristic": self.characteristic, **parts}

    def by_site(self, values: Sequence[Tensor | None]) -> dict[str, Tensor | None]:
        """The values that `inputs` returns, by site name."""
        return dict(zip(self.spaces, values, strict=True))

    def blank(self, num_rows: int = 1) -> tuple[Tensor, ...]:
        """A placeholder batch as `inputs` returns it, to trace the graph with: data are zeros, labels are missing."""
        rows = {
            name: space.missing(num_rows) if space.is_label else torch.zeros(num_rows, *space.shape)
            for name, space in self.spaces.items()
        }
        return self.inputs(rows)

    def images(self, x: Any) -> Tensor:
        """Values of the only data site, converted as in `inputs`.

        Raises:
            InputError: as in `table`, or `x` is None.
        """
        name, parameter = self.only(self.data_sites, "data"), next(self.parameters())
        space = self.spaces[name]
        return space.model_values(space.validate(x, name).to(parameter.device), parameter.dtype)

    def label_values(self, y: Any, name: str = "y") -> Tensor:
        """Values of the only label site, converted as in `inputs`.

        Raises:
            InputError: as in `table`; the message calls the argument `name`.
        """
        parameter = next(self.parameters())
        return self.labels.model_values(self.labels.validate(y, name), parameter.dtype).to(parameter.device)

    def save(self, path: str | Path) -> None:
        """Writes the weights and the constructor's arguments to a file; `pyro_semivae.load(path)` restores the model.

        Arguments that a file cannot hold (your own functions and modules) are named in a note. `load` then needs a
        model built the same way, whose weights it replaces.

        Raises:
            InputError: the file cannot be written.
        """
        save(self, path)

    def register(self) -> None:
        """Registers the parameters in Pyro's parameter store, where a plain `pyro.infer.SVI` loop finds them.

        Call it in the first line of `model`. Inside `elbo(model, guide)` modules, and so in `fit`, it does nothing.

        Raises:
            RuntimeError: the store holds another model's parameters under this model's name.
        """
        if LocalParameters.is_on():
            return
        name = type(self).__name__.lower()
        pyro.module(name, self)
        store = pyro.get_param_store()
        for parameter_name, parameter in self.named_parameters():
            stored = param_with_module_name(name, parameter_name)
            if stored in store and store[stored] is not parameter:
                raise RuntimeError(
                    f"Pyro's parameter store holds other parameters under the name '{name}', loaded ones or another "
                    f"{type(self).__name__}'s, which SVI would train instead of this model's: to continue with them, "
                    f"call pyro.module('{name}', vae, update_module_params=True) first; to discard them, "
                    f"pyro.clear_param_store(). fit() does not use the store"
                )


def _space(name: str, space: Any) -> Space:
    if isinstance(space, Sequence) and len(space) == 3:
        return Images(*space)
    if not isinstance(space, Space):
        old = type(space).__name__ in spaces.__all__
        got = f"{space!r}, from a module that has been reloaded since" if old else repr(space)
        accepted = "Images, Vectors, Counts, or (C, H, W)" if name == "x" else "Classes(number) and Binary(number)"
        name = {"x": "x_shape", "y": "labels"}.get(name, name)
        raise InputError(f"{name}: got {got}; expected {accepted}")
    return space
