"""Which rows are labelled: seeded subsets, balanced where labels are classes, keyed by row."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.labels import MISSING


def parse_labelled(value: str) -> int | float:
    """`"0.004"` (with a point) is a fraction of all rows, `"240"` a total count.

    >>> parse_labelled("0.004"), parse_labelled("1.0"), parse_labelled("240")
    (0.004, 1.0, 240)

    Raises:
        ValueError: it is neither.
    """
    try:
        return float(value) if "." in value else int(value)
    except ValueError:
        raise InputError(
            f"labelled: got {value!r}; accepted are a fraction such as 0.004 or a count such as 240"
        ) from None


def labelled_rows(y: Tensor, labelled: int | float, seed: int) -> Tensor:
    """Draws a subset of rows to be labelled: class-balanced for class labels, uniform for several labels.

    Args:
        y: class labels `(N,)`, all known, or several labels `(N, L)`.
        labelled: a float is a fraction of N in (0, 1], an int a total count.
        seed: seeds the draw, which happens on the CPU.

    Returns the sorted indices of the labelled rows. Classes get equally many as far as they have them, and
    what is left over goes to randomly chosen ones.

    Raises:
        ValueError: `labelled` is outside of (0, 1], respectively 1 .. N.
    """
    n = len(y)
    if isinstance(labelled, float):
        if not 0 < labelled <= 1:
            raise InputError(f"labelled: got the fraction {labelled}; accepted is 0 < fraction <= 1")
        count = max(1, round(labelled * n))
    else:
        count = labelled
        if not 1 <= count <= n:
            raise InputError(f"labelled: got {count} rows; accepted are 1 to {n}, or a fraction such as 0.1")
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(n, generator=generator)
    if y.dim() > 1:
        return shuffled[:count].sort().values
    # The rank of every row within its class, in shuffled order: taking rows by rank takes classes in turn.
    y_shuffled = y[shuffled].cpu()
    rank = torch.empty(n, dtype=torch.long)
    for label in y_shuffled.unique():
        mask = y_shuffled == label
        rank[mask] = torch.arange(int(mask.sum()))
    order = torch.argsort(rank, stable=True)
    return shuffled[order[:count]].sort().values


def hide(y: Tensor, labelled: Tensor) -> Tensor:
    """A copy of `y` in which all rows but `labelled` are missing; the hidden labels go no further than here."""
    hidden = torch.full_like(y, torch.nan if y.is_floating_point() else MISSING)
    hidden[labelled] = y[labelled]
    return hidden


def lose_labels(y: Tensor, seed: int, *, rows: float = 0.5, entries: float = 0.5) -> Tensor:
    """A copy of binary labels `(N, L)` in which a part of the labelled rows loses a part of its labels at random.

    Args:
        rows: the fraction of the rows with any label that lose some. entries: the chance of each of their labels.
        seed: of the draw, which happens on the CPU.

    Raises:
        ValueError: `y` is no `(N, L)` float tensor, or a fraction is outside of 0 to 1.
    """
    _check_binary(y)
    for name, value in (("rows", rows), ("entries", entries)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}: got {value}; accepted is a fraction, 0 to 1")
    generator = torch.Generator().manual_seed(seed)
    lost = (torch.rand(len(y), 1, generator=generator) < rows) & (torch.rand(y.shape, generator=generator) < entries)
    return torch.where(lost, torch.nan, y)


def drop_partly_labelled(y: Tensor) -> Tensor:
    """A copy of binary labels `(N, L)` in which a row with any missing label has none at all.

    Raises:
        ValueError: `y` is no `(N, L)` float tensor.
    """
    _check_binary(y)
    return torch.where(y.isnan().any(1, keepdim=True), torch.nan, y)


def _check_binary(y: Tensor) -> None:
    if y.dim() != 2 or not y.is_floating_point():
        raise InputError(f"y: got {y.dtype} of shape {tuple(y.shape)}; accepted are binary labels, float (N, L)")
