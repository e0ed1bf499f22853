"""Labels that are missing, of small integer types or of the wrong shape, in the helpers around training."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pyro_semivae import data
from pyro_semivae.errors import InputError
from pyro_semivae.infer.evidence import select
from pyro_semivae.spaces import Binary, Classes, as_binary, is_missing

NAN = math.nan
BINARY = torch.tensor([[1.0, NAN], [0.0, 1.0], [NAN, NAN], [1.0, 0.0]])


def test_what_is_missing_does_not_depend_on_the_integer_type():
    assert is_missing(torch.tensor([255, 3], dtype=torch.uint8)).tolist() == [False, False]
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64):
        assert is_missing(torch.tensor([-1, 3], dtype=dtype)).tolist() == [True, False]
    assert is_missing(np.array([NAN, 1.0])).tolist() == [True, False]


def test_frequencies_by_hand():
    assert_close(Classes(4).frequencies(torch.tensor([2, -1, 2, 0])), torch.tensor([2.0, 1, 3, 1]) / 7)
    assert_close(
        Classes(3).frequencies(torch.tensor([2, 2, 0], dtype=torch.uint8), smoothing=0.5), torch.tensor([3.0, 1, 5]) / 9
    )
    assert_close(Binary(2).frequencies(BINARY), torch.tensor([3 / 5, 2 / 4]))
    assert Classes(2).frequencies(torch.tensor([-1, -1])).tolist() == [0.5, 0.5]


def test_the_entries_of_a_table_at_what_is_observed():
    table, values = torch.arange(24.0).reshape(3, 1, 2, 4), torch.arange(3).reshape(3, 1, 1, 1)
    y = torch.tensor([[0, 1, 2, -1], [2, 2, -1, 0]])
    found = select(table, values, y, -4)
    assert found.shape == (1, 2, 4)
    for i in range(2):
        for j in range(4):
            assert found[0, i, j] == (0 if y[i, j] < 0 else table[y[i, j], 0, i, j])
    shared = select(torch.tensor([[5.0], [7.0]]), torch.tensor([[0], [1]]), torch.tensor([1, 0, -1]), -2)
    assert shared.tolist() == [7, 5, 0], "a table may be the same for all rows"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: is_missing(torch.tensor([True])), "y: got dtype torch.bool"),
        (lambda: is_missing("no"), "y: got str"),
        (lambda: Classes(3).frequencies(torch.tensor([0, 5])), r"y: got \[5\] at rows \[1\]"),
        (lambda: Classes(3).frequencies(torch.tensor([0, -2])), r"y: got \[-2\]"),
        (lambda: Classes(3).frequencies(torch.tensor([[0, 1]])), r"y: got shape \(1, 2\)"),
        (lambda: Classes(3).frequencies(torch.tensor([0.0, 1.0])), "y: got dtype torch.float64"),
        (lambda: Binary(2).frequencies(torch.tensor([0, 1])), "y: got dtype torch.int64"),
        (lambda: Binary(1).frequencies(torch.tensor([[2.0], [2.0]])), r"y: got \[2.0, 2.0\] at rows \[0, 1\]"),
        (lambda: Binary(2).frequencies(torch.tensor([1.0, 0.0])), r"y: got shape \(2,\)"),
        (lambda: Classes(1).frequencies(torch.tensor([0])), "num_classes: got 1"),
        (lambda: Classes(2).frequencies(torch.tensor([0]), smoothing=0), "smoothing: got 0"),
        (lambda: Classes(2).frequencies(torch.tensor([0]), smoothing="1"), "smoothing: got '1'"),
        (lambda: as_binary(torch.tensor([[0.5]])), r"y: got \[0.5\]"),
        (lambda: as_binary(torch.rand(3, 0)), r"y: got torch.float64 of shape \(3, 0\)"),
        (lambda: select(torch.rand(3, 4), torch.arange(3)[:, None], torch.zeros(4).long(), 0), "dim: got 0"),
        (lambda: select(torch.rand(3, 4), torch.arange(3)[:, None], torch.zeros(4, 1).long(), -2), r"\(4, 1\)"),
        (lambda: select(torch.rand(3, 4), torch.arange(3)[:, None], torch.zeros(5).long(), -2), r"\(5,\)"),
        (lambda: select(torch.rand(3, 4), torch.arange(2)[:, None], torch.zeros(4).long(), -2), r"\(2, 1\)"),
        (lambda: select(torch.rand(3, 3), torch.arange(3), torch.zeros(3).long(), -2), r"\(3,\)"),
    ],
)
def test_bad_labels_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8])
def test_only_known_labels_are_drawn(dtype):
    """5,000 known and 95,000 unknown labels: every row that is drawn is a known one, and classes are balanced."""
    y = torch.full((100_000,), -1)
    y[torch.randperm(100_000)[:5000]] = torch.arange(5000) % 10
    if dtype == torch.uint8:  # which has no -1
        y = y[y >= 0]
    rows = data.labelled_rows(y.to(dtype), 1000, seed=0)
    assert y[rows].bincount(minlength=10).tolist() == [100] * 10
    assert torch.equal(rows, data.labelled_rows(y, 1000, seed=0))


def test_fractions_are_of_all_rows():
    y = torch.tensor([0, 1] * 20 + [-1] * 60)
    rows = data.labelled_rows(y, 0.3, seed=0)
    assert len(rows) == 30 and (y[rows] >= 0).all()
    with pytest.raises(InputError, match=r"labelled: got the fraction 0\.5 of 100 rows, 50; expected up to 40, whose"):
        data.labelled_rows(y, 0.5, seed=0)
    with pytest.raises(InputError, match="labelled: got 41 rows, 41; expected up to 40, whose labels are known"):
        data.labelled_rows(y, 41, seed=0)
    assert torch.equal(data.labelled_rows(y, 40, seed=0), torch.arange(40))


def test_rows_with_any_known_binary_label_are_drawn():
    y = BINARY.repeat(50, 1)
    rows = data.labelled_rows(y, 150, seed=0)
    assert not (rows % 4 == 2).any() and len(rows.unique()) == 150
    with pytest.raises(InputError, match="got 151 rows, 151; expected up to 150"):
        data.labelled_rows(y, 151, seed=0)


def test_the_draw_is_what_it_was_where_all_labels_are_known():
    """Recorded runs name their rows by it."""
    y = torch.tensor([0, 1, 2] * 5)
    assert data.labelled_rows(y, 6, seed=3).tolist() == [1, 5, 6, 7, 11, 12]
    assert data.labelled_rows(torch.ones(15, 2), 5, seed=3).tolist() == [1, 6, 7, 10, 11]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.int32])
def test_hidden_labels_are_minus_one_in_any_integer_type(dtype):
    y = torch.tensor([3, 0, 2], dtype=dtype)
    for rows in (
        torch.tensor([0, 2]),
        torch.tensor([0, 2], dtype=torch.uint8),
        [0, 2],
        torch.tensor([True, False, True]),
    ):
        hidden = data.hide(y, rows)
        assert hidden.tolist() == [3, -1, 2] and hidden.dtype == torch.int64
    assert data.hide(y, []).tolist() == [-1] * 3
    hidden = data.hide(BINARY, torch.tensor([3, 1]))
    assert hidden[[0, 2]].isnan().all() and torch.equal(hidden[[1, 3]], BINARY[[1, 3]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.labelled_rows(torch.tensor([[0], [1]]), 1, 0), r"y: got torch.int64 of shape \(2, 1\)"),
        (lambda: data.labelled_rows(torch.tensor([0.0, 1.0]), 1, 0), r"y: got torch.float64 of shape \(2,\)"),
        (lambda: data.labelled_rows(torch.tensor([0, -2]), 1, 0), "y: got torch.int64 .* from -2"),
        (lambda: data.labelled_rows(torch.tensor([True]), 1, 0), "y: got dtype torch.bool"),
        (lambda: data.labelled_rows(torch.tensor([0, 1]), True, 0), "labelled: got True"),
        (lambda: data.labelled_rows(torch.tensor([0, 1]), "2", 0), "labelled: got '2'"),
        (lambda: data.labelled_rows(torch.tensor([0, 1]), NAN, 0), "labelled: got the fraction nan"),
        (lambda: data.labelled_rows(torch.tensor([-1, -1]), 1, 0), "labelled: got 1 rows, 1; expected up to 0"),
        (lambda: data.hide(torch.tensor([True, False]), [0]), "y: got dtype torch.bool"),
        (lambda: data.hide(torch.tensor([0, 1]), torch.tensor([-1])), "labelled: got torch.int64"),
        (lambda: data.hide(torch.tensor([0, 1]), torch.tensor([2])), r"labelled: got .* rows, 0 to 1"),
        (lambda: data.hide(torch.tensor([0, 1]), torch.tensor([0.5])), "labelled: got torch.float64"),
        (lambda: data.hide(torch.tensor([0, 1]), torch.tensor([[0]])), r"labelled: got torch.int64 of shape \(1, 1\)"),
        (lambda: data.hide(torch.tensor([0, 1]), torch.tensor([True])), r"labelled: got torch.bool of shape \(1,\)"),
        (lambda: data.lose_labels(torch.tensor([[0, 1]]), 0), r"y: got torch.int64 of shape \(1, 2\)"),
        (lambda: data.lose_labels(torch.tensor([[0.5]]), 0), r"y: got \[0.5\]"),
        (lambda: data.lose_labels(torch.tensor([[1.0]]), 0, rows=1.5), "rows: got 1.5"),
        (lambda: data.lose_labels(torch.tensor([[1.0]]), 0, entries="x"), "entries: got 'x'"),
        (lambda: data.drop_partly_labelled(torch.tensor([0.0])), r"y: got torch.float64 of shape \(1,\)"),
        (lambda: data.parse_labelled(None), "labelled: got None"),
    ],
)
def test_bad_splits_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
