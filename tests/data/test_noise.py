"""Noise on what the guide sees in training."""

import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close
from training import make, options, rows

from pyro_semivae import tasks
from pyro_semivae.data import adversarial, alternate, jitter, only_with_grad, shift
from pyro_semivae.errors import InputError
from pyro_semivae.infer import ConsistencyTerm
from pyro_semivae.train import fit


def logistic(weights, x):
    """A classifier whose answer changes along one direction only."""
    logit = x.flatten(1) @ weights
    return torch.nn.functional.logsigmoid(torch.stack([-logit, logit], -1))


def test_adversarial_noise_goes_where_the_answer_changes():
    torch.manual_seed(0)
    weights, x = torch.randn(12), torch.rand(40, 1, 3, 4)
    moved = adversarial(x, partial(logistic, weights), radius=0.7) - x
    assert_close(moved.flatten(1).norm(dim=1), torch.full((40,), 0.7))
    along = moved.flatten(1) @ weights / weights.norm()
    assert_close(along.abs(), torch.full((40,), 0.7))
    assert 5 < (along > 0).sum() < 35, "to the side of the probe"


def test_adversarial_noise_raises_the_divergence_more_than_chance():
    vae, x = make(), torch.rand(30, 1, 4, 7)
    log_probs = partial(tasks.log_classify, vae, mean=True)
    answer = log_probs(x).detach()

    def divergence(z):
        return (answer.exp() * (answer - log_probs(z))).sum(1).mean()

    chance = torch.randn_like(x)
    chance = x + chance / chance.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert divergence(adversarial(x, log_probs, radius=1.0)) > 3 * divergence(chance)
    with torch.no_grad():  # needs no gradients of the caller
        assert adversarial(x, log_probs).requires_grad is False
    assert all(p.grad is None for p in vae.parameters())


def test_images_get_the_noises_in_turn_and_none_where_nothing_is_learned():
    x = torch.zeros(7, 1, 2, 2)
    got = alternate(x, [lambda z: z + 1, lambda z: z + 2, lambda z: z + 3])
    assert_close(got[:, 0, 0, 0], torch.tensor([1.0, 2, 3, 1, 2, 3, 1]))
    noise = partial(only_with_grad, noise=lambda z: z + 1)
    assert_close(noise(x), x + 1)
    with torch.no_grad():
        assert noise(x) is x


def test_noise_may_ask_the_model_in_training():
    """The guide then runs inside the guide: neither its sites nor its enumeration get in the way."""
    x, y, _ = rows()
    vae = make()
    noise = partial(adversarial, log_probs=partial(tasks.log_classify, vae, mean=True), radius=0.5)
    elbo = vae.elbo(marginal="jensen", num_samples=3) + 2.0 * ConsistencyTerm()
    history = fit(vae, x, y, elbo=elbo, corrupt=partial(only_with_grad, noise=noise), **options(epochs=2))
    assert history[-1]["term/-KL(r(y_m) || q(y_m))"] < 0


def test_shift_moves_each_image_by_its_own_offset():
    x = torch.rand(50, 3, 6, 5)
    moved = shift(x, 1)
    assert moved.shape == x.shape
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    offsets = set()
    for image, source in zip(moved, padded, strict=True):
        found = [(i, j) for i in range(3) for j in range(3) if torch.equal(image, source[:, i : i + 6, j : j + 5])]
        assert len(found) == 1
        offsets.add(found[0])
    assert len(offsets) == 9


def test_jitter_moves_turns_and_zooms():
    x = torch.rand(5, 2, 9, 12)
    assert_close(jitter(x, 0, 0, 0), x)
    with torch.autocast("cpu", torch.bfloat16):  # places are not rounded
        assert_close(jitter(x.float(), 0, 0, 0), x.float(), atol=1e-4, rtol=0)
    spot = torch.zeros(400, 1, 21, 21)
    spot[:, :, 10, 10] = 1.0
    moved = jitter(spot, pixels=3, degrees=0, zoom=0)
    axis = torch.arange(21.0)
    mass = moved.sum((1, 2, 3))
    assert_close(mass, torch.ones(400))  # a shift keeps what there is
    rows, columns = (moved.sum(1) * axis[:, None]).sum((1, 2)) - 10, (moved.sum(1) * axis).sum((1, 2)) - 10
    for offset in (rows, columns):
        assert offset.abs().max() <= 3.001 and offset.min() < -2.5 and offset.max() > 2.5
    bar = torch.zeros(400, 1, 21, 21)
    bar[:, :, 10, 3:18] = 1.0
    turned = jitter(bar, pixels=0, degrees=90, zoom=0)
    # Second moments say how far the bar is turned: upright bars vary along rows, lying ones along columns.
    up = (turned.sum(1) * (axis - 10)[:, None] ** 2).sum((1, 2)) / turned.sum((1, 2, 3))
    assert up.max() > 15 and up.min() < 1
    zoomed = jitter(bar, pixels=0, degrees=0, zoom=0.5)
    length = (zoomed[:, 0, 10] > 0.5).sum(-1)
    assert length.min() <= 9 and length.max() >= 20
    upright = bar.transpose(2, 3)
    slanted = jitter(upright, pixels=0, degrees=0, zoom=0, shear=0.5)
    places = (slanted[:, 0] * axis).sum(-1) / slanted[:, 0].sum(-1)  # the bar's column in each row
    per_row = (places[:, 15] - places[:, 5]) / 10
    assert_close(places[:, 10], torch.full((400,), 10.0))
    assert per_row.abs().max() <= 0.501 and per_row.min() < -0.45 and per_row.max() > 0.45
    square = torch.zeros(400, 1, 21, 21)
    square[:, :, 6:15, 6:15] = 1.0
    for each_axis in (False, True):
        zoomed = jitter(square, pixels=0, degrees=0, zoom=0.3, each_axis=each_axis)[:, 0]
        high, wide = zoomed[:, :, 10].sum(-1), zoomed[:, 10].sum(-1)  # of the middle column and row
        assert ((high - wide).abs().max() > 2) == each_axis
        assert min(high.min(), wide.min()) < 7.5 and max(high.max(), wide.max()) > 11


@pytest.mark.parametrize("shape", [(13, 29), (29, 13)])
def test_jitter_keeps_distances_in_images_that_are_no_squares(shape):
    h, w = shape
    rows, columns = torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2

    def places(x):
        """How far the middle of mass is down and to the right of the images' middle, `(B, 2)`."""
        mass = x[:, 0] / x.sum((1, 2, 3))[:, None, None]
        return torch.stack([(mass.sum(2) * rows).sum(1), (mass.sum(1) * columns).sum(1)], 1)

    spot = torch.exp(-((rows - 3.0)[:, None] ** 2 + (columns - 2.0) ** 2) / 2).expand(400, 1, h, w)
    start = places(spot)[0]
    turned = places(jitter(spot, pixels=0, degrees=180, zoom=0))
    radius = turned.norm(dim=1)
    assert_close(radius, torch.full((400,), 13.0**0.5), atol=0.1, rtol=0)
    angle = torch.atan2(turned[:, 0], turned[:, 1])
    assert angle.min() < -3 and angle.max() > 3, "all the way round"
    moved = places(jitter(spot, pixels=2, degrees=0, zoom=0)) - start
    assert (moved.abs().amax(0) < 2.05).all() and (moved.abs().amax(0) > 1.9).all()
    slanted = places(jitter(spot, pixels=0, degrees=0, zoom=0, shear=0.5)) - start
    assert slanted[:, 0].abs().max() < 0.05 and 1.4 < slanted[:, 1].abs().max() < 1.55  # half a column a row
    both = jitter(spot, pixels=0, degrees=180, zoom=0, shear=0.3)
    assert_close(both.sum((1, 2, 3)), spot.sum((1, 2, 3)), atol=0, rtol=0.04)  # neither changes areas
    ratio = places(jitter(spot, pixels=0, degrees=0, zoom=0.2)) / start
    assert_close(ratio[:, 0], ratio[:, 1], atol=0.03, rtol=0)
    assert ratio.min() < 0.83 and ratio.max() > 1.17


X = torch.rand(3, 2, 4, 5)


@pytest.mark.parametrize(
    ("noise", "options", "message"),
    [
        (shift, {"pixels": 1.5}, "pixels: got 1.5; expected a non-negative integer"),
        (shift, {"pixels": math.nan}, "pixels: got nan"),
        (shift, {"pixels": True}, "pixels: got True"),
        (shift, {"pixels": -1}, "pixels: got -1"),
        (shift, {"pixels": 6}, "pixels: got 6; expected an integer from 0 to 5"),
        (shift, {"x": X[0]}, r"x: got torch.float32 of shape \(2, 4, 5\); expected images \(B, C, H, W\)"),
        (shift, {"x": X.numpy()}, "x: got ndarray"),
        (jitter, {"pixels": -1}, "pixels: got -1; expected a finite number from 0 to 5"),
        (jitter, {"pixels": math.nan}, "pixels: got nan"),
        (jitter, {"pixels": 1e300}, "pixels: got 1e"),
        (jitter, {"pixels": True}, "pixels: got True"),
        (jitter, {"degrees": -1}, "degrees: got -1"),
        (jitter, {"degrees": 1e300}, "degrees: got 1e.*to 360"),
        (jitter, {"degrees": "15"}, "degrees: got '15'"),
        (jitter, {"zoom": 1}, "zoom: got 1; expected .* below 1"),
        (jitter, {"zoom": math.nan}, "zoom: got nan"),
        (jitter, {"shear": -1}, "shear: got -1"),
        (jitter, {"shear": math.inf}, "shear: got inf"),
        (jitter, {"x": (X * 255).byte()}, "x: got torch.uint8 .*floats"),
        (jitter, {"x": X[:0]}, r"x: got .* of shape \(0, 2, 4, 5\)"),
        (adversarial, {"log_probs": None, "radius": 0}, "radius: got 0; expected a finite number above 0"),
        (adversarial, {"log_probs": None, "radius": True}, "radius: got True"),
        (adversarial, {"log_probs": None, "probe": math.nan}, "probe: got nan"),
        (adversarial, {"log_probs": None, "x": X[0, 0]}, "x: got"),
        (alternate, {"noises": []}, "noises: got none"),
        (alternate, {"noises": [shift, lambda z: z[:, :, :1, :1]]}, r"noises: got shape \(1, 2, 1, 1\) from number 1"),
    ],
)
def test_bad_noise_is_named(noise, options, message):
    with pytest.raises(InputError, match=message):
        noise(**{"x": X, **options})


def test_adversarial_noise_is_along_the_gradient_of_the_divergence():
    """KL(p(y|x) || p(y|x + r)) with soft answers, at a random r of length `probe`: by hand."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    x = torch.rand(6, 1, 3, 4)
    torch.manual_seed(1)
    r = torch.randn_like(x)
    r = (2.0 * r / r.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).requires_grad_()
    p, q = net(x).softmax(1).detach(), net(x + r).softmax(1)
    (gradient,) = torch.autograd.grad((p * (p / q).log()).sum(), r)
    expected = x + 0.7 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.manual_seed(1)
    assert_close(adversarial(x, lambda z: net(z).log_softmax(1), radius=0.7, probe=2.0), expected)
