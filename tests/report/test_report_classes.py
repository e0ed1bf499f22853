"""What is measured and drawn of models of a class label: missing labels, diversity, what interventions keep."""

import math
from dataclasses import replace

import pytest
import torch

from pyro_semivae import data, metrics, report, tasks
from pyro_semivae.models import CCVAE, DIVA, M1, M2, M3, MVAE, VAE, InvertedVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.report import classes

HISTORY = [{"epoch": 1, "objective": -2.0, "elbo": -2.0, "term/log p(x|z)": -2.0, "seconds": 1.0}]
DIVERSITY = ("generation_variance_share", "generation_precision", "generation_recall")
REST = {CCVAE: {"z_s": 3}, DIVA: {}, M2: {}, M3: {}}  # models with latents beside the label and its own


@pytest.fixture(autouse=True)
def single(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path_factory.getbasetemp() / "classes"))
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def digits():
    """Real digits, of which half of the training labels and a third of the test labels are missing."""
    digits = data.load("digits")
    generator = torch.Generator().manual_seed(0)
    y, y_test = (
        y.where(torch.rand(len(y), generator=generator) > part, -1)
        for y, part in ((digits.y, 0.5), (digits.y_test, 1 / 3))
    )
    return replace(digits, name="some", y=y, y_test=y_test)


def make(model, data, **options):
    torch.manual_seed(0)
    return model(data.x_shape, data.labels, networks=MLPs((8,)), **options)


@pytest.mark.filterwarnings("ignore:.*found no sample with q")  # M3's, which is not trained
@pytest.mark.parametrize("model", [CCVAE, DIVA, M2, M3, MVAE])
def test_every_model_is_measured_and_drawn_where_labels_are_missing(model, digits, tmp_path):
    vae = make(model, digits, **REST.get(model, {}))
    found = report.measure(vae, digits, quick=True)
    known = digits.y_test >= 0
    assert found["test_labels_missing"] == int((~known).sum()) > 100
    with torch.random.fork_rng():
        probs = tasks.classify(vae, digits.x_test[known], mean=True)
    assert found["test_accuracy_mean"] == pytest.approx(metrics.accuracy(probs, digits.y_test[known]))
    assert ("rest_explained" in found) == (model in REST)
    statistics = ["brightness", "thickness", "slant", "width", "height"]
    per_class, nested = found.pop("generation_per_class"), ("kept", "kept_by_fresh_samples", "rest_explained")
    for name in {*nested} & {*found}:
        assert [*found[name]] == statistics
        assert all(-1 <= value <= 1 for value in found.pop(name).values())
    assert all(math.isfinite(value) for value in found.values()), found
    assert [*per_class] == [*digits.label_names]
    for key in ("variance_share", "precision", "recall"):
        values = [value[key] for value in per_class.values()]
        assert found[f"generation_{key}"] == pytest.approx(sum(values) / 10)
    report.draw(vae, digits, HISTORY, tmp_path)
    assert {"reconstructions", "generations", "interventions"} <= {path.stem for path in tmp_path.glob("*.png")}


def test_no_test_label_at_all(digits, tmp_path):
    nothing = replace(digits, y_test=torch.full_like(digits.y_test, -1))
    vae = make(CCVAE, digits, z_s=3)
    found = report.measure(vae, nothing, quick=True)
    assert found["test_labels_missing"] == len(nothing.y_test)
    of_interventions = ("swap_difference", "intervention_accuracy", "intervention_precision")
    for key in ("test_accuracy", *of_interventions, "evaluator_accuracy", *DIVERSITY):
        assert math.isnan(found[key])
    assert all(map(math.isnan, found["kept"].values())) and "rest_explained" not in found
    assert math.isfinite(found["generation_accuracy"]) and math.isfinite(found["mutual_information_real"])
    report.draw(vae, nothing, HISTORY, tmp_path)
    assert len([*tmp_path.glob("*.png")]) == 5


@pytest.mark.parametrize("model", [VAE, M1])
def test_models_that_no_label_generates(model, digits, tmp_path):
    vae = make(model, digits)
    if model is M1:
        vae.fit_classifier(digits.x, digits.y)
    found = report.measure(vae, digits, quick=True)
    known = digits.y_test >= 0
    assert found["test_labels_missing"] == int((~known).sum())
    if model is M1:
        with torch.random.fork_rng():
            probs = tasks.classify(vae, digits.x_test[known])
        assert found["test_accuracy"] == pytest.approx(metrics.accuracy(probs, digits.y_test[known]), abs=0.05)


def test_classes_that_had_no_label(digits):
    vae = InvertedVAE(digits.x_shape, digits.labels)
    rows = data.labelled_rows(digits.y, 50, seed=0)
    found, canonical = report.measure_extraction(vae, digits, rows, 5)
    assert found["test_labels_missing"] == int((digits.y_test < 0).sum()) and canonical.shape == (10, 1, 8, 8)
    log_probs = tasks.in_batches(lambda x: tasks.log_classify(vae, x), vae.images(digits.x_test))
    for key, low, high in (("test_accuracy", 0, 5), ("accuracy_unseen", 5, 10)):
        use = (digits.y_test >= low) & (digits.y_test < high)
        value_of = torch.tensor(found["assigned"]).argsort()
        said = (log_probs[use].argmax(1) == value_of[digits.y_test[use]]).double().mean().item()
        assert found[key] == pytest.approx(said, abs=0.02)
    with pytest.raises(ValueError, match="labelled_rows: got 2 rows; expected one or more with known labels"):
        report.canonical_images(vae, digits, torch.stack([rows[0], (digits.y < 0).nonzero()[0, 0]]))
    with pytest.raises(ValueError, match="labelled_rows: got 0 rows"):
        report.canonical_images(vae, digits, rows[:0])


def test_all_labels_known_are_not_said_to_be_missing():
    digits = data.load("digits")
    found = report.measure(make(M2, digits), digits, quick=True)
    assert "test_labels_missing" not in found


def test_the_report_is_of_these_interventions_and_generations(digits, monkeypatch):
    """In the place of the model's: interventions that do nothing, latents that are the brightness, real images."""
    vae, known = make(CCVAE, digits, z_s=3), digits.y_test >= 0
    real = [digits.x_test[digits.y_test == c].float() / 255 for c in range(10)]
    monkeypatch.setattr(tasks, "intervene", lambda vae, x, y: vae.images(x)[None])
    monkeypatch.setattr(
        tasks, "infer", lambda vae, x: {"z_c": torch.randn(len(x), 2), "z_s": vae.images(x).mean((1, 2, 3))[:, None]}
    )
    drawn = []

    def generate(vae, y):
        count = torch.zeros(10, dtype=torch.long)
        for c in y:
            drawn.append(real[c][count[c] % len(real[c])])
            count[c] += 1
        return torch.stack(drawn)[None]

    monkeypatch.setattr(tasks, "generate", generate)
    found = report.measure_classes(vae, digits, quick=True)
    assert all(value == pytest.approx(1) for value in found["kept"].values())
    assert found["intervention_accuracy"] < 0.2, "of the old class, not of the one that was set"
    assert found["intervention_precision"] < 0.2, "and among images of that"
    assert all(0 < abs(value) < 0.25 for value in found["kept_by_fresh_samples"].values()), "many samples, not one"
    explained = found["rest_explained"]
    assert explained["brightness"] == pytest.approx(1, abs=0.01) and explained["slant"] < 0.5
    assert found["generation_precision"] == 1.0
    labels = torch.arange(10).repeat(10)
    share = metrics.variance_share(digits.x_test[known], digits.y_test[known], torch.stack(drawn), labels, 10)
    assert found["generation_variance_share"] == pytest.approx(share.mean().item(), rel=0.05)
    assert 0.5 < share.mean() < 1.5


def test_interventions_that_are_real_images_are_among_them(digits, monkeypatch):
    """Whatever else is wrong with them; of specks an evaluator may be as sure."""
    vae = make(CCVAE, digits, z_s=3)
    real = [digits.x_test[digits.y_test == c].float() / 255 for c in range(10)]
    calls = {"real": lambda c, i: real[c][i % len(real[c])], "specks": lambda c, i: torch.rand(1, 8, 8).round()}
    found = {}
    for name, image in calls.items():

        def drawn(vae, x, y, image=image):
            return torch.stack([image(c, i) for i, c in enumerate(y)])[None]

        monkeypatch.setattr(tasks, "intervene", drawn)
        found[name] = report.measure_classes(vae, digits, quick=True)["intervention_precision"]
    assert found["real"] == 1.0 and found["specks"] < 0.5


def test_figures_have_the_classes_that_are_known(digits, tmp_path, monkeypatch):
    some = replace(digits, y_test=digits.y_test.where(digits.y_test != 9, -1))
    drawn = {}
    keep = lambda images, path, **options: drawn.update({path.stem: (images, options)})  # noqa: E731
    monkeypatch.setattr(report.classes, "image_grid", keep)
    report.draw(make(M2, some), some, HISTORY, tmp_path)
    images, options = drawn["reconstructions"]
    assert options["columns"] == [*"012345678"]
    for c in range(9):
        assert torch.equal(images[0, c] * 255, some.x_test[some.y_test == c][0].float())
    assert drawn["interventions"][1]["rows"] == [*"012345678"]


@pytest.mark.parametrize("number", [2, 3])
def test_sets_of_two_and_three_classes_are_drawn(number, tmp_path):
    digits = data.load("digits")
    rows, rows_test = digits.y < number, digits.y_test < number
    few = replace(
        digits,
        name=f"{number}",
        x=digits.x[rows],
        y=digits.y[rows],
        x_test=digits.x_test[rows_test],
        y_test=digits.y_test[rows_test],
        label_names=digits.label_names[:number],
    )
    vae = make(CCVAE, few)
    found = report.measure(vae, few, quick=True)
    assert len(found["generation_per_class"]) == number
    report.draw(vae, few, HISTORY, tmp_path)
    assert "interpolation" in {path.stem for path in tmp_path.glob("*.png")}


def test_the_confusion_and_the_latents_are_of_the_test_images(digits, monkeypatch, tmp_path):
    """Junction: test images with their labels, the true class first, and the model's characteristic latents."""
    seen = {}
    monkeypatch.setattr(classes, "confusion_matrix", lambda counts, names, **_: seen.update(counts=counts, names=names))
    monkeypatch.setattr(classes, "latents_by_class", lambda z, y, names, **_: seen.update(z=z, y=y))
    vae = make(CCVAE, digits, z_c=4, z_s=3)
    report.draw(vae, digits, HISTORY, tmp_path)
    said = tasks.classify(vae, digits.x_test, mean=True).argmax(1)
    for true, out in ((3, 3), (3, 5), (5, 3)):
        assert seen["counts"][true, out] == ((digits.y_test == true) & (said == out)).sum()
    of_class = digits.y_test[digits.y_test >= 0].bincount(minlength=10)  # a row is a true class, a column what is said
    assert torch.equal(seen["counts"].sum(1), of_class) and seen["names"] == digits.label_names
    assert torch.equal(seen["z"], tasks.infer(vae, digits.x_test)["z_c"]) and torch.equal(seen["y"], digits.y_test)


def test_a_test_image_of_its_class_is_beside_the_generations(digits, monkeypatch, tmp_path):
    grids = {}
    monkeypatch.setattr(classes, "image_grid", lambda images, *, path, **_: grids.update({path.stem: images}))
    only = replace(digits, y_test=digits.y_test.where(digits.y_test != 4, -1))  # no test image of class 4 is known
    report.draw(make(M2, digits), only, HISTORY, tmp_path)
    beside = grids["generations"][:, 0]
    for c in range(10):
        images = only.x_test[only.y_test == c] / 255
        assert (beside[c] == 1).all() if c == 4 else (images == beside[c]).flatten(1).all(1).any()


def test_generations_at_chance_are_told():
    found = {"generation_accuracy": 0.13, "intervention_precision": 0.2, "evaluator_accuracy": 0.97}
    assert "0.13 of the generated images, and chance is 0.10" in report.sign_of_chance(found, 10)
    assert report.sign_of_chance({**found, "generation_accuracy": 0.21}, 10) == ""
    assert report.sign_of_chance({**found, "evaluator_accuracy": 0.2}, 10) == "", "an evaluator that tells nothing"
    assert report.sign_of_chance({**found, "evaluator_accuracy": math.nan}, 10) == ""
    assert report.sign_of_chance({"generation_accuracy": 0.13}, 18) == "", "binary labels"
