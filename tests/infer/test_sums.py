"""Sums of terms: one run for all, weights, names, schedules, parts of a batch."""

import math
from weakref import ref

import pytest
import torch
from terms import SHAPE, C, Ones, Y, evaluate, make
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
    Step,
    TotalCorrelation,
    TraceLabels_ELBO,
    Value,
    WarmUp,
)
from pyro_semivae.models import CCVAE, DIVA, M2, M3, VAE
from pyro_semivae.nn import MLPs
from pyro_semivae.settings import described
from pyro_semivae.spaces import MISSING, Classes
from pyro_semivae.train import fit


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
        with pytest.raises(InputError, match=r"terms: got the name .*; expected 'log p\(x\)', 'log p\(z\)'"):
            evaluate(other, vae, x, Y)
    for weight in (math.nan, "a", True):
        with pytest.raises(InputError, match="expected a finite number"):
            elbo.weighted({"log p(x)": weight})
    removed = evaluate(elbo.without("log p(x)"), vae, x, Y)
    assert_close(-removed.total(), -sum(removed.contributions().values()).sum())


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

        return Run(None, None, Roles((), (), ()), {}, step_ref=ref(step), in_reverse=True)

    Alone.scores_unpaired_labels = True
    x, y, _ = data_rows()
    vae = make(VAE, z=2)[0]
    elbo = vae.elbo() + Alone()
    how = {"epochs": 1, "batch_size": 4, "labelled_batch_size": 5, "progress": False, "lr": 1e-30, "ema_decay": 0.0}
    with_alone = fit(vae, x, y, elbo=elbo, unpaired_labels=torch.arange(5).repeat(6), **how)[0]
    without = fit(vae, x, y, elbo=vae.elbo(), **how)[0]
    assert with_alone["term/log p(x|z)"] == pytest.approx(without["term/log p(x|z)"] - 7.0 * 30 / 60)
    assert with_alone["objective"] == pytest.approx(without["objective"] - 7.0 * 30 / 60)


@pytest.mark.parametrize("missing_labels", ["enumerate", "reinforce"])
def test_hidden_labels_are_missing_labels(missing_labels):
    """Values and every gradient, the score function's too."""
    vae, x = make()
    elbo, own = (
        vae.elbo(missing_labels=missing_labels, classifier_weight=0.0),
        vae.elbo(missing_labels=missing_labels, classifier_weight=0.0),
    )
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
    for wrong, message in (((vae, "y"), "got M2; expected an objective"), ((own,), "names of one label or more")):
        with pytest.raises(InputError, match=message):
            Hidden(*wrong)
    with pytest.raises(InputError, match=r"Hidden: got \['w'\]; expected x, y"):
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


def test_the_elbo_is_the_bound_whatever_is_taken_out():
    x, y, _ = data_rows()
    how = {"epochs": 1, "batch_size": 8, "progress": False, "lr": 1e-30, "ema_decay": 0.0}

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
    found = evaluate(vae.elbo() + 0.1 * TraceLabels_ELBO(missing_labels="gumbel"), vae, x, Y)
    weights = {v.name: (v.weight, v.in_elbo) for v in found.values}
    assert weights["bound 2: log p(x)"] == (0.1, False) and weights["log p(x)"] == (1, True)


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
