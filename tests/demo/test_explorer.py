"""What one may change of an image: each change is a task's, and changes nothing else."""

import threading
from functools import partial

import pyro
import pytest
import torch
from cases import CASES, binary, classes, inverted, larvae, m1m2, reference
from pyro import distributions as dist

from pyro_semivae import CCVAE, Pair, tasks
from pyro_semivae.demo import Choice, Explorer
from pyro_semivae.errors import InputError
from pyro_semivae.models import DIVA, M1, M2, M3, MVAE, VAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes, Images, Vectors


def ccvae(**sizes):
    return CCVAE((1, 4, 7), Classes(5), networks=MLPs((11,)), label_hidden=(6,), **{"z_c": 2, "z_s": 3, **sizes})


MODELS = {
    "ccvae": ccvae,
    "ccvae-binary": binary(CCVAE, z_s=4),
    "diva": classes(DIVA, z_c=2, z_s=3),
    "diva-binary": binary(DIVA, z_s=4),
    "m2": classes(M2, z=3),
    "m2-binary": binary(M2, z=4),
    "m1m2": m1m2(classes(M1, z=3), z=2),
    "m3-binary": binary(M3, z_s=4),
    "mvae-binary": binary(MVAE, z=4),
    "inverted": inverted(Classes(5)),
    "vae": classes(VAE, z=3),
    "m1": classes(M1, z=3),
}
LABELLED = [name for name in MODELS if name not in ("vae", "m1")]
OWN_LATENTS = ["ccvae", "ccvae-binary", "diva", "diva-binary", "m3-binary"]
with_latents = pytest.mark.parametrize("name", [*OWN_LATENTS, "vae", "m1"])
with_labels = pytest.mark.parametrize("name", LABELLED)


def made(name):
    """A model whose networks say something, an explorer of it, and two images."""
    torch.manual_seed(2)
    vae = MODELS[name]()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return vae, Explorer(vae), *torch.rand(2, 1, *vae.x_shape)


def label(vae, choice, value):
    """The label of one choice, the others missing."""
    y = vae.labels.missing(1)
    y[(0, choice) if y.dim() > 1 else (0,)] = value
    return y


@with_latents
def test_a_slider_is_a_traversal_of_its_coordinate(name):
    vae, explorer, x, _ = made(name)
    state = explorer.start(x)
    assert torch.allclose(explorer.image(state), tasks.reconstruct(vae, x)[0])
    for i, slider in enumerate(explorer.sliders):
        moved = explorer.move(state, i, 0.7)
        z = moved.latents[slider.site]
        assert z.flatten()[slider.index] == 0.7 and (z != state.latents[slider.site]).sum() == 1
        if z.shape[-1] > 1 and z.dim() == 2 and vae.labels.entries is None:
            wanted = tasks.traverse(vae, x, slider.site, slider.index, torch.tensor([0.7]))[0, 0]
        else:
            wanted = tasks.decode(vae, {**state.latents, slider.site: z}, state.labels)[0]
        assert torch.allclose(explorer.image(moved), wanted)
        assert not torch.allclose(explorer.image(moved), explorer.image(state))
        assert explorer.positions(moved)[i] == pytest.approx(min(max(0.7, slider.low), slider.high))
    first = explorer.sliders[0]
    assert explorer.positions(explorer.move(state, 0, first.high + 1))[0] == first.high
    assert explorer.positions(explorer.move(state, 0, first.low - 1))[0] == first.low
    both = explorer.move(explorer.move(state, 0, 0.7), 1, -0.4)
    assert explorer.positions(both)[:2] == pytest.approx([0.7, -0.4]), "one slider keeps the other"


@pytest.mark.parametrize("name", OWN_LATENTS)
def test_ranges_are_three_deviations_around_the_conditional_priors(name):
    vae, explorer, *_ = made(name)
    y = torch.arange(5) if vae.labels.entries is None else torch.tensor([[0.0] * 3, [1.0] * 3])
    mean, scale = tasks.prior_of_characteristics(vae, y)
    low, high = (mean - 3 * scale).amin(0).flatten(), (mean + 3 * scale).amax(0).flatten()
    if name.startswith("ccvae"):
        assert (mean[0] != mean[1]).any(), "the label matters"
    assert [s.low for s in explorer.sliders] == pytest.approx(low.tolist())
    assert [s.high for s in explorer.sliders] == pytest.approx(high.tolist())
    assert {s.site for s in explorer.sliders} == {"z_c"} and len(explorer.sliders) == len(low)


def test_sliders_and_choices_have_the_names_of_labels():
    names = ("Bangs", "Smiling", "Hat")
    explorer = Explorer(binary(CCVAE, z_s=4)(), names)
    assert tuple(slider.name for slider in explorer.sliders) == names
    assert explorer.choices == tuple(Choice(name, ("off", "on")) for name in names)
    assert Explorer(ccvae(), "abcde").choices == (Choice("label", tuple("abcde")),)
    assert [s.name for s in Explorer(ccvae()).sliders] == ["z_c[0]", "z_c[1]"]
    plain = Explorer(MODELS["vae"]())
    assert [(s.name, s.low, s.high) for s in plain.sliders] == [(f"z[{i}]", -3.0, 3.0) for i in range(3)]
    assert not plain.choices and not plain.swaps and not plain.resamples
    m2 = Explorer(MODELS["m2"]())
    assert not m2.sliders and m2.choices and m2.swaps and not m2.resamples
    with pytest.raises(InputError, match="label_names: got 2; expected 5"):
        Explorer(ccvae(), ("a", "b"))


@pytest.mark.filterwarnings("ignore:.*labels found no sample")
@with_labels
def test_a_choice_is_an_intervention(name):
    vae, explorer, x, _ = made(name)
    state = explorer.start(x, seed=4)
    last = len(explorer.choices) - 1
    for choice, value in {(0, 1), (last, 0), (last, 1)}:
        now = explorer.choose(state, choice, value)
        torch.manual_seed(4)
        wanted = tasks.intervene(vae, x, label(vae, choice, value))[0, 0]
        assert torch.allclose(explorer.image(now), wanted)
        assert explorer.chosen(now) == [value if i == choice else None for i in range(last + 1)]
    images = [explorer.image(explorer.choose(state, last, value)) for value in (0, 1)]
    assert not torch.allclose(*images), "values differ"


@pytest.mark.filterwarnings("ignore:.*labels found no sample")
@with_labels
def test_a_label_that_is_open_again_leaves_the_image(name):
    _, explorer, x, _ = made(name)
    state = explorer.start(x)
    wanted = explorer.image(state)
    now = explorer.choose(explorer.choose(state, 0, 1), 0, None)
    assert torch.allclose(explorer.image(now), wanted) and explorer.chosen(now) == [None] * len(explorer.choices)


@pytest.mark.filterwarnings("ignore:.*labels found no sample")
@pytest.mark.parametrize("name", ["ccvae-binary", "diva-binary", "m3-binary"])
def test_each_label_has_its_own_latent_and_the_rest_is_kept(name):
    _, explorer, x, _ = made(name)
    state = explorer.move(explorer.start(x), 2, 0.7)
    now = explorer.choose(explorer.choose(state, 0, 1), 1, 0)
    z, before = now.latents["z_c"].flatten(), state.latents["z_c"].flatten()
    assert z[0] != before[0] and z[1] != before[1] and z[2] == 0.7
    assert torch.equal(now.latents["z_s"], state.latents["z_s"]) and explorer.chosen(now) == [1, 0, None]
    opened = explorer.choose(now, 1, None)
    assert opened.latents["z_c"].flatten().tolist() == [z[0], before[1], 0.7]
    moved = explorer.choose(explorer.move(now, 0, 0.3), 1, 1)
    assert moved.latents["z_c"].flatten()[0] == 0.3, "a label that was set before is not sampled again"
    again = explorer.redraw(opened)
    assert again.latents["z_c"].flatten()[1:].tolist() == [before[1], 0.7] and again.latents["z_c"].flatten()[0] != z[0]


def test_labels_as_evidence_are_taken_together():
    vae, explorer, x, _ = made("mvae-binary")
    now = explorer.choose(explorer.choose(explorer.start(x), 0, 1), 2, 0)
    torch.manual_seed(0)
    wanted = tasks.intervene(vae, x, torch.tensor([[1.0, torch.nan, 0.0]]))[0, 0]
    assert torch.allclose(explorer.image(now), wanted)


@pytest.mark.parametrize("name", ["ccvae", "diva", "ccvae-binary", "mvae-binary", "m1m2"])
def test_samples_are_others_when_asked_for_and_follow_from_the_seed(name):
    _, explorer, x, _ = made(name)
    assert explorer.resamples
    state = explorer.choose(explorer.start(x), 0, 1)
    again = explorer.redraw(state)
    assert not torch.allclose(explorer.image(again), explorer.image(state))
    assert torch.equal(explorer.image(again), explorer.image(explorer.redraw(state)))
    assert not torch.allclose(explorer.image(explorer.redraw(again)), explorer.image(again))
    if name in ("ccvae", "diva"):
        assert torch.equal(again.latents["z_s"], state.latents["z_s"])
    nothing = explorer.redraw(explorer.start(x))
    assert torch.allclose(explorer.image(nothing), explorer.image(explorer.start(x))) or name == "m1m2"


@with_labels
def test_a_swap_takes_what_the_task_takes(name):
    vae, explorer, x, other = made(name)
    assert explorer.swaps
    state = explorer.choose(explorer.start(x, seed=5), 0, 1) if name == "ccvae" else explorer.start(x, seed=5)
    for take, pair in (("characteristics", (other, x)), ("rest", (x, other))):
        now = explorer.swap(state, other, take)
        torch.manual_seed(5)
        assert torch.allclose(explorer.image(now), tasks.swap(vae, *pair)[0])
        assert explorer.chosen(now) == [None] * len(explorer.choices)
        assert torch.equal(now.x, pair[1])
    if name not in ("m2-binary", "inverted", "m2", "m1m2"):  # whose labels of both images may be the same
        assert not torch.allclose(
            *(explorer.image(explorer.swap(state, other, t)) for t in ("characteristics", "rest"))
        )


def test_a_label_that_is_open_after_a_swap_is_the_swaps():
    _, explorer, x, other = made("ccvae")
    swapped = explorer.swap(explorer.start(x), other)
    now = explorer.choose(explorer.choose(swapped, 0, 1), 0, None)
    assert torch.allclose(explorer.image(now), explorer.image(swapped))


@pytest.mark.parametrize("name", MODELS)
def test_it_reads_what_the_classifier_does(name):
    vae, explorer, x, _ = made(name)
    if name == "vae":
        assert explorer.read(x) == []
        return
    probs, found = tasks.classify(vae, x, mean=True)[0], explorer.read(x)
    if vae.labels.entries is None:
        assert [int(n) for n, _ in found] == probs.argsort(descending=True).tolist()
        assert [p for _, p in found] == pytest.approx(sorted(probs.tolist(), reverse=True))
    else:
        assert found == [(f"label {i}", pytest.approx(p)) for i, p in enumerate(probs.tolist())]


def test_what_cannot_be_shown_is_refused():
    def model(a=None, b=None):
        with pyro.plate("data", 1 if a is None else len(a)):
            pyro.sample("a", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=a)

    own = partial(Pair, model, model, modules=[torch.nn.Linear(1, 1)])
    by_case = {case.name: case.build for case in CASES}
    for build, why in (
        (reference, "RbVAE whose images need a label"),
        (larvae, "LaRVAE with continuous labels"),
        (by_case["convolutional"], "CCVAE of Images"),
        (partial(own, a=Vectors(3), b=Classes(2)), "of Vectors"),
        (partial(own, a=Vectors(3), b=Images(1, 2, 2)), "with data a, b"),
    ):
        with pytest.raises(InputError, match=r"^model: got a .*expected a model of images") as error:
            Explorer(build())
        assert why in str(error.value)


def test_arguments_are_checked():
    explorer = Explorer(ccvae())
    state = explorer.start(torch.rand(1, 1, 4, 7))
    for call, message in (
        (partial(explorer.start, torch.rand(2, 1, 4, 7)), "x: got 2 images"),
        (partial(explorer.start, torch.rand(1, 1, 7, 4)), "x: got shape"),
        (partial(explorer.move, state, 2, 0.0), "slider: got 2"),
        (partial(explorer.move, state, 0, float("nan")), "value: got nan"),
        (partial(explorer.choose, state, 1, 0), "choice: got 1"),
        (partial(explorer.choose, state, 0, 5), "value: got 5"),
        (partial(explorer.swap, state, state.x, "all"), "take: got 'all'"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_the_caller_keeps_generator_and_mode():
    vae, explorer, x, _ = made("ccvae")
    vae.train()
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    explorer.image(explorer.redraw(explorer.choose(explorer.start(x), 0, 2)))
    assert torch.equal(torch.rand(3), wanted) and vae.training


def test_calls_from_threads_do_not_meet():
    _, explorer, x, other = made("ccvae")
    jobs = [(x, 1), (other, 3), (x, 4), (other, 0)]

    def look(image, value):
        return explorer.image(explorer.redraw(explorer.choose(explorer.start(image), 0, value)))

    wanted, found = [look(*job) for job in jobs], [[] for _ in jobs]
    threads = [
        threading.Thread(target=lambda out=out, job=job: out.extend(look(*job) for _ in range(8)))
        for out, job in zip(found, jobs, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(out) == 8 and all(torch.equal(o, w) for o in out) for out, w in zip(found, wanted, strict=True))
