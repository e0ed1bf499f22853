"""Loads user data from a torch Dataset or DataLoader, read once into a memory-mapped file."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from pyro_semivae.caches import CACHE_ENV, cache_folder, read_array, write_array
from pyro_semivae.data.columns import Column, read_columns
from pyro_semivae.data.folders import in_mode, is_grey
from pyro_semivae.data.held_out import Rows, drawn_split, pop_split, rows_of_split
from pyro_semivae.data.own import as_data, channels_last, data_names
from pyro_semivae.data.table import Table, make_table
from pyro_semivae.errors import InputError
from pyro_semivae.files import note, read_json, writable_folder, write_json
from pyro_semivae.progress import steps_of

VERSION = 1  # of the stored format of an item
BLOCK = 1000  # items
RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def load_dataset(
    dataset: Any,
    test_set: Any = None,
    *,
    name: str,
    kinds: Mapping[str, str] | None = None,
    test: int | float = 0.2,
    seed: int = 0,
) -> Table:
    """Loads a data set from a torch `Dataset` or `DataLoader`, for data that do not fit into memory.

    It is read once, in order, into a file in the cache folder, which is then memory-mapped. The file is reused for the
    same name, number of items, first and last item, class names, split and kinds; otherwise it is rebuilt.

    **Random transforms, such as flips, are frozen**: each image is stored in one version. If the first or last image
    changes at every reading, the file is rebuilt every time. For new noise at every step, use `fit(corrupt=...)`.

    Args:
        dataset: a map-style `Dataset`, or a `DataLoader` for one that neither shuffles nor drops items. An item is
            `(image, label)`, an image, or a mapping from name to value, in which the data are found as in
            `load_arrays`. Images are uint8 or float tensors, numpy arrays (channels first, last, or absent) or PIL
            images; uint8 stays uint8, floats become float32. A label is a number, a string, None or a list of numbers;
            the label of a pair is named `y`. If the data set has `classes`, as torchvision's do, these name the
            classes of `y`.
        test_set: the same for the test rows; default: the test rows are chosen from `dataset` by `test`.
        name: the name of the data set and its file: letters, digits and `._-`, beginning with a letter, a digit or an
            underscore.
        kinds, test, seed: see `load_arrays`. If items have a value `split`, it defines the split.

    Raises:
        InputError: `dataset` is not such a data set; an item's names, shape or dtype differ from the first one's;
            labels, the split or `test` are invalid, see `load_arrays`; the file cannot be written.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"name: got {name!r}; expected letters, digits, points, underscores and hyphens")
    source = _Source(dataset, "dataset", kinds)
    path = cache_folder() / f"dataset-{name}.npy"
    if test_set is not None:
        source_test = _Source(test_set, "test_set", kinds)
        x, labels = _stored(source, path, source.fingerprint)
        x_test, labels_test = _stored(source_test, path.with_stem(f"{path.stem}-test"), source_test.fingerprint)
        if set(labels) != set(labels_test) or x.shape[1:] != x_test.shape[1:]:
            got, got_test = (f"{tuple(a.shape[1:])} and {[*b]}" for a, b in ((x, labels), (x_test, labels_test)))
            raise InputError(f"test_set: got items of shape and labels {got_test}; expected dataset's, {got}")
        labels = {key: values + labels_test[key] for key, values in labels.items()}
        columns = source.columns(labels, kinds)
        rows = torch.arange(len(x)), torch.arange(len(x), len(x) + len(x_test))
    else:
        both = lambda labels: source.columns_and_rows(labels, kinds, test, seed)  # noqa: E731
        key = f"{source.fingerprint} {test!r} {seed!r} {sorted((kinds or {}).items())}"
        x, labels = _stored(source, path, key, lambda labels: torch.cat(both(labels)[1]))
        columns, rows = both(labels)
        x, x_test = x[: len(rows[0])], x[len(rows[0]) :]
    (space, x), (_, x_test) = as_data(x, "x"), as_data(x_test, "x")
    return make_table(name, {"x": (space, x)}, {"x": (space, x_test)}, columns, rows)


class _Source:
    """The items of a torch data set.

    Attributes:
        size: the number of items. shape, dtype: of an item's data. fingerprint: a hash of the number of items, the
            class names, and the first and last item.
    """

    def __init__(self, dataset: Any, argument: str, kinds: Mapping[str, str] | None):
        self.given, self.argument = dataset, argument
        accepted = "a map-style Dataset with a length, or a DataLoader of one that neither shuffles nor drops items"
        if isinstance(dataset, DataLoader):
            if isinstance(dataset.sampler, RANDOM) or dataset.drop_last:
                raise InputError(f"{argument}: got a DataLoader that shuffles or drops items; expected {accepted}")
            dataset = dataset.dataset
        mapped = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        if not mapped or isinstance(dataset, IterableDataset | Mapping | str) or not len(dataset):
            got = "one without items" if mapped else type(dataset).__name__
            raise InputError(f"{argument}: got {got}; expected {accepted}")
        self.dataset, self.size = dataset, len(dataset)
        first = _entries(dataset[0], f"{argument}[0]")
        dims = {key: _dims(value) + 1 for key, value in first.items()}
        keys = data_names(dims, kinds)
        if len(keys) > 1:
            raise InputError(f"kinds: got {', '.join(keys.values())} as data; expected one, for a torch data set")
        self.names, self.x_name = set(first), keys["x"]
        self.classes = self._classes(dataset, isinstance(dataset[0], tuple | list))
        x = _array(first[self.x_name], f"{argument}[0], {self.x_name}")
        self.shape, self.dtype = x.shape, x.dtype
        found = hashlib.sha256(f"{VERSION} {self.size} {self.classes}".encode())
        for i in (0, self.size - 1):
            x, labels = self._item(_entries(dataset[i], f"{argument}[{i}]"), i)
            found.update(f"{x.dtype} {x.shape} {sorted(labels.items())!r}".encode())
            found.update(x.tobytes())
        self.fingerprint = found.hexdigest()

    def _classes(self, dataset: Any, in_pairs: bool) -> dict[str, list[str]]:
        """The names of y's classes, if the data set has them."""
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        names = getattr(dataset, "classes", None)
        named = isinstance(names, list | tuple) and len(names) > 1 and all(isinstance(name, str) for name in names)
        return {"y": list(names)} if named and in_pairs and "y" in self.names else {}

    def columns(self, labels: Mapping[str, list], kinds: Mapping[str, str] | None) -> dict[str, Column]:
        classes = {} if kinds and "y" in kinds else self.classes
        return read_columns(labels, kinds, at="item {}".format, data=[self.x_name], classes=classes)

    def columns_and_rows(
        self, labels: Mapping[str, list], kinds: Mapping[str, str] | None, test: int | float, seed: int
    ) -> tuple[dict[str, Column], Rows]:
        labels = dict(labels)
        split = pop_split(labels, "item {}".format)
        columns = self.columns(labels, kinds)
        return columns, drawn_split(columns, self.size, test, seed) if split is None else rows_of_split(split)

    def read(self, labels: dict[str, list]) -> Iterator[np.ndarray]:
        """Yields the data of the items in order, and appends their other values to `labels`."""
        labels |= {name: [] for name in self.names if name != self.x_name}
        items, number = self._items(), 0
        for _ in steps_of(-(-self.size // BLOCK), f"{self.argument}: reading {self.size} items, 1,000 a step"):
            for _, item in zip(range(BLOCK), items, strict=False):
                x, more = self._item(_entries(item, f"{self.argument}[{number}]"), number)
                for name, value in more.items():
                    labels[name].append(value)
                number += 1
                yield x
        if number != self.size or next(items, None) is not None:
            got = f"{number} items{'' if number < self.size else ' and more'}"
            raise InputError(f"{self.argument}: got {got}; its length is {self.size}")

    def _items(self) -> Iterator[Any]:
        if not isinstance(self.given, DataLoader):
            yield from (self.dataset[i] for i in range(self.size))
        elif self.given.batch_sampler is None:
            yield from self.given
        else:
            for batch in self.given:
                yield from _unbatched(batch)

    def _item(self, entries: Mapping[str, Any], i: int) -> tuple[np.ndarray, dict[str, Any]]:
        """The data of an item, and its labels as plain values."""
        where = f"{self.argument}[{i}]"
        if set(entries) != self.names:
            raise InputError(f"{where}: got {sorted(entries)}; the first item has {sorted(self.names)}")
        x = _array(entries[self.x_name], f"{where}, {self.x_name}")
        if (x.shape, x.dtype) != (self.shape, self.dtype):
            got = f"{x.dtype} of shape {x.shape}"
            raise InputError(f"{where}, {self.x_name}: got {got}; the first item has {self.dtype} {self.shape}")
        return x, {key: _plain(value, f"{where}, {key}") for key, value in entries.items() if key != self.x_name}


def _entries(item: Any, where: str) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return dict(item)
    if isinstance(item, tuple | list):
        if not 1 <= len(item) <= 2:
            raise InputError(f"{where}: got {len(item)} values; expected (image, label), or a mapping with names")
        return dict(zip(("x", "y"), item, strict=False))
    return {"x": item}


def _unbatched(batch: Any) -> Iterator[Any]:
    if isinstance(batch, Mapping):
        yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
    elif isinstance(batch, tuple | list):
        yield from zip(*batch, strict=True)
    else:
        yield from batch


def _dims(value: Any) -> int:
    return 2 if isinstance(value, Image.Image) else np.ndim(value)


def _array(value: Any, where: str) -> np.ndarray:
    """Converts data to images `(C, H, W)`, uint8 or float32, or to `(D,)`: floats to float32, integers unchanged."""
    if isinstance(value, Image.Image):
        value = np.asarray(in_mode(value, 1 if is_grey(value) else 3))
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    x = np.asarray(value)
    pixels = x.dtype == np.uint8 or x.dtype.kind == "f"
    if x.ndim not in (1, 2, 3) or not (pixels or (x.ndim == 1 and x.dtype.kind in "ui")):
        got = f"{x.dtype} of shape {x.shape}"
        raise InputError(f"{where}: got {got}; expected images, uint8 or float, and vectors of numbers")
    if x.ndim == 3 and channels_last(x.shape):
        x = x.transpose(2, 0, 1)
    x = x[None] if x.ndim == 2 else x
    return x.astype(np.float32) if x.dtype.kind == "f" else x


def _plain(value: Any, where: str) -> Any:
    """A label as a JSON value; None for NaN."""
    value = value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value
    value = value.decode(errors="replace") if isinstance(value, bytes) else value
    if isinstance(value, list | tuple):
        return [_plain(entry, where) for entry in value]
    if value is not None and not isinstance(value, str | bool | int | float):
        raise InputError(f"{where}: got {type(value).__name__}; expected a number, a text, None or numbers")
    return None if isinstance(value, float) and value != value else value


def _stored(
    source: _Source, path: Path, key: str, order: Callable[[Mapping[str, list]], Tensor] | None = None
) -> tuple[Tensor, dict[str, list]]:
    """The items' data, memory-mapped, and their labels in the source's order; the file is reused or rebuilt.

    Args:
        key: identifies the contents of the file at `path`. order: computes the order of the stored data from the
            labels; None: the source's order.
    """
    about = path.with_suffix(".json")
    if about.is_file() and (labels := _kept(about, key)) is not None and (array := read_array(path)) is not None:
        return torch.from_numpy(array), labels
    if about.is_file():
        note(f"made anew: {path} (it had other items, another split or other kinds)")
    writable_folder(path.parent, CACHE_ENV)
    about.unlink(missing_ok=True)
    labels: dict[str, list] = {}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unordered = Path(folder) / path.name
        write_array(unordered, (source.size, *source.shape), source.dtype, source.read(labels))
        if order is None:
            os.replace(unordered, path)
        else:
            array, rows = np.load(unordered, mmap_mode="r"), order(labels).numpy()
            parts = (array[rows[i : i + BLOCK]] for i in range(0, len(rows), BLOCK))
            write_array(path, (len(rows), *source.shape), source.dtype, parts)
            del array
    write_json(about, {"key": key, "labels": labels}, indent=None)
    return torch.from_numpy(np.load(path, mmap_mode="c")), labels


def _kept(about: Path, key: str) -> dict[str, list] | None:
    """The labels stored in the file `about`; None if the file is unreadable or has another key."""
    try:
        state: Any = read_json(about)
    except InputError:
        return None
    return state["labels"] if isinstance(state, dict) and state.get("key") == key else None
