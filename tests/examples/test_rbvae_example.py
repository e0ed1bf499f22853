"""The reference-based example: what it writes, its objectives, its flags, the figures' arrangement."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import pyro_semivae
from pyro_semivae import data, metrics, report, tasks
from pyro_semivae.data.affectnet import EXPRESSIONS
from pyro_semivae.data.styled import styled
from pyro_semivae.infer import (
    BatchTotalCorrelation,
    DensityRatio,
    DIPTerm,
    LatentReconstruction,
    MultiScaleTerm,
    TraceSymmetricKL_ELBO,
)
from pyro_semivae.reference_run import ReferenceRun
from pyro_semivae.report import reference

SCRIPT = Path(__file__).parents[2] / "examples" / "rbvae.py"
KEYS = {"mean_absolute_error", "error_scale", "error_width", "error_red", "style_from_common", "transfer_error"}
KEYS |= {"transfer_error_scale", "digit_kept", "class_from_target", "class_from_common", "kl_common_reference"}
KEYS |= {"error_median", "error_pixels", "error_components", "probe_error", "probe_accuracy", "elbo_per_example"}


OF_TARGET = {"style_from_common", "transfer_error", "transfer_error_scale", "digit_kept", "class_from_common"}
OF_TARGET |= {"kl_common_reference"}
METHODS = [(), ("--no-symmetric",), ("--method", "swap-vae")]
SLOW = [("--preset", "paper", "--batch-size", 20)]
SLOW += [("--method", name) for name in ("vae", "svae", "beta-tcvae", "dip-vae-2")]
METHODS += [pytest.param(flags, marks=pytest.mark.slow) for flags in SLOW]


@pytest.mark.parametrize("flags", METHODS)
def test_it_writes_what_it_promises_and_resumes(flags, run, tmp_path):
    flags = ("--smoke-test", "--out", "out", "--width", 4, *flags)
    code, _, err = run("rbvae.py", *flags)
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    has_target = "--method" not in flags or "swap-vae" in flags
    assert {*found} >= (KEYS if has_target else KEYS - OF_TARGET)
    assert found["dataset"] == "styled-digits-32" and found["epochs"] == 2
    made = {path.stem for path in (tmp_path / "out").glob("*.png")}
    of_target = {"transfer", "synthesis", "interpolation"} if has_target else set()
    assert made == {"reconstructions", "training", "graph"} | of_target
    vae = pyro_semivae.load(tmp_path / "out" / "checkpoint.pt")
    latents = tasks.infer(vae, torch.rand(2, 3, 32, 32))
    assert sum(value.shape[1] for value in latents.values()) == 64
    code, _, err = run("rbvae.py", *flags, "--resume", "--epochs", 3)
    assert code == 0, err


@pytest.mark.slow
def test_faces_are_measured_by_their_smile_too(run, tmp_path):
    code, _, err = run("rbvae.py", "--smoke-test", "--dataset", "faces", "--out", "out", "--width", 4)
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["dataset"] == "mouths-64"
    assert {"error_smile", "error_width", "transfer_error_smile", "digit_kept"} <= {*found}
    assert {"attribute_from_target_smile", "attribute_from_common_no_smile"} <= {*found}
    made = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert made == {"reconstructions", "training", "graph", "transfer", "synthesis", "interpolation"}


def test_affectnet_is_measured_by_expressions_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    torch.set_default_dtype(torch.float32)
    rng = np.random.default_rng(0)
    for split, number in (("train_set", 60), ("val_set", 80)):
        for folder in ("images", "annotations"):
            (tmp_path / "AffectNet" / split / folder).mkdir(parents=True)
        for i in range(number):
            image = Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8))
            image.save(tmp_path / "AffectNet" / split / "images" / f"{i}.jpg")
            expression = 0 if split == "train_set" and i < 30 else 1 + i % 7
            np.save(tmp_path / "AffectNet" / split / "annotations" / f"{i}_exp.npy", expression)
    script = runpy.run_path(str(SCRIPT))
    flags = (
        "--dataset",
        "affectnet",
        "--data-dir",
        str(tmp_path),
        "--image-size",
        "16",
        "--out",
        str(tmp_path / "out"),
    )
    job = ReferenceRun(script["Settings"].parse(None, [*flags, "--width", "4"]))
    assert job.dataset == "affectnet-16" and len(job.data.pool) == 30 and (job.data.y == 1).sum() == 30
    assert job.data.attribute_names == EXPRESSIONS[1:]
    found = report.measure_reference(script["make"](job), job.data, quick=True, progress=False)
    expressions = {f"attribute_from_{part}_{name}" for part in ("target", "common") for name in EXPRESSIONS[1:]}
    others = {
        "elbo_per_example",
        "kl_common",
        "kl_target",
        "kl_common_reference",
        "transfer_attribute",
        "probe_attribute",
    }
    assert {*found} == expressions | others | {"attribute_from_target", "attribute_from_common"}
    assert found["attribute_from_target"] == pytest.approx(
        sum(found[f"attribute_from_target_{name}"] for name in EXPRESSIONS[1:]) / 7
    )


def test_settings_for_faces_are_chosen_on_other_faces(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    script = runpy.run_path(str(SCRIPT))
    flags = ("--dataset", "faces", "--image-size", "32", "--images", "60", "--hold-out", "40")
    job = ReferenceRun(script["Settings"].parse(None, [*flags, "--out", str(tmp_path / "out")]))
    held_out = data.mouths(32, images=60, held_out=40)
    assert len(job.data.test) == 20 and torch.equal(job.data.test.x, held_out.test.x)
    assert torch.equal(job.data.x, held_out.x)


def objective_of(*flags):
    """The objective that flags make, of images of 16x16 pixels."""
    script = runpy.run_path(str(SCRIPT))
    job = SimpleNamespace(args=script["Settings"].parse(None, flags).for_data("mnist"))
    job.data = SimpleNamespace(x_shape=(3, 16, 16), x=torch.zeros(99, 1))
    vae = script["make"](job)
    assert vae.stratify == "y", "every method has as many images of both sets in a step"
    return script["objective"](vae, job)


def test_the_presets_are_what_they_say():
    parts = objective_of().parts()
    assert [type(part.what).__name__ for part in parts] == [
        "TraceLabels_ELBO",
        "MultiScaleTerm",
        "DensityRatio",
        "DensityRatio",
        "LatentReconstruction",
    ]
    assert [part.weights for part in parts[2:]] == [(30.0,), (30.0,), (1.0,)]
    assert parts[2].what.generate.crossed == 0.5 and parts[2].what.r1 == 0.3 and parts[1].what.scales == 3
    plain = objective_of("--no-symmetric").parts()
    assert [type(part.what).__name__ for part in plain] == ["TraceLabels_ELBO", "MultiScaleTerm"]
    paper = objective_of("--preset", "paper")
    assert isinstance(paper, TraceSymmetricKL_ELBO)
    generate = [p.what.generate for p in paper.parts() if isinstance(p.what, DensityRatio | LatentReconstruction)]
    assert len(generate) == 3 and not any(how.crossed for how in generate)
    assert not any(isinstance(part.what, MultiScaleTerm) for part in paper.parts())


@pytest.mark.parametrize(
    ("flags", "added"),
    [
        (("vae",), []),
        (("beta-vae", "--strength", "4"), []),
        (("beta-tcvae", "--strength", "5"), [("BatchTotalCorrelation", 5.0)]),
        (("dip-vae-1", "--strength", "2"), [("DIPTerm", 2.0)]),
        (("dip-vae-2",), [("DIPTerm", 2.0)]),
        (("beta-tcvae",), [("BatchTotalCorrelation", 1.0)]),
        (("svae",), [("DensityRatio", 10.0)]),
        (("svae", "--latents", "0.5"), [("DensityRatio", 10.0), ("LatentReconstruction", 0.5)]),
        (("svae", "--preset", "paper"), [("DensityRatio", 1.0), ("LatentReconstruction", 1.0)]),
        (("swap-vae",), [("SwapTerm", 1.0), ("DensityRatio", 10.0), ("DensityRatio", 10.0)]),
    ],
)
def test_the_baselines_are_what_they_say(flags, added):
    bound, *parts = objective_of("--method", *flags).parts()
    assert bound.what.beta == (4.0 if flags[0] == "beta-vae" else 1.0)
    found = [(type(part.what).__name__, *part.weights) for part in parts]
    assert [part for part in found if part[0] != "MultiScaleTerm"] == added
    assert (("MultiScaleTerm",) in found) == ("paper" not in flags), "every method has the same reconstruction"
    kinds = {part.what.kind for part in parts if isinstance(part.what, DIPTerm)}
    assert kinds == {"dip-vae-1": {"I"}, "dip-vae-2": {"II"}}.get(flags[0], set())
    sizes = {part.what.num_rows for part in parts if isinstance(part.what, BatchTotalCorrelation)}
    assert sizes <= {99}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--image-size", "48"), "--image-size: got 48; expected 32, 64"),
        (("--images", "1"), "--images: got 1 of 1438; expected two or more"),
        (("--images", "14"), "--images: got 7 references; expected 16 or more"),
        (("--hold-out", "9"), "--hold-out: got 9 test images; expected 16 or more"),
        (("--method", "vae", "--r1", "1"), "--r1: got with --method vae --preset demo, which does not use it"),
        (("--no-symmetric", "--crossed", "1"), "--crossed: got with --method rb-vae --no-symmetric --preset demo"),
        (("--preset", "paper", "--scales", "2"), "--scales: got with --method rb-vae --preset paper"),
        (("--crossed", "1.5"), "--crossed: got 1.5"),
        (("--labelled", "3"), "unrecognized arguments: --labelled 3"),
        (("--dataset", "celeba"), "--dataset: invalid choice: 'celeba'"),
        (("--dataset", "faces", "--hold-out", "9"), "--hold-out: got 9 test images; expected 16 or more"),
    ],
)
def test_bad_flags_are_one_line(flags, message, run):
    code, _, err = run("rbvae.py", "--dataset", "digits", *flags)
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and message in last


@pytest.fixture
def small():
    torch.set_default_dtype(torch.float32)
    return styled(data.load("digits"), 32, images=300)


def test_the_features_are_those_of_e_and_the_lines_are_fitted_on_the_probing_images(small, monkeypatch):
    """Latents that are the factors, but noise in the probing images' own: an error of 0 would be a leak of the test."""
    vae = pyro_semivae.models.RbVAE(small.x_shape, z=3, e=5, networks=pyro_semivae.nn.MLPs((8,)))
    known = {part.x.data_ptr(): part for part in (small.probing, small.test)}
    shift = {small.probing.x.data_ptr(): 0.0, small.test.x.data_ptr(): 0.5}

    def latents(of, images):
        part = known[images.x.data_ptr()]
        return {"z": torch.zeros(len(part), 3), "e": part.factors + shift[images.x.data_ptr()]}

    monkeypatch.setattr(reference, "_latents", latents)
    found = report.measure_reference(vae, small, quick=True, progress=False)
    # The colour's parts sum to 1, so that lines do not see what is added to all three: .5 of two factors of five.
    assert found["mean_absolute_error"] == pytest.approx(0.2, abs=1e-5)
    assert found["error_scale"] == pytest.approx(0.5, abs=1e-5)
    constant = (small.test.factors - small.probing.factors.mean(0)).abs().mean(0)
    assert found["style_from_common"] == pytest.approx(constant[0].item(), abs=1e-5)
    assert found["error_median"] == pytest.approx(
        metrics.median_errors(small.probing.factors, small.test.factors).mean().item()
    )


def test_transfer_takes_e_of_one_image_and_z_of_the_other(small, monkeypatch):
    vae = pyro_semivae.models.RbVAE(small.x_shape, z=1, e=5, networks=pyro_semivae.nn.MLPs((8,)))

    def decode(of, latents):
        """An "image" that holds its latents."""
        return torch.cat([latents["e"], latents["z"]], 1)

    class Probe:
        errors, accuracies = torch.zeros(5), (1.0, float("nan"))

        def factors(self, x):
            return x[:, :5]

        def classes(self, x):
            return x[:, 5].long()

    test = small.test
    found = {"e": test.factors, "z": test.classes.unsqueeze(1).float()}
    monkeypatch.setattr(reference.tasks, "decode", decode)
    measured = reference._transfer(vae, small, found, ["e"], ["z"], Probe())
    assert measured["transfer_error"] == pytest.approx(0.0, abs=1e-6) and measured["digit_kept"] == 1.0
    swapped = reference._transfer(vae, small, {**found, "e": test.factors.flip(0)}, ["e"], ["z"], Probe())
    assert swapped["transfer_error"] > 0.1


def test_the_class_of_the_target_is_told_from_e_and_not_from_z(small):
    """e tells the one class of two always, the other in half of the images; z tells nothing."""
    attributes = [torch.arange(len(part)) % 2 for part in (small.probing, small.test)]
    parts = [replace(part, attributes=of) for part, of in zip((small.probing, small.test), attributes, strict=True)]
    labelled = replace(small, probing=parts[0], test=parts[1], attribute_names=("no smile", "smile"))
    e, e_test = (of.float().unsqueeze(1) for of in attributes)
    e_test[1::4] = 0  # every second smile looks like none
    found = [{"e": value, "z": torch.zeros(len(value), 2)} for value in (e, e_test)]
    told = {**reference._accuracies(*found, ["e"], labelled, "target")}
    told |= reference._accuracies(*found, ["z"], labelled, "common")
    smiles = int(attributes[1].sum())
    missed = len(e_test[1::4])
    assert told["attribute_from_target_no_smile"] == 1.0
    assert told["attribute_from_target_smile"] == pytest.approx(1 - missed / smiles)
    assert told["attribute_from_target"] == pytest.approx(1 - missed / smiles / 2)
    assert {told[f"attribute_from_common_{name}"] for name in ("smile", "no_smile")} == {0.0, 1.0}
    assert told["attribute_from_common"] == 0.5 and told["class_from_common"] < 0.3


def test_the_transfer_of_an_attribute_is_that_of_the_image_that_gives_e(small, monkeypatch):
    labelled = replace(
        small.test, factors=torch.zeros(len(small.test), 0), attributes=torch.arange(len(small.test)) % 3
    )
    bare = replace(small, test=labelled, factor_names=(), class_names=(), attribute_names=("a", "b", "c"))
    monkeypatch.setattr(reference.tasks, "decode", lambda of, latents: latents["e"])
    probe = SimpleNamespace(attributes=lambda x: x[:, 0].long())
    vae = pyro_semivae.models.RbVAE(small.x_shape, z=1, e=1, networks=pyro_semivae.nn.MLPs((8,)))
    found = {"e": labelled.attributes.unsqueeze(1).float(), "z": torch.zeros(len(labelled), 1)}
    assert reference._transfer(vae, bare, found, ["e"], ["z"], probe) == {"transfer_attribute": 1.0}
    found["e"] = (found["e"] + 1) % 3
    assert reference._transfer(vae, bare, found, ["e"], ["z"], probe) == {"transfer_attribute": 0.0}


def test_signs_of_collapse_are_said():
    quiet = {"monitor/loss of d(x,z|y=1)": 0.9}
    assert report.signs_of_collapse({"kl_common_reference": 30.0}, [quiet]) == []
    (note,) = report.signs_of_collapse({"kl_common_reference": 0.4}, [quiet])
    assert "KL of the common factors on reference images is 0.40 nats" in note
    blind, all_seeing = ({"monitor/loss of d(x,z|y=1)": loss} for loss in (1.38, 0.05))
    assert "discriminator is at chance" in report.signs_of_collapse({}, [blind])[0]
    assert "discriminator is nearly perfect" in report.signs_of_collapse({}, [all_seeing])[0]


def test_the_transfer_figure_has_rows_of_content_and_columns_of_style(small, monkeypatch, tmp_path):
    vae = pyro_semivae.models.RbVAE(small.x_shape, z=2, e=2, networks=pyro_semivae.nn.MLPs((8,))).eval()
    drawn = {}
    monkeypatch.setattr(reference, "image_grid", lambda images, path, **how: drawn.update({path.stem: images}))
    monkeypatch.setattr(reference, "training_curves", lambda history, path: None)
    report.draw_reference(vae, small, [{}], tmp_path)
    x = vae.images(small.test.x[: reference.SHOWN])
    latents, figure = tasks.infer(vae, x), drawn["transfer"]
    assert_close(figure[0, 1:], x)
    assert_close(figure[1:, 0], x)
    assert_close(figure[3, 6], tasks.decode(vae, {"z": latents["z"][2:3], "e": latents["e"][5:6]})[0])
    synthesis = drawn["synthesis"]
    assert synthesis.shape[0] == 8 and not torch.equal(synthesis[0, 1], synthesis[0, 2])
    assert_close(drawn["interpolation"][0, 0], tasks.reconstruct(vae, x)[0], rtol=0.2, atol=0.2)
