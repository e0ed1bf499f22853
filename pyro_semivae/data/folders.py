"""Folders of image files as one memory-mapped array."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from pyro_semivae.caches import CACHE_ENV, cache_folder, read_array, write_array
from pyro_semivae.errors import InputError
from pyro_semivae.files import writable_folder
from pyro_semivae.progress import steps_of


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file in UTF-8, with or without a byte-order mark.

    Raises:
        InputError: it is a folder, or no such text.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            yield file
    except (UnicodeDecodeError, IsADirectoryError, csv.Error) as error:
        raise InputError(f"{path}: this is no text in UTF-8 ({error})") from error


def image_array(
    paths: Sequence[Path], name: str, *, channels: int, size: int = 64, threads: int = 4, where: str = ""
) -> Tensor:
    """Images resized to `size` x `size` (bilinear with antialiasing, no crop), uint8 `(N, channels, size, size)`.

    They are decoded once, into a file in the cache folder that is then memory-mapped: the array takes no memory of its
    own. The cache's name depends on the files' names, the size and when the first and last one were changed. A cache
    that is damaged is made anew, and a note on standard error says so.

    Args:
        name: of the data set, for messages and the cache's name. channels: 3, or 1 for grey. where: a sentence on where
            to get the files, for when one is missing.

    Raises:
        FileNotFoundError: an image is missing. InputError: one cannot be decoded; the cache cannot be written.
    """
    if not isinstance(size, int) or size < 1:
        raise InputError(f"size: got {size!r}; accepted are 1, 2, ...")
    where = f". {where}" if where else ""
    for path in (paths[0], paths[-1]):
        if not path.is_file():
            raise FileNotFoundError(f"dataset {name}: no image {path}{where}")
    stamps = [path.stat().st_mtime_ns for path in (paths[0], paths[-1])]
    text = "\n".join([*map(str, paths), f"{size} {channels} {stamps}"])
    cache = cache_folder() / f"{name}-{size}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npy"
    shape = (len(paths), channels, size, size)
    array = read_array(cache, shape)
    if array is None:
        writable_folder(cache.parent, CACHE_ENV)
        write_array(cache, shape, np.uint8, _decoded(paths, name, channels, size, threads, where))
        array = np.load(cache, mmap_mode="c")
    return torch.from_numpy(array)


def _decoded(
    paths: Sequence[Path], name: str, channels: int, size: int, threads: int, where: str
) -> Iterator[np.ndarray]:
    """The images one after the other, decoded by several threads."""
    block = 1000
    with ThreadPoolExecutor(threads) as pool:
        for i in steps_of(-(-len(paths) // block), f"{name}: decoding {len(paths)} images, 1,000 a step"):
            part = paths[i * block : (i + 1) * block]
            yield from pool.map(lambda path: _decode(path, name, channels, size, where), part)


def _decode(path: Path, name: str, channels: int, size: int, where: str) -> np.ndarray:
    from PIL import Image  # torchvision needs it too

    try:
        with Image.open(path) as image:
            image = image.convert("RGB" if channels == 3 else "L").resize((size, size), Image.Resampling.BILINEAR)
    except FileNotFoundError:
        raise FileNotFoundError(f"dataset {name}: no image {path}{where}") from None
    except OSError as error:
        raise InputError(f"dataset {name}: {path} cannot be decoded: {error}") from error
    pixels = np.asarray(image)
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]
