"""MVAE: the product of experts, and the sub-sampled ELBOs against formulas by hand."""

import pytest
import torch
from ccvae_toy import Spy
from torch import nn
from torch.distributions import Bernoulli, Categorical, Normal
from torch.testing import assert_close

from pyro_semivae import tasks
from pyro_semivae.infer import LocalParameters, Mean, Step, TraceMVAE_ELBO
from pyro_semivae.infer.graph import NamedTerms
from pyro_semivae.models import CCVAE, MVAE
from pyro_semivae.nn import MLPs, positive
from pyro_semivae.spaces import MISSING, Binary, Classes, is_missing

SHAPE, C, L, D = (1, 4, 7), 5, 3, 2
N = float("nan")
Y = {
    "classes": torch.tensor([2, MISSING, 0, 4, MISSING, 1]),
    "binary": torch.tensor([[1, 0, 1], [N, N, N], [0, N, 1], [N, 1, N], [N, N, N], [1, 1, 0]], dtype=torch.float64),
}


def make(kind):
    torch.manual_seed(0)
    vae = MVAE(SHAPE, Classes(C) if kind == "classes" else Binary(L), z=D, networks=MLPs((11,)), label_hidden=(6,))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return vae, torch.rand(6, *SHAPE)


def experts(vae, x, y):
    """The Gaussians of what is known of one row: lists of means and scales."""
    loc, scale = [torch.zeros(D)], [torch.ones(D)]
    if x is not None:
        mean, raw = vae.q_z.net(x[None])[0].chunk(2)
        loc, scale = [*loc, mean], [*scale, positive(raw)]
    if y is not None:
        values = [(0, y)] if y.dim() == 0 else list(enumerate(y))
        for i, value in values:
            if not is_missing(value):
                # Tables hold the classes, or first all labels' off and then all labels' on.
                entry = int(value) if y.dim() == 0 else i + L * int(value)
                loc, scale = [*loc, vae.q_z.loc[entry]], [*scale, positive(vae.q_z.raw[entry])]
    return loc, scale


def posterior(vae, x, y):
    loc, scale = (torch.stack(values) for values in experts(vae, x, y))
    precision = (scale**-2).sum(0)
    return Normal((loc * scale**-2).sum(0) / precision, precision**-0.5)


@pytest.mark.parametrize("kind", Y)
def test_the_guide_is_the_normalised_product_of_its_experts(kind):
    """Wu and Goodman's product of experts: p(z) times each expert's density."""
    vae, x = make(kind)
    z = torch.randn(50, D)
    for b, y in enumerate(Y[kind]):
        for image in (x[b], None):
            product = sum(Normal(m, s).log_prob(z).sum(-1) for m, s in zip(*experts(vae, image, y), strict=True))
            evidence = None if image is None else image[None]
            got = tasks.infer_latents(vae, evidence, y[None])[0]["z"]
            arranged = None if image is None else vae.spaces["x"].arranged(image[None], vae.max_plate_nesting)
            q = vae.q_z(arranged, vae.labels.known(y[None], torch.float64))
            ratio = product - q.log_prob(z.reshape(50, *[1] * (got.dim() - 1), D)).reshape(50)
            assert_close(ratio, ratio[:1].expand(50))
            assert_close(got.reshape(D), posterior(vae, image, y).mean)


def told_to(vae, monkeypatch):
    """The labels that the guide is told, run by run."""
    told, kind = [], type(vae.labels)
    known = kind.known
    monkeypatch.setattr(kind, "known", lambda space, y, dtype: (told.append(y), known(space, y, dtype))[1])
    return told


def log_p_y(vae, z, y):
    """The sum over the observed entries of one row."""
    raw = vae.p_y.inner.net(z)
    if y.dim() == 0:
        return Categorical(logits=raw).log_prob(y) if y >= 0 else torch.tensor(0.0)
    terms = [Bernoulli(logits=raw[i]).log_prob(y[i]) for i in range(L) if not y[i].isnan()]
    return sum(terms, torch.tensor(0.0))


@pytest.mark.parametrize("subsets", [0, 3])
@pytest.mark.parametrize("kind", Y)
def test_terms_and_gradients_equal_the_formula_by_hand(kind, subsets, monkeypatch):
    """Wu and Goodman's Eq. 5: the ELBOs of all evidence, of each part, and of k random subsets."""
    vae, x = make(kind)
    y, weight, beta = Y[kind], 2.5, 1.7
    vae.p_y, told = Spy(vae.p_y), told_to(vae, monkeypatch)
    terms = vae.elbo(label_weight=weight, beta=beta, subsets=subsets).weighted_terms(vae.model, vae.guide, x, y)
    z_seen, z_unseen = (z.reshape(-1, len(y), D) for z in vae.p_y.seen[:2])  # (parts, B, D)
    codes = [code.reshape(-1, *y.shape) for code in told]  # what the guide was told, (parts, B[, L])

    def elbo(image, told, z):
        q = posterior(vae, image, told)
        out = {"log p(z)": beta * Normal(0.0, 1.0).log_prob(z).sum(), "-log q(z)": -beta * q.log_prob(z).sum()}
        out["log p(y)"] = weight * log_p_y(vae, z, told)
        if image is not None:
            logits = vae.p_x.net(z)
            out["log p(x)"] = (image * logits - nn.functional.softplus(logits)).sum()
        return out

    expected = NamedTerms({name: torch.zeros(len(y)) for name in terms})
    alone = 1 if kind == "classes" else L
    several = subsets and kind == "binary"
    assert len(z_seen) == (2 + 2 if several else 2) and len(z_unseen) == alone + (1 if several else 0)
    for b in range(len(y)):
        labelled = not is_missing(y[b]).all()
        for k, z in enumerate(z_seen[:, b]):
            told = codes[0][k, b]
            if k == 0:
                assert_close(told, y[b], equal_nan=True)
            if k == 1:
                assert is_missing(told).all()
            for name, value in elbo(x[b], told, z).items():
                if k == 0:
                    expected[name][b] += value
                elif labelled and not (k == 1 and name == "log p(y)"):
                    expected[f"{'x' if k == 1 else 'subset'}: {name}"][b] += value
        for k, z in enumerate(z_unseen[:, b]):
            told = codes[1][k, b]
            if kind == "binary" and k < L:
                assert (~told.isnan()).nonzero().flatten().tolist() == ([] if y[b, k].isnan() else [k])
            if not is_missing(told).all():
                for name, value in elbo(None, told, z).items():
                    expected[f"{'y' if k < alone else 'subset'}: {name}"][b] += value
    for name, value in expected.items():
        assert_close(terms[name], value, msg=lambda m, name=name: f"{name}: {m}")
    weights = torch.linspace(0.5, 1.5, len(y))
    names, parameters = zip(*vae.named_parameters(), strict=True)
    ours, theirs = (
        torch.autograd.grad(sum((t * weights).sum() for t in values.values()), parameters, retain_graph=True)
        for values in (terms, expected)
    )
    for name, a, b in zip(names, ours, theirs, strict=True):
        assert_close(a, b, msg=lambda m, name=name: f"d / d {name}: {m}")


def test_subsets_are_random_parts_of_what_is_observed(monkeypatch):
    vae, x = make("binary")
    told = told_to(vae, monkeypatch)
    y = torch.ones(400, L)
    y[:, 2] = N
    vae.elbo(subsets=2).weighted_terms(vae.model, vae.guide, x[:1].expand(400, *SHAPE), y)
    for code, part in ((told[0], 2), (told[1], L)):
        told = code.reshape(-1, 400, L)[part]
        share = (told == 1).double().mean(0)
        assert share[2] == 0 and (abs(share[:2] - 0.5) < 5 * 0.5 / 20).all()


@pytest.mark.parametrize("kind", Y)
def test_the_first_elbo_bounds_the_evidence(kind):
    """The mean of its exponential over draws is p(x, y_o), which many draws from the prior give as well."""
    vae, x = make(kind)
    row, n = 3, 40_000
    y = Y[kind][row : row + 1]
    with torch.no_grad():
        z = torch.randn(n, D)
        logits = vae.p_x.net(z)
        prior = (x[row] * logits - nn.functional.softplus(logits)).flatten(1).sum(1)
        raw = vae.p_y.net(z)
        if kind == "classes":
            prior = prior + raw.log_softmax(-1)[:, y[0]]
        else:
            prior = prior + sum(Bernoulli(logits=raw[:, i]).log_prob(y[0, i]) for i in range(L) if not y[0, i].isnan())
        many = vae.elbo().weighted_terms(
            vae.model, vae.guide, x[row : row + 1].expand(n, *SHAPE), y.expand(n, *y.shape[1:]).clone()
        )
        first = sum(value for name, value in many.items() if ": " not in name)
        shift = prior.max()
        a, b = (first - shift).exp(), (prior - shift).exp()
        error = (a.var() / n + b.var() / n).sqrt()
        assert abs(a.mean() - b.mean()) < 5 * error and error < 0.1 * b.mean()
        assert first.mean() < b.mean().log() + shift


def test_rows_without_labels_have_the_elbo_of_the_image_alone():
    vae, x = make("binary")
    terms = vae.elbo(subsets=2).weighted_terms(vae.model, vae.guide, x, Y["binary"])
    for name, value in terms.items():
        assert (": " not in name) == bool(value[[1, 4]].any()) or name == "log p(y|z)", name
    assert not terms["log p(y)"][[1, 4]].any()
    alone = vae.elbo().weighted_terms(vae.model, vae.guide, x)
    assert set(alone) == {"log p(x|z)", "log p(z)", "-log q(z|x)"}


def test_raising_the_true_labels_probability_lowers_the_loss():
    vae, x = make("classes")
    y = Y["classes"]
    terms = vae.elbo().weighted_terms(vae.model, vae.guide, x, y)
    (grad,) = torch.autograd.grad(-sum(terms.values()).sum(), vae.p_y.net.layers[-1].bias)
    counts = torch.bincount(y[y >= 0], minlength=C)
    assert grad[3] > 0 and counts[3] == 0, "never the true one"
    gradients = [
        torch.autograd.grad(
            -sum(vae.elbo().weighted_terms(vae.model, vae.guide, x[i : i + 1], y[i : i + 1]).values()).sum(),
            vae.p_y.net.layers[-1].bias,
        )[0][y[i]]
        for i in (0, 2, 3, 5)
    ]
    assert all(g < 0 for g in gradients)


@pytest.mark.parametrize("kind", Y)
def test_tasks_infer_the_latent_from_what_is_known(kind):
    vae, x = make(kind)
    binary = kind == "binary"
    y = torch.tensor([[1.0, 0, 1]] * 6) if binary else torch.tensor([3] * 6)
    probs = tasks.classify(vae, x, mean=True)
    loc = torch.stack([posterior(vae, image, None).mean for image in x])
    expected = vae.p_y.net(loc).sigmoid() if binary else vae.p_y.net(loc).softmax(-1)
    assert_close(probs, expected.detach())
    torch.manual_seed(1)
    many = tasks.classify(vae, x[:1], num_samples=4000)
    draws = posterior(vae, x[0], None).sample((4000,))
    raw = vae.p_y.net(draws)
    direct = raw.sigmoid() if binary else raw.softmax(-1)
    assert ((many[0] - direct.mean(0)).abs() < 5 * (2 * direct.var(0) / 4000).sqrt() + 1e-9).all()

    def decoded(image, told):
        return vae.p_x.net(posterior(vae, image, told).mean).sigmoid().detach()

    label_of = (probs > 0.5).double() if binary else probs.argmax(-1)
    swapped = tasks.swap(vae, x, x.flip(0))
    assert_close(swapped, torch.stack([decoded(x.flip(0)[b], label_of[b]) for b in range(6)]))
    n = 3000
    many_y, many_x = y[:1].expand(n, *y.shape[1:]), x[:1].expand(n, *SHAPE)
    for images, image in (
        (tasks.generate(vae, many_y)[0], None),
        (tasks.intervene(vae, many_x, many_y)[0], x[0]),
    ):
        other = vae.p_x.net(posterior(vae, image, y[0]).sample((n,))).sigmoid()
        error = ((images.var(0) + other.var(0)) / n).sqrt()
        assert ((images.mean(0) - other.mean(0)).abs() < 5 * error).all()
    assert tasks.generate(vae, y, 2).shape == tasks.intervene(vae, x, y, 2).shape == (2, 6, *SHAPE)


def test_a_guide_with_label_sites_is_refused():
    vae = CCVAE(SHAPE, Classes(C), networks=MLPs((11,)))
    with pytest.raises(ValueError, match=r"labels \['y'\] are sites of the guide"):
        TraceMVAE_ELBO().weighted_terms(vae.model, vae.guide, torch.rand(6, *SHAPE), Y["classes"])
    for options, message in (({"subsets": -1}, "subsets: got -1"), ({"label_weight": N}, "label_weight: got nan")):
        with pytest.raises(ValueError, match=message):
            TraceMVAE_ELBO(**options)


@pytest.mark.parametrize("kind", Y)
def test_rows_without_labels_are_decoded_once(kind):
    """`LabelledFirst` changes the time that a step takes, and nothing else."""
    vae, x = make(kind)
    order = (~is_missing(Y[kind]).reshape(6, -1).all(1)).to(torch.uint8).argsort(descending=True)
    y, number, decoded, results = Y[kind][order], 4, [], []
    vae.p_x.net.register_forward_hook(lambda net, parents, out: decoded.append(out.shape[:-3].numel()))
    elbo, guide = vae.elbo(label_weight=3.0), Mean()(vae.guide)
    for labelled in (0, number):
        torch.manual_seed(1)  # the random subset's
        with LocalParameters():
            rows = elbo.evaluate(Step(vae.model, guide, (x, y), scale=torch.arange(1.0, 7.0), labelled=labelled))
        results.append((rows.contributions(), torch.autograd.grad(rows.total(), list(vae.parameters()))))
    assert_close(*results)
    times = 3 if kind == "binary" else 2
    assert decoded == [6 * times, 4 * times, 2]
