"""The graphs of examples/compose, as users write them: each trains, resumes, and has all tasks and checks."""

import os
import runpy
import subprocess
import sys

import pyro
import pytest
import torch
from graphs import BUILD, FOLDER, B, build, each_graph
from torch.testing import assert_close

from pyro_semivae import report, show, tasks
from pyro_semivae.check import check_model
from pyro_semivae.conditionals import BernoulliLikelihood, Gaussian
from pyro_semivae.nn import MLP
from pyro_semivae.spaces import Classes, Images
from pyro_semivae.streams import RandomStreams
from pyro_semivae.train import fit


def test_every_graph_has_a_case():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(BUILD)


@each_graph
def test_it_is_short(name):
    """At most 60 lines that are not blank, with training and figures."""
    assert sum(bool(line.strip()) for line in (FOLDER / f"{name}.py").read_text().splitlines()) <= 60


def run_script(name, folder, *flags):
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--smoke-test", "--out", "out", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=200)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(tmp_path):
    done = run_script("adgm", tmp_path, "--cuda")
    assert done.returncode == 2 and "--cuda: this machine has no GPU" in done.stderr.splitlines()[-1]
    assert not [*tmp_path.iterdir()]


def test_any_folder_has_a_graph_or_is_told_in_one_line(tmp_path):
    """Columns that are called as attributes of modules are; a bad csv is one line."""
    from PIL import Image

    (tmp_path / "pets").mkdir()
    lines = ["file,Type,Train,Z,Keys"]
    for i in range(12):
        Image.new("RGB", (16, 16), (20 * i, 9, 9)).save(tmp_path / "pets" / f"{i}.png")
        lines.append(f"{i}.png,{'ab'[i % 2]},{i % 2 if i % 3 else ''},{i / 7},{'cd'[i // 6]}")
    (tmp_path / "pets" / "labels.csv").write_text("\n".join(lines))
    done = run_script("own_folder", tmp_path, "--dataset", "pets")
    assert done.returncode == 0, done.stderr
    assert "type/accuracy" in done.stdout and "z_/mean_absolute_error" in done.stdout
    (tmp_path / "pets" / "labels.csv").write_text("\n".join([*lines, "99.png,a,1,1,c"]))
    done = run_script("own_folder", tmp_path, "--dataset", "pets")
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.cuda
@each_graph
def test_it_runs_as_a_script_on_cuda(name, tmp_path, device):
    done = run_script(name, tmp_path, "--cuda")
    assert done.returncode == 0, done.stderr


@each_graph
def test_it_runs_as_a_script_and_draws(name, tmp_path, run, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # scripts have one of their own
    code, out, err = run(f"compose/{name}.py", "--smoke-test", "--out", "out")
    assert code == 0, err
    assert ("accuracy" in out or name == "two_views") and len([*tmp_path.glob("out/*.png")]) >= 2


@each_graph
def test_it_meets_the_contract_and_can_be_shown(name, tmp_path):
    vae, rows = build(name)
    report = check_model(vae, rows)
    assert set(report.labels) == set(vae.label_sites) and set(report.data) == set(vae.data_sites) - {"size"}
    for picture in (show(vae, rows=rows, path=tmp_path / "graph.png"), show(vae)):
        assert not picture.why_not and picture.values and "model  p(" in str(picture)
    assert (tmp_path / "graph.png").stat().st_size > 2000


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


def test_the_skip_deep_generative_model_is_adgm_with_another_model():
    """SDGM (Maaløe et al. 2016): p(a | y, z) p(x | a, y, z), in the place of p(x | y, z) p(a | x, y, z)."""
    adgm = runpy.run_path(str(FOLDER / "adgm.py"))["ADGM"]

    class SDGM(adgm):
        """With a above x.

        ::

            p(y) p(z) p(a | y, z) p(x | a, y, z)
            q(a | x) q(y | a, x) q(z | a, x, y)
        """

        def __init__(self, x, y, a=4, z=3):
            super().__init__(x, y, a, z)
            self.p_a, self.p_x = (
                Gaussian(MLP([y, z], [9], (2 * a,))),
                BernoulliLikelihood(x, MLP([a, y, z], [9], x.shape)),
            )

        def model(self, x=None, y=None):
            self.register()
            with self.rows(x, y) as (x, y):
                y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
                z = pyro.sample("z", self.p_z())
                a = pyro.sample("a", self.p_a(y, z))
                pyro.sample("x", self.p_x(a, y, z), obs=x)

    torch.manual_seed(0)
    vae, x, y = SDGM(Images(1, 4, 5), Classes(3)), torch.rand(7, 1, 4, 5), torch.tensor([0, -1, 2, 1, -1, 0, -1])
    report = check_model(vae, x, y)
    assert set(report.model["x"]) == {"a", "y", "z"}
    fit(vae, x, y, epochs=1, progress=False)
    assert tasks.intervene(vae, x, torch.full((7,), 2)).shape == (1, 7, 1, 4, 5)
    assert tasks.classify(vae, x).sum(1).allclose(torch.ones(7, dtype=torch.float64))


@each_graph
def test_it_is_measured_and_drawn(name, tmp_path):
    """Every label by its own measure; images of every label set; with the caller's generator as it was."""
    vae, rows = build(name)
    history = fit(vae, rows, epochs=1, progress=False)
    before = torch.get_rng_state()
    found = report.measure_rows(vae, rows)
    assert torch.equal(torch.get_rng_state(), before)
    continuous = {"rotation": {"angle"}, "own_folder": {"angle"}, "factors": {"y"}}.get(name, set())
    measures = {label: "mean_absolute_error" if label in continuous else "accuracy" for label in vae.label_sites}
    expected = {f"{label}/{measure}" for label, measure in measures.items()}
    assert {key for key in found if "missing" not in key} == {"elbo_per_example", *expected}
    data_alone = {site: rows[site] for site in vae.data_sites if site in rows}
    with RandomStreams(0), torch.no_grad():
        terms = vae.elbo().bound.terms(vae.model, vae.guide, *vae.inputs(data_alone))
    assert found["elbo_per_example"] == pytest.approx(sum(terms.values()).mean().item())
    if name == "rotation":
        guess = tasks.classify(vae, data_alone, num_samples=400)
        error = (guess["angle"] - rows["angle"]).abs().nanmean()
        assert found["angle/mean_absolute_error"] == pytest.approx(error.item(), rel=0.1)
        assert found["angle/missing"] == int(rows["angle"].isnan().sum())
    report.draw_rows(vae, rows, history, tmp_path / "new" / "out", number=3)  # the folder is made
    pictures = [site for site in vae.data_sites if vae.spaces[site].pictures]
    figures = {"training.png", *(f"reconstructions-{site}.png" for site in pictures)}
    if name != "two_views":
        figures |= {f"interventions-{site}-{label}.png" for site in pictures for label in vae.label_sites}
    assert {path.name for path in (tmp_path / "new" / "out").iterdir()} == figures
