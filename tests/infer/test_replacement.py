"""Latents replaced by fresh ones, and the labels of what is generated, as terms that keep style and class apart."""

import copy
import math
from types import SimpleNamespace

import graphs
import pyro
import pyro.distributions as dist
import pytest
import torch
from ccvae_toy import D_C, D_S, C, K, Y, make
from pyro import poutine
from terms import evaluate
from torch import nn
from torch.testing import assert_close

from pyro_semivae import CCVAE
from pyro_semivae.errors import InputError
from pyro_semivae.infer import (
    GeneratedLabelsTerm,
    LocalParameters,
    ReplacementTerm,
    Step,
    TraceLabels_ELBO,
    style_terms,
)
from pyro_semivae.infer.terms.generated_labels import through
from pyro_semivae.models import DIVA, M2, LaRVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Binary, Classes, Real

X, CLASSES = 6, 3


class Linear(nn.Module):
    """x ~ N(W_c z_c + W_s z_s + b, sigma^2), z_c ~ N(m_y, s^2), z_s ~ N(0, 1), and a guide with diagonal Gaussians."""

    def __init__(self, spread):
        super().__init__()
        torch.manual_seed(0)
        self.w_c, self.w_s, self.b = (nn.Parameter(torch.randn(*s)) for s in ((X, D_C), (X, D_S), (X,)))
        self.means, self.spread = nn.Parameter(2 * torch.randn(CLASSES, D_C)), nn.Parameter(torch.tensor(spread).log())
        self.sigma = 0.7
        self.q_s, self.q_c, self.q_y = nn.Linear(X, D_S), nn.Linear(X, D_C), nn.Linear(D_C, CLASSES)
        self.scale_s = nn.Parameter(torch.full((D_S,), 0.4))

    def model(self, x=None, y=None):
        with pyro.plate("data", len(x)):
            prior = dist.Categorical(torch.tensor([0.2, 0.5, 0.3]))
            y = pyro.sample("y", prior, obs=y, infer={"enumerate": "parallel"})
            z_c = pyro.sample("z_c", dist.Normal(self.means[y], self.spread.exp()).to_event(1))
            z_s = pyro.sample("z_s", dist.Normal(torch.zeros(D_S), 1.0).to_event(1))
            loc = z_c @ self.w_c.T + z_s @ self.w_s.T + self.b
            pyro.sample("x", dist.Normal(loc, self.sigma).to_event(1), obs=x)

    def guide(self, x=None, y=None):
        with pyro.plate("data", len(x)):
            z_c = pyro.sample("z_c", dist.Normal(self.q_c(x), 0.5).to_event(1))
            pyro.sample("y", dist.Categorical(logits=self.q_y(z_c)), obs=y, infer={"enumerate": "parallel"})
            pyro.sample("z_s", self.posterior(x, y))

    def posterior(self, x, y):
        return dist.Normal(self.q_s(x), self.scale_s).to_event(1)


class Exact(Linear):
    """Where z_c is known from y (its spread is nothing), the guide's z_s is the posterior given both."""

    def posterior(self, x, y):
        precision = torch.eye(D_S) + self.w_s.T @ self.w_s / self.sigma**2
        rest = x - self.b - self.means[y] @ self.w_c.T
        mean = torch.linalg.solve(precision, (rest @ self.w_s / self.sigma**2).T).T
        return dist.MultivariateNormal(mean, precision_matrix=precision)


def of(objective, pair, x, y):
    return {v.name: v.value for v in objective.evaluate(Step(pair.model, pair.guide, (x, y))).values}


def test_it_is_log_p_x_given_y_where_the_latents_that_are_kept_have_their_posterior():
    """Every single sample: the term with its densities is the evidence, and with the wrong sign of either it is not."""
    pair = Exact(1e-9)
    x, y = torch.randn(5, X), torch.tensor([2, 0, 1, 1, 2])
    found = of(TraceLabels_ELBO() + ReplacementTerm("z_c", densities=True), pair, x, y)
    told = {name: value for name, value in found.items() if name.startswith("replaced: ")}
    assert [*told] == ["replaced: log p(x)", "replaced: log p(z_s)", "replaced: -log q(z_s)"]
    covariance = pair.w_s @ pair.w_s.T + pair.sigma**2 * torch.eye(X)
    evidence = dist.MultivariateNormal(pair.means[y] @ pair.w_c.T + pair.b, covariance).log_prob(x)
    assert_close(sum(told.values()), evidence, rtol=1e-6, atol=1e-6)


def test_its_mean_and_gradients_are_those_of_the_closed_form():
    """E log N(x; W_c z_c + W_s z_s + b, sigma^2), z_c ~ N(m_y, s^2), z_s ~ N(mu(x), t^2), within 5 standard errors."""
    pair, repeats = Linear(0.6), 4000
    x, y = torch.randn(4, X), torch.tensor([2, 0, 1, 1])
    many = x.repeat_interleave(repeats, 0), y.repeat_interleave(repeats)
    own = [p for name, p in pair.named_parameters() if not name.startswith(("q_c", "q_y"))]
    found = of(TraceLabels_ELBO() + ReplacementTerm("z_c"), pair, *many)["replaced: log p(x)"]
    values = found.reshape(4, repeats)
    loc = pair.means[y] @ pair.w_c.T + pair.q_s(x) @ pair.w_s.T + pair.b
    spread = pair.spread.exp() ** 2 * pair.w_c.square().sum() + (pair.w_s.square() @ pair.scale_s.square()).sum()
    exact = dist.Normal(loc, pair.sigma).log_prob(x).sum(1) - spread / (2 * pair.sigma**2)
    error = values.std(1) / math.sqrt(repeats)
    assert ((values.mean(1) - exact).abs() < 5 * error).all()
    expected = torch.autograd.grad(exact.sum(), own)
    means = [torch.autograd.grad(values[:, part].mean(1).sum(), own, retain_graph=True) for part in parts(repeats)]
    for i, gradient in enumerate(expected):
        each = torch.stack([mean[i] for mean in means])
        error = each.std(0) / math.sqrt(len(each))
        assert ((each.mean(0) - gradient).abs() < 5 * error + 1e-9).all(), i
    others = [*pair.q_c.parameters(), *pair.q_y.parameters()]
    assert not any(g.any() for g in torch.autograd.grad(found.sum(), others, allow_unused=True, materialize_grads=True))


def parts(repeats, number=20):
    return [slice(i, repeats, number) for i in range(number)]


def test_missing_labels_are_sampled_from_the_guide_or_summed_under_it():
    pair, repeats = Linear(0.6), 8000
    x = torch.randn(3, X)
    y = torch.tensor([-1, 1, -1])
    pair.q_c.forward, pair.q_s.forward = (lambda x: x[:, :D_C]), (lambda x: x[:, :D_S])
    many = x.repeat_interleave(repeats, 0), y.repeat_interleave(repeats)
    means = {}
    for how in ("sample", "enumerate"):
        value = of(TraceLabels_ELBO() + ReplacementTerm("z_c", missing_labels=how), pair, *many)["replaced: log p(x)"]
        value = value.reshape(3, repeats)
        means[how] = value.mean(1), value.std(1) / math.sqrt(repeats)
        given = torch.autograd.grad(value.sum(), pair.q_y.parameters(), allow_unused=True, materialize_grads=True)
        assert not any(g.any() for g in given), "which label it is has no gradient"
    error = (means["sample"][1] ** 2 + means["enumerate"][1] ** 2).sqrt()
    assert ((means["sample"][0] - means["enumerate"][0]).abs() < 5 * error).all()
    # By hand: q(y|z_c) of the guide's z_c, and the closed form for each label.
    z_c = x[:, None, :D_C] + 0.5 * torch.randn(3, repeats, D_C)
    q_y = pair.q_y(z_c).softmax(-1).mean(1)
    q_y[1] = torch.eye(CLASSES)[1]
    loc = (pair.means @ pair.w_c.T)[None] + (x[:, :D_S] @ pair.w_s.T + pair.b)[:, None]
    spread = pair.spread.exp() ** 2 * pair.w_c.square().sum() + (pair.w_s.square() @ pair.scale_s.square()).sum()
    each = dist.Normal(loc, pair.sigma).log_prob(x[:, None]).sum(-1) - spread / (2 * pair.sigma**2)
    expected = (q_y * each).sum(1)
    slack = 5 * means["enumerate"][1] + 5 * each.std(1) / math.sqrt(repeats)
    assert ((means["enumerate"][0] - expected).abs() < slack).all()
    no_label = of(TraceLabels_ELBO() + ReplacementTerm("z_c"), pair, many[0], None)["replaced: log p(x)"]
    assert ((no_label.reshape(3, repeats).mean(1) - means["sample"][0]).abs() < 7 * error)[[0, 2]].all()


def spied(vae, objective, x, y):
    """The terms, and what the decoder was given, run by run."""
    seen = []
    hook = vae.p_x.net.register_forward_hook(lambda net, inputs, out: seen.append(inputs))
    found = {v.name: v.value for v in evaluate(objective, vae, x, y).values}
    hook.remove()
    return found, seen


@pytest.mark.parametrize("bound", ["exact", "jensen", "sampled"])
def test_the_decoder_gets_a_fresh_z_c_and_the_guides_z_s(bound):
    vae, x = make()
    plain = {v.name: v.value for v in evaluate(vae.elbo(num_samples=K, marginal=bound), vae, x, Y).values}
    found, seen = spied(vae, vae.elbo(num_samples=K, marginal=bound) + ReplacementTerm("z_c"), x, Y)
    (z_c, z_s), (fresh, kept) = seen
    assert_close(z_s.reshape(len(Y), D_S), kept.reshape(len(Y), D_S))
    assert not torch.isclose(z_c.reshape(len(Y), D_C), fresh.reshape(len(Y), D_C)).any()
    p = (x.flatten(1), vae.p_x(fresh.reshape(len(Y), D_C), kept.reshape(len(Y), D_S)))
    assert_close(found["replaced: log p(x)"], p[1].log_prob(x))
    if bound != "sampled":  # which draws between
        assert_close({name: found[name] for name in plain}, plain)


def test_fresh_latents_are_those_of_the_labels_that_are_known():
    vae, _ = make()
    y = torch.tensor([2, 0]).repeat_interleave(3000)
    x = torch.rand(len(y), 1, 2, 7)
    _, seen = spied(vae, vae.elbo(num_samples=K) + ReplacementTerm("z_c"), x, y)
    fresh = seen[-1][0].reshape(2, 3000, D_C)
    fn = vae.p_z_c(torch.tensor([2, 0])).base_dist
    assert ((fresh.mean(1) - fn.loc).abs() < 5 * fn.scale / math.sqrt(3000)).all()
    assert ((fresh.std(1) / fn.scale - 1).abs() < 0.1).all()


def attributes(model=CCVAE, **options):
    torch.manual_seed(0)
    return model((1, 2, 7), Binary(4), z_s=D_S, networks=MLPs((11,)), **options)


NAN = math.nan
SEVERAL = torch.tensor([[1, 0, 1, NAN], [NAN] * 4, [0, NAN, 1, 1], [0, 0, 0, 1], [NAN, 1, NAN, 0]])


def test_of_several_labels_one_entry_of_each_row_is_fresh_and_the_others_are_kept():
    vae, x = attributes(), torch.rand(5, 1, 2, 7)
    objective = vae.elbo(num_samples=K) + ReplacementTerm("z_c", entries="one", densities=True)
    found, seen = spied(vae, objective, x, SEVERAL)
    (z_c, _), (mixed, _) = [[part.reshape(5, -1) for part in each] for each in seen]
    assert torch.equal((z_c != mixed).sum(1), torch.ones(5, dtype=torch.long))
    kept = z_c == mixed
    of_guide = vae.q_z(x)[0]
    log_q = of_guide.log_prob(z_c).where(kept, torch.tensor(0.0)).sum(1)
    assert_close(found["replaced: -log q(z_c)"], -log_q)
    means = torch.stack([vae.p_z_c(torch.full((5, 4), value)).log_prob(z_c) for value in (0.0, 1.0)])
    log_p, (no, yes) = found["replaced: log p(z_c)"], means.where(kept, torch.tensor(0.0))
    y, known = SEVERAL.nan_to_num(), ~SEVERAL.isnan()
    assert_close(log_p[3], torch.where(y == 1, yes, no).sum(1)[3])
    least = torch.where(known, torch.where(y == 1, yes, no), torch.minimum(no, yes)).sum(1)
    most = torch.where(known, torch.where(y == 1, yes, no), torch.maximum(no, yes)).sum(1)
    assert ((least - 1e-9 <= log_p) & (log_p <= most + 1e-9)).all()
    everything, seen = spied(vae, vae.elbo(num_samples=K) + ReplacementTerm("z_c", densities=True), x, SEVERAL)
    assert (seen[0][0] != seen[1][0]).all() and "replaced: log p(z_c)" not in everything
    many = vae.elbo(num_samples=K) + ReplacementTerm("z_c", entries="one")
    _, seen = spied(vae, many, x[:1].expand(4000, 1, 2, 7), SEVERAL[:1].expand(4000, 4))
    which = (seen[0][0] != seen[1][0]).reshape(4000, 4).double().mean(0)
    assert ((which - 0.25).abs() < 5 * math.sqrt(0.25 * 0.75 / 4000)).all(), "each of them as often"


def told(**options):
    return GeneratedLabelsTerm(labels_from="prior", kept=["z_s"], teaches="model", **options)


@pytest.mark.parametrize("classifier", ["network", "bayes"])
def test_the_model_alone_learns_of_the_labels_of_what_it_generates(classifier):
    """By hand: the gradient of log q(y'|x~) through x~ = E[x|z_c', z_s], of a guide whose parameters are numbers."""
    vae, x = make(classifier)
    frozen = copy.deepcopy(vae).requires_grad_(False)
    y = torch.full_like(Y, -1)
    calls = {"p_z_c": [], "q_y": [], "q_z": [], "decoder": []}
    step = Step(vae.model, vae.guide, (x, y))
    with LocalParameters():
        (run,) = vae.elbo(num_samples=K).runs(step)
        modules = {"p_z_c": vae.p_z_c, "q_y": vae.q_y, "q_z": vae.q_z, "decoder": vae.p_x.net}
        for name, module in modules.items():
            module.register_forward_hook(lambda _, inputs, out, name=name: calls[name].append((inputs, out)))
        (value,) = told().values(run).values()
    (label,), _ = calls["p_z_c"][0]
    fresh, kept = (part.reshape(len(Y), -1) for part in calls["decoder"][0][0])
    assert_close(kept, run.value("z_s").detach())
    assert not kept.requires_grad and fresh.requires_grad and len(label.unique()) > 1
    ((seen,), q), ((z_c,), _) = calls["q_z"][0], calls["q_y"][0]
    made = vae.p_x(fresh, kept).mean
    assert_close(seen, made.reshape(seen.shape))
    noise = ((z_c - q[0].base_dist.loc) / q[0].base_dist.scale).detach()
    again = frozen.q_z(made)[0].base_dist
    by_hand = frozen.q_y(again.loc + again.scale * noise).log_prob(label)
    assert_close(value, by_hand)
    ours, expected = (
        torch.autograd.grad(t.sum(), [*vae.parameters()], retain_graph=True, allow_unused=True, materialize_grads=True)
        for t in (value, by_hand)
    )
    learns = set()
    for (name, _), one, other in zip(vae.named_parameters(), ours, expected, strict=True):
        assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")
        learns |= {name.split(".")[0]} if one.any() else set()
    assert learns == {"p_x", "p_z_c"}
    with LocalParameters(), torch.no_grad():
        assert [*told().values(run)] == ["shown: log q(y'|x~)"], "a value without gradients is had without them"


def test_the_style_of_what_is_generated_is_read_off_it():
    """log q(z_s|x~) at the z_s that x~ was decoded of, by hand with its gradient, beside log q(y'|x~)."""
    vae, x = make()
    frozen = copy.deepcopy(vae).requires_grad_(False)
    calls = {"q_z": [], "decoder": []}
    step = Step(vae.model, vae.guide, (x, Y))
    with LocalParameters():
        (run,) = vae.elbo(num_samples=K).runs(step)
        for name, module in {"q_z": vae.q_z, "decoder": vae.p_x.net}.items():
            module.register_forward_hook(lambda _, inputs, out, name=name: calls[name].append((inputs, out)))
        found = told(latents=["z_s"]).values(run)
    assert [*found] == ["shown: log q(y'|x~)", "shown: log q(z_s|x~)"]
    fresh, kept = (part.reshape(len(Y), -1) for part in calls["decoder"][0][0])
    assert_close(kept, run.value("z_s").detach())
    by_hand = frozen.q_z(vae.p_x(fresh, kept).mean)[1].log_prob(kept)
    assert_close(found["shown: log q(z_s|x~)"], by_hand)
    ours, expected = (
        torch.autograd.grad(t.sum(), [*vae.parameters()], retain_graph=True, allow_unused=True, materialize_grads=True)
        for t in (found["shown: log q(z_s|x~)"], by_hand)
    )
    for one, other in zip(ours, expected, strict=True):
        assert_close(one, other)
    assert any(one.any() for one in ours)


def test_weights_of_the_terms_for_interventions():
    vae, x = make()
    added = style_terms("z_c", kept=["z_s"], tau=0.5, generated=8.0, style=2.0, independence=4.0, share=1.0)
    for done, factor in ((1.0, 1.0), (0.125, 0.5)):
        found = evaluate(vae.elbo(num_samples=1) + added, vae, x, Y, done=done)
        weights = {v.name: v.weight for v in found.values if v.name.startswith(("replaced", "-TC")) or "x~" in v.name}
        risen = {
            "shown: log q(y'|x~)": 8.0 * factor,
            "shown: log q(z_s|x~)": 2.0 * factor,
            "-TC(z_c;z_s)": 4.0 * factor,
        }
        assert weights == {"replaced: log p(x)": 0.5, **risen}
    without = style_terms("z_c", kept=["z_s"], style=0.0, independence=0.0)
    names = {v.name for v in evaluate(vae.elbo(num_samples=1) + without, vae, x, Y).values}
    assert not names & {"shown: log q(z_s|x~)", "-TC(z_c;z_s)"}
    alone = style_terms()
    assert [*evaluate(vae.elbo(num_samples=1) + alone, vae, x, Y).contributions()][-1] == "shown: log q(y'|x~)"
    with pytest.raises(InputError, match=r"tau, generated: got 0\.5 and 0\.0"):
        style_terms(generated=0.0, style=0.0)
    with pytest.raises(InputError, match=r"style: got 1\.0 without `generated`"):
        style_terms("z_c", kept=["z_s"], generated=0.0, style=1.0)


def test_labels_from_the_prior_need_none_that_is_known():
    vae, x = make()
    x = x[:1].expand(3000, 1, 2, 7)
    for y in (None, torch.full((3000,), -1)):
        labels = []
        hook = vae.p_z_c.register_forward_hook(lambda _, inputs, out, labels=labels: labels.append(inputs[0]))
        found = {v.name: v.value for v in evaluate(vae.elbo(num_samples=1) + told(), vae, x, y).values}
        hook.remove()
        assert found["shown: log q(y'|x~)"].shape == (3000,)
        drawn = next(label for label in labels if label.shape == (3000,))
        share = torch.bincount(drawn, minlength=C) / 3000
        p = vae.p_y.logits.exp()
        assert ((share - p).abs() < 5 * (p * (1 - p) / 3000).sqrt()).all()
    with LocalParameters():
        left_out = (vae.elbo(num_samples=1) + told()).terms(vae.model, vae.guide, x)  # y is no argument at all
    assert left_out["shown: log q(y'|x~)"].shape == (3000,)
    batch = evaluate(vae.elbo(num_samples=1) + GeneratedLabelsTerm(), vae, x, torch.full((3000,), -1))
    assert not next(v.value for v in batch.values if v.name == "log q(y'|x~)").any(), "no label to take"


def test_several_labels_of_what_is_generated():
    vae, x = attributes(), torch.rand(5, 1, 2, 7)
    found, seen = spied(vae, vae.elbo(num_samples=K) + told(), x, SEVERAL)
    (z_c, z_s), (fresh, kept) = [[part.reshape(5, -1) for part in each] for each in seen]
    assert_close(z_s, kept)
    assert (z_c != fresh).all() and (found["shown: log q(y'|x~)"] < 0).all()


def test_other_models_of_the_family():
    """DIVA has the same graph; M2 has no latent below its label, and what it generates keeps z."""
    torch.manual_seed(0)
    diva = DIVA((1, 2, 7), Classes(C), z_c=D_C, z_s=D_S, networks=MLPs((11,)))
    x = torch.rand(len(Y), 1, 2, 7)
    found = evaluate(diva.elbo() + 0.5 * ReplacementTerm("z_c", missing_labels="enumerate") + told(), diva, x, Y)
    assert {"replaced: log p(x)", "shown: log q(y'|x~)"} <= {v.name for v in found.values}
    m2 = M2((1, 2, 7), Classes(C), z=D_S, networks=MLPs((11,)))
    y = torch.tensor([1, 0, 2, 4, 1, 2, 3, 0])
    term = GeneratedLabelsTerm(labels_from="prior", teaches="model")
    value = next(v.value for v in evaluate(m2.elbo() + term, m2, x, y).values if v.name == "shown: log q(y'|x~)")
    gradients = torch.autograd.grad(value.sum(), [*m2.parameters()], allow_unused=True, materialize_grads=True)
    learns = {name.split(".")[0] for (name, _), g in zip(m2.named_parameters(), gradients, strict=True) if g.any()}
    assert learns == {"p_x"}


def test_bad_input_is_told():
    vae, x = make()
    binary, m2 = attributes(), M2((1, 2, 7), Classes(C), z=D_S, networks=MLPs((11,)))
    elbo, of_binary = vae.elbo(num_samples=1), binary.elbo(num_samples=1)
    empty = CCVAE((1, 2, 7), Classes(C), z_c=D_C, z_s=0, networks=MLPs((11,)))
    cases = [
        (lambda: ReplacementTerm(), "got no latent"),
        (lambda: evaluate(empty.elbo() + ReplacementTerm("z_c"), empty, x, Y), r"got \['z_s'\] of size 0 beside"),
        (lambda: ReplacementTerm("z_c", missing_labels="gumbel"), "missing_labels: got 'gumbel'"),
        (lambda: ReplacementTerm("z_c", entries="two"), "entries: got 'two'"),
        (lambda: GeneratedLabelsTerm(teaches="both"), "teaches: got 'both'"),
        (lambda: GeneratedLabelsTerm(labels_from="guide"), "labels_from: got 'guide'"),
        (lambda: evaluate(elbo + ReplacementTerm("z"), vae, x, Y), r"got \['z'\]; expected latents: z_c, z_s"),
        (lambda: evaluate(elbo + ReplacementTerm("z_c", entries="one"), vae, x, Y), "entries: got 'one'"),
        (lambda: evaluate(elbo + GeneratedLabelsTerm(kept=["z"]), vae, x, Y), r"kept: got \['z'\]"),
        (lambda: evaluate(elbo + told(latents=["z_c"]), vae, x, Y), "got a guide that says it without the data"),
        (lambda: evaluate(elbo + GeneratedLabelsTerm(latents=["z"]), vae, x, Y), r"latents: got \['z'\]"),
        (
            lambda: evaluate(of_binary + ReplacementTerm("z_c", missing_labels="enumerate"), binary, x[:5], SEVERAL),
            "missing_labels: got 'enumerate' and the labels",
        ),
        (
            lambda: evaluate(m2.elbo() + GeneratedLabelsTerm(labels_from="prior", kept=["z"]), m2, x, None),
            "latent 'z' has a value for each value of",
        ),
    ]
    for make_it, message in cases:
        with pytest.raises(InputError, match=message):
            make_it()


def test_continuous_labels_are_as_the_bound_has_them():
    torch.manual_seed(0)
    vae = LaRVAE((1, 2, 7), Real(3), z=2, networks=MLPs((11,)))
    y = torch.tensor([[0.5, NAN, 1.0], [NAN] * 3, [1.0, 2.0, 3.0]])
    found, seen = spied(vae, TraceLabels_ELBO(max_plate_nesting=2) + ReplacementTerm("z"), torch.rand(3, 1, 2, 7), y)
    (own, z), (same, fresh) = [[part.reshape(3, -1) for part in each] for each in seen]
    assert_close(own, same)
    assert_close(own[~y.isnan()], y[~y.isnan()])
    assert (z != fresh).all() and "replaced: log p(x)" in found


def test_rows_without_data_have_no_part():
    pair = Linear(0.6)
    guide = pair.guide
    pair.guide = lambda x, y: guide(x.nan_to_num(), y)
    x = torch.randn(3, X)
    x[1] = NAN
    value = of(TraceLabels_ELBO() + ReplacementTerm("z_c"), pair, x, torch.tensor([2, 0, -1]))["replaced: log p(x)"]
    assert value[1] == 0 and (value[[0, 2]] < 0).all()
    gradients = torch.autograd.grad(value.sum(), pair.parameters(), allow_unused=True, materialize_grads=True)
    assert all(g.isfinite().all() for g in gradients)


def test_labels_of_the_batch_where_it_has_none_are_no_term():
    vae, x = make()
    term = GeneratedLabelsTerm(labels_from="batch")
    assert not [v for v in evaluate(vae.elbo(num_samples=1) + term, vae, x, None).values if "x~" in v.name]


@pytest.mark.parametrize("term", [ReplacementTerm("z_c", share=0.4, densities=True), told(share=0.4)])
def test_some_rows_have_the_term_for_all(term):
    """Three of eight rows, others each time, and 8/3 as large."""
    vae, x = make()
    found, seen = spied(vae, vae.elbo(num_samples=K) + term, x, Y)
    names = [name for name in found if name.startswith("replaced: ") or "x~" in name]
    (_, z_s), (fresh, kept) = [[part.reshape(-1, part.shape[-1]) for part in each] for each in seen]
    rows = (kept[:, None] == z_s[None]).all(-1).double().argmax(1)
    assert len(rows.unique()) == 3 and (kept == z_s[rows]).all()
    for name in names:
        assert torch.equal(found[name].nonzero()[:, 0], rows.sort().values), name
    if "replaced: log p(x)" in found:
        expected = vae.p_x(fresh, kept).log_prob(x[rows]) * 8 / 3
        assert_close(found["replaced: log p(x)"][rows], expected)
        q = vae.q_z(x)[1].log_prob(z_s)
        assert_close(found["replaced: -log q(z_s)"][rows], -q[rows] * 8 / 3)
    times = torch.zeros(8)
    with LocalParameters():
        for _ in range(400):
            step = Step(vae.model, vae.guide, (x, Y))
            (run,) = vae.elbo(num_samples=1).runs(step)
            times += next(iter(term.values(run).values())).detach() != 0
    assert ((times / 400 - 3 / 8).abs() < 5 * math.sqrt(0.375 * 0.625 / 400)).all()


def test_some_rows_of_several_labels():
    vae, x = attributes(), torch.rand(5, 1, 2, 7)
    term = ReplacementTerm("z_c", entries="one", densities=True, share=0.6)
    found, seen = spied(vae, vae.elbo(num_samples=K) + term + 0.5 * told(share=0.6), x, SEVERAL)
    (z_c, z_s), (mixed, kept), _ = [[part.reshape(part.shape[0], -1) for part in each] for each in seen]
    rows = (kept[:, None] == z_s[None]).all(-1).double().argmax(1)
    same = mixed == z_c[rows]
    assert torch.equal((~same).sum(1), torch.ones(3, dtype=torch.long))
    log_q = vae.q_z(x)[0].log_prob(z_c)[rows].where(same, torch.tensor(0.0)).sum(1)
    assert_close(found["replaced: -log q(z_c)"][rows], -log_q * 5 / 3)
    assert (found["shown: log q(y'|x~)"] != 0).sum() == 3


def test_some_rows_with_every_value_of_the_label():
    vae, x = make()
    term = ReplacementTerm("z_c", missing_labels="enumerate", share=0.4)
    found, seen = spied(vae, vae.elbo(num_samples=K) + term, x, Y)
    (z_c, z_s), *each = [[part.reshape(-1, part.shape[-1]) for part in parts] for parts in seen]
    rows = (each[0][1][:, None] == z_s[None]).all(-1).double().argmax(1)
    q_y = vae.q_y(z_c).probs
    known = Y >= 0
    q_y[known] = torch.eye(C)[0]  # of a label that is known there is one pass, the first
    values = torch.stack([vae.p_x(fresh, kept).log_prob(x[rows]) for fresh, kept in each], 1)
    assert values.shape == (3, C)
    assert_close(found["replaced: log p(x)"][rows], (q_y[rows] * values).sum(1) * 8 / 3)


def masked_rows(pair, mask):
    """The same pair, some rows left out by a handler around both."""
    keep = poutine.mask(mask=mask)
    return SimpleNamespace(model=keep(pair.model), guide=keep(pair.guide))


def test_masked_rows_do_not_count():
    pair, x, y = Linear(0.6), torch.randn(6, X), torch.tensor([2, 0, -1, 1, -1, 0])
    pair.guide = lambda x, y=None, of=pair.guide: of(x, y)
    mask = torch.tensor([True, False, True, True, False, True])
    objective = TraceLabels_ELBO() + ReplacementTerm("z_c", densities=True) + told()
    found = of(objective, masked_rows(pair, mask), x, y)
    for name in [name for name in found if name.startswith(("replaced", "shown"))]:
        assert torch.equal(found[name] != 0, mask), name
    for term in (ReplacementTerm("z_c", share=0.5), told(share=0.5)):
        with pytest.raises(InputError, match=r"share: got 0\.5 of rows some of which poutine\.mask leaves out"):
            of(TraceLabels_ELBO() + term, masked_rows(pair, mask), x, y)


def test_arguments_are_passed_as_they_came():
    """By name where they have no other way, with defaults of their own; a scalar has no rows."""
    pair = Linear(0.6)
    seen = []

    def model(x, *, y=None, temperature=2.0):
        seen.append((len(x), temperature))
        return pair.model(x, y)

    def guide(x, *, y=None, temperature=2.0):
        seen.append((len(x), temperature))
        return pair.guide(x, y)

    objective = TraceLabels_ELBO() + ReplacementTerm("z_c", share=0.5) + told(share=0.5)
    x, y = torch.randn(6, X), torch.tensor([2, 0, -1, 1, -1, 0])
    objective.differentiable_loss(model, guide, x, y=y).backward()
    assert seen == [(6, 2.0), (6, 2.0), (3, 2.0), (3, 2.0), (3, 2.0)]
    objective.differentiable_loss(model, guide, x, temperature=torch.tensor(0.5)).backward()
    assert {float(temperature) for _, temperature in seen[5:]} == {0.5}


def test_a_class_beside_other_labels_is_given_in_its_own_shape():
    """Rows are dimension -2 there; as an argument it is `(B,)` all the same."""
    for name in ("rotation", "own_folder"):
        vae, rows = graphs.build(name)
        for labels_from in ("batch", "prior"):
            seen = []
            vae.guide = lambda *args, of=vae.guide, seen=seen, **kwargs: seen.append(args) or of(*args, **kwargs)
            term = GeneratedLabelsTerm(labels_from=labels_from)
            with LocalParameters():
                vae.elbo().evaluate(Step(vae.model, vae.guide, (*rows.values(),)))
                found = (vae.elbo() + term).evaluate(Step(vae.model, vae.guide, (*rows.values(),)))
            assert any("x~" in v.name for v in found.values)
            shapes = {tuple(None if a is None else a.shape for a in args) for args in seen}
            assert len(shapes) == 1, shapes


def test_continuous_labels_that_are_missing_on_all_rows():
    torch.manual_seed(0)
    vae = LaRVAE((1, 2, 7), Real(3), z=2, networks=MLPs((11,)))
    x, bound = torch.rand(4, 1, 2, 7), TraceLabels_ELBO(max_plate_nesting=2)
    term = GeneratedLabelsTerm("y", labels_from="prior")
    for y in (None, torch.full((4, 3), NAN)):
        found = {v.name: v.value for v in evaluate(bound + term, vae, x, y).values}
        assert (found["-|y' - E[y|x~]|^2"] < 0).all()
        told_of = {v.name: v.value for v in evaluate(bound + ReplacementTerm("z", densities=True), vae, x, y).values}
        kinds = {name.replace("_m", "") for name in told_of if name.startswith("replaced")}
        assert kinds == {"replaced: log p(x)", "replaced: log p(y)", "replaced: -log q(y)"}
    with pytest.raises(InputError, match="GeneratedLabelsTerm: got no label; expected a model with one"):
        evaluate(vae.elbo() + GeneratedLabelsTerm(labels_from="prior"), vae, x, torch.zeros(4, 3))


def test_both_may_learn_in_one_objective():
    vae, x = make()
    found = evaluate(vae.elbo(num_samples=1) + told() + GeneratedLabelsTerm(labels_from="prior"), vae, x, Y)
    assert {"log q(y'|x~)", "shown: log q(y'|x~)"} <= {v.name for v in found.values}


def test_data_that_the_guide_gets_under_another_name_are_told():
    pair = Linear(0.6)
    named = SimpleNamespace(
        model=lambda images, y=None: pair.model(images, y), guide=lambda images, y=None: pair.guide(images, y)
    )
    x, y = torch.randn(3, X), torch.tensor([2, 0, 1])
    with pytest.raises(InputError, match=r"model: its data \['x'\] are no arguments of that name"):
        of(TraceLabels_ELBO() + told(), named, x, y)


def test_data_that_a_guide_does_not_look_at_have_no_gradient():
    weight = torch.tensor([2.0, 3.0], requires_grad=True)
    inputs = {"seen": weight * torch.ones(4, 2), "unseen": weight * torch.ones(4, 2)}
    at = {name: value.detach().requires_grad_() for name, value in inputs.items()}
    values = at["seen"].square().sum(1)
    found = through(values, at, inputs)
    assert_close(found, torch.full((4,), 13.0))
    assert_close(torch.autograd.grad(found.sum(), weight)[0], torch.tensor([16.0, 24.0]))
    with pytest.raises(InputError, match="got a guide that says it without the data"):
        through(weight.sum().expand(4), at, inputs)
