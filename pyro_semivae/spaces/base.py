"""The abstract spaces: the interface of `Space`, `Data` and `Labels`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_semivae.spaces.missing import MISSING, is_missing


class Space(ABC):
    """The values of a site. Subclasses are frozen dataclasses: two spaces of the same kind and sizes are equal."""

    @abstractmethod
    def validate(self, values: Any, name: str) -> Tensor:
        """Checks values and returns them as the tensor to use from there on.

        Args:
            values: a tensor, a numpy array or lists. name: the argument's name, for error messages.

        Raises:
            InputError: values are outside the space.
        """

    nesting: ClassVar[int] = 1  # the number of nested plates that values of this space need
    is_label: ClassVar[bool] = False

    @abstractmethod
    def num_rows(self, values: Tensor) -> int:
        """The number of rows B of values, which may have more batch dimensions to the left of the rows'."""

    @abstractmethod
    def arranged(self, values: Tensor, nesting: int) -> Tensor:
        """Values in the layout of a model with `nesting` nested plates; with two, rows have a dimension for entries."""

    @abstractmethod
    def outward(self, values: Tensor, nesting: int) -> Tensor:
        """The inverse of `arranged`."""

    @abstractmethod
    def model_values(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Validated values in the dtype that models take: floats of `dtype`, except for class labels."""


class Data(Space):
    """Abstract: observed and generated data with an event shape; a row of floats that are all NaN is missing.

    Attributes:
        pictures: whether rows can be shown as images.
        within: constraints that all values satisfy; a likelihood whose support is among them need not check the values.
    """

    pictures: ClassVar[bool] = False
    within: ClassVar[tuple[constraints.Constraint, ...]] = (constraints.real,)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""

    def num_rows(self, values: Tensor) -> int:
        return values.shape[-1 - len(self.shape)]

    def arranged(self, values: Tensor, nesting: int) -> Tensor:
        return values.unsqueeze(-1 - len(self.shape)) if nesting > 1 else values

    def outward(self, values: Tensor, nesting: int) -> Tensor:
        return values.squeeze(-1 - len(self.shape)) if nesting > 1 else values

    def model_values(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        return values.to(dtype)

    def mean_of(self, raw: Tensor) -> Tensor:
        """Maps a network's output to the mean of the data; the identity here."""
        return raw

    def missing(self, num_rows: int) -> Tensor:
        """`num_rows` missing rows: NaN in every entry."""
        return torch.full((num_rows, *self.shape), torch.nan)


class Labels(Space):
    """Abstract: labels, which may be missing.

    Attributes:
        entries: the number of entries per row, which have a plate of their own; None for a single value without one.
        num_values: the number of values to enumerate, over all entries together; None for continuous labels.
        code_size: the size of the vector that represents a row's label as an input of networks.
        raw_size: the number of network outputs that parameterise a distribution of the label.
        report: which metrics and figures apply: those for "classes", "attributes" or "values".
        always_known: whether every row has the label, so that it is observed in the model and never enumerated.
    """

    entries: int | None
    num_values: int | None
    code_size: int
    raw_size: int
    report: ClassVar[str]
    is_label: ClassVar[bool] = True
    always_known: ClassVar[bool] = False

    @property
    def nesting(self) -> int:
        return 1 if self.entries is None else 2

    def model_values(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        return values.to(dtype) if values.is_floating_point() else values

    def plate(self, name: str) -> AbstractContextManager:
        """The plate of the entries, dim -1; a null context for a label without entries."""
        return nullcontext() if self.entries is None else pyro.plate(name, self.entries, dim=-1)

    def num_rows(self, values: Tensor) -> int:
        return values.shape[-1 if self.entries is None else -2]

    def arranged(self, values: Tensor, nesting: int) -> Tensor:
        return values.unsqueeze(-1) if nesting > 1 and self.entries is None else values

    def outward(self, values: Tensor, nesting: int) -> Tensor:
        return values.squeeze(-1) if nesting > 1 and self.entries is None else values

    @abstractmethod
    def code(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Labels `(..., B)` or `(..., B, E)` as vectors, `(..., B, code_size)` or `(..., B, 1, code_size)`."""

    @abstractmethod
    def prior(self, given: Any = None) -> Tensor:
        """Checks the parameters of a prior and returns them; the default prior's if none are given.

        Raises:
            InputError: they are no valid parameters.
        """

    @abstractmethod
    def logits(self, parameters: Tensor) -> Tensor:
        """Checked parameters of a prior in the form that `prior_distribution` takes."""

    @abstractmethod
    def prior_distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        """The prior with `parameters` as `logits` returns them."""

    @abstractmethod
    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """The distribution parameterised by a network's output `batch + (raw_size,)`. With entries, `batch` ends in 1,
        their dimension, and the distribution's batch shape is `(..., B, E)`."""

    def missing(self, num_rows: int, device: torch.device | None = None) -> Tensor:
        """`num_rows` rows of labels, all missing."""
        shape = (num_rows,) if self.entries is None else (num_rows, self.entries)
        return torch.full(shape, self.marker, device=device, dtype=None if self.marker != MISSING else torch.long)

    @property
    @abstractmethod
    def marker(self) -> float:
        """The value that marks a missing label."""

    def in_units_of(self, y: Tensor) -> Labels:
        """The space with its location and scale set to those of the known labels; unchanged for all but `Real`."""
        return self

    @abstractmethod
    def frequencies(self, y: Any, smoothing: float = 1.0) -> Tensor:
        """Parameters of the prior, as `prior` takes them, from the observed entries of labels `y`.

        Raises:
            InputError: `y` is outside the space; `smoothing` is not a number above 0.
        """

    def where_known(self, y: Tensor, found: Tensor) -> Tensor:
        """Results of `classify`, replaced by the known labels where there are any (for classes: probability 1)."""
        return torch.where(is_missing(y), found, y)

    def accuracy(self, probs: Tensor, y: Tensor) -> float:
        """The fraction of known labels whose most probable value is right, averaged over entries; NaN if no label is
        known."""
        right = torch.where(is_missing(y), torch.nan, (self.most_probable(probs) == y).double())
        return right.nanmean(0).nanmean().item()

    def score(self, found: Tensor, y: Tensor) -> dict[str, float]:
        """The metrics of the results of `classify` on known labels: name -> value."""
        return {"accuracy": self.accuracy(found, y)}

    @abstractmethod
    def settings(self, y: Tensor) -> list[tuple[str, Tensor]]:
        """Names and values to set a label to in figures; each value is one row, `()` or `(entries,)`, whose missing
        entries are left unchanged.

        Args:
            y: known labels, whose quantiles are the values of continuous labels.
        """

    def log_prob(self, logits: Tensor, y: Tensor) -> Tensor:
        """log p(y) of labels under a classifier's logits, `(N, C)` or `(N, L)`; in y's shape, NaN where missing."""
        known = ~is_missing(y)
        log_prob = self.prior_distribution(logits).log_prob(torch.where(known, y, 0))
        return log_prob.where(known, torch.nan)

    @abstractmethod
    def probabilities(self, table: Tensor) -> Tensor:
        """From the probabilities of all values, `(..., values)`: those of each class, or of each entry being 1."""

    @abstractmethod
    def most_probable(self, probs: Tensor) -> Tensor:
        """The most probable labels, given the output of `probabilities`."""


def absent_rows(values: Tensor) -> Tensor:
    """Mask `(N,)` of the rows of data that are missing: NaN in every entry."""
    if not values.is_floating_point():
        return torch.zeros(len(values), dtype=torch.bool, device=values.device)
    absent = values[(slice(None), *(0,) * (values.dim() - 1))].isnan()  # the first entry rules out most rows
    found = absent.nonzero()[:, 0]
    absent[found] = values[found].flatten(1).isnan().all(1)
    return absent


def rows_of(outside: Tensor) -> list[int]:
    """The indices of the first five True entries of a mask `(B,)`."""
    return outside.nonzero()[:5, 0].tolist()
