"""The examples of CCVAE and its family: their flags reach the objective."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pyro_semivae import CCVAE, data, load, metrics, plot, report, tasks
from pyro_semivae.errors import InputError
from pyro_semivae.infer import (
    ClassifierTerm,
    GeneratedLabelsTerm,
    ReplacementTerm,
    TotalCorrelation,
    TraceCCVAE_ELBO,
    WarmUp,
)
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Binary, Classes, Images, Vectors

EXAMPLES = Path(__file__).parents[2] / "examples"


CLASSES = Classes(5)
OF_BINARY = {ReplacementTerm, GeneratedLabelsTerm}
OF_CLASSES = OF_BINARY | {TotalCorrelation}
STYLED = {"of classes": OF_CLASSES, "of binary labels": OF_BINARY}


def objective_of(*flags, script="ccvae.py", dataset="mnist", labels=CLASSES):
    """What is trained, and the model, with 20 of 1,000 images labelled."""
    script = runpy.run_path(str(EXAMPLES / script))
    args = script["Settings"].parse(None, flags).for_data(dataset)
    seen = {}
    job = SimpleNamespace(args=args, data=SimpleNamespace(x_shape=(1, 4, 7), labels=labels))
    job.parts, job.prior, job.noise = (lambda: {"networks": MLPs((11,))}), (lambda: None), (lambda: None)
    job.weight = lambda alpha: alpha * 1000 / 20
    job.train = lambda vae, elbo, corrupt=None: seen.update(vae=vae, elbo=elbo)
    script["run"].__globals__["ExampleRun"] = lambda settings, preferred: job
    script["run"].__globals__["Settings"] = SimpleNamespace(parse=lambda text: args)
    script["run"]()
    return seen["elbo"], seen["vae"]


def test_weights_of_what_is_added_to_the_bound():
    weights = ("--tau", "0.7", "--generated", "8", "--share", "0.3", "--style", "2", "--independence", "5")
    elbo, vae = objective_of(*weights, "--z-c", "3", "--z-s", "6")
    bound, *added = elbo.parts()
    assert isinstance(bound.what, TraceCCVAE_ELBO) and bound.what.marginal == "jensen"
    assert vae.p_z_s().event_shape == (6,)
    found = {type(part.what): part for part in added}
    assert found[ClassifierTerm].weights == (50_000.0,)
    replaced, told = found[ReplacementTerm], found[GeneratedLabelsTerm]
    assert replaced.weights == (0.7,) and replaced.what.latents == ("z_c",) and replaced.what.share == 0.3
    assert told.weights == (WarmUp(0.25, 8.0),) and told.what.kept == ("z_s",) and told.what.share == 0.3
    assert dict(told.of_terms) == {"shown: log q(z_s|x~)": 0.25}
    assert found[TotalCorrelation].weights == (WarmUp(0.25, 5.0),) and found[TotalCorrelation].what.by_site
    assert told.what.teaches == "model" and told.what.labels_from == "prior"


def test_other_models_of_the_family_have_the_same_terms():
    elbo, _ = objective_of(
        "--tau", "0.7", "--generated", "8", "--entries", "one", "--impute", "enumerate", script="diva.py"
    )
    found = {type(part.what): part for part in elbo.parts()}
    assert found[ReplacementTerm].weights == (0.7,) and found[ReplacementTerm].what.entries == "one"
    assert found[ReplacementTerm].what.missing_labels == "enumerate"
    assert found[GeneratedLabelsTerm].what.kept == ("z_s",) and found[GeneratedLabelsTerm].what.share == 0.25
    elbo, _ = objective_of("--generated", "8", script="m2.py")
    found = {type(part.what): part for part in elbo.parts()}
    assert ReplacementTerm not in found and found[GeneratedLabelsTerm].what.kept == ()
    for script in ("diva.py", "m2.py"):
        kinds = {type(part.what) for part in objective_of(script=script)[0].parts()}
        assert not kinds & {ReplacementTerm, GeneratedLabelsTerm, TotalCorrelation}


@pytest.mark.parametrize("preset", ["paper", "one-shot", "recipe-1"])
def test_other_presets_do_without(preset):
    elbo, vae = objective_of("--preset", preset)
    kinds = {type(part.what) for part in elbo.parts()}
    assert not kinds & {ReplacementTerm, GeneratedLabelsTerm, TotalCorrelation}
    assert vae.p_z_s().event_shape == (0,)


def told(elbo):
    """What an objective is, in plain values, without the terms' modules."""
    return [(type(part.what), part.weights, dict(part.of_terms), part.what.configuration()) for part in elbo.parts()]


def test_the_examples_recipe_is_the_one_of_fit():
    """The same terms, with the same weights and sizes; `recipe` and its short run, `demo`."""
    vae = CCVAE((1, 28, 28), Classes(5), networks=MLPs((11,)))
    y = torch.full((1000,), -1)
    y[:20] = 0
    of_fit = told(vae.elbo_for(y))
    assert {ReplacementTerm, GeneratedLabelsTerm, TotalCorrelation} < {kind for kind, *_ in of_fit}
    for preset in ("demo", "recipe"):
        elbo, of_example = objective_of("--preset", preset)
        assert told(elbo) == of_fit
        assert of_example.p_z_s().event_shape == vae.p_z_s().event_shape == (20,)
        assert of_example.p_z_c(torch.tensor([0])).event_shape == vae.p_z_c(torch.tensor([0])).event_shape == (10,)


def test_with_binary_labels_too():
    """One label's latent is replaced at a time, and less is asked of generated images."""
    vae, y = CCVAE((3, 16, 20), Binary(3), networks=MLPs((11,))), torch.full((1000, 3), torch.nan)
    y[:20, 1] = 1
    of_fit = told(vae.elbo_for(y))
    kinds = [kind for kind, *_ in of_fit]
    assert kinds == [TraceCCVAE_ELBO, ClassifierTerm, ReplacementTerm, GeneratedLabelsTerm]
    for preset in ("demo", "recipe"):
        elbo, of_example = objective_of("--preset", preset, dataset="faces", labels=Binary(3))
        assert told(elbo) == of_fit and of_example.p_z_s().event_shape == (27,)
        (replaced,) = (part.what for part in elbo.parts() if isinstance(part.what, ReplacementTerm))
        assert (replaced.entries, replaced.share) == ("one", 0.25)
    elbo, _ = objective_of("--entries", "all", dataset="faces", labels=Binary(3))
    assert told(elbo) != of_fit and [kind for kind, *_ in told(elbo)] == kinds
    for flags in (("--preset", "recipe-1"), ("--tau", "0", "--generated", "0")):
        elbo, _ = objective_of(*flags, dataset="faces", labels=Binary(3))
        assert [kind for kind, *_ in told(elbo)] == kinds[:2]


@pytest.mark.parametrize(
    ("flags", "kinds"),
    [
        (("--z-s", "0"), set()),
        (("--generated", "0"), {ReplacementTerm, TotalCorrelation}),
        (("--generated", "0", "--style", "0", "--independence", "0"), {ReplacementTerm}),
        (("--tau", "0"), {GeneratedLabelsTerm, TotalCorrelation}),
    ],
)
def test_parts_of_the_recipe_are_taken_out(flags, kinds):
    """What cannot be without them goes with them: all without z_s, style read off without generated images."""
    elbo, _ = objective_of(*flags)
    assert {kind for kind, *_ in told(elbo)} - {ClassifierTerm, TraceCCVAE_ELBO} == kinds


@pytest.mark.parametrize(
    ("space", "labels", "z_s", "kinds"),
    [
        (Images(1, 16, 20), Classes(3), None, "of classes"),
        (Images(3, 32, 32), Classes(3), 4, "of classes"),
        (Images(1, 15, 40), Classes(3), None, "none"),
        (Images(1, 16, 20), Classes(3), 0, "none"),
        (Images(1, 16, 20), Binary(3), None, "of binary labels"),
        (Images(1, 16, 20), Binary(1), None, "of binary labels"),
        (Images(1, 15, 40), Binary(3), None, "none"),
        (Images(1, 16, 20), Binary(3), 0, "none"),
        (Vectors(400), Classes(3), None, "none"),
        (Vectors(400), Binary(3), None, "none"),
    ],
    ids=str,
)
def test_what_keeps_style_is_there_where_there_is_some(space, labels, z_s, kinds):
    y = labels.missing(4)
    y[0] = 1
    vae = CCVAE(space, labels, z_s=z_s)
    objective = vae.elbo_for(y)
    assert {part for part, *_ in told(objective)} & OF_CLASSES == STYLED.get(kinds, set())
    terms = objective.terms(vae.model, vae.guide, torch.rand(4, *space.shape), y)
    assert all(value.isfinite().all() for value in terms.values())
    assert [part for part, *_ in told(vae.elbo_for(None))] == [TraceCCVAE_ELBO], "without labels there are none to keep"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--entries", "one"), "--entries: got it without --tau; expected a weight of that above 0 with it"),
        (("--impute", "enumerate", "--generated", "3"), "--impute: got it without --tau"),
        (("--style", "2"), "--style: got it without --generated"),
        (("--share", "0.5"), "--share: got it without --tau or --generated"),
    ],
)
def test_options_of_terms_without_a_weight_are_refused(flags, message, capsys):
    """At once, or as soon as it is known that these data have none of the weight."""
    for preset in (("--preset", "recipe-1"), ("--tau", "0", "--generated", "0", "--style", "0")):
        with pytest.raises(SystemExit):
            objective_of(*preset, *flags)
        assert message in capsys.readouterr().err
    with pytest.raises(InputError, match=message.split(";")[0]):
        objective_of(*flags, dataset="digits")
    with pytest.raises(SystemExit):
        objective_of("--share", "0.5", script="m2.py")
    assert "--share: got it without --generated; expected" in capsys.readouterr().err


@pytest.mark.parametrize(("script", "flags"), [("ccvae.py", ()), ("diva.py", ("--tau", "0.5"))])
def test_classes_alone_can_be_summed(script, flags, run):
    given = ("--dataset", "faces", "--smoke-test", "--compile", "off", "--impute", "enumerate")
    code, _, err = run(script, *given, *flags)
    assert code == 2 and err.strip().splitlines()[-1].startswith(
        "error: --impute: got 'enumerate' and the labels ['y']"
    )


def test_a_run_tells_the_test_accuracy_of_every_epoch_and_marks_figures(run, tmp_path, monkeypatch):
    """Junction: after an epoch it is the test images' accuracy that is kept, and every figure says the notes."""
    notes = []
    draw = report.draw
    monkeypatch.setattr(report, "draw", lambda *args: (notes.append(plot._NOTES.get()), draw(*args)))
    code, _, err = run("ccvae.py", "--smoke-test", "--out", "out")
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(notes[0]) == found.get("notes", []) and plot._NOTES.get() == ()
    history = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["history"]
    vae, digits = load(tmp_path / "out" / "checkpoint.pt"), data.load_small("digits")
    probs = tasks.classify(vae, digits.x_test[:1000], mean=True)
    torch.set_default_dtype(torch.float32)
    assert history[-1]["monitor/test accuracy of y"] == pytest.approx(metrics.accuracy(probs, digits.y_test[:1000]))
