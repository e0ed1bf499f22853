"""The inverted VAE's task: what the example trains on, its first stage, how a run goes on, and what is measured."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from pyro_semivae import cli, evaluators, report, tasks
from pyro_semivae.checkpoints import History
from pyro_semivae.data import ImageData, load_small
from pyro_semivae.errors import InputError
from pyro_semivae.files import load_checkpoint, save_checkpoint
from pyro_semivae.models import InvertedVAE
from pyro_semivae.nn import Noisy
from pyro_semivae.settings import described
from pyro_semivae.spaces import Classes
from pyro_semivae.train import fit

SCRIPT = Path(__file__).parents[2] / "examples" / "inverted_vae.py"
SMALL = ("--smoke-test", "--epochs", 2, "--first-epochs", 2, "--batch-size", 100, "--classifier-hidden", 7)


class Stop(Exception):
    pass


@pytest.fixture
def example(monkeypatch, tmp_path):
    """Runs the example in this process; returns its calls of `fit`, `(vae, x, y, options)`."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*flags, data=None, stop_after=None, train=True):
        calls = []

        def recorded(vae, x, y, **options):
            before = {name: value.clone() for name, value in vae.state_dict().items()}
            calls.append((vae, x, y, {**options, "before": before}))
            if stop_after is not None and "unpaired_labels" in options:
                options["on_epoch"] = lambda epoch, _: stopped() if epoch > stop_after else None
            calls[-1][3]["history"] = history = fit(vae, x, y, **options) if train else History()
            return history

        def stopped():
            raise Stop

        monkeypatch.setattr(sys, "argv", ["inverted_vae.py", *map(str, (*SMALL, *flags))])
        if data is not None:
            monkeypatch.setattr(cli.data, "load_small", lambda name: data)
        space = runpy.run_path(str(SCRIPT))
        space["run"].__globals__["fit"] = recorded
        if not train:
            for name in ("measure_extraction", "draw_extraction"):
                monkeypatch.setattr(report, name, lambda *_, **__: ({}, None))
        space["run"]()
        return calls

    return run


def test_the_hidden_classes_labels_are_not_seen(example):
    """Whatever the labels of the classes from `--classes` on, the training data are the same; every image is there."""
    data = load_small("auto")
    other = data.y.clone()
    other[data.y >= 5] = 5 + (data.y[data.y >= 5] - 4) % 5
    (_, x_1, y_1, _), (_, x, y, more) = example(train=False, data=data)
    changed = ImageData(data.name, data.label_names, data.x, other, data.x_test, data.y_test)
    again = example("--overwrite", train=False, data=changed)
    for first, second in zip(((x_1, y_1), (x, y)), again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second[1:3], strict=True))
    known = (data.y < 5).nonzero()[:, 0]
    assert torch.equal(y_1, data.y[known]) and torch.equal(x_1, data.x[known])
    assert x is data.x and more["also_unlabelled"], "no image is copied"
    assert torch.equal(y[known], y_1) and (y >= 0).sum() == len(known)
    assert more["unpaired_labels"].shape == (10_000,) and set(more["unpaired_labels"].tolist()) == set(range(10))


def test_without_the_reverse_model_it_is_m2(example, capsys):
    note = "NOTE: --no-reverse: --reverse-weight and --image-weight are 0"
    for flags, said in ((("--no-reverse",), True), (("--preset", "m2"), False)):
        vae, x, y, more = example(*flags, train=False)[-1]
        assert "unpaired_labels" not in more
        terms = more["elbo"].weighted_terms(vae.model, vae.guide, x[:50].float() / 255, y[:50])
        names = ["log p(x|y,z)", "log p(z)", "-log q(z|x,y)", "log p(y)", "-log q(y_m|x)", "log q(y_o|x)"]
        assert [*terms] == names and terms["log q(y_o|x)"].any()
        assert (note in capsys.readouterr().out) == said
    assert {path.name for path in Path("runs").iterdir()} == {"inverted_vae-digits", "inverted_vae-digits-m2"}
    assert json.loads(Path("runs/inverted_vae-digits/config.json").read_text())["reverse_weight"] == 0.0


def test_the_noise_is_the_classifiers_alone(example):
    flags = ("--shift", 1, "--rotate", 10, "--zoom", 0.1, "--shear", 0.2)
    vae = example(*flags, train=False)[-1][0]
    said = described(vae.q_y.net.noise)
    assert said == "jitter(degrees 10.0, each_axis True, pixels 1.0, shear 0.2, zoom 0.1)"
    plain = example("--preset", "m2", train=False)[-1][0]
    noisy = [[name for name, part in m.named_modules() if isinstance(part, Noisy)] for m in (vae, plain)]
    assert noisy == [["q_y.net"], []]


def test_the_first_stage_leaves_the_classifier_as_it_is(example):
    first, second = example()
    start, then = first[3]["before"], second[3]["before"]
    for name in start:
        assert torch.equal(start[name], then[name]) == name.startswith(("q_y", "p_y")), name
    assert not torch.equal(then["q_y.net.net.layers.0.weight"], second[0].state_dict()["q_y.net.net.layers.0.weight"])


def test_only_the_diagnostic_sees_all_labels(example, capsys):
    data = load_small("auto")
    _, (_, x, y, more), (_, _, y_last, _) = example("--true-epochs", 1, "--out", "true", train=False)
    assert torch.equal(y, data.y) and torch.equal(x, data.x) and more["epochs"] == 1 and len(more["unpaired_labels"])
    assert y_last.max() == 4 and "NOTE: --true-epochs: every label is used" in capsys.readouterr().out
    assert json.loads(Path("true/metrics.json").read_text())["true_epochs"] == 1
    example("--out", "not", train=False)
    assert "true_epochs" not in json.loads(Path("not/metrics.json").read_text())


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(example):
    whole = example("--out", "whole")
    with pytest.raises(Stop):
        example("--out", "part", stop_after=1)
    state = load_checkpoint("part/checkpoint.pt")
    spent = state["config"]["seconds_before_training"] = 1000.0
    save_checkpoint("part/checkpoint.pt", state)
    rest = example("--out", "part", "--resume")
    assert len(whole) == 2 and len(rest) == 1, "the first stage is not run again"
    weights, others = whole[-1][0].state_dict(), rest[-1][0].state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert spent < json.loads(Path("part/metrics.json").read_text())["seconds"] < 2 * spent
    first_stage = sum(record["seconds"] for record in whole[0][3]["history"])
    assert whole[1][3]["config"]["seconds_before_training"] >= first_stage > 0
    with pytest.raises(InputError, match=r"--first-epochs: got 3; expected 2 with --resume, as before"):
        example("--out", "part", "--resume", "--first-epochs", 3)
    with pytest.raises(InputError, match=r"--true-epochs: got 1; expected 0 with --resume, as before"):
        example("--out", "part", "--resume", "--true-epochs", 1)
    for part in (whole[-1][0].p_z, whole[-1][0].q_z):  # a checkpoint's model is compared by its text
        assert "low=-1.5, high=1.5" in repr(part)
    for flag, value, name in (
        ("--box", 2, "model: low=-1.5, high=1.5, now low=-2, high=2"),
        ("--shear", 0.1, "model: shear 0.25, now shear 0.1"),
        ("--temperature", 1, "objective: temperature 0.67, now temperature 1.0"),
    ):
        with pytest.raises(InputError, match=f"other {re.escape(name)}$"):
            example("--out", "part", "--resume", flag, value)


def test_two_runs_side_by_side(example, monkeypatch, tmp_path):
    """Row by row, the image of the value that is taken for each class; binary labels are another matter."""
    for out, flags in (("inverted", ()), ("m2", ("--preset", "m2"))):
        example("--out", out, *flags)
    monkeypatch.syspath_prepend(SCRIPT.parents[1] / "benchmarks")
    space = runpy.run_path(str(SCRIPT.parents[1] / "benchmarks" / "compare.py"))
    drawn = {}

    def image_grid(images, **options):
        drawn.update(images=images, **options)

    space["main"].__globals__["image_grid"] = image_grid
    monkeypatch.setattr(sys, "argv", ["compare.py", "inverted", "m2", "--out", "both"])
    space["main"]()
    assert drawn["rows"] == ["inverted", "m2"] and drawn["images"].shape == (2, 10, 1, 8, 8)
    assert drawn["path"] == Path("both/canonical.png") and len(drawn["columns"]) == 10
    for row, out in zip(drawn["images"], ("inverted", "m2"), strict=True):
        vae, job = space["load"](out)
        job.keep_classes(5)
        measured, canonical = report.measure_extraction(vae, job.data, job.labelled_rows, 5)
        for value, c in enumerate(measured["assigned"]):
            assert_close(row[c], canonical[value])
    config = json.loads(Path("m2/config.json").read_text())
    Path("m2/config.json").write_text(json.dumps({**config, "classes": 4}))
    with pytest.raises(InputError, match=r"runs: got runs with labels of \[4, 5\] classes; expected one number"):
        space["main"]()
    monkeypatch.setattr(sys, "argv", ["compare.py", "inverted", "--faces", "3"])
    with pytest.raises(InputError, match="--faces: got 3; expected none with InvertedVAE's runs"):
        space["main"]()
    del config["shear"]
    Path("m2/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"of another version of inverted_vae\.py; it and this one differ in shear"):
        space["load"]("m2")


@pytest.mark.parametrize(
    ("flag", "value", "accepted"),
    [
        ("--first-epochs", -1, "expected a non-negative integer"),
        ("--true-epochs", -1, "expected a non-negative integer"),
        ("--unpaired-labels", 0, "expected a positive integer"),
        ("--alpha", "nan", "expected a finite number from 0"),
        ("--reverse-weight", -1.0, "expected a finite number from 0"),
        ("--box", "inf", "expected a finite number above 0"),
        ("--zoom", 1.0, "expected a finite number from 0 and below 1"),
        ("--rotate", "nan", "expected a finite number from 0"),
        ("--shift", -1.0, "expected a finite number from 0"),
        ("--rotate", 400.0, "expected a finite number from 0 to 360"),
        ("--shear", "inf", "expected a finite number from 0"),
        ("--clip", -1.0, "expected a finite number from 0"),
        ("--clip-norm", "nan", "expected a finite number from 0"),
        ("--encoder-hidden", 0, "expected a positive integer"),
        ("--temperature", 0.0, "expected a finite number above 0"),
    ],
)
def test_bad_flags_are_refused_as_they_are_read(example, flag, value, accepted, capsys):
    with pytest.raises(SystemExit) as stop:
        example(flag, value, train=False)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {flag}: got {value}; {accepted}")


def test_more_classes_than_there_are_cannot_be_labelled(example):
    with pytest.raises(InputError, match="--classes: got 10; expected 1 to 9"):
        example("--classes", 10, train=False)


def test_what_is_measured_is_that_of_the_canonical_images(monkeypatch):
    """By hand: z is the mean of q(z|x,y)'s over the labelled rows, the evaluator sees E[x|y,z]; both assignments."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    vae, shape = InvertedVAE((1, 4, 5), Classes(5)), (1, 4, 5)
    x, y = torch.rand(40, *shape), torch.arange(5).repeat(8)
    data = ImageData("made", tuple("abcde"), (x * 255).byte(), y, (x * 255).byte().flip(0), y.flip(0))
    known = (y < 2).nonzero()[:, 0]
    seen = []
    # Greedily value 3 is class 2, and 2 is 3; the best assignment gives value 2 its class 2.
    scores = torch.eye(5)
    scores[2:, 2:] = torch.tensor([[0.8, 0.01, 0.0], [0.85, 0.1, 0.05], [0.1, 0.1, 0.8]])

    def evaluator(images):
        seen.append(images)
        return scores

    monkeypatch.setattr(evaluators, "logistic_regression", lambda data: (evaluator, 0.75))
    measured, canonical = report.measure_extraction(vae, data, known, 2)
    pixels = data.x.float() / 255
    code = torch.eye(5)
    with torch.no_grad():
        loc, raw = vae.q_z.net(pixels[known], code[y[known]]).chunk(2, -1)
        normal = torch.linspace(-8, 8, 4001)[:, None, None]  # the mean of a Gaussian pushed through the sigmoid
        value = (loc + (torch.nn.functional.softplus(raw) + 1e-3) * normal).sigmoid()
        mean = torch.trapezoid(value * torch.exp(-(normal**2) / 2) / (2 * torch.pi) ** 0.5, normal, dim=0)
        z = (-1.5 + 3 * mean).mean(0, keepdim=True)
        expected = vae.p_x.net(code, z.expand(5, -1)).sigmoid()
        log_q = vae.q_y.net(data.x_test.float() / 255).log_softmax(-1)
    assert_close(seen[0], expected)
    assert_close(canonical, expected)
    unseen, y_test = data.y_test >= 2, data.y_test
    for key, value_of in (("", [0, 1, 3, 2, 4]), ("_optimal", [0, 1, 2, 3, 4])):
        value = torch.tensor(value_of)[y_test[unseen]]
        cross_entropy = -log_q[unseen].gather(1, value[:, None]).mean()
        assert measured[f"cross_entropy_unseen{key}"] == pytest.approx(cross_entropy.item(), rel=1e-5)
        accuracy = (log_q[unseen].argmax(1) == value).double().mean().item()
        assert measured[f"accuracy_unseen{key}"] == pytest.approx(accuracy)
    assert measured["assigned"] == [0, 1, 3, 2, 4] and measured["distinct_digits"] == 4
    assert measured["test_accuracy"] == (log_q[~unseen].argmax(1) == y_test[~unseen]).double().mean().item()
    assert measured["evaluator_accuracy"] == 0.75 and 0 <= measured["calibration_error_unseen"] <= 1
    assert_close(tasks.decode(vae, {"z": z}, torch.tensor([3])), expected[3:4])


def test_the_manifold_has_the_first_entry_of_z_down_and_the_last_across(monkeypatch, tmp_path):
    torch.set_default_dtype(torch.float32)
    module, drawn = report.extraction, {}
    vae, shape = InvertedVAE((1, 2, 1), Classes(3)), (1, 2, 1)
    monkeypatch.setattr(module, "image_grid", lambda images, **options: drawn.update({options["path"].stem: images}))
    monkeypatch.setattr(module, "training_curves", lambda *_, **__: None)
    monkeypatch.setattr(module.tasks, "decode", lambda vae, latents, y: latents["z"].reshape(-1, *shape))
    data = ImageData("made", tuple("abc"), *(torch.zeros(3, *shape).byte(), torch.arange(3)) * 2)
    module.draw_extraction(vae, data, torch.zeros(3, *shape), {"assigned": [0, 1, 2]}, [], tmp_path)
    (first, last) = drawn["manifold"][0, 0, 0].unflatten(0, (7, 2)).unbind(1)  # a pixel of the first entry, one below
    steps = -1.5 + 3.0 * torch.linspace(0.05, 0.95, 7)
    assert_close(first, steps[:, None].expand(7, 7))
    assert_close(last, steps.expand(7, 7))
