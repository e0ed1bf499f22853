"""Where rows, labels and strengths of data sets meet: parts that belong together stay together."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from pyro_semivae import data
from pyro_semivae.data import ImageData, faces

BITS = 2.0 ** torch.arange(7)


def numbered(count, seed):
    """Images, labels (its binary digits) and strengths that all show the row's number."""
    number = torch.arange(count) + seed
    digits = number[:, None] // BITS % 2
    return number.view(-1, 1, 1, 1).to(torch.uint8), digits, (number[:, None] / 256).expand(-1, 7)


def test_rows_that_are_held_out_leave_the_training_set_with_all_they_have():
    (x, y, s), (x_test, y_test, s_test) = numbered(10, 0), numbered(4, 100)
    held = ImageData("made", tuple("abcdefg"), x, y, x_test, y_test, s, s_test).hold_out(3)
    for part in fields(held)[2:]:
        value = getattr(held, part.name).flatten(1)
        number = value.double() @ BITS.double() if part.name.startswith("y") else value[:, 0]
        number = number * (256 if part.name.startswith("strengths") else 1)
        expected = [7, 8, 9] if part.name.endswith("_test") else [0, 1, 2, 3, 4, 5, 6]
        assert number.tolist() == expected, part.name
    none = ImageData("made", tuple("abcdefg"), x, y, x_test, y_test).hold_out(3)
    assert none.strengths is none.strengths_test is None and none.name == "made-held-out"


def test_rendered_images_have_their_own_labels_and_strengths(monkeypatch, tmp_path):
    """Images that show them, in the place of pictures; no image of the test set is one of the training set."""
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path))

    def paint(drawn, **_):
        images = np.zeros((len(drawn), 3, 64, 64), np.uint8)
        images[:, 0, 0, :18] = drawn.labels
        images[:, 0, 1, :18] = np.rint(255 * np.nan_to_num(drawn.strengths))
        return images

    monkeypatch.setattr(faces, "paint", paint)
    made = data.load_small("faces")
    for x, y, strengths, count in (
        (made.x, made.y, made.strengths, 300),
        (made.x_test, made.y_test, made.strengths_test, 100),
    ):
        assert x.shape == (count, 3, 64, 64)
        assert_close(x[:, 0, 0, :18].float(), y.float())
        assert_close(x[:, 0, 1, :18].double(), (255 * strengths.nan_to_num().double()).round())
        assert torch.equal(strengths.isnan(), y == 0)
    assert not set(map(tuple, made.strengths.nan_to_num().tolist())) & set(
        map(tuple, made.strengths_test.nan_to_num().tolist())
    )


def test_rows_with_several_labels_are_drawn_uniformly():
    y, counts = torch.zeros(20, 3), torch.zeros(20)
    for seed in range(400):
        rows = data.labelled_rows(y, 5, seed)
        assert rows.tolist() == sorted(set(rows.tolist())) and len(rows) == 5
        counts[rows] += 1
    assert stats.chisquare(counts.numpy()).pvalue > 1e-5


@pytest.mark.parametrize("pixels", [1, 3])
def test_shifts_are_uniform_and_those_of_rows_and_columns_independent(pixels):
    torch.manual_seed(0)
    spot = torch.zeros(2000, 1, 9, 11)
    spot[:, :, 4, 5] = 1.0
    place = data.shift(spot, pixels).flatten(1).argmax(1)
    down, right = place // 11 - 4, place % 11 - 5
    size = 2 * pixels + 1
    counts = ((down + pixels) * size + right + pixels).bincount(minlength=size**2)
    assert len(counts) == size**2 and stats.chisquare(counts.numpy()).pvalue > 1e-5


def test_labels_without_images_come_in_another_order_each_pass_and_epoch():
    x, alone = torch.zeros(12, 1, 1, 1, dtype=torch.uint8), torch.arange(9)
    batches = data.Batches(x, None, batch_size=3, seed=1, unpaired_labels=alone)
    passes = [torch.cat([batch.alone.y for batch in batches.epoch(epoch)][:3]).tolist() for epoch in range(4)]
    assert all(sorted(one) == list(range(9)) for one in passes)
    assert len(set(map(tuple, passes))) == 4 and passes[0] != sorted(passes[0])
    again = data.Batches(x, None, batch_size=3, seed=1, unpaired_labels=alone)
    assert torch.cat([batch.alone.y for batch in again.epoch(2)][:3]).tolist() == passes[2]
