"""The diversity of images generated for a class: their variance, and precision and recall in a feature space."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, check_count
from pyro_semivae.metrics.checks import check_finite, check_rows
from pyro_semivae.spaces import Classes, to_unit


def variance_share(
    x: Tensor, y: Tensor, generations: Tensor, y_generations: Tensor, num_classes: int, *, components: int = 50
) -> Tensor:
    """The variance of each class's generated images divided by that of its real images, `(num_classes,)`.

    V_c = sum_k Var(v_k . generations of c) / sum_k Var(v_k . images of c), where v_k are the first principal components
    of all real images, of every class, labelled or not. (Components of the class alone would be fitted to its sample:
    other real images of the class would have less than 1.) The expected value is 1 for other real images and a^2 for
    images a (x - mean) + mean; it is 0 if all generated images are the same. It is above 1 if the images generated for
    a class look like several classes.

    Args:
        x: real images `(N, C, H, W)`, uint8 or float, or features `(N, F)`. y: `(N,)` their classes, -1 where missing.
        generations: `(M, C, H, W)` or `(M, F)`. y_generations: `(M,)`, the classes that they were generated for.
        components: the maximum number of components; if a row has more than 2,048 numbers, they are computed from at
            most 2,000 rows.

    A class with fewer than two known images, or two generations, gets NaN.

    Raises:
        InputError: shapes do not fit, numbers are not finite, or labels are outside -1 to `num_classes` - 1.

    >>> x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    >>> variance_share(x, torch.zeros(500).long(), 0.5 * x, torch.zeros(500).long(), 2)
    tensor([0.2500,    nan], dtype=torch.float64)
    """
    x, y = _of_classes("x", x, y, num_classes)
    generations, drawn = _of_classes("generations", generations, y_generations, num_classes)
    if not len(x) or x.shape[1:] != generations.shape[1:]:
        shapes = f"{tuple(x.shape)} and {tuple(generations.shape)}"
        raise InputError(f"x, generations: got shapes {shapes}; expected one or more images or features of one size")
    generations, drawn = generations.to(x.device), drawn.to(x.device)
    basis = _principal_components(x, check_count("components", components))

    def variance(images: Tensor) -> Tensor:
        if len(images) < 2:
            return basis.new_tensor(torch.nan)
        return (_flat(images) @ basis).var(0).sum()

    return torch.stack([variance(generations[drawn == c]) / variance(x[y == c]) for c in range(num_classes)])


def _of_classes(name: str, images: Any, y: Any, num_classes: int) -> tuple[Tensor, Tensor]:
    """Checks images or features, of at least two dimensions, and their classes, which are moved to the same device."""
    y = Classes(check_count("num_classes", num_classes, 2)).validate(y, f"y of {name}")
    images = check_finite(name, check_rows(name, images, y))
    if images.dim() < 2 or 0 in images.shape[1:]:
        raise InputError(f"{name}: got shape {tuple(images.shape)}; expected rows of images or features")
    return images, y.to(images.device)


def _flat(images: Tensor) -> Tensor:
    """Flattens rows to float64 vectors; uint8 images are scaled to [0, 1]."""
    return to_unit(images).flatten(1).double()


def _principal_components(x: Tensor, number: int) -> Tensor:
    """The first K principal components of the rows of x, `(F, K)`; all of them if there are fewer than `number`."""
    size = x[0].numel()
    rows = _flat(x if size <= 2048 else x[:: -(-len(x) // 2000)])
    rows = rows - rows.mean(0)
    number = min(number, size, max(1, len(rows) - 1))
    if size <= len(rows):
        return torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -number:]
    vectors = rows.T @ torch.linalg.eigh(rows @ rows.T).eigenvectors[:, -number:]
    return vectors / vectors.norm(dim=0).clamp(min=1e-12)


def precision_recall(real: Tensor, generated: Tensor, *, neighbours: int = 3) -> tuple[float, float]:
    """Precision and recall of generated images (Kynkäänniemi et al., NeurIPS 2019, Eqs. 1 to 3).

    A set's manifold is the union of balls around its members that reach to their k-th nearest other member. Precision
    is the fraction of generated images on the manifold of the real images. Recall is the fraction of real images on the
    manifold of the generated ones; a mode that is never generated contributes 0.

    Args:
        real: `(N, F)` features of real images. generated: `(M, F)`. Both values grow with the number of rows, so
            compare them at equal numbers (the paper: equal numbers of real and generated images). neighbours: k, 3 in
            the paper.

    Returns NaN if a set has `neighbours` rows or fewer.

    Raises:
        InputError: features are not of these shapes, or not finite.

    >>> precision_recall(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), torch.tensor([[0.5], [0.6], [1.9]]), neighbours=1)
    (1.0, 0.5)
    """
    check_count("neighbours", neighbours)
    real, generated = check_finite("real", real, 2), check_finite("generated", generated, 2)
    if real.shape[1] != generated.shape[1]:
        shapes = f"{tuple(real.shape)} and {tuple(generated.shape)}"
        raise InputError(f"real, generated: got shapes {shapes}; expected (N, F) and (M, F)")
    if min(len(real), len(generated)) <= neighbours:
        return math.nan, math.nan
    real, generated = real.double(), generated.double()
    return _covered(generated, real, neighbours), _covered(real, generated, neighbours)


def _covered(points: Tensor, members: Tensor, neighbours: int) -> float:
    """The fraction of points on the manifold of members."""
    # The smallest distance, 0, is that to itself.
    radii = torch.cat([d.kthvalue(neighbours + 1, 1).values for d in _distances(members, members)])
    return torch.cat([(d <= radii).any(1) for d in _distances(points, members)]).double().mean().item()


def _distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Distances `(N, M)`, in blocks of rows; exactly 0 between equal rows."""
    return (torch.cdist(part, b, compute_mode="donot_use_mm_for_euclid_dist") for part in a.split(500))


def class_precision_recall(
    real: Tensor, y: Tensor, generated: Tensor, y_generated: Tensor, num_classes: int, *, neighbours: int = 3
) -> tuple[Tensor, Tensor]:
    """`precision_recall` for each class, at equal numbers: the first rows of each set, up to the size of the smaller.

    Args:
        real: `(N, F)` features of real images. y: `(N,)` their classes, -1 where missing.
        generated: `(M, F)`. y_generated: `(M,)`, the classes that they were generated for. neighbours: k.

    Returns precision and recall, `(num_classes,)` each, NaN for a class with too few rows.

    Raises:
        InputError: see `precision_recall`; labels do not fit or are outside -1 to `num_classes` - 1.
    """
    real, y = _of_classes("real", real, y, num_classes)
    generated, y_generated = _of_classes("generated", generated, y_generated, num_classes)
    found = []
    for c in range(num_classes):
        pair = real[y == c], generated[y_generated == c]
        number = min(map(len, pair))
        found.append(precision_recall(*(part[:number] for part in pair), neighbours=neighbours))
    precision, recall = torch.tensor(found, dtype=torch.double).T
    return precision, recall
