"""Spaces: which values a site takes, how a missing one is written, and all that follows from the kind of value.

=================  ===========================================  ==============================  =================
space              values of `B` rows                           missing                         entries of a row
=================  ===========================================  ==============================  =================
`Images(C, H, W)`  uint8, or float in [0, 1], `(B, C, H, W)`
`Vectors(D)`       finite floats, `(B, D)`
`Counts(D)`        whole numbers from 0, `(B, D)`
`Classes(C)`       integers 0 to C - 1, `(B,)`                  -1, as in scikit-learn          one
`Binary(L)`        floats, 0 or 1, `(B, L)`                     NaN, each entry on its own      L
`Real(K)`          finite floats, `(B, K)`                      NaN, each entry on its own      K
=================  ===========================================  ==============================  =================

The first three are spaces of data, the others of labels. What a space's `validate` returns is what is used from there
on. Nothing outside of this file asks what kind of space it has.

Labels with several entries live in a plate of their own (dim -1) inside of the plate of rows (then dim -2), so that any
entry may be missing by itself. `arranged` brings values into the layout that the plates of a model ask for.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from numbers import Real as Number
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor, check_count
from pyro_semivae.nn import positive

MISSING = -1
BLOCK = 64 << 20  # bytes that are looked at, at a time: a memory-mapped set takes no memory of its own
ENOUGH = 64  # pixels: of so many, some are above 1 where the levels are 0 to 255
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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

    @abstractmethod
    def num_rows(self, values: Tensor) -> int:
        """The number of rows B of values, which may have further dimensions left of the rows'."""

    @abstractmethod
    def arranged(self, values: Tensor, nesting: int) -> Tensor:
        """Values in the layout of a model with so many nested plates: with two, a row has a dimension for entries."""


class Data(Space):
    """Abstract: what is observed and generated, with an event shape."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""

    def num_rows(self, values: Tensor) -> int:
        return values.shape[-1 - len(self.shape)]

    def arranged(self, values: Tensor, nesting: int) -> Tensor:
        return values.unsqueeze(-1 - len(self.shape)) if nesting > 1 else values

    def floats(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Validated values as networks and densities take them, of `dtype` (default: torch's)."""
        return values.to(dtype or torch.get_default_dtype())

    def blank(self, num_rows: int) -> Tensor:
        """Some values, for those who look at a graph and at no data: zeros."""
        return torch.zeros(num_rows, *self.shape)


@dataclass(frozen=True)
class Images(Data):
    """Images of C channels, H rows and W columns.

    Raises:
        InputError: a size is no whole number from 1.
    """

    channels: int
    height: int
    width: int

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            check_count(name, size)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def validate(self, values: Any, name: str = "x") -> Tensor:
        return check_images(values, self.shape, name)

    def floats(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return to_unit(values, dtype or torch.get_default_dtype())


@dataclass(frozen=True)
class Vectors(Data):
    """Vectors of `size` finite numbers.

    >>> Vectors(2).validate([[1, 2], [3, 4]], "x").dtype
    torch.float32
    """

    size: int

    def __post_init__(self) -> None:
        check_count("size", self.size)

    @property
    def shape(self) -> tuple[int]:
        return (self.size,)

    def validate(self, values: Any, name: str = "x") -> Tensor:
        accepted = f"finite numbers (B, {self.size})"
        values = _matrix(values, name, self.size, accepted)
        if not (finite := values.isfinite().all(1)).all():
            raise InputError(f"{name}: got NaN or infinity in rows {_rows_of(~finite)}; accepted are {accepted}")
        return values if values.is_floating_point() else values.to(torch.get_default_dtype())


@dataclass(frozen=True)
class Counts(Data):
    """Vectors of `size` counts: 0, 1, 2 ..., kept as floats, the form that densities take.

    >>> Counts(2).validate([[0, 2], [1, 0]], "x")
    tensor([[0., 2.],
            [1., 0.]])
    """

    size: int

    def __post_init__(self) -> None:
        check_count("size", self.size)

    @property
    def shape(self) -> tuple[int]:
        return (self.size,)

    def validate(self, values: Any, name: str = "x") -> Tensor:
        accepted = f"whole numbers from 0, (B, {self.size})"
        values = _matrix(values, name, self.size, accepted)
        outside = ~((values >= 0) & (values == values.round()) & values.isfinite())
        if outside.any():
            got = values[outside][:5].tolist()
            raise InputError(f"{name}: got {got} in rows {_rows_of(outside.any(1))}; accepted are {accepted}")
        return values if values.is_floating_point() else values.to(torch.get_default_dtype())


class Labels(Space):
    """Abstract: what may be known of a row, and may be missing.

    Attributes:
        entries: how many entries a row has, in a plate of their own; None where it is one value, outside of any.
        num_values: how many values there are to sum over (of all entries together); None for continuous labels.
        code_size: the size of a row's label as a vector, which networks take.
        raw_size: the number of outputs that a network needs to say a distribution of it.
        report: which measures and figures make sense: "classes", "attributes" or "values".
    """

    entries: int | None
    num_values: int | None
    code_size: int
    raw_size: int
    report: ClassVar[str]

    @property
    def nesting(self) -> int:
        return 1 if self.entries is None else 2

    def in_dtype(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Floats in `dtype`; integers as they are."""
        return values.to(dtype) if values.is_floating_point() else values

    def plate(self, name: str) -> AbstractContextManager:
        """The plate of the entries, dim -1; nothing for a label without."""
        return nullcontext() if self.entries is None else pyro.plate(name, self.entries, dim=-1)

    def num_rows(self, values: Tensor) -> int:
        return values.shape[-1 if self.entries is None else -2]

    def arranged(self, values: Tensor, nesting: int) -> Tensor:
        return values.unsqueeze(-1) if nesting > 1 and self.entries is None else values

    def vector(self, values: Tensor) -> Tensor:
        """Entries `(..., B, E)` of a plate as the vector of a row outside of it, `(..., B, 1, E)`; others as they are.

        For whatever lives in the plate: labels, and latents of size 1 that belong to them.
        """
        return values if self.entries is None else values.unsqueeze(-2)

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
    def prior_distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        """The prior with the parameters that `prior` returned, mapped by `prior_parameters`."""

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

    @abstractmethod
    def frequencies(self, y: Any, smoothing: float = 1.0) -> Tensor:
        """Parameters of the prior, as `prior` takes them, from the observed entries of labels `y`.

        Raises:
            InputError: `y` is outside of the space; `smoothing` is not a number above 0.
        """

    def accuracy(self, probs: Tensor, y: Tensor) -> float:
        """The fraction of the labels that are known of which the most probable value is right; of entries, their mean.
        NaN where none is known."""
        right = torch.where(is_missing(y), torch.nan, (self.most_probable(probs) == y).double())
        return right.nanmean(0).nanmean().item()

    def log_prob(self, logits: Tensor, y: Tensor) -> Tensor:
        """log p(y) of labels under a classifier's logits `(N, classes)` or `(N, L)`, of y's shape; NaN where missing."""
        known = ~is_missing(y)
        log_prob = self.prior_distribution(logits).log_prob(torch.where(known, y, 0))
        return log_prob.where(known, torch.nan)

    @abstractmethod
    def probabilities(self, table: Tensor) -> Tensor:
        """Of probabilities of all values, `(..., values)`, those that tell: of each class, or that an entry is on."""

    @abstractmethod
    def most_probable(self, probs: Tensor) -> Tensor:
        """The labels that have most of the probability that `probabilities` says."""


@dataclass(frozen=True)
class Classes(Labels):
    """One label with `num_classes` values: integer tensors `(B,)`, -1 for missing.

    Raises:
        InputError: there are fewer than two classes.
    """

    num_classes: int
    entries: ClassVar[None] = None
    marker: ClassVar[int] = MISSING
    report: ClassVar[str] = "classes"

    def __post_init__(self) -> None:
        check_count("num_classes", self.num_classes, 2)

    @property
    def num_values(self) -> int:
        return self.num_classes

    code_size = raw_size = num_values

    def prior(self, given: Any = None) -> Tensor:
        """Checked probabilities of the classes, `(num_classes,)`; uniform where not given.

        Raises:
            InputError: they are not positive, not as many as classes or do not sum to 1.
        """
        if given is None:
            return torch.full((self.num_classes,), 1 / self.num_classes)
        probs = as_tensor("prior", given)
        if probs.shape != (self.num_classes,) or not (probs > 0).all() or abs(probs.sum() - 1) > 1e-4:
            raise InputError(f"prior: got {probs}; accepted are {self.num_classes} positive numbers that sum to 1")
        return probs

    def prior_distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=parameters)

    def logits(self, probs: Tensor) -> Tensor:
        """What `prior_distribution` takes."""
        return probs.log()

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=raw)

    def code(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """One-hot vectors; a missing label that gets here by mistake becomes NaN, not another class. Vectors that are
        one-hot already, exactly or relaxed, stay as they are."""
        if values.is_floating_point():
            return values
        values = values.unsqueeze(-1)
        one_hot = (values == torch.arange(self.num_classes, device=values.device)).to(dtype)
        return one_hot.masked_fill(values < 0, math.nan)

    def posterior(self, p_z: Callable[[Tensor], Any], logits: Tensor, z: Tensor) -> dist.TorchDistribution:
        """p(y | z) by Bayes' rule, z `batch + event` of p(z | y), the prior's `logits`."""
        y = torch.arange(self.num_classes, device=z.device)
        return dist.Categorical(logits=p_z(y).log_prob(z.unsqueeze(-2)) + logits)  # (..., C)

    def known(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """One-hot vectors, and zeros where a label is missing, `(..., B, num_values)`."""
        return (values.unsqueeze(-1) == torch.arange(self.num_classes, device=values.device)).to(dtype)

    def validate(self, values: Any, name: str = "y") -> Tensor:
        """The labels as int64 `(B,)`.

        Raises:
            InputError: wrong rank or dtype, or labels outside of -1 .. num_classes - 1.
        """
        accepted = f"a 1-d integer tensor with labels 0 to {self.num_classes - 1}, or {MISSING} for missing"
        y = as_labels(values, name, accepted)
        if y.is_floating_point():
            raise InputError(f"{name}: got dtype {y.dtype}; accepted is {accepted}")
        if y.dim() != 1:
            raise InputError(f"{name}: got shape {tuple(y.shape)}; accepted is {accepted}")
        outside = (y < MISSING) | (y >= self.num_classes)
        if outside.any():
            rows = _rows_of(outside)
            raise InputError(f"{name}: got {y[rows].tolist()} at rows {rows}; accepted is {accepted}")
        return y

    def frequencies(self, y: Any, smoothing: float = 1.0) -> Tensor:
        """How often each class is among the observed labels, `(num_classes,)`; `smoothing` is added to each count.

        >>> Classes(2).frequencies(torch.tensor([0, 0, 1, -1]))
        tensor([0.6000, 0.4000])
        """
        _check_smoothing(smoothing)
        y = self.validate(y)
        counts = torch.bincount(y[~is_missing(y)], minlength=self.num_classes) + smoothing
        return counts / counts.sum()

    def probabilities(self, table: Tensor) -> Tensor:
        return table

    def most_probable(self, probs: Tensor) -> Tensor:
        return probs.argmax(-1)


@dataclass(frozen=True)
class Binary(Labels):
    """`num_labels` binary labels: float tensors `(B, num_labels)` of 0, 1, and NaN for missing.

    Raises:
        InputError: there is none.
    """

    num_labels: int
    marker: ClassVar[float] = math.nan
    report: ClassVar[str] = "attributes"

    def __post_init__(self) -> None:
        check_count("num_labels", self.num_labels)

    @property
    def entries(self) -> int:
        return self.num_labels

    code_size = raw_size = entries

    @property
    def num_values(self) -> int:
        return 2 * self.num_labels

    def prior(self, given: Any = None) -> Tensor:
        """Checked probabilities of on, `(num_labels,)`; 1/2 where not given.

        Raises:
            InputError: they are not inside of (0, 1) or not as many as labels.
        """
        if given is None:
            return torch.full((self.num_labels,), 0.5)
        probs = as_tensor("prior", given)
        if probs.shape != (self.num_labels,) or not ((probs > 0) & (probs < 1)).all():
            raise InputError(f"prior: got {probs}; accepted are {self.num_labels} probabilities in (0, 1)")
        return probs

    def prior_distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=parameters)

    def logits(self, probs: Tensor) -> Tensor:
        """What `prior_distribution` takes."""
        return probs.logit()

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=raw.squeeze(-2))

    def code(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        return self.vector(values)

    def posterior(self, p_z: Callable[[Tensor], Any], logits: Tensor, z: Tensor) -> dist.TorchDistribution:
        """p(y_i | z_i) by Bayes' rule, z `(..., L)`, the prior's `logits`."""
        off, on = (p_z(torch.full_like(z[..., :1], value)).log_prob(z) for value in (0.0, 1.0))
        return dist.Bernoulli(logits=logits + on - off)

    def known(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """1 for each of the 2 L values, off and on, that an entry is known to have, else 0: `(..., B, 1, 2 L)`."""
        return self.vector(torch.cat([values == 0, values == 1], -1).to(dtype))

    def validate(self, values: Any, name: str = "y") -> Tensor:
        """The labels as `(B, num_labels)` of the default dtype.

        Raises:
            InputError: wrong rank or dtype, or values that are not 0, 1 or NaN.
        """
        accepted = f"a float tensor (B, {self.num_labels}) of 0, 1 and, for missing, NaN"
        y = as_labels(values, name, accepted)
        if not y.is_floating_point():
            raise InputError(f"{name}: got dtype {y.dtype}; accepted is {accepted}")
        if y.dim() != 2 or y.shape[1] != self.num_labels:
            raise InputError(f"{name}: got shape {tuple(y.shape)}; accepted is {accepted}")
        outside = ~((y == 0) | (y == 1) | y.isnan())
        if outside.any():
            rows = _rows_of(outside.any(1))
            raise InputError(f"{name}: got {y[outside][:5].tolist()} at rows {rows}; accepted is {accepted}")
        return y.to(torch.get_default_dtype())

    def frequencies(self, y: Any, smoothing: float = 1.0) -> Tensor:
        """How often each label is on where it is observed, `(num_labels,)`; `smoothing` is added to the counts of both
        values.

        >>> Binary(2).frequencies(torch.tensor([[1.0, 0.0], [1.0, torch.nan]]))
        tensor([0.7500, 0.3333])
        """
        _check_smoothing(smoothing)
        y = self.validate(y)
        return (y.nansum(0) + smoothing) / ((~is_missing(y)).sum(0) + 2 * smoothing)

    def probabilities(self, table: Tensor) -> Tensor:
        return table[..., 1]

    def most_probable(self, probs: Tensor) -> Tensor:
        return (probs > 0.5).to(probs)


@dataclass(frozen=True)
class Real(Labels):
    """`size` continuous labels (an angle, an age): float tensors `(B, size)`, NaN for missing, each on its own.

    The prior is a Gaussian for each; networks say a mean and a raw scale for each.

    Raises:
        InputError: there is none.
    """

    size: int
    num_values: ClassVar[None] = None
    marker: ClassVar[float] = math.nan
    report: ClassVar[str] = "values"

    def __post_init__(self) -> None:
        check_count("size", self.size)

    @property
    def entries(self) -> int:
        return self.size

    code_size = entries

    @property
    def raw_size(self) -> int:
        return 2 * self.size

    def prior(self, given: Any = None) -> Tensor:
        """Checked means and standard deviations, `(2, size)`; 0 and 1 where not given.

        Raises:
            InputError: they are not finite, not as many as labels, or a deviation is not above 0.
        """
        if given is None:
            return torch.tensor([[0.0], [1.0]]).repeat(1, self.size)
        both = as_tensor("prior", given)
        if both.shape != (2, self.size) or not both.isfinite().all() or not (both[1] > 0).all():
            accepted = f"(2, {self.size}), finite means and standard deviations above 0"
            raise InputError(f"prior: got {both}; accepted are {accepted}")
        return both

    def logits(self, parameters: Tensor) -> Tensor:
        """What `prior_distribution` takes."""
        return parameters

    def prior_distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Normal(parameters[0], parameters[1])

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        loc, scale = raw.squeeze(-2).chunk(2, -1)
        return dist.Normal(loc, positive(scale))

    def code(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        return self.vector(values)

    def validate(self, values: Any, name: str = "y") -> Tensor:
        """The labels as `(B, size)` of the default dtype.

        Raises:
            InputError: wrong rank or dtype, or infinite values.
        """
        accepted = f"a float tensor (B, {self.size}) of finite numbers and, for missing, NaN"
        y = as_labels(values, name, accepted)
        if not y.is_floating_point():
            raise InputError(f"{name}: got dtype {y.dtype}; accepted is {accepted}")
        if y.dim() != 2 or y.shape[1] != self.size:
            raise InputError(f"{name}: got shape {tuple(y.shape)}; accepted is {accepted}")
        if (outside := y.isinf()).any():
            raise InputError(f"{name}: got infinity at rows {_rows_of(outside.any(1))}; accepted is {accepted}")
        return y.to(torch.get_default_dtype())

    def frequencies(self, y: Any, smoothing: float = 1.0) -> Tensor:
        """Means and standard deviations of the observed labels, `(2, size)`: what `prior` takes. `smoothing` adds as
        many rows whose mean is the observed one and whose deviation is 1, so that no deviation is 0.

        >>> Real(1).frequencies(torch.tensor([[1.0], [3.0], [torch.nan]]), smoothing=1.0)[0]
        tensor([2.])
        """
        _check_smoothing(smoothing)
        y = self.validate(y)
        known, mean = ~is_missing(y), y.nanmean(0).nan_to_num()
        squares = ((y - mean).nan_to_num().square() * known).sum(0)
        return torch.stack([mean, ((squares + smoothing) / (known.sum(0) + smoothing)).sqrt()])

    def probabilities(self, table: Tensor) -> Tensor:
        raise InputError("classify: continuous labels have no probabilities; `infer_labels` says their means")

    def most_probable(self, probs: Tensor) -> Tensor:
        return probs


def is_missing(y: Tensor) -> Tensor:
    """Boolean mask of the missing entries of `y`, of its shape: NaN in a float tensor, -1 in an integer one.

    >>> is_missing(torch.tensor([3, -1])), is_missing(torch.tensor([0.0, float("nan")]))
    (tensor([False,  True]), tensor([False,  True]))

    Raises:
        InputError: see `as_labels`.
    """
    y = as_labels(y)  # 255 of uint8 compares equal to -1
    return y.isnan() if y.is_floating_point() else y == MISSING


def any_known(y: Tensor) -> Tensor:
    """Boolean mask `(..., N)` of the rows of `y`, integers `(..., N)` or floats `(..., N, L)`, with any label known.

    >>> any_known(torch.tensor([3, -1])), any_known(torch.tensor([[0.0, torch.nan], [torch.nan, torch.nan]]))
    (tensor([ True, False]), tensor([ True, False]))
    """
    known = ~is_missing(y)
    return known.any(-1) if y.is_floating_point() else known


def entry_by_entry(y: Tensor) -> list[Tensor]:
    """Labels with all entries missing but one, for each entry: `(N, L)` as L tensors of that shape, `(N,)` as it is.

    >>> entry_by_entry(torch.tensor([[1.0, 0.0]]))
    [tensor([[1., nan]]), tensor([[nan, 0.]])]
    """
    if not y.is_floating_point():
        return [y]
    return [torch.where(torch.arange(y.shape[-1], device=y.device) == i, y, torch.nan) for i in range(y.shape[-1])]


def label_space(y: Tensor, number: int) -> Labels:
    """The space of the labels `y` of a set with so many classes or binary labels: by their type, integers or floats.

    >>> label_space(torch.tensor([2, -1]), 3), label_space(torch.tensor([[1.0, 0.0]]), 2)
    (Classes(num_classes=3), Binary(num_labels=2))
    """
    return Binary(number) if as_labels(y).is_floating_point() else Classes(number)


def all_missing(y: Tensor) -> Tensor:
    """Labels of the shape and type of `y`, all missing.

    >>> all_missing(torch.tensor([3, 1]))
    tensor([-1, -1])
    """
    return torch.full_like(y, torch.nan if y.is_floating_point() else MISSING)


def as_labels(y: Any, name: str = "y", accepted: str = "integers (classes) or floats (binary labels)") -> Tensor:
    """Labels as this library computes with them: integers of any type as int64, floats as they are.

    Small integers would not do: a uint8 tensor is a mask where it is an index, and cannot hold -1.

    Args:
        y: a tensor, a numpy array or lists of numbers. accepted: what the error says is.

    Raises:
        InputError: it is something else, or of booleans.

    >>> as_labels(torch.tensor([1, 2], dtype=torch.uint8)).dtype
    torch.int64
    """
    y = as_tensor(name, y, accepted)
    if y.dtype == torch.bool:
        raise InputError(f"{name}: got dtype torch.bool; accepted is {accepted}")
    return y if y.is_floating_point() else y.long()


def as_binary(y: Any, name: str = "y") -> Tensor:
    """Binary labels of any number, `(N, L)` of the default dtype: see `Binary.validate`.

    Raises:
        InputError: they are no float `(N, L)`, or have values other than 0, 1 and NaN.

    >>> as_binary([[1.0, 0.0]])
    tensor([[1., 0.]])
    """
    y = as_labels(y, name)
    if y.dim() != 2 or not y.shape[1] or not y.is_floating_point():
        raise InputError(
            f"{name}: got {y.dtype} of shape {tuple(y.shape)}; accepted are binary labels, float (N, L) of 0, 1 and, "
            f"for missing, NaN"
        )
    return Binary(y.shape[1]).validate(y, name)


def to_unit(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """uint8 images to floats in [0, 1] of `dtype` (default: torch's); floats as they are, in `dtype` if given.

    Raises:
        InputError: images of another type.
    """
    if x.dtype == torch.uint8:
        return x.to(dtype or torch.get_default_dtype()) / 255
    if not x.is_floating_point():
        raise InputError(f"x: got dtype {x.dtype}; accepted are floats in [0, 1], or uint8")
    return x if dtype is None else x.to(dtype)


def check_images(x: Any, x_shape: Sequence[int] | None = None, name: str = "x") -> Tensor:
    """The images as a tensor, uint8 or float as they are; this is what is used from there on.

    A float set is read once, in blocks; of a uint8 set only what it takes to see a level above 1.

    Args:
        x: images `(N, C, H, W)`, N from 0: floats in [0, 1], or uint8 with levels 0 to 255. A tensor, a numpy array
            (memory-mapped or not) or lists of numbers.
        x_shape: the shape `(C, H, W)` that an image must have (default: any).
        name: the argument's, for errors.

    Raises:
        InputError: another type, rank or shape; channels last; pixels outside of [0, 1], NaN among them; uint8 images
            whose highest level is 1 (64 pixels or more), which are black and white ones of 0 and 1 and would be taken
            for black ones.

    >>> check_images([[[[0.0, 0.5]]]]).shape
    torch.Size([1, 1, 1, 2])
    """
    shape = ", ".join("CHW") if x_shape is None else ", ".join(map(str, x_shape))
    accepted = f"a float tensor (B, {shape}) in [0, 1], or uint8"
    x = as_tensor(name, x, accepted)
    if x.dtype != torch.uint8 and x.dtype not in FLOATS:
        raise InputError(f"{name}: got dtype {x.dtype}; accepted is {accepted}")
    got = tuple(x.shape)
    if x.dim() == 4 and got[1] > 4 and got[2] > 1 and got[3] in (1, 3):  # (N, C, 1, 1) are vectors
        h, w, c = got[1:]
        raise InputError(
            f"{name}: got shape {got}, channels last; accepted are channels first, (B, {c}, {h}, {w}): "
            f"{name}.permute(0, 3, 1, 2) of a tensor, x_shape {(c, h, w)}"
        )
    if x.dim() != 4 or min(got[1:]) < 1 or (x_shape is not None and got[1:] != tuple(x_shape)):
        raise InputError(f"{name}: got shape {got}; accepted is {accepted}")
    if x.dtype == torch.uint8:
        _check_levels(x, name)
    else:
        _check_range(x, name, accepted)
    return x


def _check_levels(x: Tensor, name: str) -> None:
    if x.numel() < ENOUGH:
        return
    top = 0
    for part in _blocks(x):
        top = max(top, int(part.max()))
        if top > 1:
            return
    if top == 1:
        raise InputError(
            f"{name}: got uint8 images of 0 and 1 alone; accepted in uint8 are levels 0 to 255: {name} * 255 or "
            f"{name}.float() where 1 is white, {name}.float() / 255 where they are that dark"
        )


def _check_range(x: Tensor, name: str, accepted: str) -> None:
    start = 0
    for part in _blocks(x):
        low, high = part.aminmax() if part.numel() else (0, 1)
        if not (low >= 0 and high <= 1):  # so NaN is outside too
            bad = (~((part >= 0) & (part <= 1))).flatten(1).any(1).nonzero()[:5, 0]
            low, high, rows = part[bad].min().item(), part[bad].max().item(), (start + bad).tolist()
            raise InputError(f"{name}: got pixels from {low:g} to {high:g} at rows {rows}; accepted is {accepted}")
        start += len(part)


def _blocks(x: Tensor) -> Iterator[Tensor]:
    yield from x.split(max(1, BLOCK // (x[:1].numel() * x.element_size() or 1)))


def _matrix(values: Any, name: str, size: int, accepted: str) -> Tensor:
    values = as_tensor(name, values, accepted)
    if values.dtype == torch.bool or values.dim() != 2 or values.shape[1] != size:
        raise InputError(f"{name}: got {values.dtype} of shape {tuple(values.shape)}; accepted are {accepted}")
    return values


def _rows_of(outside: Tensor) -> list[int]:
    """The first five rows of a mask `(B,)`."""
    return outside.nonzero()[:5, 0].tolist()


def _check_smoothing(smoothing: Any) -> None:
    if not isinstance(smoothing, Number) or not 0 < smoothing < math.inf:
        raise InputError(f"smoothing: got {smoothing!r}; accepted is a finite number above 0")
