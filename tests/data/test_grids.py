"""Rendered grids of factors: the numbering, what stands for classes, and images checked against geometry."""

import colorsys
import math

import pytest
import torch
from torch.testing import assert_close

from pyro_semivae.data.grids import ROOM, SPRITES
from pyro_semivae.data.room import SHAPES
from pyro_semivae.errors import InputError


@pytest.mark.parametrize(("grid", "number"), [(SPRITES, 737_280), (ROOM, 480_000)])
def test_images_are_numbered_with_the_last_factor_fastest(grid, number):
    assert len(grid) == number
    rows = torch.tensor([0, 1, number - 1, 123_456])
    classes = grid.classes(rows)
    assert torch.equal(grid.rows(classes), rows)
    assert classes[1].tolist() == [0] * (len(grid.sizes) - 1) + [1]
    assert classes[2].tolist() == [size - 1 for size in grid.sizes]
    sample = grid.sample(4000, torch.Generator().manual_seed(0))
    assert [len(column.unique()) for column in sample.unbind(1)] == [*grid.sizes]


def test_values_have_mean_0_and_variance_1_over_the_grid():
    for j, size in enumerate(ROOM.sizes):
        classes = torch.zeros(size, len(ROOM.sizes), dtype=torch.int64)
        classes[:, j] = torch.arange(size)
        values = ROOM.values(classes)[:, j]
        assert values.mean() == pytest.approx(0, abs=1e-12) and values.square().mean() == pytest.approx(1)
        assert (values.diff() > 0).all()


@pytest.mark.parametrize("grid", [SPRITES, ROOM])
def test_images_do_not_depend_on_what_is_drawn_with_them(grid):
    classes = grid.sample(600, torch.Generator().manual_seed(1))
    x = grid.images(classes)
    assert x.dtype == torch.uint8 and x.shape == (600, *grid.x_shape)
    assert torch.equal(x[517:519], grid.images(classes[517:519])) and len(grid.images(classes[:0])) == 0
    half = grid.halved()
    assert half.x_shape == (grid.x_shape[0], 32, 32)
    small = half.images(classes[:5])
    assert_close(
        small.double(), x[:5].double().unflatten(3, (32, 2)).unflatten(2, (32, 2)).mean((3, 5)), atol=0.5, rtol=0
    )


def test_sprites_have_their_area_place_and_angle():
    shapes, places = torch.tensor([[0, 5, 7, 3, 29], [1, 5, 7, 3, 29], [1, 0, 7, 3, 29]]), torch.arange(64) + 0.5
    x = SPRITES.images(shapes)[:, 0].double() / 255
    area = x.sum((1, 2))
    assert_close(area, torch.tensor([19.2**2, math.pi * 12.8 * 7.2, math.pi * 12.8 * 7.2 / 4]), rtol=0.02, atol=0)
    for image, total in zip(x, area, strict=True):
        assert (image.sum(0) @ places / total).item() == pytest.approx(16 + 32 * 3 / 31, abs=0.2)
        assert (image.sum(1) @ places / total).item() == pytest.approx(16 + 32 * 29 / 31, abs=0.2)
    turns = torch.tensor([[1, 5, o, 16, 16] for o in (0, 39, 5)])
    flat, same, turned = SPRITES.images(turns)[:, 0].double()
    assert torch.equal(flat, same), "0 and 2 pi are one angle"
    across, down = torch.meshgrid(places - places.mean(), places - places.mean(), indexing="xy")
    centre = 16 + 32 * 16 / 31 - 32
    moment = (turned * (across - centre) * (down - centre)).sum() / turned.sum()
    assert moment < -5, "anticlockwise: its right end is up"
    heart = SPRITES.images(torch.tensor([[2, 5, 0, 16, 16]]))[0, 0]
    heart = heart > 0
    rows = heart.sum(1)
    widest = rows.argmax().item()
    assert rows[widest] >= 18 and widest < 32, "a heart is wide above and pointed below"
    assert rows[heart.any(1)][-1] <= 4


def surface(scale, shape, angle, row, column):
    """What a pixel shows, by marching along its ray through signed distances, which the renderer does not have."""
    eye = torch.tensor([6 * math.sin(angle), 2.4, 6 * math.cos(angle)])
    forward = -eye + torch.tensor([0.0, 1.0, 0.0])
    forward = forward / forward.norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 1.0, 0.0]))
    right = right / right.norm()
    up = torch.linalg.cross(right, forward)
    ray = 2 * forward + ((column + 0.5) / 32 - 1) * right - ((row + 0.5) / 32 - 1) * up
    ray = ray / ray.norm()
    at = eye + 1e-4 * ray  # the outermost cameras stand on a wall

    def distance_of_object(p):
        across = p[[0, 2]].norm()
        if shape == "sphere":
            return (p - torch.tensor([0, 1.1 * scale, 0])).norm() - 1.1 * scale
        if shape == "capsule":
            return (p - torch.tensor([0, p[1].clamp(0.75 * scale, 1.85 * scale), 0])).norm() - 0.75 * scale
        if shape == "cylinder":
            return torch.maximum(across - 0.95 * scale, (p[1] - 0.95 * scale).abs() - 0.95 * scale)
        return ((p - torch.tensor([0, 0.95 * scale, 0])).abs() - 0.95 * scale).max()

    for _ in range(400):
        distances = {"object": distance_of_object(at), "floor": at[1], "side": 3 - at[0].abs(), "back": at[2] + 3}
        nearest = min(distances, key=distances.get)
        if distances[nearest] < 1e-7:
            return nearest, at
        at = at + ray * distances[nearest]
    return None, at


@pytest.mark.parametrize("shape", range(4))
def test_every_pixel_shows_the_surface_that_its_ray_meets(shape):
    generator = torch.Generator().manual_seed(shape)
    classes = ROOM.sample(3, generator)
    classes[:, 4] = shape
    hues = {"floor": (0, 0.75, 0.9, 1.0), "side": (1, 0.6, 0.85, 0.78), "back": (1, 0.6, 0.85, 0.92)}
    hues["object"] = (2, 0.85, 0.95, 1.0)
    for image, which in zip(ROOM.images(classes), classes, strict=True):
        scale, angle = 0.75 + 0.5 * which[3].item() / 7, math.radians(-30 + 60 * which[5].item() / 14)
        for row, column in [*torch.randint(64, (25, 2), generator=generator).tolist(), [40, 32], [36, 30]]:
            found, at = surface(scale, SHAPES[shape], angle, row, column)
            if found is None:
                continue  # along an edge
            factor, saturation, value, times = hues[found]
            colour = torch.tensor(colorsys.hsv_to_rgb(which[factor].item() / 10, saturation, value))
            pixel = image[:, row, column].double() / 255
            light = pixel.max() / colour.max() / times
            assert_close(pixel, colour * times * light, atol=0.004, rtol=0)
            if found == "floor":
                shadow = 1 - 0.35 * (1.3 - at[[0, 2]].norm() / (1.15 * scale)).clamp(0, 1)
                assert light == pytest.approx(shadow.item(), abs=0.005)
            elif found in ("side", "back"):
                assert light == pytest.approx(1, abs=0.005)
            else:
                assert 0.39 < light < 1.005


def test_what_is_lit():
    """A cube from the middle: its top is brighter than its front. A sphere: the upper right is than the left."""
    cube = ROOM.images(torch.tensor([[0, 3, 6, 4, 0, 7]]))[0].double()
    top, front = cube[:, 22, 32], cube[:, 36, 32]
    lamp = torch.tensor([0.35, 0.8, 0.5]) / torch.tensor([0.35, 0.8, 0.5]).norm()
    assert_close((front / top).mean(), (0.4 + 0.6 * lamp[2]) / (0.4 + 0.6 * lamp[1]), rtol=0.01, atol=0)
    sphere = ROOM.images(torch.tensor([[0, 3, 6, 4, 2, 7]]))[0].double().sum(0)
    assert sphere[26, 37] > sphere[26, 27] > sphere[38, 27]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (torch.tensor([[0, 0, 0, 0, 4, 0]]), "got 4 for shape; expected 0 to 3"),
        (torch.tensor([[-1, 0, 0, 0, 0, 0]]), "got -1 for floor"),
        (torch.zeros(2, 1, dtype=torch.int64), r"shape \(2, 1\); expected (integers|numbers) \(N, 6\)"),
    ],
)
def test_classes_that_a_grid_does_not_have(classes, message):
    for of in (ROOM.images, ROOM.rows, ROOM.values):
        with pytest.raises(InputError, match=f"classes: .*{message}"):
            of(classes)


def test_images_are_of_whole_classes_and_values_of_numbers_between_too():
    between = torch.full((1, 6), 0.5)
    for of in (ROOM.images, ROOM.rows):
        with pytest.raises(InputError, match=r"classes: got torch\.float"):
            of(between)
    ends = ROOM.values(torch.tensor([[0] * 6, [1] * 6]))
    assert_close(ROOM.values(between)[0], ends.mean(0))
