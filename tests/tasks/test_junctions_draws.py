"""The laws of what is drawn: Kolmogorov-Smirnov tests against scipy's distributions, at fixed seeds."""

import pytest
import torch
from pyro import poutine
from scipy import stats
from torch.testing import assert_close

from pyro_semivae import tasks
from pyro_semivae.distributions import RelaxedLogits
from pyro_semivae.infer import LocalParameters, Step
from pyro_semivae.models import M2, M3, InvertedVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import MISSING, Binary, Classes

N, SHAPE = 20_000, (1, 2, 3)


def follows(values, law):
    """Whether draws are of a law, of which a fixed seed makes certain."""
    return stats.kstest(values.detach().flatten().numpy(), law.cdf).pvalue > 1e-5


def drawn(vae, elbo, x, y, name="y"):
    guide = poutine.trace(vae.guide)
    with LocalParameters():
        elbo.evaluate(Step(vae.model, guide, (x, y)))
    return guide.trace.nodes[name]["value"]


@pytest.mark.parametrize("temperature", [0.4, 1.5])
def test_relaxed_binary_labels_are_binary_concrete(temperature):
    """sigmoid((logits + logistic noise) / t) where the label is missing (Maddison et al. 2017, Appendix B)."""
    torch.manual_seed(0)
    vae, x = M2(SHAPE, Binary(2), z=2, networks=MLPs((5,))), torch.rand(1, *SHAPE).expand(N, *SHAPE)
    with torch.no_grad():
        vae.q_y.net.layers[-1].bias.copy_(torch.tensor([1.5, -1.0]))
    logits, elbo = vae.q_y.net(x[:1])[0], vae.elbo(missing_labels="gumbel", temperature=temperature)
    y = drawn(vae, elbo, x, torch.full((N, 2), torch.nan))
    for i in range(2):
        assert follows(y[:, i].logit(), stats.logistic(logits[i].item() / temperature, 1 / temperature))
    assert abs(stats.pearsonr(*y.detach().T.numpy()).statistic) < 5 / N**0.5, "labels are drawn independently"


@pytest.mark.parametrize("temperature", [0.4, 1.5])
def test_relaxed_class_labels_are_concrete(temperature):
    """softmax((logits + Gumbel noise) / t): log-ratios are logistic, the largest entry is the class's draw."""
    torch.manual_seed(0)
    vae, x = M2(SHAPE, Classes(3), z=2, networks=MLPs((5,))), torch.rand(1, *SHAPE).expand(N, *SHAPE)
    with torch.no_grad():
        vae.q_y.net.layers[-1].bias.copy_(torch.tensor([1.0, -0.5, 0.2]))
    logits, elbo = vae.q_y.net(x[:1])[0], vae.elbo(missing_labels="gumbel", temperature=temperature)
    y = drawn(vae, elbo, x, torch.full((N,), MISSING))
    ratio = (y[:, 0].log() - y[:, 1].log()).clamp(-200, 200)
    assert follows(ratio, stats.logistic((logits[0] - logits[1]).item() / temperature, 1 / temperature))
    counts = y.argmax(1).bincount(minlength=3)
    assert stats.chisquare(counts.numpy(), (N * logits.softmax(0)).detach().numpy()).pvalue > 1e-5


@pytest.mark.parametrize("temperature", [0.4, 1.5])
def test_relaxed_logits_are_logistic_in_draws_and_density(temperature):
    torch.manual_seed(0)
    logits = torch.tensor([2.0, -40.0])
    fn = RelaxedLogits(torch.tensor(temperature), logits=logits)
    for i, values in enumerate(fn.rsample((N,)).T):
        law = stats.logistic(logits[i].item() / temperature, 1 / temperature)
        assert follows(values, law)
        assert_close(fn.log_prob(values[:, None].expand(N, 2))[:, i].numpy(), law.logpdf(values.numpy()))


def test_imagined_images_are_drawn_at_the_temperature_of_the_objective():
    torch.manual_seed(0)
    vae = InvertedVAE(SHAPE, Classes(3), z=1, decoder_hidden=(4,))
    with torch.no_grad():
        first, last = vae.p_x.net.layers[0], vae.p_x.net.layers[-1]
        first.weight[:, 3:] = 0.0  # no z: one mean for all images
        last.bias.copy_(torch.linspace(-1, 1, 6))
    elbo, temperature = vae.elbo(temperature=0.8), 0.8
    x = drawn(vae, elbo, None, torch.full((N,), 1), name="x").flatten(1)
    logits = vae.p_x.net(torch.eye(3)[1:2], torch.zeros(1, 1)).flatten()
    for i in range(6):
        assert follows(x[:, i].logit(), stats.logistic(logits[i].item() / temperature, 1 / temperature))


def line(labels, slope):
    """M3 with one z_c for each label and q(y = 1 | z) = sigmoid(slope z)."""
    torch.manual_seed(0)
    vae = M3(SHAPE, labels, z_c=1, z_s=1, networks=MLPs((5,)), label_hidden=())
    with torch.no_grad():
        if isinstance(labels, Binary):
            vae.q_y.slope.fill_(slope)
        else:
            vae.q_y.net.layers[0].weight.copy_(torch.tensor([[0.0], [slope]]))
            vae.q_y.net.layers[0].bias.zero_()
    return vae


@pytest.mark.parametrize("confidence", [0.5, 0.9])
@pytest.mark.parametrize("labels", [Classes(2), Binary(2)], ids=["classes", "binary"])
def test_characteristics_are_the_prior_where_the_classifier_is_confident(labels, confidence):
    """The first draw that is accepted: the prior, truncated, and not the best of many draws."""
    vae, several, slope = line(labels, 1.7), isinstance(labels, Binary), 1.7
    y = torch.tensor([[1.0, torch.nan]]).expand(4000, 2) if several else torch.ones(4000, dtype=torch.long)
    z = tasks.sample_characteristics(vae, y, confidence=confidence)["z_c"]
    border = torch.tensor(confidence).logit().item() / slope
    assert follows(z[:, 0], stats.truncnorm(border, torch.inf))
    if several:
        assert follows(z[:, 1], stats.norm), "a missing label accepts all draws"


def test_where_no_draw_is_accepted_it_is_the_best_of_all():
    """Of 100 draws in two rounds: the law of the largest."""
    vae = line(Classes(2), 1.0)
    with pytest.warns(UserWarning, match="2000 of 2000 labels found no sample"):
        z = tasks.sample_characteristics(
            vae, torch.ones(2000, dtype=torch.long), confidence=1 - 1e-9, max_proposals=100
        )["z_c"]
    uniform = torch.tensor(stats.norm.cdf(z.numpy())) ** 100  # of the largest of 100
    assert follows(uniform, stats.uniform)


def test_inferred_labels_are_drawn_where_no_mean_is_asked_for():
    """M2's missing labels in `reconstruct(mean=False)`: as often as q(y | x) says; the most probable one with means."""
    torch.manual_seed(0)
    vae, x = M2(SHAPE, Classes(3), z=1, networks=MLPs(())), torch.rand(1, *SHAPE).expand(3000, *SHAPE)
    with torch.no_grad():
        vae.p_x.net.layers[0].weight.copy_(torch.cat([60 * torch.eye(3).repeat(2, 1), torch.zeros(6, 1)], 1))
        vae.p_x.net.layers[0].bias.fill_(-30)  # images show the label
    q = vae.q_y.net(x[:1]).softmax(-1)[0].detach()
    labels = tasks.reconstruct(vae, x, mean=False).flatten(1)[:, :3].argmax(1)
    assert stats.chisquare(labels.bincount(minlength=3).numpy(), (3000 * q).numpy()).pvalue > 1e-5
    known = torch.full((3000,), 2)
    assert (tasks.reconstruct(vae, x, known, mean=False).flatten(1)[:, :3].argmax(1) == 2).all()
    assert (tasks.reconstruct(vae, x).flatten(1)[:, :3].argmax(1) == q.argmax()).all()
    z = tasks.infer(vae, x, known, mean=False)["z"]
    q_z = vae.q_z(x[:1], torch.eye(3)[2:])
    assert follows(z, stats.norm(q_z.mean.item(), q_z.stddev.item()))
