"""Reads uploaded image files, which are untrusted: their headers are checked before decoding."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_semivae.data.folders import ACCEPTED, FORMATS, in_mode
from pyro_semivae.errors import InputError
from pyro_semivae.files import user_path

MAX_BYTES = 10 << 20
MAX_PIXELS = 25_000_000


def read_upload(path: str | Path, shape: tuple[int, int, int], *, name: str | None = None) -> Tensor:
    """Reads a JPEG or PNG file as a batch of one image, uint8 `(1, C, H, W)`, in the same way as `data.load_folder`.

    It is resized to H x W without cropping. The EXIF orientation is applied, transparent pixels are composited onto
    black, and for one channel the image is converted to grey.

    Args:
        shape: `(C, H, W)`, C 1 or 3. name: the file's name in error messages (default: its own).

    Raises:
        InputError: the file has more than `MAX_BYTES` bytes or `MAX_PIXELS` pixels, is missing, not a JPEG or PNG
            image, an animation, or damaged.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError  # torchvision needs it too

    path = user_path(path, "upload")
    name = path.name if name is None else name
    channels, height, width = shape
    if not path.is_file():
        raise InputError(f"upload: {name} is not a file; {ACCEPTED}")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InputError(f"upload: {name} has {size / 2**20:.1f} MB; expected at most {MAX_BYTES >> 20} MB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about many pixels, which is an error below, and about odd metadata
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    got = f"{image.width} x {image.height} pixels"
                    raise InputError(f"upload: {name} has {got}; expected at most {MAX_PIXELS // 10**6} million")
                if (frames := getattr(image, "n_frames", 1)) > 1:
                    raise InputError(f"upload: {name} is an animation of {frames} images; expected one image")
                image = in_mode(ImageOps.exif_transpose(image), channels)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    except InputError:
        raise
    except Image.DecompressionBombError as error:  # raised by `open` for very many pixels
        raise InputError(
            f"upload: {name} has far too many pixels; expected at most {MAX_PIXELS // 10**6} million"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"upload: {name} is not a JPEG or PNG image") from error
    except Exception as error:  # PIL raises many kinds for a damaged file
        raise InputError(f"upload: {name} is damaged: {str(error)[:100]}") from error
    pixels = np.array(image)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy() if channels == 3 else pixels[None]).unsqueeze(0)
