"""IDX files, the format of MNIST and its siblings: a big-endian header, then unsigned bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from pyro_semivae.errors import InputError
from pyro_semivae.files import user_path


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in an uncompressed IDX file, read-only and memory-mapped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an IDX file of unsigned bytes, or not as long as its header says.
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
        raw = file.read(4 * num_dims)
    if len(raw) < 4 * num_dims:
        raise InputError(f"{path}: truncated in its header ({size} bytes)")
    shape = struct.unpack(f">{num_dims}I", raw)
    offset = 4 + 4 * num_dims
    expected = offset + int(np.prod(shape, dtype=np.int64))
    if size != expected:
        kind = "truncated" if size < expected else "too long"
        raise InputError(f"{path}: {kind}, {size} bytes where its header {shape} means {expected}")
    return np.memmap(path, np.uint8, "r", offset, shape)
