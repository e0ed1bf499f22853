"""Spaces of data: images, vectors, counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor, check_count
from pyro_semivae.spaces.base import Data, absent_rows, rows_of

BLOCK = 64 << 20  # bytes read at a time, so that a memory-mapped set is never in memory as a whole
ENOUGH = 64  # pixels: among this many, some are above 1 if the levels are 0 to 255
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Images(Data):
    """Images of C channels, H rows and W columns.

    Raises:
        InputError: a size is not a positive integer.
    """

    channels: int
    height: int
    width: int

    pictures: ClassVar[bool] = True
    within: ClassVar[tuple[constraints.Constraint, ...]] = (constraints.unit_interval, constraints.real)

    def __post_init__(self) -> None:
        for size in self.shape:
            check_count("x_shape", size)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def validate(self, values: Any, name: str = "x") -> Tensor:
        values = as_tensor(name, values, f"a float tensor (B, {', '.join(map(str, self.shape))}) in [0, 1], or uint8")
        if values.dim() == 4 and len(values) and (absent := absent_rows(values)).any():
            check_images(values[~absent], self.shape, name)
            return values
        return check_images(values, self.shape, name)

    def model_values(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        return to_unit(values, dtype)

    def mean_of(self, raw: Tensor) -> Tensor:
        """Maps a network's output to the mean of the data, in [0, 1]."""
        return raw.sigmoid()


@dataclass(frozen=True)
class _Row(Data):
    """`size` numbers per row."""

    size: int

    def __post_init__(self) -> None:
        check_count("size", self.size)

    @property
    def shape(self) -> tuple[int]:
        return (self.size,)


@dataclass(frozen=True)
class Vectors(_Row):
    """Vectors of `size` finite numbers.

    >>> Vectors(2).validate([[1, 2], [3, 4]], "x").dtype
    torch.float32
    """

    def validate(self, values: Any, name: str = "x") -> Tensor:
        accepted = f"finite numbers (B, {self.size}), or NaN throughout a missing row"
        values = _matrix(values, name, self.size, accepted)
        outside = ~(values.isfinite().all(1) | absent_rows(values))
        if outside.any():
            raise InputError(f"{name}: got NaN or infinity in rows {rows_of(outside)}; expected {accepted}")
        return values if values.is_floating_point() else values.to(torch.get_default_dtype())


@dataclass(frozen=True)
class Counts(_Row):
    """Vectors of `size` counts, 0, 1, 2 ..., stored as floats, as densities expect them.

    >>> Counts(2).validate([[0, 2], [1, 0]], "x")
    tensor([[0., 2.],
            [1., 0.]])
    """

    within: ClassVar[tuple[constraints.Constraint, ...]] = (constraints.nonnegative_integer, constraints.real)

    def mean_of(self, raw: Tensor) -> Tensor:
        """Maps a network's output to the mean of the data, above 0."""
        return raw.exp()

    def validate(self, values: Any, name: str = "x") -> Tensor:
        accepted = f"non-negative integers (B, {self.size}), or NaN throughout a missing row"
        values = _matrix(values, name, self.size, accepted)
        outside = ~((values >= 0) & (values == values.round()) & values.isfinite())
        outside &= ~absent_rows(values)[:, None]
        if outside.any():
            got = values[outside][:5].tolist()
            raise InputError(f"{name}: got {got} in rows {rows_of(outside.any(1))}; expected {accepted}")
        return values if values.is_floating_point() else values.to(torch.get_default_dtype())


def to_unit(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Converts uint8 images to floats in [0, 1] of `dtype` (default: torch's); floats change only to a given `dtype`.

    Raises:
        InputError: the images have another dtype.
    """
    if x.dtype == torch.uint8:
        return x.to(dtype or torch.get_default_dtype()) / 255
    if not x.is_floating_point():
        raise InputError(f"x: got dtype {x.dtype}; expected floats in [0, 1], or uint8")
    return x if dtype is None else x.to(dtype)


def check_images(x: Any, x_shape: Sequence[int] | None = None, name: str = "x") -> Tensor:
    """Checks images and returns them as the tensor to use from there on, uint8 or float as given.

    A float set is read once, in blocks; a uint8 set only until a level above 1 is found.

    Args:
        x: images `(N, C, H, W)`, N >= 0: floats in [0, 1], or uint8 with levels 0 to 255. A tensor, a numpy array
            (memory-mapped or not) or lists of numbers.
        x_shape: the shape `(C, H, W)` that an image must have (default: any).
        name: the argument's name, for error messages.

    Raises:
        InputError: another dtype, rank or shape; channels last; pixels that are NaN or outside [0, 1]; uint8 images
            with 1 as their highest level (64 pixels or more), probably black and white images of 0 and 1, which would
            be read as black.

    >>> check_images([[[[0.0, 0.5]]]]).shape
    torch.Size([1, 1, 1, 2])
    """
    shape = ", ".join("CHW") if x_shape is None else ", ".join(map(str, x_shape))
    accepted = f"a float tensor (B, {shape}) in [0, 1], or uint8"
    x = as_tensor(name, x, accepted)
    if x.dtype != torch.uint8 and x.dtype not in FLOATS:
        raise InputError(f"{name}: got dtype {x.dtype}; expected {accepted}")
    got = tuple(x.shape)
    if x.dim() == 4 and got[1] > 4 and got[2] > 1 and got[3] in (1, 3):  # (N, C, 1, 1) are vectors
        h, w, c = got[1:]
        raise InputError(
            f"{name}: got shape {got}, channels last; expected channels first, (B, {c}, {h}, {w}): "
            f"{name}.permute(0, 3, 1, 2) of a tensor, x_shape {(c, h, w)}"
        )
    if x.dim() != 4 or min(got[1:]) < 1 or (x_shape is not None and got[1:] != tuple(x_shape)):
        raise InputError(f"{name}: got shape {got}; expected {accepted}")
    if x.dtype == torch.uint8:
        _check_levels(x, name)
    else:
        _check_range(x, name, accepted)
    return x


def _check_levels(x: Tensor, name: str) -> None:
    if x.numel() < ENOUGH:
        return
    top = 0
    for part in _blocks(x):
        top = max(top, int(part.max()))
        if top > 1:
            return
    if top == 1:
        raise InputError(
            f"{name}: got uint8 images of 0 and 1 alone; expected levels 0 to 255 in uint8: use {name} * 255 or "
            f"{name}.float() if 1 is white, {name}.float() / 255 if the images are that dark"
        )


def _check_range(x: Tensor, name: str, accepted: str) -> None:
    start = 0
    for part in _blocks(x):
        low, high = part.aminmax() if part.numel() else (0, 1)
        if not (low >= 0 and high <= 1):  # NaN is outside too
            bad = (~((part >= 0) & (part <= 1))).flatten(1).any(1).nonzero()[:5, 0]
            low, high, rows = part[bad].min().item(), part[bad].max().item(), (start + bad).tolist()
            raise InputError(f"{name}: got pixels from {low:g} to {high:g} at rows {rows}; expected {accepted}")
        start += len(part)


def _blocks(x: Tensor) -> Iterator[Tensor]:
    yield from x.split(max(1, BLOCK // (x[:1].numel() * x.element_size() or 1)))


def _matrix(values: Any, name: str, size: int, accepted: str) -> Tensor:
    values = as_tensor(name, values, accepted)
    if values.dtype == torch.bool or values.dim() != 2 or values.shape[1] != size:
        raise InputError(f"{name}: got {values.dtype} of shape {tuple(values.shape)}; expected {accepted}")
    return values
