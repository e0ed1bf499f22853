"""The examples on data of one's own: a folder with a csv, arrays; defaults by what the data are, not by their name."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_semivae
from pyro_semivae import CCVAE, data, runs, tasks
from pyro_semivae.conditionals import BernoulliLikelihood, LaplaceLikelihood
from pyro_semivae.data import ImageData
from pyro_semivae.defaults import keys_of_own
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.models.parts import STYLE, STYLE_OF_BINARY
from pyro_semivae.nn import Convs, MLPs
from pyro_semivae.spaces import Classes

ROOT = Path(__file__).parents[2]
OTHER = ("larvae.py", "rbvae.py", "demo.py")  # they have data of their own, or train nothing
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py") if path.name not in OTHER)


def draw_folder(folder, tone=False, number=60, size=16):
    """Squares, every other one bright, half of them labelled; `tone`: with a second class label."""
    lines = ["file,Kind,Bright,Large,Age" + ",Tone" * tone]
    folder.mkdir()
    for i in range(number):
        level = 60 + 150 * (i % 2)
        Image.fromarray(np.full((size, size, 3), level + i % 40, np.uint8)).save(folder / f"{i}.png")
        kind = ("dim one", "bright one")[i % 2] if i % 4 < 2 else ""
        lines.append(
            f"{i}.png,{kind},{i % 2},{i % 3 // 2},{i / 7 if i % 5 else 'NA'}{',' + 'ab'[i % 2] if tone else ''}"
        )
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


SCRIPTS = [pytest.param(name, marks=() if name == "ccvae.py" else pytest.mark.slow) for name in EXAMPLES]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_example_takes_a_folder(script, run, tmp_path):
    draw_folder(tmp_path / "squares")
    flags = ("--smoke-test", "--dataset", "squares", "--label", "Kind", "--size", 18, "--out", "out")
    code, out, err = run(script, *flags)
    assert code == 0, err
    assert "kind    class: bright one, dim one; known in" in out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    table = data.load_folder(tmp_path / "squares")
    assert metrics["dataset"] == "squares" and metrics["epochs"] == 2
    assert metrics["labelled"] == int((table.train["kind"] >= 0).sum()) or script == "inverted_vae.py"
    assert 'go on with it: vae = pyro_semivae.load("out/checkpoint.pt")' in out
    vae = pyro_semivae.load(tmp_path / "out" / "checkpoint.pt")
    resized = data.load_folder(tmp_path / "squares", size=18)
    assert vae.x_shape == (3, 18, 18)
    if tasks.available(vae)["classify"] is None:
        assert tasks.classify(vae, resized.test["x"]).shape == (len(table.test["x"]), 2)
    code, _, err = run(script, *flags, "--resume", "--epochs", 3)
    assert code == 0, err


@pytest.mark.slow
def test_several_binary_columns_are_one_label(run, tmp_path):
    draw_folder(tmp_path / "squares")
    code, _, err = run("ccvae.py", "--smoke-test", "--dataset", "squares", "--label", "Bright,Large", "--out", "out")
    assert code == 0, err
    vae = pyro_semivae.load(tmp_path / "out" / "checkpoint.pt")
    assert vae.labels.entries == 2


def test_arrays(run, tmp_path):
    x, y = np.random.default_rng(0).integers(0, 255, (40, 9, 11), dtype=np.uint8), np.arange(40) % 4 - 1
    np.savez(tmp_path / "grey.npz", x=x, y=y, age=np.linspace(0, 1, 40))
    code, out, err = run("ccvae.py", "--smoke-test", "--dataset", "grey.npz")
    assert code == 0, err
    assert "writing to runs/ccvae-grey" in out
    assert isinstance(pyro_semivae.load(tmp_path / "runs/ccvae-grey/checkpoint.pt").p_x, BernoulliLikelihood)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dataset", "nowhere"), "--dataset: got 'nowhere'; expected auto, mnist,"),
        (
            ("--dataset", "squares"),
            "--label: got no label; expected one class label, or one or several binary ones",
        ),
        (("--dataset", "squares", "--label", "age"), "--label: got 'age' (real)"),
        (
            ("--dataset", "squares", "--label", "Kind", "--size", "3"),
            "--size: got 3; expected an integer from 4 up",
        ),
        (("--dataset", "squares", "--label", "Kind", "--hold-out", "1"), "--hold-out: got one test image"),
        (("--dataset", "squares", "--csv", "late.csv"), "--label: got a label that no training row has"),
        (("--dataset", "squares", "--kinds", "age"), "--kinds: got 'age'; expected columns and kinds as"),
        (("--dataset", "squares", "--kinds", "age=colour"), "--kinds: got"),
        (("--dataset", "squares", "--csv", "none.csv"), "none.csv"),
        (("--dataset", "digits", "--label", "Kind"), "--label: got digits as --dataset; expected a path with these"),
        (("--dataset", "squares", "--label", "Kind", "--labelled", "1000"), "--labelled: got 1000 rows"),
    ],
)
def test_bad_flags_are_one_line(flags, message, run, tmp_path):
    draw_folder(tmp_path / "squares", tone=True)
    late = [f"{i}.png,{'' if i < 50 else 'ab'[i % 2]},{'train' if i < 50 else 'test'}" for i in range(60)]
    (tmp_path / "late.csv").write_text("\n".join(["file,kind,split", *late]))
    code, _, err = run("ccvae.py", "--smoke-test", *flags)
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and message in last


def settings(*flags):
    """Those of examples/ccvae.py."""
    return runpy.run_path(str(ROOT / "examples" / "ccvae.py"))["Settings"].parse(None, flags)


def own(shape, y, names):
    x = torch.randint(0, 256, (len(y), *shape), dtype=torch.uint8)
    return ImageData("digits", names, x, y, x, y)  # a name that another set has plays no part


GREY = own((1, 28, 28), torch.arange(6) % 2, ("a", "b"))
LARGE = own((3, 32, 40), torch.arange(6) % 2, ("a", "b"))
MANY = own((1, 20, 20), torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 3), ("a", "b"))
TINY = {labels: own((3, 15, 40), y, ("a", "b")) for labels, y in (("class", GREY.y), ("binary", MANY.y))}
WITHOUT = {"beta": 4.0, "tau": 0.0, "generated": 0.0, "style": 0.0, "independence": 0.0}  # as `elbo_for`


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (GREY, {"alpha": 1000.0, "beta": 2.0, "dropout": 0.1, "batch_size": 200, "epochs": None, "labelled": "all"}),
        (GREY, {"tau": 0.5, "generated": 40.0, "style": 0.5, "independence": 10.0, "z_c": 10, "z_s": 20}),
        (LARGE, {"alpha": 1000.0, "beta": 1.0, "dropout": 0.0, "batch_size": 64, "epochs": None, "tau": 0.5}),
        (MANY, {"alpha": 1.0, "beta": 2.0, "dropout": 0.1, "z_s": 27, "batch_size": 200, "tau": 0.5, "style": 0.0}),
        (TINY["class"], {**WITHOUT, "alpha": 1000.0, "z_s": 20}),
        (TINY["binary"], {**WITHOUT, "alpha": 1.0, "z_s": 27}),
    ],
)
def test_defaults_follow_what_the_data_are(own, expected):
    args = vars(settings().for_data(keys_of_own(own)))
    assert {name: args[name] for name in expected} == expected
    assert not any(isinstance(value, dict) for value in args.values())


def test_networks_and_likelihood_follow_the_data_and_not_the_labels():
    class Job(ExampleRun):
        def __init__(self, own):
            self.data = own
            self.args = type("Args", (), {"smoke_test": False, "dropout": 0.2})()

    assert Job(GREY).parts() == {"networks": MLPs((600, 600), 0.2), "likelihood": BernoulliLikelihood}
    assert Job(MANY).parts()["likelihood"] is BernoulliLikelihood
    assert Job(LARGE).parts() == {"networks": Convs(0.2), "likelihood": LaplaceLikelihood}


def test_named_sets_have_the_defaults_they_had():
    faces, fashion = (vars(settings().for_data(name)) for name in ("faces", "fashionmnist"))
    assert (faces["alpha"], faces["beta"], faces["batch_size"], faces["epochs"], faces["z_s"]) == (1.0, 1.0, 64, 10, 27)
    assert (fashion["alpha"], fashion["beta"], fashion["shift"], fashion["epochs"]) == (1000.0, 2.0, 1, 10)
    digits = vars(settings().for_data("digits"))
    assert (digits["beta"], digits["epochs"], digits["z_s"]) == (4.0, 400, 20) and not digits["generated"]
    assert [fashion[name] for name in STYLE] == [*STYLE.values()]
    assert {name: faces[name] for name in STYLE_OF_BINARY} == STYLE_OF_BINARY
    assert not faces["style"] and not faces["independence"] and fashion["entries"] == digits["entries"] == "all"
    assert faces["labelled"] == "0.2" and fashion["labelled"] == "0.004" and faces["dropout"] == 0.0


def test_the_picture_of_a_runs_graph_has_labelled_rows(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(runs, "show", lambda vae, **how: seen.append(how))
    vae, x = CCVAE((1, 2, 3), Classes(3)), torch.rand(60, 1, 2, 3)
    y = torch.full((60,), -1)
    y[40:55] = torch.arange(15) % 3
    runs.Run.draw_graph(type("Job", (), {"out": tmp_path})(), vae, x, y, "objective")
    (how,) = seen
    assert how["objective"] == "objective" and how["path"] == tmp_path / "graph.png"
    assert torch.equal(how["rows"]["y"], torch.cat([y[:10], y[40:50]]))
    assert torch.equal(how["rows"]["x"], torch.cat([x[:10], x[40:50]]))
