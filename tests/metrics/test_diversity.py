"""The diversity of generations, where the right answer is known."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.testing import assert_close

from pyro_semivae import metrics
from pyro_semivae.errors import InputError

C = 3


def two_samples(n=1500, size=12, seed=0):
    """Real rows and others of the same law: classes of different means and covariances."""
    torch.manual_seed(seed)
    means, mixing = 3 * torch.randn(C, size), torch.randn(C, size, size)
    y, other = torch.arange(n) % C, torch.arange(n) % C
    draw = lambda y: means[y] + torch.einsum("nij,nj->ni", mixing[y], torch.randn(n, size))  # noqa: E731
    return draw(y), y, draw(other), other


def test_the_share_of_the_variance_where_it_is_known():
    x, y, other, y_other = two_samples()
    fresh = metrics.variance_share(x, y, other, y_other, C, components=5)
    assert (fresh - 1).abs().max() < 0.2, "a sample of the same law has 1"
    means = torch.stack([x[y == c].mean(0) for c in range(C)])
    shrunk = means[y] + torch.tensor([0.5, 1.0, 2.0])[y, None] * (x - means[y])
    assert_close(metrics.variance_share(x, y, shrunk, y, C), torch.tensor([0.25, 1.0, 4.0]))
    assert_close(metrics.variance_share(x, y, means[y], y, C), torch.zeros(C), atol=1e-12, rtol=0)
    of_one_class = torch.zeros_like(y)  # generations of class 0 that are of all classes
    assert metrics.variance_share(x, y, x, of_one_class, C)[0] > 1.5


def test_the_share_is_within_the_components_of_all_images():
    x, y, other, y_other = two_samples(60, 40)  # more numbers than components, and fewer rows than numbers of them
    for rows in (x, x[:30]):
        basis = torch.from_numpy(PCA(7, svd_solver="full").fit(rows.numpy()).components_.T)
        of = y[: len(rows)]
        var = [[(part[c == k] @ basis).var(0).sum() for k in range(C)] for part, c in ((rows, of), (other, y_other))]
        expected = torch.tensor(var[1]) / torch.tensor(var[0])
        assert_close(metrics.variance_share(rows, of, other, y_other, C, components=7), expected)
    some = y.where(torch.arange(len(y)) % 4 > 0, -1)  # without a class they count in the basis alone
    basis = torch.from_numpy(PCA(7, svd_solver="full").fit(x.numpy()).components_.T)
    expected = (other[y_other == 0] @ basis).var(0).sum() / (x[some == 0] @ basis).var(0).sum()
    assert_close(metrics.variance_share(x, some, other, y_other, C, components=7)[0], expected)


def test_the_share_of_bytes_and_of_large_images():
    x = torch.randint(0, 256, (90, 3, 4, 4), dtype=torch.uint8)
    y = torch.arange(90) % C
    assert_close(metrics.variance_share(x, y, x.double() / 255, y, C), torch.ones(C), atol=1e-6, rtol=0)
    large = torch.rand(2500, 2100, dtype=torch.float32)  # its components are of every second row
    y = torch.arange(2500) % C
    assert_close(metrics.variance_share(large, y, large, y, C, components=3), torch.ones(C))


def test_precision_and_recall_by_hand():
    real = torch.tensor([0.0, 1.0, 2.0, 10.0])[:, None]  # nearest others at 1, 1, 1, 8
    generated = torch.tensor([0.5, 3.1, 2.9, -9.0])[:, None]  # at 2.4, .2, .2, 9.5
    precision, recall = metrics.precision_recall(real, generated, neighbours=1)
    assert precision == 3 / 4, "3.1 is near 10 alone, whose ball reaches to 2; -9 is near none"
    assert recall == 3 / 4, "0, 1 and 2 are within 2.4 of .5; 10 is near none"
    assert metrics.precision_recall(real, real, neighbours=3) == (1, 1)
    assert all(map(math.isnan, metrics.precision_recall(real, generated, neighbours=4)))
    twice = real.repeat(2, 1)  # every point has a neighbour at 0, and is itself on the manifold
    assert metrics.precision_recall(twice, twice, neighbours=1) == (1, 1)
    assert metrics.precision_recall(twice, twice + 0.1, neighbours=1) == (0, 0)


def test_precision_and_recall_against_a_loop():
    torch.manual_seed(0)
    a, b, k = torch.randn(700, 3), torch.randn(600, 3) * 0.7 + 0.3, 3
    a, b = a.numpy(), b.numpy()

    def radii(members):
        d = np.linalg.norm(members[:, None] - members, axis=-1)
        np.fill_diagonal(d, np.inf)
        return np.sort(d, 1)[:, k - 1]

    def covered(points, members):
        reach = radii(members)
        return np.mean([(np.linalg.norm(p - members, axis=1) <= reach).any() for p in points])

    found = metrics.precision_recall(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx((covered(b, a), covered(a, b)))


def test_lost_modes_cost_recall_and_strays_precision():
    torch.manual_seed(0)
    real = torch.cat([torch.randn(200, 4), torch.randn(200, 4) + 20])
    one_mode, strays = torch.randn(400, 4), torch.cat([real[::2] + 0.01, torch.randn(200, 4) - 20])
    precision, recall = metrics.precision_recall(real, one_mode)
    assert precision > 0.9 and 0.4 < recall < 0.52
    precision, recall = metrics.precision_recall(real, strays)
    assert precision == 0.5 and recall > 0.9


def test_precision_and_recall_are_of_each_class_at_equal_numbers():
    torch.manual_seed(0)
    real, generated = torch.randn(60, 2), torch.randn(90, 2)
    y, drawn = torch.arange(60) % 2, torch.arange(90) % 2  # 30 real ones, 45 generations a class
    y[y.cumsum(0) > 20] = -1  # some of 1, and of 0, are not known
    precision, recall = metrics.class_precision_recall(real, y, generated, drawn, 3)
    for c in (0, 1):
        number = int((y == c).sum())
        expected = metrics.precision_recall(real[y == c], generated[drawn == c][:number])
        assert (precision[c].item(), recall[c].item()) == expected
    assert precision[2].isnan() and recall[2].isnan()


X = torch.rand(6, 1, 4, 4)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.variance_share(X, Y[:, None], X, Y, C), r"y of x: got shape \(6, 1\)"),
        (lambda: metrics.variance_share(X, Y[:5], X, Y, C), r"x, y: got shapes \(6, 1, 4, 4\) and \(5,\)"),
        (lambda: metrics.variance_share(X, Y, X, Y + 1, C), r"y of generations: got \[3, 3\]"),
        (lambda: metrics.variance_share(X, Y, X[..., :3], Y, C), r"x, generations: got shapes \(6, 1, 4, 4\) and"),
        (lambda: metrics.variance_share(X, Y, X * math.nan, Y, C), "generations: got NaN"),
        (lambda: metrics.variance_share(X, Y, X, Y, C, components=0), "components: got 0"),
        (lambda: metrics.variance_share(X[:0], Y[:0], X, Y, C), r"x, generations: got shapes \(0, 1, 4, 4\) and"),
        (lambda: metrics.variance_share(X[..., :0], Y, X, Y, C), r"x: got shape \(6, 1, 4, 0\)"),
        (lambda: metrics.precision_recall(X, X), r"real: got shape \(6, 1, 4, 4\); expected 2 dimensions"),
        (lambda: metrics.precision_recall(X.flatten(1), X.flatten(1)[:, 1:]), r"\(6, 16\) and \(6, 15\)"),
        (lambda: metrics.precision_recall(X.flatten(1), X.flatten(1), neighbours=0), "neighbours: got 0"),
        (lambda: metrics.class_precision_recall(X.flatten(1), Y, X.flatten(1), Y, 2), r"y of real: got \[2, 2\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
