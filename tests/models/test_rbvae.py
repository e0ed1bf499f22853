"""Reference-based VAEs: Eq. 1 by hand, the parts of the recipe, groups in batches and in fit."""

import copy
import math

import pytest
import torch
from by_hand import assert_equal_with_gradients
from ccvae_toy import gaussian, log_normal
from pyro import poutine
from torch.nn import functional as F
from torch.testing import assert_close
from training import options as options_of
from training import same_weights

from pyro_semivae import tasks
from pyro_semivae.errors import InputError
from pyro_semivae.infer import (
    DensityRatio,
    Generate,
    LatentReconstruction,
    LocalParameters,
    MultiScaleTerm,
    Step,
    SwapTerm,
    TraceLabels_ELBO,
)
from pyro_semivae.infer.generation import generation
from pyro_semivae.models import M2, RbVAE, SwapVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes, Groups
from pyro_semivae.train import fit

SHAPE, D_Z, D_E = (1, 4, 7), 3, 2
Y = torch.tensor([0, 1, 1, 0, 0, 1, 0])


def make(seed=0):
    torch.manual_seed(seed)
    vae = RbVAE(SHAPE, z=D_Z, e=D_E, networks=MLPs((11,)))
    vae.e_r.data = torch.tensor([0.3, -0.8])
    return vae, torch.rand(len(Y), *SHAPE)


def recorded(vae, elbo, x, y, **more):
    """The terms, and the guide's latents."""
    seen = {}

    def guide(*args):
        vae.guide(*args)

    step = Step(vae.model, vae.guide, (x, y), **more)
    with LocalParameters():
        found = elbo.evaluate(step)
    for run in step._runs.values():
        if hasattr(run, "guide"):
            seen |= {name: run.guide.nodes[name]["value"] for name in ("z", "e")}
    return found, seen, step


def test_eq_1_by_hand():
    """Ruiz et al., Eq. 1: references have no KL of e and are decoded from e_r, which has a gradient from them alone."""
    vae, x = make()
    found, drawn, _ = recorded(vae, vae.elbo(), x, Y)
    z, e = drawn["z"], drawn["e"]
    reference = Y == 1
    assert torch.equal(e[reference], vae.e_r.expand(int(reference.sum()), -1))
    of_z, of_e = gaussian(vae.q_z.net(x)), gaussian(vae.q_e.otherwise.net(x))
    mean = vae.p_x.net(z, e).sigmoid()
    log_p_x = (-(x - mean).abs() / 0.1 - math.log(0.2)).flatten(1).sum(1)
    kl = log_normal(z, *of_z) - log_normal(z, torch.zeros(()), torch.ones(()))
    kl_e = log_normal(e, *of_e) - log_normal(e, torch.zeros(()), torch.ones(()))
    expected = log_p_x - kl - torch.where(reference, 0.0, kl_e) + math.log(0.5)
    ours = sum(value.summed() for value in found.values)
    assert_equal_with_gradients(ours, expected, vae)
    only = torch.autograd.grad(expected[~reference].sum(), vae.e_r, retain_graph=True, allow_unused=True)[0]
    assert only is None or not only.any()


def test_the_reference_vector_is_known_whatever_the_image():
    vae, x = make()
    e = tasks.infer(vae, x, torch.ones(len(x), dtype=torch.long))["e"]
    assert torch.equal(e, vae.e_r.detach().expand_as(e))
    assert not torch.equal(tasks.infer(vae, x)["e"], e)
    images = tasks.generate(vae, torch.ones(5, dtype=torch.long), 2)
    assert images.shape == (2, 5, *SHAPE)


@pytest.mark.parametrize("sizes", [(4, 3), (2, 5)])
def test_rows_sorted_by_group_have_the_same_terms_and_gradients(sizes):
    """Sorted rows are sliced and mixed ones masked: values, losses and gradients agree."""
    vae, x = make()
    y = torch.repeat_interleave(torch.arange(2), torch.tensor(sizes))
    elbo = vae.elbo(adversarial=3.0, latents=0.5)
    found = {}
    for sort in (False, True):
        torch.manual_seed(4)
        found[sort], _, _ = recorded(vae, elbo, x, y, strata={"y": sizes} if sort else {})
    for one, other in zip(found[False].values, found[True].values, strict=True):
        assert one.name == other.name
        assert_close(one.value, other.value)
    assert_close(found[False].losses, found[True].losses)
    assert_close(found[False].monitors, found[True].monitors)
    gradients = [torch.autograd.grad(f.total(), [*vae.parameters()], retain_graph=True) for f in found.values()]
    assert_close(*gradients)
    critics = elbo.modules()
    for name in found[False].losses:
        of = [
            torch.autograd.grad(f.losses[name], [*critics[name].parameters()], retain_graph=True)
            for f in found.values()
        ]
        assert_close(*of)


def test_each_discriminator_sees_its_own_group_and_latents():
    vae, x = make()
    unlabelled, reference = vae.discriminators(Generate(mean=True))
    assert (unlabelled.latents, reference.latents) == (("z", "e"), ("z",))
    elbo = TraceLabels_ELBO() + unlabelled + reference
    found, _, _ = recorded(vae, elbo, x, Y)
    values = {value.name: value.value for value in found.values}
    assert torch.equal(values["-J(x,z,e|y=0)"] != 0, Y == 0) and torch.equal(values["-J(x,z|y=1)"] != 0, Y == 1)


def test_the_recipe_is_the_sum_of_its_parts():
    """L1 at two scales by hand; the discriminators' and the latents' terms with their weights; e_r has a gradient."""
    vae, x = make()
    elbo = vae.elbo(beta=2.0, scales=2, adversarial=3.0, latents=0.5)
    torch.manual_seed(4)
    found, drawn, step = recorded(vae, elbo, x, Y)
    values = {value.name: value for value in found.values}
    difference = x - vae.p_x.net(drawn["z"], drawn["e"]).sigmoid()
    by_hand = difference.abs().flatten(1).sum(1) + 4 * F.avg_pool2d(difference, 2).abs().flatten(1).sum(1)
    assert_close(values["-|x - E[x|.]|"].value, -by_hand / (2 * 0.1))
    assert values["log p(x)"].removed and values["log p(z)"].weight == 2.0
    weights = {name: values[name].weight for name in ("-J(x,z,e|y=0)", "-J(x,z|y=1)", "log q(z|x~)", "log q(e|x~)")}
    assert [*weights.values()] == [3.0, 3.0, 0.5, 0.5]
    run = step.run(1)
    made = generation(run, Generate(mean=True, latents=("z",), by="y", kept=("e",)))
    z, e, x_p = (made.value(name) for name in ("z", "e", "x"))
    assert_close(x_p, vae.p_x.net(z, e).sigmoid())
    assert torch.equal(e[Y == 1], vae.e_r.expand_as(e[Y == 1]))
    assert_close(values["log q(z|x~)"].value, log_normal(z, *gaussian(vae.q_z.net(x_p))))
    of_e = torch.where(Y == 1, 0.0, log_normal(e, *gaussian(vae.q_e.otherwise.net(x_p))))
    assert_close(values["log q(e|x~)"].value, of_e)
    (adversarial,) = torch.autograd.grad(values["-J(x,z|y=1)"].value.sum(), vae.e_r)
    assert adversarial.any()


def test_crossed_latents_are_the_other_sets():
    """All of them: each row's z is a posterior sample of a row of the other group, with its gradient."""
    vae, x = make()
    elbo = vae.elbo(adversarial=1.0, crossed=1.0)
    _, drawn, step = recorded(vae, elbo, x, Y)
    how = next(part.what.generate for part in elbo.parts() if isinstance(part.what, DensityRatio))
    made = generation(step.run(1), how)
    (gradient,) = torch.autograd.grad(made.value("z").sum(), vae.q_z.net.layers[0].bias)
    assert gradient.any(), "the guide learns what its z must not hold"
    (gradient,) = torch.autograd.grad(made.value("e").sum(), vae.q_e.otherwise.net.layers[0].bias)
    assert gradient.any(), "and what its e must"
    for i, z in enumerate(made.value("z")):
        from_row = [j for j in range(len(x)) if torch.equal(z, drawn["z"][j])]
        assert len(from_row) == 1 and Y[from_row[0]] != Y[i]
    assert torch.equal(made.value("e"), drawn["e"]), "e is the row's own: a transfer to the other's z"
    alone = torch.zeros(len(x), dtype=torch.long)  # no other group: the prior's
    _, drawn, step = recorded(vae, elbo, x, alone)
    made = generation(step.run(1), how)
    assert not any(torch.equal(a, b) for a in made.value("z") for b in drawn["z"])
    assert not any(torch.equal(a, b) for a in made.value("e") for b in drawn["e"])


def test_a_fraction_is_crossed():
    vae, _ = make()
    x, y = torch.rand(2000, *SHAPE), torch.arange(2000) % 2
    elbo = vae.elbo(adversarial=1.0, crossed=0.3)
    _, drawn, step = recorded(vae, elbo, x, y)
    how = next(part.what.generate for part in elbo.parts() if isinstance(part.what, DensityRatio))
    known = {tuple(z.tolist()) for z in drawn["z"]}
    made = generation(step.run(1), how)
    crossed = torch.tensor([tuple(z.tolist()) in known for z in made.value("z")])
    assert abs(crossed.double().mean() - 0.3) < 5 * (0.3 * 0.7 / len(x)) ** 0.5
    own = (made.value("e") == drawn["e"]).all(1)
    assert torch.equal(own[y == 0], crossed[y == 0]), "other rows have both from the prior"


def data_rows(n=40):
    generator = torch.Generator().manual_seed(5)
    return {"x": torch.rand(n, *SHAPE, generator=generator), "y": (torch.arange(n) % 4 == 0).long()}


@pytest.mark.parametrize("options", [{}, {"adversarial": 2.0, "latents": 0.5, "crossed": 0.5, "r1": 1.0}])
def test_fit_takes_as_many_rows_of_each_group_and_resumes_bit_identically(options, tmp_path):
    rows, path = data_rows(), tmp_path / "checkpoint.pt"
    how = {**options_of(batch_size=5), "warm_up": 0.5}
    how.pop("labelled_batch_size")

    def objective(vae):
        torch.manual_seed(3)
        return vae.elbo(**options)

    whole, parts, again = make()[0], make()[0], make(seed=9)[0]
    elbo = objective(whole)
    history = fit(whole, rows, elbo=elbo, **{**how, "epochs": 4})
    fit(parts, rows, elbo=objective(parts), checkpoint=path, **{**how, "epochs": 2, "warm_up": 0.5 * 2})
    with pytest.raises(InputError, match="checkpoint"):
        fit(again, rows, elbo=objective(again), checkpoint=path, resume=True, **{**how, "epochs": 4, "seed": 1})
    assert len(history) == 4 and (not options or "monitor/loss of d(x,z|y=1)" in history[0])
    no_warm_up = {**how, "warm_up": 0.0}
    straight, resumed, other = make()[0], make()[0], make(seed=9)[0]
    fit(straight, rows, elbo=objective(straight), **{**no_warm_up, "epochs": 4})
    fit(resumed, rows, elbo=objective(resumed), checkpoint=tmp_path / "two.pt", **{**no_warm_up, "epochs": 2})
    resume = {**no_warm_up, "epochs": 4, "checkpoint": tmp_path / "two.pt", "resume": True}
    fit(other, rows, elbo=objective(other), **resume)
    assert same_weights(straight, other) and not same_weights(straight, resumed)


def test_fit_weighs_both_groups_alike(monkeypatch):
    """A step has as many rows of both, sorted, of the total weight 1/2 each, though one is three times as large."""
    from pyro_semivae import trainer

    seen = []
    learn = trainer.Trainer.learn
    monkeypatch.setattr(
        trainer.Trainer, "learn", lambda self, batch, *rest: (seen.append(batch), learn(self, batch, *rest))[1]
    )
    vae, _ = make()
    fit(vae, data_rows(), epochs=2, batch_size=5, progress=False)
    assert len(seen) == 2 * (30 // 5)
    for batch in seen:
        assert batch.y.tolist() == [0] * 5 + [1] * 5 and batch.strata == {"y": (5, 5)} and not batch.labelled
        assert_close(batch.scale, torch.full((10,), 0.1))
    assert {row for batch in seen for row in batch.rows[:5].tolist()} == {i for i in range(40) if i % 4}


def test_what_is_wrong_is_said():
    vae, x = make()
    with pytest.raises(InputError, match=r"y: got missing ones \(-1\) at rows \[1\]; expected a group, 0 to 1"):
        fit(vae, {"x": x, "y": torch.tensor([0, -1, 1, 0, 0, 1, 0])})
    with pytest.raises(InputError, match=r"y: got no row of the values \[0\]; expected some of each"):
        fit(vae, {"x": x, "y": torch.ones(7, dtype=torch.long)})
    with pytest.raises(InputError, match=r"y: got no row of the values \[1\]; expected some of each"):
        fit(vae, {"x": x, "y": torch.zeros(7, dtype=torch.long)})
    with pytest.raises(InputError, match="y: got nothing; expected a value, 0 to 1, of every row"):
        fit(vae, {"x": x})
    for options, message in ((("w", 0), "the label 'w'"), (("y", 5), "group: got 5 of 'y'; expected 0 to 1")):
        ratio = DensityRatio("z", net=MLPs((4,)).discriminator(SHAPE, [D_Z]), group=options)
        step = Step(vae.model, vae.guide, (x, Y.sort().values), strata={"y": (4, 3)})
        with LocalParameters(), pytest.raises(InputError, match=message):
            (vae.elbo() + ratio).evaluate(step)
    with pytest.raises(InputError, match=r"generate: got the latents \['w'\]; expected z, e"):
        ratio = DensityRatio(
            "z",
            net=MLPs((4,)).discriminator(SHAPE, [D_Z]),
            generate=Generate(crossed=0.5, latents=("z",), by="y", kept=("w",)),
        )
        (vae.elbo() + ratio).terms(vae.model, vae.guide, x, Y)
    m2, y = M2(SHAPE, Classes(3), z=D_Z, networks=MLPs((6,))), torch.tensor([0, 1, -1, -1, 0, 2, 2])
    for term in (LatentReconstruction(), SwapTerm("z", ("y", 1))):
        with pytest.raises(InputError, match=r"labels that may be missing.*as Groups"):
            (m2.elbo() + term).terms(m2.model, m2.guide, x, y)
    with pytest.raises(InputError, match="crossed: got 2"):
        vae.elbo(crossed=2.0)
    with pytest.raises(InputError, match=r"MultiScaleTerm: got data of shape .* of at least 8 x 8 pixels"):
        (vae.elbo() + MultiScaleTerm(4)).terms(vae.model, vae.guide, x, Y)
    assert Groups(2) == Groups(2) and copy.deepcopy(vae).spaces["y"] == Groups(2)


def swapvae():
    torch.manual_seed(0)
    vae = SwapVAE(SHAPE, z=D_Z, e=D_E, networks=MLPs((11,)))
    return vae, torch.rand(len(Y), *SHAPE)


def test_the_swap_vae_by_hand():
    """e has no density; a reference is decoded from another reference's e as well, each once; all gradients."""
    vae, x = swapvae()
    torch.manual_seed(3)
    found, drawn, _ = recorded(vae, vae.elbo(beta=1.5, swap=0.5), x, Y)
    values = {value.name: value for value in found.values}
    z, e = drawn["z"], vae.q_e.net(x)
    assert_close(drawn["e"], e)

    def log_p(z, e):
        return (-(x - vae.p_x.net(z, e).sigmoid()).abs() / 0.1 - math.log(0.2)).flatten(1).sum(1)

    torch.manual_seed(3)
    reference = (Y == 1).nonzero()[:, 0]
    swapped = values["swap: log p(x)"].value
    possible = {(i.item(), j.item()): log_p(z, e[j].expand_as(e))[i] for i in reference for j in reference if i != j}
    partners = {}
    for i in reference.tolist():
        (partners[i],) = (j for (row, j), value in possible.items() if row == i and torch.equal(value, swapped[i]))
    assert sorted(partners.values()) == reference.tolist(), "each reference's e is used once"
    assert not swapped[Y == 0].any()
    kl = log_normal(z, *gaussian(vae.q_z.net(x))) - log_normal(z, torch.zeros(()), torch.ones(()))
    partner = torch.tensor([partners.get(i, i) for i in range(len(Y))])
    expected = log_p(z, e) - 1.5 * kl + math.log(0.5) + torch.where(Y == 1, 0.5 * log_p(z, e[partner]), 0.0)
    assert_equal_with_gradients(sum(value.summed() for value in found.values), expected, vae)


def test_the_swap_vaes_discriminators_see_images_of_the_other_sets_z_and_their_own_e():
    vae, x = swapvae()
    elbo = vae.elbo(adversarial=1.0)
    _, drawn, step = recorded(vae, elbo, x, Y)
    ratios = [part.what for part in elbo.parts() if isinstance(part.what, DensityRatio)]
    assert [ratio.group for ratio in ratios] == [("y", 0), ("y", 1)] and not any(ratio.latents for ratio in ratios)
    made = generation(step.run(1), ratios[0].generate)
    assert_close(made.value("e"), drawn["e"])
    for i, z in enumerate(made.value("z")):
        (j,) = (j for j in range(len(x)) if torch.equal(z, drawn["z"][j]))
        assert Y[j] != Y[i]
    assert_close(made.value("x"), vae.p_x.net(made.value("z"), drawn["e"]).sigmoid())


def test_masked_rows_have_no_part_in_any_term():
    """`poutine.mask` leaves rows out: all terms are 0 there, and the discriminators' losses are those of the others."""
    vae, x = make()
    elbo = vae.elbo(scales=2, adversarial=3.0, latents=0.5)
    keep = torch.tensor([True, True, False, True, False, True, True])

    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = vae

        def model(self, x, y):
            with poutine.mask(mask=keep):
                return vae.model(x, y)

        def guide(self, x, y):
            with poutine.mask(mask=keep):
                return vae.guide(x, y)

    pair = Masked()
    torch.manual_seed(2)
    with LocalParameters():
        found = elbo.evaluate(Step(pair.model, pair.guide, (x, Y)))
    for value in found.values:
        assert not value.value[~keep].any(), value.name
    torch.manual_seed(2)
    whole, _, _ = recorded(vae, elbo, x, Y)
    for one, other in zip(found.values, whole.values, strict=True):
        assert_close(one.value[keep], other.value[keep])
    for name, loss in found.losses.items():
        assert not torch.isclose(loss, whole.losses[name])


@pytest.mark.parametrize("group", [0, 1])
def test_the_penalty_is_of_rows_of_the_group_wherever_they_are(group):
    """With mixed rows it is that of the same rows sorted: the first eighth of the group, not of the batch."""
    vae, x = make()
    y = torch.tensor([1, 1, 1, 0, 0, 0, 0])
    net = MLPs((4,)).discriminator(SHAPE, [D_Z])
    losses = {}
    for r1 in (0.0, 2.0):
        ratio = DensityRatio("z", net=net, group=("y", group), r1=r1)
        torch.manual_seed(5)
        found, drawn, _ = recorded(vae, TraceLabels_ELBO() + ratio, x, y)
        (losses[r1],) = found.losses.values()
    first = 0 if group == 1 else 3
    pair = [x[first : first + 1].clone().requires_grad_(), drawn["z"][first : first + 1].detach().requires_grad_()]
    gradients = torch.autograd.grad(net(*pair).sum(), pair)
    assert_close(losses[2.0] - losses[0.0], sum(gradient.square().sum() for gradient in gradients))
