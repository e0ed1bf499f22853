"""Folders of image files as one memory-mapped array."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.files import cache_folder, open_beside, writable_folder
from pyro_semivae.progress import steps_of


def image_array(paths: Sequence[Path], name: str, *, channels: int, size: int = 64, threads: int = 4) -> Tensor:
    """Images resized to `size` x `size` (bilinear with antialiasing, no crop), uint8 `(N, channels, size, size)`.

    They are decoded once, into a file in the cache folder that is then memory-mapped: the array takes no memory of its
    own. The cache's name depends on the files' names, the size and when the first and last one were changed.

    Args:
        name: of the data set, for messages and the cache's name. channels: 3, or 1 for grey.

    Raises:
        FileNotFoundError: an image is missing. InputError: one cannot be decoded; the cache cannot be written.
    """
    for path in (paths[0], paths[-1]):
        if not path.is_file():
            raise FileNotFoundError(f"dataset {name}: no image {path}")
    stamps = [path.stat().st_mtime_ns for path in (paths[0], paths[-1])]
    text = "\n".join([*map(str, paths), f"{size} {channels} {stamps}"])
    cache = cache_folder() / f"{name}-{size}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npy"
    shape = (len(paths), channels, size, size)
    if not cache.is_file():
        writable_folder(cache.parent, "PYRO_SEMIVAE_CACHE")
        with open_beside(cache) as file, ThreadPoolExecutor(threads) as pool:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, header)
            block = 1000
            for i in steps_of(-(-len(paths) // block), f"{name}: decoding {len(paths)} images, 1,000 a step"):
                part = paths[i * block : (i + 1) * block]
                for image in pool.map(lambda path: _decode(path, name, channels, size), part):
                    file.write(image.tobytes())
    array = np.load(cache, mmap_mode="c")
    if array.shape != shape:
        raise InputError(f"{cache}: got an array of shape {array.shape}, expected {shape}; delete the file")
    return torch.from_numpy(array)


def _decode(path: Path, name: str, channels: int, size: int) -> np.ndarray:
    from PIL import Image  # torchvision needs it too

    try:
        with Image.open(path) as image:
            image = image.convert("RGB" if channels == 3 else "L").resize((size, size), Image.Resampling.BILINEAR)
    except FileNotFoundError:
        raise FileNotFoundError(f"dataset {name}: no image {path}") from None
    except OSError as error:
        raise InputError(f"dataset {name}: {path} cannot be decoded: {error}") from error
    pixels = np.asarray(image)
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]
