"""Judges meet the data set, the Gaussian process its draws, regressors their rows: exact or within standard errors."""

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from torch.testing import assert_close

from pyro_semivae import evaluators, metrics
from pyro_semivae.data import ImageData


@pytest.mark.parametrize("binary", [False, True])
def test_an_evaluator_learns_from_the_training_rows_and_is_measured_on_the_test_rows(binary, tmp_path):
    """Test labels are all wrong: what learned from the training rows is never right, and what did not would be."""
    torch.set_default_dtype(torch.float32)
    y = torch.arange(240) % 3
    x = torch.randint(0, 60, (240, 1, 8, 8), dtype=torch.uint8)
    x.view(240, 8, 8)[torch.arange(240), 2 * y] = 255  # a bright row
    labels = torch.eye(3)[y] if binary else y
    wrong = 1 - labels[:90] if binary else (y[:90] + 1) % 3
    data = ImageData("made", ("a", "b", "c"), x, labels, x[:90], wrong)
    evaluator, accuracy = evaluators.independent_classifier(data, steps=40, cache=tmp_path, progress=False)
    assert accuracy == 0
    assert_close(evaluator.embed(x), evaluator.embed(x / 255))
    probs = evaluator.classify(x)
    assert (metrics.label_accuracy(probs, labels) == 1).all() if binary else metrics.accuracy(probs, y) == 1
    if not binary:
        regression, accuracy = evaluators.logistic_regression(data, cache=tmp_path)
        assert accuracy == 0 and metrics.accuracy(regression(x), y) == 1


def test_an_evaluator_learns_nothing_of_missing_labels(tmp_path):
    """Two thirds of the labels that are on are missing: it still says that they are on."""
    torch.set_default_dtype(torch.float32)
    y = (torch.arange(240) % 2)[:, None].float()
    x = (y.view(-1, 1, 1, 1) * 200).to(torch.uint8).expand(240, 1, 8, 8)
    some = y.where((y == 0) | (torch.arange(240) % 3 == 0)[:, None], torch.nan)
    data = ImageData("made", ("a",), x, some, x, y)
    _, accuracy = evaluators.independent_classifier(data, steps=30, cache=tmp_path, progress=False)
    assert accuracy == 1


def test_the_evaluators_learning_rate_is_half_a_cosine(monkeypatch, tmp_path):
    rates = []

    class Recording(torch.optim.Adam):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Recording)
    x, y = torch.zeros(6, 1, 4, 4, dtype=torch.uint8), torch.arange(6) % 2
    data = ImageData("made", ("a", "b"), x, y, x, y)
    evaluators.independent_classifier(data, steps=4, cache=tmp_path, progress=False)
    assert rates == pytest.approx([1e-3 * (1 + np.cos(np.pi * k / 4)) / 2 for k in range(4)])


def gp(binary, count=600, batch=500, steps=5):
    """A process on two features, hardly trained."""
    torch.manual_seed(0)
    features = torch.randn(count, 2)
    y = torch.stack([features[:, 0] > 0, features[:, 1] > 0.5], 1).double() if binary else (features[:, 0] > 0).long()
    with pyro.validation_enabled(False):
        return metrics.LastLayerGP(features, y, None if binary else 2, num_inducing=20, steps=steps, progress=False)


@pytest.mark.parametrize("binary", [False, True])
def test_draws_of_a_process_have_its_mean_and_deviation(binary):
    """Log-odds of the draws are Gaussian, with the process's own mean and variance at standardised features."""
    posterior, features = gp(binary), 2 * torch.randn(5, 2)
    probs = posterior.sample_probs(features, num_samples=4000)
    with torch.no_grad(), pyro.settings.context(module_local_params=True):
        loc, variance = posterior.gp((features - posterior.mean) / posterior.std, full_cov=False)  # (C, B)
    if binary:
        odds = probs[..., 1].logit()  # (S, B, L)
        loc, variance = loc.T, variance.T
    else:  # of two independent functions
        odds = (probs[..., 1:] / probs[..., :1]).log()
        loc, variance = (loc[1:] - loc[:1]).T, variance.sum(0)[:, None]
    for i, k in np.ndindex(*loc.shape):
        law = stats.norm(loc[i, k].item(), variance[i, k].sqrt().item())
        assert stats.kstest(odds[:, i, k].numpy(), law.cdf).pvalue > 1e-5, (i, k)


@pytest.mark.parametrize(("count", "scale"), [(2000, 4.0), (300, 1.0)])
def test_a_batch_of_a_process_stands_for_all_rows(count, scale):
    """Its likelihood counts N / B times, B being 500 or all there are."""
    posterior = gp(binary=False, count=count, steps=1)
    with pyro.settings.context(module_local_params=True):
        trace = poutine.trace(posterior.gp.model).get_trace()
    (site,) = (site for site in trace.nodes.values() if site["type"] == "sample" and site["is_observed"])
    assert site["scale"] == pytest.approx(scale)
    assert site["scale"] * len(posterior.gp.X) == pytest.approx(count)


def test_capture_is_scored_on_rows_that_fitted_nothing():
    """The first half of a label's rows fits, the second scores: by hand, and 0 where there is nothing to find."""
    torch.manual_seed(0)
    n = 240
    strengths = torch.rand(n, 2)
    strengths[::3, 0] = torch.nan
    own, others = torch.randn(n, 2), torch.randn(n, 60)  # enough to fit a hundred rows of noise by heart
    own[:, 1] = strengths[:, 1] + 0.3 * torch.randn(n)
    capture = metrics.characteristic_capture(own, others, strengths)
    assert capture.others_linear.max() < 0.1 and capture.others_nonlinear.max() < 0.1
    regressors = {"linear": lambda: RidgeCV(np.logspace(-3, 3, 7)), "nonlinear": lambda: SVR(C=0.2, epsilon=0.05)}
    for kind, regressor in regressors.items():
        x, y, half = own[:, 1:].numpy(), strengths[:, 1].numpy(), n // 2
        fitted = make_pipeline(StandardScaler(), regressor()).fit(x[:half], y[:half])
        assert getattr(capture, f"own_{kind}")[1] == pytest.approx(fitted.score(x[half:], y[half:]))
    assert 0.3 < capture.own_linear[1] < 0.7
    assert min(part.min() for part in vars(capture).values()) == 0, "worse than the mean counts as 0"


def test_what_the_other_labels_latents_know_is_captured_by_others():
    torch.manual_seed(0)
    strengths = torch.rand(240, 2)
    own = torch.stack([torch.randn(240), strengths[:, 0]], 1)  # label 1's latent knows label 0's strength
    capture = metrics.characteristic_capture(own, torch.randn(240, 3), strengths)
    assert capture.others_linear[0] > 0.9 and capture.own_linear[0] < 0.1
    assert capture.others_linear[1] < 0.1 and capture.own_linear[1] < 0.1


def test_the_log_probability_of_a_binary_label_is_of_its_own_value():
    logits = torch.tensor([[1.5, -0.5, 2.0]])
    found = metrics.log_prob_of_labels(logits, torch.tensor([[1.0, 0.0, torch.nan]]))
    expected = torch.tensor([[1.5, 0.5]]).sigmoid().log()
    assert_close(found[:, :2], expected)
    assert found[:, 2].isnan().all()


def test_bins_of_confidence_are_closed_on_the_right():
    """A confidence of 1/2 is in (0, 1/2] and not with .8, where the two would cancel."""
    probs = torch.tensor([[0.5, 0.5], [0.8, 0.2]])
    assert metrics.calibration_error(probs, torch.tensor([0, 1]), bins=2) == pytest.approx((0.5 + 0.8) / 2)


def test_a_process_learns_from_the_labels_that_are_known_alone():
    """Where labels are missing the features say on, elsewhere at random: missing ones count as nothing, not as off."""
    torch.manual_seed(0)
    features = torch.cat([torch.randn(300, 2), torch.randn(300, 2) + torch.tensor([6.0, 0.0])])
    y = torch.cat([torch.ones(300, 1), torch.full((300, 1), torch.nan)]).double()
    with pyro.validation_enabled(False):
        posterior = metrics.LastLayerGP(features, y, None, num_inducing=20, steps=60, lr=0.05, progress=False)
    probs = posterior.sample_probs(features).mean(0)[:, 0, 1]
    assert probs[:300].mean() > 0.8 and probs[300:].mean() > 0.45


def test_partners_of_many_images_are_others_of_all_of_them():
    """More than are swapped at a time: every image is a partner once."""
    x, partners = torch.arange(1203.0)[:, None], []

    def swap(a, b):
        assert len(a) == len(b) <= 500 and (a != b).all()
        partners.append(b)
        return a

    metrics.swap_difference(swap, lambda x: x, x, torch.ones(1203, 1), num_partners=1)
    assert torch.equal(torch.cat(partners).sort(0).values, x) and len(partners) == 3


def test_the_calibration_of_extracted_classes_is_by_the_values_that_stand_for_them():
    scores = torch.eye(4)[[0, 1, 3, 2]]  # value 2 stands for class 3, and 3 for 2
    probs = torch.tensor([[0.05, 0.05, 0.8, 0.1], [0.05, 0.05, 0.2, 0.7], [0.9, 0.1, 0, 0]])
    found = metrics.extraction(probs.clamp(min=1e-9).log(), torch.tensor([3, 2, 0]), scores, 2)
    assert found.accuracy == 1 and found.calibration_error == pytest.approx((0.2 + 0.3) / 2)
