"""dSprites, 3D Shapes and Isaac3D: grids of factors, memory-mapped, from the official files."""

from __future__ import annotations

import hashlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from pyro_semivae.caches import CACHE_ENV, cache_folder, read_array, write_array
from pyro_semivae.data.folders import image_array
from pyro_semivae.data.grids import Grid
from pyro_semivae.errors import InputError, check_count
from pyro_semivae.files import user_path, writable_folder

DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
SHAPES3D = "3dshapes.h5"
ISAAC3D = "Isaac3D_down128"
# In the order of Isaac3D's own script; the order in the text of its README contradicts the README's multipliers.
ISAAC3D_FACTORS = {
    "object_shape": 3,
    "robot_x": 8,
    "robot_y": 5,
    "camera_height": 4,
    "object_scale": 4,
    "lighting_intensity": 4,
    "lighting_direction": 6,
    "object_color": 4,
    "wall_color": 4,
}
ROWS = 2048  # images read at once
PIXELS = 64
# What zipfile and numpy raise for a damaged archive.
DAMAGED = (zipfile.BadZipFile, zlib.error, tokenize.TokenError, SyntaxError, KeyError, ValueError, EOFError, OSError)


def load_dsprites(root: str | Path) -> Grid:
    """Loads dSprites (Matthey et al. 2017), `(1, 64, 64)`.

    The file is `dsprites/dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz`. The colour factor, which is always white, is
    left out. The images are stored in the cache with one bit per pixel (377 MB) and memory-mapped. The file's pickled
    metadata is not read.

    Args:
        root: the folder that contains `dsprites/`.

    Raises:
        FileNotFoundError: the file is missing; the message says where to get it. InputError: it is malformed.
    """
    path = _found(root, "dsprites", DSPRITES, "https://github.com/google-deepmind/dsprites-dataset")
    try:
        with zipfile.ZipFile(path) as archive:
            with archive.open("latents_classes.npy") as file:
                classes = np.lib.format.read_array(file, allow_pickle=False)
            sizes = _sizes(path, "latents_classes", classes, 6)
            shape = (len(classes), PIXELS * PIXELS // 8)
            with archive.open("imgs.npy") as file:
                packed = _cached(path, "dsprites", shape, lambda: _packed(path, file, len(classes)))
    except DAMAGED as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({error}); expected the arrays imgs and latents_classes") from error
    if sizes[0] != 1:
        raise InputError(f"{path}: got {sizes[0]} colours; expected 1")
    names = ("shape", "scale", "orientation", "x", "y")

    def draw(rows: Tensor) -> Tensor:
        bits = np.unpackbits(packed[rows.numpy()], axis=1)
        return torch.from_numpy(bits).reshape(-1, 1, PIXELS, PIXELS) * 255

    return _grid("dsprites", names, sizes[1:], (1, PIXELS, PIXELS), draw, ("orientation",))


def load_shapes3d(root: str | Path) -> Grid:
    """Loads 3D Shapes (Burgess and Kim 2018), `(3, 64, 64)`, from `3dshapes/3dshapes.h5`; requires h5py.

    The images are copied once into the cache (5.9 GB), because the file's compressed blocks cannot be memory-mapped.

    Args:
        root: the folder that contains `3dshapes/`.

    Raises:
        FileNotFoundError: the file is missing; the message says where to get it. InputError: it is malformed, or h5py
            is not installed.
    """
    path = _found(root, "3dshapes", SHAPES3D, "https://github.com/google-deepmind/3d-shapes")
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"{path}: h5py is not installed; run: pip install 'pyro_semivae[hdf5]'") from error
    try:
        with h5py.File(path) as file:
            images, labels = file["images"], file["labels"]
            if not isinstance(images, h5py.Dataset) or not isinstance(labels, h5py.Dataset):
                raise InputError(f"{path}: got groups; expected the arrays images and labels")
            labels = labels[()]
            if labels.ndim != 2 or labels.shape[1] != 6 or not np.isfinite(labels).all():
                raise InputError(f"{path}, labels: got shape {labels.shape}; expected (N, 6) of finite numbers")
            classes = np.stack([np.unique(column, return_inverse=True)[1] for column in labels.T], 1)
            sizes = _sizes(path, "labels", classes, 6)
            if images.shape != (len(labels), PIXELS, PIXELS, 3) or images.dtype != np.uint8:
                got = f"{images.dtype} of shape {images.shape}"
                raise InputError(f"{path}, images: got {got}; expected uint8 ({len(labels)}, {PIXELS}, {PIXELS}, 3)")

            def parts() -> Iterator[np.ndarray]:
                for start in range(0, len(images), ROWS):
                    yield np.ascontiguousarray(images[start : start + ROWS].transpose(0, 3, 1, 2))

            array = _cached(path, "3dshapes", (len(labels), 3, PIXELS, PIXELS), parts)
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected the arrays images and labels") from error
    names = ("floor", "wall", "object", "scale", "shape", "orientation")
    return _grid("3dshapes", names, sizes, (3, PIXELS, PIXELS), lambda rows: torch.from_numpy(array[rows.numpy()]))


def load_isaac3d(root: str | Path, *, sizes: Sequence[int] = tuple(ISAAC3D_FACTORS.values())) -> Grid:
    """Loads Isaac3D (Nie et al. 2020), `(3, 64, 64)`: `Isaac3D_down128/images/000000.png` to `737279.png`.

    The factors are computed from an image's number, in the order of the data set's own script, not of its README. The
    images are resized (bilinear) into the cache (9.1 GB) and memory-mapped.

    Args:
        root: the folder that contains `Isaac3D_down128/`. sizes: the number of values of each factor.

    Raises:
        FileNotFoundError: an image is missing; the message says where to get it. InputError: an image is malformed.
    """
    folder = user_path(root, "root") / ISAAC3D / "images"
    where = (
        "The 128x128 version is at https://github.com/NVlabs/High-res-disentanglement-datasets; unpack it so that "
        f"{folder} holds 000000.png to 737279.png"
    )
    if len(sizes) != len(ISAAC3D_FACTORS):
        raise InputError(f"sizes: got {len(sizes)}; expected {len(ISAAC3D_FACTORS)}, of {', '.join(ISAAC3D_FACTORS)}")
    sizes = tuple(check_count("sizes", size) for size in sizes)
    paths = [folder / f"{number:06d}.png" for number in range(math.prod(sizes))]
    x = image_array(paths, "isaac3d", channels=3, size=PIXELS, where=where)
    return _grid("isaac3d", tuple(ISAAC3D_FACTORS), sizes, (3, PIXELS, PIXELS), lambda rows: x[rows])


def _grid(
    name: str,
    names: Sequence[str],
    sizes: Sequence[int],
    x_shape: tuple[int, int, int],
    of_rows: Callable[[Tensor], Tensor],
    symmetric: tuple[str, ...] = (),
) -> Grid:
    """A grid of stored images, without the factors that have a single value in the file."""
    kept = [i for i, size in enumerate(sizes) if size > 1]
    names, sizes = tuple(names[i] for i in kept), tuple(sizes[i] for i in kept)
    grid = Grid(name, names, sizes, x_shape, lambda classes: of_rows(grid.rows(classes)), symmetric)
    return grid


def _found(root: str | Path, folder: str, name: str, source: str) -> Path:
    path = user_path(root, "root") / folder / name
    if not path.is_file():
        raise FileNotFoundError(f"dataset {folder}: no {path}. It is at {source}")
    return path


def _sizes(path: Path, name: str, classes: np.ndarray, number: int) -> tuple[int, ...]:
    """The number of values of each of `number` factors.

    Raises:
        InputError: there are others; the rows are not all combinations in order, with the last factor varying fastest.
    """
    if classes.ndim != 2 or not len(classes) or classes.shape[1] != number or classes.dtype.kind not in "iu":
        got = f"{classes.dtype} of shape {classes.shape}"
        raise InputError(f"{path}, {name}: got {got}; expected integers (N, {number})")
    sizes = tuple(int(column.max()) + 1 for column in classes.T)
    rows = np.arange(len(classes))
    if math.prod(sizes) != len(classes) or (np.stack(np.unravel_index(rows, sizes), 1) != classes).any():
        got = f"{len(classes)} rows of factors with {sizes} values, not in their order"
        raise InputError(f"{path}, {name}: got {got}; expected every combination, the last factor the fastest")
    return sizes


def _packed(path: Path, file: BinaryIO, number: int) -> Iterator[np.ndarray]:
    """Yields the images as packed bits, `ROWS` at a time, from the array in the archive."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if shape != (number, PIXELS, PIXELS) or fortran or dtype != np.uint8:
        got = f"{dtype} of shape {shape}"
        raise InputError(f"{path}, imgs: got {got}; expected uint8 ({number}, {PIXELS}, {PIXELS})")
    for start in range(0, number, ROWS):
        rows = min(ROWS, number - start)
        data = file.read(rows * PIXELS * PIXELS)
        if len(data) < rows * PIXELS * PIXELS:
            raise InputError(f"{path}, imgs: ends in image {start + len(data) // PIXELS**2}; expected {number}")
        pixels = np.frombuffer(data, np.uint8)
        if pixels.max() > 1:
            raise InputError(f"{path}, imgs: got the value {pixels.max()}; expected 0 and 1")
        yield np.packbits(pixels.reshape(rows, -1), axis=1)


def _cached(path: Path, name: str, shape: tuple[int, ...], parts: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
    """The array, memory-mapped from the cache; if it is missing there, it is first written from `parts`.

    Raises:
        InputError: the cache cannot be written.
    """
    state = path.stat()
    stamp = hashlib.sha256(f"{path} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:12]
    cache = cache_folder() / f"{name}-{stamp}.npy"
    if (array := read_array(cache, shape)) is None:
        writable_folder(cache.parent, CACHE_ENV)
        write_array(cache, shape, np.dtype(np.uint8), parts())
        array = np.load(cache, mmap_mode="c")
    return array
