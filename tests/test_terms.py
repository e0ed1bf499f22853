"""Sums of terms: one run, weights, names, schedules, parts of a batch; and each term by hand on other models."""

import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from cases import CASES
from test_joint_sums import FIRST, SECOND, Chain, X
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from training import rows as data_rows

from pyro_semivae.errors import InputError
from pyro_semivae.infer import (
    BalanceTerm,
    Bound,
    ClassifierTerm,
    ConsistencyTerm,
    EntropyTerm,
    Evaluation,
    Hidden,
    LocalParameters,
    NearestLabelTerm,
    Step,
    Term,
    TotalCorrelation,
    TraceLabels_ELBO,
    Value,
    WarmUp,
)
from pyro_semivae.models import CCVAE, DIVA, M2, M3, VAE
from pyro_semivae.nn import MLPs
from pyro_semivae.settings import described
from pyro_semivae.spaces import MISSING, Classes, is_missing
from pyro_semivae.train import fit

SHAPE, C, D = (1, 4, 7), 5, 3
Y = torch.tensor([2, MISSING, 0, 4, MISSING, 1, 2])


def make(model=M2, **sizes):
    torch.manual_seed(0)
    sizes = sizes or ({"z": D} if model in (M2, VAE) else {"z_c": 2, "z_s": 4})
    return model(SHAPE, Classes(C), networks=MLPs((11,)), **sizes), torch.rand(len(Y), *SHAPE)


def evaluate(elbo, vae, x, y, **how):
    torch.manual_seed(3)
    with LocalParameters():
        return elbo.evaluate(Step(vae.model, vae.guide, (x, y), **how))


class Ones(Term):
    """One per row, under a name."""

    def __init__(self, name="ones", value=1.0):
        self.name, self.value = name, value

    def values(self, run):
        return {self.name: torch.full((run.model.nodes["x"]["value"].shape[0],), self.value)}


# Sums


@pytest.mark.parametrize("model", [M2, M3, DIVA, CCVAE])
def test_guide_and_model_run_once_for_all_terms(model):
    """And once more for each pattern of evidence."""
    vae, x = make(model)
    runs = []
    vae.p_x.register_forward_hook(lambda *_: runs.append("model"))
    vae.q_z.register_forward_hook(lambda *_: runs.append("guide"))
    elbo = vae.elbo() + ClassifierTerm() + 2.0 * EntropyTerm()
    evaluate(elbo, vae, x, Y)
    assert sorted(runs) == ["guide", "model"]
    runs.clear()
    hidden = Hidden(vae.elbo().bound, "y")
    evaluate(elbo + hidden, vae, x, Y)
    assert sorted(runs) == ["guide", "guide", "model", "model"]


def test_two_bounds_that_run_alike_share_the_run():
    vae, x = make(VAE)
    runs = []
    vae.q_z.register_forward_hook(lambda *_: runs.append("guide"))

    class Entropy(Bound):
        def values(self, run):
            return [Value("-log q(z) again", -run.first_log_q("z"))]

    found = evaluate(vae.elbo() + 0.5 * Entropy(), vae, x, None)
    assert runs == ["guide"]
    values = {v.name: v for v in found.values}
    assert_close(values["-log q(z) again"].value, values["-log q(z)"].value)
    assert values["-log q(z) again"].weight == 0.5 and not values["-log q(z) again"].in_elbo


def test_weights_multiply_and_add_up_and_values_stay():
    vae, x = make()
    bound = vae.elbo(classifier_weight=0.0)
    plain = evaluate(bound, vae, x, Y)
    elbo = 0.5 * (bound + 3.0 * ClassifierTerm("y")) - 2 * Ones() + -Ones("more")
    found = evaluate(elbo, vae, x, Y)
    values, weights = ({v.name: getattr(v, of) for v in found.values} for of in ("value", "weight"))
    for value in plain.values:
        assert_close(values[value.name], value.value)
        assert weights[value.name] == 0.5
    assert weights["log q(y_o)"] == 1.5 and weights["ones"] == -2 and weights["more"] == -1
    log_q = vae.q_y.net(x).log_softmax(-1)
    by_hand = torch.where(Y == MISSING, 0.0, log_q[torch.arange(len(Y)), Y])
    assert_close(values["log q(y_o)"], by_hand)
    expected = 0.5 * sum(v.summed() for v in plain.values) + 1.5 * by_hand - 3
    assert_close(sum(found.contributions().values()), expected)
    assert_close(found.total(), expected.sum())
    assert {v.name for v in found.values if v.in_elbo} == {v.name for v in plain.values}


def test_the_scale_is_that_of_rows_and_not_of_the_batchs_terms():
    vae, x = make()
    scale = torch.arange(1.0, 8.0)
    elbo = vae.elbo() + 2.0 * BalanceTerm() + Ones()
    one, scaled = (evaluate(elbo, vae, x, Y, scale=s) for s in (1.0, scale))
    by_row = sum(v.summed() for v in one.values if v.by_row)
    (balance,) = [v for v in one.values if not v.by_row]
    assert balance.value.dim() == 0 and balance.weight == 2.0
    assert_close(scaled.total(), (by_row * scale).sum() + 2.0 * balance.value)


def test_a_term_that_the_bound_has_already_gets_both_weights():
    vae, x = make(CCVAE)
    found = evaluate(vae.elbo() + 9.0 * ClassifierTerm("y"), vae, x, Y)
    (value,) = [v for v in found.values if v.name == "log q(y_o|x)"]
    assert value.weight == 10 and value.in_elbo
    gone = evaluate(vae.elbo().without("log q(y_o|x)") + 9.0 * ClassifierTerm("y"), vae, x, Y)
    (value,) = [v for v in gone.values if v.name == "log q(y_o|x)"]
    assert value.weight == 9 and not value.removed
    again = evaluate(vae.elbo().replaced("log q(y_o)", 4.0 * ClassifierTerm()), vae, x, Y)
    assert [v.weight for v in again.values if v.name == "log q(y_o|x)"] == [4]
    with pytest.raises(InputError, match=r"two different ones named 'log p\(z\|everything\)'"):
        m2, x = make()
        evaluate(m2.elbo() + Ones("log p(z|everything)"), m2, x, Y)


def test_terms_are_taken_out_and_weighted_by_name():
    vae, x = make()
    elbo = vae.elbo()
    whole, less = (e.weighted_terms for e in (elbo, elbo.without("log p(y)", "-log q(z|x,y)")))
    torch.manual_seed(1)
    whole = whole(vae.model, vae.guide, x, Y)
    torch.manual_seed(1)
    less = less(vae.model, vae.guide, x, Y)
    assert {*whole} - {*less} == {"log p(y)", "-log q(z|x,y)"}
    assert all(torch.equal(whole[name], less[name]) for name in less)
    double = evaluate(elbo.weighted({"log p(x|anything)": 2.0}).weighted({"log p(x)": 3.0}), vae, x, Y)
    assert {v.name: v.weight for v in double.values}["log p(x)"] == 6
    for other in (elbo.without("log p(w)"), elbo.weighted({"log q(z)": 2.0})):
        with pytest.raises(InputError, match=r"terms: got the name .*; accepted are 'log p\(x\)', 'log p\(z\)'"):
            evaluate(other, vae, x, Y)
    for weight in (math.nan, "a", True):
        with pytest.raises(InputError, match="accepted is a finite number"):
            elbo.weighted({"log p(x)": weight})
    removed = evaluate(elbo.without("log p(x)"), vae, x, Y)
    assert_close(-removed.total(), -sum(removed.contributions().values()).sum())


def test_what_is_no_objective_is_refused():
    vae, x = make()
    for parts in (ClassifierTerm() + EntropyTerm(), 2.0 * Ones()):
        with pytest.raises(InputError, match=r"accepted is a sum with a bound"):
            evaluate(parts, vae, x, Y)
    for bad in ("a", None, torch.ones(2)):
        with pytest.raises(TypeError):
            bad * Ones()
    with pytest.raises(TypeError):
        vae.elbo() + 3.0
    with pytest.raises(InputError, match="weight: got nan"):
        math.nan * Ones()


def test_weights_may_be_schedules():
    vae, x = make()
    elbo = vae.elbo() + WarmUp(0.5, 8.0) * Ones() + (lambda done: done**2) * Ones("square")
    for done, (one, square) in {0.0: (0, 0), 0.25: (4, 0.0625), 0.5: (8, 0.25), 1.0: (8, 1)}.items():
        weights = {v.name: v.weight for v in evaluate(elbo, vae, x, Y, done=done).values}
        assert (weights["ones"], weights["square"]) == (one, square)
    assert WarmUp(0.5, WarmUp(1.0, 2.0))(0.25) == 0.25
    for until in (0.0, 1.5, math.nan):
        with pytest.raises(InputError, match="until: got"):
            WarmUp(until)


def test_fit_follows_schedules_and_reports_unweighted_terms():
    x, y, _ = data_rows()
    vae, seen = make(M2, z=2)[0], []

    def rising(done):
        seen.append(done)
        return 3 * done

    elbo = vae.elbo(classifier_weight=5.0) + rising * Ones()
    how = {"epochs": 2, "batch_size": 8, "labelled_batch_size": 5, "progress": False, "warm_up": 0.0, "corrupt": None}
    history = fit(vae, x, y, elbo=elbo, **how)
    steps = len(seen)
    assert_close(seen, [i / steps for i in range(steps)])
    for epoch, record in enumerate(history):
        assert record["term/ones"] == pytest.approx(1.0), "scales sum to one"
        assert record["weight/ones"] == pytest.approx(3 * (steps // 2 * (epoch + 1) - 1) / steps)
        assert record["weight/log q(y_o|x)"] == 5 and "weight/log p(z)" not in record
        in_bound = [
            v for k, v in record.items() if k.startswith("term/") and k not in ("term/ones", "term/log q(y_o|x)")
        ]
        assert record["elbo"] == pytest.approx(sum(in_bound))
    mean = sum(seen[: steps // 2]) / (steps // 2) * 3
    first = history[0]
    assert first["objective"] == pytest.approx(first["elbo"] + 5 * first["term/log q(y_o|x)"] + mean, rel=1e-9)


def test_two_parts_of_a_step_that_share_a_name_add_up():
    """Rows with data and labels alone; the one does not overwrite the other in the history."""

    class Alone(TraceLabels_ELBO):
        def values(self, run):
            return [Value("log p(x)", torch.full((4,), -7.0), in_elbo=False)]

        def runs(self, step):
            return [step.hiding(()).run(1)] if not step.without_data else [_nothing(step)]

        def scale(self, run):
            return 1.0

    def _nothing(step):
        from pyro_semivae.infer import Roles, Run

        return Run(None, None, Roles((), (), ()), {}, step=step, in_reverse=True)

    Alone.scores_labels_alone = True
    x, y, _ = data_rows()
    vae = make(VAE, z=2)[0]
    elbo = vae.elbo() + Alone()
    how = {"epochs": 1, "batch_size": 4, "labelled_batch_size": 5, "progress": False, "lr": 1e-30, "average": 0.0}
    with_alone = fit(vae, x, y, elbo=elbo, labels_alone=torch.arange(5).repeat(6), **how)[0]
    without = fit(vae, x, y, elbo=vae.elbo(), **how)[0]
    assert with_alone["term/log p(x|z)"] == pytest.approx(without["term/log p(x|z)"] - 7.0 * 30 / 60)
    assert with_alone["objective"] == pytest.approx(without["objective"] - 7.0 * 30 / 60)


@pytest.mark.parametrize("labels", ["sum", "score"])
def test_hidden_labels_are_missing_labels(labels):
    """Values and every gradient, the score function's too."""
    vae, x = make()
    elbo, own = vae.elbo(labels=labels, classifier_weight=0.0), vae.elbo(labels=labels, classifier_weight=0.0)
    both = evaluate(0.0 * elbo + 0.7 * Hidden(own.bound, "y"), vae, x, Y)
    names = {v.name.removeprefix("without y: ") for v in both.values if v.name.startswith("without y: ")}
    with LocalParameters():
        torch.manual_seed(3)
        step = Step(vae.model, vae.guide, (x, Y))
        elbo.bound.runs(step)  # what comes before it
        alone = own.evaluate(Step(vae.model, vae.guide, (x, None)))
    assert names == {v.name for v in alone.values}
    parameters = [*vae.parameters()]
    ours = torch.autograd.grad(both.total(), parameters, allow_unused=True, materialize_grads=True)
    theirs = torch.autograd.grad(0.7 * alone.total(), parameters, allow_unused=True, materialize_grads=True)
    assert_close(both.total(), 0.7 * alone.total())
    assert_close(ours, theirs)
    assert not any(v.in_elbo for v in both.values if v.name.startswith("without"))
    for wrong, message in (((vae.elbo(), "y"), "accepted are a bound"), ((own.bound,), "names of one label or more")):
        with pytest.raises(InputError, match=message):
            Hidden(*wrong)
    with pytest.raises(InputError, match=r"Hidden: got \['w'\]; accepted are x, y"):
        evaluate(own + Hidden(own.bound, "w"), vae, x, Y)


def test_what_an_objective_is_can_be_compared():
    vae, _ = make()

    def made(weight=2.0, hidden=(7,)):
        return vae.elbo() + weight * EntropyTerm() + TotalCorrelation(hidden=hidden)

    assert described(made()) == described(made()), "the weights of a new critic are no setting"
    assert described(made()) != described(made(3.0)) and described(made()) != described(made(hidden=(8,)))
    assert described(made().without("log p(z)")) != described(made())
    assert described(made(WarmUp(0.5, 2.0))) != described(made(WarmUp(0.6, 2.0)))


def test_a_bound_of_ones_own_is_a_class_with_one_method():
    class Reconstruction(Bound):
        """E_q(z|x) log p(x|z)."""

        def values(self, run):
            fn, value = run.model.nodes["x"]["fn"], run.model.nodes["x"]["value"]
            return [Value("log p(x)", fn.log_prob(value))]

    vae, x = make(VAE)
    terms = (Reconstruction() + 2.0 * Ones()).weighted_terms(vae.model, vae.guide, x)
    assert list(terms) == ["log p(x|z)", "ones"] and (terms["ones"] == 2).all()
    assert isinstance(evaluate(Reconstruction(), vae, x, None), Evaluation)


# Each term by hand, on models whose bounds have nothing of them


def classifier_at(vae, run):
    """log q(y|.) at the bound's own sample, `(B, C)`."""
    if isinstance(vae, M2):
        return vae.q_y.net(run.model.nodes["x"]["value"]).log_softmax(-1)
    return vae.q_y.net(run.value("z_c")).log_softmax(-1)


class Keeps(Term):
    """The run that the bound made."""

    def values(self, run):
        self.run = run
        return {}


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
        (ClassifierTerm("w"), r"ClassifierTerm: got \['w'\]; accepted are labels: y"),
        (NearestLabelTerm(), "NearestLabelTerm: no latent of the model depends on 'y'"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(vae.elbo() + term, vae, x, Y)
    plain, x = make(VAE)
    with pytest.raises(InputError, match="accepted are labels: those of the guide, which has none"):
        evaluate(plain.elbo() + ClassifierTerm("y"), plain, x, Y)
    none = evaluate(vae.elbo(), vae, x, torch.full_like(Y, MISSING)).contributions()
    assert not none["log q(y_o)"].any()
    assert (vae.elbo() + ClassifierTerm()).needs_labels and not TraceLabels_ELBO().needs_labels


# A term with a module of its own


def critic_by_hand(critic, z):
    for layer in critic:
        z = layer(z)
    return z[:, 0]


def test_total_correlation_by_hand():
    """Minus the critic's log-ratio; its loss is the cross-entropy of half of the samples and the permuted others."""
    vae, x = make(VAE)
    term, keeps = TotalCorrelation(hidden=(9, 8)), Keeps()
    found = evaluate(vae.elbo() + 6.0 * term + keeps, vae, x, None)
    z = keeps.run.value("z")
    assert z.shape == (7, D) and [layer.out_features for layer in term.critic[::2]] == [9, 8, 1]
    assert_close(found.contributions()["-TC(z)"], -6.0 * critic_by_hand(term.critic, z))
    torch.manual_seed(5)
    loss = term.loss(keeps.run)
    torch.manual_seed(5)
    permuted = torch.stack([z[1::2, d][torch.randperm(3)] for d in range(D)], 1)
    real, fake = (torch.sigmoid(critic_by_hand(term.critic, part)) for part in (z[::2], permuted))
    assert_close(loss, -(real.log().mean() + (1 - fake).log().mean()) / 2)
    assert sorted(permuted[:, 1].tolist()) == sorted(z[1::2, 1].tolist())


def test_each_optimiser_sees_its_own_gradient_only():
    vae, x = make(VAE)
    term = TotalCorrelation(hidden=(9,))
    elbo = vae.elbo() + 6.0 * term
    found = evaluate(elbo, vae, x, None)
    (loss,) = found.losses.values()
    own, others = [*term.critic.parameters()], [*vae.parameters()]
    of_critic = torch.autograd.grad(loss, [*own, *others], allow_unused=True, retain_graph=True)
    assert all(g is not None and g.any() for g in of_critic[: len(own)][:-1])
    assert all(g is None for g in of_critic[len(own) :]), "the critic's loss moves nothing of the model"
    of_model = torch.autograd.grad(found.total(), [*own, *others], allow_unused=True, retain_graph=True)
    assert all(g is None for g in of_model[: len(own)]), "the objective does not move the critic"
    value = next(v.value for v in found.values if v.name == "-TC(z)")
    reached = torch.autograd.grad(value.sum(), [*vae.q_z.parameters()], retain_graph=True)
    assert all(g.any() for g in reached), "but it moves the encoder through it"
    both = torch.autograd.grad(loss - found.total(), [*own, *others])
    assert_close(both, (*of_critic[: len(own)], *(-g for g in of_model[len(own) :])))
    assert not set(own) & set(elbo(vae.model, vae.guide).parameters())


def train_factor(vae, term, path=None, epochs=4, **more):
    x, _, _ = data_rows()
    how = {"epochs": 4, "batch_size": 8, "progress": False, "lr": 1e-3, "average": 0.9, **more}
    return fit(vae, x, None, elbo=vae.elbo() + 6.0 * term, checkpoint=path, **{**how, "epochs": epochs})


def states(vae, term):
    return {**vae.state_dict(), **{f"critic.{k}": v for k, v in term.critic.state_dict().items()}}


def test_fit_trains_both_and_resumes_bit_identically(tmp_path):
    path = tmp_path / "checkpoint.pt"
    made = [(make(VAE)[0], TotalCorrelation(hidden=(9,), lr=1e-2)) for _ in range(3)]
    whole = train_factor(*made[0])
    assert whole[-1]["monitor/loss of TC(all)"] > 0 and whole[-1]["weight/-TC(z)"] == 6
    with torch.random.fork_rng():
        torch.manual_seed(99)
        train_factor(*made[1], path, epochs=2, schedule="constant")
        path.unlink()
    train_factor(*made[2], path, epochs=2, schedule="constant")
    vae, term = make(VAE)[0], TotalCorrelation(hidden=(9,), lr=1e-2)
    resumed = train_factor(vae, term, path, epochs=4, schedule="constant", resume=True)
    vae_whole, term_whole = make(VAE)[0], TotalCorrelation(hidden=(9,), lr=1e-2)
    at_once = train_factor(vae_whole, term_whole, schedule="constant")
    assert [{k: v for k, v in r.items() if k != "seconds"} for r in resumed] == [
        {k: v for k, v in r.items() if k != "seconds"} for r in at_once
    ]
    ours, theirs = states(vae, term), states(vae_whole, term_whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    saved = torch.load(path, weights_only=True)["critics"]["TC(all)"]
    assert all(torch.equal(saved["weights"][name], value) for name, value in term.critic.state_dict().items())
    other = TotalCorrelation(hidden=(8,), lr=1e-2)
    with pytest.raises(InputError, match="other objective: 9, now 8"):
        train_factor(make(VAE)[0], other, path, epochs=5, schedule="constant", resume=True)


def test_the_critic_learns_and_its_learning_rate_is_its_own():
    x, _, _ = data_rows()
    moved = {}
    for lr in (1e-30, 1e-2):
        vae, term = make(VAE)[0], TotalCorrelation(hidden=(9,), lr=lr)
        fit(vae, x, None, elbo=vae.elbo() + term, epochs=1, batch_size=8, progress=False, lr=1e-30, average=0.0)
        before = make(VAE)[0]
        assert all(torch.allclose(a, b) for a, b in zip(vae.parameters(), before.parameters(), strict=True))
        moved[lr] = [p.clone() for p in term.critic.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(moved[1e-30], moved[1e-2], strict=True))


def test_what_a_critic_cannot_do_is_said():
    vae, x = make(VAE)
    with pytest.raises(InputError, match=r"TotalCorrelation: got \['w'\]; accepted are latents, z"):
        evaluate(vae.elbo() + TotalCorrelation("w"), vae, x, None)
    with pytest.raises(InputError, match="got a batch of 1 rows and 3 dimensions of z; accepted are two"):
        evaluate(vae.elbo() + TotalCorrelation(), vae, x[:1], None)
    with pytest.raises(InputError, match=r"two with modules of the name 'TC\(all\)'"):
        (vae.elbo() + TotalCorrelation() + TotalCorrelation()).modules()
    with pytest.raises(InputError, match="precision: got '16-mixed' with a term that has modules of its own"):
        fit(vae, x, elbo=vae.elbo() + TotalCorrelation(), precision="16-mixed", progress=False)


def test_two_critics_on_two_latents(tmp_path):
    x, y, _ = data_rows()
    vae = make(DIVA)[0]
    elbo = vae.elbo() + TotalCorrelation("z_c", hidden=(6,)) + 2.0 * TotalCorrelation("z_s", hidden=(5,))
    path = tmp_path / "checkpoint.pt"
    history = fit(vae, x, y, elbo=elbo, epochs=1, batch_size=8, progress=False, checkpoint=path)
    assert {"term/-TC(z_c)", "term/-TC(z_s)", "monitor/loss of TC(z_c)", "monitor/loss of TC(z_s)"} <= {*history[0]}
    assert [*torch.load(path, weights_only=True)["critics"]] == ["TC(z_c)", "TC(z_s)"]


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
    history = fit(vae, x, y, elbo=added, epochs=1, batch_size=4, progress=False, average=0.0)
    assert all(math.isfinite(value) for value in history[0].values())
    record = {key.removeprefix("term/"): value for key, value in history[0].items() if key.startswith("term/")}
    assert record["-H(q(y_m))"] < 0 and (record["-KL(r(y_m) || q(y_m))"] < 0) != isinstance(vae, M2), (
        "M2's q(y|x) is the same again"
    )
    assert not is_missing(y).all()


def test_the_lazy_critic_has_the_models_precision():
    vae, x = make(VAE)
    term = TotalCorrelation(hidden=(4,))
    evaluate((vae.elbo() + term), vae.float(), x.float(), None)
    assert {p.dtype for p in term.critic.parameters()} == {torch.float32}
    assert not any(isinstance(p, nn.UninitializedParameter) for p in term.critic.parameters())


# What went wrong once


class Given(Term):
    """A function of the run, under a name."""

    def __init__(self, of, name="given", whole_batch=False):
        self.of, self.name, self.whole_batch = of, name, whole_batch

    def values(self, run):
        return {self.name: self.of(run)}


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
    with pytest.raises(InputError, match="latent: got 'w'; accepted are z"):
        keeps.run.value("w")


def test_a_term_of_the_batch_is_refused_beside_sampled_labels():
    vae, x = make()
    with pytest.raises(InputError, match=r"labels: got 'score', and \['given'\], of the batch; accepted"):
        evaluate(vae.elbo(labels="score") + Given(lambda run: torch.tensor(1.0), whole_batch=True), vae, x, Y)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            lambda run: torch.ones(7, 1),
            r"Given: got \(7, 1\) for the term 'given'; accepted is a tensor of shape \(7,\)",
        ),
        (lambda run: torch.ones(5), r"got \(5,\) for the term 'given'"),
        (lambda run: torch.ones(1), r"got \(1,\) for the term 'given'"),
        (lambda run: 3.0, "got 3.0 for the term 'given'"),
        (lambda run: torch.tensor(3.0), "got a scalar for 'given'; accepted is one where whole_batch = True"),
    ],
)
def test_a_term_of_another_shape_is_refused(value, message):
    vae, x = make()
    with pytest.raises(InputError, match=message):
        evaluate(vae.elbo() + Given(value), vae, x, Y)


def test_what_a_term_returns_is_a_mapping():
    class Bare(Term):
        def values(self, run):
            return torch.ones(7)

    vae, x = make()
    with pytest.raises(InputError, match="Bare: values returned a Tensor; accepted is a mapping"):
        evaluate(vae.elbo() + Bare(), vae, x, Y)


class Owner(Term):
    """A module whose author detaches nothing."""

    whole_batch = False

    def __init__(self):
        self.net = nn.Linear(D, 1)

    def module(self):
        return "owner", self.net

    def values(self, run):
        return {"owner": self.net(run.value("z"))[:, 0]}

    def loss(self, run):
        return self.net(run.value("z")).square().mean()

    def optimiser(self, parameters):
        return torch.optim.SGD(parameters, 1.0)


def test_a_module_that_a_term_owns_has_its_own_gradient_only_whatever_its_author_does():
    x, _, _ = data_rows()
    vae, term = make(VAE)[0], Owner()
    before, start = term.net.weight.detach().clone(), {k: v.clone() for k, v in vae.state_dict().items()}
    seen = {}
    vae.q_z.register_forward_hook(lambda module, args, out: seen.update(x=args[0], z=None) if module.training else None)
    how = {"epochs": 1, "batch_size": 60, "progress": False, "average": 0.0, "corrupt": None, "lr": 1e-3}
    fit(vae, x, None, elbo=vae.elbo() + 1000.0 * term, **how)
    assert (term.net.weight - before).abs().max() < 10, "of the order of its loss, and not of a thousand times the term"
    plain, fixed = make(VAE)[0], Owner()
    plain.load_state_dict(start)
    fixed.net.load_state_dict({"weight": before, "bias": fixed.net.bias.detach()})

    class Fixed(Owner):
        def module(self):
            return None

    only = Fixed()
    only.net.load_state_dict({"weight": before, "bias": torch.zeros(1)})
    with torch.no_grad():
        term.net.bias.zero_()
    fit(plain, x, None, elbo=plain.elbo() + 1000.0 * only, **how)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), vae.parameters(), strict=True)), (
        "the model moves by the term alone (one step, in which the bias plays no part)"
    )
    assert isinstance(term.net, nn.Linear) and all(p.requires_grad for p in term.net.parameters())


def test_terms_that_change_between_batches_are_refused():
    x, y, _ = data_rows()

    class Changing(Term):
        calls = 0

        def values(self, run):
            self.calls += 1
            return {f"t{self.calls}": torch.zeros(run.model.nodes["x"]["value"].shape[0])}

    vae = make(VAE)[0]
    with pytest.raises(InputError, match=r"terms: got \['t1', 't2'\] in some batches and not in others"):
        fit(vae, x, y, elbo=vae.elbo() + Changing(), epochs=1, batch_size=8, progress=False)


@pytest.mark.parametrize(
    "term", [ClassifierTerm(), EntropyTerm(), ConsistencyTerm(), BalanceTerm()], ids=lambda term: type(term).__name__
)
def test_a_term_about_labels_says_if_there_are_none(term):
    vae, x = make(VAE)
    with pytest.raises(InputError, match=r"(the guide has no|labels: the guide has no discrete)"):
        evaluate(vae.elbo() + term, vae, x, Y)


def test_the_elbo_is_the_bound_whatever_is_taken_out():
    x, y, _ = data_rows()
    how = {"epochs": 1, "batch_size": 8, "progress": False, "lr": 1e-30, "average": 0.0}

    def said(change):
        vae = make()[0]
        return fit(vae, x, y, elbo=change(vae.elbo(classifier_weight=0.0)), **how)[0]

    plain = said(lambda elbo: elbo)
    without, weighted = said(lambda e: e.without("log p(y)")), said(lambda e: e.weighted({"log p(y)": 0.0}))
    assert plain["elbo"] == pytest.approx(plain["objective"])
    assert without["elbo"] == pytest.approx(plain["elbo"]) and weighted["elbo"] == pytest.approx(plain["elbo"])
    assert without["objective"] == pytest.approx(plain["elbo"] - plain["term/log p(y)"]) == weighted["objective"]
    assert "term/log p(y)" not in without and weighted["weight/log p(y)"] == 0
    other = said(lambda e: e.replaced("log p(y)", Ones("log p(y)")))
    assert other["elbo"] == pytest.approx(plain["elbo"]) and other["term/log p(y)"] == pytest.approx(1.0)
    assert other["objective"] == pytest.approx(without["objective"] + 1)


def test_the_same_term_twice_has_both_weights():
    vae, x = make()
    entropy, tc = EntropyTerm(), TotalCorrelation(hidden=(4,))
    for elbo, name, weight in (
        (vae.elbo() + EntropyTerm() + 2.0 * EntropyTerm(), "-H(q(y_m))", 3),
        (vae.elbo() + entropy - 0.5 * entropy, "-H(q(y_m))", 0.5),
        (vae.elbo() + ConsistencyTerm(3) + ConsistencyTerm(3), "-KL(r(y_m) || q(y_m))", 2),
    ):
        assert {v.name: v.weight for v in evaluate(elbo, vae, x, Y).values}[name] == weight
    with pytest.raises(InputError, match="two different ones"):
        evaluate(vae.elbo() + ConsistencyTerm(3) + ConsistencyTerm(4), vae, x, Y)
    plain, x = make(VAE)
    bound = plain.elbo()
    halves = evaluate(0.5 * bound + 0.5 * bound + 6.0 * tc + 4.0 * tc, plain, x, None)
    assert {v.name: v.weight for v in halves.values} == {
        "log p(x)": 1, "log p(z)": 1, "-log q(z)": 1, "-TC(z)": 10
    }  # fmt: skip


def test_a_term_can_be_replaced_by_one_of_its_name():
    vae, x = make()
    elbo = vae.elbo().replaced("log p(y)", 2.0 * Ones("log p(y)"))
    found = evaluate(elbo, vae, x, Y)
    assert (found.contributions()["log p(y)"] == 2).all()
    plain = evaluate(vae.elbo(), vae, x, Y)
    rest = sum(v.summed() for v in plain.values if v.name != "log p(y)")
    assert_close(found.total(), (rest + 2).sum())
    with LocalParameters():  # also where rows are run apart
        order = Y.argsort(descending=True)
        parts = elbo.evaluate(Step(vae.model, vae.guide, (x[order], Y[order]), labelled=5))
    assert (parts.contributions()["log p(y)"] == 2).all() and parts.contributions()["log p(y)"].shape == (7,)


def test_names_are_told_apart_but_for_what_a_density_depends_on():
    vae, x = make()
    first, second = Ones("-|z|^2/2"), Ones("-||x - E[x|y,z]||^2")
    found = evaluate(vae.elbo() + first + second + Ones("-KL(q||p)") + Ones("-KL(q||r)"), vae, x, Y)
    assert len({v.name for v in found.values} & {"-|z|^2/2", "-||x - E[x|y,z]||^2", "-KL(q||p)", "-KL(q||r)"}) == 4
    with pytest.raises(InputError, match=r"got the name '-\|foo'"):
        evaluate((vae.elbo() + second).without("-|foo"), vae, x, Y)


def test_a_second_bound_with_the_same_names_gets_others():
    vae, x = make()
    found = evaluate(vae.elbo() + 0.1 * TraceLabels_ELBO(labels="relaxed"), vae, x, Y)
    weights = {v.name: (v.weight, v.in_elbo) for v in found.values}
    assert weights["bound 2: log p(x)"] == (0.1, False) and weights["log p(x)"] == (1, True)


def test_bad_schedules_are_named():
    vae, x = make()
    for schedule, message in (
        (lambda done: math.nan, "weight: the schedule returned nan at 1.0; accepted are finite numbers"),
        (lambda done: None, "weight: the schedule returned None"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(vae.elbo() + schedule * Ones(), vae, x, Y)
    two = evaluate(vae.elbo() + (lambda done: torch.tensor(2.0)) * Ones(), vae, x, Y)
    (value,) = [v for v in two.values if v.name == "ones"]
    assert type(value.weight) is float and value.weight == 2
    for bad in (math.nan, "a"):
        with pytest.raises(InputError, match="weight: got"):
            WarmUp(0.5, bad)
    for bad in (vae.elbo(), EntropyTerm):
        with pytest.raises(TypeError):
            bad * Ones()


def test_arguments_by_name_are_as_good_in_any_order():
    vae, x = make()
    torch.manual_seed(1)
    expected = vae.elbo().terms(vae.model, vae.guide, x, Y)
    torch.manual_seed(1)
    found = vae.elbo().terms(vae.model, vae.guide, y=Y, x=x)
    assert [*found] == [*expected] and all(torch.equal(found[name], expected[name]) for name in found)
    step = Step(vae.model, vae.guide, (), {"y": Y})
    assert step.without_data and [*step.named()] == ["x", "y"]
    hidden = Step(vae.model, vae.guide, (), {"y": Y, "x": x}).hiding(["y"])
    assert hidden.args[1] is None and hidden.args[0] is x


def test_models_whose_own_objective_weighs_its_classifier_are_trained_to_the_end(capsys):
    """The signs of failure look at the bound alone, on data without labels."""

    class Weighs(M2):
        def elbo(self, **options):
            return super().elbo(**options).weighted({"log q(y_o)": 100.0})

    torch.manual_seed(0)
    vae, (x, y, _) = Weighs(SHAPE, Classes(C), z=2, networks=MLPs((5,))), data_rows()
    assert len(fit(vae, x, y, elbo=vae.elbo(), epochs=1)) == 1


def test_average_copies_parameters_and_nothing_else(tmp_path):
    x, y, _ = data_rows()
    vae = make(VAE)[0]
    with open(tmp_path / "log", "w") as vae.log:
        fit(vae, x, y, epochs=1, progress=False, average=0.9)


@pytest.mark.parametrize("make_it", [torch.optim.Adafactor, partial(torch.optim.SGD, momentum=0.9)])
def test_other_optimisers_are_resumed(make_it, tmp_path):
    x, y, _ = data_rows()
    path, found = tmp_path / "c.pt", []
    how = {"batch_size": 8, "progress": False, "optimiser": make_it, "lr": 1e-3, "schedule": "constant"}
    for epochs in ([2], [1, 2]):
        vae = make(VAE)[0]
        for until in epochs:
            more = {"checkpoint": path, "resume": True} if len(epochs) > 1 else {}
            fit(vae, x, y, epochs=until, **more, **how)
        found.append(vae)
    assert all(torch.equal(a, b) for a, b in zip(found[0].parameters(), found[1].parameters(), strict=True))


def test_an_optimiser_of_something_else_is_refused():
    x, y, _ = data_rows()
    strange = [nn.Parameter(torch.zeros(2))]
    for make_it, message in (
        (lambda parameters, lr: torch.optim.Adam(strange), "returned one of other parameters"),
        (torch.optim.LBFGS, "returned LBFGS; accepted .* needs no closure"),
        (lambda parameters: None, "unexpected keyword argument 'lr'; accepted is a function of parameters"),
    ):
        with pytest.raises(InputError, match=f"optimiser: .*{message}"):
            fit(make(VAE)[0], x, y, optimiser=make_it, progress=False)


def test_a_term_with_a_module_sees_all_rows_together():
    """Where a bound runs labelled rows apart, as M2's does, its module is trained on both."""
    x, y, _ = data_rows()

    class Counter(Term):
        def __init__(self):
            self.net = nn.Linear(1, 1, bias=False)

        def module(self):
            return "counter", self.net

        def values(self, run):
            return {"nothing": torch.zeros(run.model.nodes["x"]["value"].shape[0])}

        def loss(self, run):
            return self.net.weight.sum() * run.model.nodes["x"]["value"].shape[0]

        def optimiser(self, parameters):
            return torch.optim.SGD(parameters, 1.0)

    vae, term = make(M2, z=2)[0], Counter()
    start = term.net.weight.item()
    how = {"epochs": 1, "batch_size": 40, "labelled_batch_size": 20, "progress": False, "corrupt": None}
    fit(vae, x, y, elbo=vae.elbo() + term, **how)
    assert term.net.weight.item() == pytest.approx(start - 60)


def test_balance_is_of_labels_without_parents():
    class Apart(Chain):
        def b_given(self, x, a):
            return dist.Categorical(logits=x @ self.q_b[0])

    for chain, where in ((Apart(), "in the model"), (Chain(), "in the guide")):
        with pytest.raises(InputError, match=f"label 'b' depends on .*{where}"):
            (TraceLabels_ELBO() + BalanceTerm()).weighted_terms(chain.model, chain.guide, X, FIRST, SECOND)
    terms = (TraceLabels_ELBO() + EntropyTerm()).weighted_terms(chain.model, Apart().guide, X, FIRST, SECOND)
    assert (terms["-H(q(y_m))"][(FIRST == MISSING) | (SECOND == MISSING)] < 0).all()
