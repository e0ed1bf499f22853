"""The graphs of examples/compose, as users write them: each trains, resumes, and has all tasks and checks."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from pyro_semivae import tasks
from pyro_semivae.check import check_model
from pyro_semivae.plot import show
from pyro_semivae.spaces import MISSING, Classes, Counts, Images, Real
from pyro_semivae.train import fit

FOLDER = Path(__file__).parents[1] / "examples" / "compose"
NAN, B = torch.nan, 13  # no other size is 13
DIGIT = torch.tensor([0, 2, MISSING, 1, MISSING, 2, 0, MISSING, 1, MISSING, MISSING, 2, 1])
OTHER = torch.tensor([1, MISSING, 0, MISSING, 1, MISSING, 0, 1, MISSING, 0, MISSING, 1, 0])


def two_labels(own):
    rows = {"x": torch.rand(B, 2, 3, 4), "digit": DIGIT, "colour": OTHER}
    return own["Coloured"](Images(2, 3, 4), Classes(3), Classes(2), z=5), rows


def rotation(own):
    angle = torch.linspace(-1, 1, B)[:, None].where((OTHER >= 0)[:, None], NAN)
    rows = {"x": torch.rand(B, 2, 3, 4), "digit": DIGIT, "angle": angle}
    return own["Turned"](Images(2, 3, 4), Classes(3), Real(1), z=5), rows


def counts(own):
    rows = {"x": torch.randint(9, (B, 7)), "y": DIGIT, "size": 10 + torch.rand(B, 1)}
    return own["Cells"](Counts(7), Classes(3), z=5), rows


def adgm(own):
    return own["ADGM"](Images(2, 3, 4), Classes(3), a=4, z=5), {"x": torch.rand(B, 2, 3, 4), "y": DIGIT}


def two_layers(own):
    rows = {"x": torch.rand(B, 2, 3, 4), "y": DIGIT}
    return own["TwoLayers"](Images(2, 3, 4), Classes(3), z_c=4, z_1=5, z_2=6), rows


def two_views(own):
    upper, lower = torch.rand(B, 2, 3, 4), torch.rand(B, 1, 5, 4)
    upper[2], lower[0], lower[5] = NAN, NAN, NAN
    return own["Views"](Images(2, 3, 4), Images(1, 5, 4), z=6), {"upper": upper, "lower": lower}


BUILD = {build.__name__: build for build in (two_labels, rotation, counts, adgm, two_layers, two_views)}
each_graph = pytest.mark.parametrize("name", BUILD)


def build(name):
    torch.manual_seed(0)
    return BUILD[name](runpy.run_path(str(FOLDER / f"{name}.py")))


def test_every_graph_has_a_case():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(BUILD)


@each_graph
def test_it_runs_as_a_script_and_draws(name, tmp_path):
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--smoke-test", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert ("accuracy" in done.stdout or name == "two_views") and len([*tmp_path.glob("*.png")]) == 2


@each_graph
def test_it_meets_the_contract_and_can_be_shown(name, tmp_path, capsys):
    vae, rows = build(name)
    report = check_model(vae, rows)
    assert set(report.labels) == set(vae.label_sites) and set(report.data) == set(vae.data_sites) - {"size"}
    show(vae, rows, path=tmp_path / "graph.png")
    assert (tmp_path / "graph.png").stat().st_size > 2000 and "model  p(" in capsys.readouterr().out
    show(vae)


@each_graph
def test_a_resumed_run_is_the_one_that_was_not_interrupted(name, tmp_path):
    weights = []
    for parts in ((2,), (1, 2)):
        vae, rows = build(name)
        for epochs in parts:
            path = tmp_path / f"{len(parts)}.pt"
            fit(
                vae,
                rows,
                epochs=epochs,
                batch_size=4,
                checkpoint=path,
                resume=True,
                progress=False,
                schedule="constant",
            )
        weights.append(vae.state_dict())
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    first, _ = build(name)
    moved = [key for key, p in first.named_parameters() if not torch.equal(p, weights[0][key])]
    assert len(moved) == len([*first.parameters()])


@pytest.mark.parametrize("name", [name for name in BUILD if name != "two_views"])
def test_every_task_works(name):
    vae, rows = build(name)
    data = {site: rows[site] for site in vae.data_sites}
    found = tasks.classify(vae, data)
    found = found if isinstance(found, dict) else {vae.label_sites[0]: found}
    assert set(found) == set(vae.label_sites)
    shape = (B, *vae.spaces["x"].shape)
    for label, probs in found.items():
        assert probs.shape == (B, vae.spaces[label].code_size)
        if vae.spaces[label].num_values:
            assert_close(probs.sum(-1), torch.ones(B))
    covariates = {site: rows[site] for site in vae.data_sites if site != "x"}
    labels = {site: rows[site] for site in vae.label_sites}
    assert tasks.generate(vae, {**labels, **covariates}, 3).shape == (3, *shape)
    assert tasks.reconstruct(vae, data).shape == shape and tasks.swap(vae, data, data).shape == shape
    for label in vae.label_sites:
        set_to = 1 if vae.spaces[label].num_values else 0.5
        torch.manual_seed(0)
        images = tasks.intervene(vae, data, {label: set_to}, 2)
        torch.manual_seed(0)
        other = tasks.intervene(vae, data, {label: 0}, 2)
        assert images.shape == (2, *shape) and not torch.equal(images, other)


def test_known_labels_are_evidence_on_the_others():
    """q(colour | x, digit) where the digit is known, and the mean over q(digit | x) where it is not."""
    vae, rows = build("two_labels")
    with torch.no_grad():
        for parameter in vae.q_colour.parameters():
            parameter.mul_(3)
        x = vae.images(rows["x"])
        each = vae.q_colour(x, torch.arange(3)[:, None].expand(3, B)).probs  # (digits, B, colours)
        weights = vae.q_digit(x).probs
    expected = (weights.T.unsqueeze(-1) * each).sum(0)
    assert_close(tasks.classify(vae, {"x": rows["x"]})["colour"], expected)
    known = (DIGIT >= 0)[:, None]
    told = each[DIGIT.clamp(min=0), torch.arange(B)]
    given = tasks.classify(vae, {"x": rows["x"], "digit": DIGIT})
    assert_close(given["colour"], torch.where(known, told, expected))
    assert_close(given["digit"][DIGIT >= 0], torch.eye(3)[DIGIT[DIGIT >= 0]])


def test_the_mean_of_a_continuous_label_is_over_the_classes():
    vae, rows = build("rotation")
    with torch.no_grad():
        x = vae.images(rows["x"]).unsqueeze(1)
        means = torch.stack([vae.q_angle(x, torch.full((B, 1), c)).mean for c in range(3)])  # (digits, B, 1)
        weights = vae.q_digit(x).probs  # (B, 1, digits)
    expected = (weights.movedim(-1, 0) * means).sum(0)
    assert_close(tasks.classify(vae, {"x": rows["x"]})["angle"], expected)
    given = tasks.classify(vae, {"x": rows["x"], "angle": rows["angle"]})["angle"]
    assert_close(given, torch.where(rows["angle"].isnan(), expected, rows["angle"].double()))


def test_setting_one_label_keeps_the_others_and_the_latents():
    vae, rows = build("two_labels")
    seen = []
    vae.p_x.register_forward_hook(lambda module, args, out: seen.append(args))
    latents, labels = tasks.abduct(vae, {"x": rows["x"]})
    tasks.intervene(vae, {"x": rows["x"]}, {"colour": torch.where(DIGIT > 0, 1, MISSING)})
    digit, colour, z = seen[-1]
    assert torch.equal(digit, labels["digit"]) and torch.equal(z, latents["z"])
    assert torch.equal(colour, torch.where(DIGIT > 0, 1, labels["colour"]))


def test_wrong_rows_are_named():
    vae, rows = build("two_labels")
    for wrong, message in (
        ({"x": rows["x"], "shade": OTHER}, r"x: got values of \['shade'\]; accepted are those of x, digit, colour"),
        ({"x": rows["x"], "digit": DIGIT[:5]}, "x, digit: got 13 rows of x and 5 rows of digit"),
        ({"x": rows["x"], "colour": DIGIT}, r"colour: got \[2, 2"),
        ({"digit": DIGIT}, "x: got nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(vae, wrong, epochs=1, progress=False)
    with pytest.raises(ValueError, match="has 2 sites of labels, digit, colour; here one is meant"):
        fit(vae, rows["x"], DIGIT, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"y_new: got \['shade'\]; accepted are digit, colour"):
        tasks.intervene(vae, {"x": rows["x"]}, {"shade": 1})


def test_a_view_that_is_missing_is_not_scored_and_says_nothing():
    """By hand: the prior times the experts of the views that are there, and their densities alone."""
    vae, rows = build("two_views")
    terms = vae.elbo().terms(vae.model, vae.guide, *vae.inputs(rows))
    there = {name: ~x.flatten(1)[:, 0].isnan() for name, x in rows.items()}
    for name, mask in there.items():
        assert (terms[f"p({name})"] != 0).equal(mask)
    q = vae.q_z(*rows.values())
    raw = [net(x.nan_to_num()).chunk(2, -1) for net, x in zip(vae.q_z.nets, rows.values(), strict=True)]
    precision, weighted = torch.ones(B, 6), torch.zeros(B, 6)
    for (loc, scale), mask in zip(raw, there.values(), strict=True):
        of_view = mask[:, None] / (torch.nn.functional.softplus(scale) + 1e-3) ** 2
        precision, weighted = precision + of_view, weighted + of_view * loc
    assert_close(q.mean, weighted / precision)
    assert_close(q.stddev, precision**-0.5)
    total = sum(terms.values()).sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(total, [*vae.parameters()]))


def test_a_missing_view_is_guessed_from_the_other_one():
    vae, rows = build("two_views")
    guessed = tasks.reconstruct(vae, {"upper": rows["upper"][3:5]})
    z = vae.q_z(rows["upper"][3:5], None).mean
    assert_close(guessed["lower"], vae.p_lower(z).mean.detach())
    assert guessed["upper"].shape == (2, 2, 3, 4)
