"""LaRVAE's objective against a linear-Gaussian model in which log p(x|y) is known; hidden labels; rows in parts."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.testing import assert_close
from training import options, same_weights

from pyro_semivae.conditionals import GaussianLikelihood
from pyro_semivae.errors import InputError
from pyro_semivae.infer import (
    BatchTotalCorrelation,
    FromPrior,
    GeneratedLabelsTerm,
    Hidden,
    ImportanceWeighted,
    Labelled,
    LocalParameters,
    RegressionTerm,
    Step,
    TotalCorrelation,
    TraceLabels_ELBO,
    label_replacement,
)
from pyro_semivae.models import M2, LaRVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes, Real, Vectors
from pyro_semivae.train import fit

X, F, D, S = 4, 2, 3, 0.5
NAN = math.nan


def linear():
    """p(x|y,z) = N(A y + B z + c, S^2), the columns of B at right angles, so that p(z|x,y) is diagonal."""
    torch.manual_seed(0)
    vae = LaRVAE(Vectors(X), Real(F), z=D, networks=MLPs(()), likelihood=partial(GaussianLikelihood, scale=S))
    weight = next(p for p in vae.p_x.parameters() if p.dim() == 2)
    with torch.no_grad():
        weight[:, F:] = torch.linalg.qr(torch.randn(X, X))[0][:, :D] * torch.tensor([0.7, 1.1, 0.4])
    a, b = weight[:, :F], weight[:, F:]
    return vae, a, b, next(p for p in vae.p_x.parameters() if p.dim() == 1)


def log_p_x_given(y, x, a, b, c):
    return MultivariateNormal(y @ a.T + c, b @ b.T + S**2 * torch.eye(X)).log_prob(x)


def guide_is_posterior(vae, a, b, c, y):
    """Makes q(z|x) the posterior p(z|x,y) at one y."""
    precision = 1 + b.square().sum(0) / S**2
    head = vae.q_y_z.net
    weight, bias = (next(p for p in head.parameters() if p.dim() == d) for d in (2, 1))
    mean = slice(2 * F, 2 * F + D)
    with torch.no_grad():
        weight[mean] = (b / S**2 / precision).T
        bias[mean] = -((y @ a.T + c) @ (b / S**2 / precision))
        weight[2 * F + D :] = 0
        bias[2 * F + D :] = torch.log(torch.expm1(precision.rsqrt() - 1e-3))


def evaluate(elbo, vae, x, y, **how):
    torch.manual_seed(3)
    with LocalParameters():
        return elbo.evaluate(Step(vae.model, vae.guide, (x, y), **how))


def replaced(found):
    """The label replacement's part, a bound on log p(x, y), `(B,)`."""
    return sum(v.value for v in found.values if v.name.startswith("labelled: ") and not v.removed)


def log_p_y(y):
    """Of what is known of labels."""
    return Normal(0.0, 1.0).log_prob(y.nan_to_num()).masked_fill(y.isnan(), 0).sum(-1)


def rows(number, y):
    torch.manual_seed(1)
    return torch.randn(number, X), y.expand(number, F).clone()


def test_the_replacement_is_exactly_log_p_x_given_y_where_the_guide_is_the_posterior():
    """Of every sample of z. The paper's minus before the KL would have other values, and so has a wrong y."""
    vae, a, b, c = linear()
    y = torch.tensor([0.7, -1.2])
    guide_is_posterior(vae, a, b, c, y)
    x, of_rows = rows(5, y)
    elbo = label_replacement(TraceLabels_ELBO(max_plate_nesting=2), "y", alpha=0.0)
    found = evaluate(elbo, vae, x, of_rows)
    values = {v.name.removeprefix("labelled: "): v.value for v in found.values if v.name.startswith("labelled: ")}
    kl = -(values["log p(z)"] + values["-log q(z)"])
    exact = log_p_x_given(y, x, a, b, c)
    assert_close(values["log p(x)"] - kl, exact)
    assert (values["log p(x)"] + kl - exact).abs().min() > 0.1
    assert_close(replaced(found), exact + log_p_y(y))
    other = evaluate(elbo, vae, x, of_rows + 1.0)
    assert (replaced(other) - log_p_x_given(y + 1, x, a, b, c) - log_p_y(y + 1)).abs().max() > 0.1


def test_of_partly_labelled_rows_it_is_exactly_the_log_density_of_what_is_known():
    """log p(x, y_1) = log N(x; a_1 y_1 + c, a_2 a_2' + B B' + S^2) + log p(y_1), y_2 drawn from its posterior."""
    vae, a, b, c = linear()
    columns = torch.linalg.qr(torch.randn(X, X))[0] * torch.tensor([0.9, 0.7, 1.1, 0.4])
    y = torch.tensor([0.7, NAN])
    with torch.no_grad():
        a[:, 1], b[:] = columns[:, 0], columns[:, 1:]
    guide_is_posterior(vae, a * torch.tensor([1.0, 0.0]), b, c, y.nan_to_num())
    precision = 1 + a[:, 1].square().sum() / S**2
    weight, bias = (next(p for p in vae.q_y_z.net.parameters() if p.dim() == d) for d in (2, 1))
    with torch.no_grad():
        weight[1], weight[F + 1] = a[:, 1] / S**2 / precision, 0.0
        bias[1] = -((c + a[:, 0] * y[0]) @ a[:, 1]) / S**2 / precision
        bias[F + 1] = torch.log(torch.expm1(precision.rsqrt() - 1e-3))
    x, of_rows = rows(5, y)
    elbo = label_replacement(TraceLabels_ELBO(max_plate_nesting=2), "y", alpha=0.0)
    found = evaluate(elbo, vae, x, of_rows)
    rest = torch.cat([a[:, 1:], b], 1)
    exact = MultivariateNormal(a[:, 0] * y[0] + c, rest @ rest.T + S**2 * torch.eye(X)).log_prob(x)
    assert_close(replaced(found), exact + log_p_y(y))


@pytest.mark.parametrize("replacement", ["guide", "prior"])
def test_the_replacement_is_a_bound_with_the_right_mean_and_gradient(replacement):
    """E_q[log p(x|y,z)] - KL(q || p(z)) in closed form, of any guide; of z from the prior the KL is 0."""
    vae, a, b, c = linear()
    y, number = torch.tensor([0.7, -1.2]), 60_000
    x, of_rows = rows(1, y)
    elbo = label_replacement(TraceLabels_ELBO(max_plate_nesting=2), "y", alpha=0.0, replacement=replacement)
    parameters = [*vae.p_x.parameters(), *vae.q_y_z.parameters()]
    samples = replaced(evaluate(elbo, vae, x.expand(number, X), of_rows.expand(number, F)))
    _, loc, raw = vae.q_y_z.net(x).split([2 * F, D, D], -1)
    q = Normal(loc[0], torch.nn.functional.softplus(raw[0]) + 1e-3)
    p = Normal(torch.zeros(D), torch.ones(D))
    q = p if replacement == "prior" else q
    at_mean = Normal(y @ a.T + c + b @ q.mean, S).log_prob(x[0]).sum()
    exact = log_p_y(y) + at_mean - (b.square() @ q.variance).sum() / (2 * S**2) - kl_divergence(q, p).sum()
    error = samples.std() / number**0.5
    assert abs(samples.mean() - exact) < 5 * error and exact < log_p_x_given(y, x, a, b, c) + log_p_y(y) - 10 * error
    ours, theirs = (
        torch.autograd.grad(of, parameters, allow_unused=True, materialize_grads=True) for of in (samples.mean(), exact)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, atol=0.15, rtol=0.02)
    assert replacement == "guide" or not any(g.any() for g in ours[2:]), "the guide has no part in it"


def test_z_from_the_prior_is_exact_where_x_does_not_need_z():
    vae, a, b, c = linear()
    with torch.no_grad():
        b.zero_()
    x, y = rows(6, torch.tensor([0.3, 0.4]))
    elbo = label_replacement(TraceLabels_ELBO(max_plate_nesting=2), "y", alpha=0.0, replacement="prior")
    assert_close(replaced(evaluate(elbo, vae, x, y)), log_p_x_given(y[0], x, a, b, c) + log_p_y(y))


def test_importance_samples_tighten_the_bound():
    vae, a, b, c = linear()
    y, number = torch.tensor([0.7, -1.2]), 3000
    x, of_rows = rows(1, y)
    x, of_rows = x.expand(number, X), of_rows.expand(number, F)
    means = []
    for samples in (1, 2, 10, 60):
        elbo = label_replacement(TraceLabels_ELBO(max_plate_nesting=2), "y", alpha=0.0, samples=samples)
        means.append(replaced(evaluate(elbo, vae, x, of_rows)).mean().item())
    exact = (log_p_x_given(y, x[:1], a, b, c) + log_p_y(y)).item()
    assert means == sorted(means) and means[0] < exact - 0.2 and means[-1] == pytest.approx(exact, abs=0.05)
    guide_is_posterior(vae, a, b, c, y)
    elbo = label_replacement(TraceLabels_ELBO(max_plate_nesting=2), "y", alpha=0.0, samples=4)
    assert_close(replaced(evaluate(elbo, vae, x, of_rows)), torch.full((number,), exact))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("replacement", ["guide", "prior"])
@pytest.mark.parametrize("tau", [0.0, 3.0])
def test_the_weight_of_the_replacement_is_its_own(samples, replacement, tau):
    """The label loss has alpha, whatever tau is, and is of each row once."""
    vae, *_ = linear()
    x = torch.randn(5, X)
    elbo = label_replacement(
        TraceLabels_ELBO(max_plate_nesting=2),
        "y",
        alpha=7.0,
        tau=tau,
        generated=5.0,
        samples=samples,
        replacement=replacement,
    )
    found = {v.name: v for v in evaluate(elbo, vae, x, Y).values if not v.removed}
    error = found.pop("labelled: -|y_o - E[y|.]|^2")
    mean = vae.q_y_z.net(x)[:, :F]
    assert_close(error.summed(), -7.0 * torch.where(Y.isnan(), 0.0, Y - mean).square().sum(1))
    assert found.pop("labelled: -|y' - E[y|x~]|^2").weight == 5.0
    weights = {value.weight for name, value in found.items() if name.startswith("labelled: ")}
    assert weights == {tau}
    with torch.no_grad():
        alone = label_replacement(TraceLabels_ELBO(max_plate_nesting=2), "y", alpha=7.0, tau=0.0)
    of_guide = {v.name: v for v in evaluate(alone, vae, x, Y).values if not v.removed}
    assert_close(of_guide["labelled: -|y_o - E[y|.]|^2"].summed(), error.summed())


def test_samples_are_of_their_row():
    """Rows and samples are told apart: one sample of each of several rows is the plain bound."""
    vae, a, b, c = linear()
    x, y = torch.randn(5, X), torch.randn(5, F)
    bound = TraceLabels_ELBO(max_plate_nesting=2)
    one = evaluate(ImportanceWeighted(bound, 1), vae, x, y).values[0]
    assert one.name == "log of the mean of 1"
    assert_close(one.value, sum(v.value for v in evaluate(bound, vae, x, y).values))
    guide_is_posterior(vae, a, b, c, torch.zeros(F))
    y = 0.2 * torch.randn(5, F)
    wide = evaluate(ImportanceWeighted(bound, 4000), vae, x, y).values[0].value
    exact = log_p_x_given(y, x, a, b, c) + log_p_y(y)
    assert_close(wide, exact, atol=0.05, rtol=0)


Y = torch.tensor([[0.3, NAN], [NAN, NAN], [1.0, -0.4], [NAN, NAN], [NAN, 0.9]])


def test_without_the_replacement_it_is_the_baseline():
    """tau 0: the unsupervised bound, which sees no label, and the squared error of the known entries; to the bit."""
    vae, *_ = linear()
    x, decoded = torch.randn(5, X), []
    elbo = vae.elbo(tau=0.0, alpha=7.0)
    vae.p_x.net.register_forward_hook(lambda *given: decoded.append(1))
    found = evaluate(elbo, vae, x, Y)
    assert decoded == [1], "labelled rows are not decoded again"
    alone = evaluate(TraceLabels_ELBO(max_plate_nesting=2), vae, x, None)
    mean = vae.q_y_z.net(x)[:, :F]
    by_hand = alone.total() - 7.0 * torch.where(Y.isnan(), 0.0, Y - mean).square().sum()
    assert_close(found.total(), by_hand)
    gradients = [torch.autograd.grad(of, [*vae.parameters()], retain_graph=True) for of in (found.total(), by_hand)]
    assert_close(*gradients)
    unsupervised = {v.name: v.value for v in found.values if not v.name.startswith("labelled: ")}
    assert_close(unsupervised, {v.name: v.value for v in alone.values})
    assert all(v.in_elbo != v.name.startswith("labelled: ") for v in found.values)
    other = evaluate(elbo, vae, x, Y + 5.0)
    assert_close(unsupervised, {v.name: v.value for v in other.values if v.name in unsupervised})


def test_partly_labelled_rows_have_what_is_known_and_others_nothing():
    vae, *_ = linear()
    x = torch.randn(5, X)
    found = {v.name: v.value for v in evaluate(vae.elbo(alpha=2.0), vae, x, Y).values}
    known = ~Y.isnan().all(1)
    supervised = [name for name in found if name.startswith("labelled: ")]
    for name in supervised:
        assert torch.equal(found[name] != 0, known) or name == "labelled: -log q(y_m)"
    assert torch.equal(found["labelled: -log q(y_m)"] != 0, torch.tensor([True, False, False, False, True]))
    mean = vae.q_y_z.net(x)[:, :F]
    assert_close(found["labelled: -|y_o - E[y|.]|^2"], -torch.where(Y.isnan(), 0.0, Y - mean).square().sum(1))
    density = evaluate(vae.elbo(density=True), vae, x, Y)
    (log_q,) = (v.value for v in density.values if v.name == "labelled: log q(y_o)")
    scale = torch.nn.functional.softplus(vae.q_y_z.net(x)[:, F : 2 * F]) + 1e-3
    by_hand = Normal(mean, scale).log_prob(Y.nan_to_num()).masked_fill(Y.isnan(), 0).sum(1)
    assert_close(log_q, by_hand)


def test_labels_of_what_the_model_generates():
    """y' has known values, each entry on its own; the error is that of the image's mean; the guide alone learns."""
    vae, *_ = linear()
    x, y = torch.randn(400, X), torch.full((400, F), NAN)
    y[:20, 0], y[10:30, 1] = torch.arange(20.0), 100 + torch.arange(20.0)
    seen = []
    vae.q_y_z.net.register_forward_hook(lambda net, inputs, out: seen.append((inputs[0], out)))
    vae.p_x.net.register_forward_hook(lambda net, inputs, out: seen.append((inputs, out)))
    bound = TraceLabels_ELBO(max_plate_nesting=2)
    found = evaluate(bound + GeneratedLabelsTerm(), vae, x, y)
    (value,) = (v.value for v in found.values if v.name == "-|y' - E[y|x~]|^2")
    ((drawn, z), made), (given, told) = seen[-2:]
    drawn = drawn.reshape(400, F)
    assert {*drawn[:, 0].tolist()} <= {*range(20)} and {*drawn[:, 1].tolist()} <= {*range(100, 120)}
    assert len(drawn[:, 0].unique()) > 15 and abs(torch.corrcoef(drawn.T)[0, 1]) < 0.2
    assert z.shape[-1] == D and abs(z.mean()) < 0.15 and abs(z.std() - 1) < 0.1
    assert_close(given.reshape(400, X), made.reshape(400, X))
    assert_close(value, -(told.reshape(400, -1)[:, :F] - drawn).square().sum(1))
    gradients = torch.autograd.grad(value.sum(), [*vae.parameters()], allow_unused=True, materialize_grads=True)
    learns = {name for (name, _), g in zip(vae.named_parameters(), gradients, strict=True) if g.any()}
    assert learns and all(name.startswith("q_y_z") for name in learns)
    y[:, 1] = NAN
    unknown = evaluate(bound + GeneratedLabelsTerm(), vae, x, y)
    assert not next(v.value for v in unknown.values if v.name == "-|y' - E[y|x~]|^2").any(), "no value to take"


def test_labels_of_generated_data_of_classes_are_probabilities():
    torch.manual_seed(0)
    vae = M2((1, 4, 7), Classes(5), z=D, networks=MLPs((11,)))
    x, y = torch.rand(50, 1, 4, 7), torch.tensor([3, 1, -1, 3, -1] * 10)
    seen = []
    vae.q_y.net.register_forward_hook(lambda net, inputs, out: seen.append(out))
    found = evaluate(vae.elbo() + GeneratedLabelsTerm("y"), vae, x, y)
    (value,) = (v.value for v in found.values if v.name == "log q(y'|x~)")
    log_q = seen[-1].log_softmax(-1)
    of = (log_q - value.unsqueeze(1)).abs().argmin(1)
    assert_close(log_q.gather(1, of.unsqueeze(1))[:, 0], value)
    assert {*of.tolist()} == {1, 3}


def test_of_a_step_that_says_which_rows_are_labelled_each_part_is_run_alone():
    vae, *_ = linear()
    x, y = torch.randn(7, X), torch.cat([Y[[0, 2, 4]], torch.full((4, F), NAN)])
    seen = []
    vae.q_y_z.net.register_forward_hook(lambda net, inputs, out: seen.append(inputs[0].reshape(-1, X)))
    base = vae.base("tc", 4.0, 50)
    found = evaluate(vae.elbo(base=base, also_labelled=False), vae, x, y, labelled=3)
    assert len(seen) == 2 and torch.equal(seen[0], x[3:]) and torch.equal(seen[1], x[:3])
    alone = evaluate(base, vae, x[3:], None)
    for value in alone.values:
        (ours,) = (v for v in found.values if v.name == value.name)
        assert_close(ours.value, torch.cat([torch.zeros(3), value.value]))
        assert ours.weight == value.weight
    known = [v.value for v in found.values if v.name.startswith("labelled: ")]
    assert known and not any(value[3:].any() for value in known) and all(len(value) == 7 for value in known)
    whole = evaluate(vae.elbo(base=base), vae, x, y, labelled=3)
    assert next(v.value for v in whole.values if v.name == "log p(x)").all(), "or labelled rows have both parts"
    every = evaluate(vae.elbo(base=base, also_labelled=False), vae, x[:3], y[:3], labelled=3)
    assert next(v.value for v in every.values if v.name == "log p(x)").all(), "where there are no others"
    scale = torch.tensor([5.0] * 3 + [1.0] * 4)
    scaled = evaluate(vae.elbo(base=base, also_labelled=False), vae, x, y, labelled=3, scale=scale)
    parts = [v.summed() for v in found.values if not v.removed]
    assert_close(scaled.total(), sum((part * scale).sum() for part in parts))


def test_total_correlation_is_of_labels_and_nuisance_together():
    vae, *_ = linear()
    x = torch.randn(6, X)
    found = evaluate(TraceLabels_ELBO(max_plate_nesting=2) + BatchTotalCorrelation(6, "y", "z"), vae, x, None)
    (value,) = (v.value for v in found.values if v.name == "-TC(y,z)")
    torch.manual_seed(3)
    out = vae.q_y_z.net(x)
    mean, scale = (
        torch.cat(parts, 1)
        for parts in ((out[:, :F], out[:, 2 * F : 2 * F + D]), (out[:, F : 2 * F], out[:, 2 * F + D :]))
    )
    q = Normal(mean, torch.nn.functional.softplus(scale) + 1e-3)
    run = Step(vae.model, vae.guide, (x, None))
    torch.manual_seed(3)
    with LocalParameters():
        made = run.run(2)
    code = torch.cat([made.value("y"), made.value("z")], 1)
    log_q = torch.stack([q.log_prob(code[i]) for i in range(6)])  # of z_i given x_j, (i, j, d)
    log_w = -math.log(36)
    joint = (log_q.sum(2) + log_w).logsumexp(1)
    each = (log_q + log_w).logsumexp(1).sum(1)
    assert_close(value, each - joint)


@pytest.mark.parametrize("kind", ["beta", "tc", "factor"])
def test_each_base_trains_and_resumes_bit_identically(kind, tmp_path):
    x, y = torch.randn(60, X), torch.full((60, F), NAN)
    y[:12] = torch.randn(12, F)
    y[0, 1] = NAN

    def trained(epochs, **how):
        vae, *_ = linear()
        base = vae.base(kind, 3.0, 60)
        elbo = vae.elbo(base=base, alpha=20.0, tau=2.0, generated=3.0, replacement="prior", also_labelled=False)
        how = {**options(batch_size=16, epochs=epochs), "also_unlabelled": True, **how}
        fit(vae, x, y, elbo=elbo, **how)
        return vae, elbo

    whole, elbo = trained(4)
    assert [*elbo.modules()] == (["TC(y,z)"] if kind == "factor" else [])
    trained(2, checkpoint=tmp_path / "c.pt")
    resumed, _ = trained(4, checkpoint=tmp_path / "c.pt", resume=True)
    assert same_weights(resumed, whole) and not same_weights(linear()[0], whole)


def test_bad_input():
    vae, *_ = linear()
    bound = TraceLabels_ELBO(max_plate_nesting=2)
    x = torch.randn(5, X)
    for call, message in (
        (lambda: label_replacement(bound), r"labels: got \(\) and the classes"),
        (lambda: label_replacement(bound, "y", replacement="posterior"), "replacement: got 'posterior'"),
        (lambda: label_replacement(bound, "y", tau=-1.0), "tau: got -1.0"),
        (lambda: label_replacement(bound, "y", samples=0), "samples: got 0"),
        (lambda: label_replacement(RegressionTerm() + Hidden(bound, "y"), "y") and 1 / 0, "division|expected"),
        (lambda: Labelled(bound), "Labelled: got no label"),
        (lambda: evaluate(Labelled(bound, "w"), vae, x, Y), r"Labelled: got \['w'\]; expected x, y"),
        (lambda: evaluate(FromPrior(bound, "w"), vae, x, Y), r"FromPrior: got \['w'\], of the sites y, z, x; expected"),
        (lambda: evaluate(bound + RegressionTerm("w"), vae, x, Y), r"RegressionTerm: got \['w'\]; expected .* y"),
        (lambda: evaluate(bound + GeneratedLabelsTerm("w"), vae, x, Y), r"GeneratedLabelsTerm: got \['w'\]"),
        (lambda: vae.base("alpha", 1.0, 5), "kind: got 'alpha'"),
        (lambda: LaRVAE(Vectors(3), Classes(3)), r"labels: got Classes\(num_classes=3\); expected Real"),
        (
            lambda: evaluate(ImportanceWeighted(bound + TotalCorrelation("z"), 2), vae, x, Y) and 1 / 0,
            "division|of the batch",
        ),
    ):
        with pytest.raises((InputError, ZeroDivisionError), match=message):
            call()


def test_weights_of_pixels_and_of_the_bases():
    vae, *_ = linear()
    x = torch.randn(5, X)
    found = {v.name: v.weight for v in evaluate(vae.elbo(pixels=4.0, tau=3.0), vae, x, Y).values}
    assert (found["log p(x)"], found["labelled: log p(x)"], found["log p(y)"]) == (4.0, 12.0, 1.0)
    assert vae.base("beta", 3.0, 9).beta == 3.0
    for kind, weight in (("tc", 2.0), ("factor", 3.0)):
        bound, term = vae.base(kind, 3.0, 9).parts()
        assert bound.what.beta == 1.0 and term.weights == (weight,) and term.what.latents == ("y", "z")
    labelled = vae.elbo_for(Y).parts()[1].what.what.parts()
    assert [part.weights for part in labelled] == [(5 / 3,), (100 * (5 / 3),)], "of means: N / N_labelled"


def test_terms_of_other_views_are_weighted_and_taken_out_by_their_names():
    vae, *_ = linear()
    x = torch.randn(5, X)
    elbo = vae.elbo(tau=3.0, alpha=5.0).weighted({"labelled: log p(x|y,z)": 2.0, "log p(y)": 0.5})
    elbo = 0.5 * elbo.without("labelled: log p(z)")
    found = {v.name: v for v in evaluate(elbo, vae, x, Y).values}
    assert found["labelled: log p(x)"].weight == 3.0 and found["log p(x)"].weight == 0.5
    assert found["log p(y)"].weight == 0.25 and found["labelled: -|y_o - E[y|.]|^2"].weight == 2.5
    assert found["labelled: log p(z)"].removed and not found["log p(z)"].removed
    with pytest.raises(InputError, match="terms: got the name 'labelled: log p"):
        evaluate(elbo.without("labelled: log p(w)"), vae, x, Y)


class Reading(LaRVAE):
    """A guide q(z|x) q(y|x,z)."""

    def guide(self, x=None, y=None):
        with self.rows(x, y) as (x, y):
            q_y, q_z = self.q_y_z(x)
            z = pyro.sample("z", q_z)
            with self.entries("y"):
                pyro.sample("y", dist.Normal(q_y.mean + z[..., 0], 1.0), obs=y)


def test_a_label_loss_is_not_at_latents_from_the_prior():
    vae = Reading((1, 2, 3), Real(2), z=1, networks=MLPs((4,)))
    x, y = torch.rand(4, 1, 2, 3), torch.randn(4, 2)
    for weights in ({}, {"alpha": 0.0, "generated": 1.0}):
        with pytest.raises(InputError, match=r"\['y'\] depend on \['z'\]"):
            vae.elbo(replacement="prior", **weights).terms(vae.model, vae.guide, x, y)
    assert vae.elbo(replacement="prior", alpha=0.0).terms(vae.model, vae.guide, x, y)  # a bound all the same
    assert vae.elbo(replacement="guide").terms(vae.model, vae.guide, x, y)
    with pytest.raises(InputError, match="latents: got none"):
        vae.elbo(replacement="prior", latents=())
    with pytest.raises(InputError, match="weight: got -1"):
        vae.base("factor", -1, 4)
