"""CelebA: faces with binary attributes, from the official files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from pyro_semivae.data.faces import ATTRIBUTES
from pyro_semivae.data.folders import image_array, open_text
from pyro_semivae.data.image_data import ImageData
from pyro_semivae.errors import InputError
from pyro_semivae.files import user_path

WHERE = (
    "Get img_align_celeba.zip, list_attr_celeba.txt and list_eval_partition.txt from "
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (non-commercial research only) and unpack them into {folder}"
)


def load_celeba(root: str | Path, *, attributes: tuple[str, ...] = ATTRIBUTES, size: int = 64) -> ImageData:
    """Loads the official training and test images, with `attributes` (default: the 18 that CCVAE uses, C.1).

    Args:
        root: the folder that contains `celeba/` with `img_align_celeba/`, `list_attr_celeba.txt`,
            `list_eval_partition.txt` (torchvision's layout). size: images are resized to size x size, without cropping.

    Raises:
        FileNotFoundError: a file is missing; the message says where to get it. InputError: a file is malformed.
    """
    folder = user_path(root, "root") / "celeba"
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"):
        if not (folder / name).exists():
            raise FileNotFoundError(f"dataset celeba: no {folder / name}. {WHERE.format(folder=folder)}")
    files, names, values = read_attributes(folder / "list_attr_celeba.txt")
    if not attributes or isinstance(attributes, str) or set(attributes) - set(names):
        raise InputError(f"attributes: got {attributes!r}; expected some of {', '.join(names)}")
    split = read_partition(folder / "list_eval_partition.txt")
    if set(split) != set(files):
        other = sorted(set(split) ^ set(files))
        raise InputError(f"{folder}: {len(other)} images are in one of the two lists only, {other[0]} among them")
    columns = [names.index(name) for name in attributes]
    parts = []
    for number in (0, 2):  # training, test
        rows = [i for i, name in enumerate(files) if split[name] == number]
        if not rows:
            raise InputError(f"{folder / 'list_eval_partition.txt'}: no image is in split {number}")
        paths = [folder / "img_align_celeba" / files[i] for i in rows]
        parts.append(image_array(paths, "celeba", channels=3, size=size, where=WHERE.format(folder=folder)))
        parts.append(torch.from_numpy(values[np.ix_(rows, columns)] > 0).float())
    return ImageData("celeba", tuple(attributes), *parts)


def read_attributes(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Reads `list_attr_celeba.txt`: file names, attribute names, and int8 values -1 or 1 `(N, number of names)`.

    The first line is the number of images, the second the names; each further line has a file name and the values.

    Raises:
        InputError: the file does not have this format; the message names the line.
    """
    with open_text(path) as file:
        lines = file.read().splitlines()
    if len(lines) < 2 or not re.fullmatch("[0-9]{1,12}", lines[0].strip()):  # int() refuses thousands of digits
        got = lines[0][:100] if lines else ""
        raise InputError(f"{path}: line 1: got {got!r}; expected the number of images")
    names, count = lines[1].split(), int(lines[0])
    if len(set(names)) < len(names):
        raise InputError(f"{path}: line 2: got {lines[1][:1000]!r}; expected different names")
    rows = {number: line.split() for number, line in enumerate(lines[2:], 3) if line.strip()}
    if len(rows) != count:
        raise InputError(f"{path}: got {len(rows)} images; line 1 says {count}: is the file truncated?")
    values = np.empty((count, len(names)), np.int8)
    for i, (line, row) in enumerate(rows.items()):
        if len(row) != 1 + len(names) or not set(row[1:]) <= {"1", "-1"}:
            got = " ".join(row)[:100]
            raise InputError(f"{path}: line {line}: got {got!r}; expected a file name, {len(names)} values -1 or 1")
        values[i] = row[1:]
    files = [row[0] for row in rows.values()]
    if len(set(files)) < count:
        twice = next(name for name in files if files.count(name) > 1)
        raise InputError(f"{path}: got {twice} in several lines; expected different images")
    return files, names, values


def read_partition(path: Path) -> dict[str, int]:
    """Reads `list_eval_partition.txt`: file name -> 0 (training), 1 (validation) or 2 (test).

    Raises:
        InputError: a line is not a file name and one of these numbers, or an image is listed twice.
    """
    out = {}
    with open_text(path) as file:
        lines = file.read().splitlines()
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise InputError(f"{path}: line {number}: got {line[:100]!r}; expected a file name and 0, 1 or 2")
        if fields[0] in out:
            raise InputError(f"{path}: line {number}: got {fields[0]} again; expected different images")
        out[fields[0]] = int(fields[1])
    return out
