"""What is measured and drawn of models with several labels (those with class labels: tests/test_examples.py)."""

import math
import statistics
import warnings
from dataclasses import replace

import pytest
import torch

from pyro_semivae import data, metrics, report, tasks
from pyro_semivae.models import CCVAE, M1, M1M2, M2, M3, MVAE, VAE
from pyro_semivae.nn import MLPs

ALL = {"interventions", "walks", "diversity", "swaps", "generations", "latents", "training"}

HISTORY = [{"epoch": 1, "objective": -2.0, "elbo": -2.0, "term/log p(x|z)": -2.0, "seconds": 1.0}]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield data.load_small("faces")


def leaves(value):
    value = [*value.values()] if isinstance(value, dict) else value
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("model", [CCVAE, M2, M1M2, M3, MVAE])
def test_every_model_of_labels_is_measured_and_drawn_on_faces(model, faces, tmp_path):
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    networks = MLPs((8,))
    if model is M1M2:
        vae = M1M2(M1(faces.x_shape, faces.labels, z=5, networks=networks), z=4, hidden=(6,))
    else:
        vae = model(faces.x_shape, faces.labels, networks=networks)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*found no sample with q")  # M3's, which is not trained
        found = report.measure(vae, faces, quick=True)
        report.draw(
            vae,
            faces,
            HISTORY,
            tmp_path,
        )
    capture, own = found.pop("characteristic_capture"), found.pop("characteristic_capture_per_label")
    assert set(capture) == {"own_linear", "own_nonlinear", "others_linear", "others_nonlinear"}
    per_label = found.pop("test_accuracy_per_label")
    assert list(per_label) == list(own) == list(faces.label_names)
    assert capture["own_linear"] == pytest.approx(statistics.mean(r for r, _ in own.values() if not math.isnan(r)))
    assert 0.7 < found["majority_accuracy"] < 0.9
    assert all(math.isfinite(leaf) for value in found.values() for leaf in leaves(value)), found
    with torch.random.fork_rng():
        mean = tasks.classify(vae, faces.x_test, mean=True)
    assert found["test_accuracy_mean"] == pytest.approx(metrics.label_accuracy(mean, faces.y_test).mean().item())
    made = {path.stem for path in tmp_path.glob("*.png")}
    assert made == (ALL - {"walks"} if model in (M1M2, M2, MVAE) else ALL)


@pytest.mark.parametrize("num_labels", [1, 5])
def test_grey_images_with_labels_that_are_missing_are_measured_and_drawn(num_labels, faces, tmp_path, monkeypatch):
    """As CheXpert has them: missing entries in the training and, held out, in the test set."""
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path))
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    grey, y = faces.x[:, :1], faces.y[:, :num_labels].clone()
    y[torch.rand(y.shape) < 0.3] = math.nan
    names = tuple(map(str, range(num_labels)))
    some = data.ImageData("grey", names, grey, y, grey, y).hold_out(90)
    vae = CCVAE(some.x_shape, some.labels, networks=MLPs((8,)))
    found = report.measure(vae, some, quick=True)
    selective = found.pop("intervention_selectivity")
    assert all(math.isfinite(leaf) for value in found.values() for leaf in leaves(value)), found
    assert math.isnan(selective) if num_labels == 1 else math.isfinite(selective)
    report.draw(vae, some, HISTORY, tmp_path)
    assert {path.stem for path in tmp_path.glob("*.png")} == (ALL - {"walks"} if num_labels == 1 else ALL)


@pytest.mark.parametrize("model", [VAE, M1])
def test_models_that_no_label_generates_are_measured_by_their_images(model, faces, tmp_path):
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    vae = model(faces.x_shape, faces.labels, networks=MLPs((8,)))
    if model is M1:
        vae.fit_classifier(faces.x, faces.y)
    found = report.measure(vae, faces, quick=True)
    rebuilt = tasks.reconstruct(vae, faces.x_test)
    error = (vae.images(faces.x_test) - rebuilt).abs().mean().item()
    assert found["reconstruction_error"] == pytest.approx(error, rel=1e-4)
    assert ("test_accuracy" in found) == (model is M1)
    if model is M1:  # colours can be read off any latent: better than always saying what is more frequent
        frequent = faces.y.mean(0).round().expand_as(faces.y_test)
        assert found["test_accuracy"] >= metrics.label_accuracy(frequent, faces.y_test).mean().item() - 0.02
    report.draw(vae, faces, HISTORY, tmp_path)
    assert {path.stem for path in tmp_path.glob("*.png")} == {"reconstructions", "generations", "training"}


def test_classes_that_no_test_row_has_are_left_out_of_the_figures(tmp_path):
    torch.set_default_dtype(torch.float32)
    digits = data.load("digits")
    digits = replace(digits, x_test=digits.x_test[:6], y_test=digits.y_test[:6])
    assert len(digits.y_test.unique()) < 7
    vae = CCVAE(digits.x_shape, digits.labels, networks=MLPs((8,)))
    report.draw(vae, digits, HISTORY, tmp_path)
    made = {path.stem for path in tmp_path.glob("*.png")}
    classified = {"confusion", "latents"}
    assert made == {"reconstructions", "generations", "interventions", "interpolation", "training", *classified}
