"""Styled digits against scipy, and the arithmetic of the sets."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.testing import assert_close

from pyro_semivae import data
from pyro_semivae.data.styled import FACTORS, _widened, outlines, style, styled
from pyro_semivae.errors import InputError

DIGITS = data.load("digits")


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


def test_outlines_are_what_an_erosion_takes_away():
    x = torch.rand(5, 1, 28, 28)
    found = outlines(x, 64)
    assert found.shape == (5, 1, 64, 64) and found.dtype == torch.uint8 and {*found.unique().tolist()} == {0, 255}
    for image, line in zip(x[:, 0].numpy(), found[:, 0].numpy(), strict=True):
        large = ndimage.zoom(image, 64 / 28, order=1, grid_mode=True, mode="grid-constant")
        inside = torch.nn.functional.interpolate(torch.tensor(image)[None, None], size=64, mode="bilinear")[0, 0] > 0.5
        near = np.abs(large - 0.5) < 1e-4  # both agree but for rounding
        assert ((large > 0.5) == inside.numpy())[1:-1, 1:-1][~near[1:-1, 1:-1]].mean() > 0.95
        eroded = ndimage.binary_erosion(inside.numpy(), np.ones((3, 3)))
        assert np.array_equal(line > 0, inside.numpy() & ~eroded)


@pytest.mark.parametrize("width", [1, 2, 5, 10])
def test_lines_are_widened_as_scipy_does(width):
    x = (torch.rand(3, 1, 16, 16) > 0.95).float() * 255
    expected = [ndimage.grey_dilation(image, size=(width, width), mode="constant") for image in x[:, 0].numpy()]
    found = _widened(x, width)[:, 0].numpy()
    assert np.array_equal(found, np.stack(expected))


def test_styles_are_what_the_factors_say():
    """Read off images: the colour off the channels' shares, the size off the box, the width off a single dot."""
    x = torch.zeros(400, 1, 64, 64, dtype=torch.uint8)
    x[:, 0, 32, 32] = 255
    found, factors = style(x, torch.Generator().manual_seed(0))
    assert found.shape == (400, 3, 64, 64) and factors.shape == (400, len(FACTORS))
    scale, width = factors[:, 0], factors[:, 1] * 9 + 1
    assert ((scale >= 0.5) & (scale <= 1)).all() and {*width.round().int().tolist()} == set(range(1, 11))
    assert_close(factors[:, 2:].sum(1), torch.ones(400))
    wide = width > 6
    total = found[wide].double().sum((2, 3))
    assert_close(total / total.sum(1, keepdim=True), factors[wide, 2:].double(), atol=0.03, rtol=0)
    area = total.sum(1) / 255  # the colour's parts sum to 1
    assert_close(area.sqrt(), (width * (64 * scale).round() / 64)[wide].double(), atol=0.6, rtol=0.02)


def test_the_sets():
    found = styled(DIGITS, 32, images=300, seed=4)
    assert found.x_shape == (3, 32, 32) and len(found.x) == 150 + 2 * 150
    assert found.y.tolist() == [0] * 300 + [1] * 150
    reference = found.x[found.y == 1]
    assert {*reference.unique().tolist()} == {0, 255} and torch.equal(reference[:, 0], reference[:, 2])
    assert torch.equal(reference[:, :1], outlines(DIGITS.x[:150], 32))
    assert torch.equal(found.pool.x, found.x[:300]) and torch.equal(found.pool.classes[:150], DIGITS.y[150:300])
    assert torch.equal(found.pool.classes[:150], found.pool.classes[150:])
    assert not torch.equal(found.pool.factors[:150], found.pool.factors[150:])
    half = len(DIGITS.x_test) // 2
    assert torch.equal(found.probing.classes, DIGITS.y_test[:half])
    assert torch.equal(found.test.classes, DIGITS.y_test[half:])
    again, other = styled(DIGITS, 32, images=300, seed=4), styled(DIGITS, 32, images=300, seed=5)
    assert torch.equal(found.x, again.x) and not torch.equal(found.x, other.x)
    assert torch.equal(found.test.factors, again.test.factors)


def test_small_images_get_a_margin():
    found = outlines(DIGITS.x[:20], 32)
    assert not found[:, :, 0].any() and not found[..., 0].any() and found.any()


def test_what_is_wrong_is_said():
    faces = data.load_small("faces")
    for call, message in (
        (lambda: styled(DIGITS, 48), "size: got 48; expected 32, 64"),
        (lambda: styled(faces, 32), "base: got faces; expected grey images with class labels"),
        (lambda: styled(DIGITS, 32, images=1), "images: got 1 of 1438; expected two or more"),
        (lambda: styled(DIGITS, 32, styles=0), "styles: got 0; expected a positive integer"),
    ):
        with pytest.raises(InputError, match=message):
            call()
