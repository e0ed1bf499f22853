"""The ELBO with labels against mathematics: exact posterior, by hand, brute force, limits, signs, estimators."""

import itertools

import pytest
import torch
from by_hand import assert_equal_with_gradients, through
from ccvae_toy import gaussian, log_normal, seeded
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch.nn import functional as F
from torch.testing import assert_close

from pyro_semivae.infer import LocalParameters, Mean, Step, TraceLabels_ELBO
from pyro_semivae.models import DIVA, M2, M3, VAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import MISSING, Binary, Classes
from pyro_semivae.train import fit

C, L, D, SHAPE, NAN = 5, 3, 4, (1, 2, 7), torch.nan
Y = torch.tensor([2, MISSING, 0, 4, MISSING, 2])
SEVERAL = torch.tensor([[1, 0, NAN], [NAN, NAN, NAN], [0, 1, 1], [NAN, 1, NAN]], dtype=torch.float64)


def make(model=M2, labels=None, seed=0, **sizes):
    torch.manual_seed(seed)
    labels = Classes(C) if labels is None else labels
    sizes = sizes or ({"z": D} if model in (M2, VAE) else {"z_c": 2, "z_s": 3})
    vae = model(SHAPE, labels, networks=MLPs((11,)), **sizes)
    return vae, torch.rand(len(Y) if isinstance(labels, Classes) else len(SEVERAL), *SHAPE)


def values_of(vae, elbo, x, y):
    guide = poutine.trace(vae.guide)
    with LocalParameters():
        rows = elbo.evaluate(Step(vae.model, guide, (x, y)))
    return rows.contributions(), {
        name: site["value"] for name, site in guide.trace.nodes.items() if site["type"] == "sample"
    }


def log_bernoulli(x, logits):
    x = x.flatten(1)
    return (x * F.logsigmoid(logits) + (1 - x) * F.logsigmoid(-logits)).sum(-1)


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_m2_equals_the_formula_by_hand(beta):
    """Kingma et al., Eqs. 6 to 9: L(x, y) of labelled rows, sum_y q(y|x) (L(x, y) - log q(y|x)) of the others."""
    vae, x = make()
    vae.p_y.logits.copy_(torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25]).log())
    terms, drawn = values_of(vae, vae.elbo(classifier_weight=7.0, beta=beta), x, Y)
    z_drawn = drawn["z"].reshape(C, len(Y), D)
    log_q_y = vae.q_y.net(x).log_softmax(-1)  # (B, C)
    total = []
    for b in range(len(Y)):
        bound = []
        for c in range(C):
            code = torch.eye(C)[c]
            loc, scale = gaussian(vae.q_z.net(x[b : b + 1], code))
            z = loc + scale * ((z_drawn[c, b] - loc) / scale).detach()
            log_p_x = log_bernoulli(x[b : b + 1], vae.p_x.net(code, z).flatten(1))
            latent = log_normal(z, torch.zeros(D), torch.ones(D)) - log_normal(z, loc, scale)
            bound.append((log_p_x + beta * latent).squeeze(0))
        if Y[b] == MISSING:
            q = log_q_y[b].exp()
            total.append(sum(q[c] * (bound[c] + beta * (vae.p_y.logits[c] - log_q_y[b, c])) for c in range(C)))
        else:
            total.append(bound[Y[b]] + vae.p_y.logits[Y[b]] + 7.0 * log_q_y[b, Y[b]])
    total, ours = torch.stack(total), sum(terms.values())
    assert_equal_with_gradients(ours, total, vae)


def exact_bound_over_patterns(vae, x, y, z_noise):
    """sum over all label patterns of q(y_m | x) L(x, y), z reparameterised with one noise for all."""
    log_q = torch.stack([F.logsigmoid(-vae.q_y.net(x)), F.logsigmoid(vae.q_y.net(x))])  # (2, B, L)
    log_p = torch.stack([F.logsigmoid(-vae.p_y.logits), F.logsigmoid(vae.p_y.logits)])  # (2, L)
    total = torch.zeros(len(x))
    for pattern in itertools.product((0, 1), repeat=L):
        full = torch.tensor(pattern).double().expand(len(x), L)
        fits = (y.isnan() | (y == full)).all(1)
        index = torch.arange(L)
        q_missing = torch.where(y.isnan(), log_q[list(pattern), :, index].T, 0.0)  # (B, L)
        loc, scale = gaussian(through(vae.q_z.net, x.flatten(1), full.expand(len(x), L)))
        z = loc + scale * z_noise
        inside = log_bernoulli(x, through(vae.p_x.net, full, z)) + log_normal(z, torch.zeros(D), torch.ones(D))
        inside = inside - log_normal(z, loc, scale) + log_p[list(pattern), index].sum() - q_missing.sum(1)
        total = total + torch.where(fits, q_missing.sum(1).exp() * inside, 0.0)
    return total


def test_score_function_gradients_are_those_of_the_sum_over_all_patterns():
    """Several labels: the mean gradient over many draws is within 5 standard errors of the exact one."""
    vae, x = make(M2, Binary(L))
    elbo = vae.elbo(missing_labels="reinforce", classifier_weight=0.0)
    parameters = list(vae.parameters())
    copies, chunks = 500, 30
    many, y_many = x.repeat(copies, 1, 1, 1), SEVERAL.repeat(copies, 1)
    drawn, values = [], []
    for chunk in range(chunks):
        torch.manual_seed(chunk)
        terms = elbo.weighted_terms(vae.model, vae.guide, many, y_many)
        assert not terms["score(y)"].any()
        loss = sum(terms.values()).sum() / copies
        values.append(loss.item())
        drawn.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    exact, reference = [], []
    for chunk in range(chunks):
        torch.manual_seed(1000 + chunk)
        bound = exact_bound_over_patterns(vae, many, y_many, torch.randn(len(many), D)).sum() / copies
        reference.append(bound.item())
        exact.append(torch.cat([g.flatten() for g in torch.autograd.grad(bound, parameters)]))
    for ours, theirs in ((torch.tensor(values)[:, None], torch.tensor(reference)[:, None]), (drawn, exact)):
        ours, theirs = (t if isinstance(t, torch.Tensor) else torch.stack(t) for t in (ours, theirs))
        error = 5 * (ours.var(0) / chunks + theirs.var(0) / chunks).sqrt() + 1e-9
        assert ((ours.mean(0) - theirs.mean(0)).abs() <= error).all()


def test_relaxed_labels_by_hand():
    vae, x = make(M2, Binary(L))
    terms, drawn = values_of(vae, vae.elbo(missing_labels="gumbel", temperature=0.7, classifier_weight=2.0), x, SEVERAL)
    y, z = drawn["y"].detach(), drawn["z"].squeeze(1).detach()
    missing = SEVERAL.isnan()
    assert_close(y[~missing], SEVERAL[~missing])
    assert ((y[missing] > 0) & (y[missing] < 1)).all()
    logits = vae.q_y.net(x)
    noise = 0.7 * y.clamp(1e-9, 1 - 1e-9).logit() - logits
    y = torch.where(missing, ((logits + noise.detach()) / 0.7).sigmoid(), SEVERAL.nan_to_num())
    loc, scale = gaussian(through(vae.q_z.net, x.flatten(1), y))
    z = loc + scale * ((z - loc) / scale).detach()
    q, p = logits.sigmoid(), vae.p_y.logits.sigmoid().expand_as(logits)
    kl = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    log_p_y = torch.where(SEVERAL == 1, p, 1 - p).log()
    log_q_y = torch.where(SEVERAL == 1, q, 1 - q).log()
    expected = log_bernoulli(x, through(vae.p_x.net, y, z)) + log_normal(z, torch.zeros(D), torch.ones(D))
    expected = expected - log_normal(z, loc, scale) + torch.where(missing, -kl, log_p_y + 2.0 * log_q_y).sum(1)
    ours = sum(terms.values())
    assert_equal_with_gradients(ours, expected, vae)


def test_a_relaxed_class_label_by_hand():
    """Gumbel-softmax: the draw is softmax((logits + g) / t), one-hot where observed; the KL is the categorical's."""
    vae, x = make(M2)
    t = 0.7
    terms, drawn = values_of(vae, vae.elbo(missing_labels="gumbel", temperature=t, classifier_weight=2.0), x, Y)
    y, z, missing = drawn["y"].detach(), drawn["z"].detach(), Y == MISSING
    assert_close(y[~missing], torch.eye(C)[Y[~missing]])
    assert_close(y.sum(1), torch.ones(len(Y)))
    assert (y[missing] < 1).all()
    logits = vae.q_y.net(x)
    noise = (t * y.clamp(min=1e-12).log() - logits).detach()
    y = torch.where(missing[:, None], ((logits + noise) / t).softmax(-1), y)
    loc, scale = gaussian(through(vae.q_z.net, x.flatten(1), y))
    z = loc + scale * ((z - loc) / scale).detach()
    log_q = logits.log_softmax(-1)
    log_p = vae.p_y.logits.log_softmax(-1)
    kl = (log_q.exp() * (log_q - log_p)).sum(-1)
    of_label = log_p[Y] + 2.0 * log_q.gather(1, Y.clamp(min=0)[:, None]).squeeze(1)
    expected = log_bernoulli(x, through(vae.p_x.net, y, z)) + log_normal(z, torch.zeros(D), torch.ones(D))
    expected = expected - log_normal(z, loc, scale) + torch.where(missing, -kl, of_label)
    ours = sum(terms.values())
    assert_equal_with_gradients(ours, expected, vae)


def test_the_vae_is_pyros_elbo():
    vae, x = make(VAE)
    with LocalParameters():
        ours = seeded(lambda: vae.elbo().differentiable_loss(vae.model, vae.guide, x))
        theirs = seeded(lambda: Trace_ELBO().differentiable_loss(vae.model, vae.guide, x))
    assert_equal_with_gradients(ours, theirs, vae)
    plain, narrow = (
        seeded(lambda b=b: vae.elbo(beta=b).weighted_terms(vae.model, vae.guide, x, Y)) for b in (1.0, 4.0)
    )
    assert_close(narrow["log p(x)"], plain["log p(x)"])
    for name in ("log p(z)", "-log q(z)"):
        assert_close(narrow[name], 4 * plain[name])


@pytest.mark.parametrize(("labels", "y"), [(Classes(C), Y), (Binary(L), SEVERAL)], ids=["classes", "binary"])
def test_diva_and_m3_are_ccvaes_graph_less_its_weights(labels, y):
    """CCVAE's C.4: without labels DIVA's p(z_c) is CCVAE's Jensen bound. Eq. 2: M3 is the ELBO + alpha log q(y|z_c)."""
    diva, x = make(DIVA, labels)
    terms, drawn = values_of(diva, diva.elbo(beta=2.0), x, None)
    jensen = terms["-log q(y_m)"] + terms["log p(y)"] + terms["log p(z_c)"]
    assert_close(jensen, 2.0 * _jensen_by_hand(diva, drawn["z_c"]))

    m3, _ = make(M3, labels)
    alone, beside = (
        seeded(lambda kw=kw: m3.elbo(**kw).weighted_terms(m3.model, m3.guide, x, y))
        for kw in ({"classifier_weight": 0.0}, {"classifier_weight": 5.0})
    )
    for name in ("log p(x)", "log p(z_c)", "log p(z_s)", "-log q(z_c)", "-log q(z_s)"):
        assert_close(alone[name], beside[name])
    assert not any("log q(y_o" in name for name in alone)
    observed = (y != MISSING) if y.dim() == 1 else ~y.isnan().all(1)
    assert (beside["log q(y_o)"][observed] < 0).all() and not beside["log q(y_o)"][~observed].any()


@pytest.mark.parametrize(("labels", "y"), [(Classes(C), Y), (Binary(L), SEVERAL)], ids=["classes", "binary"])
def test_diva_equals_the_formula_by_hand(labels, y):
    """CCVAE C.4, its last line mended: row by row and label by label, with the draws that the objective made."""
    vae, x = make(DIVA, labels)
    alpha, beta, several = 7.0, 2.5, isinstance(labels, Binary)
    terms, drawn = values_of(vae, vae.elbo(classifier_weight=alpha, beta=beta), x, y)
    number = L if several else 2
    loc, scale = gaussian(vae.q_z.net(x))  # (B, number + 3)
    z = torch.cat([drawn["z_c"], drawn["z_s"].reshape(len(x), 3)], -1)
    z = loc + scale * ((z - loc) / scale).detach()
    total = log_bernoulli(x, through(vae.p_x.net, z))
    total = total - beta * log_normal(z, loc, scale) + beta * log_normal(z[:, number:], torch.zeros(3), torch.ones(3))
    rows = []
    for b in range(len(x)):
        z_c, row = z[b, :number], 0.0
        for i in range(L) if several else [0]:
            label = y[b, i] if several else y[b]
            if several:
                log_q = torch.stack(
                    [F.logsigmoid(sign * (vae.q_y.slope[i] * z_c[i] + vae.q_y.bias[i])) for sign in (-1, 1)]
                )
                log_z = [vae.p_z_c(torch.full((L,), v)).log_prob(z_c)[i] for v in (0.0, 1.0)]
                log_p = [F.logsigmoid(sign * vae.p_y.logits[i]) for sign in (-1, 1)]
            else:
                log_q = vae.q_y.net(z_c).log_softmax(-1)
                log_z = [vae.p_z_c(torch.tensor(c)).log_prob(z_c) for c in range(C)]
                log_p = list(vae.p_y.logits)
            if label.isnan() if several else label == MISSING:
                of_values = [q.exp() * (a + p - q) for q, a, p in zip(log_q, log_z, log_p, strict=True)]
                row = row + beta * sum(of_values)
            else:
                v = int(label)
                row = row + beta * log_z[v] + log_p[v] + alpha * log_q[v]
        rows.append(row)
    total, ours, parameters = total + torch.stack(rows), sum(terms.values()), list(vae.parameters())
    assert_close(ours, total)
    assert_close(*(torch.autograd.grad(bound.sum(), parameters) for bound in (ours, total)))


def _jensen_by_hand(vae, z_c):
    """E_q(y|z_c)[log p(z_c | y) p(y) / q(y | z_c)], `(B,)`."""
    if isinstance(vae.labels, Binary):
        on, off = (vae.p_z_c(torch.full_like(z_c[..., :1], v)).log_prob(z_c) for v in (1.0, 0.0))
        q = vae.q_y(z_c).probs
        p = vae.p_y().probs
        return (q * (on + p.log() - q.log()) + (1 - q) * (off + (1 - p).log() - (1 - q).log())).sum(-1)
    log_p = vae.p_z_c(torch.arange(C)).log_prob(z_c.unsqueeze(-2)) + vae.p_y.logits
    log_q = vae.q_y(z_c).logits.log_softmax(-1)
    return (log_q.exp() * (log_p - log_q)).sum(-1)


@pytest.mark.parametrize("model", [M2, M3, DIVA])
def test_raising_the_true_labels_probability_lowers_the_loss(model):
    vae, x = make(model)
    bias = vae.q_y.net.layers[-1].bias
    y = torch.full((len(Y),), 3)
    loss = vae.elbo(classifier_weight=5.0).differentiable_loss(vae.model, vae.guide, x, y)
    (gradient,) = torch.autograd.grad(loss, [bias])
    assert gradient[3] < 0 and (gradient[[0, 1, 2, 4]] > 0).all()
    none = vae.elbo(classifier_weight=0.0).differentiable_loss(vae.model, vae.guide, x, y)
    (gradient,) = torch.autograd.grad(none, [bias], allow_unused=True)
    assert gradient is None or not gradient.any(), "an observed label tells the classifier nothing by itself"


def test_what_cannot_be_summed_is_refused():
    vae, _ = make(M2, Binary(L))
    with pytest.raises(ValueError, match="missing_labels: got 'enumerate', which is 2\\^L terms here; expected"):
        vae.elbo(missing_labels="enumerate")
    for option, value in (("missing_labels", "all"), ("beta", -1.0), ("temperature", 0.0)):
        with pytest.raises(ValueError, match=f"{option}: got "):
            TraceLabels_ELBO(**{option: value})


@pytest.mark.parametrize("known", [1, 4, 6])
def test_labelled_rows_that_are_run_apart_have_the_same_terms_and_gradients(known):
    """What `LabelledFirst` says changes the time that M2 takes, and nothing else."""
    vae, x = make()
    y = torch.tensor([2, 0, 4, 2, 1, 3]).where(torch.arange(6) < known, MISSING)
    elbo, guide = vae.elbo(classifier_weight=7.0, beta=2.0), Mean()(vae.guide)
    decoded = []
    vae.p_x.net.register_forward_hook(lambda net, parents, out: decoded.append(out.shape[:-3].numel()))
    results = []
    for labelled in (0, known):
        with LocalParameters():
            rows = elbo.evaluate(Step(vae.model, guide, (x, y), scale=torch.arange(1.0, 7.0), labelled=labelled))
        results.append((rows.contributions(), torch.autograd.grad(rows.total(), list(vae.parameters()))))
    assert_close(*results)
    assert decoded == [6 * C, known, *[(6 - known) * C] * (known < 6)]


@pytest.mark.parametrize("model", [M2, M3, DIVA])
def test_without_an_objective_the_classifier_has_a_weight(model):
    """`elbo()` has weight 1, and `elbo_for(y)`, which `fit` takes, alpha N / N_labelled."""
    alpha = 1000.0
    vae, x = make(model)
    y = torch.tensor([2, MISSING, 0, 1, MISSING, MISSING])

    def of_labels(elbo):
        return seeded(lambda: elbo.weighted_terms(vae.model, vae.guide, x, y)["log q(y_o)"])

    assert_close(of_labels(vae.elbo()), of_labels(vae.elbo(classifier_weight=1.0)))
    assert_close(of_labels(vae.elbo_for(y)), of_labels(vae.elbo(classifier_weight=alpha * 6 / 3)))
    before = [p.clone() for p in vae.q_y.parameters()]
    fit(vae, x, y, epochs=1, batch_size=3, progress=False)
    assert not any(torch.equal(a, b) for a, b in zip(before, vae.q_y.parameters(), strict=True))
