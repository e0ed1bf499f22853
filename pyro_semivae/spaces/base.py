"""What every space says of its values."""

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
        """The values as a tensor; what is used from there on.

        Args:
            values: a tensor, a numpy array or lists. name: the argument's, for errors.

        Raises:
            InputError: they are outside of the space.
        """

    nesting: ClassVar[int] = 1  # of plates, that values of this space need
    is_label: ClassVar[bool] = False

    @abstractmethod
    def num_rows(self, values: Tensor) -> int:
        """The number of rows B of values, which may have further dimensions left of the rows'."""

    @abstractmethod
    def arranged(self, values: Tensor, nesting: int) -> Tensor:
        """Values in the layout of a model with this many nested plates: with two, a row has a dimension for entries."""

    @abstractmethod
    def outward(self, values: Tensor, nesting: int) -> Tensor:
        """The inverse of `arranged`."""

    @abstractmethod
    def model_values(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Validated values in the type in which models take them: floats of `dtype`, except for class labels."""


class Data(Space):
    """Abstract: what is observed and generated, with an event shape; a row of floats that is all NaN is missing.

    Attributes:
        pictures: whether rows can be shown as images.
        within: sets that all values are in; a likelihood with such a support takes them unseen.
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
        """A network's output as the mean of such data; here as it is."""
        return raw

    def missing(self, num_rows: int) -> Tensor:
        """`num_rows` rows that are missing: NaN in every entry."""
        return torch.full((num_rows, *self.shape), torch.nan)


class Labels(Space):
    """Abstract: what may be known of a row, and may be missing.

    Attributes:
        entries: how many entries a row has, in a plate of their own; None where it is one value, outside of any.
        num_values: how many values there are to sum over (of all entries together); None for continuous labels.
        code_size: the size of a row's label as a vector, which networks take.
        raw_size: the number of outputs that a network needs to say a distribution of it.
        report: which measures and figures make sense: "classes", "attributes" or "values".
        always_known: whether every row has it, so that it is observed in the model and nowhere enumerated.
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
        """The plate of the entries, dim -1; nothing for a label without."""
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
        """Checked parameters of a prior; the default where none are given.

        Raises:
            InputError: they are outside of the parameters' space.
        """

    @abstractmethod
    def logits(self, parameters: Tensor) -> Tensor:
        """Checked parameters of a prior in the form in which they are kept."""

    @abstractmethod
    def prior_distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        """The prior with what `logits` makes of the parameters that `prior` returned."""

    @abstractmethod
    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """The distribution that a network's output `batch + (raw_size,)` stands for; with entries, `batch` ends in the
        1 that is their dimension, and the batch shape is `(..., B, E)`."""

    def missing(self, num_rows: int, device: torch.device | None = None) -> Tensor:
        """`num_rows` rows of labels, all missing."""
        shape = (num_rows,) if self.entries is None else (num_rows, self.entries)
        return torch.full(shape, self.marker, device=device, dtype=None if self.marker != MISSING else torch.long)

    @property
    @abstractmethod
    def marker(self) -> float:
        """The value that says that one is missing."""

    def in_units_of(self, y: Tensor) -> Labels:
        """The space with what it says of the sizes of values made to fit those that are known; only `Real` says any."""
        return self

    @abstractmethod
    def frequencies(self, y: Any, smoothing: float = 1.0) -> Tensor:
        """Parameters of the prior, as `prior` takes them, from the observed entries of labels `y`.

        Raises:
            InputError: `y` is outside of the space; `smoothing` is not a number above 0.
        """

    def where_known(self, y: Tensor, found: Tensor) -> Tensor:
        """What `classify` found of labels, and where they are known what they are: of classes certainty."""
        return torch.where(is_missing(y), found, y)

    def accuracy(self, probs: Tensor, y: Tensor) -> float:
        """The fraction of the labels that are known of which the most probable value is right; of entries, their mean.
        NaN where none is known."""
        right = torch.where(is_missing(y), torch.nan, (self.most_probable(probs) == y).double())
        return right.nanmean(0).nanmean().item()

    def score(self, found: Tensor, y: Tensor) -> dict[str, float]:
        """How good what `classify` found is, of the labels that are known: by the measure's name."""
        return {"accuracy": self.accuracy(found, y)}

    @abstractmethod
    def settings(self, y: Tensor) -> list[tuple[str, Tensor]]:
        """Values to set a label to, for figures: their names, and one row each, `()` or `(entries,)`, missing: keep.

        Args:
            y: known labels, from which continuous values are taken.
        """

    def log_prob(self, logits: Tensor, y: Tensor) -> Tensor:
        """log p(y) of labels, of y's shape, under a classifier's logits, `(N, C)` or `(N, L)`; NaN where missing."""
        known = ~is_missing(y)
        log_prob = self.prior_distribution(logits).log_prob(torch.where(known, y, 0))
        return log_prob.where(known, torch.nan)

    @abstractmethod
    def probabilities(self, table: Tensor) -> Tensor:
        """Of probabilities of all values, `(..., values)`, those that tell: of each class, or that an entry is on."""

    @abstractmethod
    def most_probable(self, probs: Tensor) -> Tensor:
        """The labels that have most of the probability that `probabilities` says."""


def absent_rows(values: Tensor) -> Tensor:
    """Mask `(N,)` of the rows of data that are missing: NaN in every entry."""
    if not values.is_floating_point():
        return torch.zeros(len(values), dtype=torch.bool, device=values.device)
    absent = values[(slice(None), *(0,) * (values.dim() - 1))].isnan()  # of the others one need not read more
    found = absent.nonzero()[:, 0]
    absent[found] = values[found].flatten(1).isnan().all(1)
    return absent


def rows_of(outside: Tensor) -> list[int]:
    """The first five rows of a mask `(B,)`."""
    return outside.nonzero()[:5, 0].tolist()
