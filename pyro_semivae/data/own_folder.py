"""Data of one's own from a folder of images: in folders of classes, or with a csv of labels."""

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
    """A data set from a folder of JPEG and PNG images, decoded once into a memory-mapped file, see `image_array`.

    ================================  ==================================================================================
    in the folder                     labels
    ================================  ==================================================================================
    a csv file, images anywhere       its columns, see `columns.read_columns`. One names the files, relative to the
                                      folder or by the name alone, with or without extension: file, filename, image,
                                      path or name, else the first of which all cells name images. An image without
                                      a line has no labels. A column `split` of train, test and val is the split.
    `<class>/...`                     the class label `y`, by the names of the folders
    `train/<class>/...`,              the same, and the split; val, valid or validation are the test where there is none
    `test/<class>/...`
    images alone                      none; the same for images beside folders of classes
    ================================  ==================================================================================

    Images are in the order of their names. They are grey where all of them are, else RGB. Names that begin with a point
    are no images.

    Args:
        labels: the csv file; default: the only one in the folder, if there is any.
        size: `(H, W)`, or one number for both, to resize to; default: the images', which then have one.
        kinds: see `columns.read_columns`.
        test: a fraction of the rows that have any label (of all where none has), or their number; drawn at random and,
            with one class label, in proportion to the classes. Without meaning where the split is given.
        seed: of that sampling.

    Raises:
        InputError: there are no images, they have different sizes, or one cannot be read; there are several csv files;
            a line of it names no image, or one twice; a label, the split or `test` is not as it should be.
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
    order = torch.cat(rows).tolist()  # the rows of the training are one part of the file, those of the test the next
    files = [files[i] for i in order]
    channels, size, stamp = _about(folder, files, size)
    x = image_array([folder / file for file in files], folder.name, channels=channels, size=size, stamp=stamp)
    n = len(rows[0])
    space = Images(*x.shape[1:])
    names = {"train": files[:n], "test": files[n:]}
    return make_table(folder.name, {"x": (space, x[:n])}, {"x": (space, x[n:])}, columns, rows, names)


def _images(folder: Path) -> list[str]:
    """The images below a folder, relative to it, with slashes, sorted."""
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
        note(f"{folder}: {len(others)} files are left out, such as {min(others)}: no JPEG or PNG")
    return sorted(found)


def _csv(folder: Path) -> Path | None:
    found = sorted(path for path in folder.glob("*.csv") if not path.name.startswith("."))
    if len(found) > 1:
        got = ", ".join(path.name for path in found)
        raise InputError(f"labels: got several csv files in {folder}: {got}; expected one, or the path of one")
    return found[0] if found else None


def _folders_of_classes(files: Sequence[str]) -> tuple[list[str], Tensor | None]:
    """The class of each image, "" where it has none, and the split, if the folders are one."""
    parts = [file.split("/")[:-1] for file in files]
    words = [WORDS.get(part[0].lower()) if part else None for part in parts]
    if TRAINING not in words or not {TEST, VALIDATION} & {*words}:
        return [part[0] if part else "" for part in parts], None
    if None in words:
        file = files[words.index(None)]
        raise InputError(f"{file}: got an image outside of the folders of training and test; expected images there")
    return [part[1] if len(part) > 1 else "" for part in parts], torch.tensor(words)


def _labels_of(
    folder: Path, files: Sequence[str], path: Path
) -> tuple[dict[str, list[str]], Tensor | None, Callable[[int], str]]:
    """The cells of the columns of a csv file for each image, "" where it has no line; the split, if there is one; and
    what says where a row's cells are."""
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
    """What may stand for an image in a csv file -> images: its path, or else its name; both also without suffix."""
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
    """The column that names the images."""
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
    """Channels, size and a stamp of the images, from their headers and what the file system says of them."""
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
