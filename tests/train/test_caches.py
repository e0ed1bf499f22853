"""Cached images and evaluators: what is damaged or of another version is made anew, and said."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from damage import flipped, full_disk
from PIL import Image

from pyro_semivae import data, evaluators
from pyro_semivae.caches import cached_array, cached_checkpoint
from pyro_semivae.data.folders import image_array
from pyro_semivae.digests import digest
from pyro_semivae.files import load_checkpoint, save_checkpoint


def test_flipped_bits_of_a_cached_array_are_seen_and_it_is_made_anew(tmp_path, capsys):
    path, made, rng = tmp_path / "a.npy", [], random.Random(0)
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)

    def make():
        made.append(1)
        return array

    np.testing.assert_array_equal(cached_array(path, make), array)
    np.testing.assert_array_equal(cached_array(path, make), array)
    assert len(made) == 1 and capsys.readouterr().err == ""
    np.testing.assert_array_equal(np.load(path), array)  # an .npy file like any other
    content = path.read_bytes()
    for bit in rng.sample(range(8 * len(content)), 100):
        path.write_bytes(flipped(content, bit))
        np.testing.assert_array_equal(cached_array(path, make), array)
        assert path.read_bytes() == content
        assert capsys.readouterr().err == f"NOTE: made anew: {path} (damaged, or of an older version)\n"
    np.save(path, array)  # as older versions wrote it
    for short in (None, content[:-1], content[: len(content) // 2], content[:10], b""):
        if short is not None:
            path.write_bytes(short)
        np.testing.assert_array_equal(cached_array(path, make), array)
        assert "made anew" in capsys.readouterr().err


def test_a_damaged_cache_of_images_is_made_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((8, 8, 3), 60 * i, np.uint8)).save(path)
    first = image_array(paths, "some", channels=3, size=8).clone()
    (cache,) = (tmp_path / "cache").iterdir()
    content = cache.read_bytes()
    for damaged in (flipped(content, 8 * 300), content[:-40], b""):
        cache.write_bytes(damaged)
        assert torch.equal(image_array(paths, "some", channels=3, size=8), first)
        assert cache.read_bytes() == content and f"NOTE: made anew: {cache}" in capsys.readouterr().err


def test_a_cache_on_a_full_disk_is_said_and_goes_without(tmp_path, capsys):
    array, state = np.ones((300, 1000), np.uint8), {"weights": {"a": torch.rand(100_000)}}
    with full_disk():
        assert cached_array(tmp_path / "a.npy", lambda: array) is array
        assert cached_checkpoint(tmp_path / "b.pt", "M", lambda: state, lambda state: state["model"]) == "M"
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("NOTE: a.npy is not cached: ") and second.startswith("NOTE: b.pt is not cached: ")
    assert not [*tmp_path.iterdir()]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("what", ["classifier", "posterior", "logistic"])
def test_a_damaged_evaluator_is_trained_anew(what, tmp_path, capsys):
    torch.set_default_dtype(torch.float32)
    digits = data.load("digits")
    evaluator, _ = evaluators.independent_classifier(digits, steps=3, cache=tmp_path / "evaluator", progress=False)
    folder = tmp_path / "cache"

    def answer():
        if what == "classifier":
            classifier, accuracy = evaluators.independent_classifier(digits, steps=3, cache=folder, progress=False)
            return classifier.classify(digits.x_test[:9]), accuracy
        if what == "logistic":
            classify, accuracy = evaluators.logistic_regression(digits, iterations=5, cache=folder)
            return classify(digits.x_test[:9]), accuracy
        found = evaluators.independent_posterior(digits, evaluator, num_rows=300, steps=2, cache=folder, progress=False)
        return found.sample_probs(evaluator.embed(digits.x_test[:9])), 0.0

    probs, accuracy = answer()
    (path,) = folder.iterdir()
    content, state = path.read_bytes(), load_checkpoint(path)
    damages = [flipped(content, 4 * len(content)), content[: len(content) // 2], b""]
    changes = [{"weights": {}}, {"weights": {name: x[:1] for name, x in state["weights"].items() if x.dim()}}]
    changes += [{"test_accuracy": None}] if what != "posterior" else [{"shape": None}, {"mean": None}, {"binary": None}]
    if what != "logistic":  # whose absent classes have a bias of minus infinity
        name = next(name for name, x in state["weights"].items() if x.is_floating_point())
        changes.append({"weights": {**state["weights"], name: state["weights"][name] * float("nan")}})
    for damage in [*damages, *changes]:
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            save_checkpoint(path, {**state, **damage})
        capsys.readouterr()
        again, same = answer()
        said = [line for line in capsys.readouterr().err.splitlines() if "made anew" in line]
        assert len(said) == 1 and said[0].startswith("NOTE: made anew: ") and str(path) in said[0]
        assert torch.equal(again, probs) and same == accuracy and digest(load_checkpoint(path)) == digest(state)


def test_the_cached_evaluator_of_other_images_is_another(tmp_path):
    """The same sums, rows in another order: a posterior fitted to them is not the one that is there."""
    digits = data.load("digits")
    paths = {
        evaluators._path("classifier", one, tmp_path, 0)
        for one in (digits, replace(digits, x=digits.x.flip(0)), replace(digits, x_test=digits.x_test.mT))
    }
    assert len(paths) == 3
