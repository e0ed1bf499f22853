"""Tasks over the model/guide pair: what each keeps, what it changes, and its leading shapes."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close

from pyro_semivae import CCVAE, tasks
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes

B, C, D_C, D_S, SHAPE = 6, 5, 2, 3, (1, 4, 7)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return CCVAE(SHAPE, Classes(C), z_c=D_C, z_s=D_S, networks=MLPs((11,)), label_hidden=(6,))


@pytest.fixture
def x():
    return torch.rand(B, *SHAPE, generator=torch.Generator().manual_seed(1))


def decoded(vae, z_c, z_s):
    return vae.p_x.net(z_c, z_s).sigmoid()


def posterior_mean(vae, x):
    return [q.mean for q in vae.q_z(x)]


def test_classify_is_the_expectation_of_the_classifier_under_the_guide(vae, x):
    probs = tasks.classify(vae, x, num_samples=20_000)
    z = vae.q_z(x)[0].sample((20_000,))
    draws = vae.q_y(z).probs
    error = 5 * math.sqrt(2) * draws.std(0) / math.sqrt(20_000)
    assert ((probs - draws.mean(0)).abs() <= error).all()
    assert_close(probs.sum(-1), torch.ones(B))
    assert_close(tasks.classify(vae, x, mean=True), vae.q_y(posterior_mean(vae, x)[0]).probs)
    assert tasks.classify(vae, (x * 255).to(torch.uint8), mean=True).shape == (B, C)


def test_classify_averages_over_what_the_guide_was_trained_to_see(vae, x):
    calls = []

    def flip(images):
        calls.append(images)
        return images.flip(-1) if len(calls) % 2 else images

    expected = (tasks.classify(vae, x, mean=True) + tasks.classify(vae, x.flip(-1), mean=True)) / 2
    assert_close(tasks.classify(vae, x, mean=True, corrupt=flip), expected)
    assert len(calls) == 30


def test_intervene_redraws_all_that_descends_from_a_label(x):
    class Chain(CCVAE):
        def model(self, x=None, y=None):
            with self.rows(x, y):
                y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
                z_c = pyro.sample("z_c", self.p_z_c(y))
                z_s = pyro.sample(
                    "z_s", dist.Normal(z_c.sum(-1, keepdim=True).expand(*z_c.shape[:-1], D_S), 1.0).to_event(1)
                )
                return pyro.sample("x", self.p_x(z_c, z_s), obs=x)

    chain, seen = Chain(SHAPE, Classes(C), z_c=D_C, z_s=D_S, networks=MLPs((11,))), []
    chain.p_x.register_forward_hook(lambda module, args, out: seen.append(args[1]))
    tasks.intervene(chain, x, torch.tensor([0, 1, 2, 3, 4, -1]), 2)
    first, second = seen[-2:]
    assert (first[:5] != second[:5]).all() and torch.equal(first[5], second[5])


def test_labels_and_latents_are_checked(vae, x):
    with pytest.raises(ValueError, match=r"y: got \[17\]"):
        tasks.generate(vae, torch.tensor([17]))
    with pytest.raises(ValueError, match=r"y_new: got \[-2\]"):
        tasks.intervene(vae, x[:1], torch.tensor([-2]))
    with pytest.raises(ValueError, match=r"latents: got \['z_q'\]; expected 'z_c', 'z_s'"):
        tasks.generate(vae, torch.tensor([1]), given={"z_q": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="latents, y: got neither"):
        tasks.decode(vae, {})
    with pytest.raises(ValueError, match=r"x: got pixels from .* to 255"):
        tasks.classify(vae, x * 255 / x.max())


def test_reconstruct_decodes_the_posterior_mean(vae, x):
    assert_close(tasks.reconstruct(vae, x), decoded(vae, *posterior_mean(vae, x)))
    assert not torch.equal(tasks.reconstruct(vae, x, mean=False), tasks.reconstruct(vae, x, mean=False))


def test_generate_draws_from_the_conditional_prior(vae):
    y = torch.tensor([0, 3, 3, 4, 1, 2, 0])
    assert tasks.generate(vae, y, 3).shape == (3, 7, *SHAPE)
    z_s = torch.randn(1, D_S)
    seen = []
    vae.p_x.register_forward_hook(lambda module, args, out: seen.append(args))
    images = tasks.generate(vae, y, 4, given={"z_s": z_s})
    z_c = torch.stack([args[0] for args in seen])
    assert_close(images, decoded(vae, z_c, z_s.expand(4, 7, -1)))
    assert (z_c.std(0) > 0).all(), "the characteristic varies"
    # With a narrow prior, what is drawn is the prior's mean of the given label.
    with torch.no_grad():
        vae.p_z_c.net.layers[-1].bias[D_C:] = -50.0
        vae.p_z_c.net.layers[-1].weight[D_C:] = 0.0
    seen.clear()
    tasks.generate(vae, y)
    assert_close(seen[0][0], vae.p_z_c(y).mean, atol=0.01, rtol=0)


def test_missing_labels_are_drawn_from_their_prior(vae):
    seen = []
    tasks.available(vae)  # runs it, to look at its graph
    vae.p_z_c.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    y = torch.tensor([4, *[-1] * 200])
    tasks.generate(vae, y)
    assert seen[0][0] == 4 and set(seen[0].tolist()) == set(range(C))


def test_intervene_redraws_the_characteristic_and_keeps_the_rest(vae, x):
    seen = []
    vae.p_x.register_forward_hook(lambda module, args, out: seen.append(args))
    y_new = torch.tensor([0, 1, 2, -1, 4, -1])
    images = tasks.intervene(vae, x, y_new, 5)
    assert images.shape == (5, B, *SHAPE)
    z_c, z_s = (torch.stack([args[i] for args in seen[-5:]]) for i in (0, 1))
    inferred_c, inferred_s = posterior_mean(vae, x)
    assert_close(z_s, inferred_s.expand(5, -1, -1))
    kept = y_new == -1
    assert_close(z_c[:, kept], inferred_c[kept].expand(5, -1, -1))
    assert (z_c[:, ~kept].std(0) > 0).all()
    assert_close(images[:, kept], tasks.reconstruct(vae, x)[kept].expand(5, -1, -1, -1, -1))


def test_intervening_on_a_label_draws_from_that_labels_prior(vae, x):
    with torch.no_grad():
        vae.p_z_c.net.layers[-1].bias[D_C:] = -50.0
        vae.p_z_c.net.layers[-1].weight[D_C:] = 0.0
    y_new = torch.tensor([0, 1, 2, 3, 4, 0])
    expected = decoded(vae, vae.p_z_c(y_new).mean, posterior_mean(vae, x)[1])
    assert_close(tasks.intervene(vae, x, y_new)[0], expected, atol=0.01, rtol=0)


def test_swap_takes_the_characteristic_of_one_and_the_rest_of_the_other(vae, x):
    other = x.flip(0)
    (c, _), (_, s) = posterior_mean(vae, x), posterior_mean(vae, other)
    assert_close(tasks.swap(vae, x, other), decoded(vae, c, s))
    assert_close(tasks.swap(vae, x, x), tasks.reconstruct(vae, x))


def test_traverse_and_walk_set_coordinates_and_keep_the_rest(vae, x):
    values = torch.tensor([-2.0, 0.0, 1.0, 3.0])
    c, s = posterior_mean(vae, x)
    moved = c.expand(4, -1, -1).clone()
    moved[..., 1] = values[:, None]
    assert_close(tasks.traverse(vae, x, "z_c", 1, values), decoded(vae, moved, s.expand(4, -1, -1)))
    points = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    moved = s.expand(2, -1, -1).clone()
    moved[..., 0], moved[..., 2] = points[:, :1], points[:, 1:]
    assert_close(tasks.walk(vae, x, "z_s", (0, 2), points), decoded(vae, c.expand(2, -1, -1), moved))
    with pytest.raises(ValueError, match="site: got 'z'; expected 'z_c', 'z_s'"):
        tasks.traverse(vae, x, "z", 0, values)
    with pytest.raises(ValueError, match=r"indices: got \(2,\); expected 0 to 1 for site 'z_c'"):
        tasks.traverse(vae, x, "z_c", 2, values)


def test_interpolate_has_the_prior_means_in_its_corners(vae):
    y = torch.tensor([0, 2, 3, 4])
    images = tasks.interpolate(vae, y, steps=7)
    means = vae.p_z_c(y).mean
    corners = decoded(vae, means, torch.zeros(4, D_S))
    assert images.shape == (7, 7, *SHAPE)
    for image, expected in zip((images[0, 0], images[0, 6], images[6, 0], images[6, 6]), corners, strict=True):
        assert_close(image, expected)
    assert_close(images[3, 3], decoded(vae, means.mean(0), torch.zeros(D_S)))
    with pytest.raises(ValueError, match="four corners"):
        tasks.interpolate(vae, y[:3])


def test_in_batches_is_the_same_as_at_once(vae, x):
    assert_close(tasks.in_batches(lambda part: tasks.reconstruct(vae, part), x, size=4), tasks.reconstruct(vae, x))


def test_a_guide_without_labels_cannot_classify(vae, x):
    class NoLabel(CCVAE):
        def guide(self, x=None, y=None):
            with self.rows(x, None):
                for name, q in zip(("z_c", "z_s"), self.q_z(x), strict=True):
                    pyro.sample(name, q)

    with pytest.raises(ValueError, match="classify: NoLabel does not have it, for no label is a site of its guide"):
        tasks.classify(NoLabel(SHAPE, Classes(C), z_c=D_C, z_s=D_S, networks=MLPs((11,))), x)


def test_no_gradients_are_kept(vae, x):
    assert not tasks.reconstruct(vae, x).requires_grad and not tasks.classify(vae, x).requires_grad
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_tasks_leave_dropout_out_and_the_mode_as_it_was(x):
    vae = CCVAE(SHAPE, Classes(C), z_c=D_C, z_s=D_S, networks=MLPs((11,), dropout=0.5)).train()
    first = tasks.classify(vae, x, mean=True)
    assert_close(tasks.classify(vae, x, mean=True), first)
    assert vae.training and not tasks.classify(vae.eval(), x, mean=True).requires_grad and not vae.training


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (lambda vae, x: tasks.generate(vae, 7), "y: got int; expected a 1-d integer tensor"),
        (lambda vae, x: tasks.generate(vae, torch.tensor(7)), r"y: got shape \(\)"),
        (lambda vae, x: tasks.generate(vae, torch.tensor([1]), 0), "num_samples: got 0; expected a positive integer"),
        (
            lambda vae, x: tasks.generate(vae, torch.tensor([1]), given={"y": torch.tensor([2])}),
            r"latents: got \['y'\]",
        ),
        (lambda vae, x: tasks.reconstruct(vae, x[:0]), "x, y: got no rows"),
        (lambda vae, x: tasks.reconstruct(vae, x, torch.zeros(len(x), 1).long()), r"y: got shape \(\d, 1\)"),
        (lambda vae, x: tasks.swap(vae, x, x[:1]), r"x_characteristics, x_rest: got \[\d, 1\] rows"),
        (lambda vae, x: tasks.intervene(vae, x, torch.tensor([1])), r"x, y_new: got \[\d, 1\] rows"),
        (lambda vae, x: tasks.walk(vae, x, "z_c", (0, 1), torch.zeros(4, 1)), r"values: got shape \(4, 1\)"),
        (lambda vae, x: tasks.walk(vae, x, "z_c", (0, 1), torch.zeros(2)), r"values: got shape \(2,\)"),
        (
            lambda vae, x: tasks.walk(vae, x, "z_c", (0,), torch.full((4, 1), torch.nan)),
            "values: got .* finite numbers",
        ),
        (lambda vae, x: tasks.walk(vae, x, "z_c", (0,), torch.zeros(0, 1)), r"values: got shape \(0, 1\)"),
        (lambda vae, x: tasks.walk(vae, x, "z_c", (0, -D_C), torch.zeros(4, 2)), r"indices: got \(0, -\d\); .* once"),
        (lambda vae, x: tasks.walk(vae, x, "z_c", (0.5,), torch.zeros(4, 1)), r"indices: got \(0.5,\)"),
        (lambda vae, x: tasks.traverse(vae, x, "z_c", 0, torch.zeros(4, 1)), r"values: got shape \(4, 1\); .*\(T,\)"),
        (lambda vae, x: tasks.traverse(vae, x, "z_c", 0, 3.0), "values: got float"),
        (lambda vae, x: tasks.interpolate(vae, torch.tensor([0, 1, 2])), "y: got 3 labels"),
        (lambda vae, x: tasks.interpolate(vae, torch.zeros(4, 1).long()), r"y: got shape \(4, 1\)"),
        (lambda vae, x: tasks.interpolate(vae, torch.zeros(4).long(), 0), "steps: got 0"),
        (lambda vae, x: tasks.interpolate(vae, torch.zeros(4).long(), 2.5), "steps: got 2.5"),
        (lambda vae, x: tasks.intervene(vae, x[0], torch.tensor([1])), r"x: got shape"),
        (lambda vae, x: tasks.intervene(vae, x[0, 0, 0, 0], torch.tensor([1])), r"x: got shape \(\)"),
        (lambda vae, x: tasks.swap(vae, x, x[:, :, :-1]), r"x: got shape"),
        (lambda vae, x: tasks.swap(vae, x[0, 0, 0, 0], x), r"x: got shape \(\)"),
    ],
)
def test_bad_calls_are_named(vae, x, task, message):
    with pytest.raises(ValueError, match=message):
        task(vae, x)
