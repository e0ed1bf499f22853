"""Searches in the characteristic latents of a classifier: the closest change, moves within the class."""

import warnings

import pytest
import torch
from torch.testing import assert_close

from pyro_semivae import tasks
from pyro_semivae.models import CCVAE, M2, M3
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import MISSING, Binary, Classes

SHAPE, C, L = (1, 4, 7), 5, 3


def make(model, labels, sure=5.0, **sizes):
    torch.manual_seed(0)
    vae = model(SHAPE, labels, networks=MLPs((11,)), **sizes)
    with torch.no_grad():
        for parameter in vae.q_y.parameters():
            parameter.mul_(sure)
    return vae, torch.rand(6, *SHAPE)


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_with_a_line_for_each_label_the_closest_change_is_the_formula(confidence):
    vae, x = make(M3, Binary(L), z_s=4)
    with torch.no_grad():
        vae.q_y.slope.copy_(torch.tensor([2.0, -0.7, 1.3]))
        vae.q_y.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
    z = tasks.infer(vae, x)["z_c"]
    on = vae.q_y.slope * z + vae.q_y.bias > 0
    y = (~on).double()
    y[0, 1] = torch.nan
    images, latents = tasks.closest_change(vae, x, y, confidence=confidence)
    odds = torch.tensor(confidence).logit() * (2 * y - 1)
    expected = torch.where(y.isnan(), z, (odds - vae.q_y.bias) / vae.q_y.slope)
    assert_close(latents["z_c"], expected.detach(), atol=2e-3, rtol=0)
    assert_close(images, tasks.decode(vae, latents))
    assert_close(latents["z_s"], tasks.infer(vae, x)["z_s"])
    assert_close(tasks.closest_change(vae, x, on.double())[1]["z_c"], z), "already so"


@pytest.mark.parametrize("model", [M3, CCVAE])
def test_with_a_network_it_is_on_the_border_and_no_nearby_point_is_closer(model):
    vae, x = make(model, Classes(C), z_c=2, z_s=3)
    start = tasks.infer(vae, x)["z_c"]
    now = vae.q_y.net(start).argmax(-1)
    grid = torch.cartesian_prod(torch.linspace(-6, 6, 500), torch.linspace(-6, 6, 500))
    said = vae.q_y.net(grid).softmax(-1)
    reached = [c for c in range(C) if (said[:, c] > 0.5).any()]
    assert len(reached) > 1
    y = torch.tensor([reached[0] if c != reached[0] else reached[1] for c in now.tolist()])
    y[5] = MISSING
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, latents = tasks.closest_change(vae, x, y, steps=200)
    found = latents["z_c"]
    assert torch.equal(found[5], start[5])
    prob = vae.q_y.net(found[:5]).softmax(-1).gather(-1, y[:5, None])[:, 0]
    assert (prob > 0.5).all() and (prob < 0.51).all()
    for row in range(5):
        near = grid[said[:, y[row]] >= 0.5]
        near = near[(near - found[row]).norm(dim=1) < 0.3]  # the search is a local one
        assert (found[row] - start[row]).norm() < (near - start[row]).norm(dim=1).min() + 0.02


def test_an_impossible_label_is_said_to_be():
    vae, x = make(M3, Classes(C), z_c=2, z_s=3)
    with torch.no_grad():
        vae.q_y.net.layers[-1].weight.zero_()
        vae.q_y.net.layers[-1].bias.copy_(torch.tensor([9.0, 0, 0, 0, 0]))
    with pytest.warns(UserWarning, match=r"6 of 6 labels found no latents with q\(y\|z\) >= 0.5"):
        tasks.closest_change(vae, x, torch.full((6,), 2), steps=5)


def test_variations_within_the_class_keep_it():
    vae, x = make(M3, Classes(C), z_c=2, z_s=3)
    seen = []
    tasks.available(vae)  # runs it, to look at its graph
    vae.p_x.register_forward_hook(lambda module, args, out: seen.append(args))
    images = tasks.vary_within(vae, x, 3)
    assert images.shape == (3, 6, *SHAPE)
    latents = tasks.infer(vae, x)
    now = vae.q_y.net(latents["z_c"]).argmax(-1)
    drawn = torch.stack([z_c for z_c, _ in seen])
    assert (vae.q_y.net(drawn).argmax(-1) == now).all() and (drawn.var(0) > 0).all()
    assert all(torch.equal(z_s, latents["z_s"]) for _, z_s in seen)


def test_models_without_such_a_classifier_are_refused():
    vae, x = make(M2, Classes(C), z=3)
    for task in (lambda: tasks.closest_change(vae, x, torch.full((6,), 2)), lambda: tasks.vary_within(vae, x)):
        with pytest.raises(ValueError, match="M2 does not have it, for its labels are not read off latents"):
            task()
    vae, x = make(M3, Classes(C), z_c=2, z_s=3)
    with pytest.raises(ValueError, match="confidence: got 1"):
        tasks.closest_change(vae, x, torch.full((6,), 2), confidence=1)
    with pytest.raises(ValueError, match="confidence: got 'sure'"):
        tasks.sample_characteristics(vae, torch.full((6,), 2), confidence="sure")
    with pytest.raises(ValueError, match=r"x: got shape \(\)"):
        tasks.closest_change(vae, x[0, 0, 0, 0], torch.full((6,), 2))
    with pytest.raises(ValueError, match=r"x, y_new: got \[6, 2\] rows"):
        tasks.closest_change(vae, x, torch.full((2,), 2))
