"""SHA-256 digests of tensors and checkpoint contents; the same in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK = 16 << 20  # bytes


def blocks(x: Tensor) -> Iterator[memoryview]:
    """The bytes of a dense tensor in blocks of rows, so that a memory-mapped tensor is never loaded as a whole."""
    rows = x.reshape(1) if x.dim() == 0 else x
    if rows.numel():
        row_bytes = rows[:1].numel() * rows.element_size()
        for part in rows.detach().split(max(1, BLOCK // row_bytes)):
            yield memoryview(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def digest(value: Any) -> str:
    """The digest of nested dicts, lists, tensors, numbers and strings (`files.check_plain`), as 64 hexadecimal digits.

    It depends on types and shapes as well as on values.

    >>> digest({"a": [1, 2]}) == digest({"a": [1, 2]}) != digest({"a": [1, "2"]})
    True
    >>> digest(torch.tensor([1, 2])) == digest(torch.tensor([2, 1]))
    False
    """
    found = hashlib.sha256()
    _take(found.update, value)
    return found.hexdigest()


def _take(update: Callable[[bytes | memoryview], None], value: Any) -> None:
    """Adds a value. Each part is preceded by its type and length, so that different values have different bytes."""
    if isinstance(value, dict):
        update(f"dict {len(value)};".encode())
        for key, part in value.items():
            _take(update, key)
            _take(update, part)
    elif isinstance(value, list | tuple):
        update(f"{'list' if isinstance(value, list) else 'tuple'} {len(value)};".encode())
        for part in value:
            _take(update, part)
    elif isinstance(value, Tensor):
        update(f"tensor {value.dtype} {tuple(value.shape)} {value.requires_grad};".encode())
        for block in blocks(value):
            update(block)
    else:
        text = repr(value).encode(errors="surrogatepass")
        update(f"{type(value).__name__} {len(text)};".encode() + text)
