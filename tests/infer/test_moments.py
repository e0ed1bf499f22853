"""Total correlation from a batch's densities, and DIP-VAE's moments, by loops and by quadrature."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.testing import assert_close

from pyro_semivae.errors import InputError
from pyro_semivae.infer import BatchTotalCorrelation, DIPTerm, LocalParameters, Step, TotalCorrelation, TraceLabels_ELBO
from pyro_semivae.models import CCVAE, VAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Binary, Classes

B, D = 5, 2


class Points(nn.Module):
    """q(z | x) = N(x, exp(s_x)), p(x | z) = N(z, 1): the aggregate posterior is a mixture that can be written down."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.scale = nn.Parameter(0.3 * torch.randn(B, D))

    def model(self, x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, (self.scale - 1).exp()).to_event(1))


X = torch.tensor([[0.0, 0.1], [1.0, 0.8], [-1.0, -1.2], [0.5, 0.4], [-0.3, 0.2]], dtype=torch.float64)


def evaluated(term, seed=0):
    points = Points()
    torch.manual_seed(seed)
    step = Step(points.model, points.guide, (X,))
    with LocalParameters():
        found = (TraceLabels_ELBO() + term).evaluate(step)
    run = next(run for run in step._runs.values() if hasattr(run, "guide"))
    return points, {value.name: value.value for value in found.values}, run.value("z")


@pytest.mark.parametrize("sampling", ["weighted", "stratified", "uniform"])
def test_total_correlation_equals_loops(sampling):
    """Chen et al., Eq. 5 and Appendix C; values and gradients, N = 13."""
    n = 13
    points, values, z = evaluated(BatchTotalCorrelation(n, sampling=sampling))
    densities = [[dist.Normal(X[j], (points.scale[j] - 1).exp()).log_prob(z[i]) for j in range(B)] for i in range(B)]
    expected = []
    for i in range(B):
        weights = [1 / (n * B)] * B
        if sampling == "stratified":
            weights = [1 / (B - 1)] * B
            weights[(i + 1) % B] = (n - B + 1) / (n * (B - 1))
            weights[i] = 1 / n
        if sampling == "uniform":
            weights = [1 / n if i == j else (n - 1) / (n * (B - 1)) for j in range(B)]
        if sampling != "weighted":
            assert sum(weights) == pytest.approx(1)
        joint = sum(w * densities[i][j].sum().exp() for j, w in enumerate(weights)).log()
        each = sum(sum(w * densities[i][j][d].exp() for j, w in enumerate(weights)).log() for d in range(D))
        expected.append(each - joint)
    expected = torch.stack(expected)
    assert_close(values["-TC(z)"], expected)
    gradients = [
        torch.autograd.grad(part.sum(), points.scale, retain_graph=True)[0] for part in (values["-TC(z)"], expected)
    ]
    assert_close(*gradients)
    assert gradients[0].any()


def test_of_all_rows_it_is_the_total_correlation_of_the_mixture():
    """N = M: the mean over samples is the integral, by a grid, within 5 standard errors."""
    points = Points()
    grid = torch.linspace(-7, 7, 701, dtype=torch.float64)
    a, b = torch.meshgrid(grid, grid, indexing="ij")
    scale = (points.scale.detach() - 1).exp()
    first, second = (dist.Normal(X[:, d, None], scale[:, d, None]).log_prob(grid).exp() for d in range(D))
    joint = torch.einsum("ja,jb->ab", first, second) / B
    product = first.mean(0)[:, None] * second.mean(0)[None]
    cell = (grid[1] - grid[0]) ** 2
    exact = (joint * (joint / product).log().nan_to_num()).sum() * cell
    assert a.shape == b.shape == joint.shape and (joint.sum() * cell).item() == pytest.approx(1, abs=1e-6)
    drawn = torch.cat(
        [evaluated(BatchTotalCorrelation(B, sampling="uniform"), seed)[1]["-TC(z)"].detach() for seed in range(800)]
    )
    assert abs(-drawn.mean() - exact) < 5 * drawn.std() / math.sqrt(len(drawn))
    assert exact > 0.1


@pytest.mark.parametrize(("kind", "ratio"), [("I", None), ("II", None), ("II", 3.0)])
def test_dip_by_hand(kind, ratio):
    """Kumar et al., Eqs. 6 and 7; gradients too."""
    points, values, _ = evaluated(DIPTerm(kind, ratio=ratio))
    variance = (points.scale - 1).exp().square().mean(0)
    covariance = torch.cov(X.T, correction=0) + (torch.diag(variance) if kind == "II" else 0)
    r = {"I": 10.0, "II": 1.0}[kind] if ratio is None else ratio
    expected = 0.0
    for i in range(D):
        for j in range(D):
            expected = expected - (r * (covariance[i, i] - 1) ** 2 if i == j else covariance[i, j] ** 2)
    assert_close(values[f"-DIP-{kind}(z)"], expected)
    if kind == "II":
        gradients = [
            torch.autograd.grad(part, points.scale, retain_graph=True)[0] for part in (values["-DIP-II(z)"], expected)
        ]
        assert_close(*gradients)


def test_several_latents_and_entries_of_labels():
    """z_c in a plate of entries is refused, for it is no vector; named latents alone are fine."""
    torch.manual_seed(0)
    vae, x = CCVAE((1, 4, 7), Binary(3), z_s=4, networks=MLPs((6,))), torch.rand(5, 1, 4, 7)
    y = torch.tensor([[1.0, 0, 1]] * 5)
    terms = (vae.elbo() + BatchTotalCorrelation(9, "z_s") + DIPTerm("I", "z_s")).terms(vae.model, vae.guide, x, y)
    assert terms["-TC(z_s)"].shape == (5,) and not terms["-DIP-I(z_s)"].dim()
    classes = CCVAE((1, 4, 7), Classes(3), z_c=2, z_s=4, networks=MLPs((6,)))
    elbo = classes.elbo() + BatchTotalCorrelation(9) + DIPTerm("II")
    terms = elbo.terms(classes.model, classes.guide, x, torch.tensor([0, 1, 2, -1, -1]))
    assert terms["-TC(z_c,z_s)"].shape == (5,)


def test_what_is_wrong_is_said():
    vae, x = VAE((1, 4, 7), Classes(2), z=3, networks=MLPs((6,))), torch.rand(1, 1, 4, 7)
    for term, message in (
        (BatchTotalCorrelation(9), "a batch of 1 rows; expected two up to num_rows=9"),
        (DIPTerm(), "a batch of one row"),
        (BatchTotalCorrelation(9, "w"), r"got \['w'\]; expected latents, z"),
        (DIPTerm("I", "w"), r"got \['w'\]; expected latents, z"),
    ):
        with pytest.raises(InputError, match=message):
            (vae.elbo() + term).terms(vae.model, vae.guide, x)
    with pytest.raises(InputError, match="num_rows: got 1"):
        BatchTotalCorrelation(1)
    with pytest.raises(InputError, match="kind: got 'III'"):
        DIPTerm("III")


def test_rows_that_are_masked_do_not_count():
    """`poutine.mask`: rows have terms of 0; moments are those of the rows that are left."""
    torch.manual_seed(0)
    vae, x = VAE((1, 4, 7), Classes(2), z=3, networks=MLPs((6,))), torch.rand(5, 1, 4, 7)
    keep = torch.tensor([True, False, True, True, False])
    critic = TotalCorrelation(hidden=(4,))
    functions = [poutine.mask(fn, mask=keep) for fn in (vae.model, vae.guide)]

    def terms(elbo, *functions, x=x):
        torch.manual_seed(1)
        with LocalParameters():
            return {value.name: value.value for value in elbo.evaluate(Step(*functions, (x,))).values}

    masked = terms(vae.elbo() + DIPTerm("II"), *functions)
    left = terms(vae.elbo() + DIPTerm("II"), vae.model, vae.guide, x=x[keep])
    assert_close(masked["-DIP-II(z)"], left["-DIP-II(z)"])
    for term in (BatchTotalCorrelation(9), critic):
        plain, masked = terms(vae.elbo() + term, vae.model, vae.guide), terms(vae.elbo() + term, *functions)
        assert plain["-TC(z)"].all() and torch.equal(masked["-TC(z)"], torch.where(keep, plain["-TC(z)"], 0.0))
