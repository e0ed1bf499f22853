"""Spaces of labels that have values to enumerate: a class label, several binary labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor, check_count, check_number
from pyro_semivae.spaces.base import Labels, rows_of
from pyro_semivae.spaces.missing import MISSING, as_labels, is_missing


@dataclass(frozen=True)
class Classes(Labels):
    """One label with `num_classes` values: integer tensors `(B,)`, -1 where missing.

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
        """Checks the probabilities of the classes, `(num_classes,)`, and returns them; uniform by default.

        Raises:
            InputError: they are not positive, do not sum to 1, or their number is not `num_classes`.
        """
        if given is None:
            return torch.full((self.num_classes,), 1 / self.num_classes)
        probs = as_tensor("prior", given)
        if probs.shape != (self.num_classes,) or not (probs > 0).all() or abs(probs.sum() - 1) > 1e-4:
            raise InputError(f"prior: got {probs}; expected {self.num_classes} positive numbers that sum to 1")
        return probs

    def prior_distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=parameters)

    def logits(self, probs: Tensor) -> Tensor:
        """The parameters of `prior_distribution`."""
        return probs.log()

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=raw)

    def code(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """One-hot vectors; a missing label that gets here by mistake becomes NaN, not another class. Vectors that
        already are one-hot, exactly or relaxed, are unchanged."""
        if values.is_floating_point():
            return values
        values = values.unsqueeze(-1)
        one_hot = (values == torch.arange(self.num_classes, device=values.device)).to(dtype)
        return one_hot.masked_fill(values < 0, math.nan)

    def posterior(self, p_z: Callable[[Tensor], Any], logits: Tensor, z: Tensor) -> dist.TorchDistribution:
        """p(y | z) by Bayes' rule, from p(z | y), the prior's `logits` and z, `batch + event`."""
        y = torch.arange(self.num_classes, device=z.device)
        return dist.Categorical(logits=p_z(y).log_prob(z.unsqueeze(-2)) + logits)  # (..., C)

    def known(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """One-hot vectors `(..., B, num_values)`; zeros where a label is missing."""
        return (values.unsqueeze(-1) == torch.arange(self.num_classes, device=values.device)).to(dtype)

    def validate(self, values: Any, name: str = "y") -> Tensor:
        """The labels as int64 `(B,)`.

        Raises:
            InputError: wrong rank or dtype, or labels outside -1 .. num_classes - 1.
        """
        accepted = f"a 1-d integer tensor with labels 0 to {self.num_classes - 1}, or {MISSING} for missing"
        y = as_labels(values, name, accepted)
        if y.is_floating_point():
            raise InputError(f"{name}: got dtype {y.dtype}; expected {accepted}")
        if y.dim() != 1:
            raise InputError(f"{name}: got shape {tuple(y.shape)}; expected {accepted}")
        outside = (y < MISSING) | (y >= self.num_classes)
        if outside.any():
            rows = rows_of(outside)
            raise InputError(f"{name}: got {y[rows].tolist()} at rows {rows}; expected {accepted}")
        return y

    def frequencies(self, y: Any, smoothing: float = 1.0) -> Tensor:
        """The frequency of each class among the observed labels, `(num_classes,)`; `smoothing` is added to each count.

        >>> Classes(2).frequencies(torch.tensor([0, 0, 1, -1]))
        tensor([0.6000, 0.4000])
        """
        check_number("smoothing", smoothing, above=0)
        y = self.validate(y)
        counts = torch.bincount(y[~is_missing(y)], minlength=self.num_classes) + smoothing
        return counts / counts.sum()

    def probabilities(self, table: Tensor) -> Tensor:
        return table

    def where_known(self, y: Tensor, found: Tensor) -> Tensor:
        return torch.where(is_missing(y).unsqueeze(-1), found, self.known(y, found.dtype))

    def settings(self, y: Tensor) -> list[tuple[str, Tensor]]:
        return [(str(value), torch.tensor(value)) for value in range(self.num_classes)]

    def most_probable(self, probs: Tensor) -> Tensor:
        return probs.argmax(-1)


@dataclass(frozen=True)
class Groups(Classes):
    """The set that a row belongs to, out of `num_classes`: a class label that every row has, observed in the model.

    Its site is not enumerated, as no value is missing. `fit` can take equally many rows of each group in a step
    (`stratify`).

    >>> Groups(2).validate([0, 1, 0])
    tensor([0, 1, 0])
    """

    always_known: ClassVar[bool] = True

    def validate(self, values: Any, name: str = "y") -> Tensor:
        """The groups as int64 `(B,)`.

        Raises:
            InputError: as for `Classes`; or some are missing.
        """
        y = super().validate(values, name)
        if (unknown := is_missing(y)).any():
            got = f"missing ones (-1) at rows {rows_of(unknown)}"
            raise InputError(f"{name}: got {got}; expected a group, 0 to {self.num_classes - 1}, for every row")
        return y

    def missing(self, num_rows: int, device: torch.device | None = None) -> Tensor:
        """`num_rows` rows of the first group, as groups cannot be missing."""
        return torch.zeros(num_rows, dtype=torch.long, device=device)


@dataclass(frozen=True)
class Binary(Labels):
    """`num_labels` binary labels: float tensors `(B, num_labels)` of 0 and 1, NaN where missing.

    Raises:
        InputError: `num_labels` is not a positive integer.
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
        """Checks the probabilities that each label is 1, `(num_labels,)`, and returns them; 1/2 by default.

        Raises:
            InputError: they are not in (0, 1), or their number is not `num_labels`.
        """
        if given is None:
            return torch.full((self.num_labels,), 0.5)
        probs = as_tensor("prior", given)
        if probs.shape != (self.num_labels,) or not ((probs > 0) & (probs < 1)).all():
            raise InputError(f"prior: got {probs}; expected {self.num_labels} probabilities in (0, 1)")
        return probs

    def prior_distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=parameters)

    def logits(self, probs: Tensor) -> Tensor:
        """The parameters of `prior_distribution`."""
        return probs.logit()

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=raw.squeeze(-2))

    def code(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        return values.unsqueeze(-2)

    def posterior(self, p_z: Callable[[Tensor], Any], logits: Tensor, z: Tensor) -> dist.TorchDistribution:
        """p(y_i | z_i) by Bayes' rule, from p(z_i | y_i), the prior's `logits` and z, `(..., L)`."""
        off, on = (p_z(torch.full_like(z[..., :1], value)).log_prob(z) for value in (0.0, 1.0))
        return dist.Bernoulli(logits=logits + on - off)

    def known(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Indicators of the known values, `(..., B, 1, 2 L)`: of 0 for each entry, then of 1; 0 where missing."""
        return torch.cat([values == 0, values == 1], -1).to(dtype).unsqueeze(-2)

    def validate(self, values: Any, name: str = "y") -> Tensor:
        """The labels as a tensor `(B, num_labels)` of the default dtype.

        Raises:
            InputError: wrong rank or dtype, or values that are not 0, 1 or NaN.
        """
        accepted = f"a float tensor (B, {self.num_labels}) of 0, 1, or NaN for missing"
        y = as_labels(values, name, accepted)
        if not y.is_floating_point():
            raise InputError(f"{name}: got dtype {y.dtype}; expected {accepted}")
        if y.dim() != 2 or y.shape[1] != self.num_labels:
            raise InputError(f"{name}: got shape {tuple(y.shape)}; expected {accepted}")
        outside = ~((y == 0) | (y == 1) | y.isnan())
        if outside.any():
            rows = rows_of(outside.any(1))
            raise InputError(f"{name}: got {y[outside][:5].tolist()} at rows {rows}; expected {accepted}")
        return y.to(torch.get_default_dtype())

    def frequencies(self, y: Any, smoothing: float = 1.0) -> Tensor:
        """The frequency of 1 among the observed values of each label, `(num_labels,)`; `smoothing` is added to the
        counts of both values.

        >>> Binary(2).frequencies(torch.tensor([[1.0, 0.0], [1.0, torch.nan]]))
        tensor([0.7500, 0.3333])
        """
        check_number("smoothing", smoothing, above=0)
        y = self.validate(y)
        return (y.nansum(0) + smoothing) / ((~is_missing(y)).sum(0) + 2 * smoothing)

    def probabilities(self, table: Tensor) -> Tensor:
        return table[..., 1]

    def settings(self, y: Tensor) -> list[tuple[str, Tensor]]:
        eye = torch.where(torch.eye(self.num_labels, dtype=torch.bool), 1.0, torch.nan)
        return [
            (f"{i} {word}", value * row) for i, row in enumerate(eye) for word, value in (("off", 0.0), ("on", 1.0))
        ]

    def most_probable(self, probs: Tensor) -> Tensor:
        return (probs > 0.5).to(probs)


def label_space(y: Tensor, number: int) -> Labels:
    """The space of labels `y`: `number` classes if they are integers, `number` binary labels if they are floats.

    >>> label_space(torch.tensor([2, -1]), 3), label_space(torch.tensor([[1.0, 0.0]]), 2)
    (Classes(num_classes=3), Binary(num_labels=2))
    """
    return Binary(number) if as_labels(y).is_floating_point() else Classes(number)


def as_binary(y: Any, name: str = "y") -> Tensor:
    """Any number of binary labels, as a tensor `(N, L)` of the default dtype, see `Binary.validate`.

    Raises:
        InputError: they are not floats `(N, L)`, or have values other than 0, 1 and NaN.

    >>> as_binary([[1.0, 0.0]])
    tensor([[1., 0.]])
    """
    y = as_labels(y, name)
    if y.dim() != 2 or not y.shape[1] or not y.is_floating_point():
        raise InputError(
            f"{name}: got {y.dtype} of shape {tuple(y.shape)}; expected binary labels, float (N, L) of 0, 1, "
            f"or NaN for missing"
        )
    return Binary(y.shape[1]).validate(y, name)
