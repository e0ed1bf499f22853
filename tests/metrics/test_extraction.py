"""Assignments of a label's values to classes, and what is measured under them."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

from pyro_semivae.data import ImageData
from pyro_semivae.errors import InputError
from pyro_semivae.evaluators import logistic_regression
from pyro_semivae.metrics import assign, calibration_error, distinct_classes, extraction

# Values 2, 3, 4 are free, and the arg max of each is 2. That tie is 3's (.9), which leaves 2 -> 3 (.2) and 4 -> 4 (.1);
# the optimum gives class 2 to value 2, which has nothing else.
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
    with pytest.raises(ValueError, match="how: got 'best'; expected"):
        assign(SCORES, 2, "best")


def test_a_unique_arg_max_over_all_classes_is_kept_and_only_ties_are_split():
    """Gemp et al. 2017, Section 3."""
    # The arg max of value 1 is class 0, which is known: it gets what is left, though its .45 is the largest free entry.
    scores = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.45, 0.05], [0.3, 0.4, 0.3]])
    assert assign(scores, 1) == assign(scores, 1, "greedy") == [0, 2, 1]
    assert assign(scores, 1, "pairwise") == [0, 1, 2]
    # Classes 0 and 1 are known. Value 4 alone has 3; 2 and 5 tie for 2, which is 5's, though 3, whose arg max is a
    # known one, has more of it (.45); 2 and 3 have 4 and 5 left, where 2 -> 5 (.3) is the most probable pair.
    scores = torch.tensor(
        [
            [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.4, 0.2, 0.1, 0.3],
            [0.5, 0.0, 0.45, 0.03, 0.01, 0.01],
            [0.1, 0.1, 0.1, 0.26, 0.24, 0.2],
            [0.0, 0.0, 0.41, 0.4, 0.19, 0.0],
        ]
    )
    assert assign(scores, 2) == [0, 1, 5, 4, 3, 2]
    assert assign(scores, 2, "pairwise") == [0, 1, 5, 2, 4, 3]
    assert assign(scores, 0)[:2] == [0, 1] and assign(scores, 6) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("seed", range(20))
def test_assignments_are_permutations_that_keep_every_unique_arg_max(seed):
    torch.manual_seed(seed)
    scores = torch.randn(7, 7).mul(2).softmax(1)
    likely = scores.argmax(1)
    for how in ("greedy", "pairwise", "optimal"):
        found = assign(scores, 3, how)
        assert sorted(found) == list(range(7)) and found[:3] == [0, 1, 2]
        for value in range(3, 7) if how == "greedy" else ():
            rivals = [r for r in range(3, 7) if likely[r] == likely[value]]
            if likely[value] >= 3 and all(scores[value, likely[value]] >= scores[r, likely[value]] for r in rivals):
                assert found[value] == likely[value]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: assign(SCORES[:, :4], 2), r"scores: got shape \(5, 4\); expected \(C, C\)"),
        (lambda: assign(SCORES[0], 2), r"scores: got shape \(5,\)"),
        (lambda: assign(SCORES - 0.1, 2), "scores: got .* from -0.1"),
        (lambda: assign(SCORES * math.nan, 2), "scores: got NaN"),
        (lambda: assign(SCORES, 6), "num_known: got 6; expected 0 to 5"),
        (lambda: assign(SCORES, -1), "num_known: got -1"),
        (lambda: distinct_classes(SCORES[0]), r"scores: got shape \(5,\)"),
        (lambda: extraction(torch.zeros(2, 5), torch.tensor([2, 3]), SCORES, 2), r"log_probs.exp\(\): got sums from 5"),
        (lambda: extraction(torch.zeros(2, 5) - math.log(5), torch.tensor([[2], [3]]), SCORES, 2), r"\(2, 1\)"),
        (lambda: extraction(torch.zeros(2, 5) - math.log(5), torch.tensor([2, 5]), SCORES, 2), r"y: got \[5\]"),
        (
            lambda: extraction(torch.zeros(2, 4) - math.log(4), torch.tensor([2, 3]), SCORES, 2),
            "log_probs, scores: got",
        ),
    ],
)
def test_bad_scores_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_extraction_leaves_missing_labels_out():
    log_probs = torch.randn(6, 5).log_softmax(1)
    y, some = torch.tensor([0, 2, 3, 4, 1, 2]), torch.tensor([0, -1, 3, -1, 1, 2])
    found, known = extraction(log_probs, some, SCORES, 2), extraction(log_probs[[2, 5]], y[[2, 5]], SCORES, 2)
    assert found == known
    for how in (0, 2):  # also where no class is known, and -1 is not below it
        nothing = extraction(log_probs, torch.full((6,), -1), SCORES, how)
        assert math.isnan(nothing.accuracy) and math.isnan(nothing.cross_entropy)
        assert math.isnan(nothing.calibration_error)


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
    with pytest.raises(ValueError, match=r"probs, y: got shapes \(5, 2\) and \(4,\)"):
        calibration_error(probs, y[:4])
    some = torch.tensor([0, -1, 0, -1, 1])
    assert calibration_error(probs, some) == calibration_error(probs[[0, 2, 4]], y[[0, 2, 4]]) > 0
    assert math.isnan(calibration_error(probs, torch.full((5,), -1)))


def test_distinct_classes():
    assert distinct_classes(SCORES) == 3 and distinct_classes(torch.eye(7)) == 7


@pytest.mark.parametrize("present", [(0, 1, 2), (0, 2)])
def test_the_logistic_regression_is_sklearns_and_cached(tmp_path, present):
    y = torch.tensor(present).repeat(20)
    x = torch.randint(0, 100, (len(y), 1, 4, 7), dtype=torch.uint8)
    x[torch.arange(len(y)), 0, y, y] += 50
    data = ImageData("made", ("a", "b", "c"), x, y, x, y)
    evaluator, accuracy = logistic_regression(data, cache=tmp_path)
    probs = evaluator(x)
    pixels = x.flatten(1).numpy() / 255
    reference = LogisticRegression(max_iter=200).fit(pixels, y.numpy())
    assert_close(probs[:, list(present)].double(), torch.tensor(reference.predict_proba(pixels)), atol=1e-4, rtol=0)
    assert_close(probs.sum(1), torch.ones(len(x)))
    assert accuracy == pytest.approx(reference.score(pixels, y.numpy()))
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    assert_close(logistic_regression(data, cache=tmp_path)[0](x), probs)
    assert file.stat().st_mtime_ns == written


def test_the_logistic_regression_leaves_missing_labels_out(tmp_path):
    y = torch.tensor([0, 1, 2, -1]).repeat(20)
    x = torch.randint(0, 100, (len(y), 1, 4, 7), dtype=torch.uint8)
    x[torch.arange(len(y)), 0, y, y] += 50
    known = y >= 0
    some, all_known = (ImageData("made", ("a", "b", "c"), x[r], y[r], x[r], y[r]) for r in (slice(None), known))
    (evaluator, accuracy), (other, same) = (logistic_regression(data, cache=tmp_path) for data in (some, all_known))
    assert_close(evaluator(x), other(x))
    assert accuracy == same > 0.9
    for wrong in (torch.zeros(80).long(), torch.full((80,), -1), (y[:, None] == torch.arange(3)).float()):
        with pytest.raises(InputError, match=r"known label; expected 1 or more|expected two or more known classes"):
            logistic_regression(ImageData("made", ("a", "b", "c"), x, wrong, x, wrong), cache=tmp_path)


def test_an_assignment_that_is_not_its_own_inverse():
    """Value 2 stands for class 3, 3 for 4, 4 for 2: images of class 2 are right at value 4."""
    scores = torch.eye(5)[[0, 1, 3, 4, 2]]
    y = torch.tensor([2, 3, 4])
    log_probs = torch.full((3, 5), math.log((1 - math.exp(-0.1)) / 4))
    log_probs[torch.arange(3), torch.tensor([4, 2, 3])] = -0.1
    for how in ("greedy", "optimal"):
        found = extraction(log_probs, y, scores, 2, how)
        assert found.assigned == [0, 1, 3, 4, 2] and found.accuracy == 1.0
        assert found.cross_entropy == pytest.approx(0.1)
