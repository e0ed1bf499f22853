"""Caches of rendered and decoded images and of trained classifiers. Damaged files are created again."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from platformdirs import user_cache_path

from pyro_semivae.digests import BLOCK
from pyro_semivae.errors import InputError
from pyro_semivae.files import atomic_open, load_checkpoint, note, save_checkpoint, user_path, writable_folder

T = TypeVar("T")

CACHE_ENV = "PYRO_SEMIVAE_CACHE"


def cache_folder(folder: str | Path | None = None) -> Path:
    """The folder for rendered data and trained classifiers: `folder`, else `$PYRO_SEMIVAE_CACHE`, else the user's
    cache folder, on Linux `~/.cache/pyro_semivae`."""
    folder = folder or os.environ.get(CACHE_ENV) or user_cache_path("pyro_semivae", appauthor=False)
    return user_path(folder, CACHE_ENV)


def cached_checkpoint(
    path: Path, model: str, make: Callable[[], dict[str, Any]], use: Callable[[dict[str, Any]], T]
) -> T:
    """Returns `use(state)` for the cached checkpoint `state`, which is created and written first if it does not exist.

    A file that is damaged or of another version is created again. A note on standard error reports this, or that the
    folder is not writable.

    Args:
        make: creates the state, with at least `weights`.
        use: may raise any error for an invalid state.
        path, model: see `load_checkpoint`.
    """
    if path.is_file():
        try:
            return use(load_checkpoint(path, model))
        except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OSError) as error:
            reason = _first_line(error)
            note(f"made anew: {reason if str(path) in reason else f'{path} ({reason})'}")
    state = {"model": model, **make()}
    try:
        writable_folder(path.parent, CACHE_ENV)
        save_checkpoint(path, state)
    except InputError as error:
        note(f"{path.name} is not cached: {error}")
    return use(state)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if isinstance(error, InputError) else ": ".join([type(error).__name__, *lines[:1]])


def cached_array(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array of an .npy file, memory-mapped (copy on write); created and written first if it does not exist.

    If the folder is not writable, a note is printed on standard error and the array is in memory.
    """
    array = read_array(path)
    if array is not None:
        return array
    array = make()
    try:
        writable_folder(path.parent, CACHE_ENV)
        write_array(path, array.shape, array.dtype, array)
    except InputError as error:
        note(f"{path.name} is not cached: {error}")
        return array
    return np.load(path, mmap_mode="c")


def write_array(path: Path, shape: tuple[int, ...], dtype: np.dtype, parts: Iterable[np.ndarray]) -> None:
    """Writes an array, given in parts, as an .npy file, followed by the SHA-256 of the file, which numpy ignores."""
    header, found = io.BytesIO(), hashlib.sha256()
    about = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(header, about)
    with atomic_open(path) as file:
        for data in itertools.chain([header.getvalue()], (part.tobytes() for part in parts)):
            found.update(data)
            file.write(data)
        file.write(found.digest())


def read_array(path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray | None:
    """The array in a file of `write_array`, memory-mapped (copy on write); None if there is no such file.

    For a file that is damaged, older or not of `shape` it also returns None, with a note on standard error.
    """
    if not path.is_file():
        return None
    try:
        if _array_is_intact(path):
            array = np.load(path, mmap_mode="c")
            if shape is None or array.shape == shape:
                return array
        reason = "damaged, or of an older version"
    except (OSError, ValueError) as error:
        reason = _first_line(error)
    note(f"made anew: {path} ({reason})")
    return None


def _array_is_intact(path: Path) -> bool:
    found = hashlib.sha256()
    size = found.digest_size
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size - size
        while left > 0 and (data := file.read(min(left, BLOCK))):
            found.update(data)
            left -= len(data)
        return left == 0 and file.read() == found.digest()
