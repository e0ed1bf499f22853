"""Assignments of a label's values to classes, and what is measured under them."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

from pyro_semivae.data import ImageData
from pyro_semivae.metrics import assign, calibration_error, distinct_classes, extraction, logistic_regression

# Values 2, 3, 4 are free. Greedily 3 -> 2 (.9) goes first, which leaves 2 -> 3 (.2) and 4 -> 4 (.1); the optimum gives
# class 2 to value 2, which has nothing else.
SCORES = torch.tensor(
    [
        [0.9, 0.1, 0.0, 0.0, 0.0],
        [0.2, 0.8, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.8, 0.2, 0.0],
        [0.0, 0.0, 0.9, 0.06, 0.04],
        [0.3, 0.0, 0.5, 0.1, 0.1],
    ]
)


def test_greedy_and_optimal_assignments():
    assert assign(SCORES, 2, "greedy") == [0, 1, 3, 2, 4]
    logs = {(2, 3, 4): 0.8 * 0.06 * 0.1, (3, 2, 4): 0.2 * 0.9 * 0.1, (2, 4, 3): 0.8 * 0.04 * 0.1}
    best = max(logs, key=logs.get)
    assert assign(SCORES, 2, "optimal") == [0, 1, *best]
    other = SCORES.clone()
    other[2, 3] = 1e-9
    assert assign(other, 2, "greedy") == [0, 1, 4, 2, 3] and assign(other, 2, "optimal") == [0, 1, 2, 3, 4]
    assert assign(torch.zeros(5, 5), 2, "optimal")[:2] == [0, 1]
    with pytest.raises(ValueError, match="how: got 'best'; accepted are"):
        assign(SCORES, 2, "best")


def test_extraction_by_hand():
    y = torch.tensor([0, 2, 3, 4, 1, 2])
    log_probs = torch.randn(6, 5).log_softmax(1)
    found = extraction(log_probs, y, SCORES, 2)
    value_of = {2: 3, 3: 2, 4: 4}  # class -> value
    rows = [1, 2, 3, 5]
    expected = -sum(log_probs[r, value_of[int(y[r])]] for r in rows) / 4
    assert found.assigned == [0, 1, 3, 2, 4] and found.cross_entropy == pytest.approx(expected.item())
    assert found.accuracy == sum(int(log_probs[r].argmax()) == value_of[int(y[r])] for r in rows) / 4
    certain = torch.full((6, 5), -math.inf)
    certain[torch.arange(6), torch.tensor([0, 3, 2, 4, 1, 3])] = 0.0
    assert_close(extraction(certain, y, SCORES, 2).cross_entropy, 0.0)
    assert extraction(certain, y, SCORES, 2).accuracy == 1.0


def test_the_calibration_error_by_hand():
    confidence = torch.tensor([0.95, 0.92, 0.75, 0.55, 0.58])
    probs = torch.stack([confidence, 1 - confidence], 1)
    y = torch.tensor([0, 1, 0, 0, 1])
    by_bin = [abs((0.95 - 1) + 0.92), abs(0.75 - 1), abs((0.55 - 1) + 0.58)]  # (.9, 1], (.7, .8], (.5, .6]
    assert calibration_error(probs, y, bins=10) == pytest.approx(sum(by_bin) / 5)
    assert calibration_error(probs, y, bins=1) == pytest.approx(abs(confidence.sum().item() - 3) / 5)
    assert calibration_error(torch.eye(4), torch.arange(4)) == 0.0
    with pytest.raises(ValueError, match="bins: got 0"):
        calibration_error(probs, y, bins=0)
    with pytest.raises(ValueError, match="probs, y: got 5 and 4 rows"):
        calibration_error(probs, y[:4])


def test_distinct_classes():
    assert distinct_classes(SCORES) == 3 and distinct_classes(torch.eye(7)) == 7


@pytest.mark.parametrize("present", [(0, 1, 2), (0, 2)])
def test_the_logistic_regression_is_sklearns_and_cached(tmp_path, present):
    y = torch.tensor(present).repeat(20)
    x = torch.randint(0, 100, (len(y), 1, 4, 7), dtype=torch.uint8)
    x[torch.arange(len(y)), 0, y, y] += 50
    data = ImageData("made", ("a", "b", "c"), x, y, x, y)
    judge, accuracy = logistic_regression(data, cache=tmp_path)
    probs = judge(x)
    pixels = x.flatten(1).numpy() / 255
    reference = LogisticRegression(max_iter=200).fit(pixels, y.numpy())
    assert_close(probs[:, list(present)].double(), torch.tensor(reference.predict_proba(pixels)), atol=1e-4, rtol=0)
    assert_close(probs.sum(1), torch.ones(len(x)))
    assert accuracy == pytest.approx(reference.score(pixels, y.numpy()))
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    assert_close(logistic_regression(data, cache=tmp_path)[0](x), probs)
    assert file.stat().st_mtime_ns == written


def test_an_assignment_that_is_not_its_own_inverse():
    """Value 2 stands for class 3, 3 for 4, 4 for 2: images of class 2 are right at value 4."""
    scores = torch.eye(5)[[0, 1, 3, 4, 2]]
    y = torch.tensor([2, 3, 4])
    log_probs = torch.full((3, 5), -5.0)
    log_probs[torch.arange(3), torch.tensor([4, 2, 3])] = -0.1
    for how in ("greedy", "optimal"):
        found = extraction(log_probs, y, scores, 2, how)
        assert found.assigned == [0, 1, 3, 4, 2] and found.accuracy == 1.0
        assert found.cross_entropy == pytest.approx(0.1)
