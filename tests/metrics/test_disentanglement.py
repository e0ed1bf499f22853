"""Measures of disentanglement where the right answer is known: perfect, random, rotated, doubled codes; small tables by
hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pyro_semivae.data.grids import ROOM, SPRITES
from pyro_semivae.errors import InputError
from pyro_semivae.metrics import disentanglement as d
from pyro_semivae.metrics.disentanglement.score import Groups, binned, halves

ALL = {
    "mig": d.mutual_information_gap,
    "factor": lambda r, v: d.factor_vae_score(r, v, votes=2000, votes_test=1000),
    "beta": lambda r, v: d.beta_vae_score(r, v, points=1000, points_test=1000),
    "sap": d.separated_predictability,
    "correlation": lambda r, v: d.separated_predictability(r, v, kind="continuous"),
    "dci": lambda r, v: d.dci(r, v, trees="forest", number=10),
    "boosted": lambda r, v: d.dci(r, v, number=5),
    "modularity": d.modularity,
    "explicitness": d.explicitness,
    "irs": d.robustness,
}


def factors(sizes=(4, 3, 5), number=3000):
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(size, (number,), generator=generator) for size in sizes], 1)


@pytest.mark.parametrize("name", ALL)
def test_a_perfect_code_is_perfect_in_any_order_sign_and_scale(name):
    v = factors()
    code = v[:, [2, 0, 1]].double() * torch.tensor([-2.0, 0.5, 30.0]) + 7
    # A line of one dimension separates the ends of a factor from the rest, and not what lies between.
    least = {"sap": 0.4, "correlation": 0.995, "mig": 0.99, "beta": 0.99, "boosted": 0.99}.get(name, 0.999)
    assert least <= float(ALL[name](code, v)) <= 1 + 1e-9


@pytest.mark.parametrize(
    ("name", "most"),
    [("mig", 0.01), ("factor", 0.45), ("beta", 0.45), ("sap", 0.05), ("correlation", 0.01), ("dci", 0.02)],
)
def test_a_random_code_has_chance(name, most):
    v = factors()
    assert float(ALL[name](torch.randn(len(v), 3), v)) < most


def test_a_code_that_tells_nothing_has_chance_and_less_robustness():
    v = factors()
    code = torch.randn(len(v), 3)
    assert abs(float(d.explicitness(code, v)) - 0.5) < 0.03
    assert float(d.robustness(code, v)) < 0.5
    nothing = torch.zeros(len(v), 3)
    assert float(d.robustness(nothing, v)) == 0 and float(d.modularity(nothing, v)) == 0
    assert float(d.factor_vae_score(nothing, v)) == 0


def test_a_doubled_code_has_no_gap_and_is_as_good_otherwise():
    v = factors()
    twice = torch.cat([v, v], 1).double()
    assert float(d.mutual_information_gap(twice, v)) == 0 and float(d.separated_predictability(twice, v)) == 0
    for name in ("factor", "modularity", "irs"):
        assert float(ALL[name](twice, v)) == pytest.approx(1.0, abs=1e-4)


def test_a_rotated_code_is_worse():
    v = factors()
    centred = v.double() - v.double().mean(0)
    rotated = centred @ torch.linalg.qr(torch.randn(3, 3))[0]
    for name in ("mig", "factor", "sap", "dci", "modularity", "irs"):
        assert float(ALL[name](rotated, v)) < float(ALL[name](centred, v)) - 0.05, name
    assert float(d.explicitness(rotated, v)) > 0.9


@pytest.mark.parametrize(("grid", "expected"), [(SPRITES, 0.896), (ROOM, 0.996)])
def test_twenty_bins_are_too_few_for_the_grids_perfect_codes(grid, expected):
    classes = grid.sample(10_000, torch.Generator().manual_seed(1))
    code = torch.cat([grid.values(classes), torch.randn(10_000, 5)], 1)
    assert float(d.mutual_information_gap(code, classes)) == pytest.approx(expected, abs=0.003)
    assert float(d.mutual_information_gap(code, classes, bins=40)) > 0.985


def test_the_gap_by_hand():
    """Two binary factors, one dimension that tells the first, one that tells it in three of four rows."""
    v = torch.cartesian_prod(torch.arange(2), torch.arange(2)).repeat(2, 1)
    half = v[:, 0].clone()
    half[:2] = 1 - half[:2]  # rows (0, 0) and (0, 1), once
    score = d.mutual_information_gap(torch.stack([v[:, 0], half], 1).double(), v, bins=2)
    # half: of v0 = 0 two of four are 0, of v0 = 1 none: p(half=0) = 1/4.
    entropy, given = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), 0.5 * math.log(2)
    assert score.parts["information"] == pytest.approx(np.array([[math.log(2), 0], [entropy - given, 0]]), abs=1e-12)
    assert score.parts["entropy"] == pytest.approx([math.log(2)] * 2)
    assert float(score) == pytest.approx((math.log(2) - (entropy - given)) / math.log(2) / 2)
    assert score.protocol == {"bins": 2, "rows": 8}


def test_bins_are_of_equal_width():
    assert binned(np.array([[0.0], [0.49], [0.5], [0.99], [1.0]]), 2)[:, 0].tolist() == [1, 1, 2, 2, 2]


def test_rows_alike_have_the_value_and_are_all_reached():
    v = factors((3, 2), 50).numpy()
    rows = np.arange(50)
    drawn = Groups(v).like(rows, 0, 400, np.random.default_rng(0))
    assert (v[drawn, 0] == v[rows, 0][:, None]).all()
    for row in rows[:5]:
        assert {*drawn[row]} == {*(v[:, 0] == v[row, 0]).nonzero()[0]}


def test_the_dimension_that_stays_votes_for_the_factor():
    """Of factors 0 and 1; dimension 2 is noise, and no dimension is of factor 2: it is guessed."""
    v = factors((6, 6, 6), 20_000)
    code = torch.stack([v[:, 0].double(), 5 * v[:, 1].double(), torch.randn(len(v))], 1)
    score = d.factor_vae_score(code, v)
    votes = score.parts["votes"]
    assert (votes[0] > 0).tolist() == [True, False, False] and (votes[1] > 0).tolist() == [False, True, False]
    assert votes.sum() == 10_000 and 0.6 < float(score) <= 1
    code[:, 1] *= 1e-4
    assert d.factor_vae_score(code, v).protocol["active"] == 2, "a dimension of no deviation has no vote"


def test_a_share_of_the_variance_and_not_the_variance_votes():
    v = factors((6, 6), 20_000)
    noise = torch.randn(2, len(v))
    code = torch.stack([1000 * v[:, 0].double() + 30 * noise[0], v[:, 1].double() + 10 * noise[1]], 1)
    assert d.factor_vae_score(code, v).parts["votes"][0].tolist()[1] == 0


def test_what_is_learned_from_is_not_what_is_judged_by():
    """Of noise, few votes, points and rows to learn from are told without error, and all others are guessed."""
    v = factors((2, 2), 3000)
    noise = torch.randn(len(v), 30)
    assert float(d.factor_vae_score(noise, v, votes=1, votes_test=1000)) < 0.7
    assert float(d.beta_vae_score(100 * noise, v, points=10, points_test=1000, batch=1)) < 0.7
    scores = d.separated_predictability(noise, v, rows=8, rows_test=1000).parts["scores"]
    assert scores.mean() < 0.6
    assert d.dci(noise, v, trees="forest", number=5, rows=10, rows_test=1000).parts["informativeness"] < 0.7
    few = d.explicitness(noise, v, rows=20, rows_test=1000)
    assert float(few) < 0.7


def test_predictability_by_correlations():
    v = factors((3, 3), 4000)
    code = torch.stack([v[:, 0] + 0.5 * torch.randn(len(v)), v[:, 1].double()], 1)
    score = d.separated_predictability(code, v, kind="continuous", rows=4000, rows_test=2)
    squared = np.corrcoef(torch.cat([code, v], 1).T.numpy())[:2, 2:] ** 2
    assert score.parts["scores"] == pytest.approx(squared, abs=2e-3)
    assert float(score) == pytest.approx(np.abs(score.parts["scores"][0] - score.parts["scores"][1]).mean())


def test_a_dimension_that_is_not_used_does_not_count():
    v = factors((3, 4), 3000)
    code = torch.cat([v, torch.zeros(len(v), 3)], 1)
    assert float(d.dci(code, v, trees="forest", number=5)) > 0.99


def test_completeness_is_disentanglement_the_other_way_round():
    """One dimension for both of two binary factors, the other for none: complete, and disentangled by 0."""
    v = factors((2, 2), 4000)
    both = (2 * v[:, 0] + v[:, 1]).double()
    score = d.dci(torch.stack([both, torch.randn(len(v))], 1), v, number=5)
    assert float(score) < 0.05 and score.parts["completeness"] > 0.95 and score.parts["informativeness"] == 1


def test_modularity_by_hand():
    v = factors((2, 2), 4000)
    score = d.modularity((2 * v[:, 0] + v[:, 1]).double().unsqueeze(1), v)
    information = score.parts["information"][0]
    assert information == pytest.approx([math.log(2)] * 2, abs=1e-3)
    assert float(score) == pytest.approx(1 - (information.min() / information.max()) ** 2)


def test_explicitness_is_the_area_under_the_curve():
    v = factors((2,), 3000)
    code = v.double() + torch.randn(len(v), 1)
    score = d.explicitness(code, v)
    assert float(score) == pytest.approx(roc_auc_score(v[:, 0], code[:, 0]), abs=0.02)


def test_robustness_by_hand():
    """Dimension 0 is the factor with a wobble of .5 of its greatest distance; all of the quantile 1."""
    v = torch.tensor([[0], [0], [1], [1]]).repeat(1, 2)
    v[:, 1] = torch.tensor([0, 1, 0, 1])
    code = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
    score = d.robustness(code, v, quantile=1.0)
    assert score.parts["scores"][0] == pytest.approx([1 - 0.5 / 2, 1 - 1.5 / 2]) and float(score) == 0.75
    both = torch.cat([code, 0.1 * torch.tensor([[1.0], [-1.0], [-1.0], [1.0]])], 1)
    score = d.robustness(both, v, quantile=1.0)
    assert score.parts["scores"][1] == pytest.approx([0.0, 0.0])
    assert float(score) == pytest.approx((2 * 0.75 + 0.1 * 0.0) / 2.1), "by how far a dimension goes"


def test_the_distance_leaves_out_what_it_is_told():
    inferred, true = torch.zeros(3, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])
    score = d.label_distance(inferred, true, without=[1])
    assert float(score) == 1.0 and score.parts["rmse"] == pytest.approx([3**0.5, (17 / 3) ** 0.5])
    assert float(d.label_distance(inferred, true)) == 2.0


def test_seeds_and_small_sets():
    v = factors()
    noisy = v + torch.randn(v.shape)
    assert float(d.factor_vae_score(noisy, v, seed=1)) == float(d.factor_vae_score(noisy, v, seed=1))
    assert float(d.mutual_information_gap(noisy, v, rows=500, seed=1)) != float(
        d.mutual_information_gap(noisy, v, rows=500, seed=2)
    )
    assert d.separated_predictability(noisy, v).protocol["rows"] == 2000
    fitted, judged = halves(10_000, 5_000, v.numpy(), 0)
    assert len(fitted) == 2000 and len(judged) == 1000 and not {*fitted} & {*judged}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: d.mutual_information_gap(v[:, :1].double(), v), "representation: got 1 dimensions; expected 2"),
        (lambda v: d.mutual_information_gap(v.double(), v.double()), "factors: got torch.float64 from 0; expected"),
        (lambda v: d.mutual_information_gap(v.double()[1:], v), "representation, factors: got shapes"),
        (lambda v: d.robustness(v.double() * math.nan, v), "representation: got NaN"),
        (lambda v: d.dci(v.double(), v, rows=-5), "rows: got -5"),
        (lambda v: d.separated_predictability(v.double(), v, rows_test=0), "rows_test: got 0"),
        (lambda v: d.explicitness(v.double(), v, rows=2.5), "rows: got 2.5"),
        (lambda v: d.label_distance(v.double(), v.double(), without=0), "without: got 0"),
        (lambda v: d.dci(v.double(), v * torch.tensor([1, 0, 1])), r"one value only in the columns \[1\]"),
        (lambda v: d.dci(v.double(), v, trees="oak"), "trees: got 'oak'"),
        (lambda v: d.modularity(v.double(), v[:, :1]), "factors: got one; expected two or more"),
        (lambda v: d.mutual_information_gap(v.double(), v, bins=1), "bins: got 1"),
        (lambda v: d.explicitness(v.double(), torch.arange(len(v)).unsqueeze(1)), "factors: got 3000 rows, in which"),
        (lambda v: d.separated_predictability(v.double()[:2], torch.tensor([[0], [1]])), "parts of 1 and 1 out of"),
        (
            lambda v: d.separated_predictability(
                v.double(), (torch.arange(len(v)) == 4).long().unsqueeze(1), rows=2, rows_test=9
            ),
            r"factors: got one value only in 2 rows to fit on, in the columns \[0\]",
        ),
        (lambda v: d.label_distance(v.double(), v.double(), without=[0, 1, 2]), r"without: got \[0, 1, 2\]"),
        (lambda v: d.label_distance(v.double(), v.double(), without=[7]), r"without: got \[7\]"),
        (lambda v: d.label_distance(v.double(), v.double()[:, :2]), "inferred, values: got shapes"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call(factors())


def test_scores_depend_on_neither_scale_nor_numbers_nor_types():
    """Of a code, of a factor's classes, and of what they are stored as."""
    v = factors()
    code = v.double() + torch.randn(v.shape)
    sap = float(d.separated_predictability(code, v, kind="continuous"))
    assert float(d.separated_predictability(1e-9 * code, v, kind="continuous")) == pytest.approx(sap, rel=1e-9)
    one, renamed = v.clone(), v.clone()
    renamed[v == 2] = 1_000_000_007
    for metric in (d.robustness, d.factor_vae_score, d.beta_vae_score):
        assert float(metric(code, renamed)) == float(metric(code, one))
    assert float(d.mutual_information_gap(code.requires_grad_(), v.numpy().astype("uint16"))) == float(
        d.mutual_information_gap(code.detach(), v)
    )
