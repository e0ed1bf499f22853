"""Faces whose mouth is what is learned: what varies, what does not, and that the factors are the painted mouth's."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pyro_semivae import data
from pyro_semivae.data import faces
from pyro_semivae.data.mouths import FACTORS, HAIR, mouth_factors, mouths, neutral
from pyro_semivae.errors import InputError


def around_the_mouth(drawn):
    """Where two sets of images may differ, and what they show there: rows 37 to 47, columns 24 to 40."""
    x = faces.paint(drawn).astype(int)
    return x, x[:, :, 37:48, 24:41]


def test_a_reference_differs_in_the_mouth_alone():
    drawn = faces.draw(100, 3, rates="balanced")
    (x, mouth), (x_neutral, mouth_neutral) = around_the_mouth(drawn), around_the_mouth(neutral(drawn))
    assert (mouth != mouth_neutral).any((1, 2, 3)).mean() > 0.9
    x[:, :, 37:48, 24:41] = x_neutral[:, :, 37:48, 24:41] = 0
    assert np.array_equal(x, x_neutral)
    assert_close(
        torch.tensor(mouth_factors(neutral(drawn))), torch.tensor([[0.1, 0.1875]], dtype=torch.float32).expand(100, 2)
    )


def test_the_factors_are_those_of_the_painted_mouth():
    """Of faces that are the same but for the mouth: how low its middle is, and how wide it is, in pixels."""
    drawn = faces.draw(200, 3, rates="balanced")
    same = faces.Faces(*(np.repeat(part[:1], 200, 0) for part in (drawn.labels, drawn.strengths, drawn.nuisances)))
    for name in ("Smiling", "Heavy_Makeup"):
        same = same.with_label(name, False)
    none = faces.paint(same)
    labels, strengths, nuisances = same.labels.copy(), same.strengths.copy(), same.nuisances.copy()
    column = faces.ATTRIBUTES.index("Smiling")
    labels[:, column], strengths[:, column] = drawn.labels[:, column], drawn.strengths[:, column]
    for name in ("mouth_bend", "mouth_width"):
        at = faces.NUISANCES.index(name)
        nuisances[:, at] = drawn.nuisances[:, at]
    varied = faces.Faces(labels, strengths, nuisances)
    changed = np.abs(faces.paint(varied).astype(int) - none).sum(1)  # (N, 64, 64)
    rows, columns = np.arange(64)[:, None], np.arange(64)
    low = np.array([(image * rows).sum() / max(image.sum(), 1) for image in changed])
    wide = np.array([np.sqrt((image * (columns - 32) ** 2).sum() / max(image.sum(), 1)) for image in changed])
    factors, smiles = mouth_factors(varied), labels[:, column]
    assert factors.min() >= 0 and factors.max() <= 1.0001
    assert np.corrcoef(factors[smiles, 0], low[smiles])[0, 1] > 0.9
    assert np.corrcoef(factors[smiles, 1], wide[smiles])[0, 1] > 0.7
    assert factors[smiles, 0].min() > factors[~smiles, 0].max()


@pytest.mark.parametrize("size", [32, 64])
def test_the_sets(size, tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path))
    found = mouths(size, images=41, measured=30)
    assert found.name == f"mouths-{size}" and found.x_shape == (3, size, size) and found.factor_names == FACTORS
    assert len(found.x) == 40 and found.y.tolist() == [0] * 20 + [1] * 20 and found.class_names == HAIR
    assert len(found.pool) == 20 and len(found.probing) == len(found.test) == 15
    assert torch.equal(found.pool.x, found.x[:20])
    drawn = faces.draw(20, 10, rates="balanced")
    assert torch.equal(found.pool.factors, torch.from_numpy(mouth_factors(drawn)))
    assert torch.equal(
        found.pool.attributes, torch.from_numpy(drawn.labels[:, faces.ATTRIBUTES.index("Smiling")]).long()
    )
    for i, name in enumerate(HAIR[:3]):
        assert torch.equal(found.pool.classes == i, torch.from_numpy(drawn.labels[:, faces.ATTRIBUTES.index(name)]))
    painted = torch.from_numpy(faces.paint(neutral(faces.draw(20, 11, rates="balanced"))))
    if size == 32:
        painted = painted.double().unflatten(3, (32, 2)).unflatten(2, (32, 2)).mean((3, 5))
    assert (found.x[20:].double() - painted).abs().max() <= 0.5
    held_out = mouths(size, images=40, held_out=30)
    assert torch.equal(held_out.x, found.x) and not torch.equal(held_out.test.x, found.test.x)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"size": 48}, "size: got 48; expected 32, 64"),
        ({"images": 1}, "images: got 1; expected two or more"),
        ({"measured": 1}, "measured: got 1"),
        ({"held_out": 1.5}, "held_out: got 1.5"),
    ],
)
def test_bad_sets_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        data.mouths(**given)
