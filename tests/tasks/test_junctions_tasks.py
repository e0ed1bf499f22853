"""Searches and generations where a classifier, latents that are given and the decoder meet."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_semivae import tasks
from pyro_semivae.conditionals import Label
from pyro_semivae.models import CCVAE, DIVA, M1, M2, M3, MVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import MISSING, Binary, Classes

SHAPE = (1, 2, 3)


class Ellipse(nn.Module):
    """Class 1 outside of the ellipse z_1^2 / 9 + z_2^2 = 1, class 0 inside."""

    def forward(self, z):
        outside = 5 * (z[..., 0] ** 2 / 9 + z[..., 1] ** 2 - 1)
        return torch.stack([torch.zeros_like(outside), outside], -1)


@pytest.mark.parametrize("confidence", [0.5, 0.8])
def test_the_closest_change_moves_along_a_bent_border(confidence):
    """The gradient points to the side: from within a long ellipse the nearest point is above, as measured on it."""
    vae = M3(SHAPE, Classes(2), z_c=2, z_s=1, networks=MLPs(()))
    vae.q_y = Label(vae.labels, Ellipse())
    start = torch.tensor([[1.5, 0.1], [-1.2, 0.3], [0.8, -0.2], [2.0, -0.4], [4.0, 0.1]])
    with torch.no_grad():
        layer = vae.q_z.net.layers[0]
        layer.weight.zero_()
        layer.weight[:2, :2], layer.bias[:2] = 10 * torch.eye(2), -5.0
    x = torch.rand(5, *SHAPE)
    x.flatten(1)[:, :2] = (start + 5) / 10
    y = torch.tensor([1, 1, 1, 1, 0])
    _, latents = tasks.closest_change(vae, x, y, confidence=confidence)
    odds = math.log(confidence / (1 - confidence)) / 5
    t = torch.linspace(0, 2 * math.pi, 20_001)
    circle = torch.stack([3 * t.cos(), t.sin()], 1)
    for row in range(5):
        border = circle * math.sqrt(1 + odds * (1 if y[row] else -1))
        nearest = (border - start[row]).norm(dim=1).min()
        assert_close((latents["z_c"][row] - start[row]).norm(), nearest, atol=2e-3, rtol=0)
    assert_close(latents["z_s"], tasks.infer(vae, x)["z_s"])


def decoded(vae):
    """What the decoder is given, in the order of the calls."""
    seen = []
    vae.p_x.register_forward_hook(lambda module, args, out: seen.append(args))
    return seen


@pytest.mark.parametrize("labels", [Classes(3), Binary(2)], ids=["classes", "binary"])
@pytest.mark.parametrize("model", [M3, CCVAE, DIVA])
def test_generations_have_the_latents_that_are_given(model, labels):
    torch.manual_seed(0)
    vae = model(SHAPE, labels, z_c=10, z_s=4, networks=MLPs((5,)))
    several = isinstance(labels, Binary)
    y = torch.tensor([[1.0, 0], [0, 1], [1, torch.nan]]) if several else torch.tensor([0, 2, MISSING])
    size = 2 if several else 10
    z_s, z_c = torch.randn(3, 4), torch.randn(3, size)
    seen = decoded(vae)
    images = tasks.generate(vae, y, 2, given={"z_s": z_s}, confidence=0.1)
    for c, s in seen[-2:]:
        assert torch.equal(s.reshape(3, 4), z_s) and c.std() > 0
    both = tasks.generate(vae, y, given={"z_s": z_s, "z_c": z_c}, confidence=0.1)
    assert_close(both[0], tasks.decode(vae, {"z_c": z_c, "z_s": z_s}))
    assert not torch.equal(images[0], images[1])


def test_generations_from_evidence_have_the_latent_that_is_given():
    torch.manual_seed(0)
    vae, z = MVAE(SHAPE, Classes(3), z=4, networks=MLPs((5,))), torch.randn(2, 4)
    images = tasks.generate(vae, torch.tensor([0, 2]), given={"z": z})
    assert_close(images[0], vae.p_x.net(z).sigmoid().detach())


def test_what_is_inferred_from_new_labels_is_drawn():
    """MVAE's interventions and generations are draws of q(z | x, y) and q(z | y): the means vary as these do."""
    torch.manual_seed(0)
    vae, n = MVAE(SHAPE, Classes(3), z=2, networks=MLPs(())), 4000
    x, y = torch.rand(1, *SHAPE).expand(n, *SHAPE), torch.full((n,), 2)
    with torch.no_grad():
        vae.q_z.loc.copy_(torch.randn(3, 2))
    seen = decoded(vae)
    for run, image in ((lambda: tasks.intervene(vae, x, y), x[:1]), (lambda: tasks.generate(vae, y), None)):
        run()
        z, q = seen[-1][0], vae.q_z(image, vae.labels.known(y[:1], torch.float64))
        assert ((z.mean(0) - q.mean.flatten()).abs() < 5 * q.stddev.flatten() / math.sqrt(n)).all()
        assert_close(z.std(0), q.stddev.flatten(), rtol=5 / math.sqrt(2 * n), atol=0)


@pytest.mark.parametrize(("num_samples", "each"), [(100, 4), (7, 1), (60, 2)])
def test_draws_are_spread_over_thirty_corruptions(num_samples, each):
    vae, seen = CCVAE(SHAPE, Classes(3), networks=MLPs((5,))), []
    tasks.available(vae)  # runs it, to look at its graph
    vae.q_y.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[:-1]))
    probs = tasks.classify(vae, torch.rand(2, *SHAPE), num_samples=num_samples, corrupt=lambda x: x)
    assert seen == [(each, 2)] * 30
    assert_close(probs.sum(1), torch.ones(2))


def test_dropout_is_the_encoders():
    """Noise of the guide leaves its bound one; a decoder with noise would be another model."""
    torch.manual_seed(0)
    vae = CCVAE(SHAPE, Classes(3), z_c=2, z_s=2, networks=MLPs((20,), dropout=0.5)).train()
    x, z = torch.rand(2, *SHAPE), torch.randn(2, 2)
    assert_close(vae.p_x.net(z, z), vae.p_x.net(z, z))
    assert not torch.equal(vae.q_z(x)[0].mean, vae.q_z(x)[0].mean)


def test_a_swap_has_the_label_of_one_image_and_the_latent_of_the_other():
    """M2 that reads the label off a pixel and z off another one, and draws both."""
    vae = M2(SHAPE, Classes(2), z=1, networks=MLPs(()))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()
        vae.q_y.net.layers[0].weight[1, 0], vae.q_y.net.layers[0].bias[1] = 40.0, -20.0
        vae.q_z.net.layers[0].weight[0, 1] = 1.0
        vae.p_x.net.layers[0].weight[0, 1], vae.p_x.net.layers[0].weight[1, 2] = 3.0, 1.0  # parents: off, on, z
    x = torch.zeros(4, *SHAPE)
    x.flatten(1)[:, :2] = torch.tensor([[1.0, 0.2], [0, 0.5], [1, 0.7], [0, 0.9]])
    swapped = tasks.swap(vae, x, x[[1, 0, 3, 2]]).logit().flatten(1)
    assert_close(swapped[:, 0], 3 * x.flatten(1)[:, 0])
    assert_close(swapped[:, 1], x.flatten(1)[[1, 0, 3, 2], 1])


def test_a_label_that_is_always_on_has_its_frequency():
    """By the rule of succession, as one that is always off."""
    vae, x = M1(SHAPE, Binary(3), z=2, networks=MLPs((5,))), torch.rand(8, *SHAPE)
    with pytest.warns(UserWarning, match="have at most one value"):
        vae.fit_classifier(x, torch.tensor([[1.0, 0.0, torch.nan]]).expand(8, 3))
    expected = torch.tensor([9 / 10, 1 / 10, 1 / 2]).expand(8, 3)
    assert_close(tasks.classify(vae, x, mean=True), expected)


def test_a_missing_label_is_no_class_to_a_network():
    code = Classes(3).code(torch.tensor([2, MISSING]), torch.float32)
    assert code[0].tolist() == [0, 0, 1] and code[1].isnan().all()
