"""The inverted VAE: its objective by hand, labels without images in fit, what is refused."""

import copy
import math
import runpy
from pathlib import Path

import pyro
import pytest
import torch
from by_hand import through
from ccvae_toy import seeded
from inverted_toy import SHAPE, C, D, Y, log_bernoulli, log_q_z, make
from pyro.poutine.messenger import Messenger
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close
from training import options

from pyro_semivae.infer import LocalParameters, Step, TraceInverted_ELBO
from pyro_semivae.models import M2
from pyro_semivae.settings import described
from pyro_semivae.spaces import MISSING
from pyro_semivae.train import fit

OBSERVED = torch.tensor([2, MISSING, 0, 4, MISSING, 2])
AREA = D * math.log(3.0)  # of the box


class EveryZ(Messenger):
    def __init__(self):
        super().__init__()
        self.values = []

    def _pyro_post_sample(self, msg):
        if msg["name"] == "z":
            self.values.append(msg["value"])


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_the_forward_bound_by_hand(beta):
    """Eqs. 3 and 4 with the flow's density and a uniform p(z), and Eq. 7's classifier; values and every gradient."""
    vae, x = make(), torch.rand(6, *SHAPE)
    elbo = vae.elbo(classifier_weight=7.0, beta=beta)
    with LocalParameters(), EveryZ() as drawn:
        terms = elbo.evaluate(Step(vae.model, vae.guide, (x, OBSERVED))).contributions()
    z = drawn.values[0].detach().reshape(C, 6, D)
    q = vae.q_y.net(x).log_softmax(-1)
    total = []
    for b in range(6):
        bound = []
        for c in range(C):
            row, code = x[b : b + 1], torch.eye(C)[c : c + 1]
            raw = vae.q_z.net(row, code)
            loc, scale = raw[:, :D], torch.nn.functional.softplus(raw[:, D:]) + 1e-3
            unit = (z[c, b] + 1.5) / 3.0
            u = loc + scale * ((unit.logit() - loc) / scale).detach()
            value = -1.5 + 3.0 * u.sigmoid()
            log_p = log_bernoulli(row, vae.p_x.net(code, value))
            bound.append((log_p - beta * (AREA + log_q_z(vae, row, code, value))).squeeze())
        if OBSERVED[b] == MISSING:
            total.append(sum(q[b, c].exp() * (bound[c] - beta * (math.log(C) + q[b, c])) for c in range(C)))
        else:
            total.append(bound[OBSERVED[b]] - math.log(C) + 7.0 * q[b, OBSERVED[b]])
    ours, total = sum(terms.values()), torch.stack(total)
    assert_close(ours, total)
    parameters = list(vae.parameters())
    for a, b in zip(*(torch.autograd.grad(s.sum(), parameters) for s in (ours, total)), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("missing_labels", ["enumerate", "gumbel"])
def test_the_bound_of_draws_that_round_to_an_end_of_the_box_is_exact(missing_labels):
    """In single precision, where z far out rounds: -log q(z) is still that of the Gaussian's draw, far below 0."""
    vae = make().float()
    last = vae.q_z.net.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([17.0, -17.0, -2.5, -2.5]))
    x, y = torch.rand(400, *SHAPE, dtype=torch.float32), torch.tensor([2, MISSING] * 200)
    with LocalParameters(), EveryZ() as drawn:
        terms = vae.elbo(missing_labels=missing_labels).evaluate(Step(vae.model, vae.guide, (x, y))).contributions()
    assert (drawn.values[0].abs() > 1.5 - 1e-6).all()
    scale = torch.nn.functional.softplus(torch.tensor(-2.5)) + 1e-3
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + scale.log() + math.log(3.0) - 17.0)
    assert (terms["-log q(z)"] - entropy).abs().mean() < 2.0
    assert_close(terms["-log q(z)"].mean().double(), entropy, atol=0.3, rtol=0)


def test_the_images_term_by_hand():
    vae, x = make(), torch.rand(6, *SHAPE)
    with LocalParameters(), EveryZ() as drawn:
        terms = vae.elbo(image_weight=0.3).evaluate(Step(vae.model, vae.guide, (x, OBSERVED))).contributions()
    z = drawn.values[-1]  # of the prior
    observed = OBSERVED != MISSING
    mean = vae.p_x.net(torch.eye(C)[OBSERVED[observed]], z[observed]).sigmoid()
    assert_close(terms["-||x - E[x|y,z]||^2"][observed], -0.3 * (x[observed] - mean).square().flatten(1).sum(1))
    assert not terms["-||x - E[x|y,z]||^2"][~observed].any()


def test_the_images_term_of_binary_labels_needs_all_of_a_rows_labels():
    vae, x = make("binary"), torch.rand(4, *SHAPE)
    y = Y["binary"].clone()
    y[1, 2], y[3] = torch.nan, torch.nan
    with LocalParameters(), EveryZ() as drawn:
        terms = vae.elbo(image_weight=0.3).evaluate(Step(vae.model, vae.guide, (x, y))).contributions()
    z = drawn.values[-1].reshape(4, D)
    mean = through(vae.p_x.net, y[::2], z[::2]).view(-1, *SHAPE).sigmoid()
    assert_close(terms["-||x - E[x|y,z]||^2"][::2], -0.3 * (x[::2] - mean).square().flatten(1).sum(1))
    assert not terms["-||x - E[x|y,z]||^2"][1::2].any()


def test_the_images_term_decodes_the_labelled_rows_alone():
    vae, x, y = make(), torch.rand(6, *SHAPE), torch.tensor([2, 0, 4, MISSING, MISSING, MISSING])
    with LocalParameters(), EveryZ() as drawn:
        terms = vae.elbo(image_weight=0.3).evaluate(Step(vae.model, vae.guide, (x, y), labelled=3)).contributions()
    z = drawn.values[-1]
    assert z.shape == (3, D)
    mean = vae.p_x.net(torch.eye(C)[y[:3]], z).sigmoid()
    assert_close(
        terms["-||x - E[x|y,z]||^2"], torch.cat([-0.3 * (x[:3] - mean).square().flatten(1).sum(1), torch.zeros(3)])
    )


def test_without_an_objective_the_weights_are_the_examples():
    script = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "inverted_vae.py"))
    vae, args = make(), script["Settings"].parse(None, []).for_data("mnist")
    found, expected = vae.elbo_for(OBSERVED), script["objective"](vae, args, args.alpha)
    assert described(found) == described(expected)


def test_the_classifiers_noise_is_in_training_and_in_q_y_alone():
    """With noise that mirrors its image all terms are those of a q(y|x) of mirrored images, imagined ones too."""
    plain, noisy = make(), make(classifier_noise=lambda x: x.flip(-1))
    noisy.load_state_dict({name.replace("q_y.net.", "q_y.net.net."): v for name, v in plain.state_dict().items()})
    mirrored = copy.deepcopy(plain)
    net = mirrored.q_y.net.forward
    mirrored.q_y.net.forward = lambda x: net(x.flip(-1))
    x = torch.rand(6, *SHAPE)
    for images, y in ((x, torch.tensor([2, 0, 4, MISSING, MISSING, MISSING])), (None, torch.tensor([1, 3, 0]))):
        terms = {}
        for name, vae, training in (("noisy", noisy, True), ("mirrored", mirrored, True), ("not", noisy, False)):
            torch.manual_seed(0)
            vae.train(training)
            terms[name] = vae.elbo(classifier_weight=2.0, image_weight=0.3).weighted_terms(
                vae.model, vae.guide, images, y
            )
        torch.manual_seed(0)
        terms["plain"] = plain.elbo(classifier_weight=2.0, image_weight=0.3).weighted_terms(
            plain.model, plain.guide, images, y
        )
        for name in terms["plain"]:
            assert_close(terms["noisy"][name], terms["mirrored"][name])
            assert_close(terms["not"][name], terms["plain"][name])
        changed = {name for name in terms["plain"] if not torch.allclose(terms["noisy"][name], terms["plain"][name])}
        # p(z), p(y) are uniform, and do not change
        depends = {"log p(x|y,z)", "-log q(z|x,y)", "-log q(y_m|x)", "log q(y_o|x)"}
        assert changed == ({"reverse: log q(y|x)"} if images is None else depends)


def test_limits_and_the_reverse_weight():
    """Without an image it is the reverse bound times its weight; with one, that weight changes nothing."""
    vae, x = make(), torch.rand(6, *SHAPE)
    plain, half = vae.elbo(), vae.elbo(reverse_weight=0.5)
    one, other = (seeded(lambda e=e: e.weighted_terms(vae.model, vae.guide, None, Y["classes"])) for e in (plain, half))
    assert all(torch.equal(0.5 * one[name], other[name]) for name in one)
    one, other = (seeded(lambda e=e: e.weighted_terms(vae.model, vae.guide, x, OBSERVED)) for e in (plain, half))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any("log q(y_o" in name for name in one)


def test_raising_q_of_the_true_label_raises_both_bounds():
    vae, x = make(), torch.rand(6, *SHAPE)
    y = torch.full((6,), 3)
    for image in (x, None):
        loss = vae.elbo(classifier_weight=2.0).differentiable_loss(vae.model, vae.guide, image, y)
        (gradient,) = torch.autograd.grad(loss, [vae.q_y.net.layers[-1].bias])
        assert gradient[3] < 0 and (gradient[[0, 1, 2, 4]] > 0).all()


@pytest.mark.parametrize("gradient", ["relaxed", "reinforce", "mean", "hard"])
def test_a_step_in_reverse_traces_to_one_graph(gradient):
    vae = make()
    module = vae.elbo(gradient=gradient)(vae.model, vae.guide)
    parameters = dict(module.named_parameters())

    def step(parameters, y):
        loss = functional_call(module, parameters, (None, y))
        return loss, torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)

    with pyro.validation_enabled(False):
        graph = make_fx(step)(parameters, Y["classes"])
        other = Y["classes"].flip(0)
        expected, got = (seeded(lambda f=f: f(parameters, other)) for f in (step, graph))
    assert_close(got[0], expected[0])


def test_fit_with_unpaired_labels_resumes_bit_identically(tmp_path):
    x, y = torch.rand(20, *SHAPE), torch.tensor([0, 1, 2, MISSING, MISSING] * 4)
    alone = torch.arange(C).repeat(3)
    elbo = {"classifier_weight": 2.0}
    whole, parts, without = make(), make(), make()
    history = fit(whole, x, y, elbo=whole.elbo(**elbo), unpaired_labels=alone, **options())
    path = tmp_path / "c.pt"
    for epochs in (2, 4):
        given = options(epochs=epochs, checkpoint=path, resume=True)
        fit(parts, x, y, elbo=parts.elbo(**elbo), unpaired_labels=alone, **given)
    pairs = zip(whole.state_dict().values(), parts.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert "term/reverse: log q(y|x)" in history[-1] and "term/log p(x|y,z)" in history[-1]
    last = history[-1]
    total = sum(v * last.get(k.replace("term", "weight", 1), 1.0) for k, v in last.items() if k.startswith("term/"))
    assert last["objective"] == pytest.approx(total) and last["weight/log q(y_o|x)"] == 2.0
    assert "term/reverse: log q(y|x)" not in fit(without, x, y, elbo=without.elbo(**elbo), **options())[-1]
    other = make()
    with pytest.raises(ValueError, match="labels alone"):
        fit(other, x, y, elbo=other.elbo(**elbo), unpaired_labels=alone[1:], **options(checkpoint=path, resume=True))
    with pytest.raises(ValueError, match=r"other objective: .*ClassifierTerm 2\.0, now .*ClassifierTerm 3\.0"):
        again = other.elbo(classifier_weight=3.0)  # an option of one of the bounds that it is made of
        fit(other, x, y, elbo=again, unpaired_labels=alone, **options(checkpoint=path, resume=True))


@pytest.mark.parametrize("gradient", ["relaxed", "reinforce", "mean", "hard"])
def test_the_reverse_weight_multiplies_every_gradient(gradient):
    """The score function's too, whose value is 0."""
    vae, found = make(), []
    for weight in (1.0, 0.25):
        elbo = vae.elbo(reverse_weight=weight, gradient=gradient)
        loss = seeded(lambda e=elbo: e(vae.model, vae.guide)(None, Y["classes"]))
        found.append(torch.autograd.grad(loss, [*vae.parameters()], allow_unused=True, materialize_grads=True))
    assert_close([0.25 * g for g in found[0]], list(found[1]))
    assert any(g.any() for g in found[0])


def test_rows_without_an_image_are_unpaired_labels():
    """In any order, and beside those that are given apart."""
    x, y, alone = torch.rand(20, *SHAPE), torch.tensor([0, 1, 2, MISSING, MISSING] * 4), torch.arange(C).repeat(3)
    apart, together = make(), make()
    fit(apart, x, y, elbo=apart.elbo(), unpaired_labels=alone, **options())
    images = torch.cat([torch.full((8, *SHAPE), torch.nan), x, torch.full((4, *SHAPE), torch.nan)])
    labels = torch.cat([alone[:8], y, alone[8:12]])
    fit(together, images, labels, elbo=together.elbo(), unpaired_labels=alone[12:], **options())
    assert all(torch.equal(a, b) for a, b in zip(apart.parameters(), together.parameters(), strict=True))
    m2 = M2(SHAPE, together.labels, z=D)
    with pytest.raises(ValueError, match=r"x: got NaN in rows \[0, 1.*or with an objective that scores labels without"):
        fit(m2, images, labels, **options())
    with pytest.raises(ValueError, match="unpaired_labels: got missing labels"):
        fit(together, images, labels.index_fill(0, torch.tensor(0), MISSING), elbo=together.elbo(), **options())
    with pytest.raises(ValueError, match="x: got NaN in all rows"):
        fit(together, images[:8], labels[:8], elbo=together.elbo(), **options())


def test_unpaired_labels_count_for_their_number():
    """A step's loss is minus the rows' total and N_a / (B_a N) times that of the labels alone."""
    from pyro_semivae.data.batches import Batches

    x, y, alone = torch.rand(20, *SHAPE), torch.tensor([0, 1, 2, MISSING, MISSING] * 4), torch.arange(C).repeat(3)
    batches = Batches(x, y, batch_size=4, labelled_batch_size=3, unpaired_labels=alone)
    seen = [batch.alone for batch in batches.epoch(0)]
    assert all(part.x is None and part.y.shape == (4,) for part in seen)
    assert_close(seen[0].scale, torch.full((4,), 15 / 4 / 20))
    first = torch.cat([part.rows for part in seen[:3]])
    assert first.unique().numel() == 12, "a pass takes every label once"
    vae = make()
    scaled = vae.elbo()(vae.model, vae.guide)
    loss = seeded(lambda: -scaled.evaluate(None, seen[0].y, scale=seen[0].scale).total())
    terms = seeded(lambda: vae.elbo().weighted_terms(vae.model, vae.guide, None, seen[0].y))
    assert_close(loss, -sum(terms.values()).sum() * 15 / 4 / 20)


def test_what_does_not_fit_is_refused():
    vae, x = make(), torch.rand(6, *SHAPE)
    m2 = M2(SHAPE, vae.labels, z=D)
    with pytest.raises(ValueError, match="unpaired_labels: got 5 labels; Sum accepts none alone"):
        fit(m2, x, OBSERVED, unpaired_labels=torch.arange(5))
    with pytest.raises(ValueError, match="unpaired_labels: got missing labels"):
        fit(vae, x, OBSERVED, unpaired_labels=OBSERVED)
    with pytest.raises(ValueError, match="unpaired_labels: got "):
        fit(vae, x, OBSERVED, unpaired_labels=torch.tensor([9]))
    for option in ("image_weight", "reverse_weight"):
        with pytest.raises(ValueError, match=f"{option}: got -1"):
            TraceInverted_ELBO(**{option: -1.0})
