"""Every measure: missing labels are left out, nothing left is NaN, what does not fit is an error with the shapes."""

import dataclasses
import math

import pyro
import pytest
import torch
from torch.testing import assert_close

from pyro_semivae import data, evaluators, metrics
from pyro_semivae.data import ImageData
from pyro_semivae.errors import InputError
from pyro_semivae.metrics import checks

NAN = math.nan
P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.5, 0.2], [0.6, 0.3, 0.1]])  # (4, 3), of classes
ON = torch.tensor([[0.9, 0.2], [0.4, 0.8], [0.3, 0.7], [0.6, 0.1]])  # (4, 2), of binary labels
BINARY = torch.tensor([[1.0, NAN], [1.0, 0.0], [NAN, NAN], [0.0, 0.0]])
UNKNOWN = torch.full((4,), -1)


def itself(x, *_):
    return x


def test_accuracy_is_that_of_the_known_rows():
    y = torch.tensor([0, -1, 1, 2])
    assert metrics.accuracy(P, y) == pytest.approx(2 / 3)
    assert metrics.accuracy(torch.stack([P, P.flip(0)]), y) == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert metrics.accuracy(P.log(), y.to(torch.int8)) == pytest.approx(2 / 3)
    assert metrics.accuracy(P.numpy(), y.numpy()) == pytest.approx(2 / 3)
    assert math.isnan(metrics.accuracy(P, UNKNOWN))
    assert math.isnan(metrics.accuracy(P[:0], UNKNOWN[:0]))
    torch.manual_seed(0)
    many, probs = torch.randint(0, 3, (3000,)), torch.rand(3000, 3)
    some = many.where(torch.rand(3000) < 0.5, -1)
    known = some >= 0
    assert metrics.accuracy(probs, some) == metrics.accuracy(probs[known], many[known])


def test_label_accuracy_is_that_of_the_known_entries():
    assert_close(metrics.label_accuracy(ON, BINARY), torch.tensor([1 / 3, 1 / 2]))
    assert_close(metrics.balanced_label_accuracy(ON, BINARY), torch.tensor([0.25, NAN]), equal_nan=True)
    assert metrics.label_accuracy(ON, BINARY * NAN).isnan().all()


def test_generation_accuracy_is_that_of_the_known_labels():
    seen = []

    def generate(y):
        seen.append(y)
        return P

    assert metrics.generation_accuracy(generate, itself, torch.tensor([0, -1, 1, 2]))[0] == pytest.approx(2 / 3)
    assert seen[0].tolist() == [0, -1, 1, 2], "missing ones are left to the model"
    assert metrics.generation_accuracy(lambda y: ON, itself, BINARY)[0] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert math.isnan(metrics.generation_accuracy(generate, itself, UNKNOWN)[0])


def test_swaps_leave_missing_classes_out():
    y, x = torch.tensor([0, -1, 1, -1]), P.log()
    up = lambda a, b: a + torch.tensor([1.0, 0.0, 0.0])  # noqa: E731
    found = metrics.swap_difference(up, itself, x, y)
    log_p = [v.log_softmax(1)[[0, 2], [0, 1]] for v in (x, x + torch.tensor([1.0, 0.0, 0.0]))]
    assert found == pytest.approx((log_p[1] - log_p[0]).abs().mean().item())
    assert math.isnan(metrics.swap_difference(up, itself, x, UNKNOWN))


def test_interventions_leave_images_of_unknown_classes_out():
    y, seen = torch.tensor([0, -1, 1, 2]), []

    def intervene(x, y):
        seen.append((x[:, 0].tolist(), y.tolist()))
        return torch.eye(3)[torch.where(y == 2, 0, y)]

    x = torch.arange(4.0)[:, None]
    assert metrics.intervention_accuracy(intervene, itself, x, y, 3) == pytest.approx(4 / 6)
    assert seen == [([2, 3], [0, 0]), ([0, 3], [1, 1]), ([0, 2], [2, 2])]
    assert math.isnan(metrics.intervention_accuracy(intervene, itself, x, UNKNOWN, 3))
    rows, set_to = metrics.intervention_pairs(y, 3)
    assert rows.tolist() == [2, 3, 0, 3, 0, 2] and set_to.tolist() == [0, 0, 1, 1, 2, 2]


def test_labels_that_no_row_has_are_left_out_of_selectivity():
    y = torch.tensor([[1.0, 0.0, NAN], [0.0, 1.0, NAN]])
    matrix = metrics.intervention_matrix(
        lambda x, new: torch.where(new.isnan(), x + 0.1, 2 * new - 1), itself, itself, 2 * y.nan_to_num() - 1, y
    )
    assert matrix[:, 2].isnan().all() and matrix[:, :2].isfinite().all()
    assert math.isnan(metrics.condition_number(matrix))
    off = matrix[[1, 2, 0, 2], [0, 0, 1, 1]].abs().mean()
    assert metrics.selectivity(matrix) == pytest.approx((matrix.diagonal()[:2].abs().mean() / off).item())


def test_the_gp_is_that_of_the_rows_with_a_known_label():
    features, y = torch.randn(60, 2), torch.arange(60) % 3
    known = torch.rand(60) < 0.6
    binary = torch.stack([y == 0, y == 1], 1).double()
    with pyro.validation_enabled(False):
        for labels, missing, classes in ((y, -1, 3), (binary, NAN, None)):
            some = labels.clone()
            some[~known] = missing
            gps = [
                metrics.LastLayerGP(f, t, classes, num_inducing=10, steps=3, progress=False).sample_probs(features)
                for f, t in ((features, some), (features[known], labels[known]))
            ]
            assert torch.equal(*gps)


def known_and_half_known(binary):
    digits = data.load("digits")
    y, y_test = (
        torch.stack([t % 2 == 0, t > 4], 1).float() if binary else t.clone() for t in (digits.y, digits.y_test)
    )
    digits = dataclasses.replace(digits, y=y, y_test=y_test, label_names=("a", "b") if binary else digits.label_names)
    torch.manual_seed(1)
    hidden, hidden_test = torch.rand(len(y)) < 0.5, torch.rand(len(y_test)) < 0.5
    some, some_test = y.clone(), y_test.clone()
    some[hidden], some_test[hidden_test] = (NAN, NAN) if binary else (-1, -1)
    half = dataclasses.replace(digits, y=some, y_test=some_test)
    known = dataclasses.replace(
        digits, x=digits.x[~hidden], y=y[~hidden], x_test=digits.x_test[~hidden_test], y_test=y_test[~hidden_test]
    )
    return half, known


@pytest.mark.parametrize("binary", [False, True])
def test_the_evaluator_learns_from_the_known_rows_and_is_tested_on_them(binary, tmp_path):
    """Bit for bit that of a set without the others."""
    torch.set_default_dtype(torch.float32)
    half, known = known_and_half_known(binary)
    assert half.y.dim() == 1 + binary
    found = [evaluators.independent_classifier(d, steps=60, cache=tmp_path, progress=False) for d in (half, known)]
    (ours, accuracy), (theirs, same) = found
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert accuracy == same > 0.7
    options = {"num_rows": 100, "steps": 2, "cache": tmp_path, "progress": False}
    gps = [
        evaluators.independent_posterior(d, ours, **options).sample_probs(ours.embed(known.x_test))
        for d in (half, known)
    ]
    assert torch.equal(*gps)
    nothing = dataclasses.replace(half, y=torch.full_like(half.y, NAN if binary else -1))
    with pytest.raises(InputError, match=r"data.y: got 1438 rows, 0 with a known label"):
        evaluators.independent_classifier(nothing, cache=tmp_path)
    if binary:  # no test row has the second label
        one = half.y_test.clone()
        one[:, 1] = NAN
        options = {"steps": 60, "cache": tmp_path, "progress": False}
        evaluator, accuracy = evaluators.independent_classifier(dataclasses.replace(half, y_test=one), **options)
        assert accuracy == metrics.label_accuracy(evaluator.classify(half.x_test), half.y_test)[0]
    untested = dataclasses.replace(half, y_test=torch.full_like(half.y_test, NAN if binary else -1))
    assert math.isnan(evaluators.independent_classifier(untested, steps=1, cache=tmp_path, progress=False)[1])


CLASSIFIER = evaluators.ImageClassifier((1, 8, 8), 3)
GP = metrics.LastLayerGP(torch.eye(4), torch.arange(4) % 2, 2, num_inducing=2, steps=0, progress=False)
SET = ImageData("s", ("a", "b", "c"), torch.zeros(4, 1, 8, 8).byte(), UNKNOWN, torch.zeros(4, 1, 8, 8).byte(), UNKNOWN)
Y4 = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.accuracy(P, Y4[:, None]), r"probs, y: got shapes \(4, 3\) and \(4, 1\); .*\(..., N, C\)"),
        (lambda: metrics.accuracy(P, Y4[:3]), r"\(4, 3\) and \(3,\)"),
        (lambda: metrics.accuracy(P[:, 0], Y4), r"\(4,\) and \(4,\)"),
        (lambda: metrics.accuracy(P[:, :1], Y4), r"\(4, 1\) and \(4,\).*C >= 2"),
        (lambda: metrics.accuracy(P * NAN, Y4), r"probs: got NaN in shape \(4, 3\)"),
        (lambda: metrics.accuracy(P, Y4 + 1), r"y: got \[3\] at rows \[2\]"),
        (lambda: metrics.accuracy(P, Y4.double()), "y: got dtype torch.float64"),
        (lambda: metrics.accuracy(P, Y4 > 0), "y: got dtype torch.bool"),
        (lambda: metrics.accuracy("P", Y4), "probs: got str"),
        (lambda: metrics.label_accuracy(ON, BINARY[:, :1]), r"probs, y: got shapes \(4, 2\) and \(4, 1\)"),
        (lambda: metrics.label_accuracy(ON.repeat(2, 1, 1), BINARY), r"\(2, 4, 2\) and \(4, 2\)"),
        (lambda: metrics.label_accuracy(ON - 0.5, BINARY), "probs: got torch.float32 from -0.4"),
        (lambda: metrics.label_accuracy(ON * NAN, BINARY), "probs: got NaN"),
        (lambda: metrics.label_accuracy(ON, BINARY + 1), r"y: got \[2.0"),
        (lambda: metrics.balanced_label_accuracy(ON, BINARY[:3]), r"\(4, 2\) and \(3, 2\)"),
        (lambda: metrics.calibration_error(P * 2, Y4), "probs: got torch.float32 from .* to 1.6"),
        (lambda: metrics.calibration_error(P / 2, Y4), "probs: got sums from 0.5"),
        (lambda: metrics.calibration_error(P.log(), Y4), "probs: got torch.float32 from -2.3"),
        (lambda: metrics.calibration_error(P, Y4[:, None]), r"\(4, 3\) and \(4, 1\)"),
        (lambda: metrics.calibration_error(P[None], Y4), r"\(1, 4, 3\) and \(4,\); expected \(N, C\)"),
        (lambda: metrics.calibration_error((P > 0.5).long(), Y4), "probs: got torch.int64"),
        (lambda: metrics.generation_accuracy(lambda y: P[:3], itself, Y4), r"\(3, 3\) and \(4,\)"),
        (lambda: metrics.log_prob_of_labels(P * NAN, Y4), "logits: got NaN or infinity"),
        (lambda: metrics.log_prob_of_labels(P, Y4[:, None]), r"logits, y: got shapes \(4, 3\) and \(4, 1\)"),
        (lambda: metrics.log_prob_of_labels(ON, BINARY[:1]), r"logits, y: got shapes \(4, 2\) and \(1, 2\)"),
        (lambda: metrics.swap_difference(lambda a, b: a * NAN, itself, P, Y4), "logits: got NaN"),
        (lambda: metrics.swap_difference(lambda a, b: a[:2], itself, P, Y4), r"\(2, 3\) and \(4,\)"),
        (lambda: metrics.swap_difference(itself, itself, P, Y4[:1]), r"\(4, 3\) and \(1,\)"),
        (lambda: metrics.intervention_accuracy(itself, itself, P[:2], Y4, 3), r"x, y: got shapes \(2, 3\) and \(4,\)"),
        (lambda: metrics.intervention_accuracy(itself, itself, P, Y4, 2), r"y: got \[2\]"),
        (lambda: metrics.intervention_accuracy(itself, lambda x: x * 3, P, Y4, 3), "probs: got torch.float32"),
        (lambda: metrics.intervention_accuracy(itself, lambda x: x[:1], P, Y4, 3), r"probs, y: got shapes \(1, 3\)"),
        (lambda: metrics.intervention_pairs(Y4, 1), "num_classes: got 1"),
        (lambda: metrics.intervention_matrix(itself, itself, itself, ON, Y4), r"y: got torch.int64 of shape \(4,\)"),
        (lambda: metrics.intervention_matrix(itself, itself, itself, ON, BINARY[:2]), r"\(4, 2\) and \(2, 2\)"),
        (lambda: metrics.intervention_matrix(itself, itself, lambda x: x[:, :1], ON, BINARY), r"\(4, 1\) and \(4, 2\)"),
        (lambda: metrics.intervention_matrix(itself, itself, lambda x: x / 0, ON, BINARY), "logits: got NaN or inf"),
        (lambda: metrics.selectivity(ON), r"matrix: got shape \(4, 2\); expected \(L, L\)"),
        (lambda: metrics.condition_number(ON[0]), r"matrix: got shape \(2,\)"),
        (lambda: metrics.characteristic_capture(ON, ON, ON, min_rows=1), "min_rows: got 1"),
        (lambda: metrics.characteristic_capture(ON, ON, ON * 2), r"strengths: got \[1.79"),
        (lambda: metrics.characteristic_capture(ON * NAN, ON, ON), "own: got NaN"),
        (lambda: metrics.characteristic_capture(ON, ON[:, 0], ON), r"got shapes \(4, 2\), \(4,\), \(4, 2\)"),
        (lambda: metrics.characteristic_capture(ON, ON, ON[:, :1]), r"got shapes \(4, 2\), \(4, 2\), \(4, 1\)"),
        (lambda: metrics.frechet_distance(P, ON), r"features_a, features_b: got shapes \(4, 3\) and \(4, 2\)"),
        (lambda: metrics.frechet_distance(P * NAN, P), "features_a: got NaN"),
        (lambda: metrics.mutual_information(P[0]), r"probs: got shape \(3,\)"),
        (lambda: metrics.mutual_information(P * 2), "probs: got torch.float32"),
        (lambda: metrics.mutual_information(P * NAN), "probs: got NaN"),
        (lambda: metrics.image_mutual_information(P[:0], itself, GP), "images: got none"),
        (
            lambda: metrics.image_mutual_information(P, itself, GP),
            r"features: got shape \(4, 3\); expected \(B, 4\)",
        ),
        (lambda: GP.sample_probs(torch.eye(4), 0), "num_samples: got 0"),
        (lambda: metrics.LastLayerGP(P, Y4[:3], 3), r"features, y: got shapes \(4, 3\) and \(3,\)"),
        (lambda: metrics.LastLayerGP(P, Y4[:, None], 3), r"y: got shape \(4, 1\)"),
        (lambda: metrics.LastLayerGP(P, UNKNOWN, 3), "y: got 4 rows, 0 with a known label; expected 2 or more"),
        (lambda: metrics.LastLayerGP(P, Y4, None), r"y: got torch.int64 of shape \(4,\)"),
        (lambda: evaluators.ImageClassifier((1, 3, 8), 3), r"x_shape: got \(1, 3, 8\)"),
        (lambda: evaluators.ImageClassifier((1, 8, 8), 0), "num_labels: got 0"),
        (
            lambda: CLASSIFIER.classify(torch.rand(2, 1, 8, 9)),
            r"x: got shape \(2, 1, 8, 9\); expected \(B, 1, 8, 8\)",
        ),
        (lambda: CLASSIFIER.embed(torch.rand(1, 8, 8)), r"x: got shape \(1, 8, 8\)"),
        (lambda: evaluators.independent_classifier(SET), "data.y: got 4 rows, 0 with a known label"),
        (lambda: evaluators.independent_posterior(SET, CLASSIFIER, num_rows=0), "num_rows: got 0"),
        (lambda: evaluators.logistic_regression(SET, iterations=0), "iterations: got 0"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_rounds_is_a_probability():
    assert checks.check_probs("p", torch.tensor([[1.0 + 1e-6, 0.0]])).shape == (1, 2)
    assert metrics.calibration_error(torch.tensor([[1.0 + 1e-6, 0.0]]), torch.tensor([0])) == pytest.approx(0, abs=1e-5)
    with pytest.raises(InputError, match="features: got shape"):
        checks.check_finite("features", torch.rand(3), 2)
    with pytest.raises(InputError, match=r"x: got shapes \(\)"):
        checks.check_rows("x", torch.tensor(1.0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16])
def test_matrices_of_any_type(dtype):
    matrix = torch.tensor([[2, 1], [1, 2]], dtype=dtype)
    assert metrics.selectivity(matrix) == 2 and metrics.condition_number(matrix) == pytest.approx(3)


def test_statistics_of_no_images_are_none():
    assert all(value.shape == (0,) for value in metrics.image_statistics(torch.rand(0, 1, 4, 4)).values())
