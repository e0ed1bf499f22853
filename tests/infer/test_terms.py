"""Each term by hand, on models whose bounds have nothing of it."""

import math

import pyro.distributions as dist
import pytest
import torch
from cases import CASES
from chain import FIRST, SECOND, Chain, X
from terms import C, D, Given, Keeps, Ones, Y, evaluate, make
from torch.nn import functional as F
from torch.testing import assert_close

from pyro_semivae.errors import InputError
from pyro_semivae.infer import (
    BalanceTerm,
    ClassifierTerm,
    ConsistencyTerm,
    EntropyTerm,
    LocalParameters,
    NearestLabelTerm,
    Step,
    TotalCorrelation,
    TraceLabels_ELBO,
)
from pyro_semivae.models import CCVAE, DIVA, M2, M3, VAE
from pyro_semivae.spaces import MISSING, is_missing
from pyro_semivae.train import fit


def classifier_at(vae, run):
    """log q(y|.) at the bound's own sample, `(B, C)`."""
    if isinstance(vae, M2):
        return vae.q_y.net(run.model.nodes["x"]["value"]).log_softmax(-1)
    return vae.q_y.net(run.value("z_c")).log_softmax(-1)


@pytest.mark.parametrize("model", [M2, M3, DIVA, CCVAE])
def test_entropy_and_balance_by_hand(model):
    vae, x = make(model)
    keeps, bound = Keeps(), vae.elbo().bound
    elbo = bound + EntropyTerm() + (BalanceTerm() if model is not M3 else Ones()) + keeps
    terms = evaluate(elbo, vae, x, Y).contributions()
    log_q, missing = classifier_at(vae, keeps.run), Y == MISSING
    entropy = torch.where(missing, (log_q.exp() * log_q).sum(-1), 0.0)
    assert_close(terms["-H(q(y_m))"], entropy)
    parameters = [*vae.q_y.parameters()]
    ours = torch.autograd.grad(terms["-H(q(y_m))"].sum(), parameters, retain_graph=True)
    assert_close(ours, torch.autograd.grad(entropy.sum(), parameters, retain_graph=True))
    if model is M3:
        with pytest.raises(InputError, match="BalanceTerm: label 'y' is not in the model"):
            evaluate(bound + BalanceTerm(), vae, x, Y)
        return
    mean = log_q.exp()[missing].mean(0)
    by_hand = -(mean * (mean.log() - vae.p_y.logits.log_softmax(-1))).sum()
    assert_close(terms["-KL(q(y_m) || p(y))"], by_hand)
    ours = torch.autograd.grad(terms["-KL(q(y_m) || p(y))"], parameters)
    assert_close(ours, torch.autograd.grad(by_hand, parameters))


@pytest.mark.parametrize("model", [M3, DIVA])
def test_consistency_by_hand(model):
    """r(y) is the mean of q(y|z) over K samples of the second run, and has no gradient."""
    vae, x = make(model)
    keeps, K = Keeps(), 6
    elbo = vae.elbo().bound + keeps + ConsistencyTerm(K)
    found = evaluate(elbo, vae, x, Y)
    torch.manual_seed(3)
    with LocalParameters():
        vae.elbo().bound.evaluate(Step(vae.model, vae.guide, (x, Y)))  # what is sampled before it
        loc, scale = vae.q_z.net(x).chunk(2, -1)
    scale = F.softplus(scale) + 1e-3
    z = loc[:, :2] + scale[:, :2] * torch.randn(K, len(Y), 2)
    r = vae.q_y.net(z).log_softmax(-1).exp().mean(0).detach()
    log_q = classifier_at(vae, keeps.run)
    by_hand = -torch.where(Y == MISSING, (r * (r.log() - log_q)).sum(-1), 0.0)
    term = found.contributions()["-KL(r(y_m) || q(y_m))"]
    assert_close(term, by_hand)
    parameters = [*vae.parameters()]
    ours = torch.autograd.grad(term.sum(), parameters, allow_unused=True, materialize_grads=True, retain_graph=True)
    assert_close(ours, torch.autograd.grad(by_hand.sum(), parameters, allow_unused=True, materialize_grads=True))


def test_the_classifiers_term_of_single_labels():
    vae, x = make()
    for term, message in (
        (ClassifierTerm("w"), r"ClassifierTerm: got \['w'\]; expected labels: y"),
        (NearestLabelTerm(), "NearestLabelTerm: no latent of the model depends on 'y'"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(vae.elbo() + term, vae, x, Y)
    plain, x = make(VAE)
    with pytest.raises(InputError, match="expected labels: those of the guide, which has none"):
        evaluate(plain.elbo() + ClassifierTerm("y"), plain, x, Y)
    none = evaluate(vae.elbo(), vae, x, torch.full_like(Y, MISSING)).contributions()
    assert not none["log q(y_o)"].any()
    assert (vae.elbo() + ClassifierTerm()).needs_labels and not TraceLabels_ELBO().needs_labels


@pytest.mark.parametrize("name", ["m2", "m3", "diva", "ccvae-exact", "m3-binary", "binary-jensen", "diva-binary"])
def test_terms_are_usable_with_any_model(name):
    """Together, by `fit`, with labels missing, and with every gradient finite."""
    case = next(case for case in CASES if case.name == name)
    vae, elbo = case.make()
    x, y = case.batch()
    added = elbo + 2.0 * EntropyTerm() + 3.0 * ConsistencyTerm()
    if isinstance(vae, M2):
        with pytest.raises(InputError, match=r"latent 'z' has a value for each value of \['y'\] where that is missing"):
            fit(vae, x, y, elbo=elbo + TotalCorrelation(hidden=(4,)), epochs=1, batch_size=4, progress=False)
        vae, elbo = case.make()
    else:
        added = added + TotalCorrelation(hidden=(4,))
    if not isinstance(vae, M3):
        added = added + BalanceTerm()
    history = fit(vae, x, y, elbo=added, epochs=1, batch_size=4, progress=False, ema_decay=0.0)
    assert all(math.isfinite(value) for value in history[0].values())
    record = {key.removeprefix("term/"): value for key, value in history[0].items() if key.startswith("term/")}
    assert record["-H(q(y_m))"] < 0 and (record["-KL(r(y_m) || q(y_m))"] < 0) != isinstance(vae, M2), (
        "M2's q(y|x) is the same again"
    )
    assert not is_missing(y).all()


@pytest.mark.parametrize(
    "term", [ClassifierTerm(), EntropyTerm(), ConsistencyTerm(), BalanceTerm()], ids=lambda term: type(term).__name__
)
def test_a_term_about_labels_says_if_there_are_none(term):
    vae, x = make(VAE)
    with pytest.raises(InputError, match=r"(the guide has no|labels: the guide has no discrete)"):
        evaluate(vae.elbo() + term, vae, x, Y)


def test_balance_is_of_labels_without_parents():
    class Apart(Chain):
        def b_given(self, x, a):
            return dist.Categorical(logits=x @ self.q_b[0])

    for chain, where in ((Apart(), "in the model"), (Chain(), "in the guide")):
        with pytest.raises(InputError, match=f"label 'b' depends on .*{where}"):
            (TraceLabels_ELBO() + BalanceTerm()).weighted_terms(chain.model, chain.guide, X, FIRST, SECOND)
    terms = (TraceLabels_ELBO() + EntropyTerm()).weighted_terms(chain.model, Apart().guide, X, FIRST, SECOND)
    assert (terms["-H(q(y_m))"][(FIRST == MISSING) | (SECOND == MISSING)] < 0).all()


def test_a_latent_below_a_missing_label_has_a_mean_and_no_one_sample():
    vae, x = make()
    with pytest.raises(InputError, match=r"latent 'z' has a value for each value of \['y'\] .*run.mean\('z', ..\)"):
        evaluate(vae.elbo() + Given(lambda run: run.value("z").sum(-1)), vae, x, Y)
    keeps = Keeps()
    found = evaluate(vae.elbo() + keeps + Given(lambda run: run.mean("z", lambda z: z.square().sum(-1))), vae, x, Y)
    z, q = keeps.run.model.nodes["z"]["value"].reshape(C, len(Y), D), vae.q_y.net(x).softmax(-1)
    weights = torch.where((Y == MISSING)[:, None], q, F.one_hot(Y.clamp(min=0), C).to(q))
    by_hand = (weights.T * z.square().sum(-1)).sum(0)
    assert_close(found.contributions()["given"], by_hand)
    parameters = [*vae.q_y.parameters(), *vae.q_z.parameters()]
    both = (found.contributions()["given"], by_hand)
    ours, theirs = (torch.autograd.grad(v.sum(), parameters, retain_graph=True) for v in both)
    assert_close(ours, theirs)
    with pytest.raises(InputError, match="latent: got 'w'; expected z"):
        keeps.run.value("w")
