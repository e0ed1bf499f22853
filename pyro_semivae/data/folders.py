"""Decodes image files into one memory-mapped array."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
import torch
from torch import Tensor

from pyro_semivae.caches import CACHE_ENV, cache_folder, read_array, write_array
from pyro_semivae.errors import InputError, check_count
from pyro_semivae.files import writable_folder
from pyro_semivae.progress import steps_of

if TYPE_CHECKING:
    from PIL import Image

DECODING = 2  # the version of `_decode`, part of the cache file's name
FORMATS = ("JPEG", "PNG")
ACCEPTED = "expected JPEG and PNG files"


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Opens a text file in UTF-8, with or without a byte-order mark.

    Raises:
        InputError: the path is a folder, or its contents are not UTF-8 text or not valid CSV.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            yield file
    except (UnicodeDecodeError, IsADirectoryError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected text in UTF-8") from error


@dataclass(frozen=True)
class Header:
    """Properties of an image file that are available without decoding it.

    Attributes:
        is_grey: whether it is a greyscale image. size: (H, W), after its EXIF orientation is applied.
        stamp: the file's length and modification time.
    """

    is_grey: bool
    size: tuple[int, int]
    stamp: str


def read_header(path: Path) -> Header:
    """Reads the header of a JPEG or PNG file.

    Raises:
        InputError: the header cannot be read.
    """
    from PIL import ExifTags, Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            turned = bool({"exif", "xmp"} & {*image.info}) and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            grey, state = is_grey(image), os.fstat(image.fp.fileno())
    except Exception as error:  # PIL raises many kinds for a damaged file
        raise InputError(f"{path}: cannot be read: {error}; {ACCEPTED}") from error
    return Header(grey, (width, height) if turned else (height, width), f"{state.st_size}-{state.st_mtime_ns}")


def image_array(
    paths: Sequence[Path],
    name: str,
    *,
    channels: int,
    size: int | tuple[int, int] = 64,
    threads: int = 4,
    where: str = "",
    stamp: str = "",
    places: Sequence[tuple[float, ...]] | None = None,
) -> Tensor:
    """Decodes images and resizes them to H x W (bilinear, antialiased, no crop), uint8 `(N, channels, H, W)`.

    They are decoded once into a file in the cache folder, which is then memory-mapped, so the array is not held in
    memory. The cache file's name depends on the files' names, `channels`, `size`, `places`, `stamp`, and the first and
    last file's modification times. A damaged cache file is rebuilt, with a note on standard error.

    Files are JPEG or PNG in any mode. The EXIF orientation is applied. Transparent pixels are composited onto black,
    which is also the padding of `shift` and `jitter`. 16-bit grey values are scaled by 255 / 65535 and rounded (for
    16-bit colours PIL returns the upper 8 bits). Colour profiles are ignored.

    Args:
        name: the data set's name, for messages and the cache file's name. channels: 3, or 1 for grey. size: H and W,
            each 1 to 4096, or one number for both. where: a sentence on where to get the files, for the error message
            about a missing file. stamp: any text that changes with the files.
        places: instead of resizing, six coefficients per image of an affine map from positions in the new image to
            positions in the file's image, as PIL's `Image.transform` takes them; positions outside are black.

    Raises:
        FileNotFoundError: an image is missing. InputError: an image cannot be decoded, has another format or more
            pixels than `PIL.Image.MAX_IMAGE_PIXELS`; the cache cannot be written.
    """
    height, width = _height_and_width(size)
    threads = check_count("threads", threads)
    where = f". {where}" if where else ""
    for path in (paths[0], paths[-1]):
        if not path.is_file():
            raise FileNotFoundError(f"dataset {name}: no image {path}{where}")
    stamps = [path.stat().st_mtime_ns for path in (paths[0], paths[-1])]
    named = str(height) if height == width else f"{height}x{width}"
    text = "\n".join([*map(str, paths), f"{named} {channels} {stamps} {DECODING}{stamp}{places or ''}"])
    found = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]
    cache = cache_folder() / f"{name}-{named}-{found}.npy"
    shape = (len(paths), channels, height, width)
    array = read_array(cache, shape)
    if array is None:
        writable_folder(cache.parent, CACHE_ENV)
        decoded = _decoded(paths, name, channels, (height, width), threads, where, places)
        write_array(cache, shape, np.uint8, decoded)
        array = np.load(cache, mmap_mode="c")
    return torch.from_numpy(array)


def _height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    both = size if isinstance(size, tuple | list) else (size, size)
    if len(both) != 2:
        raise InputError(f"size: got {size!r}; expected (H, W), or one number for both")
    return check_count("size", both[0], most=4096), check_count("size", both[1], most=4096)


def _decoded(
    paths: Sequence[Path],
    name: str,
    channels: int,
    size: tuple[int, int],
    threads: int,
    where: str,
    places: Sequence[tuple[float, ...]] | None,
) -> Iterator[np.ndarray]:
    """Yields the images in order, decoded by several threads."""
    block = 1000
    with ThreadPoolExecutor(threads) as pool:
        what = f"{name}: decoding {len(paths)} images, 1,000 a step"
        for i in steps_of(-(-len(paths) // block), what, delay=2.0):
            part = slice(i * block, (i + 1) * block)
            at = [None] * len(paths[part]) if places is None else places[part]
            yield from pool.map(lambda path, place: _decode(path, name, channels, size, where, place), paths[part], at)


def _decode(
    path: Path, name: str, channels: int, size: tuple[int, int], where: str, place: tuple[float, ...] | None = None
) -> np.ndarray:
    from PIL import Image, ImageOps  # torchvision needs it too

    try:
        with Image.open(path, formats=FORMATS) as image:
            most = Image.MAX_IMAGE_PIXELS  # up to twice this number, PIL only warns
            if most is not None and image.width * image.height > most:
                raise OSError(f"{image.width} x {image.height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS, {most}")
            image = in_mode(ImageOps.exif_transpose(image), channels)
        if place is None:
            image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        else:
            image = image.transform(size[::-1], Image.Transform.AFFINE, place, Image.Resampling.BILINEAR)
    except FileNotFoundError:
        raise FileNotFoundError(f"dataset {name}: no image {path}{where}") from None
    except Exception as error:  # PIL raises many kinds for a damaged file
        raise InputError(f"dataset {name}: {path} cannot be decoded: {error}; {ACCEPTED}") from error
    pixels = np.asarray(image)
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]


def is_grey(image: Image.Image) -> bool:
    """Whether an image's mode is greyscale."""
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def in_mode(image: Image.Image, channels: int) -> Image.Image:
    """Converts an image to RGB, or to grey for one channel; see `image_array`."""
    return _eight_bits(image).convert("RGB" if channels == 3 else "L")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Converts an image to at most 8 bits per channel, with transparent pixels composited onto black."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey, in some versions of PIL as 32-bit integers
        levels = np.array(image).astype(np.int32)
        levels[levels == image.info.get("transparency")] = 0
        return Image.fromarray(np.rint(levels / 257).astype(np.uint8))  # 65535 / 257 = 255
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    return image
