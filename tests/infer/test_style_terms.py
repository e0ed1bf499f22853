"""What keeps style in interventions, together: weights, some of the rows, masks, arguments, other models."""

import math
from types import SimpleNamespace

import pytest
import torch
from ccvae_toy import D_C, D_S, C, K, Y, make
from pyro import poutine
from style_toy import NAN, SEVERAL, Linear, X, attributes, of, spied, told
from terms import evaluate
from torch.testing import assert_close

from pyro_semivae import CCVAE
from pyro_semivae.errors import InputError
from pyro_semivae.infer import (
    GeneratedLabelsTerm,
    LocalParameters,
    ReplacementTerm,
    Step,
    TraceLabels_ELBO,
    style_terms,
)
from pyro_semivae.models import DIVA, M2, LaRVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes, Real
from pyro_semivae.train import fit


def test_weights_of_the_terms_for_interventions():
    vae, x = make()
    added = style_terms("z_c", kept=["z_s"], tau=0.5, generated=8.0, style=2.0, independence=4.0, share=1.0)
    for done, factor in ((1.0, 1.0), (0.125, 0.5)):
        found = evaluate(vae.elbo(num_samples=1) + added, vae, x, Y, done=done)
        weights = {v.name: v.weight for v in found.values if v.name.startswith(("replaced", "-TC")) or "x~" in v.name}
        risen = {
            "shown: log q(y'|x~)": 8.0 * factor,
            "shown: log q(z_s|x~)": 2.0 * factor,
            "-TC(z_c;z_s)": 4.0 * factor,
        }
        assert weights == {"replaced: log p(x)": 0.5, **risen}
    without = style_terms("z_c", kept=["z_s"], style=0.0, independence=0.0)
    names = {v.name for v in evaluate(vae.elbo(num_samples=1) + without, vae, x, Y).values}
    assert not names & {"shown: log q(z_s|x~)", "-TC(z_c;z_s)"}
    alone = style_terms()
    assert [*evaluate(vae.elbo(num_samples=1) + alone, vae, x, Y).contributions()][-1] == "shown: log q(y'|x~)"
    with pytest.raises(InputError, match=r"tau, generated: got 0\.5 and 0\.0"):
        style_terms(generated=0.0, style=0.0)
    with pytest.raises(InputError, match=r"style: got 1\.0 without `generated`"):
        style_terms("z_c", kept=["z_s"], generated=0.0, style=1.0)


def test_other_models_of_the_family():
    """DIVA has the same graph; M2 has no latent below its label, and what it generates keeps z."""
    torch.manual_seed(0)
    diva = DIVA((1, 2, 7), Classes(C), z_c=D_C, z_s=D_S, networks=MLPs((11,)))
    x = torch.rand(len(Y), 1, 2, 7)
    found = evaluate(diva.elbo() + 0.5 * ReplacementTerm("z_c", missing_labels="enumerate") + told(), diva, x, Y)
    assert {"replaced: log p(x)", "shown: log q(y'|x~)"} <= {v.name for v in found.values}
    m2 = M2((1, 2, 7), Classes(C), z=D_S, networks=MLPs((11,)))
    y = torch.tensor([1, 0, 2, 4, 1, 2, 3, 0])
    term = GeneratedLabelsTerm(labels_from="prior", teaches="model")
    value = next(v.value for v in evaluate(m2.elbo() + term, m2, x, y).values if v.name == "shown: log q(y'|x~)")
    gradients = torch.autograd.grad(value.sum(), [*m2.parameters()], allow_unused=True, materialize_grads=True)
    learns = {name.split(".")[0] for (name, _), g in zip(m2.named_parameters(), gradients, strict=True) if g.any()}
    assert learns == {"p_x"}


def test_bad_input_is_told():
    vae, x = make()
    binary, m2 = attributes(), M2((1, 2, 7), Classes(C), z=D_S, networks=MLPs((11,)))
    elbo, of_binary = vae.elbo(num_samples=1), binary.elbo(num_samples=1)
    empty = CCVAE((1, 2, 7), Classes(C), z_c=D_C, z_s=0, networks=MLPs((11,)))
    cases = [
        (lambda: ReplacementTerm(), "got no latent"),
        (lambda: evaluate(empty.elbo() + ReplacementTerm("z_c"), empty, x, Y), r"got \['z_s'\] of size 0 beside"),
        (lambda: ReplacementTerm("z_c", missing_labels="gumbel"), "missing_labels: got 'gumbel'"),
        (lambda: ReplacementTerm("z_c", entries="two"), "entries: got 'two'"),
        (lambda: GeneratedLabelsTerm(teaches="both"), "teaches: got 'both'"),
        (lambda: GeneratedLabelsTerm(labels_from="guide"), "labels_from: got 'guide'"),
        (lambda: evaluate(elbo + ReplacementTerm("z"), vae, x, Y), r"got \['z'\]; expected latents: z_c, z_s"),
        (lambda: evaluate(elbo + ReplacementTerm("z_c", entries="one"), vae, x, Y), "entries: got 'one'"),
        (
            lambda: evaluate(of_binary + ReplacementTerm("z_c", "z_s", entries="one"), binary, x[:5], SEVERAL),
            "entries: got 'one', and the latent 'z_s' in no plate inside",
        ),
        (lambda: evaluate(elbo + GeneratedLabelsTerm(kept=["z"]), vae, x, Y), r"kept: got \['z'\]"),
        (lambda: evaluate(elbo + told(latents=["z_c"]), vae, x, Y), "does not depend on the generated data"),
        (lambda: evaluate(elbo + GeneratedLabelsTerm(latents=["z"]), vae, x, Y), r"latents: got \['z'\]"),
        (
            lambda: evaluate(of_binary + ReplacementTerm("z_c", missing_labels="enumerate"), binary, x[:5], SEVERAL),
            "missing_labels: got 'enumerate' and the labels",
        ),
        (
            lambda: evaluate(m2.elbo() + GeneratedLabelsTerm(labels_from="prior", kept=["z"]), m2, x, None),
            "latent 'z' has a value for each value of",
        ),
    ]
    for make_it, message in cases:
        with pytest.raises(InputError, match=message):
            make_it()


def test_continuous_labels_that_are_missing_on_all_rows():
    torch.manual_seed(0)
    vae = LaRVAE((1, 2, 7), Real(3), z=2, networks=MLPs((11,)))
    x, bound = torch.rand(4, 1, 2, 7), TraceLabels_ELBO(max_plate_nesting=2)
    term = GeneratedLabelsTerm("y", labels_from="prior")
    for y in (None, torch.full((4, 3), NAN)):
        found = {v.name: v.value for v in evaluate(bound + term, vae, x, y).values}
        assert (found["-|y' - E[y|x~]|^2"] < 0).all()
        told_of = {v.name: v.value for v in evaluate(bound + ReplacementTerm("z", densities=True), vae, x, y).values}
        kinds = {name.replace("_m", "") for name in told_of if name.startswith("replaced")}
        assert kinds == {"replaced: log p(x)", "replaced: log p(y)", "replaced: -log q(y)"}
    with pytest.raises(InputError, match="GeneratedLabelsTerm: got no label; expected a model with one"):
        evaluate(vae.elbo() + GeneratedLabelsTerm(labels_from="prior"), vae, x, torch.zeros(4, 3))


@pytest.mark.parametrize("term", [ReplacementTerm("z_c", share=0.4, densities=True), told(share=0.4)])
def test_some_rows_have_the_term_for_all(term):
    """Three of eight rows, others each time, and 8/3 as large."""
    vae, x = make()
    found, seen = spied(vae, vae.elbo(num_samples=K) + term, x, Y)
    names = [name for name in found if name.startswith("replaced: ") or "x~" in name]
    (_, z_s), (fresh, kept) = [[part.reshape(-1, part.shape[-1]) for part in each] for each in seen]
    rows = (kept[:, None] == z_s[None]).all(-1).double().argmax(1)
    assert len(rows.unique()) == 3 and (kept == z_s[rows]).all()
    for name in names:
        assert torch.equal(found[name].nonzero()[:, 0], rows.sort().values), name
    if "replaced: log p(x)" in found:
        expected = vae.p_x(fresh, kept).log_prob(x[rows]) * 8 / 3
        assert_close(found["replaced: log p(x)"][rows], expected)
        q = vae.q_z(x)[1].log_prob(z_s)
        assert_close(found["replaced: -log q(z_s)"][rows], -q[rows] * 8 / 3)
    times = torch.zeros(8)
    with LocalParameters():
        for _ in range(400):
            step = Step(vae.model, vae.guide, (x, Y))
            (run,) = vae.elbo(num_samples=1).runs(step)
            times += next(iter(term.values(run).values())).detach() != 0
    assert ((times / 400 - 3 / 8).abs() < 5 * math.sqrt(0.375 * 0.625 / 400)).all()


def test_some_rows_of_several_labels():
    vae, x = attributes(), torch.rand(5, 1, 2, 7)
    term = ReplacementTerm("z_c", entries="one", densities=True, share=0.6)
    found, seen = spied(vae, vae.elbo(num_samples=K) + term + 0.5 * told(share=0.6), x, SEVERAL)
    (z_c, z_s), (mixed, kept), _ = [[part.reshape(part.shape[0], -1) for part in each] for each in seen]
    rows = (kept[:, None] == z_s[None]).all(-1).double().argmax(1)
    same = mixed == z_c[rows]
    assert torch.equal((~same).sum(1), torch.ones(3, dtype=torch.long))
    log_q = vae.q_z(x)[0].log_prob(z_c)[rows].where(same, torch.tensor(0.0)).sum(1)
    assert_close(found["replaced: -log q(z_c)"][rows], -log_q * 5 / 3)
    assert (found["shown: log q(y'|x~)"] != 0).sum() == 3


def masked_rows(pair, mask):
    """The same pair, some rows left out by a handler around both."""
    keep = poutine.mask(mask=mask)
    return SimpleNamespace(model=keep(pair.model), guide=keep(pair.guide))


def test_masked_rows_do_not_count():
    pair, x, y = Linear(0.6), torch.randn(6, X), torch.tensor([2, 0, -1, 1, -1, 0])
    pair.guide = lambda x, y=None, of=pair.guide: of(x, y)
    mask = torch.tensor([True, False, True, True, False, True])
    objective = TraceLabels_ELBO() + ReplacementTerm("z_c", densities=True) + told()
    found = of(objective, masked_rows(pair, mask), x, y)
    for name in [name for name in found if name.startswith(("replaced", "shown"))]:
        assert torch.equal(found[name] != 0, mask), name
    for term in (ReplacementTerm("z_c", share=0.5), told(share=0.5)):
        with pytest.raises(InputError, match=r"share: got 0\.5, and poutine\.mask excludes some rows"):
            of(TraceLabels_ELBO() + term, masked_rows(pair, mask), x, y)


def test_arguments_are_passed_as_they_came():
    """By name where they have no other way, with defaults of their own; a scalar has no rows."""
    pair = Linear(0.6)
    seen = []

    def model(x, *, y=None, temperature=2.0):
        seen.append((len(x), temperature))
        return pair.model(x, y)

    def guide(x, *, y=None, temperature=2.0):
        seen.append((len(x), temperature))
        return pair.guide(x, y)

    objective = TraceLabels_ELBO() + ReplacementTerm("z_c", share=0.5) + told(share=0.5)
    x, y = torch.randn(6, X), torch.tensor([2, 0, -1, 1, -1, 0])
    objective.differentiable_loss(model, guide, x, y=y).backward()
    assert seen == [(6, 2.0), (6, 2.0), (3, 2.0), (3, 2.0), (3, 2.0)]
    objective.differentiable_loss(model, guide, x, temperature=torch.tensor(0.5)).backward()
    assert {float(temperature) for _, temperature in seen[5:]} == {0.5}


def test_fit_trains_the_critic_and_raises_the_weights(tmp_path):
    """The critic has an optimiser of its own, its loss is told, a checkpoint holds it; weights rise with the epochs."""
    vae, x = make()
    x, y = torch.cat([x] * 3), torch.cat([Y] * 3)
    elbo = vae.elbo(num_samples=1) + style_terms("z_c", kept=["z_s"], style=0.5, independence=4.0, share=0.5)
    how = {"epochs": 2, "batch_size": 8, "progress": False, "checkpoint": tmp_path / "checkpoint.pt"}
    history = fit(vae, x, y, elbo=elbo, **how)
    ((name, critic),) = elbo.modules().items()
    before = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["critics"][name]["weights"]
    assert name == "TC(z_c;z_s)" and history[-1][f"monitor/loss of {name}"] > 0
    assert all(torch.equal(before[key], value) for key, value in critic.state_dict().items())
    fit(vae, x, y, elbo=elbo, **{**how, "epochs": 3, "resume": True})
    assert all(not torch.equal(before[key], value) for key, value in critic.state_dict().items())
    rising = style_terms("z_c", kept=["z_s"], generated=8.0, warm_up=1.0)
    rows = fit(make()[0], x, y, elbo=vae.elbo() + rising, **{**how, "checkpoint": None})
    weights = [row["weight/shown: log q(y'|x~)"] for row in rows]
    assert 0 <= weights[0] < weights[1] <= 8


def test_independence_needs_both_kinds_of_latents():
    for characteristic, kept in (([], ["z_s"]), (["z_c"], [])):
        with pytest.raises(InputError, match=r"independence: got 1\.0 without latents below the label or `kept`"):
            style_terms(*characteristic, kept=kept, independence=1.0)


def test_generated_images_have_the_latents_that_are_kept():
    (told,) = [part.what for part in style_terms("z_c", kept=["z_s"]).parts() if hasattr(part.what, "teaches")]
    assert told.kept == ("z_s",) and told.teaches == "model" and told.labels_from == "prior" and told.share == 0.25
