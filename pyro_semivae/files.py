"""Files that are either old or new, never half: written beside and renamed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from pyro_semivae.errors import InputError


def writable_folder(path: str | Path, name: str = "out") -> Path:
    """Makes the folder and tries to write into it.

    Raises:
        ValueError: it cannot be made or written to; the message names the argument.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{name}: cannot write to {path} ({error.strerror or error})") from error
    return path


CACHE_ENV = "PYRO_SEMIVAE_CACHE"


def cache_folder() -> Path:
    """Where rendered data and trained classifiers are kept: `$PYRO_SEMIVAE_CACHE`, else `~/.cache/pyro_semivae`."""
    return Path(os.environ.get(CACHE_ENV) or Path.home() / ".cache" / "pyro_semivae")


def cached_array(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array of an .npy file, memory-mapped (copy on write); made and written first where it is not there.

    Where the folder cannot be written to, a note on standard error says so and the array is in memory.
    """
    if not path.is_file():
        array = make()
        try:
            writable_folder(path.parent, CACHE_ENV)
        except InputError as error:
            print(f"NOTE: {path.name} is not cached: {error}", file=sys.stderr, flush=True)
            return array
        with open_beside(path) as file:
            np.save(file, array)
    return np.load(path, mmap_mode="c")


def cached_checkpoint(path: Path, model: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The checkpoint in a file; made and written first where it is not there.

    Where the folder cannot be written to, a note on standard error says so.

    Args:
        make: returns at least `weights`. path, model: see `load_checkpoint`.
    """
    if path.is_file():
        return load_checkpoint(path, model)
    state = {"model": model, **make()}
    try:
        writable_folder(path.parent, CACHE_ENV)
        save_checkpoint(path, state)
    except InputError as error:
        print(f"NOTE: {path.name} is not cached: {error}", file=sys.stderr, flush=True)
    return state


@contextmanager
def open_beside(path: Path) -> Iterator[BinaryIO]:
    """A binary file beside `path` that takes its place when all is written."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            yield file
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    """Writes `value` as JSON; NaN and infinity are errors."""
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    with open_beside(Path(path)) as file:
        file.write(text.encode())


def check_plain(value: Any, name: str) -> None:
    """Checks that a value is made of what a checkpoint can hold.

    Raises:
        InputError: something in it is not a tensor, number, string, None, list or dict; the message says where.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            check_plain(item, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            check_plain(item, f"{name}[{i}]")
    elif type(value) not in (int, float, str, bool, type(None)) and not isinstance(value, torch.Tensor):
        raise InputError(
            f"{name}: got {type(value).__module__}.{type(value).__name__}; accepted in a checkpoint are tensors, "
            f"numbers, strings, None, lists and dicts of them"
        )


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Saves tensors, numbers, strings, lists and dicts in one file; see `check_plain`."""
    check_plain(state, "checkpoint")
    with open_beside(Path(path)) as file:
        torch.save(state, file)


def load_checkpoint(path: str | Path, model: str | None = None) -> dict[str, Any]:
    """Loads what `save_checkpoint` wrote, on the CPU, without running any code from it.

    Args:
        path: the file.
        model: the class name of the model that it should hold.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, no checkpoint of this library, or one of another model.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: no file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(f"checkpoint: {path} cannot be read: damaged, or no checkpoint") from error
    if not isinstance(state, dict) or "model" not in state or "weights" not in state:
        raise InputError(f"checkpoint: {path} is not a checkpoint of pyro_semivae")
    if model is not None and state["model"] != model:
        raise InputError(f"checkpoint: {path} holds a {state['model']}, accepted is a {model}")
    return state
