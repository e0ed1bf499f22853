"""Tasks on models whose label is elsewhere than CCVAE's: in the decoder (M2), in the guide alone (M3), nowhere."""

import pytest
import torch
from by_hand import through
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

from pyro_semivae import tasks
from pyro_semivae.models import CCVAE, DIVA, M1, M1M2, M2, M3, MVAE, VAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import MISSING, Binary, Classes

SHAPE, C, L = (1, 4, 7), 5, 3


def make(model, labels=None, **sizes):
    torch.manual_seed(0)
    vae = model(SHAPE, labels or Classes(C), networks=MLPs((11,)), **sizes)
    with torch.no_grad():
        for parameter in vae.q_y.parameters() if hasattr(vae, "q_y") else ():
            parameter.mul_(5)  # sure of itself
    return vae, torch.rand(6, *SHAPE)


def test_m2_swaps_and_sets_the_label_itself():
    vae, x = make(M2, z=3)
    y = vae.q_y.net(x).argmax(-1)
    code = torch.eye(C)
    loc = vae.q_z.net(x, code[y])[:, :3]
    assert_close(tasks.infer(vae, x), {"z": loc})
    expected = vae.p_x.net(code[y], loc).sigmoid()
    assert_close(tasks.reconstruct(vae, x), expected.detach())
    assert_close(tasks.swap(vae, x, x.flip(0)), vae.p_x.net(code[y], loc.flip(0)).sigmoid().detach())
    y_new = torch.tensor([3, MISSING, 0, 1, MISSING, 2])
    set_to = torch.where(y_new == MISSING, y, y_new)
    assert_close(tasks.intervene(vae, x, y_new, 2)[1], vae.p_x.net(code[set_to], loc).sigmoid().detach())
    given = torch.zeros(6, 3)
    assert_close(tasks.generate(vae, y, given={"z": given})[0], vae.p_x.net(code[y], given).sigmoid().detach())
    assert_close(tasks.classify(vae, x), vae.q_y.net(x).softmax(-1).detach())


def test_m2_with_several_labels_keeps_those_that_are_not_set():
    vae, x = make(M2, Binary(L), z=3)
    y = (vae.q_y.net(x) > 0).double()
    loc = through(vae.q_z.net, x.flatten(1), y)[:, :3]
    y_new = torch.full((6, L), torch.nan)
    y_new[:, 1] = 1 - y[:, 1]
    set_to = y.clone()
    set_to[:, 1] = y_new[:, 1]
    assert_close(tasks.intervene(vae, x, y_new)[0], through(vae.p_x.net, set_to, loc).sigmoid().detach().view_as(x))


@pytest.mark.parametrize("labels", [Classes(C), Binary(L)], ids=["classes", "binary"])
def test_m3_generates_by_rejection(labels):
    vae, x = make(M3, labels, z_c=2, z_s=3)
    several = isinstance(labels, Binary)
    y = torch.randint(0, 2, (200, L)).double() if several else torch.tensor([0, 3]).repeat(100)
    # Only classes that the classifier gives to some of the prior can be asked for.
    reached = vae.q_y(torch.randn(2000, 2)).probs.max(0).values if not several else None
    if not several:
        y = y * 0 + int(reached.argmax())
    z = tasks.sample_characteristics(vae, y, confidence=0.6)["z_c"]
    probs = vae.q_y(z).probs
    chosen = torch.where(y == 1, probs, 1 - probs) if several else probs.gather(1, y[:, None])
    assert (chosen > 0.6).all()
    assert tasks.generate(vae, y[:4], 2).shape == (2, 4, *SHAPE)
    with pytest.warns(UserWarning, match=r"labels found no sample with q\(y\|z\) > 0.999"):
        tasks.sample_characteristics(vae, y, confidence=0.9999999, max_proposals=2)

    latents = tasks.infer(vae, x)
    y_new = torch.full((6, L), torch.nan) if several else torch.full((6,), MISSING)
    assert_close(tasks.intervene(vae, x, y_new)[0], tasks.decode(vae, latents))
    y_new[0] = y[0]
    changed = tasks.intervene(vae, x, y_new)[0]
    assert_close(changed[1:], tasks.decode(vae, latents)[1:])
    assert (changed[0] - tasks.decode(vae, latents)[0]).abs().max() > 1e-6


@pytest.mark.parametrize("labels", [Classes(C), Binary(L)], ids=["classes", "binary"])
def test_m1s_second_stage_is_scikit_learns_regression(labels):
    vae, _ = make(M1, labels, z=3)
    x = torch.rand(80, *SHAPE)
    loc = vae.q_z.net(x)[:, :3].detach()
    several = isinstance(labels, Binary)
    if several:
        y = (loc @ torch.randn(3, L) + 0.1 * torch.randn(80, L) > 0).double()
        y[::3, 1] = torch.nan
        known = ~y[:, 1].isnan()
        expected = LogisticRegression(max_iter=2000).fit(loc[known].numpy(), y[known, 1].numpy())
        got = tasks.classify(vae.fit_classifier(x, y), x, mean=True)[:, 1]
        assert_close(got.numpy(), expected.predict_proba(loc.numpy())[:, 1], atol=1e-6, rtol=0)
        return
    for present in ([0, 2, 4], [1, 3]):  # some classes are not there, and two are a case of their own
        y = torch.tensor(present)[torch.randint(0, len(present), (80,))]
        y[60:] = MISSING
        expected = LogisticRegression(max_iter=2000).fit(loc[:60].numpy(), y[:60].numpy())
        got = tasks.classify(vae.fit_classifier(x, y), x, mean=True)
        assert_close(got[:, present].numpy(), expected.predict_proba(loc.numpy()), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="y: got 1 classes with labels; expected two or more"):
        vae.fit_classifier(x, torch.zeros(80, dtype=torch.long))
    with pytest.raises(ValueError, match="x, y: got 80 rows of x and 79 rows of y"):
        vae.fit_classifier(x, torch.zeros(79, dtype=torch.long))


def test_m1_says_the_frequency_of_a_label_that_does_not_vary():
    vae, _ = make(M1, Binary(L), z=3)
    x, y = torch.rand(8, *SHAPE), torch.tensor([[1, 0, torch.nan], [0, 0, torch.nan]]).double().repeat(4, 1)
    with pytest.warns(UserWarning, match=r"labels \[1, 2\] have at most one value"):
        vae.fit_classifier(x, y)
    probs = tasks.classify(vae, x, mean=True)
    assert_close(probs[:, 1:], torch.tensor([1 / 10, 1 / 2]).expand(8, 2))
    assert probs[:, 0].std() > 0


REFUSED = {
    "generate": lambda vae, x, y: tasks.generate(vae, y),
    "intervene": lambda vae, x, y: tasks.intervene(vae, x, y),
    "swap": lambda vae, x, y: tasks.swap(vae, x, x),
    "sample_characteristics": lambda vae, x, y: tasks.sample_characteristics(vae, y),
    "closest_change": lambda vae, x, y: tasks.closest_change(vae, x, y),
    "vary_within": lambda vae, x, y: tasks.vary_within(vae, x),
    "interpolate": lambda vae, x, y: tasks.interpolate(vae, y[:4]),
    "prior_of_characteristics": lambda vae, x, y: tasks.prior_of_characteristics(vae, y),
    "classify": lambda vae, x, y: tasks.classify(vae, x),
}
SEARCHES = {"sample_characteristics", "closest_change", "vary_within", "prior_of_characteristics"}
WITHOUT = {
    VAE: set(REFUSED),
    M1: set(REFUSED) - {"classify"},
    M2: {*SEARCHES, "interpolate"},
    M1M2: {*SEARCHES, "interpolate"},
    MVAE: {*SEARCHES, "interpolate"},
    M3: {"interpolate"},
    DIVA: set(),
}


@pytest.mark.parametrize("labels", [Classes(C), Binary(L)], ids=["classes", "binary"])
@pytest.mark.parametrize("model", WITHOUT, ids=lambda model: model.__name__)
@pytest.mark.filterwarnings("ignore:.*found no:UserWarning")
def test_a_task_works_or_says_why_not_and_what_to_use(model, labels):
    networks = MLPs((11,))
    torch.manual_seed(0)
    vae = (
        M1M2(M1(SHAPE, labels, z=4, networks=networks), z=2)
        if model is M1M2
        else model(SHAPE, labels, networks=networks)
    )
    x, y = torch.rand(6, *SHAPE), torch.tensor([1, 0, 3, 2, 4, 1])
    y = y if isinstance(labels, Classes) else (y[:, None] > torch.arange(L)).double()
    for name, run in REFUSED.items():
        if name in WITHOUT[model]:
            with pytest.raises(
                ValueError, match=rf"^{name}: {model.__name__} does not have it, for .*; it has infer, "
            ) as e:
                run(vae, x, y)
            assert tasks.available(vae)[name] in str(e.value)
            assert not any(other.__name__ in str(e.value) for other in {*WITHOUT, CCVAE} - {model, VAE, M1, M2})
        else:
            assert tasks.available(vae)[name] is None
            run(vae, x, y)
    if "intervene" not in WITHOUT[model]:
        assert tasks.intervene(vae, x, y, 2).shape == (2, 6, *SHAPE)
        assert tasks.generate(vae, y, 2).shape == (2, 6, *SHAPE) and tasks.swap(vae, x, x).shape == x.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 0.0}, "confidence: got 0.0; expected a number between 0 and 1"),
        ({"confidence": float("nan")}, "confidence: got nan"),
        ({"max_proposals": 0}, "max_proposals: got 0"),
    ],
)
def test_rejection_checks_its_options(options, message):
    vae, _ = make(M3, z_c=2, z_s=3)
    with pytest.raises(ValueError, match=message):
        tasks.sample_characteristics(vae, torch.tensor([1, 2]), **options)


def test_the_confidence_of_m3s_rejection_reaches_generations():
    vae, x = make(M3, Binary(L), z_s=3)
    y = torch.ones(6, L).double()
    for run in (lambda c: tasks.generate(vae, y, confidence=c), lambda c: tasks.intervene(vae, x, y, confidence=c)):
        run(0.5)
        with pytest.warns(UserWarning, match="labels found no sample"):
            run(1 - 1e-12)


def test_diva_intervenes_as_ccvae_does():
    vae, x = make(DIVA, z_c=2, z_s=3)
    with torch.no_grad():
        vae.p_z_c.net.layers[-1].bias[2:] = -100.0  # tiny scales: draws are the means
        vae.p_z_c.net.layers[-1].weight[2:] = 0.0
    y_new = torch.tensor([3, MISSING, 0, 1, MISSING, 2])
    latents = tasks.infer(vae, x)
    mean = vae.p_z_c(y_new.clamp(min=0)).mean
    z_c = torch.where((y_new == MISSING)[:, None], latents["z_c"], mean)
    expected = tasks.decode(vae, {"z_c": z_c, "z_s": latents["z_s"]})
    assert_close(tasks.intervene(vae, x, y_new)[0], expected, atol=2e-3, rtol=0)
