"""LaRVAE's example: what it writes, its objectives, what it measures, its flags."""

import json
import math
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

import pyro_semivae
from pyro_semivae import data, factor_run, report
from pyro_semivae.checkpoints import History
from pyro_semivae.errors import InputError
from pyro_semivae.factor_run import FactorRun
from pyro_semivae.infer import (
    BatchTotalCorrelation,
    FromPrior,
    GeneratedLabelsTerm,
    GuideAlone,
    Hidden,
    Labelled,
    TotalCorrelation,
)
from pyro_semivae.report import factors, real_attributes
from pyro_semivae.spaces import Real

SCRIPT = Path(__file__).parents[2] / "examples" / "larvae.py"
KEYS = {"mig", "l2", "factor_vae_score", "sap", "modularity", "irs", "generation_error", "effect", "leak", "labelled"}
KEYS |= {"rmse_scale", "effect_scale", "leak_scale", "baseline_mig", "baseline_l2", "protocol", "probe_error"}


def test_it_writes_what_it_promises_and_resumes(run, tmp_path):
    flags = ("--smoke-test", "--out", "out")
    code, _, err = run("larvae.py", *flags)
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {*found} >= KEYS and found["dataset"] == "room-32" and found["labelled"] == 3
    assert found["protocol"]["mig"] == {"bins": 20, "rows": 100}
    made = {path.stem for path in (tmp_path / "out").glob("*.png")}
    names = data.load_grid("room").factor_names
    assert made == {"reconstructions", "training", "graph", "traversals", *(f"traversal-{name}" for name in names)}
    vae = pyro_semivae.load(tmp_path / "out" / "checkpoint.pt")
    assert report.representation(vae, torch.rand(2, 3, 32, 32))[1].shape == (2, 11)
    code, _, err = run("larvae.py", *flags, "--resume", "--epochs", 3)
    assert code == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--dataset", "sprites"), ("--base", "factor", "--replacement", "guide")])
def test_other_data_and_other_bases(flags, run, tmp_path):
    code, _, err = run("larvae.py", "--smoke-test", "--no-baseline", "--z", 0, "--out", "out", *flags)
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert ("l2_without_orientation" in found) == ("sprites" in flags) and "baseline_mig" not in found


def test_binary_attributes_are_numbers(run, tmp_path):
    code, _, err = run("larvae.py", "--smoke-test", "--dataset", "faces", "--out", "out")
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    keys = {"test_accuracy", "l2", "effect", "leak", "evaluator_accuracy", "accuracy_Smiling", "leak_Smiling"}
    assert {*found} >= keys | {"baseline_effect"} and found["dataset"] == "faces-64"
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == {
        "reconstructions",
        "training",
        "traversals",
        "graph",
    }


def objective_of(*flags, tau=None):
    script = runpy.run_path(str(SCRIPT))
    args = script["Settings"].parse(None, flags).for_data("room")
    seen = {}
    job = SimpleNamespace(args=args, share=50.0, x=torch.zeros(500, 3, 32, 32), labels=Real(6))
    job.train = lambda make, objective: seen.update(elbo=objective(make(), args.tau if tau is None else tau))
    script["run"].__globals__["FactorRun"] = lambda settings: job
    script["run"].__globals__["Settings"] = SimpleNamespace(parse=lambda text: args)
    script["run"]()
    return seen["elbo"]


def test_the_presets_are_what_they_say():
    unsupervised, supervised = objective_of().parts()
    assert isinstance(unsupervised.what, Hidden) and not unsupervised.what.also_labelled
    assert isinstance(supervised.what, Labelled)
    base = [part.what for part in unsupervised.what.what.parts()]
    assert isinstance(base[1], BatchTotalCorrelation) and base[1].num_rows == 500
    assert unsupervised.what.what.parts()[1].weights == (3.0,), "beta 4"
    replaced, label, generated = supervised.what.what.parts()
    assert isinstance(replaced.what, FromPrior) and replaced.weights == (50.0,) and label.weights == (15000.0,)
    assert isinstance(generated.what, GeneratedLabelsTerm) and generated.weights == (15000.0,)
    paper = objective_of("--preset", "paper").parts()[1].what.what.parts()
    assert not isinstance(paper[0].what, FromPrior) and len(paper) == 2
    factor = objective_of("--base", "factor", "--weight", "6").parts()[0].what.what.parts()[1]
    assert isinstance(factor.what, TotalCorrelation) and factor.weights == (6.0,)
    baseline = objective_of(tau=0.0).parts()[1].what.what.parts()
    assert isinstance(baseline[0].what, GuideAlone) and len(baseline) == 2, "no label replacement, no generated images"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--image-size", "48"), "--image-size: got 48; expected 64, 32"),
        (("--images", "500000"), "--images, held_out, test: got 512000"),
        (("--known", "roof"), r"--known: got ['roof']; expected some of floor"),
        (("--labelled", "13000"), "--labelled: got 13000"),
        (("--base", "dip"), "--base: invalid choice: 'dip'"),
        (("--dataset", "faces", "--smoke-test", "--image-size", "32"), "--image-size: got 32; expected 64 with"),
        (("--dataset", "faces", "--smoke-test", "--known", "Smiling"), "--known: got it with --dataset faces"),
        (("--dataset", "dsprites", "--data-dir", "nowhere"), "dataset dsprites: no nowhere"),
    ],
)
def test_bad_flags_are_one_line(flags, message, run):
    code, _, err = run("larvae.py", *flags)
    last = err.strip().splitlines()[-1]
    assert code == 2 or "FileNotFound" not in err
    assert last.startswith("error: ") and message in last


class Told:
    """What the report asks of a model; the labels of images are looked up."""

    label_sites = ("y",)

    def images(self, x):
        return x.double() / 255

    def parameters(self):
        yield torch.zeros(1, dtype=torch.double)


@pytest.fixture
def room(monkeypatch):
    """A room, of whose images the labels are known to `tasks.classify`."""
    grid = data.load_grid("room", size=32)
    found = data.factor_data(grid, images=300, held_out=40, test=400)
    known = {x.numpy().tobytes(): c for x, c in zip(found.test.x, found.test.classes, strict=True)}

    def classify(vae, x):
        return {"y": grid.values(torch.stack([known[image.numpy().tobytes()] for image in x]))}

    monkeypatch.setattr(factors.tasks, "classify", classify)
    monkeypatch.setattr(factors.tasks, "infer", lambda vae, x: {"z": torch.zeros(len(x), 1, 2)})
    return found


def test_the_error_of_generation_is_that_of_the_true_labels_image(room, monkeypatch):
    grid, seen = room.grid, []

    def decode(vae, latents, y):
        assert not latents["z"].any()
        seen.append(y)
        return vae.images(room.test.x[: len(y)]) + 0.5

    monkeypatch.setattr(factors.tasks, "decode", decode)
    error = factors.generation_error(Told(), grid, room.test, number=30)
    assert error == pytest.approx(0.25 * 3 * 32 * 32)
    assert_close(seen[0], grid.values(room.test.classes[:30]))


def test_traversals_have_an_effect_and_no_leak_where_each_label_moves_its_factor_alone(room, monkeypatch):
    """Images that are the labels, read as they are; then ones in which the first label moves all factors."""
    probe = SimpleNamespace(errors=torch.zeros(6), factors=lambda x: x.flatten(1))
    monkeypatch.setattr(factors.probes, "independent_probe", lambda *given, **how: probe)
    monkeypatch.setattr(factors.tasks, "decode", lambda vae, latents, y: y[:, :, None, None])
    found = factors._traversals(Told(), room, True, False)
    assert found["effect"] == pytest.approx(1) and found["leak"] == pytest.approx(0)
    monkeypatch.setattr(factors.tasks, "decode", lambda vae, latents, y: 0.5 * y[:, [0] * 6, None, None])
    found = factors._traversals(Told(), room, True, False)
    assert found["effect_floor"] == pytest.approx(0.5) and found["leak_floor"] == pytest.approx(5 * 0.5)
    assert found["effect_wall"] == found["leak_wall"] == 0 and found["effect"] == pytest.approx(0.5 / 6)


def test_the_representation_is_labels_and_latents(room, monkeypatch):
    monkeypatch.setattr(factors.tasks, "infer", lambda vae, x: {"z": x.double().mean((1, 2, 3)).reshape(-1, 1, 1)})
    labels, code = report.representation(Told(), room.test.x)
    assert_close(labels, room.grid.values(room.test.classes))
    assert_close(code, torch.cat([labels, room.test.x.double().mean((1, 2, 3)).unsqueeze(1)], 1))


def test_attributes_are_told_moved_and_leak_by_hand(monkeypatch):
    """Inferred labels by hand, images that hold them, and a classifier that reads the first as both."""
    y_test = torch.tensor([[1.0, 0.0], [0.0, math.nan], [1.0, 1.0]])
    x = torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1).repeat(1, 1, 4, 4)
    base = data.ImageData("two", ("a", "b"), x, torch.tensor([[0.0, 1.0]] * 3), x, y_test)
    inferred = torch.tensor([[0.9, 0.4], [0.6, 0.0], [0.7, 0.2]])
    vae = Told()
    vae.labels = Real(2, (0.5, 0.5), (0.5, 2.0))
    monkeypatch.setattr(real_attributes, "representation", lambda vae, x: (inferred[: len(x)], None))
    monkeypatch.setattr(real_attributes.tasks, "infer", lambda vae, x: {"z": torch.zeros(len(x), 1, 1)})
    monkeypatch.setattr(real_attributes, "decoded", lambda vae, y, z: y)
    reads = SimpleNamespace(classify=lambda images: images[:, [0, 0]] / 2)
    monkeypatch.setattr(real_attributes.evaluators, "independent_classifier", lambda *given, **how: (reads, 0.75))
    found = report.measure_real_attributes(vae, base)
    assert found["accuracy_a"] == pytest.approx(2 / 3) and found["accuracy_b"] == 0.5, "of two known ones"
    assert found["test_accuracy"] == pytest.approx((2 / 3 + 0.5) / 2) and found["evaluator_accuracy"] == 0.75
    errors = torch.tensor([[-0.2, 0.2], [1.2, 0.0], [-0.6, -0.4]])
    assert found["l2"] == pytest.approx(errors.norm(dim=1).mean().item())
    assert found["effect_a"] == 0.5 and found["leak_a"] == 0.5 and found["effect_b"] == found["leak_b"] == 0


def test_the_measures_are_of_the_test_images_with_their_own_labels(room, monkeypatch):
    """Inferred labels that are the true ones: no distance, and the gap of a perfect code."""
    probe = SimpleNamespace(errors=torch.zeros(6), factors=lambda x: torch.zeros(len(x), 6))
    monkeypatch.setattr(factors.probes, "independent_probe", lambda *given, **how: probe)
    monkeypatch.setattr(factors.tasks, "decode", lambda vae, latents, y: torch.zeros(len(y), 3, 32, 32))
    found = report.measure_factors(Told(), room, quick=True, progress=False)
    assert found["l2"] == pytest.approx(0) and found["rmse_floor"] == pytest.approx(0)
    assert found["mig"] > 0.8 and found["protocol"]["mig"]["rows"] == len(room.test)


def test_few_test_images_are_measured_and_drawn(room, monkeypatch, tmp_path, capsys):
    """Fewer than factors; explicitness needs more, which a note says."""
    few = replace(room, test=replace(room.test, x=room.test.x[:5], classes=room.test.classes[:5]))
    torch.set_default_dtype(torch.float32)
    vae = pyro_semivae.models.LaRVAE((3, 32, 32), Real(6), z=2, networks=pyro_semivae.nn.MLPs((4,)))
    report.draw_factors(vae, few, History([{"epoch": 1, "objective": 0.0, "elbo": 0.0}]), tmp_path)
    assert len([*tmp_path.glob("traversal-*.png")]) == 6

    def refuses(*args):
        raise InputError("factors: too few")

    scores = {name: lambda *args, **how: factors.disentanglement.Score(0.5, {}) for name in ("dci", "beta_vae_score")}
    for name, score in {**scores, "explicitness": refuses}.items():
        monkeypatch.setattr(factors.disentanglement, name, score)
    monkeypatch.setattr(factors, "_traversals", lambda *args: {})
    found = report.measure_factors(vae, room, progress=False)
    assert found["explicitness"] is None and found["dci"] == 0.5
    assert "NOTE: explicitness is not measured: factors: too few" in capsys.readouterr().out


def test_truth_and_models_of_a_factor_are_of_one_image(room, monkeypatch, tmp_path):
    """Factor j's is test image j: the truth's other classes and what the models read are its own."""
    drawn, read = [], []
    monkeypatch.setattr(factors, "image_grid", lambda *given, **how: None)
    monkeypatch.setattr(factors, "training_curves", lambda *given, **how: None)
    monkeypatch.setattr(factors, "decoded", lambda vae, y, z: torch.zeros(len(y), 3, 32, 32))
    monkeypatch.setattr(
        factors, "_traversed", lambda vae, x, j, values: read.append((j, x)) or torch.zeros(len(values), 3, 32, 32)
    )
    draw = room.grid.draw
    spied = replace(room, grid=replace(room.grid, draw=lambda classes: drawn.append(classes) or draw(classes)))
    report.draw_factors(Told(), spied, History([]), tmp_path)
    for j, (along, (factor, x)) in enumerate(zip(drawn, read, strict=True)):
        others = [i for i in range(6) if i != j]
        assert factor == j and torch.equal(x[0], room.test.x[j])
        assert (along[:, others] == room.test.classes[j, others]).all() and len(along[:, j].unique()) > 1


def test_only_factors_without_any_label_are_said(tmp_path, monkeypatch, capsys):
    for known, said in ((["--known", "floor,wall"], True), ([], False)):
        job_of(tmp_path, monkeypatch, "--labelled", "6", *known)
        note = "NOTE: no label of object, scale, shape, orientation is known"
        assert (note in capsys.readouterr().out) == said


def job_of(tmp_path, monkeypatch, *flags):
    """A run whose folder is the test's own."""
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    settings = runpy.run_path(str(SCRIPT))["Settings"]
    return FactorRun(settings.parse(None, [*flags, "--smoke-test", "--out", str(tmp_path / "out")]))


def test_the_baseline_is_trained_without_label_replacement_on_the_same(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    job, fitted = job_of(tmp_path, monkeypatch, "--labelled", "6", "--tau", "0.7"), []

    def fit(vae, x, y, *, elbo, **how):
        fitted.append((vae, x, y, elbo, how))
        history = History([{}])
        history.compiled, history.notes = True, ["not as asked for"]
        return history

    def make():
        return pyro_semivae.models.LaRVAE((3, 32, 32), job.labels, z=1, networks=pyro_semivae.nn.MLPs((4,)))

    monkeypatch.setattr(factor_run, "fit", fit)
    monkeypatch.setattr(job, "finish", lambda metrics: fitted.append(metrics))
    monkeypatch.setattr(factor_run.report, "measure_factors", lambda vae, data, **how: {"mig": id(vae)})
    monkeypatch.setattr(
        factor_run.report, "draw_factors", lambda vae, data, history, out, others: fitted.append(others)
    )
    monkeypatch.setattr(job, "draw_graph", lambda *of: fitted.append(of))
    job.train(make, lambda vae, tau: tau)
    (baseline, x, y, tau, how), (vae, x_2, y_2, tau_2, how_2), metrics, others, drawn = fitted
    assert drawn[0] is vae and drawn[1] is x and drawn[2] is y and drawn[3] == 0.7
    assert (tau, tau_2) == (0.0, 0.7) and x is x_2 is job.x and y is y_2 is job.y
    assert all(torch.equal(a, b) for a, b in zip(baseline.parameters(), vae.parameters(), strict=True)), "one start"
    for options in (how, how_2):
        assert options["also_unlabelled"] and options["labelled_batch_size"] == job.args.batch_size
        assert options["seed"] == job.args.seed
    assert how["checkpoint"].name == "baseline.pt" and how_2["checkpoint"].name == "checkpoint.pt"
    of_both = {"labelled": 6, "mig": id(vae), "baseline_mig": id(baseline)}
    assert metrics == {**of_both, "compiled": True, "notes": ["not as asked for"]} and others == {"baseline": baseline}
    assert job.share == 300 / 6 and int((~y.isnan()).any(1).sum()) == 6


def test_held_out_images_are_in_the_place_of_the_test_images(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    for dataset in ("room", "faces"):
        plain = job_of(tmp_path / dataset, monkeypatch, "--dataset", dataset)
        chosen = job_of(tmp_path / f"{dataset} 2", monkeypatch, "--dataset", dataset, "--hold-out", "40")
        if dataset == "room":
            assert torch.equal(chosen.data.test.x, plain.data.held_out.x)
        else:
            assert torch.equal(chosen.data.x_test, plain.data.x[-40:]) and len(chosen.x) == len(plain.x) - 40


def test_of_attributes_some_rows_keep_their_labels(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    job = job_of(tmp_path, monkeypatch, "--dataset", "faces", "--labelled", "25")
    known = ~job.y.isnan()
    assert int(known.any(1).sum()) == job.labelled == 25 and torch.equal(job.y[known], job.data.y[known])
    loc, scale = job.labels.prior()
    assert_close(loc, job.y[known.any(1)].mean(0))
    assert_close(scale[5], job.y[known.any(1), 5].std(correction=0))
