"""Images and texts as self-contained HTML, without files, fonts or URLs."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def picture(x: Tensor) -> Image.Image:
    """Converts an image `(C, H, W)`, float in [0, 1] or uint8, with C 1 or 3, to a PIL image.

    >>> picture(torch.ones(1, 2, 3)).getpixel((0, 0))
    255
    """
    x = x if x.dtype == torch.uint8 else (x * 255).round().to(torch.uint8)
    pixels = np.asarray(x.cpu())
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def figures(images: Mapping[str, Tensor | None], height: int = 150) -> str:
    """Images side by side, each with its name below; None leaves an empty space above the name.

    Args:
        images: name -> an image as accepted by `picture`, or None. height: of each image, in CSS pixels.
    """
    out = []
    for name, x in images.items():
        style = f"height: {height}px; image-rendering: pixelated; display: block"
        shown = f'<div style="height: {height}px; width: {height}px"></div>'
        if x is not None:
            file = io.BytesIO()
            picture(x).save(file, format="png", compress_level=1)
            data = base64.b64encode(file.getvalue()).decode()
            shown = f'<img alt="{html.escape(name)}" src="data:image/png;base64,{data}" style="{style}"/>'
        caption = f"<figcaption>{html.escape(name)}</figcaption>"
        out.append(f'<figure style="margin: 0; text-align: center">{shown}{caption}</figure>')
    return f'<div style="display: flex; flex-wrap: wrap; gap: 12px">{"".join(out)}</div>'


def probabilities(found: Sequence[tuple[str, float]], most: int | None = None) -> str:
    """Formats the first `most` (default: all) names and probabilities of a classification; see `Explorer.read`.

    >>> probabilities([("owl", 0.9), ("cat", 0.1)], most=1)
    'owl 0.90'
    """
    return ", ".join(f"{html.escape(name)} {prob:.2f}" for name, prob in found[:most])
