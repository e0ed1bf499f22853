import math

import pyro
import pytest
import torch

from pyro_semivae import data, metrics


def test_mutual_information_in_closed_form():
    certain = torch.tensor([[[0.7, 0.3]], [[0.7, 0.3]]])
    torch.testing.assert_close(metrics.mutual_information(certain), torch.zeros(1))
    p, q = 0.9, 0.2
    h = lambda a: -(a * math.log(a) + (1 - a) * math.log(1 - a))  # noqa: E731
    torn = torch.tensor([[[p, 1 - p]], [[q, 1 - q]]])
    expected = h((p + q) / 2) - (h(p) + h(q)) / 2
    torch.testing.assert_close(metrics.mutual_information(torn), torch.tensor([expected]))


def test_mutual_information_of_a_gp_is_larger_far_from_the_data():
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    y = torch.arange(600) % 3
    features = centres[y] + 0.4 * torch.randn(600, 2)
    torch.set_default_dtype(torch.float32)  # as users have it
    with pyro.validation_enabled(False):
        posterior = metrics.LastLayerGP(features.float(), y, 3, num_inducing=30, steps=120, lr=0.05, progress=False)
        near = posterior.sample_probs(features.float())
        far = posterior.sample_probs(features.float() * 30)
    assert near.shape == (64, 600, 3)
    torch.testing.assert_close(near.sum(-1), torch.ones_like(near[..., 0]))
    assert metrics.accuracy(near.mean(0), y) > 0.97
    assert metrics.mutual_information(far).mean() > 3 * metrics.mutual_information(near).mean()


def test_generation_accuracy_counts_what_the_classifier_recognises():
    y = torch.tensor([0, 1, 2, 1])
    one_hot = torch.eye(3)[torch.tensor([0, 1, 2, 2])]
    value, images = metrics.generation_accuracy(lambda y: one_hot, lambda images: images, y)
    assert value == 0.75 and images is one_hot


def test_the_independent_classifier_is_trained_once_and_cached(tmp_path):
    torch.set_default_dtype(torch.float32)
    digits = data.load("digits")
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    first, accuracy = metrics.independent_classifier(digits, steps=150, cache=tmp_path, progress=False)
    assert torch.equal(torch.rand(1), before), "training it does not touch the caller's random state"
    assert accuracy > 0.9
    assert accuracy == metrics.accuracy(first.classify(digits.x_test), digits.y_test)
    (path,) = tmp_path.iterdir()
    stamp = path.stat().st_mtime_ns
    again, same = metrics.independent_classifier(digits, steps=150, cache=tmp_path, progress=False)
    assert same == accuracy and path.stat().st_mtime_ns == stamp
    torch.testing.assert_close(again.embed(digits.x_test), first.embed(digits.x_test))


@pytest.mark.parametrize("leading", [(), (4,)])
def test_accuracy_averages_leading_dimensions(leading):
    probs = torch.rand(*leading, 50, 3)
    y = torch.randint(0, 3, (50,))
    assert metrics.accuracy(probs, y) == pytest.approx((probs.argmax(-1) == y).double().mean().item())
