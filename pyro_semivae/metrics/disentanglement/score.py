"""Shared parts of the metrics of disentanglement: checks of their inputs, samples of rows, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pyro_semivae.errors import InputError, as_tensor, check_count
from pyro_semivae.metrics.checks import check_finite


@dataclass(frozen=True)
class Score:
    """A metric's value and how it was measured; `float(score)` is the value.

    Attributes:
        value: the score. protocol: the numbers of rows, bins, votes ... that it was measured with. parts: the arrays it
            was computed from, by name.
    """

    value: float
    protocol: Mapping[str, Any]
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __float__(self) -> float:
        return self.value


def codes_and_factors(representation: Any, factors: Any, *, least_codes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A representation `(N, D)` as float64 and factors' classes `(N, F)` as int64.

    Raises:
        InputError: the shapes do not fit, numbers are not finite, or classes are not non-negative integers; a factor
            has only one value; there are fewer than `least_codes` dimensions.
    """
    codes, classes = check_finite("representation", representation, 2).detach(), as_tensor("factors", factors)
    if not classes.is_floating_point() and classes.dtype != torch.bool:
        classes = classes.long()  # of unsigned types torch can compare few
    if classes.dim() != 2 or len(classes) != len(codes) or not classes.shape[1] or not len(codes):
        shapes = f"shapes {tuple(codes.shape)} and {tuple(classes.shape)}"
        raise InputError(f"representation, factors: got {shapes}; expected (N, D) and (N, F), N and F one or more")
    if classes.is_floating_point() or classes.dtype == torch.bool or (classes < 0).any():
        raise InputError(
            f"factors: got {classes.dtype} from {classes.min().item():g}; expected classes, integers 0, 1, ..."
        )
    if constant := [j for j, column in enumerate(classes.unbind(1)) if (column == column[0]).all()]:
        raise InputError(f"factors: got one value only in the columns {constant}; expected two or more in each")
    if codes.shape[1] < least_codes:
        raise InputError(f"representation: got {codes.shape[1]} dimensions; expected {least_codes} or more")
    return codes.double().cpu().numpy(), classes.long().cpu().numpy()


def drawn(number: int, of: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `number` different rows out of `of`, in random order; all of them if there are no more."""
    return rng.permutation(of)[: check_count("rows", number, 2)]


def halves(rows: int, rows_test: int, classes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of different rows, `rows` for training and `rows_test` for testing, or in these proportions if there are
    fewer; in random order.

    Args:
        classes: the classes of the factors, `(N, F)`.

    Raises:
        InputError: a number is not positive, either part has fewer than two rows, or a factor has only one value in the
            training rows.
    """
    every = check_count("rows", rows) + check_count("rows_test", rows_test)
    chosen = drawn(every, len(classes), np.random.default_rng(seed))
    middle = min(rows, len(chosen) * rows // every)
    fitted, tested = chosen[:middle], chosen[middle : middle + rows_test]
    if min(len(fitted), len(tested)) < 2:
        got = f"parts of {len(fitted)} and {len(tested)} out of {len(classes)} rows"
        raise InputError(f"representation, rows, rows_test: got {got}; expected two or more in each")
    if constant := [j for j, column in enumerate(classes[fitted].T) if (column == column[0]).all()]:
        got = f"one value only in {len(fitted)} rows to fit on, in the columns {constant}"
        raise InputError(f"factors: got {got}; expected two or more in each")
    return fitted, tested


def binned(codes: np.ndarray, bins: int) -> np.ndarray:
    """Bins each dimension, with equal widths from its least to its greatest value: 1 to `bins`, `(N, D)`."""
    edges = [np.histogram(column, bins)[1][:-1] for column in codes.T]
    return np.stack([np.digitize(column, edge) for column, edge in zip(codes.T, edges, strict=True)], 1)


class Groups:
    """The rows with each value of each factor, to sample from.

    Args:
        factors: `(N, F)`.
    """

    def __init__(self, factors: np.ndarray):
        self.order = np.argsort(factors, axis=0, kind="stable")
        factors = np.stack([np.unique(column, return_inverse=True)[1].reshape(-1) for column in factors.T], 1)
        ordered = np.take_along_axis(factors, self.order, 0)
        self.factors = factors
        self.starts = [np.searchsorted(column, np.arange(column[-1] + 2)) for column in ordered.T]

    def like(self, rows: np.ndarray, factor: int, number: int, rng: np.random.Generator) -> np.ndarray:
        """For each of the rows `(M,)`, samples `number` rows with its value of the factor, with replacement:
        `(M, number)`."""
        values = self.factors[rows, factor]
        first, after = self.starts[factor][values], self.starts[factor][values + 1]
        place = first[:, None] + rng.random((len(rows), number)) * (after - first)[:, None]
        return self.order[place.astype(np.int64), factor]
