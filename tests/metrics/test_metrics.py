import dataclasses
import math

import pyro
import pytest
import torch
from torch.testing import assert_close

from pyro_semivae import data, evaluators, metrics


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
    first, accuracy = evaluators.independent_classifier(digits, steps=150, cache=tmp_path, progress=False)
    assert torch.equal(torch.rand(1), before), "training it does not touch the caller's random state"
    assert accuracy > 0.9
    assert accuracy == metrics.accuracy(first.classify(digits.x_test), digits.y_test)
    (path,) = tmp_path.iterdir()
    stamp = path.stat().st_mtime_ns
    again, same = evaluators.independent_classifier(digits, steps=150, cache=tmp_path, progress=False)
    assert same == accuracy and path.stat().st_mtime_ns == stamp
    torch.testing.assert_close(again.embed(digits.x_test), first.embed(digits.x_test))


@pytest.mark.parametrize("leading", [(), (4,)])
def test_accuracy_averages_leading_dimensions(leading):
    probs = torch.rand(*leading, 50, 3)
    y = torch.randint(0, 3, (50,))
    assert metrics.accuracy(probs, y) == pytest.approx((probs.argmax(-1) == y).double().mean().item())


def test_swap_difference_of_a_perfect_and_of_no_swap():
    y = torch.randint(0, 2, (40, 3)).double()
    x = (y * 4 - 2 + torch.randn(40, 3)).reshape(40, 3, 1, 1)  # the classifier reads its logits off the image
    logits = lambda images: images.reshape(len(images), 3)  # noqa: E731
    assert metrics.swap_difference(lambda a, b: a, logits, x, y) == 0
    partners = []

    def none(a, b):
        partners.append(b)
        return b

    value = metrics.swap_difference(none, logits, x, y, num_partners=3, seed=1)
    log_p = lambda images: torch.nn.functional.logsigmoid(logits(images) * (2 * y - 1))  # noqa: E731
    expected = torch.stack([(log_p(b) - log_p(x)).abs().mean() for b in partners]).mean()
    assert len(partners) == 3 and value == pytest.approx(expected.item()) and value > 0.5


def test_intervention_matrix_of_a_linear_world():
    """Images are their labels' logits; setting label 0 also moves label 2 by -0.5."""
    torch.manual_seed(0)
    y = torch.randint(0, 2, (200, 3)).double()
    x = (y * 2 - 1).reshape(200, 3, 1, 1)

    def intervene(x, y_new):
        z = x.reshape(-1, 3).clone()
        is_set = ~y_new.isnan()
        z = torch.where(is_set, y_new * 2 - 1, z)
        z[:, 2] -= torch.where(is_set[:, 0], 0.5 * (2 * y_new[:, 0] - 1), 0.0)
        return z.reshape(-1, 3, 1, 1)

    matrix = metrics.intervention_matrix(intervene, lambda x: x, lambda images: images.reshape(-1, 3), x, y)
    switch = -torch.nn.functional.logsigmoid(torch.tensor([-1.0, 1.0]).double()).diff().abs()
    torch.testing.assert_close(matrix.diagonal(), -switch.expand(3))
    assert matrix[2, 0] < -0.1
    assert matrix[[0, 0, 1, 1, 2], [1, 2, 0, 2, 1]].abs().max() == 0
    assert metrics.condition_number(torch.eye(4) * 3) == pytest.approx(1)
    expected = (matrix.diagonal().abs().mean() / (matrix[2, 0].abs() / 6)).item()
    assert metrics.selectivity(matrix) == pytest.approx(expected)


def test_frechet_distance_is_that_of_gaussians():
    torch.manual_seed(0)
    a, b = torch.randn(5000, 3) @ torch.randn(3, 3), torch.randn(4000, 3) * torch.tensor([1.0, 2.0, 0.5]) + 1
    s_a, s_b = (torch.cov(t.T) for t in (a, b))
    root = torch.linalg.eigh(s_a)
    half = root.eigenvectors @ root.eigenvalues.sqrt().diag() @ root.eigenvectors.T
    cross = torch.linalg.eigvalsh(half @ s_b @ half).sqrt().sum()  # tr (S_a^1/2 S_b S_a^1/2)^1/2, another formula
    expected = (a.mean(0) - b.mean(0)).square().sum() + s_a.trace() + s_b.trace() - 2 * cross
    assert metrics.frechet_distance(a, b) == pytest.approx(expected.item())
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_characteristic_capture_finds_who_knows_what():
    torch.manual_seed(0)
    strengths = torch.rand(1500, 3)
    strengths[torch.rand(1500, 3) < 0.4] = torch.nan
    known = strengths.nan_to_num(0)
    own = torch.stack([known[:, 0] + 0.01 * torch.randn(1500), (known[:, 1] - 0.5).abs(), torch.randn(1500)], 1)
    others = torch.stack([known[:, 2] * 3, torch.randn(1500)], 1)
    capture = metrics.characteristic_capture(own, others, strengths)
    assert capture.own_linear[0] > 0.95 and capture.own_nonlinear[0] > 0.9
    assert capture.own_linear[1] < 0.1, "|s - 1/2| says nothing of s"
    assert capture.own_linear[2] < 0.1 and capture.own_nonlinear[2] < 0.1
    assert capture.others_linear[2] > 0.95 and capture.others_nonlinear[2] > 0.9
    assert capture.others_linear[0] < 0.1 and capture.others_nonlinear[0] < 0.1
    few = metrics.characteristic_capture(own, others, strengths, min_rows=5000)
    assert all(torch.tensor(value).isnan().all() for value in vars(few).values())


def test_the_gp_of_binary_labels():
    y = torch.stack([torch.arange(600) % 2, torch.arange(600) // 2 % 2], 1).double()
    features = (y * 4 - 2) + 0.4 * torch.randn(600, 2)
    torch.set_default_dtype(torch.float32)
    with pyro.validation_enabled(False):
        posterior = metrics.LastLayerGP(features, y, None, num_inducing=30, steps=120, lr=0.05, progress=False)
        near, far = posterior.sample_probs(features), posterior.sample_probs(features * 30)
    assert near.shape == (64, 600, 2, 2)
    assert metrics.label_accuracy(near.mean(0)[..., 1], y).min() > 0.97
    mi = metrics.mutual_information(near)
    assert mi.shape == (600, 2) and metrics.mutual_information(far).mean() > 3 * mi.mean()


def test_missing_labels_count_nowhere():
    torch.manual_seed(0)
    probs, y = torch.rand(40, 3), (torch.rand(40, 3) < 0.5).double()
    some = y.clone()
    some[::3, 1] = torch.nan
    rows = torch.arange(40) % 3 > 0
    full, part = metrics.label_accuracy(probs, y), metrics.label_accuracy(probs, some)
    assert part[1] == metrics.label_accuracy(probs[rows], y[rows])[1] and torch.equal(part[[0, 2]], full[[0, 2]])

    x = torch.rand(40, 3)
    for use in (metrics.swap_difference, metrics.intervention_matrix):
        flip = {metrics.swap_difference: (lambda a, b: a, lambda x: x)}
        calls = flip.get(use, (lambda x, new: torch.where(new.isnan(), x, 4 * new - 2), lambda x: x, lambda x: x))
        whole, known = use(*calls, x, y), use(*calls, x, some)
        only = use(*calls, x[rows], y[rows])
        if use is metrics.intervention_matrix:
            assert_close(known[:, 1], only[:, 1])
            assert_close(known[:, [0, 2]], whole[:, [0, 2]])
        else:
            assert known == whole == 0.0

    logits = torch.randn(40, 3)
    shift = lambda a, b: a + 1  # noqa: E731
    moved = metrics.swap_difference(shift, lambda x: x, logits, some)
    known = ~some.isnan()
    log_p = [metrics.swap.log_prob_of_labels(value, y)[known] for value in (logits, logits + 1)]
    assert moved == pytest.approx((log_p[1] - log_p[0]).abs().mean().item())


def test_balanced_accuracy_by_hand():
    probs = torch.tensor([[0.9], [0.8], [0.2], [0.7]])
    y = torch.tensor([[1.0], [1.0], [1.0], [0.0]])
    assert metrics.balanced_label_accuracy(probs, y).item() == pytest.approx((2 / 3 + 0) / 2)


def test_a_swap_partner_is_another_image():
    x, seen = torch.arange(7.0)[:, None], []

    def swap(a, b):
        seen.append((a - b).abs().min().item())
        return a

    metrics.swap_difference(swap, lambda x: x, x, torch.ones(7, 1), num_partners=20)
    assert len(seen) == 20 and min(seen) >= 1
    with pytest.raises(ValueError, match="x: got 1 images"):
        metrics.swap_difference(swap, lambda x: x, x[:1], torch.ones(1, 1))
    with pytest.raises(ValueError, match="num_partners: got 0"):
        metrics.swap_difference(swap, lambda x: x, x, torch.ones(7, 1), num_partners=0)


def test_the_independent_classifier_is_of_its_labels(tmp_path):
    """Other columns, other missing entries or another test set are another classifier."""
    digits = data.load("digits")
    y = (digits.y[:, None] == torch.arange(3)).float()
    some = y.clone()
    some[0, 0] = torch.nan
    base = dataclasses.replace(digits, label_names=("a", "b", "c"), y=y, y_test=y[: len(digits.y_test)])
    swapped = dataclasses.replace(base, y=y[:, [1, 0, 2]])
    others = [swapped, dataclasses.replace(base, y=some), dataclasses.replace(base, label_names=("b", "a", "c"))]
    for one in (base, *others):
        evaluators.independent_classifier(one, steps=1, cache=tmp_path, progress=False)
    assert len([*tmp_path.iterdir()]) == 4


def test_a_frechet_distance_needs_features_in_rows():
    with pytest.raises(ValueError, match=r"features_b: got shape \(1, 4\)"):
        metrics.frechet_distance(torch.rand(5, 4), torch.rand(1, 4))


def test_swaps_and_interventions_of_a_class_label():
    """A world where an image is its class's logits, sharpened: what a swap or an intervention gives is known."""
    y = torch.tensor([0, 2, 1, 2, 0])
    x = torch.eye(3)[y].reshape(5, 1, 1, 3) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).reshape(-1, 1, 1, 1)

    def logits(images):
        return images.reshape(-1, 3)

    assert metrics.swap_difference(lambda a, b: a, logits, x, y) == 0
    moved = metrics.swap_difference(lambda a, b: a.roll(1, -1), logits, x, y)
    log_p = [logits(images).log_softmax(-1)[torch.arange(5), y] for images in (x, x.roll(1, -1))]
    assert moved == pytest.approx((log_p[1] - log_p[0]).abs().mean().item())
    missing = torch.tensor([0, -1, 1, 2, -1])
    assert metrics.log_prob_of_labels(logits(x), missing).isnan().tolist() == [False, True, False, False, True]

    def only_up(images, y):  # it can set classes 1 and 2, and leaves an image as it is for class 0
        return torch.where((y > 0).reshape(-1, 1, 1, 1), 9 * torch.eye(3)[y].reshape(-1, 1, 1, 3), images)

    probs = lambda images: logits(images).softmax(-1)  # noqa: E731
    assert metrics.intervention_accuracy(lambda images, y: 9 * torch.eye(3)[y], probs, x, y, 3) == 1
    # Of ten interventions (five images, two other classes each) the three that set class 0 fail.
    assert metrics.intervention_accuracy(only_up, probs, x, y, 3) == pytest.approx(0.7)


@pytest.mark.parametrize("binary", [False, True])
def test_the_posterior_of_an_evaluator_is_fitted_once_and_is_its_own(binary, tmp_path, capsys):
    torch.set_default_dtype(torch.float32)
    x, y = torch.randint(0, 256, (300, 1, 8, 8), dtype=torch.uint8), torch.arange(300) % 3
    y = torch.stack([y == 0, y == 1, y == 2], 1).float() if binary else y
    sets = data.ImageData("made", ("a", "b", "c"), x, y, x[:50], y[:50])
    two = [evaluators.ImageClassifier((1, 8, 8), 3, binary=binary).eval() for _ in range(2)]

    def posterior(evaluator):
        return evaluators.independent_posterior(sets, evaluator, num_rows=200, steps=4, cache=tmp_path)

    first, again, other = posterior(two[0]), posterior(two[0]), posterior(two[1])
    features = two[0].embed(x[:7])
    assert torch.equal(first.sample_probs(features), again.sample_probs(features))
    assert not torch.equal(first.sample_probs(features), other.sample_probs(features))
    assert len(list(tmp_path.glob("posterior-made-*.pt"))) == 2
    rows = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:200]
    direct = metrics.LastLayerGP(two[0].embed(x[rows]), y[rows], None if binary else 3, steps=4)
    assert torch.equal(first.sample_probs(features), direct.sample_probs(features))
    assert capsys.readouterr().err.count("sparse GP") == 3
