"""Statistics of images, and how much of them an intervention keeps, where the right answer is known."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pyro_semivae import data, metrics
from pyro_semivae.errors import InputError

C = 3


def bars(heights, widths, slants=None, size=40):
    """Upright boxes in the middle, each row moved to the right by its slant per row up."""
    x = torch.zeros(len(heights), 1, size, size)
    for i, (h, w) in enumerate(zip(heights, widths, strict=True)):
        top, left = (size - h) // 2, (size - w) // 2
        for r in range(top, top + h):
            move = 0 if slants is None else round(slants[i] * (top + (h - 1) / 2 - r))
            x[i, 0, r, left + move : left + move + w] = 1
    return x


def test_the_statistics_of_boxes():
    heights, widths = [11, 21, 30], [3, 5, 2]
    found = metrics.image_statistics(bars(heights, widths))
    assert_close(found["height"], torch.tensor(heights).double())
    assert_close(found["width"], torch.tensor(widths).double())
    assert_close(found["slant"], torch.zeros(3).double())
    area = torch.tensor(heights) * torch.tensor(widths).double()
    assert_close(found["brightness"], area / 1600)
    outline = 2 * (torch.tensor(heights) + torch.tensor(widths)).double()
    assert_close(found["thickness"], 2 * area / outline, rtol=0.06, atol=0)  # one corner's pixel is a diagonal
    grey = metrics.image_statistics(bars(heights, widths) / 2)
    for name in ("height", "width", "slant", "thickness"):
        assert_close(grey[name], found[name])
    colours = torch.cat([bars(heights, widths), torch.zeros(3, 2, 40, 40)], 1)
    assert_close(metrics.image_statistics(colours)["brightness"], area / 4800)
    assert_close(metrics.image_statistics((bars([11], [3]) * 255).byte())["height"], torch.tensor([11.0]))


def test_the_slant_is_to_the_right_and_thickness_that_of_strokes():
    slants = [-1.0, 0.0, 1.0, 2.0]
    found = metrics.image_statistics(bars([9] * 4, [3] * 4, slants))
    assert_close(found["slant"], torch.tensor(slants).double())
    assert_close(found["height"], torch.full((4,), 9.0).double())
    strokes = metrics.image_statistics(bars([36] * 3, [2, 4, 6]))["thickness"]
    assert_close(strokes, torch.tensor([2.0, 4.0, 6.0]).double(), rtol=0.17, atol=0)  # w h / (w + h)


def test_a_black_image_has_no_shape():
    found = metrics.image_statistics(torch.zeros(2, 1, 5, 5))
    assert found["brightness"].tolist() == [0, 0]
    assert all(found[name].isnan().all() for name in ("thickness", "slant", "width", "height"))


def world(n=600, seed=0):
    """Statistics of images whose classes differ in mean and spread, each set to every other class."""
    torch.manual_seed(seed)
    y = torch.arange(n) % C
    within, mean, spread = torch.randn(n), torch.tensor([0.0, 5.0, -9.0]), torch.tensor([1.0, 0.2, 3.0])
    rows, y_new = metrics.intervention_pairs(y, C)
    return within, mean, spread, y, rows, y_new


def test_what_keeps_everything_has_one_and_what_draws_anew_has_none():
    within, mean, spread, y, rows, y_new = world()
    before = {"s": (mean[y] + spread[y] * within)[rows]}
    keeps = {"s": mean[y_new] + spread[y_new] * within[rows]}  # the same place among the images of the new class
    assert metrics.kept(before, keeps, y[rows], y_new)["s"] == pytest.approx(1)
    assert metrics.kept(before, before, y[rows], y_new)["s"] == pytest.approx(1), "nothing is done, all is kept"
    turned = {"s": mean[y_new] - spread[y_new] * within[rows]}
    assert metrics.kept(before, turned, y[rows], y_new)["s"] == pytest.approx(-1)
    anew, error = [], (len(rows) - 6) ** -0.5
    for seed in range(100):
        torch.manual_seed(seed)
        after = {"s": mean[y_new] + spread[y_new] * torch.randn(len(rows))}
        anew.append(metrics.kept(before, after, y[rows], y_new)["s"])
    assert abs(np.mean(anew)) < 5 * error / 10 and np.std(anew) == pytest.approx(error, rel=0.35)
    assert metrics.kept(before, {"s": mean[y_new]}, y[rows], y_new)["s"] == 0, "one image a class"


@pytest.mark.parametrize("rho", [0.3, 0.8])
def test_what_keeps_a_part_has_its_correlation(rho):
    within, mean, spread, y, rows, y_new = world(3000)
    noise = torch.randn(len(rows))
    after = {"s": mean[y_new] + spread[y_new] * (rho * within[rows] + (1 - rho**2) ** 0.5 * noise)}
    found = metrics.kept({"s": (mean[y] + spread[y] * within)[rows]}, after, y[rows], y_new)["s"]
    assert found == pytest.approx(rho, abs=5 / len(rows) ** 0.5)


def test_differences_between_classes_are_not_kept_variation():
    """The results of old class 2 are brighter than those of 0, and so were the images: that is the class, not style."""
    within, mean, spread, y, rows, y_new = world()
    after = {"s": mean[y[rows]] + mean[y_new] + torch.randn(len(rows))}
    before = {"s": (mean[y] + spread[y] * within)[rows]}
    found = metrics.kept(before, after, y[rows], y_new)["s"]
    assert abs(found) < 5 / len(rows) ** 0.5
    assert np.corrcoef(before["s"], after["s"])[0, 1] > 0.4


def test_groups_count_by_their_size_and_what_is_missing_not_at_all():
    y, y_new = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 2, -1]), torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    before = torch.tensor([1.0, 2, 3, 0, 1, 2, 3, math.nan, 5, 9])
    after = torch.tensor([1.0, 2, 3, 3, 2, 1, 0, 100, 5, -50])
    assert metrics.kept({"s": before}, {"s": after}, y, y_new)["s"] == pytest.approx((2 * 1 + 3 * -1) / 5)
    assert math.isnan(metrics.kept({"s": before[:1]}, {"s": after[:1]}, y[:1], y_new[:1])["s"])
    assert math.isnan(metrics.kept({"s": before}, {"s": after}, y * 0 - 1, y_new)["s"])


def test_the_rest_explains_what_is_made_of_it():
    within, mean, _, y, rows, y_new = world(1200)
    rest = torch.stack([torch.randn(1200), 2 * within + 1, y.double()], 1)  # style, and the old class as well
    noise = torch.randn(len(rows))
    after = {
        "all": mean[y_new] + 4 * within[rows],
        "half": mean[y_new] + within[rows] + noise,
        "none": mean[y_new] + noise,
        "old class": mean[y_new] + 10 * y[rows] + noise,
        "constant": torch.ones(len(rows)),
    }
    found = metrics.rest_explained(rest, after, y[rows], y_new, rows)
    assert found["all"] == pytest.approx(1, abs=1e-4)
    assert found["half"] == pytest.approx(0.5, abs=0.07)
    assert 0 <= found["none"] < 0.02 and 0 <= found["old class"] < 0.02 and found["constant"] == 0
    swapped = torch.where(torch.arange(1200)[:, None] < 600, rest, rest[torch.randperm(1200)])
    assert metrics.rest_explained(swapped, after, y[rows], y_new, rows)["all"] < 0.3, "the other half is not fitted"
    assert math.isnan(metrics.rest_explained(rest, after, torch.full_like(rows, -1), y_new, rows)["all"])


def test_no_image_is_in_both_halves():
    """Latents that say nothing but which image it is: what is fitted to one half does not hold in the other."""
    _, _, _, y, rows, y_new = world(200)
    rest, of_image = torch.randn(200, 150), torch.randn(200)
    found = metrics.rest_explained(rest, {"s": of_image[rows]}, y[rows], y_new, rows)
    assert found["s"] < 0.05


def test_what_real_digits_are_and_what_jitter_does_to_them():
    """Sheared digits keep their slants in order; other digits of the same classes do not."""
    digits = data.load("digits")
    x, y = digits.x_test.double() / 255, digits.y_test
    torch.manual_seed(0)
    before = metrics.image_statistics(x)
    assert all(value.isfinite().all() and value.std() > 0 for value in before.values())
    moved = metrics.kept(before, metrics.image_statistics(x.roll(1, -1) * 0.7), y, y)
    for name in ("brightness", "slant", "height"):
        assert moved[name] > 0.9
    order = torch.cat([rows[torch.randperm(len(rows))] for rows in ((y == c).nonzero()[:, 0] for c in range(10))])
    of = torch.cat([(y == c).nonzero()[:, 0] for c in range(10)])
    other = {name: value[order] for name, value in before.items()}
    found = metrics.kept({name: value[of] for name, value in before.items()}, other, y[of], y[of])
    assert all(abs(value) < 5 * (len(y) - 10) ** -0.5 for value in found.values())


X = torch.rand(6, 1, 4, 4)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.image_statistics(X[0]), r"x: got shape \(1, 4, 4\); expected 4 dimensions"),
        (lambda: metrics.image_statistics(X * math.inf), "x: got NaN or infinity"),
        (lambda: metrics.kept({"a": Y}, {"b": Y}, Y, Y), r"before, after: got \['a'\] and \['b'\]"),
        (lambda: metrics.kept({"a": Y}, {"a": Y[:1]}, Y, Y), r"a: got shape \(1,\); expected \(6,\)"),
        (lambda: metrics.kept({"a": Y}, {"a": Y}, Y, Y[:, None]), r"y_new: got torch.int64 of shape \(6, 1\)"),
        (lambda: metrics.kept({"a": Y}, {"a": Y}, Y.double(), Y), "y: got torch.float64"),
        (lambda: metrics.rest_explained(X[:, 0, 0], {"a": Y}, Y, Y, Y + 4), r"rest, rows: got shapes \(6, 4\) and"),
        (lambda: metrics.rest_explained(X[:, 0, 0, :0], {"a": Y}, Y, Y, Y), r"rest, rows: got shapes \(6, 0\) and"),
        (lambda: metrics.rest_explained(X[:, 0, 0], {"a": Y}, Y, Y, Y[:2]), r"rest, rows: got .* \(2,\), 6 inter"),
        (lambda: metrics.rest_explained(X[:, 0, 0] / 0, {"a": Y}, Y, Y, Y), "rest: got NaN or infinity"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
