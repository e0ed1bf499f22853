"""IDX files, the format of MNIST and its variants: a big-endian header, then unsigned bytes."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from pyro_semivae.errors import InputError
from pyro_semivae.files import user_path


def read_idx(path: Path) -> np.ndarray:
    """Memory-maps the uint8 array in an uncompressed IDX file, read-only.

    Raises:
        FileNotFoundError: the file is missing.
        InputError: it is not an IDX file of unsigned bytes, has not one to four dimensions, has no items, or its length
            differs from what its header implies.
    """
    path = user_path(path, "path")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4)
        if len(head) < 4 or head[:3] != b"\0\0\x08":
            raise InputError(f"{path}: not an IDX file of unsigned bytes (it starts with {head!r})")
        num_dims = head[3]
        if not 1 <= num_dims <= 4:
            raise InputError(f"{path}: its header says {num_dims} dimensions; expected 1 (labels) to 4 (images)")
        raw = file.read(4 * num_dims)
    if len(raw) < 4 * num_dims:
        raise InputError(f"{path}: truncated in its header ({size} bytes)")
    shape = struct.unpack(f">{num_dims}I", raw)
    offset = 4 + 4 * num_dims
    if 0 in shape:
        raise InputError(f"{path}: no items, its header says {shape}")
    expected = offset + math.prod(shape)  # Python's integers do not overflow
    if size != expected:
        kind = "truncated" if size < expected else "too long"
        raise InputError(f"{path}: {kind}: got {size} bytes; expected {expected} from its header {shape}")
    return np.memmap(path, np.uint8, "r", offset, shape)
