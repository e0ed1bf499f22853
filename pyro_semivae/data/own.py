"""Loads user data from a path: a folder of images, or arrays with labels."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_semivae.data.columns import read_columns, read_csv
from pyro_semivae.data.held_out import are_consecutive, drawn_split, last_rows, pop_split, rows_of_split
from pyro_semivae.data.own_folder import load_folder
from pyro_semivae.data.table import Table, make_table, taken
from pyro_semivae.errors import InputError, as_tensor
from pyro_semivae.files import user_path
from pyro_semivae.spaces import Counts, Images, Space, Vectors

DEPTHS = (1, 3, 4)  # channels of images whose channels come last


def load_path(
    path: str | Path,
    labels: str | Path | None = None,
    *,
    size: tuple[int, int] | int | None = None,
    kinds: Mapping[str, str] | None = None,
    test: int | float = 0.2,
    seed: int = 0,
) -> Table:
    """Loads a folder with `load_folder`, or an .npz or .npy file with `load_arrays`; see there for the arguments.

    Raises:
        InputError: `path` is neither, or `size` is given for arrays.
    """
    path = user_path(path, "dataset")
    if path.is_dir():
        return load_folder(path, labels, size=size, kinds=kinds, test=test, seed=seed)
    if not path.is_file() or path.suffix.lower() not in (".npz", ".npy"):
        got = f"{path}, a {path.suffix or 'nameless'} file" if path.is_file() else f"{path}, which is not there"
        raise InputError(f"dataset: got {got}; expected a folder of JPEG or PNG images, and .npz and .npy files")
    if size is not None:
        raise InputError(f"size: got {size!r} for {path}; expected None, as arrays are not resized")
    return load_arrays(path, labels, kinds=kinds, test=test, seed=seed)


def load_arrays(
    source: str | Path | Mapping[str, Any],
    labels: str | Path | Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    kinds: Mapping[str, str] | None = None,
    test: int | float = 0.2,
    seed: int = 0,
) -> Table:
    """Loads a data set from arrays.

    The data are the array `x`. Without an `x` they are the first array to which `kinds` assigns "data", or else the
    only array with three or more dimensions, or else the only one with two. Further arrays of kind "data" become
    further data sites.

    * `(N, C, H, W)` are images, uint8 or floats in [0, 1]. `(N, H, W, C)` with C 1, 3 or 4, H above 4 and W above 1
      has its channels last; they are moved to the front, as a view. `(N, H, W)` are grey images.
    * `(N, D)` non-negative integers are counts, other numbers vectors. They are kept as floats.

    All other arrays are labels, one entry per row; see `columns.read_columns`.

    A memory-mapped array (an .npy file, `np.load(..., mmap_mode="c")`) is neither copied nor reordered. Its test rows
    are the last rows of the file, as many as contain `test` of the labels, independently of the seed. If a file is
    sorted by class, pass the test rows as a separate array (`x_test`).

    Args:
        source: the path of an .npz file (read into memory) or of an .npy file with data; or a mapping from name to
            array, tensor or list. If every name `a` (or `a_train`) has an `a_test`, these are the test rows. Otherwise
            an entry `split` of train, test and val defines the split, if there is one.
        labels: a CSV file whose lines below the header are the rows in order (with `x_test`, the test rows come last);
            or a mapping from column to values.
        name: the data set's name; default: the file's name.
        kinds: see `columns.read_columns`.
        test: the fraction of the rows with any label (of all rows if none has) to use as test set, or the number of
            test rows. They are sampled at random, stratified if there is a single class label. Ignored if the split is
            given.
        seed: of that sampling.

    Raises:
        InputError: a file cannot be read, or contains pickled objects; the data array is missing or ambiguous; the
            numbers of rows differ; a label, the split or `test` is invalid.

    >>> table = load_arrays({"x": torch.rand(10, 8, 8), "pet": ["cat", "dog", None, "dog", "cat"] * 2}, name="pets")
    >>> print(table)
    pets: 8 training rows, 2 test rows
      x    Images(channels=1, height=8, width=8)
      pet  class: cat, dog; known in 6 of 8 training rows, 2 of 2 test rows
    """
    if isinstance(source, Mapping):
        given = dict(source)
    else:
        source = user_path(source, "source")
        given, name = _read_arrays(source), name or source.stem
    if isinstance(labels, Mapping):
        if twice := sorted(set(labels) & set(given)):
            raise InputError(f"labels: got {', '.join(map(repr, twice))} again; expected other names than source's")
        given |= labels
    given, given_test = _two_parts(given)
    keys = data_names({key: _dims(value) for key, value in given.items()}, kinds)
    data = {site: as_data(given[key], key) for site, key in keys.items()}
    data_test = {site: as_data(given_test[key], f"{key}_test") for site, key in keys.items() if given_test}
    cells = {key: _joined(key, value, given_test) for key, value in given.items() if key not in keys.values()}
    at, sizes = "row {}".format, [len(part["x"][1]) for part in (data, data_test) if part]
    if labels is not None and not isinstance(labels, Mapping):
        more, lines = read_csv(labels)
        at = lambda i: f"line {lines[i]}" if i < len(lines) else f"row {i}"  # noqa: E731
        if len(lines) != sum(sizes):
            raise InputError(f"{labels}: got {len(lines)} rows; expected the data's, {sum(sizes)}")
        if twice := sorted(set(more) & set(given)):
            raise InputError(f"{labels}: got {', '.join(map(repr, twice))} again; expected other names")
        cells |= more
    _check_sizes(data, data_test, cells, given_test)
    split = None if given_test else pop_split(cells, at)
    columns = read_columns(cells, kinds, at=at, data=keys.values())
    if given_test:
        rows = torch.arange(sizes[0]), torch.arange(sizes[0], sum(sizes))
        return make_table(name or "arrays", data, data_test, columns, rows)
    mapped = any(isinstance(given[key], np.memmap) for key in keys.values())
    if split is not None:
        rows = rows_of_split(split)
        if mapped and not are_consecutive(rows):
            raise InputError(
                "split: got interleaved training and test rows for a memory-mapped array, which is not reordered; "
                "expected all training rows to be consecutive, and all test rows"
            )
    else:
        rows = last_rows(columns, sizes[0], test) if mapped else drawn_split(columns, sizes[0], test, seed)
    return make_table(
        name or "arrays",
        *({site: (space, taken(x, part)) for site, (space, x) in data.items()} for part in rows),
        columns,
        rows,
    )


def _read_arrays(path: Path) -> dict[str, Any]:
    """Reads the arrays in a file, by name; the array in an .npy file is memory-mapped and named `x`."""
    accepted = "expected .npz and .npy files of numbers and texts, without pickled objects"
    if not path.is_file():
        raise InputError(f"source: no file {path}; {accepted}")
    try:
        if path.suffix.lower() == ".npy":
            return {"x": np.load(path, mmap_mode="c", allow_pickle=False)}
        with open(path, "rb") as opened:
            arrays = np.load(opened, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise ValueError("it contains a single array, as an .npy file does")
            return dict(arrays)
    except (ValueError, TypeError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read ({reason}); {accepted}") from error


def _two_parts(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits arrays by name into those of all (or of the training) rows, and those of the test rows, if any."""
    if not given or not all(isinstance(key, str) for key in given):
        raise InputError(f"source: got the names {list(given)}; expected one or more texts")
    tests = {key.removesuffix("_test"): value for key, value in given.items() if key.endswith("_test")}
    if not tests:
        return dict(given), {}
    rest = {key: value for key, value in given.items() if not key.endswith("_test")}
    train = {key if key in tests else key.removesuffix("_train"): value for key, value in rest.items()}
    if set(train) != set(tests) or len(train) < len(rest):
        alone = sorted(set(train) ^ set(tests))
        raise InputError(f"source: got only one of a and a_test for {alone}; expected both for all, or no a_test")
    return train, tests


def _dims(value: Any) -> int:
    return value.ndim if isinstance(value, np.ndarray | Tensor) else np.ndim(np.asarray(value, dtype=object))


def data_names(dims: Mapping[str, int], kinds: Any) -> dict[str, str]:
    """Selects the data among several arrays by their numbers of dimensions: site -> name; see `load_arrays`.

    Raises:
        InputError: there is no candidate, or more than one.
    """
    kinds = kinds if isinstance(kinds, Mapping) else {}
    named = [key for key, kind in kinds.items() if kind == "data" and dims.get(key, 0) > 1]
    if "x" in dims:
        first = "x"
    elif named:
        first = named[0]
    else:
        free = {key: number for key, number in dims.items() if key not in kinds}
        found = [key for key in free if free[key] > 2] or [key for key in free if free[key] == 2]
        if len(found) != 1:
            got = ", ".join(f"{key} of {number} dimensions" for key, number in dims.items())
            raise InputError(f"data: got {got}; expected data by the name x, or one array of 2 or more dimensions")
        first = found[0]
    return {"x": first} | {key: key for key in named if key != first}


def as_data(value: Any, name: str) -> tuple[Space, Tensor]:
    """The space of a data array, and the array with channels first (a view); see `load_arrays`."""
    x = as_tensor(name, value).detach()
    if x.dim() == 3:
        x = x.unsqueeze(1)
    elif x.dim() == 4 and channels_last(x.shape[1:]):
        x = x.permute(0, 3, 1, 2)
    if x.dim() == 4:
        return Images(*x.shape[1:]), x
    if x.dim() != 2:
        got = f"shape {tuple(x.shape)}"
        raise InputError(f"{name}: got {got}; expected data (N, C, H, W), (N, H, W, C), (N, H, W) and (N, D)")
    counts = not x.is_floating_point() and x.dtype != torch.bool and x.numel() and x.min() >= 0
    return (Counts if counts else Vectors)(x.shape[1]), x


def channels_last(shape: Sequence[int]) -> bool:
    """Whether an image with this shape, three numbers, is (H, W, C) rather than (C, H, W)."""
    return shape[0] > 4 and shape[1] > 1 and shape[2] in DEPTHS


def _joined(key: str, value: Any, given_test: Mapping[str, Any]) -> Any:
    """The values of a label, with those of the test rows at the end."""
    if not given_test:
        return value
    parts = [part.detach().cpu().numpy() if isinstance(part, Tensor) else part for part in (value, given_test[key])]
    parts = [np.asarray(part) for part in parts]
    if not all(part.ndim for part in parts) or parts[0].shape[1:] != parts[1].shape[1:]:
        got = " and ".join(str(part.shape) for part in parts)
        raise InputError(f"{key}, {key}_test: got shapes {got}; expected (N,), or (N, K) of one K")
    return np.concatenate([part.astype(object) if parts[0].dtype.kind in "OUS" else part for part in parts])


def _check_sizes(data: dict, data_test: dict, cells: Mapping[str, Any], given_test: Mapping[str, Any]) -> None:
    for site, (space, _) in data_test.items():
        if space.shape != data[site][0].shape:
            got = f"{data[site][0]} and {space}"
            raise InputError(f"{site}, {site}_test: got {got}; expected data with the same shape")
    number = sum(len(part["x"][1]) for part in (data, data_test) if part)
    for key, values in [*((site, x) for site, (_, x) in data.items() if not given_test), *cells.items()]:
        size = len(values) if np.ndim(values) or isinstance(values, list | tuple) else 0
        if size != number:
            raise InputError(f"{key}: got {size} rows; expected {number}, as the data have")
