"""Where an objective meets a model's options, handlers and single rows: weights, priors, masks, by hand."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import through
from cases import weighed
from ccvae_toy import Spy, gaussian, log_normal, recorded, seeded
from pyro import poutine
from pyro.poutine.mask_messenger import MaskMessenger
from torch.nn import functional as F
from torch.testing import assert_close

from pyro_semivae.infer import BalanceTerm, ClassifierTerm, EntropyTerm, LocalParameters, Step, TraceCCVAE_ELBO
from pyro_semivae.infer.graph import same_term
from pyro_semivae.models import CCVAE, DIVA, M1, M1M2, M2, M3, MVAE, InvertedVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import MISSING, Binary, Classes, is_missing

SHAPE, C, L, D_C, D_S, K, NAN = (1, 2, 7), 5, 3, 2, 4, 6, torch.nan
LABELS = {"classes": Classes(C), "binary": Binary(L)}
PRIOR = {
    "classes": torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25], dtype=torch.float64),
    "binary": torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64),
}
Y = {
    "classes": torch.tensor([2, MISSING, 0, 4, MISSING, 1]),
    "binary": torch.tensor([[1, 0, NAN], [NAN, NAN, NAN], [0, NAN, 1], [NAN, 1, NAN], [1, 1, 0], [NAN, 0, 1]]).double(),
}


def make(kind, model=CCVAE, seed=0, **options):
    torch.manual_seed(seed)
    if model in (CCVAE, DIVA):
        options = {"z_c": D_C, "z_s": D_S, "label_hidden": (6,), **options}
    if model is not InvertedVAE:
        options["networks"] = MLPs((11,))
    return model(SHAPE, LABELS[kind], **options), torch.rand(6, *SHAPE)


def log_q_of_known(vae, z_c, y):
    """The sum of log q(y_i | z_c) over the observed labels of each row, `(particles, B)`."""
    if y.dim() == 1:
        table = vae.q_y.net(z_c).log_softmax(-1)
        picked = table.gather(-1, y.clamp(min=0).expand(z_c.shape[:-1]).unsqueeze(-1)).squeeze(-1)
        return torch.where(y == MISSING, 0.0, picked)
    logits = vae.q_y.slope * z_c + vae.q_y.bias
    return torch.where(y.isnan(), 0.0, F.logsigmoid(torch.where(y == 1, logits, -logits))).sum(-1)


def log_p_of_latent(vae, z_c, y, log_p_y):
    """log p(z_c | y) where y is observed, the sum over its values where it is missing, `(B,)`."""
    if y.dim() == 1:
        each = log_normal(z_c.unsqueeze(-2), *gaussian(vae.p_z_c.net(torch.arange(C))))  # (B, C)
        known = each.gather(1, y.clamp(min=0)[:, None]).squeeze(1)
        return torch.where(y == MISSING, (each + log_p_y).logsumexp(1), known)
    scale = F.softplus(vae.p_z_c.raw) + 1e-3
    each = log_normal(z_c[:, None, :, None], vae.p_z_c.loc[..., None], scale[..., None])  # (B, 2, L)
    known = torch.where(y == 1, each[:, 1], each[:, 0])
    return torch.where(y.isnan(), (each + log_p_y).logsumexp(1), known).sum(-1)


@pytest.mark.parametrize("detach", ["none", "weight", "weighted-terms"])
@pytest.mark.parametrize("kind", LABELS)
def test_normalised_weights_by_hand(kind, detach):
    """w = q(y|z) over its mean over all K + 1 draws, z's own among them, which `detach` cuts in both places."""
    vae, x = make(kind, prior=PRIOR[kind])
    with torch.no_grad():
        for parameter in vae.q_y.parameters():
            parameter.add_(torch.randn_like(parameter))
    y, alpha, beta, size = Y[kind], 2.5, 1.7, D_C if kind == "classes" else L
    elbo = weighed(vae, weights="normalised", detach=detach, num_samples=K, classifier_weight=alpha, beta=beta)
    rows, draws = recorded(vae, elbo, x, y)
    log_p = PRIOR[kind].log() if kind == "classes" else torch.stack([1 - PRIOR[kind], PRIOR[kind]]).log()
    loc, scale = gaussian(vae.q_z.net(x))  # (B, size + D_s)
    drawn = torch.cat([draws["z_c"], draws["z_s"].flatten(2)], -1).detach()[: 1 + K]
    z = loc + scale * ((drawn - loc) / scale).detach()
    z_c, z_s = z[..., :size], z[0, :, size:]
    known = ~is_missing(y).reshape(6, -1).all(1)

    log_q = log_q_of_known(vae, z_c, y)  # (1 + K, B)
    cut = log_q_of_known(vae, z_c[:1].detach(), y)[0]
    own = log_q[0] if detach == "none" else cut
    w = torch.where(known, own.exp() / (torch.cat([own[None], log_q[1:]]).exp().sum(0) / (1 + K)), 1.0)
    logits = through(vae.p_x.net, z_c[0], z_s)
    pixels = x.flatten(1)
    terms = {
        "log p(x)": w * (pixels * F.logsigmoid(logits) + (1 - pixels) * F.logsigmoid(-logits)).sum(-1),
        "log p(z_s)": w * beta * log_normal(z_s, torch.zeros(D_S), torch.ones(D_S)),
        "-log q(z_s)": -w * beta * log_normal(z_s, loc[:, size:], scale[:, size:]),
        "-log q(z_c)": -w * beta * log_normal(z_c[0], loc[:, :size], scale[:, :size]),
        "log p(z_c)": w * beta * log_p_of_latent(vae, z_c[0], y, log_p),
        "-log q(y_o)": -w * (cut if detach == "weighted-terms" else log_q[0]),
        "log q(y_o)": torch.where(known, alpha * (log_q[1:].logsumexp(0) - math.log(K)), 0.0),  # of the others alone
    }
    assert len(terms) + 1 == len(rows.contributions())
    parameters = list(vae.parameters())
    for name, expected in terms.items():
        assert_close(rows.contributions()[name], expected, msg=lambda m, name=name: f"{name}: {m}")
        ours, theirs = (
            torch.autograd.grad(t.sum(), parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
            for t in (rows.contributions()[name], expected)
        )
        assert_close(ours, theirs, msg=lambda m, name=name: f"gradient of {name}: {m}")
    assert w[known].std() > 0.05 and w.max() <= K + 1


def kl(q, p):
    return (q * (q / p).log()).sum()


def test_the_balance_of_a_single_missing_row_is_that_rows():
    vae, x = make("classes", prior=PRIOR["classes"])
    vae.q_y = Spy(vae.q_y)
    terms = (vae.elbo() + 3.0 * BalanceTerm()).weighted_terms(
        vae.model, vae.guide, x, torch.tensor([0, 4, MISSING, 2, 2, 1])
    )
    q = vae.q_y.inner.net(vae.q_y.seen[0][0, 2]).softmax(-1)
    expected = -3.0 * kl(q, PRIOR["classes"])
    assert_close(terms["-KL(q(y_m) || p(y))"], expected)
    parameters = [*vae.q_y.parameters(), *vae.q_z.parameters()]
    both = (
        torch.autograd.grad(value, parameters, retain_graph=True) for value in (terms["-KL(q(y_m) || p(y))"], expected)
    )
    assert_close(*both)


def test_the_balance_of_binary_labels_is_over_each_labels_own_missing_rows():
    """No row, one and three of them."""
    vae, x = make("binary", prior=PRIOR["binary"])
    vae.q_y, y = Spy(vae.q_y), torch.zeros(6, L)
    y[4, 1], y[[0, 1, 5], 2] = NAN, NAN
    terms = (vae.elbo() + 3.0 * BalanceTerm()).weighted_terms(vae.model, vae.guide, x, y)
    on = vae.q_y.inner(vae.q_y.seen[0][0]).probs
    means, prior = (on[4, 1], on[[0, 1, 5], 2].mean()), PRIOR["binary"][1:]
    expected = -3.0 * sum(
        kl(torch.stack([q, 1 - q]), torch.stack([p, 1 - p])) for q, p in zip(means, prior, strict=True)
    )
    assert_close(terms["-KL(q(y_m) || p(y))"], expected)


class MaskOf(MaskMessenger):
    """`poutine.mask` for some sites."""

    def __init__(self, mask, *names):
        super().__init__(mask)
        self.names = names

    def _process_message(self, msg):
        if msg["name"] in self.names:
            super()._process_message(msg)


OBJECTIVES = {
    "ccvae": (CCVAE, {}, ("z_s", "x")),
    "diva": (DIVA, {}, ("z_s", "x")),
    "m2": (M2, {"z": 3}, ("z", "x")),
    "mvae": (MVAE, {"z": 3}, ("z", "x")),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_masked_sites_do_not_count(name, kind):
    """What `poutine.mask` masks of the data and latents has terms of 0, and all else is as it was."""
    model, sizes, sites = OBJECTIVES[name]
    vae, x = make(kind, model, **sizes)
    seen = torch.tensor([True, False, True, False, True, True])
    mask = seen if kind == "classes" else seen[:, None]

    def terms(*names):
        functions = (MaskOf(mask, *names)(fn) for fn in (vae.model, vae.guide))
        return seeded(lambda: vae.elbo().weighted_terms(*functions, x, Y[kind]))

    plain = terms()
    for site in sites:
        masked = terms(site)
        for term, value in plain.items():
            own = any(same_term(term.split(": ")[-1], f"{letter}({site})") for letter in ("log p", "-log q"))
            counts = seen if own else torch.ones_like(seen)
            assert_close(masked[term], value * counts, msg=lambda m, term=term, site=site: f"{site}, {term}: {m}")
        assert value.shape == (6,) and plain[f"log p({site})"].all()


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("model", [CCVAE, DIVA, M2, M1M2, InvertedVAE])
def test_the_prior_is_that_of_labels(model, kind, given):
    """The term log p(y) of an observed label is the logarithm of the prior that the model was made with, or uniform."""
    prior = PRIOR[kind] if given else None
    if model is M1M2:
        m1, x = make(kind, M1, z=3)
        vae = M1M2(m1, z=2, hidden=(6,), prior=prior)
    else:
        vae, x = make(kind, model, prior=prior)
    y, prior = Y[kind], prior if given else torch.full_like(PRIOR[kind], 1 / 5 if kind == "classes" else 1 / 2)
    terms = vae.elbo().weighted_terms(vae.model, vae.guide, x, y)
    each = prior[y] if kind == "classes" else torch.where(y == 1, prior, 1 - prior)
    each = torch.where(is_missing(y), 1.0, each).log().reshape(6, -1).sum(1)
    complete = ~is_missing(y).reshape(6, -1).any(1)
    assert_close(terms["log p(y_o)" if model is CCVAE else "log p(y)"][complete], each[complete])


@pytest.mark.parametrize("model", [CCVAE, DIVA])
def test_the_classifier_of_binary_labels_starts_at_bayes_rule(model):
    """For p(z|y) = N(+-d/2, 1) and even odds its slope is d, the separation."""
    for separation in (1.0, 3.0):
        vae, _ = make("binary", model, separation=separation)
        z = torch.linspace(-2, 2, 9)[:, None].expand(9, L)
        off, on = (vae.p_z_c(torch.full((1, L), value)).log_prob(z) for value in (0.0, 1.0))
        assert_close(vae.p_z_c.loc[1] - vae.p_z_c.loc[0], torch.full((L,), separation))
        assert_close(vae.q_y(z).logits, on - off, rtol=3e-3, atol=0)  # deviations start at 1.001


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", [*OBJECTIVES, "jensen", "sampled", "score"])
def test_masked_rows_do_not_count(name, kind):
    """Whole rows that `poutine.mask` leaves out, labelled or not, have terms of 0; their labels teach nothing."""
    model, sizes, _ = OBJECTIVES[{"jensen": "ccvae", "sampled": "ccvae", "score": "m2"}.get(name, name)]
    vae, x = make(kind, model, **sizes)
    options = {
        "score": {"missing_labels": "reinforce"},
        "jensen": {"marginal": name},
        "sampled": {"marginal": name},
    }.get(name, {})
    added = ((2.0, EntropyTerm()), (3.0, BalanceTerm()))
    options |= {"image_weight": 0.5} if model is InvertedVAE else {}
    elbo = weighed(vae, added=added, **options) if model is CCVAE else vae.elbo(**options)
    y, counts = Y[kind], torch.tensor([False, True, True, False, False, True])
    mask = counts if kind == "classes" else counts[:, None]

    def terms(y, masks=False):
        functions = [poutine.mask(fn, mask=mask) if masks else fn for fn in (vae.model, vae.guide)]
        return seeded(lambda: elbo.weighted_terms(*functions, x, y))

    plain, masked = terms(y), terms(y, masks=True)
    for term, value in masked.items():
        if term == "-KL(q(y_m) || p(y))":  # of the rows that count
            assert_close(value, terms(torch.where(mask, y, 0))[term])
        elif term != "score(y)":  # its gradient has the mean of the rows, which is another one
            assert_close(value, plain[term] * counts, msg=lambda m, term=term: f"{term}: {m}")
    everything = sum(value.flatten()[~counts].sum() for term, value in masked.items() if term != "-KL(q(y_m) || p(y))")
    gradients = torch.autograd.grad(everything, list(vae.parameters()), allow_unused=True, materialize_grads=True)
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("model", [CCVAE, DIVA, M2, MVAE, InvertedVAE])
def test_a_warm_up_is_a_beta_that_rises(model):
    """Half of it done, a beta of 5 is one of 2.5; at its end and after, 5. The objective itself stays as it is."""
    vae, x = make("classes", model)
    elbo = vae.elbo(beta=5.0)
    warmed = elbo.warmed_up(0.5)

    def at(objective, done):
        with LocalParameters():
            step = Step(vae.model, vae.guide, (x, Y["classes"]), done=done)
            return seeded(lambda: objective.evaluate(step)).contributions()

    assert_close(at(warmed, 0.25), at(vae.elbo(beta=2.5), 1.0))
    for done in (0.5, 0.8, 1.0):
        assert_close(at(warmed, done), at(elbo, done))
    assert_close(at(elbo, 0.25), at(elbo, 1.0))
    terms = [at(warmed, 0.25)]
    plain = seeded(lambda: vae.elbo().weighted_terms(vae.model, vae.guide, x, Y["classes"]))
    assert any(not torch.equal(value, plain[name]) for name, value in terms[0].items())


@pytest.mark.parametrize("model", [M2, M1M2, M3, DIVA])
def test_the_classifiers_weight_is_for_rows_with_any_label(model):
    """alpha N / N_labelled, partly labelled rows being labelled; alpha where none is, and no term without labels."""
    alpha = 100.0
    vae = M1M2(make("binary", M1)[0], z=2, hidden=(6,)) if model is M1M2 else make("binary", model)[0]
    y = Y["binary"][[0, 1, 1, 1, 3, 1]]

    def weights(elbo):
        return [part.weights for part in elbo.parts() if isinstance(part.what, ClassifierTerm)]

    assert weights(vae.elbo_for(y)) == [(pytest.approx(alpha * 6 / 2),)]
    assert weights(vae.elbo_for(y[1:3])) == [(pytest.approx(alpha),)]
    assert weights(vae.elbo_for(None)) == [] and not vae.elbo_for(None).needs_labels


class Two(torch.nn.Module):
    """p(a) p(u | a) p(b) p(v | b) p(x | u, v), q(u | x) q(v | x) q(a | u) q(b | v): two label sites."""

    def __init__(self):
        super().__init__()
        self.mean = {"a": torch.nn.Parameter(torch.randn(3, 1)), "b": torch.nn.Parameter(torch.randn(2, 1))}
        self.logits = {"a": torch.randn(3), "b": torch.randn(2)}
        self.encode, self.decode = torch.nn.Linear(4, 2), torch.nn.Linear(2, 4)
        self.classify = torch.nn.ModuleDict({"a": torch.nn.Linear(1, 3), "b": torch.nn.Linear(1, 2)})

    def model(self, x, a=None, b=None):
        with pyro.plate("data", len(x), dim=-1):
            parts = []
            for name, latent, y in (("a", "u", a), ("b", "v", b)):
                prior = dist.Categorical(logits=self.logits[name])
                y = pyro.sample(name, prior, obs=y, infer={"enumerate": "parallel"})
                parts.append(pyro.sample(latent, dist.Normal(self.mean[name][y], 1.0).to_event(1)))
            pyro.sample("x", dist.Normal(self.decode(torch.cat(parts, -1)), 1.0).to_event(1), obs=x)

    def guide(self, x, a=None, b=None):
        with pyro.plate("data", len(x), dim=-1):
            for i, (name, latent, y) in enumerate((("a", "u", a), ("b", "v", b))):
                z = pyro.sample(latent, dist.Normal(self.encode(x)[:, i : i + 1], 0.5).to_event(1))
                infer = {"enumerate": "parallel", "is_auxiliary": y is not None}
                pyro.sample(name, dist.Categorical(logits=self.classify[name](z)), obs=y, infer=infer)


def test_two_class_labels_of_which_rows_have_one_both_or_none():
    """The bound of design for each pattern: the weight is of what is observed, the rest is summed."""
    torch.manual_seed(0)
    two, x, k = Two(), torch.randn(4, 4), 3
    labels = {"a": torch.tensor([2, 0, MISSING, MISSING]), "b": torch.tensor([1, MISSING, 0, MISSING])}
    guide = poutine.trace(two.guide)
    elbo = TraceCCVAE_ELBO(num_samples=k, detach="none", weights="independent")
    terms = elbo.weighted_terms(two.model, guide, x, **labels)
    z = {name: guide.trace.nodes[latent]["value"] for name, latent in (("a", "u"), ("b", "v"))}  # (1 + K, B, 1)
    total = []
    for row in range(4):
        both = torch.stack([z["a"][0, row], z["b"][0, row]]).squeeze(-1)
        bracket = dist.Normal(two.decode(both), 1.0).log_prob(x[row]).sum()
        bracket = bracket - dist.Normal(two.encode(x[row]), 0.5).log_prob(both).sum()
        log_q, log_p = torch.zeros(1 + k), torch.zeros(())
        for name, y in labels.items():
            each = dist.Normal(two.mean[name], 1.0).log_prob(z[name][0, row]).squeeze(-1)
            prior = two.logits[name].log_softmax(-1)
            if y[row] == MISSING:
                bracket = bracket + (each + prior).logsumexp(0)
            else:
                bracket, log_p = bracket + each[y[row]], log_p + prior[y[row]]
                log_q = log_q + two.classify[name](z[name][:, row]).log_softmax(-1)[:, y[row]]
        log_q_x = log_q[1:].logsumexp(0) - math.log(k)
        total.append((log_q[0] - log_q_x).exp() * (bracket - log_q[0]) + log_q_x + log_p)
    assert_close(sum(terms.values()), torch.stack(total))
