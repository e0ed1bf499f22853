"""Loads data sets by name: uint8 images `(N, C, H, W)` with class labels int64 `(N,)` or binary ones float `(N, L)`."""

from __future__ import annotations

import os
import socket
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_semivae.caches import cache_folder, cached_array
from pyro_semivae.data.affectnet import load_affectnet
from pyro_semivae.data.celeba import load_celeba
from pyro_semivae.data.chexpert import load_chexpert
from pyro_semivae.data.idx import read_idx
from pyro_semivae.data.image_data import ImageData
from pyro_semivae.errors import InputError
from pyro_semivae.files import user_path

DATA_ENV = "PYRO_SEMIVAE_DATA"


DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_TORCHVISION = {"mnist": ("MNIST", DIGITS), "fashionmnist": ("FashionMNIST", FASHION)}
_FOLDERS = {"celeba": load_celeba, "chexpert": load_chexpert, "affectnet": load_affectnet}
NAMES = (*_TORCHVISION, "digits", "faces", *_FOLDERS)
SMALL = (*_TORCHVISION, "digits")  # with small images; the others have large ones
CLASSES = (*SMALL, "affectnet")  # with class labels; the others have binary labels
ATTRIBUTES = tuple(name for name in NAMES if name not in CLASSES)


def data_root(data_dir: str | Path | None = None) -> Path:
    """The root folder of data sets, in torchvision's layout: `data_dir`, else `$PYRO_SEMIVAE_DATA`, else `./data`."""
    return user_path(data_dir or os.environ.get(DATA_ENV) or "data", "data_dir")


def load(name: str, data_dir: str | Path | None = None, *, download: bool = True, **options: Any) -> ImageData:
    """Loads a data set by name.

    `mnist` and `fashionmnist` are downloaded if necessary. `digits` (1,797 real 8x8 images) and `faces` (22,000
    rendered 64x64 faces with 18 binary attributes, see `data.faces`) are built in. `celeba`, `chexpert` and `affectnet`
    are read from files that must be obtained by hand; `options` are passed to `load_celeba`, `load_chexpert` or
    `load_affectnet`.

    Raises:
        ValueError: the name is unknown, the data set does not accept the options, or a file is damaged.
        FileNotFoundError: the files are missing and cannot be downloaded; the message says where to put them.
    """
    if options and name not in _FOLDERS:
        raise InputError(f"options: got {sorted(options)}; data set {name!r} accepts none")
    if name == "digits":
        return _digits()
    if name == "faces":
        return _faces()
    if name in _FOLDERS:
        return _FOLDERS[name](data_root(data_dir), **options)
    if name not in _TORCHVISION:
        raise InputError(f"dataset: got {name!r}; expected {', '.join(NAMES)}")
    folder, classes = _TORCHVISION[name]
    raw = data_root(data_dir) / folder / "raw"
    files = {
        (split, kind): raw / f"{prefix}-{kind}-idx{dims}-ubyte"
        for split, prefix in (("train", "train"), ("test", "t10k"))
        for kind, dims in (("images", 3), ("labels", 1))
    }
    missing = [path for path in files.values() if not path.is_file()]
    if missing:
        reason = _download(folder, data_root(data_dir)) if download else "downloading is switched off"
        if reason:
            raise FileNotFoundError(
                f"dataset {name}: no file {missing[0]} ({reason}). Put the four IDX files of {folder} "
                f"(torchvision's raw folder, uncompressed) into {raw}, or set their root by --data-dir or ${DATA_ENV}"
            )
    arrays = {key: read_idx(path) for key, path in files.items()}
    for split in ("train", "test"):
        images, labels = arrays[split, "images"], arrays[split, "labels"]
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise InputError(f"{raw}: {split} images {images.shape} and labels {labels.shape} do not belong together")
        if len(labels) and labels.max() >= len(classes):
            raise InputError(f"{files[split, 'labels']}: label {labels.max()} in a set of {len(classes)} classes")
    x, x_test = (torch.from_numpy(np.array(arrays[s, "images"])).unsqueeze(1) for s in ("train", "test"))
    y, y_test = (torch.from_numpy(np.array(arrays[s, "labels"])).long() for s in ("train", "test"))
    return ImageData(name, classes, x, y, x_test, y_test)


def load_auto(preferred: str, data_dir: str | Path | None = None) -> tuple[ImageData, str | None]:
    """Loads the `preferred` data set if it is on disk or can be downloaded, otherwise the digits.

    Returns the data and, if they are not the preferred data set, a sentence that says so and gives the reason.

    Raises:
        ValueError: the preferred data set's files are present but damaged, in which case there is no fallback.
    """
    try:
        return load(preferred, data_dir), None
    except FileNotFoundError as error:
        return load("digits"), f"running on the built-in digits (8x8) instead of {preferred}: {error}"


def load_small(name: str) -> ImageData:
    """A built-in data set for quick checks: 300 training and 100 test faces for `faces`, `celeba`, `chexpert` and
    `affectnet`, otherwise the digits."""
    return _faces(300, 100) if name in ("faces", *_FOLDERS) else load("digits")


def _digits() -> ImageData:
    """scikit-learn's digits, with levels 0..16 rescaled to 0..255 (uint8); every fifth row is a test row."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    y = torch.from_numpy(digits.target).long()
    test = torch.arange(len(y)) % 5 == 4
    return ImageData("digits", DIGITS, x[~test], y[~test], x[test], y[test])


def _faces(num_rows: int = 20_000, num_test: int = 2_000) -> ImageData:
    """Rendered faces, painted once and memory-mapped; training and test set have different seeds."""
    from pyro_semivae.data import faces

    x, y, strengths = [], [], []
    for seed, count in ((0, num_rows), (1, num_test)):
        drawn = faces.draw(count, seed)
        path = cache_folder() / f"faces-v{faces.VERSION}-seed{seed}-{count}.npy"
        x.append(torch.from_numpy(cached_array(path, lambda drawn=drawn: faces.paint(drawn, threads=2))))
        y.append(torch.from_numpy(drawn.labels).float())
        strengths.append(torch.from_numpy(drawn.strengths))
    return ImageData("faces", faces.ATTRIBUTES, x[0], y[0], x[1], y[1], strengths[0], strengths[1])


def _download(folder: str, root: Path, timeout_s: float = 5.0) -> str | None:
    """Downloads one of torchvision's data sets; returns the reason if that fails, else None."""
    import torchvision

    cls = getattr(torchvision.datasets, folder)
    mirrors = getattr(cls, "mirrors", None) or [""]
    reason = "no mirror"
    for mirror in mirrors:
        try:
            with urllib.request.urlopen(mirror + cls.resources[0][0].replace(mirror, ""), timeout=timeout_s):
                pass
        except OSError as error:
            reason = f"not downloadable: {getattr(error, 'reason', error)}"
            continue
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(timeout_s)  # also ends a stalled download
        try:
            cls(str(root), download=True)
        except (OSError, RuntimeError, HTTPException) as error:
            return f"the download failed: {error}"
        finally:
            socket.setdefaulttimeout(before)
        return None
    return reason
