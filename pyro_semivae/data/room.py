"""A room with an object in it, rendered by ray casting: the six factors of 3D Shapes (Burgess and Kim 2018)."""

from __future__ import annotations

import colorsys
import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SHAPES = ("cube", "cylinder", "sphere", "capsule")
HUES, SCALES, ANGLES = 10, 8, 15
PIXELS = 64
WALL, DEPTH = 3.0, -3.0  # the walls' x, plus and minus, and z
EYE, HEIGHT, FOCAL = 6.0, 2.4, 2.0
# Surfaces: the floor, the walls at the left and right, the wall at the back, the object.
FLOOR, SIDE, BACK, OBJECT = range(4)
SATURATION_AND_VALUE = {FLOOR: (0.75, 0.9), SIDE: (0.6, 0.85), OBJECT: (0.85, 0.95)}

Hit = tuple[Tensor, Tensor]  # distances along rays (infinite if missed) and brightness, both (S, S)


def scale_of(index: int) -> float:
    """The object's scale, .75 to 1.25."""
    return 0.75 + 0.5 * index / (SCALES - 1)


def degrees_of(index: int) -> float:
    """The camera's angle, -30 to 30 degrees."""
    return -30 + 60 * index / (ANGLES - 1)


def room_images(classes: Tensor) -> Tensor:
    """Images of a room, uint8 `(N, 3, 64, 64)`.

    Args:
        classes: `(N, 6)`: the hues of floor, walls and object (10 each), the object's scale (8) and shape (4), and the
            camera's angle (15).
    """
    floor, wall, thing, scale, shape, angle = classes.unbind(1)
    surface, light = _geometries()
    index = (scale * len(SHAPES) + shape) * ANGLES + angle
    surface, light = surface[index].long(), light[index]  # (N, S, S)
    palette = torch.stack(
        [_colours(FLOOR)[floor], 0.78 * _colours(SIDE)[wall], 0.92 * _colours(SIDE)[wall], _colours(OBJECT)[thing]], 1
    )  # (N, 4, 3)
    colour = torch.take_along_dim(palette.unsqueeze(-1), surface.flatten(1)[:, None, None], 1)[:, 0]  # (N, 3, S * S)
    x = colour.unflatten(2, (PIXELS, PIXELS)) * light.unsqueeze(1)
    return (255 * x).round().to(torch.uint8)


@functools.cache
def _colours(of: int) -> Tensor:
    """The ten hues of a surface, `(10, 3)`."""
    return torch.tensor([colorsys.hsv_to_rgb(hue / HUES, *SATURATION_AND_VALUE[of]) for hue in range(HUES)])


@functools.cache
def _geometries() -> tuple[Tensor, Tensor]:
    """Each pixel's surface and brightness, `(8 * 4 * 15, S, S)` each, for all scales, shapes and angles."""
    found = [
        _cast(scale_of(scale), shape, math.radians(degrees_of(angle)))
        for scale in range(SCALES)
        for shape in SHAPES
        for angle in range(ANGLES)
    ]
    return torch.stack([surface for surface, _ in found]), torch.stack([light for _, light in found])


def _cast(scale: float, shape: str, angle: float) -> tuple[Tensor, Tensor]:
    """The nearest surface along each pixel's ray, and its brightness."""
    eye = torch.tensor([EYE * math.sin(angle), HEIGHT, EYE * math.cos(angle)], dtype=torch.float64)
    rays = _rays(eye)
    hits = [*_surroundings(eye, rays, scale), _OBJECTS[shape](eye, rays, scale)]
    distances = torch.stack([distance for distance, _ in hits])
    nearest = distances.argmin(0)
    light = torch.stack([light for _, light in hits]).gather(0, nearest.unsqueeze(0))[0]
    surface = torch.tensor([FLOOR, SIDE, SIDE, BACK, OBJECT], dtype=torch.uint8)[nearest]
    return surface, light.float()


def _rays(eye: Tensor) -> Tensor:
    """The directions of the pixels' rays, `(S, S, 3)`, from the top left; the camera looks at (0, 1, 0)."""
    forward = torch.nn.functional.normalize(torch.tensor([0.0, 1.0, 0.0], dtype=eye.dtype) - eye, dim=0)
    right = torch.nn.functional.normalize(
        torch.linalg.cross(forward, torch.tensor([0.0, 1.0, 0.0], dtype=eye.dtype)), dim=0
    )
    up = torch.linalg.cross(right, forward)
    at = (torch.arange(PIXELS, dtype=eye.dtype) + 0.5) / PIXELS * 2 - 1
    return FOCAL * forward + at[None, :, None] * right - at[:, None, None] * up


def _surroundings(eye: Tensor, rays: Tensor, scale: float) -> list[Hit]:
    """The hits on the floor, which is darker near the object, and on the walls at the left, right and back."""
    full = torch.ones_like(rays[..., 0])
    floor = _plane(eye, rays, 1, 0.0)
    near = (eye + floor.clamp(max=1e6).unsqueeze(-1) * rays)[..., ::2].norm(dim=-1)
    shadow = 1 - 0.35 * (1.3 - near / (1.15 * scale)).clamp(0, 1)
    walls = [_plane(eye, rays, axis, at) for axis, at in ((0, -WALL), (0, WALL), (2, DEPTH))]
    return [(floor, shadow), *((wall, full) for wall in walls)]


def _plane(eye: Tensor, rays: Tensor, axis: int, at: float) -> Tensor:
    """The distance along rays to the plane where coordinate `axis` equals `at`."""
    return _positive((at - eye[axis]) / rays[..., axis])


def _positive(distance: Tensor) -> Tensor:
    return torch.where(distance > 1e-9, distance, math.inf)


def _cube(eye: Tensor, rays: Tensor, scale: float) -> Hit:
    half = 0.95 * scale
    middle = torch.tensor([0.0, half, 0.0], dtype=eye.dtype)
    first, second = ((middle + sign * half - eye) / rays for sign in (-1, 1))
    enter, axis = torch.minimum(first, second).max(-1)
    leave = torch.maximum(first, second).amin(-1)
    normal = torch.nn.functional.one_hot(axis, 3) * -rays.sign()
    return torch.where(enter <= leave, _positive(enter), math.inf), _light(normal)


def _cylinder(eye: Tensor, rays: Tensor, scale: float) -> Hit:
    radius, height = 0.95 * scale, 1.9 * scale
    flat = torch.tensor([1.0, 0.0, 1.0], dtype=eye.dtype)
    side = _ball(eye * flat, rays * flat, radius)
    at = eye + side.clamp(max=1e6).unsqueeze(-1) * rays
    side = torch.where((at[..., 1] >= 0) & (at[..., 1] <= height), side, math.inf)
    cap = _plane(eye, rays, 1, height)
    on_cap = (eye + cap.clamp(max=1e6).unsqueeze(-1) * rays)[..., ::2].norm(dim=-1) <= radius
    cap = torch.where(on_cap, cap, math.inf)
    upwards = torch.tensor([0.0, 1.0, 0.0], dtype=eye.dtype)
    normal = torch.where((cap < side).unsqueeze(-1), upwards, at * flat / radius)
    return torch.minimum(side, cap), _light(normal)


def _sphere(eye: Tensor, rays: Tensor, scale: float) -> Hit:
    return _capped(eye, rays, 1.1 * scale, [1.1 * scale])


def _capsule(eye: Tensor, rays: Tensor, scale: float) -> Hit:
    return _capped(eye, rays, 0.75 * scale, [0.75 * scale, 1.85 * scale])


def _capped(eye: Tensor, rays: Tensor, radius: float, heights: Sequence[float]) -> Hit:
    """Balls centred at `heights`; if there are two, also the cylinder between them."""
    middles = [torch.tensor([0.0, height, 0.0], dtype=eye.dtype) for height in heights]
    found = [_ball(eye - middle, rays, radius) for middle in middles]
    flat = torch.tensor([1.0, 0.0, 1.0], dtype=eye.dtype)
    if len(heights) > 1:
        side = _ball(eye * flat, rays * flat, radius)
        height = eye[1] + side.clamp(max=1e6) * rays[..., 1]
        found.append(torch.where((height >= heights[0]) & (height <= heights[1]), side, math.inf))
    distance = torch.stack(found).amin(0)
    at = eye + distance.clamp(max=1e6).unsqueeze(-1) * rays
    axis = torch.zeros_like(at)
    axis[..., 1] = at[..., 1].clamp(heights[0], heights[-1])
    return distance, _light((at - axis) / radius)


def _ball(eye: Tensor, rays: Tensor, radius: float) -> Tensor:
    """The distance to the near side of a ball around 0 (of a cylinder, if a coordinate of `eye` and `rays` is 0)."""
    a, b = rays.square().sum(-1), (rays * eye).sum(-1)
    square = b.square() - a * (eye.square().sum() - radius**2)
    return torch.where(square >= 0, _positive((-b - square.clamp(min=0).sqrt()) / a), math.inf)


def _light(normal: Tensor) -> Tensor:
    """The brightness of a surface with normals `(..., 3)`."""
    lamp = torch.nn.functional.normalize(torch.tensor([0.35, 0.8, 0.5], dtype=torch.float64), dim=0)
    return 0.4 + 0.6 * (normal.double() @ lamp).clamp(min=0)


_OBJECTS: dict[str, Callable[[Tensor, Tensor, float], Hit]] = {
    "cube": _cube,
    "cylinder": _cylinder,
    "sphere": _sphere,
    "capsule": _capsule,
}
