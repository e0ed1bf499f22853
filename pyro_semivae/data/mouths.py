"""Rendered faces whose mouth shape is the target, with faces of one mouth shape as references (Ruiz et al., A.3.2:
neutral faces)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.caches import cache_folder, cached_array
from pyro_semivae.data import faces
from pyro_semivae.data.reference import SIZES, ReferenceData, Shown
from pyro_semivae.errors import InputError, check_count

FACTORS = ("smile", "width")
ATTRIBUTES = ("no smile", "smile")
HAIR = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Grey_Hair")
MEASURED = 4_000
SEEDS = {"pool": 10, "references": 11, "test": 12, "held out": 13}


def mouths(size: int = 64, *, images: int = 0, held_out: int = 0, measured: int = MEASURED) -> ReferenceData:
    """Faces with each attribute on in half of them; the target factors are the mouth's corners and its width.

    The mouths of reference faces do not smile and have a medium width and bend; everything else varies, including the
    colour of the lips. The attribute is smiling or not, the class is the hair colour. The faces are the same in every
    run.

    Args:
        size: the images' height and width, 64 as painted, or 32, by means over 2x2 pixels. images: the total number of
            images in both training sets, 2 or more; 0: 20,000. held_out: if not 0, evaluate on this many other faces,
            for choosing settings. measured: the number of faces to evaluate on, half of them for training probes.

    Raises:
        InputError: `size` is not 32 or 64, or a number is not an integer or too small.
    """
    if size not in SIZES:
        raise InputError(f"size: got {size!r}; expected {', '.join(map(str, SIZES))}")
    half = (check_count("images", images, 0) or 20_000) // 2
    if not half:
        raise InputError(f"images: got {images}; expected two or more")
    number = check_count("held_out", held_out, 0) or check_count("measured", measured, 2)
    pool = _drawn(half, "pool", size)
    reference = _drawn(half, "references", size)
    found = _drawn(number, "held out" if held_out else "test", size)
    x = torch.cat([pool.x, reference.x])
    y = torch.arange(2).repeat_interleave(half)
    pool = replace(pool, x=x[:half])  # the same memory
    parts = found[: number // 2], found[number // 2 :]
    return ReferenceData(f"mouths-{size}", FACTORS, HAIR, x, y, pool, *parts, ATTRIBUTES)


def neutral(drawn: faces.Faces) -> faces.Faces:
    """The same faces with the mouth of a reference face."""
    drawn = drawn.with_label("Smiling", False)
    nuisances = drawn.nuisances.copy()
    for name in ("mouth_bend", "mouth_width"):
        nuisances[:, faces.NUISANCES.index(name)] = 0.5
    return replace(drawn, nuisances=nuisances)


def mouth_factors(drawn: faces.Faces) -> np.ndarray:
    """The height of the mouth's corners and its width, `(N, 2)`, scaled to 0 to 1 each."""
    up, half = faces.mouth_shape(drawn)
    return np.stack([(up + 0.03) / 0.2, (half - 0.13) / 0.08], 1).astype(np.float32)


def _drawn(number: int, part: str, size: int) -> Shown:
    drawn = faces.draw(number, SEEDS[part], rates="balanced")
    drawn = neutral(drawn) if part == "references" else drawn
    path = cache_folder() / f"mouths-v{faces.VERSION}-{part.replace(' ', '-')}-{number}.npy"
    x = torch.from_numpy(cached_array(path, lambda: faces.paint(drawn, threads=2)))
    if size < faces.SIZE:
        x = torch.cat([_halved(some) for some in x.split(2000)])
    hair = drawn.labels[:, [faces.ATTRIBUTES.index(name) for name in faces.HAIR]]
    classes = np.where(hair.any(1), hair.argmax(1), len(faces.HAIR))
    smiles = drawn.labels[:, faces.ATTRIBUTES.index("Smiling")]
    values = (torch.from_numpy(np.asarray(of)) for of in (mouth_factors(drawn), classes, smiles.astype(np.int64)))
    return Shown(x, *values)


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x.float(), 2).round().to(torch.uint8)
