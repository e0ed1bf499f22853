"""M1+M2: with M1 held fixed its bound is M2's on the features, and the tasks go through them."""

import pytest
import torch
from pyro import poutine
from torch.distributions import Categorical, Normal
from torch.nn.functional import softplus
from torch.testing import assert_close

from pyro_semivae import tasks
from pyro_semivae.infer import LocalParameters, Step
from pyro_semivae.models import M1, M1M2, M2
from pyro_semivae.nn import MLPs, positive
from pyro_semivae.spaces import MISSING, Binary, Classes

SHAPE, C, F, D = (1, 4, 7), 5, 4, 2
Y = torch.tensor([2, MISSING, 0, 4, MISSING, 1])


@pytest.fixture
def m1():
    torch.manual_seed(0)
    return M1(SHAPE, Classes(C), z=F, networks=MLPs((11,)))


@pytest.fixture
def vae(m1):
    return M1M2(m1, z=D, hidden=(6,))


def gaussian(net, *parents):
    loc, raw = net(*parents).chunk(2, -1)
    return Normal(loc, positive(raw))


def test_m1_is_copied_and_held_fixed(m1, vae):
    before = {name: value.clone() for name, value in vae.state_dict().items() if name.startswith(("p_x", "q_f"))}
    assert len(before) == 8 and not any(name.startswith(("p_x", "q_f")) for name, _ in vae.named_parameters())
    with torch.no_grad():
        for parameter in m1.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(vae.state_dict()[name], value) for name, value in before.items())
    assert len([p for p in m1.parameters() if p.requires_grad]) == 8, "M1 keeps its own"
    with pytest.raises(ValueError, match="m1: got M2; expected a trained M1"):
        M1M2(M2(SHAPE, Classes(C), networks=MLPs((11,))))


def test_it_is_where_its_m1_is(m1):
    assert {value.device.type for value in M1M2(m1.to("meta"), z=D, hidden=(6,)).state_dict().values()} == {"meta"}


def test_terms_and_gradients_equal_the_formula_by_hand(vae):
    """Labels summed by a loop, with the draws that the objective made; beta leaves the features alone."""
    x, alpha, beta, eye = torch.rand(len(Y), *SHAPE), 3.0, 1.5, torch.eye(C)
    guide = poutine.trace(vae.guide)
    with LocalParameters():
        terms = vae.elbo(classifier_weight=alpha, beta=beta).evaluate(Step(vae.model, guide, (x, Y))).contributions()
    f, z = guide.trace.nodes["f"]["value"], guide.trace.nodes["z"]["value"].reshape(C, len(Y), D)
    assert f.shape == (len(Y), F)
    expected = {name: [] for name in terms}
    for b in range(len(Y)):
        known, q_y = bool(Y[b] >= 0), Categorical(logits=vae.q_y.net(f[b]))
        logits = vae.p_x.net(f[b])
        row = {"log p(x)": (x[b] * logits - softplus(logits)).sum()}
        row["-log q(f)"] = -gaussian(vae.q_f.net, x[b]).log_prob(f[b]).sum()
        row |= dict.fromkeys(("log p(f)", "log p(z)", "-log q(z)", "log p(y)", "-log q(y_m)"), torch.zeros(()))
        for y in [int(Y[b])] if known else range(C):
            weight = 1.0 if known else q_y.probs[y]
            row["log p(f)"] = row["log p(f)"] + weight * gaussian(vae.p_f.net, eye[y], z[y, b]).log_prob(f[b]).sum()
            row["log p(z)"] = row["log p(z)"] + weight * beta * Normal(0.0, 1.0).log_prob(z[y, b]).sum()
            row["-log q(z)"] = (
                row["-log q(z)"] - weight * beta * gaussian(vae.q_z.net, f[b], eye[y]).log_prob(z[y, b]).sum()
            )
            row["log p(y)"] = row["log p(y)"] + weight * (1.0 if known else beta) * vae.p_y.logits[y]
            row["-log q(y_m)"] = row["-log q(y_m)"] - (0.0 if known else weight * beta * q_y.logits[y])
        row["log q(y_o)"] = alpha * q_y.logits[Y[b]] if known else torch.zeros(())
        for name in terms:
            expected[name].append(row[name])
    for name, values in expected.items():
        assert_close(terms[name], torch.stack(values), msg=lambda m, name=name: f"{name}: {m}")
    parameters = list(vae.parameters())
    ours = torch.autograd.grad(sum(value.sum() for value in terms.values()), parameters, retain_graph=True)
    theirs = torch.autograd.grad(sum(sum(values) for values in expected.values()), parameters)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b)


def test_tasks_go_through_the_features(vae):
    x, n = torch.rand(6, *SHAPE), 4000
    y = torch.full((1,), 3)
    code, prior = torch.eye(C)[3], torch.randn(n, D)
    f = gaussian(vae.p_f.net, code.expand(n, C), prior).sample()
    directly = vae.p_x.net(f).sigmoid()
    images = tasks.generate(vae, y.expand(n))[0]
    error = ((images.var(0) + directly.var(0)) / n).sqrt()
    assert ((images.mean(0) - directly.mean(0)).abs() < 5 * error).all()

    f = gaussian(vae.q_f.net, x[:1]).mean
    label = vae.q_y.net(f).argmax(-1)
    assert_close(tasks.classify(vae, x[:1], mean=True), vae.q_y.net(f).softmax(-1).detach())
    z = gaussian(vae.q_z.net, f, torch.eye(C)[label]).mean
    assert_close(tasks.infer(vae, x[:1]), {"f": f.detach(), "z": z.detach()})
    redrawn = gaussian(vae.p_f.net, code.expand(n, C), z.expand(n, D)).sample()
    directly = vae.p_x.net(redrawn).sigmoid()
    changed = tasks.intervene(vae, x[:1], y, 1000)[:, 0]
    error = (changed.var(0) / 1000 + directly.var(0) / n).sqrt()
    assert ((changed.mean(0) - directly.mean(0)).abs() < 5 * error).all()
    donor = x[1:2].expand(1000, *SHAPE)
    of_donor = vae.q_y.net(gaussian(vae.q_f.net, x[1:2]).mean).argmax(-1)
    redrawn = gaussian(vae.p_f.net, torch.eye(C)[of_donor].expand(n, C), z.expand(n, D)).sample()
    directly, swapped = vae.p_x.net(redrawn).sigmoid(), tasks.swap(vae, donor, x[:1].expand(1000, *SHAPE))
    error = (swapped.var(0) / 1000 + directly.var(0) / n).sqrt()
    assert ((swapped.mean(0) - directly.mean(0)).abs() < 5 * error).all()


def test_several_labels_are_set_together_and_features_drawn_anew_where_any_is():
    """Below all labels at once: one draw of f for a row, not one for each label."""
    torch.manual_seed(0)
    vae = M1M2(M1(SHAPE, Binary(3), z=F, networks=MLPs((11,))), z=D, hidden=(6,))
    x, y_new = torch.rand(4, *SHAPE), torch.full((4, 3), torch.nan)
    y_new[1, 2], y_new[3] = 1.0, 0.0
    changed, kept = tasks.intervene(vae, x, y_new, 5), tasks.reconstruct(vae, x)
    assert changed.shape == (5, 4, *SHAPE)
    assert_close(changed[:, ::2], kept[::2].expand(5, -1, *SHAPE))
    assert (changed[:, 1::2].std(0) > 0).all()


def test_a_walk_in_z_moves_the_features_below_it(vae):
    x = torch.rand(2, *SHAPE)
    images = tasks.traverse(vae, x, "z", 0, torch.tensor([-2.0, 2.0]))
    z = tasks.infer(vae, x)["z"].repeat(2, 1, 1)
    z[:, :, 0] = torch.tensor([-2.0, 2.0])[:, None]
    label = vae.q_y.net(gaussian(vae.q_f.net, x).mean).argmax(-1)
    f = gaussian(vae.p_f.net, torch.eye(C)[label].expand(2, -1, -1), z).mean
    assert_close(images, vae.p_x.net(f).sigmoid().detach())
