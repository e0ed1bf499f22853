"""LaRVAE's example: what it writes, its objectives, what it measures, its flags."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

import pyro_semivae
from pyro_semivae import data, report
from pyro_semivae.infer import BatchTotalCorrelation, FromPrior, GeneratedLabelsTerm, Hidden, Labelled, TotalCorrelation
from pyro_semivae.report import factors

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
    assert made == {"reconstructions", "training", "traversals", *(f"traversal-{name}" for name in names)}
    vae = pyro_semivae.load(tmp_path / "out" / "checkpoint.pt")
    assert report.representation(vae, torch.rand(2, 3, 32, 32))[1].shape == (2, 11)
    code, _, err = run("larvae.py", *flags, "--resume", "--epochs", 3)
    assert code == 0, err


@pytest.mark.parametrize(
    "flags",
    [("--dataset", "sprites"), pytest.param(("--base", "factor", "--replacement", "guide"), marks=pytest.mark.slow)],
)
def test_other_data_and_other_bases(flags, run, tmp_path):
    code, _, err = run("larvae.py", "--smoke-test", "--no-baseline", "--z", 0, "--out", "out", *flags)
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert ("l2_without_orientation" in found) == ("sprites" in flags) and "baseline_mig" not in found


def objective_of(*flags, tau=None):
    script = runpy.run_path(str(SCRIPT))
    args = script["Settings"].parse(None, flags).for_data("room")
    seen = {}
    grid = data.load_grid("room", size=32)
    job = SimpleNamespace(args=args, share=50.0)
    job.data = SimpleNamespace(grid=grid, train=range(500))
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
    assert isinstance(replaced.what, FromPrior) and replaced.weights == (50.0,) and label.weights == (5000.0,)
    assert isinstance(generated.what, GeneratedLabelsTerm) and generated.weights == (5000.0,)
    paper = objective_of("--preset", "paper").parts()[1].what.what.parts()
    assert not isinstance(paper[0].what, FromPrior) and len(paper) == 2
    factor = objective_of("--base", "factor", "--weight", "6").parts()[0].what.what.parts()[1]
    assert isinstance(factor.what, TotalCorrelation) and factor.weights == (6.0,)
    baseline = objective_of(tau=0.0).parts()[1].what.what.parts()
    assert baseline[0].weights == (0.0,) and len(baseline) == 2, "nothing of the label replacement, no generated images"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--image-size", "48"), "--image-size: got 48; expected 64, 32"),
        (("--images", "500000"), "--images, held_out, test: got"),
        (("--known", "roof"), r"--known: got ['roof']; expected some of floor"),
        (("--labelled", "13000"), "--labelled: got 13000"),
        (("--base", "dip"), "--base: invalid choice: 'dip'"),
        (("--dataset", "dsprites", "--data-dir", "nowhere"), "dataset dsprites: no nowhere"),
    ],
)
def test_bad_flags_are_one_line(flags, message, run):
    code, _, err = run("larvae.py", *flags)
    last = err.strip().splitlines()[-1]
    assert code == 2 or "FileNotFound" not in err
    assert last.startswith("error: ") and message in last


class Perfect:
    """What the report asks of a model, of a code that is the factors."""

    spaces, label_sites = {}, ("y",)

    def __init__(self, grid, swapped=False):
        self.grid, self.swapped = grid, swapped

    def images(self, x):
        return x.double() / 255 if x.dtype == torch.uint8 else x

    def parameters(self):
        yield torch.zeros(1, dtype=torch.double)


@pytest.fixture
def perfect(monkeypatch):
    """A model whose labels are right and whose images are the grid's, and the factors as the probe reads them."""
    torch.set_default_dtype(torch.float64)
    grid = data.load_grid("room", size=32)
    room = data.factor_data(grid, images=300, held_out=40, test=400)
    known = {bytes(x.numpy().tobytes()): c for x, c in zip(room.test.x, room.test.classes, strict=True)}

    def classify(vae, x):
        return {"y": grid.values(torch.stack([known[bytes(image.numpy().tobytes())] for image in x]))}

    def decode(vae, latents, y):
        values = torch.stack([grid.values(grid.classes(torch.arange(1)) * 0 + v) for v in range(max(grid.sizes))])[:, 0]
        classes = (y.unsqueeze(0) - values.unsqueeze(1)).abs().argmin(0)
        return grid.images(classes.minimum(torch.tensor(grid.sizes) - 1)).double() / 255

    monkeypatch.setattr(factors.tasks, "classify", classify)
    monkeypatch.setattr(factors.tasks, "infer", lambda vae, x: {"z": torch.zeros(len(x), 1, 2)})
    monkeypatch.setattr(factors.tasks, "decode", decode)
    return room, decode


def test_a_perfect_model_measures_as_one(perfect, monkeypatch):
    room, decode = perfect
    reads = SimpleNamespace(errors=torch.zeros(6), factors=lambda x: read(room, x))
    monkeypatch.setattr(factors.probes, "independent_probe", lambda *a, **k: reads)
    found = report.measure_factors(Perfect(room.grid), room, quick=True)
    assert found["mig"] > 0.85 and found["l2"] == pytest.approx(0) and found["factor_vae_score"] == 1
    assert found["generation_error"] == pytest.approx(0)
    assert_close(found["effect"], 1.0)
    assert_close(found["leak"], 0.0, atol=1e-9, rtol=0)
    monkeypatch.setattr(factors.tasks, "decode", lambda vae, z, y: decode(vae, z, y.roll(1, 1) * 0 + y[:, [0] * 6]))
    leaky = report.measure_factors(Perfect(room.grid), room, quick=True)
    assert leaky["effect_floor"] == pytest.approx(1, abs=0.05) and leaky["leak_floor"] > 2, "the floor's moves all"
    assert leaky["effect_wall"] == pytest.approx(0) and leaky["leak_wall"] == pytest.approx(0)
    assert leaky["generation_error"] > 1


def read(room, x):
    """The factors of images of the grid, by looking for them: of all that the tests draw."""
    if not hasattr(room, "_table"):
        object.__setattr__(room, "_table", {})
    table = room._table
    if not table:
        ends = [0, -1]
        for classes in room.test.classes:
            for j, size in enumerate(room.grid.sizes):
                for end in ends:
                    moved = classes.clone()
                    moved[j] = end % size
                    table[room.grid.images(moved.unsqueeze(0)).numpy().tobytes()] = moved
        for value in range(max(room.grid.sizes)):
            moved = torch.tensor(room.grid.sizes).sub(1).clamp(max=value)
            table[room.grid.images(moved.unsqueeze(0)).numpy().tobytes()] = moved
    return room.grid.values(
        torch.stack([table[(255 * image).round().to(torch.uint8).unsqueeze(0).numpy().tobytes()] for image in x])
    )
