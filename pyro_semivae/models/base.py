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
    """How many rows a model has that is given no values of any site (else one)."""
    token = _rows_without_values.set(num_rows)
    try:
        yield
    finally:
        _rows_without_values.reset(token)


class SemiVAE(nn.Module, ABC):
    """A model and a guide over data and labels, any of which may be missing.

    A subclass states the spaces of what is observed, and is two lists of `pyro.sample` lines (`model`, `guide`), its
    paper's objective (`elbo`), and the statement of which sites carry what a label stands for (`characteristic`).
    Subclasses are siblings: none inherits another.

    One list of lines serves one class label and several binary ones. `rows` is the plate of rows: dim -1, or dim -2
    where a label has entries of its own, which live in the plate that `entries` is, dim -1 inside of it. `rows` returns
    what it is given in that layout; networks take labels, and latents of entries, as vectors (see `nn.MLP`).

    Args:
        spaces: site name -> space of what is observed, in the order in which `model` and `guide` take them. Three sizes
            are those of `Images`.

    Attributes:
        spaces: as given.
        characteristic: names of the sites that carry the labels' characteristics.
        states_graph: whether the class's docstring has its factorisations, which `check_model` compares with the code.
        warm_up: the fraction of training over which `fit` lets the objective's beta rise from 0, unless it is told.
        stratify: the name of a label of which `fit` takes as many rows of each value in a step, see `data.Batches`.

    Raises:
        InputError: a space is something else.
    """

    spaces: dict[str, Space]
    characteristic: tuple[str, ...] = ()
    warm_up: float = 0.0
    stratify: str | None = None
    states_graph: bool = True

    def __new__(cls, *args: Any, **kwargs: Any) -> SemiVAE:
        new = super().__new__(cls)
        object.__setattr__(new, "_built", (args, kwargs))  # what `save` writes beside the weights
        return new

    def __init__(self, **spaces: Space | Sequence[int]):
        super().__init__()
        self._entries = {}
        self.spaces = {name: _space(name, space) for name, space in spaces.items()}

    @property
    def built_with(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments it was made with, by position and by name."""
        return self._built

    @property
    def data_sites(self) -> tuple[str, ...]:
        """The names of the sites of data."""
        return tuple(name for name, space in self.spaces.items() if not space.is_label)

    @property
    def label_sites(self) -> tuple[str, ...]:
        """The names of the sites of labels."""
        return tuple(name for name, space in self.spaces.items() if space.is_label)

    @property
    def continuous_labels(self) -> tuple[str, ...]:
        """The names of the sites of labels that no sum goes over."""
        return tuple(name for name in self.label_sites if self.spaces[name].num_values is None)

    @property
    def labels(self) -> Labels:
        """The space of the label, in a model that has one."""
        return self.spaces[self.only(self.label_sites, "labels")]

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one row of the data, in a model that has one site of it."""
        return self.spaces[self.only(self.data_sites, "data")].shape

    def only(self, names: tuple[str, ...], what: str) -> str:
        """The one of some names of sites.

        Raises:
            InputError: there are several, or none.
        """
        if len(names) != 1:
            raise InputError(
                f"{type(self).__name__} has {len(names)} sites of {what}, {', '.join(names) or 'none'}; here one is "
                f"meant{': pass values of several as a mapping from site to values' if names else ''}"
            )
        return names[0]

    @property
    def max_plate_nesting(self) -> int:
        """1 where the plate of rows is dim -1, 2 where it is dim -2, around the entries of a label."""
        return max(space.nesting for space in self.spaces.values())

    @contextmanager
    def rows(self, *values: Tensor | None) -> Iterator[tuple[Tensor | None, ...]]:
        """The plate of the rows that are given, or of one if none is (see `of_size`); returns them as sites take them.

        Args:
            values: of the sites in `spaces`, in their order; None where all are missing. Labels may have batch
                dimensions left of the rows' (several guesses at the same images).

        Raises:
            InputError: they have different numbers of rows, or none.
        """
        given = [(name, space, value) for (name, space), value in zip(self.spaces.items(), values, strict=True)]
        sizes = {name: space.num_rows(value) for name, space, value in given if value is not None}
        if len(set(sizes.values())) > 1:
            got = f"{' and '.join(map(str, sizes.values()))} rows"
            raise InputError(f"{', '.join(sizes)}: got {got}; expected as many of one as the other")
        size = next(iter(sizes.values()), _rows_without_values.get())
        if size < 1:
            raise InputError(f"{', '.join(self.spaces)}: got no rows; expected batches of one or more")
        nesting = self.max_plate_nesting
        with pyro.plate(ROW_PLATE, size, dim=-nesting):
            self._entries: dict[str, AbstractContextManager] = {}
            yield tuple(None if value is None else space.arranged(value, nesting) for _, space, value in given)

    def entries(self, label: str) -> AbstractContextManager:
        """The plate of a label's entries, inside of `rows`: of several binary labels; nothing for a class label."""
        if label not in self._entries:  # it may be entered again
            self._entries[label] = self.spaces[label].plate(f"entries of {label}")
        return self._entries[label]

    @abstractmethod
    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """The generative model; observes `x` `(B, C, H, W)` and `y` where given, returns x."""

    @abstractmethod
    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        """The inference model, given `x` `(B, C, H, W)` and, where given, `y`."""

    @abstractmethod
    def elbo(self, **options) -> Objective:
        """The paper's objective, with its options as arguments."""

    def elbo_for(self, y: Tensor | None) -> Objective:
        """The objective for a data set with these labels, some missing: what `fit` maximises unless it is given one.

        `elbo()`, except for models with a classifier beside the bound: its weight depends on how many rows have labels.
        """
        return self.elbo()

    def corruption(self) -> Callable[[Tensor], Tensor] | None:
        """Noise on the images that the guide sees in training, which `fit` takes unless it is told; none here."""
        return None

    def table(self, x: Any = None, y: Any = None) -> dict[str, Tensor]:
        """Rows as a mapping from site to values, checked; what is to be used from there on, on the devices where it is.

        Args:
            x: a mapping from site to values (tensors, numpy arrays, lists), sites that are missing altogether left out
                or None; or the values of the site of data, in a model that has one.
            y: with the latter, those of its label.

        Raises:
            InputError: values are outside of their space, of the support of a likelihood `p_<site>`, or of no site;
                their numbers of rows differ.
        """
        if isinstance(x, Mapping):
            if y is not None:
                raise InputError("y: got labels beside a mapping of all sites; expected one of the two")
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
            raise InputError(f"{', '.join(out)}: got {got}; expected as many of one as the other")
        return out

    def inputs(self, x: Any = None, y: Any = None) -> tuple[Tensor | None, ...]:
        """Rows as `model` and `guide` take them, in the order of the spaces: checked (see `table`), on the parameters'
        device, data as floats of their dtype."""
        rows, parameter = self.table(x, y), next(self.parameters())
        return tuple(
            space.model_values(rows[name].to(parameter.device), parameter.dtype) if name in rows else None
            for name, space in self.spaces.items()
        )

    def configuration(self) -> dict[str, Any]:
        """What it is: its class, its sites' spaces, and its parts by name with their classes and settings; no weights.

        Two models of one configuration are of one kind: a checkpoint of the one is one of the other.
        """
        with torch.random.fork_rng([]):  # there are flows whose text draws
            named = self.named_modules()
            parts = {name or "model": f"{type(part).__qualname__}({part.extra_repr()})" for name, part in named}
        return {"spaces": dict(self.spaces), "characteristic": self.characteristic, **parts}

    def by_site(self, values: Sequence[Tensor | None]) -> dict[str, Tensor | None]:
        """What `inputs` returns, by the names of the sites."""
        return dict(zip(self.spaces, values, strict=True))

    def blank(self, num_rows: int = 1) -> tuple[Tensor, ...]:
        """Rows without content, as `inputs` returns them, for those who look at the graph alone: zeros, no labels."""
        rows = {
            name: space.missing(num_rows) if space.is_label else torch.zeros(num_rows, *space.shape)
            for name, space in self.spaces.items()
        }
        return self.inputs(rows)

    def images(self, x: Any) -> Tensor:
        """Data of the one site of it as the model takes them: see `inputs`.

        Raises:
            InputError: as `table`, or `x` is None.
        """
        name, parameter = self.only(self.data_sites, "data"), next(self.parameters())
        space = self.spaces[name]
        return space.model_values(space.validate(x, name).to(parameter.device), parameter.dtype)

    def label_values(self, y: Any, name: str = "y") -> Tensor:
        """Labels of the one site of them as the model takes them: see `inputs`.

        Raises:
            InputError: as `table`; the message names the argument `name`.
        """
        parameter = next(self.parameters())
        return self.labels.model_values(self.labels.validate(y, name), parameter.dtype).to(parameter.device)

    def save(self, path: str | Path) -> None:
        """Writes weights, and how the model was built, into a file that `pyro_semivae.load(path)` makes it of again.

        What no file can hold (functions and modules of one's own among the arguments) is named in a note; `load` then
        needs a model like it, whose weights are replaced.

        Raises:
            InputError: the file cannot be written.
        """
        save(self, path)

    def register(self) -> None:
        """Puts the parameters into Pyro's store, where a plain `pyro.infer.SVI` loop finds them.

        The first line of `model`. Inside of `elbo(model, guide)` modules, and so in `fit`, it does nothing.

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
                    f"{type(self).__name__}'s, which SVI would train instead of this one's: to go on with them, call "
                    f"pyro.module('{name}', vae, update_module_params=True) first; to discard them, "
                    f"pyro.clear_param_store(). fit() leaves the store alone"
                )


def _space(name: str, space: Any) -> Space:
    if isinstance(space, Sequence) and len(space) == 3:
        return Images(*space)
    if not isinstance(space, Space):
        old = type(space).__name__ in spaces.__all__
        got = f"{space!r}, of a module that was reloaded since" if old else repr(space)
        accepted = "Images, Vectors, Counts, or (C, H, W)" if name == "x" else "Classes(number) and Binary(number)"
        name = {"x": "x_shape", "y": "labels"}.get(name, name)
        raise InputError(f"{name}: got {got}; expected {accepted}")
    return space
