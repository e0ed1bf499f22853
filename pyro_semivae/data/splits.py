"""Selects the labelled rows: seeded random subsets, balanced for class labels."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor, check_count
from pyro_semivae.spaces import MISSING, all_missing, any_known, as_binary, as_labels


def parse_labelled(value: str) -> int | float:
    """Parses the number of labelled rows: `"0.004"` (with a point) is a fraction of all rows, `"240"` a total count.

    >>> parse_labelled("0.004"), parse_labelled("1.0"), parse_labelled("240")
    (0.004, 1.0, 240)

    Raises:
        InputError: `value` is neither.
    """
    try:
        return float(value) if "." in value else int(value)
    except (TypeError, ValueError):
        raise InputError(f"labelled: got {value!r}; expected a fraction such as 0.004 or a count such as 240") from None


def labelled_rows(y: Tensor, labelled: int | float, seed: int) -> Tensor:
    """Samples a subset of rows to be labelled: class-balanced for class labels, uniform for several labels.

    Only rows whose label is known (for several labels: any of them) are sampled.

    Args:
        y: class labels `(N,)` or several labels `(N, L)`, some missing.
        labelled: a fraction of N (all rows) in (0, 1] as a float, or a total count as an int.
        seed: seeds the sampling, which happens on the CPU.

    Returns the sorted indices of the labelled rows. All classes get the same number of rows as far as they have enough;
    the remainder goes to randomly chosen classes.

    Raises:
        InputError: `labelled` is outside (0, 1] or 1 .. N, or larger than the number of rows with known labels; `y` is
            not a tensor of labels.
    """
    y = _rows_of_labels(y)
    n, known = len(y), any_known(y)
    if isinstance(labelled, bool) or not isinstance(labelled, Real):
        raise InputError(f"labelled: got {labelled!r}; expected a fraction such as 0.1 or a count such as 240")
    if not isinstance(labelled, Integral):
        if not 0 < labelled <= 1:
            raise InputError(f"labelled: got the fraction {labelled}; expected 0 < fraction <= 1")
        count, got = max(1, round(labelled * n)), f"the fraction {labelled} of {n} rows"
    else:
        count, got = int(labelled), f"{labelled} rows"
        if not 1 <= count <= n:
            raise InputError(f"labelled: got {got}; expected 1 to {n}, or a fraction such as 0.1")
    if count > known.sum():
        raise InputError(f"labelled: got {got}, {count}; expected up to {int(known.sum())}, whose labels are known")
    generator = torch.Generator().manual_seed(check_count("seed", seed, 0, 2**32 - 1))
    shuffled = torch.randperm(n, generator=generator)
    shuffled = shuffled[known.cpu()[shuffled]]
    if y.dim() > 1:
        return shuffled[:count].sort().values
    # The rank of every row within its class, in shuffled order: taking rows by rank alternates between classes.
    y_shuffled = y.cpu()[shuffled]
    rank = torch.empty(len(shuffled), dtype=torch.long)
    for label in y_shuffled.unique():
        mask = y_shuffled == label
        rank[mask] = torch.arange(int(mask.sum()))
    order = torch.argsort(rank, stable=True)
    return shuffled[order[:count]].sort().values


def hide(y: Tensor, labelled: Tensor) -> Tensor:
    """Returns a copy of `y` in which the labels of all rows except `labelled` are missing.

    Args:
        y: class labels `(N,)` or several labels `(N, L)`. labelled: row indices, or a boolean mask `(N,)`.

    Returns int64 for class labels of any integer dtype, because uint8 cannot represent -1.

    Raises:
        InputError: `y` is not a tensor of labels, or `labelled` does not index its rows.
    """
    y, rows = _rows_of_labels(y), as_tensor("labelled", labelled)
    if rows.dtype == torch.bool and rows.shape == y.shape[:1]:
        rows = rows.nonzero()[:, 0]
    numbers = not (rows.is_floating_point() or rows.dtype == torch.bool) or not rows.numel()
    if not numbers or rows.dim() != 1 or ((rows < 0) | (rows >= len(y))).any():
        raise InputError(
            f"labelled: got {rows.dtype} of shape {tuple(rows.shape)}; expected numbers of rows, 0 to {len(y) - 1}"
        )
    hidden, rows = all_missing(y), rows.long().to(y.device)
    hidden[rows] = y[rows]
    return hidden


def lose_labels(y: Tensor, seed: int, *, rows: float = 0.5, entries: float = 0.5) -> Tensor:
    """Returns a copy of binary labels `(N, L)` in which random entries of random rows are missing.

    Args:
        seed: of the sampling, which happens on the CPU.
        rows: the probability that a row is selected. entries: the probability that a label of a selected row is
            removed, independently.

    Raises:
        InputError: `y` is not a tensor of binary labels, or a probability is outside [0, 1].
    """
    y = as_binary(y)
    for name, value in (("rows", rows), ("entries", entries)):
        if not isinstance(value, Real) or not 0 <= value <= 1:
            raise InputError(f"{name}: got {value!r}; expected a fraction, 0 to 1")
    generator = torch.Generator().manual_seed(check_count("seed", seed, 0, 2**32 - 1))
    lost = (torch.rand(len(y), 1, generator=generator) < rows) & (torch.rand(y.shape, generator=generator) < entries)
    return torch.where(lost, torch.nan, y)


def drop_partly_labelled(y: Tensor) -> Tensor:
    """Returns a copy of binary labels `(N, L)` in which rows with any missing label have no labels at all.

    Raises:
        InputError: `y` is not a tensor of binary labels.
    """
    y = as_binary(y)
    return torch.where(y.isnan().any(1, keepdim=True), torch.nan, y)


def _rows_of_labels(y: Any) -> Tensor:
    """Class labels, int64 `(N,)`, or binary ones, floats `(N, L)`; the number of classes is not checked."""
    y = as_labels(y)
    if y.is_floating_point():
        return as_binary(y)
    if y.dim() != 1 or (y < MISSING).any():
        raise InputError(
            f"y: got {y.dtype} of shape {tuple(y.shape)}, from {y.min() if y.numel() else 'nothing'}; expected "
            f"class labels (N,), 0, 1, ... or {MISSING} for missing, or binary ones, float (N, L)"
        )
    return y
