"""Images of a grid for a run: disjoint parts, labels of some of them."""

from dataclasses import replace

import pytest
import torch

from pyro_semivae.data.factors import factor_data, load_grid
from pyro_semivae.errors import InputError


@pytest.fixture
def room():
    return factor_data(load_grid("room", size=32), images=300, held_out=50, test=60)


def test_parts_are_disjoint_images_of_the_grid(room):
    parts = (room.train, room.held_out, room.test)
    assert [len(part) for part in parts] == [300, 50, 60]
    rows = torch.cat([room.grid.rows(part.classes) for part in parts])
    assert len(rows.unique()) == 410
    for part in parts:
        assert torch.equal(part.x, room.grid.images(part.classes))
    other = factor_data(room.grid, images=300, held_out=50, test=60, seed=1)
    assert not torch.equal(other.train.classes, room.train.classes)


@pytest.mark.parametrize(("labelled", "number"), [(0.1, 30), (7, 7), (1.0, 300), (0.0001, 1)])
def test_labels_of_some_images(room, labelled, number):
    y = room.labels(labelled)
    known = ~y.isnan().any(1)
    assert known.sum() == number and y[~known].isnan().all()
    torch.testing.assert_close(y[known], room.grid.values(room.train.classes)[known])


def test_labels_of_some_factors(room):
    y = room.labels(20, seed=3, known=("scale", "floor"))
    assert (~y.isnan()).sum(0).tolist() == [20, 0, 0, 20, 0, 0]
    assert torch.equal(y.isnan(), room.labels(20, seed=3, known=["floor", "scale"]).isnan())
    assert not torch.equal(y.isnan(), room.labels(20, seed=4, known=["floor", "scale"]).isnan())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda room: load_grid("attic"), "dataset: got 'attic'; expected"),
        (lambda room: load_grid("room", size=48), "size: got 48; expected 64, 32"),
        (lambda room: room.labels(301), "labelled: got 301"),
        (lambda room: room.labels(0.0), "labelled: got 0.0"),
        (lambda room: room.labels(5, known=["roof"]), r"known: got \['roof'\]; expected some of floor, wall"),
        (lambda room: factor_data(room.grid, images=480_000), "images, held_out, test: got 492000; expected at most"),
        (lambda room: factor_data(room.grid, images=1), "images: got 1"),
    ],
)
def test_bad_input(room, call, message):
    with pytest.raises(InputError, match=message):
        call(room)


def test_settings_are_chosen_on_the_images_that_are_held_out(room):
    chosen = room.choosing()
    assert chosen.test is room.held_out and chosen.train is room.train


def test_rendered_images_are_kept_and_others_are_not(tmp_path, monkeypatch):
    room = load_grid("room", size=32)
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path))
    sizes = {"images": 30, "held_out": 5, "test": 7}
    calls = []

    def counted(classes):
        calls.append(len(classes))
        return room.draw(classes)

    grid = replace(room, draw=counted)
    first, again, other = factor_data(grid, **sizes), factor_data(grid, **sizes), factor_data(grid, **sizes, seed=1)
    assert calls == [42, 42] and len([*tmp_path.iterdir()]) == 2
    for part in ("train", "held_out", "test"):
        one, two = getattr(first, part), getattr(again, part)
        assert torch.equal(one.x, two.x) and torch.equal(one.x, room.images(one.classes))
    assert not torch.equal(first.train.x, other.train.x)
    factor_data(replace(grid, version=room.version + 1), **sizes)
    factor_data(replace(grid, version=None), **sizes)
    assert calls == [42] * 4 and len([*tmp_path.iterdir()]) == 3
