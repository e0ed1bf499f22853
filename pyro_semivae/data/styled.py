"""Digit outlines in random styles, with unstyled outlines as references: the task of the reference-based VAE (Ruiz et
al., A.3.1)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.data.image_data import ImageData
from pyro_semivae.data.reference import SIZES, ReferenceData, Shown
from pyro_semivae.errors import InputError, check_count

FACTORS = ("scale", "width", "red", "green", "blue")
SMALL = 16  # pixels


def styled(base: ImageData, size: int = 64, *, styles: int = 2, images: int = 0, seed: int = 0) -> ReferenceData:
    """Makes the paper's data sets from grey images with class labels, such as MNIST's.

    The first half of the training images become references: white outlines on black. The other half, each in `styles`
    random styles, becomes the unlabelled pool. The test images have one style each; half of them are for training
    probes.

    Args:
        base: grey images. size: the images' height and width, 64 as in the paper, or 32. styles: the number of styles
            per image of the pool. images: use the first N training images, 2 or more; 0: all. seed: of the styles.

    Raises:
        InputError: the images have colours or no class labels; `size` is not 32 or 64; `styles` is not a positive
            integer; `images` is too small.
    """
    check_count("styles", styles)
    if size not in SIZES:
        raise InputError(f"size: got {size!r}; expected {', '.join(map(str, SIZES))}")
    if base.x_shape[0] != 1 or base.labels.num_values is None or base.labels.entries is not None:
        raise InputError(f"base: got {base.name}; expected grey images with class labels")
    generator = torch.Generator().manual_seed(seed)
    number = min(images, len(base.x)) if check_count("images", images, 0) else len(base.x)
    half = number // 2
    if not half:
        raise InputError(f"images: got {images} of {len(base.x)}; expected two or more")
    reference = outlines(base.x[:half], size).expand(-1, 3, -1, -1)
    shown, factors = style(outlines(base.x[half:number], size).repeat(styles, 1, 1, 1), generator)
    pool = _shown(shown, factors, base.y[half:number].repeat(styles))
    found, factors = style(outlines(base.x_test, size), generator)
    measured = _shown(found, factors, base.y_test)
    middle = len(measured) // 2
    parts = measured[:middle], measured[middle:]
    y = torch.cat([torch.zeros(len(pool), dtype=torch.long), torch.ones(len(reference), dtype=torch.long)])
    x = torch.cat([pool.x, reference])
    pool = _shown(x[: len(pool)], pool.factors, pool.classes)  # the same memory
    return ReferenceData(f"styled-{base.name}-{size}", FACTORS, base.label_names, x, y, pool, *parts)


def _shown(x: Tensor, factors: Tensor, classes: Tensor) -> Shown:
    return Shown(x, factors, classes, torch.full_like(classes, -1))


def outlines(x: Tensor, size: int) -> Tensor:
    """Outlines of the regions brighter than .5, uint8 `(N, 1, S, S)` of 0 and 255, from grey images `(N, 1, H, W)`.

    Images are first resized bilinearly. An outline consists of the pixels that an erosion by 3x3 pixels removes, which
    gives closed lines one pixel wide; the paper does not state its edge detector. Images smaller than 16x16, which have
    no margin, are padded by a quarter of their side.
    """
    return torch.cat([_outlines(part, size) for part in x.split(2000)])


def _outlines(x: Tensor, size: int) -> Tensor:
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    if max(x.shape[2:]) < SMALL:
        x = F.pad(x, (x.shape[3] // 4,) * 2 + (x.shape[2] // 4,) * 2)
    inside = (F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False) > 0.5).float()
    eroded = 1 - F.max_pool2d(F.pad(1 - inside, (1, 1, 1, 1), value=1.0), 3, 1)
    return (255 * (inside - eroded)).to(torch.uint8)


def style(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Applies a random style to each image; returns the styled images and the styles.

    Lines are dilated by a square of w pixels, w uniform in 1 to 10 at 64x64 pixels (1 to 5 at 32x32), coloured with
    c / |c|_1, c uniform in [0, 1]^3, and shrunk about the centre by a factor s, uniform in [.5, 1].

    Args:
        x: uint8 `(N, 1, S, S)`. generator: for the styles.

    Returns uint8 `(N, 3, S, S)`, and `(N, 5)` numbers in [0, 1]: s, (w - 1) / (most - 1) with the largest width `most`
    (10 or 5), and the three colour components.
    """
    n, size = len(x), x.shape[-1]
    most = 10 * size // 64
    width = torch.randint(1, most + 1, (n,), generator=generator)
    colour = F.normalize(torch.rand(n, 3, generator=generator), p=1, dim=1)
    scale = 0.5 + 0.5 * torch.rand(n, generator=generator)
    out = torch.zeros(n, 3, size, size, dtype=torch.uint8)
    for w, rows in _groups(width):
        wide = _widened(x[rows].float(), w)
        for small, some in _groups((size * scale[rows]).round().long()):
            grey = F.interpolate(wide[some], size=(small, small), mode="bilinear", antialias=True, align_corners=False)
            before = (size - small) // 2
            grey = F.pad(grey, (before, size - small - before) * 2)
            out[rows[some]] = (grey * colour[rows[some], :, None, None]).round().clamp(0, 255).to(torch.uint8)
    return out, torch.cat([scale[:, None], ((width - 1) / (most - 1))[:, None], colour], 1)


def _widened(x: Tensor, width: int) -> Tensor:
    """Grey-level dilation by a square."""
    before = (width - 1) // 2
    return F.max_pool2d(F.pad(x, (before, width - 1 - before) * 2), width, 1)


def _groups(values: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yields each value and the rows that have it."""
    for value in values.unique().tolist():
        yield value, (values == value).nonzero()[:, 0]
