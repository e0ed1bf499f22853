"""Noise on what the guide sees in training."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close
from training import make, options, rows

from pyro_semivae import tasks
from pyro_semivae.data import adversarial, in_turn, shift, where_learning
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
