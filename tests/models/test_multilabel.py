"""The multi-label CCVAE: brute force over all label patterns, the formula by hand, tasks label by label, no leaks."""

import dataclasses
import itertools
import json
import math
import runpy
from pathlib import Path

import pytest
import torch
from by_hand import assert_equal_with_gradients, through
from cases import weighed
from ccvae_toy import gaussian, log_normal, recorded, seeded
from pyro import poutine
from torch.nn import functional as F

from pyro_semivae import CCVAE, data, report, tasks
from pyro_semivae.conditionals import LaplaceLikelihood
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.files import load_checkpoint
from pyro_semivae.infer import LocalParameters
from pyro_semivae.nn import Convs
from pyro_semivae.spaces import Binary
from pyro_semivae.train import fit

NAN = torch.nan
CONVS = {"networks": Convs(), "likelihood": LaplaceLikelihood}
L, D_S, K = 5, 3, 4
Y = torch.tensor(
    [
        [1, 0, NAN, 1, NAN],
        [NAN, NAN, NAN, NAN, NAN],
        [0, 1, 1, 0, 1],
        [NAN, NAN, 0, NAN, NAN],
    ],
    dtype=torch.float64,
)


def make(classifier="network", seed=0, num_labels=L):
    torch.manual_seed(seed)
    prior = torch.linspace(0.2, 0.7, num_labels)
    vae = CCVAE((2, 64, 64), Binary(num_labels), z_s=D_S, prior=prior, classifier=classifier, **CONVS)
    with torch.no_grad():
        for parameter in (*vae.p_z_c.parameters(), *vae.q_y.parameters()):
            parameter.add_(0.3 * torch.randn_like(parameter))
    return vae, torch.rand(len(Y), 2, 64, 64)


def test_the_marginal_is_the_sum_over_all_patterns_of_labels():
    """log sum_y p(x, y, z) from plain Pyro traces with y at each of the patterns that fit what is observed."""
    vae, x = make()
    rows, draws = recorded(vae, vae.elbo(num_samples=K), x, Y)
    z = {name: value[0] for name, value in draws.items()}
    # The weight, from a term that it multiplies.
    w = rows.contributions()["-log q(z_s)"] / -log_normal(
        z["z_s"].squeeze(1), *(t[:, L:] for t in gaussian(vae.q_z.net(x)))
    )
    ours = (
        sum(rows.contributions()[name] for name in ("log p(x)", "log p(z_c)", "log p(z_s)")) / w
        + rows.contributions()["log p(y_o)"]
    )
    joint = []
    for pattern in itertools.product((0.0, 1.0), repeat=L):
        y = torch.tensor(pattern).expand(len(Y), L)
        with LocalParameters():
            trace = poutine.trace(poutine.condition(vae.model, data=z)).get_trace(x, y)
        trace.compute_log_prob()
        log_p = sum(trace.nodes[name]["log_prob"].sum(1) for name in ("x", "y", "z_c", "z_s"))
        joint.append(torch.where((Y.isnan() | (y == Y)).all(1), log_p, -math.inf))
    expected = torch.stack(joint).logsumexp(0)
    torch.testing.assert_close(ours, expected)
    parameters = [*vae.p_z_c.parameters(), *vae.p_x.parameters()]  # w does not depend on these
    for row in range(len(Y)):
        got, want = (torch.autograd.grad(t[row], parameters, retain_graph=True) for t in (ours, expected))
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("classifier", ["network", "bayes"])
@pytest.mark.parametrize("marginal", ["exact", "jensen"])
def test_terms_and_gradients_equal_the_formula_by_hand(marginal, classifier):
    vae, x = make(classifier)
    options = {"marginal": marginal, "num_samples": K, "weights": "independent", "detach": "none", "beta": 2.0}
    elbo = weighed(vae, classifier_weight=3.0, **options)
    rows, draws = recorded(vae, elbo, x, Y)
    loc, scale = gaussian(vae.q_z.net(x))  # (B, L + D_s)
    drawn = torch.cat([draws["z_c"], draws["z_s"].squeeze(2)], -1).detach()  # (1 + K, B, L + D_s)
    z = loc + scale * ((drawn - loc) / scale).detach()
    z_c, z_s = z[..., :L], z[0, :, L:]
    mu, sigma = vae.p_z_c.loc, F.softplus(vae.p_z_c.raw) + 1e-3
    prior = torch.linspace(0.2, 0.7, L)
    log_p_y = torch.stack([(1 - prior).log(), prior.log()])  # (2, L)

    def log_normal_each(value, c):
        return -0.5 * ((value - mu[c]) / sigma[c]) ** 2 - sigma[c].log() - 0.5 * math.log(2 * math.pi)

    def log_q_y(value):  # (2, ..., L)
        if classifier == "network":
            logits = vae.q_y.slope * value + vae.q_y.bias
            return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)])
        return torch.stack([log_normal_each(value, c) + log_p_y[c] for c in (0, 1)]).log_softmax(0)

    picture = through(vae.p_x.net, z[0, :, :L], z_s).view_as(x).sigmoid()
    log_p_x = (-(x - picture).abs() - math.log(2)).sum((1, 2, 3))
    total = []
    for b in range(len(x)):
        q_all = log_q_y(z_c[:, b])  # (2, 1 + K, L)
        inside, log_q_o, log_p_o = torch.zeros(()), torch.zeros(1 + K), torch.zeros(())
        for i in range(L):
            p = [log_normal_each(z_c[0, b], c)[i] for c in (0, 1)]
            if Y[b, i].isnan() and marginal == "exact":
                inside = inside + torch.stack([p[c] + log_p_y[c, i] for c in (0, 1)]).logsumexp(0)
            elif Y[b, i].isnan():
                q = q_all[:, 0, i]
                inside = inside + sum(q[c].exp() * (p[c] + log_p_y[c, i] - q[c]) for c in (0, 1))
            else:
                c = int(Y[b, i])
                inside, log_p_o, log_q_o = inside + p[c], log_p_o + log_p_y[c, i], log_q_o + q_all[c, :, i]
        log_q_x = log_q_o[1:].logsumexp(0) - math.log(K)
        w = (log_q_o[0] - log_q_x).exp()
        log_p_zs = log_normal(z_s[b], torch.zeros(D_S), torch.ones(D_S))
        log_q_z = log_normal(z[0, b], loc[b], scale[b])
        total.append(w * (log_p_x[b] + 2.0 * (inside + log_p_zs - log_q_z) - log_q_o[0]) + 3.0 * log_q_x + log_p_o)
    total, ours = torch.stack(total), sum(rows.contributions().values())
    assert_equal_with_gradients(ours, total, vae)


def test_a_missing_label_is_the_same_whatever_the_others_are():
    """Labels are independent given z: observing one changes no other's marginal."""
    vae, x = make()
    elbo = vae.elbo(num_samples=K)
    none = seeded(lambda: elbo.weighted_terms(vae.model, vae.guide, x))
    some = seeded(lambda: elbo.weighted_terms(vae.model, vae.guide, x, torch.full_like(Y, NAN)))
    for name, value in none.items():
        torch.testing.assert_close(some[name], value)


@pytest.mark.parametrize("partly", ["keep", "drop"])
def test_hidden_labels_never_influence_training(tmp_path, monkeypatch, partly):
    """The whole example, with the labels that are hidden turned round: split, prior, lost labels, training."""
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path))
    torch.set_default_dtype(torch.float32)
    faces, weights, seen = data.load_small("faces"), [], []
    monkeypatch.setattr(report, "measure", lambda *args, **kwargs: {})
    monkeypatch.setattr(report, "draw", lambda *args, **kwargs: None)
    relabel = ExampleRun.relabel
    monkeypatch.setattr(ExampleRun, "relabel", lambda job, y: (seen.append(y), relabel(job, y)))
    example = Path(__file__).parents[2] / "examples" / "ccvae.py"
    for name in ("truth", "corrupted"):
        monkeypatch.setattr(data, "load_small", lambda name, faces=faces: faces)
        flags = f"--dataset faces --smoke-test --labelled 60 --partly {partly} --epochs 1"
        monkeypatch.setattr("sys.argv", [str(example), *flags.split(), "--out", str(tmp_path / name)])
        runpy.run_path(str(example), run_name="__main__")
        weights.append(load_checkpoint(tmp_path / name / "checkpoint.pt")["weights"])
        faces = dataclasses.replace(
            faces, y=torch.where(seen[0].isnan(), 1 - faces.y, faces.y), y_test=1 - faces.y_test
        )
    assert torch.equal(seen[0].isnan(), seen[1].isnan()) and 0 < (~seen[0].isnan()).sum() < 60 * 18
    known = (~seen[0].isnan()).any(1).nonzero()[:, 0].tolist()  # the labels' total weight is shared by these
    assert json.loads((tmp_path / "truth" / "labelled_rows.json").read_text()) == known
    assert len(known) == 60 if partly == "keep" else 20 < len(known) < 40
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_run_with_labels_that_are_missing_by_entry_is_resumed(tmp_path):
    _, x = make()
    path, options = tmp_path / "checkpoint.pt", {"batch_size": 2, "labelled_batch_size": 2, "progress": False}
    whole, parts = make()[0], make()[0]
    fit(whole, x, Y, epochs=2, **options)
    fit(parts, x, Y, epochs=1, checkpoint=path, **options)
    fit(parts, x, Y, epochs=2, checkpoint=path, resume=True, **options)
    for ours, theirs in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    other = Y.clone()
    other[0, 2] = 1.0
    with pytest.raises(ValueError, match="trained with other labels"):
        fit(parts, x, other, epochs=3, checkpoint=path, resume=True, **options)


def test_latents_may_lack_the_plate_that_they_are_outside_of():
    vae, _ = make()
    z_c, z_s = torch.randn(4, L), torch.randn(4, D_S)
    images = tasks.decode(vae, {"z_c": z_c, "z_s": z_s})
    assert images.shape == (4, 2, 64, 64)
    torch.testing.assert_close(images, tasks.decode(vae, {"z_c": z_c, "z_s": z_s.unsqueeze(1)}))
    drawn = tasks.generate(vae, Y, 3, given={"z_s": z_s})
    assert drawn.shape == (3, 4, 2, 64, 64)
    with pytest.raises(ValueError, match=r"latents: got shape \(3, 1, 3\) for 'z_s'; expected \(4, 1, 3\)"):
        tasks.generate(vae, Y, given={"z_s": z_s[:3]})
    with pytest.raises(ValueError, match=r"latents: got shape \(4, 4\) for 'z_c'"):
        tasks.decode(vae, {"z_c": z_c[:, :-1], "z_s": z_s})


def test_the_sampled_marginal_is_jensens_in_the_mean():
    vae, x = make()
    vae.requires_grad_(False)
    vae.p_z_c.requires_grad_(True)

    parameters = [*vae.p_z_c.parameters()]

    def one(marginal, seed):
        torch.manual_seed(seed)
        terms = vae.elbo(marginal=marginal, num_samples=K).weighted_terms(vae.model, vae.guide, x[1:2], Y[1:2])
        total = sum(terms.values()).sum()
        gradients = torch.autograd.grad(total, parameters)
        return torch.cat([total.detach()[None], *[gradient.flatten() for gradient in gradients]])

    draws = {m: torch.stack([one(m, seed) for seed in range(400)]) for m in ("jensen", "sampled")}
    difference = draws["sampled"] - draws["jensen"]
    error = difference.std(0) / len(difference) ** 0.5
    assert (error > 0).any()
    assert (difference.mean(0).abs() <= 5 * error + 1e-9).all()


def test_interventions_redraw_the_entries_that_are_set_and_keep_the_others():
    vae, x = make()
    with torch.no_grad():
        vae.p_x.net.layers[0].weight.mul_(10)  # so that images show what the latents are
    kept = tasks.intervene(vae, x, torch.full_like(Y, NAN), 2)
    torch.testing.assert_close(kept, tasks.reconstruct(vae, x).expand_as(kept))
    with torch.no_grad():
        vae.p_z_c.raw.fill_(-100.0)  # a scale of 0.001: draws are the means
    set_to = torch.full_like(Y, NAN)
    set_to[:, 1], set_to[0, 3] = torch.tensor([0.0, 1.0, 0.0, 1.0]), 1.0
    latents = tasks.infer(vae, x)
    z_c = latents["z_c"].clone()
    z_c[:, 1] = vae.p_z_c.loc[set_to[:, 1].long(), 1]
    z_c[0, 3] = vae.p_z_c.loc[1, 3]
    expected = tasks.decode(vae, {**latents, "z_c": z_c})
    moved = torch.where(set_to.isnan(), 0.0, 0.005)  # five standard deviations, of both signs
    shifted = [tasks.decode(vae, {**latents, "z_c": z_c + sign * moved}) for sign in (-1, 1)]
    tolerance = max((images - expected).abs().max().item() for images in shifted)
    assert tolerance < 0.02
    torch.testing.assert_close(tasks.intervene(vae, x, set_to)[0], expected, atol=tolerance, rtol=0)
    assert (expected - kept[0]).abs().amax((1, 2, 3)).min() > 1e-2


def test_classify_is_the_mean_of_the_classifier_over_draws():
    vae, x = make()
    mean = tasks.classify(vae, x, mean=True)
    loc, scale = (t[:, :L] for t in gaussian(vae.q_z.net(x)))
    torch.testing.assert_close(mean, (vae.q_y.slope * loc + vae.q_y.bias).sigmoid().detach())
    torch.manual_seed(0)
    drawn = tasks.classify(vae, x, num_samples=20_000)
    z = loc + scale * torch.randn(20_000, *loc.shape)
    values = (vae.q_y.slope * z + vae.q_y.bias).sigmoid().detach()
    error = 5 * values.std(0) * math.sqrt(2 / 20_000)
    assert ((drawn - values.mean(0)).abs() <= error).all()


def test_swaps_take_the_characteristics_of_one_and_the_rest_of_the_other():
    vae, x = make()
    latents = tasks.infer(vae, x)
    expected = tasks.decode(vae, {"z_c": latents["z_c"], "z_s": latents["z_s"].flip(0)})
    torch.testing.assert_close(tasks.swap(vae, x, x.flip(0)), expected)


def test_frequencies_of_what_is_observed():
    on = Y[:, 1].nansum() + 1, (~Y[:, 1].isnan()).sum() + 2
    torch.testing.assert_close(Binary(Y.shape[1]).frequencies(Y)[1], on[0] / on[1])
    assert ((Binary(Y.shape[1]).frequencies(torch.full_like(Y, NAN))) == 0.5).all()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([[0.0, 2.0]]), r"got \[2.0\] at rows \[0\]"),
        (torch.tensor([[0, 1]]), "dtype torch.int64"),
        (torch.tensor([0.0, 1.0]), r"shape \(2,\)"),
        (torch.zeros(3, 3), r"shape \(3, 3\)"),
        ([0.0], r"shape \(1,\)"),
        (["a"], "list"),
    ],
)
def test_labels_outside_the_space_are_named(y, message):
    with pytest.raises(ValueError, match=rf"y: .*{message}.*expected a float tensor \(B, 2\)"):
        Binary(2).validate(y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x_shape": (3, 32, 12)}, r"x_shape: got \(3, 32, 12\)"),
        ({"labels": 2}, r"labels: got 2; expected Classes\(number\) and Binary\(number\)"),
        ({"prior": torch.tensor([0.5, 1.0])}, "prior: got"),
        ({"classifier": "none"}, "classifier: got 'none'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CCVAE(**{"x_shape": (3, 64, 64), "labels": Binary(2), **CONVS, **options})


def test_normalised_weights_have_the_mean_one_and_a_cap():
    """E[w] = 1 at any K by symmetry, where independent draws give more; and w <= K + 1."""
    vae, x = make()
    with torch.no_grad():
        vae.q_y.slope.fill_(1.5)  # uncertain latents, a sure classifier: uneven weights
    sure = torch.tensor([[1.0, 0, 1, 0, 1]])
    copies = 1000
    encoded = [t.detach().repeat(copies, 1) for t in gaussian(vae.q_z.net(x[:1]))]
    vae.q_z.net = _Fixed(torch.cat([encoded[0], encoded[1].expm1().log()], 1).unsqueeze(1))
    x = x[:1].expand(copies, -1, -1, -1)
    means = {}
    for weights in ("independent", "normalised"):
        elbo = vae.elbo(num_samples=2, weights=weights, detach="weighted-terms")
        rows, draws = seeded(lambda elbo=elbo: recorded(vae, elbo, x, sure.expand(copies, -1)))
        log_q = vae.q_y(draws["z_c"]).log_prob(sure).sum(-1)  # (particles, B)
        w = rows.contributions()["-log q(y_o)"].detach() / -log_q[0]
        others = log_q[1:3].logsumexp(0)
        expected = log_q[0] - others + math.log(2)
        if weights == "normalised":
            expected = log_q[0] - torch.logaddexp(log_q[0], others) + math.log(3)
            assert w.max() <= 3 + 1e-9
        torch.testing.assert_close(w, expected.exp())
        means[weights] = w.mean().item(), 5 * w.std().item() / math.sqrt(copies)
    assert abs(means["normalised"][0] - 1) < means["normalised"][1]
    assert means["independent"][0] - 1 > means["independent"][1]


class _Fixed(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value
