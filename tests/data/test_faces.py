"""The rendered faces: the same whatever the batch, labels as specified, strengths that show where they should."""

import numpy as np
import pytest
import torch

from pyro_semivae import data, spaces
from pyro_semivae.data import faces
from pyro_semivae.data.faces import ATTRIBUTES, HAIR, RATES, draw, paint


def column(name):
    return ATTRIBUTES.index(name)


def plain(count=3):
    """Faces whose only attributes are brown hair, no beard, young."""
    drawn = draw(count, seed=5)
    labels = np.zeros_like(drawn.labels)
    labels[:, [column(name) for name in ("Brown_Hair", "No_Beard", "Young")]] = True
    return faces.Faces(labels, np.where(labels, np.float32(0.5), np.float32("nan")), drawn.nuisances)


def test_an_image_depends_on_its_seed_and_number_alone():
    whole = paint(draw(70, seed=3))
    assert whole.shape == (70, 3, 64, 64) and whole.dtype == np.uint8
    np.testing.assert_array_equal(paint(draw(70, seed=3), threads=3, chunk=7), whole)
    np.testing.assert_array_equal(paint(draw(20, seed=3, start=50)), whole[50:])
    order = np.random.default_rng(0).permutation(70)
    np.testing.assert_array_equal(paint(draw(70, seed=3)[order], chunk=16), whole[order])
    assert not np.array_equal(paint(draw(1, seed=4)), whole[:1])


def test_labels_have_the_stated_rates_and_constraints():
    count = 20_000
    drawn = draw(count, seed=0)
    rates = np.array(list(RATES.values()))
    error = np.sqrt(rates * (1 - rates) / count)
    assert (abs(drawn.labels.mean(0) - rates) < 5 * error).all()
    assert drawn.labels[:, [column(name) for name in HAIR]].sum(1).max() == 1
    assert drawn.labels[~drawn.labels[:, column("Male")], column("No_Beard")].all()
    np.testing.assert_array_equal(np.isnan(drawn.strengths), ~drawn.labels)
    on = drawn.strengths[drawn.labels]
    assert on.min() >= 0 and on.max() <= 1 and abs(on.mean() - 0.5) < 5 * on.std() / np.sqrt(len(on))

    balanced = draw(count, seed=0, rates="balanced").labels
    expected = np.where([name in HAIR for name in ATTRIBUTES], 0.25, 0.5)
    assert (abs(balanced.mean(0) - expected) < 5 * np.sqrt(0.25 / count)).all()
    between = np.corrcoef(balanced.T)[np.triu_indices(18, 1)].reshape(-1)
    hair = [column(name) for name in HAIR]
    independent = [not (i in hair and j in hair) for i, j in zip(*np.triu_indices(18, 1), strict=True)]
    assert abs(between[independent]).max() < 5 / np.sqrt(count)
    with pytest.raises(ValueError, match="rates: got 'celebrities'; expected"):
        draw(1, rates="celebrities")


# Where an attribute may change pixels: rows and columns, in 64ths.
WHERE = {
    "Arched_Eyebrows": (15, 34, 14, 50),
    "Bags_Under_Eyes": (27, 40, 14, 50),
    "Eyeglasses": (17, 41, 14, 50),
    "Smiling": (36, 52, 18, 46),
    "Wearing_Necktie": (47, 64, 0, 64),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_and_its_strength_are_seen_where_they_belong(name):
    weak, strong = (plain().with_label(name, False).with_label(name, True, s) for s in (0.1, 0.9))
    pictures = {
        "off": paint(plain().with_label(name, False)),
        "weak": paint(weak),
        "strong": paint(strong),
    }
    for a, b in (("off", "weak"), ("weak", "strong")):
        difference = abs(pictures[a].astype(int) - pictures[b]).max(1)  # (N, 64, 64)
        assert (difference > 15).sum((1, 2)).min() >= 4, f"{a} and {b} look alike"
        if name in WHERE:
            top, bottom, left, right = WHERE[name]
            difference[:, top:bottom, left:right] = 0
            assert not difference.any(), f"{name} changes pixels elsewhere"


def test_a_label_that_is_set_keeps_the_rest():
    drawn = draw(50, seed=1)
    blond = drawn.with_label("Blond_Hair", True)
    others = [i for i, name in enumerate(ATTRIBUTES) if name not in HAIR]
    np.testing.assert_array_equal(blond.labels[:, others], drawn.labels[:, others])
    assert blond.labels[:, column("Blond_Hair")].all()
    assert not blond.labels[:, [column("Black_Hair"), column("Brown_Hair")]].any()
    np.testing.assert_array_equal(np.isnan(blond.strengths), ~blond.labels)
    kept = drawn.labels[:, column("Blond_Hair")]
    np.testing.assert_array_equal(
        blond.strengths[kept, column("Blond_Hair")], drawn.strengths[kept, column("Blond_Hair")]
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: faces.draw(-1), "num_faces: got -1; expected a non-negative integer"),
        (lambda: faces.draw(2, seed=-1), "seed: got -1"),
        (lambda: faces.draw(2, start=1.5), "start: got 1.5"),
        (lambda: faces.draw(2).with_label("Foo", True), "name: got 'Foo'; expected Arched_Eyebrows"),
        (lambda: faces.draw(10**20), f"num_faces: got {10**20}; expected an integer from 0 to 10000000"),
        (lambda: faces.draw(2, seed=2**64), f"seed: got {2**64}; expected an integer from 0 to {2**64 - 1}"),
        (lambda: faces.draw(True), "num_faces: got True"),
        (lambda: faces.draw(2).with_label("Young", True, strength=5), "strength: got 5"),
        (lambda: faces.draw(2).with_label("Young", True, strength=float("nan")), "strength: got nan"),
        (lambda: faces.paint(faces.draw(2), threads=0), "threads: got 0"),
        (lambda: data.lose_labels(torch.ones(3, 2), 0, rows=2.0), "rows: got 2.0"),
        (lambda: spaces.Binary(2).frequencies(torch.ones(3, 2), smoothing=-5), "smoothing: got -5"),
        (lambda: spaces.Binary(2.5), "num_labels: got 2.5"),
    ],
)
def test_bad_calls_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
