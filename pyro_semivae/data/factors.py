"""Training, held-out and test images from a grid, with labels for some of the training images."""

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
    """Loads a grid of factors by name: `room` and `sprites` are rendered; `dsprites`, `3dshapes` and `isaac3d` are read
    from the official files.

    Args:
        data_dir: see `data_root`. size: the images' height and width, 64 or 32.

    Raises:
        InputError: the name or the size is unknown; a file is malformed. FileNotFoundError: a file is missing.
    """
    check_choice("dataset", name, GRIDS)
    if size not in SIZES:
        raise InputError(f"size: got {size!r}; expected {', '.join(map(str, SIZES))}")
    grid = BUILT_IN[name] if name in BUILT_IN else FILES[name](data_root(data_dir))
    return grid if size == 64 else grid.halved()


@dataclass(frozen=True, eq=False)
class Seen:
    """Images, uint8 `(N, C, H, W)`, and their factors' classes, `(N, F)`."""

    x: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, eq=False)
class FactorData:
    """Three disjoint sets of images from a grid.

    Attributes:
        grid: the images' grid. train: for training. held_out: for choosing settings. test: for the final evaluation.
    """

    grid: Grid
    train: Seen
    held_out: Seen
    test: Seen

    def choosing(self) -> FactorData:
        """The same data with the held-out images in place of the test images, for choosing settings."""
        return replace(self, test=self.held_out)

    def labels(self, labelled: float | int, seed: int = 0, *, known: Collection[str] | None = None) -> Tensor:
        """The factors' values `(N, F)` for a random subset of the training images, and NaN for all others.

        Args:
            labelled: the number of labelled images (int), or their fraction of all (float). seed: of the subset.
            known: names of the factors whose values are known for the subset; default: all.

        Raises:
            InputError: `labelled` is out of range; a factor is not in the grid.
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
    """Samples distinct images from a grid; rendered ones of at most 500 MB are kept in the cache.

    Args:
        images, held_out, test: the number of images for each purpose. seed: of the sampling.

    Raises:
        InputError: a number is not an integer of at least 2, or the grid has fewer images than their sum.
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
