"""Spaces: what they take, return and refuse; layouts; codes; and that nothing else asks for the kind of one."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pyro_semivae.errors import InputError
from pyro_semivae.spaces import Binary, Classes, Counts, Images, Real, Vectors
from pyro_semivae.spaces.base import absent_rows

NAN = math.nan
ROOT = Path(__file__).parents[2] / "pyro_semivae"
LABELS = {
    Classes(3): torch.tensor([2, -1, 0, 1]),
    Binary(3): torch.tensor([[1.0, NAN, 0.0], [NAN] * 3, [0.0, 0.0, 1.0], [1.0, 1.0, NAN]]),
    Real(2): torch.tensor([[0.5, NAN], [NAN, NAN], [-2.0, 3.0], [1.0, 0.0]]),
}
DATA = {
    Images(2, 3, 4): torch.rand(4, 2, 3, 4),
    Vectors(5): torch.randn(4, 5),
    Counts(6): torch.tensor([[0.0, 1, 2, 3, 4, 5]]).repeat(4, 1),
}
each_label = pytest.mark.parametrize("space", LABELS, ids=repr)
each_data = pytest.mark.parametrize("space", DATA, ids=repr)


@pytest.mark.parametrize("space", [*LABELS, *DATA], ids=repr)
def test_what_is_validated_is_the_same_again_and_has_a_layout_for_each_nesting(space):
    values = {**LABELS, **DATA}[space]
    once = space.validate(values, "v")
    assert_close(space.validate(once, "v"), once, equal_nan=True)
    assert_close(space.validate(values.tolist(), "v").double(), once.double(), equal_nan=True)
    for nesting in range(space.nesting, 3):
        arranged = space.arranged(once, nesting)
        assert space.num_rows(once) == 4 and arranged.shape[0] == 4
        assert_close(space.outward(arranged, nesting), once, equal_nan=True)
        many = space.arranged(once.expand(7, *once.shape), nesting)  # further dimensions on the left
        assert many.shape == (7, *arranged.shape) and space.num_rows(once.expand(7, *once.shape)) == 4


@each_label
def test_a_label_has_a_code_a_prior_and_a_distribution_of_its_shape(space):
    y = torch.where(LABELS[space].isnan() | (LABELS[space] == -1), 0, LABELS[space])
    arranged = space.arranged(y, space.nesting)
    between = () if space.entries is None else (1,)
    assert space.code(arranged, torch.float32).shape == (4, *between, space.code_size)
    q = space.distribution(torch.randn(4, *between, space.raw_size))
    assert q.batch_shape == arranged.shape and q.event_shape == ()
    prior = space.prior_distribution(space.logits(space.prior(space.frequencies(LABELS[space]))))
    assert prior.log_prob(arranged).shape == arranged.shape
    missing = space.missing(5)
    assert_close(space.validate(missing, "y"), missing, equal_nan=True)
    assert missing.shape[1:] == y.shape[1:]


def test_frequencies_are_those_of_what_is_observed():
    assert_close(Classes(3).frequencies(LABELS[Classes(3)], smoothing=1e-9), torch.ones(3) / 3)
    assert_close(Binary(3).frequencies(LABELS[Binary(3)], smoothing=1e-9), torch.tensor([2 / 3, 1 / 2, 1 / 2]))
    mean, deviation = Real(2).frequencies(LABELS[Real(2)], smoothing=1e-9)
    assert_close(mean, torch.tensor([-1 / 6, 1.5]))
    assert_close(deviation, torch.tensor([np.std([0.5, -2, 1]), np.std([3.0, 0.0])]))


def test_accuracy_is_of_known_labels_and_a_mean_over_entries():
    probs = torch.tensor([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.4, 0.3]])
    assert Classes(3).accuracy(probs, LABELS[Classes(3)]) == pytest.approx(2 / 3)
    on = torch.tensor([[0.9, 0.9, 0.9], [0.1, 0.9, 0.9], [0.9, 0.1, 0.1], [0.9, 0.1, 0.9]])
    right = [2 / 3, 1 / 2, 0.0]
    assert Binary(3).accuracy(on, LABELS[Binary(3)]) == pytest.approx(np.mean(right))
    assert math.isnan(Classes(3).accuracy(probs, torch.full((4,), -1)))


@each_data
def test_a_row_that_is_nan_throughout_is_missing_and_part_of_one_is_an_error(space):
    values = DATA[space].clone()
    values[2] = NAN
    assert space.validate(values, "v")[2].isnan().all()
    for entry in (0, -1):
        part = values.clone()
        part[1].view(-1)[entry] = NAN
        with pytest.raises(InputError, match=r"v: got .* rows \[1\]"):
            space.validate(part, "v")


@pytest.mark.parametrize(
    ("space", "values", "message"),
    [
        (Counts(2), [[0, -1]], r"v: got \[-1\] in rows \[0\]; expected non-negative integers \(B, 2\)"),
        (Counts(2), [[0, 0.5], [1, 1]], r"v: got \[0.5\] in rows \[0\]"),
        (Counts(2), [[0, math.inf]], r"v: got \[inf\] in rows \[0\]"),
        (Counts(2), [[1, 2, 3]], r"v: got torch.int64 of shape \(1, 3\); expected non-negative integers \(B, 2\)"),
        (Counts(2), torch.ones(1, 2, dtype=torch.bool), "v: got torch.bool"),
        (Vectors(2), [[1.0, math.inf]], r"v: got NaN or infinity in rows \[0\]"),
        (Vectors(2), [1.0, 2.0], r"v: got torch.float.. of shape \(2,\)"),
        (Real(2), [[1, 2]], "v: got dtype torch.int64; expected a float tensor"),
        (Real(2), [[1.0, math.inf]], r"v: got infinity at rows \[0\]"),
        (Real(2), [[1.0]], r"v: got shape \(1, 1\)"),
    ],
)
def test_what_is_outside_of_a_space_is_named(space, values, message):
    with pytest.raises(InputError, match=message):
        space.validate(values, "v")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Vectors(0), "size: got 0"),
        (lambda: Counts(1.5), "size: got 1.5"),
        (lambda: Real(0), "size: got 0"),
        (lambda: Real(2).prior([[0.0, 0.0], [1.0, 0.0]]), r"(?s)prior: got .* expected \(2, 2\)"),
        (lambda: Real(1).probabilities(torch.ones(1)), "continuous labels have no probabilities"),
    ],
)
def test_wrong_sizes_and_priors_are_named(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()


def test_nothing_outside_of_their_files_asks_for_the_kind_of_a_space():
    """A new kind of label is one class: no isinstance on a space, no type of a tensor as a proxy for it."""
    kinds = "Classes|Binary|Real|Images|Vectors|Counts"
    asked = re.compile(rf"isinstance\([^)]*\b({kinds})\b|type\([^)]*\) (is|==) ({kinds})")
    found = [
        f"{path.name}: {line.strip()}"
        for path in ROOT.rglob("*.py")
        if path.parent.name != "spaces"
        for line in path.read_text().splitlines()
        if asked.search(line) and not re.search(r"isinstance\(\w+, Real\)", line)  # numbers.Real
    ]
    assert not found, found


def test_missing_rows_are_found_without_a_copy_of_the_data():
    """Of a view as large as no memory is, such as of channels brought to the front."""
    assert not absent_rows(torch.zeros(1, 2000, 2000, 3).expand(100_000, -1, -1, -1).permute(0, 3, 1, 2)).any()
