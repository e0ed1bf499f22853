"""The real data sets and short trainings on them: `PYRO_SEMIVAE_DATA=... pytest -m slow`."""

from functools import partial

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from pyro_semivae import CCVAE, data, evaluators, metrics, tasks
from pyro_semivae.infer import ClassifierTerm
from pyro_semivae.train import cosine, fit

pytestmark = pytest.mark.slow


def load(name):
    try:
        return data.load(name, download=False)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashionmnist", 0.2860, 0.3530)])
def test_files_are_the_official_ones(name, mean, std):
    loaded = load(name)
    assert loaded.x.shape == (60_000, 1, 28, 28) and loaded.x_test.shape == (10_000, 1, 28, 28)
    pixels = loaded.x.double() / 255
    assert abs(pixels.mean().item() - mean) < 1e-4 and abs(pixels.std().item() - std) < 1e-4
    assert loaded.y_test.bincount().min() > 890


@pytest.mark.parametrize("name", ["mnist", "fashionmnist"])
def test_the_recipe_learns_from_240_labels(name):
    """Three epochs, on held-out training rows."""
    torch.set_default_dtype(torch.float32)
    loaded = load(name).hold_out(10_000)
    labelled = data.labelled_rows(loaded.y, 240, seed=0)
    vae = CCVAE(loaded.x_shape, loaded.labels, z_c=30)
    elbo = vae.elbo(marginal="jensen", beta=3.0) + (200 * len(loaded.x) / 240 - 1) * ClassifierTerm()
    fit(
        vae,
        loaded.x,
        data.hide(loaded.y, labelled),
        elbo=elbo,
        epochs=3,
        lr=1e-3,
        schedule=cosine,
        labelled_batch_size=100,
        corrupt=partial(data.shift, pixels=1),
    )
    probs = tasks.in_batches(partial(tasks.classify, vae, num_samples=20), loaded.x_test)
    assert metrics.accuracy(probs, loaded.y_test) > {"mnist": 0.85, "fashionmnist": 0.70}[name]


@pytest.mark.parametrize("name", ["mnist", "fashionmnist"])
def test_without_options_fit_learns_on_a_small_set(name):
    """8,000 rows, 2 % of them labelled: better than the nearest labelled image, and generations are of their class."""
    torch.set_default_dtype(torch.float32)
    loaded = load(name)
    x, true = loaded.x[:8000], loaded.y[:8000]
    labelled = data.labelled_rows(true, 160, seed=0)
    torch.manual_seed(0)
    vae = CCVAE(loaded.x_shape, loaded.labels)
    fit(vae, x, data.hide(true, labelled), progress=False)
    nearest = KNeighborsClassifier(1).fit(x[labelled].flatten(1).numpy(), true[labelled].numpy())
    baseline = nearest.score(loaded.x_test.flatten(1).numpy(), loaded.y_test.numpy())
    accuracy = metrics.accuracy(tasks.in_batches(partial(tasks.classify, vae), loaded.x_test), loaded.y_test)
    evaluator, _ = evaluators.independent_classifier(loaded, progress=False)
    labels = torch.arange(10).repeat(50)
    generation, _ = metrics.generation_accuracy(lambda y: tasks.generate(vae, y)[0], evaluator.classify, labels)
    assert accuracy > baseline + 0.03 and generation > 0.7, (accuracy, baseline, generation)
