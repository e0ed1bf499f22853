"""Folders of image files as one memory-mapped array."""

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

DECODING = 2  # the version of what `_decode` makes of a file, for the cache's name
FORMATS = ("JPEG", "PNG")
ACCEPTED = "expected JPEG and PNG files"


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file in UTF-8, with or without a byte-order mark.

    Raises:
        InputError: it is a folder, or no such text.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            yield file
    except (UnicodeDecodeError, IsADirectoryError, csv.Error) as error:
        raise InputError(f"{path}: this is no text in UTF-8 ({error})") from error


@dataclass(frozen=True)
class Header:
    """What is known of an image file without decoding it.

    Attributes:
        is_grey: whether it has no colours. size: (H, W), as its EXIF orientation says.
        stamp: changes with the file: its length and when it was changed.
    """

    is_grey: bool
    size: tuple[int, int]
    stamp: str


def read_header(path: Path) -> Header:
    """The header of a JPEG or PNG file.

    Raises:
        InputError: it has none.
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
    """Images resized to H x W (bilinear with antialiasing, no crop), uint8 `(N, channels, H, W)`.

    They are decoded once, into a file in the cache folder that is then memory-mapped: the array takes no memory of its
    own. The cache's name depends on the files' names, the size, when the first and last one were changed, and `stamp`.
    A cache that is damaged is made anew, and a note on standard error says so.

    Files are JPEG or PNG of any mode. An EXIF orientation is followed; what is transparent lies on black, which is also
    what `shift` and `jitter` bring in; grey of 16 bits is scaled by 255 / 65535 and rounded (of colours of 16 bits
    PIL gives the upper 8); colour profiles are ignored.

    Args:
        name: of the data set, for messages and the cache's name. channels: 3, or 1 for grey. size: H and W, each 1 to
            4096, or one number for both. where: a sentence on where to get the files, for when one is missing.
        places: of each image the six numbers of an affine map from places in the new image to places in the file's, as
            PIL's `Image.transform` takes them, in the place of the resizing; what is outside is black.

    Raises:
        FileNotFoundError: an image is missing. InputError: one cannot be decoded, is of another format or has more
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
    """The images one after the other, decoded by several threads."""
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
            most = Image.MAX_IMAGE_PIXELS  # up to twice as many, PIL warns only
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
    """Whether an image has no colours, by its mode."""
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def in_mode(image: Image.Image, channels: int) -> Image.Image:
    """The image in RGB, or in grey for one channel; see `image_array`."""
    return _eight_bits(image).convert("RGB" if channels == 3 else "L")


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image in 8 bits or less, on black where it is transparent."""
    from PIL import Image

    if image.mode.startswith("I"):  # grey of 16 bits, in some versions as integers of 32
        levels = np.array(image).astype(np.int32)
        levels[levels == image.info.get("transparency")] = 0
        return Image.fromarray(np.rint(levels / 257).astype(np.uint8))  # 65535 / 257 = 255
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    return image
