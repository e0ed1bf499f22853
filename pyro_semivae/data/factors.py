"""Images of a grid for a run: to train on, a few of them labelled, and to measure on."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pyro_semivae.caches import cache_folder, cached_array
from pyro_semivae.data.grid_files import load_dsprites, load_isaac3d, load_shapes3d
from pyro_semivae.data.grids import ROOM, SPRITES, Grid
from pyro_semivae.data.sets import data_root
from pyro_semivae.errors import InputError, check_choice, check_count, check_number

BUILT_IN = {"room": ROOM, "sprites": SPRITES}
FILES = {"dsprites": load_dsprites, "3dshapes": load_shapes3d, "isaac3d": load_isaac3d}
GRIDS = (*BUILT_IN, *FILES)
SIZES = (64, 32)
MOST_CACHED = 500_000_000  # bytes


def load_grid(name: str, data_dir: str | Path | None = None, *, size: int = 64) -> Grid:
    """A grid of factors by name: `room` and `sprites`, rendered, or from official files `dsprites`, `3dshapes` and
    `isaac3d`.

    Args:
        data_dir: see `data_root`. size: of the sides, 64 or 32.

    Raises:
        InputError: the name or the size is another; a file is malformed. FileNotFoundError: it is not there.
    """
    check_choice("dataset", name, GRIDS)
    if size not in SIZES:
        raise InputError(f"size: got {size!r}; expected {', '.join(map(str, SIZES))}")
    grid = BUILT_IN[name] if name in BUILT_IN else FILES[name](data_root(data_dir))
    return grid if size == 64 else grid.halved()


@dataclass(frozen=True, eq=False)
class Seen:
    """Images uint8 `(N, C, H, W)` and their factors' classes `(N, F)`."""

    x: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, eq=False)
class FactorData:
    """Images of a grid.

    Attributes:
        grid: what they are of. train: to train on. held_out: to choose settings by. test: to measure on. No image is in
            two of them.
    """

    grid: Grid
    train: Seen
    held_out: Seen
    test: Seen

    def choosing(self) -> FactorData:
        """The same with the images to choose settings by in the place of the test images."""
        return replace(self, test=self.held_out)

    def labels(self, labelled: float | int, seed: int = 0, *, known: Collection[str] | None = None) -> Tensor:
        """The factors' values of some training images, `(N, F)`, and NaN for all others.

        Args:
            labelled: how many images, or which fraction of all. seed: of which ones. known: names of the factors whose
                values are known there; default: all.

        Raises:
            InputError: there are not as many; a factor is not of the grid.
        """
        number = labelled
        if isinstance(labelled, float):
            number = max(1, round(check_number("labelled", labelled, above=0, most=1) * len(self.train)))
        check_count("labelled", number, 1, len(self.train))
        names = self.grid.factor_names
        if unknown := sorted({*(known or ())} - {*names}):
            raise InputError(f"known: got {unknown}; expected some of {', '.join(names)}")
        rows = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))[:number]
        columns = [j for j, name in enumerate(names) if known is None or name in known]
        y = torch.full((len(self.train), len(names)), math.nan)
        y[rows[:, None], torch.tensor(columns)] = self.grid.values(self.train.classes[rows])[:, columns].to(y.dtype)
        return y


def factor_data(
    grid: Grid, *, images: int = 12_000, held_out: int = 2_000, test: int = 10_000, seed: int = 0
) -> FactorData:
    """Different images of a grid, drawn at random; those that are rendered are kept in the cache, up to half a
    gigabyte.

    Args:
        images, held_out, test: how many for each purpose. seed: of the draw.

    Raises:
        InputError: the grid has fewer.
    """
    sizes = [check_count(n, v, 2) for n, v in (("images", images), ("held_out", held_out), ("test", test))]
    if sum(sizes) > len(grid):
        raise InputError(f"images, held_out, test: got {sum(sizes)}; expected at most {len(grid)}, {grid.name}'s")
    rows = torch.randperm(len(grid), generator=torch.Generator().manual_seed(seed))[: sum(sizes)]
    classes = grid.classes(rows)

    def rendered() -> Tensor:
        return torch.cat([grid.images(some) for some in classes.split(1000)])

    if grid.version is None or len(rows) * math.prod(grid.x_shape) > MOST_CACHED:
        x = rendered()
    else:
        name = f"{grid.name}-v{grid.version}-{grid.x_shape[1]}-seed{seed}-{len(rows)}.npy"
        x = torch.from_numpy(cached_array(cache_folder() / name, lambda: rendered().numpy()))
    return FactorData(grid, *map(Seen, x.split(sizes), classes.split(sizes)))
