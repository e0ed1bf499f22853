"""References of one class: which rows are where, and what is known of them."""

import pytest
import torch

from pyro_semivae import data
from pyro_semivae.data import ImageData, one_class
from pyro_semivae.errors import InputError

NAMES = ("happy", "neutral", "sad")


def made(y=(0, 1, 2, -1, 1, 0), y_test=(2, 1, 0, -1, 0, 2, 2)):
    """Image i has the value 10 + i; those of the test 100 + i."""
    x, x_test = (
        torch.arange(start, start + len(of), dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 16, 16)
        for start, of in ((10, y), (100, y_test))
    )
    return ImageData("made", NAMES, x, torch.tensor(y), x_test, torch.tensor(y_test))


def values(x):
    return x[:, 0, 0, 0].tolist()


def test_the_reference_class_is_the_reference_set_and_the_others_the_pool():
    found = one_class(made(), "neutral")
    assert found.name == "made-16" and found.attribute_names == ("happy", "sad") and found.x_shape == (3, 16, 16)
    assert found.factor_names == found.class_names == ()
    assert {*values(found.x[found.y == 1])} == {11, 14} and {*values(found.x[found.y == 0])} == {10, 12, 13, 15}
    assert found.y.tolist() == [0, 0, 0, 0, 1, 1], "the pool comes first"
    assert dict(zip(values(found.pool.x), found.pool.attributes.tolist(), strict=True)) == {10: 0, 12: 1, 13: -1, 15: 0}
    measured = [*zip(values(found.probing.x), found.probing.attributes.tolist(), strict=True)]
    measured += zip(values(found.test.x), found.test.attributes.tolist(), strict=True)
    assert dict(measured) == {100: 1, 102: 0, 104: 0, 105: 1, 106: 1}, "no reference and no unlabelled image"
    assert len(found.probing) == 2 and len(found.test) == 3 and (found.test.classes == -1).all()


def test_the_order_is_that_of_the_seed_and_images_are_as_many_as_asked_for():
    base = made(y=(0, 1) * 40)
    assert torch.equal(one_class(base, "neutral").x, one_class(base, "neutral").x)
    assert not torch.equal(one_class(base, "neutral").x, one_class(base, "neutral", seed=1).x)
    some = one_class(base, "neutral", images=20)
    assert len(some.x) == 20 and {*values(some.x)} != set(range(10, 30)), (
        "not the first ones: files are sorted by class"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((made(), "angry"), "reference: got 'angry'; expected 'happy', 'neutral', 'sad'"),
        ((made(y=(1, 1)), "neutral"), "images: got 2 of class 'neutral' among 2 training images, 0 others"),
        ((made(y=(0, 2)), "neutral"), "images: got 0 of class 'neutral' among 2 training images, 2 others"),
        ((data.load_small("faces"), "Male"), "base: got faces; expected images with class labels"),
    ],
)
def test_bad_sets_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        one_class(*given)
