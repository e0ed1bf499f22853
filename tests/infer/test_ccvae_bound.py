"""The CCVAE bound against mathematics: the formula by hand, brute force, limits."""

import math

import pytest
import torch
from cases import weighed
from ccvae_toy import D_C, D_S, C, K, Spy, Y, gaussian, log_normal, make, recorded, seeded
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch.nn import functional as F

from pyro_semivae.infer import (
    BalanceTerm,
    ConsistencyTerm,
    EntropyTerm,
    LocalParameters,
    NearestLabelTerm,
    Step,
    TraceCCVAE_ELBO,
)
from pyro_semivae.spaces import MISSING


def by_hand(vae, x, y, draws, *, marginal, detach, classifier_weight=1.0, beta=1.0, control_variate=False):
    """design: the bound in plain torch, row by row in meaning, with the same noise as the objective's draws."""
    loc, scale = gaussian(vae.q_z.net(x))  # (B, D)
    drawn = torch.cat([draws["z_c"], draws["z_s"]], -1).detach()  # (1 + K [+ 1], B, D)
    z_all = loc + scale * ((drawn - loc) / scale).detach()
    z, z_k = z_all[0], z_all[1 : 1 + K]
    z_c, z_s = z.split([D_C, D_S], -1)

    mu, sigma = gaussian(vae.p_z_c.net(torch.arange(C)))  # (C, D_c)
    log_p_y = vae.p_y.logits
    log_p_zc_y = log_normal(z_c.unsqueeze(-2), mu, sigma)  # (B, C)

    def log_q_y(z):
        if hasattr(vae.q_y, "net"):
            return vae.q_y.net(z).log_softmax(-1)
        return (log_normal(z.unsqueeze(-2), mu, sigma) + log_p_y).log_softmax(-1)

    logits = vae.p_x.net(z_c, z_s).flatten(1)
    pixels = x.flatten(1)
    log_p_x = (pixels * F.logsigmoid(logits) + (1 - pixels) * F.logsigmoid(-logits)).sum(-1)
    log_p_zs = log_normal(z_s, torch.zeros(D_S), torch.ones(D_S))
    log_q_zc = log_normal(z_c, loc[:, :D_C], scale[:, :D_C])
    log_q_zs = log_normal(z_s, loc[:, D_C:], scale[:, D_C:])

    names = (
        "log p(x)",
        "log p(z_s)",
        "log p(z_c)",
        "-log q(z_c)",
        "-log q(z_s)",
        "-log q(y_o)",
        "log q(y_o)",
        "log p(y_o)",
    )
    terms = {name: [] for name in names}
    brackets, ws = {}, {}
    for b in range(len(x)):
        plain = {"log p(x)": log_p_x[b], "log p(z_s)": beta * log_p_zs[b]}
        plain |= {"-log q(z_c)": -beta * log_q_zc[b], "-log q(z_s)": -beta * log_q_zs[b]}
        if y[b] == MISSING:
            if marginal == "exact":
                p_zc = (log_p_zc_y[b].exp() * log_p_y.exp()).sum().log()
            else:
                log_q = log_q_y(z_c[b])
                p_zc = sum(log_q[c].exp() * (log_p_zc_y[b, c] + log_p_y[c] - log_q[c]) for c in range(C))
            row = {
                **plain,
                "log p(z_c)": beta * p_zc,
                "-log q(y_o)": 0 * p_zc,
                "log q(y_o)": 0 * p_zc,
                "log p(y_o)": 0 * p_zc,
            }
        else:
            q_x = torch.stack([log_q_y(z_k[k, b, :D_C])[y[b]].exp() for k in range(K)]).mean()
            live, cut = log_q_y(z_c[b])[y[b]], log_q_y(z_c[b].detach())[y[b]]
            w = (live if detach == "none" else cut).exp() / q_x
            inside = cut if detach == "weighted-terms" else live
            row = {name: w * value for name, value in plain.items()}
            row |= {"log p(z_c)": w * beta * log_p_zc_y[b, y[b]], "-log q(y_o)": -w * inside}
            brackets[b], ws[b] = (sum(row.values()) / w).item(), w
            row |= {"log q(y_o)": classifier_weight * q_x.log(), "log p(y_o)": log_p_y[y[b]]}
        for name in names:
            terms[name].append(row[name])
    terms = {name: torch.stack(values) for name, values in terms.items()}
    if control_variate:
        terms["control(w)"] = torch.zeros(len(x))
        for b, w in ws.items():
            others = [value for other, value in brackets.items() if other != b]
            terms["control(w)"][b] -= sum(others) / len(others) * (w - w.item())
    return terms


@pytest.mark.parametrize("classifier", ["network", "bayes"])
@pytest.mark.parametrize("detach", ["weight", "weighted-terms", "none"])
@pytest.mark.parametrize(("marginal", "control_variate"), [("exact", False), ("jensen", False), ("jensen", True)])
def test_terms_and_gradients_equal_the_formula_by_hand(marginal, control_variate, detach, classifier):
    """CCVAE's Eq. 4 where labels are observed, Eq. 5 and the exact marginal where they are missing; all gradients."""
    vae, x = make(classifier)
    options = {"marginal": marginal, "detach": detach, "classifier_weight": 2.5, "beta": 1.7}
    options["control_variate"] = control_variate
    rows, draws = recorded(vae, weighed(vae, num_samples=K, weights="independent", **options), x, Y)
    expected = by_hand(vae, x, Y, draws, **options)
    terms = rows.contributions()
    assert len(terms) == len(expected)
    weights = torch.linspace(0.5, 1.5, len(Y))
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-9, atol=1e-12, msg=f"term {name}")
        ours, theirs = (
            torch.autograd.grad((t * weights).sum(), list(vae.parameters()), retain_graph=True, allow_unused=True)
            if t.requires_grad
            else [None] * len(list(vae.parameters()))
            for t in (terms[name], value)
        )
        for (parameter, _), a, b in zip(vae.named_parameters(), ours, theirs, strict=True):
            a, b = (torch.zeros(()) if g is None else g for g in (a, b))
            torch.testing.assert_close(*torch.broadcast_tensors(a, b), msg=f"d {name} / d {parameter}")


def test_consistency_equals_the_formula_by_hand():
    """-lambda KL(r(y) || q(y | z)) where y is missing, r the mean over K draws of another run, without gradient."""
    vae, x = make()
    vae.q_y = Spy(vae.q_y)
    elbo = vae.elbo(num_samples=K) + 3.0 * ConsistencyTerm()
    terms = elbo.weighted_terms(vae.model, vae.guide, x, Y)
    (z, *_), z_other = vae.q_y.seen[0], vae.q_y.seen[1]
    assert z_other.shape == (K, len(Y), D_C) and not (z_other[0] == z).any() and not z_other.requires_grad
    r = vae.q_y.inner.net(z_other).softmax(-1).mean(0).detach()
    kl = (r * (r.log() - vae.q_y.inner.net(z).log_softmax(-1))).sum(-1)
    expected = torch.where(Y == MISSING, -3.0 * kl, 0.0)
    torch.testing.assert_close(terms["-KL(r(y_m) || q(y_m))"], expected)
    ours = torch.autograd.grad(
        terms["-KL(r(y_m) || q(y_m))"].sum(), list(vae.parameters()), allow_unused=True, retain_graph=True
    )
    theirs = torch.autograd.grad(expected.sum(), list(vae.parameters()), allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert (elbo.weighted_terms(vae.model, vae.guide, x)["-KL(r(y_m) || q(y_m))"] < 0).all(), (
        "all labels missing: every row has the term"
    )


def test_entropy_and_balance_equal_the_formulas_by_hand():
    """-kappa H(q(y | z)) per row, and -lambda KL(mean q || p(y)) once, where the label is missing."""
    vae, x = make()
    vae.q_y = Spy(vae.q_y)
    elbo = vae.elbo(num_samples=K) + 3.0 * EntropyTerm() + 2.0 * BalanceTerm()
    for y, missing in ((Y, Y == MISSING), (None, torch.ones(len(Y), dtype=torch.bool))):
        vae.q_y.seen.clear()
        terms = elbo.weighted_terms(vae.model, vae.guide, x, y)
        q = vae.q_y.inner.net(vae.q_y.seen[0][0]).softmax(-1)
        torch.testing.assert_close(terms["-H(q(y_m))"], torch.where(missing, 3.0 * (q * q.log()).sum(-1), 0.0))
        mean, p = q[missing].mean(0), vae.p_y.logits.exp()
        assert terms["-KL(q(y_m) || p(y))"].dim() == 0
        torch.testing.assert_close(terms["-KL(q(y_m) || p(y))"], -2.0 * (mean * (mean / p).log()).sum())
    terms = elbo.weighted_terms(vae.model, vae.guide, x, Y.clamp(min=0))
    assert terms["-KL(q(y_m) || p(y))"] == 0 and not terms["-H(q(y_m))"].any(), "no label is missing"
    rows = seeded(lambda: elbo.evaluate(Step(vae.model, vae.guide, (x, Y), scale=torch.full((len(Y),), 10.0))))
    scaled = sum(value.summed() for value in rows.values if value.by_row).sum() * 10
    torch.testing.assert_close(rows.total(), scaled + rows.contributions()["-KL(q(y_m) || p(y))"])


def test_sampled_is_jensens_in_the_mean():
    """CCVAE's Eq. 5 with y sampled: the same bound and gradients in the mean, within 5 standard errors."""
    vae, x = make()
    x, y = x[:2].repeat(4000, 1, 1, 1), torch.tensor([MISSING, 3]).repeat(4000)
    pieces = {}
    for marginal in ("jensen", "sampled"):
        torch.manual_seed(3)
        rows, draws = recorded(vae, vae.elbo(marginal=marginal, num_samples=1), x, y)
        pieces[marginal] = rows.contributions()["log p(z_c)"], draws["z_c"][0]
    (jensen, z), (sampled, same) = pieces["jensen"], pieces["sampled"]
    torch.testing.assert_close(z, same)  # the same latents, so that the labels' draws are all that differs
    torch.testing.assert_close(jensen[1::2], sampled[1::2])  # an observed label is not drawn
    difference = (sampled - jensen).detach()[::2]
    assert difference.std() > 0.1 and abs(difference.mean()) < 5 * difference.std() / math.sqrt(len(difference))
    parameters = [*vae.q_y.parameters(), *vae.p_z_c.parameters()]
    drawn = []
    for part in (sampled - jensen)[::2].split(100):
        grads = torch.autograd.grad(part.mean(), parameters, retain_graph=True)
        drawn.append(torch.cat([g.flatten() for g in grads]))
    drawn = torch.stack(drawn)
    assert drawn.std(0).max() > 0.01
    assert (drawn.mean(0).abs() <= 5 * drawn.std(0) / math.sqrt(len(drawn)) + 1e-10).all()


def test_regulariser_equals_the_formula_by_hand():
    """REVAE D.2: mu log q(y~ | z'), z' ~ p(z_c | y), y~ the label of the labelled row with the highest q(z_c | x)."""
    vae, x = make()
    mu = 3.0
    vae.q_y = Spy(vae.q_y)
    elbo = vae.elbo(num_samples=K) + mu * NearestLabelTerm()
    with LocalParameters():
        terms = elbo.evaluate(Step(vae.model, vae.guide, (x, Y))).contributions()
    z = vae.q_y.seen[-1]  # the last evaluation is the regulariser's, (B, D_c)
    assert z.shape == (len(Y), D_C) and not z.requires_grad
    loc, scale = gaussian(vae.q_z.net(x))
    expected = torch.zeros(len(Y))
    for b in range(len(Y)):
        if Y[b] == MISSING:
            labelled = [r for r in range(len(Y)) if Y[r] != MISSING]
            near = max(labelled, key=lambda r: log_normal(z[b], loc[r, :D_C], scale[r, :D_C]).item())
            expected[b] = mu * vae.q_y.inner.net(z[b]).log_softmax(-1)[Y[near]]
    torch.testing.assert_close(terms["log q(y~|z')"], expected)
    grads = torch.autograd.grad(terms["log q(y~|z')"].sum(), list(vae.parameters()), allow_unused=True)
    touched = {name for (name, _), g in zip(vae.named_parameters(), grads, strict=True) if g is not None and g.any()}
    assert touched and all(name.startswith("q_y") for name in touched), "it trains the classifier alone"


def test_missing_labels_equal_a_loop_over_their_values():
    """CCVAE's Eq. 5 by brute force: log sum_y p(x, y, z) from plain Pyro traces, y observed at each value in turn."""
    vae, x = make()
    rows, draws = recorded(vae, vae.elbo(num_samples=K), x, torch.full((len(Y),), MISSING))
    z = {name: value[0] for name, value in draws.items()}
    joint = []
    for c in range(C):
        model = poutine.condition(vae.model, data=z)
        with LocalParameters():
            trace = poutine.trace(model).get_trace(x, torch.full((len(Y),), c))
        trace.compute_log_prob()
        joint.append(sum(trace.nodes[name]["log_prob"] for name in ("x", "y", "z_c", "z_s")))
    expected = torch.stack(joint).logsumexp(0)
    torch.testing.assert_close(
        sum(rows.contributions()[name] for name in ("log p(x)", "log p(z_c)", "log p(z_s)")), expected
    )


def test_without_labels_it_is_pyros_enumerated_elbo():
    """y = None: the stock TraceEnum_ELBO with y enumerated in the model, in value and gradients."""
    vae, x = make()
    vae.q_y.requires_grad_(False)  # the exact marginal has no use for it

    def guide(x, y=None):
        with poutine.block(hide=["y"]):
            vae.guide(x, y)

    elbo = TraceCCVAE_ELBO(num_samples=1, detach="none")
    stock = TraceEnum_ELBO(max_plate_nesting=1)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    draws = {name: value[0] for name, value in recorded(vae, elbo, x, None)[1].items()}
    # One set of draws for both: the guides sample them as functions of the encoder's output.
    noise = {}
    with LocalParameters():
        fns = poutine.trace(vae.guide).get_trace(x).nodes
    for name, z in draws.items():
        base = fns[name]["fn"].base_dist
        noise[name] = ((z - base.loc) / base.scale).detach()

    class Reparameterised(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            if msg["name"] in noise and not msg["is_observed"]:
                base = msg["fn"].base_dist
                msg["value"] = base.loc + base.scale * noise[msg["name"]]
                msg["done"] = True

    with Reparameterised(), LocalParameters():
        ours = elbo.differentiable_loss(vae.model, vae.guide, x)
        theirs = stock.differentiable_loss(vae.model, guide, x)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_limits():
    vae, x = make()
    elbo = vae.elbo(num_samples=K)
    none, all_missing = (seeded(lambda y=y: elbo.weighted_terms(vae.model, vae.guide, x, y)) for y in (None, Y * 0 - 1))
    for name, value in none.items():
        torch.testing.assert_close(all_missing[name], value, msg=f"no label observed: {name}")
    for name in ("-log q(y_o)", "log q(y_o)", "log p(y_o)"):
        assert not all_missing[name].any()

    bayes, _ = make("bayes")
    exact, jensen = (
        seeded(lambda m=m: bayes.elbo(marginal=m, num_samples=K).weighted_terms(bayes.model, bayes.guide, x, Y))
        for m in ("exact", "jensen")
    )
    torch.testing.assert_close(exact["log p(z_c)"], jensen["log p(z_c)"])

    exact, jensen = (
        seeded(lambda m=m: vae.elbo(marginal=m, num_samples=K).weighted_terms(vae.model, vae.guide, x, Y))
        for m in ("exact", "jensen")
    )
    gap = exact["log p(z_c)"] - jensen["log p(z_c)"]
    assert (gap[Y == MISSING] > 1e-3).all(), "Jensen's bound is looser where the classifier is not Bayes'"
    assert not gap[Y != MISSING].any()


def test_row_scale_multiplies_rows_and_not_terms():
    vae, x = make()
    elbo = vae.elbo(num_samples=K)
    scale = torch.linspace(1, 2, len(Y))
    terms = seeded(lambda: elbo.weighted_terms(vae.model, vae.guide, x, Y))
    with LocalParameters():
        found = seeded(lambda: elbo.evaluate(Step(vae.model, vae.guide, (x, Y), scale=scale)))
    scaled_terms, loss = found.contributions(), -found.total()
    for name, value in terms.items():
        torch.testing.assert_close(scaled_terms[name], value)
    torch.testing.assert_close(loss, -(sum(terms.values()) * scale).sum())


def test_hidden_values_of_missing_entries_do_not_matter_and_gradients_are_finite():
    vae, x = make()
    module = vae.elbo(num_samples=K)(vae.model, vae.guide)
    module(x, Y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())


def test_effective_sample_size_is_that_of_the_weights():
    vae, x = make()
    rows, draws = recorded(vae, vae.elbo(num_samples=K, weights="independent"), x, Y)
    observed = Y != MISSING
    log_q = vae.q_y.net(draws["z_c"]).log_softmax(-1)[..., observed, :]
    log_q = log_q.gather(-1, Y[observed].expand(len(log_q), -1).unsqueeze(-1)).squeeze(-1)
    w = log_q[0].exp() / log_q[1 : 1 + K].exp().mean(0)
    torch.testing.assert_close(rows.monitors["ess"], w.sum() ** 2 / (w**2).sum() / len(w))


@pytest.mark.parametrize(("option", "value"), [("marginal", "sum"), ("detach", "all"), ("num_samples", 0)])
def test_bad_options_are_named(option, value):
    with pytest.raises(ValueError, match=rf"{option}: got .*{value}.*expected"):
        TraceCCVAE_ELBO(**{option: value})
