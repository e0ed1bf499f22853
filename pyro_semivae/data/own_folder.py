"""Loads user data from a folder of images: in class folders, or with a CSV file of labels."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from pyro_semivae.data.columns import read_columns, read_csv
from pyro_semivae.data.folders import Header, image_array, read_header
from pyro_semivae.data.held_out import TEST, TRAINING, VALIDATION, WORDS, drawn_split, pop_split, rows_of_split
from pyro_semivae.data.table import Table, make_table
from pyro_semivae.errors import InputError
from pyro_semivae.files import note, user_path
from pyro_semivae.spaces import Images

SUFFIXES = (".png", ".jpg", ".jpeg")
OTHER_IMAGES = (".bmp", ".gif", ".tif", ".tiff", ".webp")
FILE_COLUMNS = ("file", "filename", "image", "path", "name")


def load_folder(
    path: str | Path,
    labels: str | Path | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    kinds: Mapping[str, str] | None = None,
    test: int | float = 0.2,
    seed: int = 0,
) -> Table:
    """Loads a folder of JPEG and PNG images, decoded once into a memory-mapped file; see `image_array`.

    ================================  ==================================================================================
    in the folder                     labels
    ================================  ==================================================================================
    a CSV file, images anywhere       its columns, see `columns.read_columns`. One column names the files, by the path
                                      in the folder or the file name, with or without extension: file, filename, image,
                                      path or name, or else the first one whose cells all name images. Images without
                                      a line have no labels. A column `split` of train, test and val is the split.
    `<class>/...`                     the class label `y`, named by the folders
    `train/<class>/...`,              the same, and the split; without a test folder, val, valid or validation is the
    `test/<class>/...`                test set
    images without folders            none; likewise for images outside the class folders
    ================================  ==================================================================================

    Images are sorted by path within each part. They are grey if all of them are, otherwise RGB. Files and folders whose
    names begin with a dot are ignored.

    Args:
        labels: the CSV file; default: the only one in the folder, if any.
        size: `(H, W)`, or one number for both, to resize to; default: the images' own size, which must be the same.
        kinds: see `columns.read_columns`.
        test: the fraction of the rows with any label (of all rows if none has) to use as test set, or the number of
            test rows. They are sampled at random, stratified if there is a single class label. Ignored if the split is
            given.
        seed: of that sampling.

    Raises:
        InputError: there are no images, their sizes differ, or one cannot be read; there are several CSV files; a line
            names an unknown image, or an image is named twice; a label, the split or `test` is invalid.
    """
    folder = user_path(path, "path").resolve()
    if not folder.is_dir():
        raise InputError(f"path: no folder {folder}; expected a folder of JPEG or PNG images")
    files = _images(folder)
    table = _csv(folder) if labels is None else user_path(labels, "labels")
    if table is not None:
        cells, split, at = _labels_of(folder, files, table)
        columns = read_columns(cells, kinds, at=at)
    else:
        classes, split = _folders_of_classes(files)
        given = {"y": classes} if any(classes) else {}
        columns = read_columns(given, dict.fromkeys(given, "class") | dict(kinds or {}))
    rows = drawn_split(columns, len(files), test, seed) if split is None else rows_of_split(split)
    order = torch.cat(rows).tolist()  # the training rows come first in the file, then the test rows
    files = [files[i] for i in order]
    channels, size, stamp = _about(folder, files, size)
    x = image_array([folder / file for file in files], folder.name, channels=channels, size=size, stamp=stamp)
    n = len(rows[0])
    space = Images(*x.shape[1:])
    names = {"train": files[:n], "test": files[n:]}
    return make_table(folder.name, {"x": (space, x[:n])}, {"x": (space, x[n:])}, columns, rows, names)


def _images(folder: Path) -> list[str]:
    """The sorted paths of the images below a folder, relative to it, with slashes."""
    found, others = [], []
    for at, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                suffix, path = Path(name).suffix.lower(), (Path(at) / name).relative_to(folder).as_posix()
                if suffix in SUFFIXES:
                    found.append(path)
                elif suffix in OTHER_IMAGES:
                    others.append(path)
    if not found:
        got = f"{len(others)} images of other formats, such as {min(others)}" if others else "none"
        raise InputError(f"path: {folder}: got {got}; expected JPEG and PNG files, {', '.join(SUFFIXES)}")
    if others:
        note(f"{folder}: {len(others)} files are left out, such as {min(others)}: not JPEG or PNG")
    return sorted(found)


def _csv(folder: Path) -> Path | None:
    found = sorted(path for path in folder.glob("*.csv") if not path.name.startswith("."))
    if len(found) > 1:
        got = ", ".join(path.name for path in found)
        raise InputError(f"labels: got several csv files in {folder}: {got}; expected one, or the path of one")
    return found[0] if found else None


def _folders_of_classes(files: Sequence[str]) -> tuple[list[str], Tensor | None]:
    """The class of each image ("" for none), and the split, if the top folders are training and test folders."""
    parts = [file.split("/")[:-1] for file in files]
    words = [WORDS.get(part[0].lower()) if part else None for part in parts]
    if TRAINING not in words or not {TEST, VALIDATION} & {*words}:
        return [part[0] if part else "" for part in parts], None
    if None in words:
        file = files[words.index(None)]
        raise InputError(f"{file}: got an image outside the training and test folders; expected all images in them")
    return [part[1] if len(part) > 1 else "" for part in parts], torch.tensor(words)


def _labels_of(
    folder: Path, files: Sequence[str], path: Path
) -> tuple[dict[str, list[str]], Tensor | None, Callable[[int], str]]:
    """Reads a CSV file's cells for each image ("" if it has no line), the split, if there is one, and a function from
    image index to its location in the file, for error messages."""
    cells, lines = read_csv(path)
    keys = _keys(files)
    column = _file_column(cells, keys)
    if column is None:
        got, some = ", ".join(map(repr, cells)), ", ".join(files[:3])
        raise InputError(f"{path}: got the columns {got}; expected one that names the images of {folder}: {some} ...")
    line_of: dict[int, int] = {}  # image -> row of the csv
    for row, (cell, line) in enumerate(zip(cells[column], lines, strict=True)):
        if not any(values[row] for values in cells.values()):
            continue
        found = keys.get(_key(cell), [])
        if len(found) != 1:
            what = f"names {len(found)} images: {', '.join(files[i] for i in found[:3])}" if found else "is no image"
            raise InputError(f"{path}: line {line}, {column}: {cell!r} {what}; expected images of {folder}")
        if found[0] in line_of:
            before = lines[line_of[found[0]]]
            raise InputError(f"{path}: line {line}, {column}: got {cell!r} again, as in line {before}")
        line_of[found[0]] = row
    rows = [line_of.get(i) for i in range(len(files))]
    others = {name: values for name, values in cells.items() if name != column}

    def at(i: int) -> str:
        return f"{path.name}, {files[i]}" if rows[i] is None else f"{path.name}, line {lines[rows[i]]}"

    out = {name: ["" if row is None else values[row] for row in rows] for name, values in others.items()}
    split = pop_split(out, at, [row is not None for row in rows])
    return out, split, at


def _key(cell: str) -> str:
    return cell.replace("\\", "/").removeprefix("./")


def _keys(files: Sequence[str]) -> dict[str, list[int]]:
    """Names of images in a CSV file -> indices of the images; a path takes precedence over a file name, and each
    name with its suffix over the one without."""
    out: dict[str, list[int]] = {}
    for short in (str, _stem, _name, lambda file: _name(_stem(file))):
        found = defaultdict(list)
        for i, file in enumerate(files):
            found[short(file)].append(i)
        out = found | out
    return out


def _stem(file: str) -> str:
    return file[: -len(Path(file).suffix)]


def _name(file: str) -> str:
    return file.rsplit("/", 1)[-1]


def _file_column(cells: Mapping[str, Sequence[str]], keys: Mapping[str, list[int]]) -> str | None:
    """The column that names the images; None if there is none."""
    by_name = {name.lower(): name for name in reversed(cells)}
    for word in FILE_COLUMNS:
        if word in by_name and any(_key(cell) in keys for cell in cells[by_name[word]]):
            return by_name[word]
    known = {name: [_key(cell) for cell in values if cell] for name, values in cells.items()}
    found = [name for name, values in known.items() if values and all(value in keys for value in values)]
    return next((name for name in found if len(set(known[name])) == len(known[name])), next(iter(found), None))


def _about(
    folder: Path, files: Sequence[str], size: int | tuple[int, int] | None
) -> tuple[int, int | tuple[int, int], str]:
    """The number of channels, the size and a stamp of the images, from their headers and file attributes."""
    with ThreadPoolExecutor(4) as pool:
        headers: list[Header] = list(pool.map(lambda file: read_header(folder / file), files))
    if size is None:
        size = headers[0].size
        for file, header in zip(files, headers, strict=True):
            if header.size != size:
                sizes = f"{files[0]} of {size[0]} x {size[1]} and {file} of {header.size[0]} x {header.size[1]} (H x W)"
                raise InputError(f"size: got {sizes}; expected images of one size, or a size to resize to: size=64")
    channels = 1 if all(header.is_grey for header in headers) else 3
    return channels, size, " ".join(header.stamp for header in headers)
