"""Damaged files and a full disk."""

import resource
from contextlib import contextmanager


def flipped(content, bit):
    """Bytes with one bit turned."""
    out = bytearray(content)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


@contextmanager
def full_disk():
    """Files end after 100 kB, with an error of the system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
