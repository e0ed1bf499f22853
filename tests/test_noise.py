"""Noise on what the guide sees in training."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close
from training import make, options, rows

from pyro_semivae import tasks
from pyro_semivae.data import adversarial, in_turn, jitter, shift, where_learning
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
    got = in_turn(x, [lambda z: z + 1, lambda z: z + 2, lambda z: z + 3])
    assert_close(got[:, 0, 0, 0], torch.tensor([1.0, 2, 3, 1, 2, 3, 1]))
    noise = partial(where_learning, noise=lambda z: z + 1)
    assert_close(noise(x), x + 1)
    with torch.no_grad():
        assert noise(x) is x


def test_noise_may_ask_the_model_in_training():
    """The guide then runs inside the guide: neither its sites nor its enumeration get in the way."""
    x, y, _ = rows()
    vae = make()
    noise = partial(adversarial, log_probs=partial(tasks.log_classify, vae, mean=True), radius=0.5)
    elbo = vae.elbo(marginal="jensen", consistency_weight=2.0, num_samples=3)
    history = fit(vae, x, y, elbo=elbo, corrupt=partial(where_learning, noise=noise), **options(epochs=2))
    assert history[-1]["term/consistency"] < 0
    with pytest.raises(ValueError, match="radius, probe: got 0"):
        adversarial(torch.rand(2, 1, 4, 7), lambda z: z, radius=0)


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


def spots(number, height, width, down, right):
    """Smooth spots so far off the middle of images, `(number, 1, height, width)`."""
    rows, columns = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    spot = torch.exp(-((rows[:, None] - down) ** 2 + (columns - right) ** 2) / 8)
    return spot.expand(number, 1, height, width)


def centres(x):
    """Where the mass of images is, in pixels down and right of the middle."""
    rows, columns = (torch.arange(size) - (size - 1) / 2 for size in x.shape[-2:])
    mass = x.sum((1, 2, 3))
    return (x.sum((1, 3)) * rows).sum(1) / mass, (x.sum((1, 2)) * columns).sum(1) / mass


@pytest.mark.parametrize(("height", "width"), [(33, 57), (57, 33)])
def test_jitter_is_in_pixels_where_images_are_not_square(height, width):
    torch.manual_seed(0)
    turned = jitter(spots(200, height, width, 0, 6), pixels=0, degrees=180, zoom=0)
    down, right = centres(turned)
    assert_close((down**2 + right**2).sqrt(), torch.full((200,), 6.0), atol=0.02, rtol=0)
    assert down.min() < -5.5 and down.max() > 5.5 and right.min() < -5.5 and right.max() > 5.5
    for offset in centres(jitter(spots(200, height, width, 0, 0), pixels=3, degrees=0, zoom=0)):
        assert 2.8 < offset.max() < 3.01 and -3.01 < offset.min() < -2.8
    down, right = centres(jitter(spots(200, height, width, 5, 0), pixels=0, degrees=0, zoom=0, shear=0.5))
    assert_close(down, torch.full((200,), 5.0), atol=0.02, rtol=0)
    assert 2.3 < right.max() < 2.52 and -2.52 < right.min() < -2.3
    for each_axis in (False, True):
        zoomed = jitter(spots(200, height, width, 5, 5), pixels=0, degrees=0, zoom=0.2, each_axis=each_axis)
        down, right = centres(zoomed)
        for offset in (down, right):
            assert 5.85 < offset.max() < 6.02 and 3.98 < offset.min() < 4.15
        assert ((down - right).abs().max() > 0.5) == each_axis
