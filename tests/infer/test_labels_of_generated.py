"""The labels of generated data, for the model to learn: by hand with gradients, and what it needs of a model."""

import copy
from types import SimpleNamespace

import graphs
import pytest
import torch
from ccvae_toy import C, K, Y, make
from style_toy import SEVERAL, Linear, X, attributes, of, spied, told
from terms import evaluate
from torch.testing import assert_close

from pyro_semivae.errors import InputError
from pyro_semivae.infer import (
    GeneratedLabelsTerm,
    LocalParameters,
    Step,
    TraceLabels_ELBO,
)
from pyro_semivae.infer.terms.generated_labels import through


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


def test_labels_of_the_batch_where_it_has_none_are_no_term():
    vae, x = make()
    term = GeneratedLabelsTerm(labels_from="batch")
    assert not [v for v in evaluate(vae.elbo(num_samples=1) + term, vae, x, None).values if "x~" in v.name]


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
    with pytest.raises(InputError, match="got a term that does not depend on the generated data"):
        through(weight.sum().expand(4), at, inputs)


def test_labels_of_the_batch_are_those_of_all_its_rows():
    """Also where the bound could run the labelled rows, which come first, and the others by themselves."""
    vae, x = make()
    y = torch.where(torch.arange(len(x)) < 4, Y.clamp(min=0), -1)
    objective = vae.elbo(num_samples=K) + GeneratedLabelsTerm(kept=["z_s"])
    assert GeneratedLabelsTerm().whole_batch and not GeneratedLabelsTerm(labels_from="prior").whole_batch
    found = []
    for labelled in (0, 4):
        torch.manual_seed(3)
        with LocalParameters():
            values = objective.evaluate(Step(vae.model, vae.guide, (x, y), labelled=labelled)).values
        found.append({value.name: value.value for value in values})
    assert_close(*found)
