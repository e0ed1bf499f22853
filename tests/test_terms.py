"""Sums of terms: one run, weights, names, schedules, parts of a batch; and each term by hand on other models."""

import math

import pytest
import torch
from cases import CASES
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
    seen = seen[::2]  # of the rows with labels, and of those without
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
    added = elbo + 2.0 * EntropyTerm() + 3.0 * ConsistencyTerm() + TotalCorrelation(hidden=(4,))
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
