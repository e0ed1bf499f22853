"""Selects a table's test rows: by its column `split`, at random, or the last ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_semivae.data.columns import Column
from pyro_semivae.errors import InputError, check_count
from pyro_semivae.files import note
from pyro_semivae.spaces import any_known

TRAINING, TEST, VALIDATION = range(3)
WORDS = {
    **dict.fromkeys(("train", "training"), TRAINING),
    **dict.fromkeys(("test", "testing"), TEST),
    **dict.fromkeys(("val", "valid", "validation"), VALIDATION),
}
Rows = tuple[Tensor, Tensor]  # training and test rows, each ascending


def pop_split(
    cells: dict[str, Any], at: Callable[[int], str], has_cells: Sequence[bool] | None = None
) -> Tensor | None:
    """Removes the column `split` from `cells` and returns it, int64 `(N,)`; returns None if there is no such column.

    Its values become `TRAINING`, `TEST` or `VALIDATION`.

    Args:
        at: row index -> its location, for error messages. has_cells: whether each row has cells; rows without cells are
            training rows.

    Raises:
        InputError: a cell is not one of the keys of `WORDS`, such as train, test and val.
    """
    name = next((name for name in cells if name.lower() == "split"), None)
    if name is None:
        return None
    given = np.asarray(cells.pop(name)).tolist()
    words = [str(cell.decode() if isinstance(cell, bytes) else cell).strip().lower() for cell in given]
    for i, word in enumerate(words):
        if has_cells is not None and not has_cells[i]:
            words[i] = "train"
        elif word not in WORDS:
            raise InputError(f"{name}: {at(i)}: got {given[i]!r}; expected train, test and val")
    return torch.tensor([WORDS[word] for word in words])


def rows_of_split(split: Tensor) -> Rows:
    """The training and test rows of a split.

    Validation rows are the test rows if there are no others; otherwise they are left out, with a note.

    Raises:
        InputError: there are no training rows, or neither test nor validation rows.
    """
    counts = torch.bincount(split, minlength=3).tolist()
    if not counts[TRAINING] or not (counts[TEST] or counts[VALIDATION]):
        got = ", ".join(f"{count} {word}" for count, word in zip(counts, ("train", "test", "val"), strict=True))
        raise InputError(f"split: got {got} rows; expected one or more of train, and of test or val")
    if counts[TEST] and counts[VALIDATION]:
        note(f"{counts[VALIDATION]} rows of validation are left out: there are rows of the test")
    test = TEST if counts[TEST] else VALIDATION
    return (split == TRAINING).nonzero()[:, 0], (split == test).nonzero()[:, 0]


def drawn_split(columns: dict[str, Column], num_rows: int, test: int | float, seed: int) -> Rows:
    """A random split, sampled on the CPU.

    Test rows are sampled from the rows that have a label, because metrics need one, or from all rows if none has. With
    a single class label the sampling is stratified: classes are as frequent in the test set as among these rows, up to
    rounding.

    Args:
        test: a fraction of these rows between 0 and 1, or the number of test rows.

    Raises:
        InputError: `test` is something else, or leaves none of these rows for training; `seed` is out of range.
    """
    candidates, count = _candidates(columns, num_rows, test)
    generator = torch.Generator().manual_seed(check_count("seed", seed, 0, 2**32 - 1))
    order = candidates[torch.randperm(len(candidates), generator=generator)]
    classes = [column for column in columns.values() if column.space.is_label and column.space.entries is None]
    if len(classes) == 1:
        y = classes[0].values[order]
        share = torch.empty(len(order), dtype=torch.double)
        for value in y.unique():  # the k-th of a class's n rows joins the test set at a fraction of (k - 1/2) / n
            mask = y == value
            share[mask] = (torch.arange(int(mask.sum()), dtype=torch.double) + 0.5) / int(mask.sum())
        order = order[share.argsort(stable=True)]
    is_test = torch.zeros(num_rows, dtype=torch.bool)
    is_test[order[:count]] = True
    return (~is_test).nonzero()[:, 0], is_test.nonzero()[:, 0]


def last_rows(columns: dict[str, Column], num_rows: int, test: int | float) -> Rows:
    """A split whose test rows are the last ones, as many as contain the labelled rows that `test` asks for.

    Raises:
        InputError: `test` is invalid, see `drawn_split`; the last half of the rows has too few labels.
    """
    candidates, count = _candidates(columns, num_rows, test)
    first = int(candidates[-count])
    if num_rows - first > max(num_rows // 2, count):
        raise InputError(
            f"test: got {test}, {count} rows with labels, which counted from the end reach back to row {first} "
            f"of {num_rows}; expected fewer, labelled rows at the end of the file, or a separate test array (x_test)"
        )
    return torch.arange(first), torch.arange(first, num_rows)


def _candidates(columns: dict[str, Column], num_rows: int, test: Any) -> tuple[Tensor, int]:
    """The rows from which test rows are taken, and the number of test rows among them."""
    labelled = torch.zeros(num_rows, dtype=torch.bool)
    for column in columns.values():
        if column.space.is_label:
            labelled |= any_known(column.values)
    rows = labelled.nonzero()[:, 0] if labelled.any() else torch.arange(num_rows)
    n, whole = len(rows), isinstance(test, Integral)
    fits = isinstance(test, Real) and not isinstance(test, bool) and (whole or 0 < test < 1)
    count = (int(test) if whole else max(1, round(test * n))) if fits else 0
    if not 1 <= count < n:
        which = "that have a label" if labelled.any() else "of the data set"
        raise InputError(
            f"test: got {test!r}; expected a fraction between 0 and 1 of the {n} rows {which}, or a number of them "
            f"below {n}, so that there is at least one test row and one training row"
        )
    return rows, count


def are_consecutive(rows: Rows) -> bool:
    """Whether the row numbers of each part are consecutive."""
    return all(int(part[-1]) - int(part[0]) + 1 == len(part) for part in rows)
