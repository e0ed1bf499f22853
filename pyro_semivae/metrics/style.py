"""How much of an image is preserved when its class is changed, measured by simple statistics and by its latents."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.errors import InputError, as_tensor
from pyro_semivae.metrics.checks import check_finite
from pyro_semivae.metrics.regression import held_out_r2
from pyro_semivae.spaces import MISSING, as_labels, to_unit


def image_statistics(x: Tensor) -> dict[str, Tensor]:
    """Interpretable statistics of bright figures on a dark background, `(B,)` each, float64.

    * `brightness`: the mean of the pixels, in [0, 1].
    * `thickness`: twice the sum of the pixels divided by the length of the outline (the total variation), in pixels;
      for a long stroke this is its width.
    * `slant`: the number of pixels that the figure leans to the right per pixel upwards: the shear in its second
      moments, which is minus the covariance of column and row divided by the variance of the row.
    * `width`, `height`: the sides of the box with the same second moments, sqrt(12 Var + 1) of column and row, in
      pixels.

    Args:
        x: `(B, C, H, W)`, float or uint8; colours are averaged. A black image has a brightness; its other statistics
            are NaN.

    Raises:
        InputError: they are not images, or not finite.

    >>> x = torch.zeros(1, 1, 9, 9)
    >>> x[..., 2:7, 3:6] = 1  # five high and three wide
    >>> found = image_statistics(x)
    >>> [round(found[name].item(), 6) for name in ("slant", "width", "height")]
    [-0.0, 3.0, 5.0]
    """
    x = to_unit(check_finite("x", x, 4)).double().mean(1)  # (B, H, W)
    mass = x.sum((1, 2))
    row, column = (torch.arange(size, dtype=x.dtype, device=x.device) for size in x.shape[1:])
    places = {"row": row[:, None].expand(x.shape[1:]), "column": column.expand(x.shape[1:])}
    off = {name: place - (x * place).sum((1, 2), keepdim=True) / mass[:, None, None] for name, place in places.items()}

    def moment(a: str, b: str) -> Tensor:
        return (x * off[a] * off[b]).sum((1, 2)) / mass

    padded = F.pad(x, (1, 1, 1, 1))
    down, right = padded[:, 1:, :-1] - padded[:, :-1, :-1], padded[:, :-1, 1:] - padded[:, :-1, :-1]
    return {
        "brightness": x.mean((1, 2)),
        "thickness": 2 * mass / (down**2 + right**2).sqrt().sum((1, 2)),
        "slant": -moment("row", "column") / moment("row", "row"),
        "width": (12 * moment("column", "column") + 1).sqrt(),
        "height": (12 * moment("row", "row") + 1).sqrt(),
    }


def kept(before: Mapping[str, Tensor], after: Mapping[str, Tensor], y: Tensor, y_new: Tensor) -> dict[str, float]:
    """How well an intervention on the class preserves an image's variation within its class, for each statistic.

    This is the correlation between a statistic of the image and of the intervention's result, among the images of one
    old class that are set to one new class, averaged over these groups with their sizes minus 1 as weights. Differences
    between the classes themselves therefore do not count. It is 1 if the result's statistic t is a linear function of
    the image's s, t = a + b s with b > 0, where a and b depend on the two classes alone. It is 0 in expectation if
    results are new samples, and exactly 0 if they are all the same. It does not measure whether the class was set: an
    intervention that changes nothing has 1, too.

    Args:
        before, after: see `image_statistics`; of each intervention's image and of its result, `(M,)`.
        y, y_new: `(M,)`, the image's class and the class that was set. Interventions with a missing class (-1), or with
            NaN as the statistic, do not count.

    Returns a value in [-1, 1] for each statistic, NaN if no group has two images that differ.

    Raises:
        InputError: `before` and `after` have different statistics, or the shapes differ.
    """
    y, y_new = _classes(y, y_new)
    if before.keys() != after.keys():
        raise InputError(f"before, after: got {sorted(before)} and {sorted(after)}; expected the same statistics")
    out = {}
    for name in before:
        s, t = _columns(name, y, before[name], after[name])
        use = s.isfinite() & t.isfinite() & (y != MISSING) & (y_new != MISSING)
        (s, t), group = (s[use], t[use]), _groups(y[use], y_new[use])
        (s, s_varies), (t, t_varies) = (_within(value, group) for value in (s, t))
        dot = [_sum(product, group) for product in (s * t, s * s, t * t)]
        r = torch.where(t_varies, dot[0] / (dot[1] * dot[2]).sqrt(), 0.0)[s_varies]
        weight = (group.bincount() - 1).to(r)[s_varies]
        out[name] = ((r * weight).sum() / weight.sum()).item()
    return out


def rest_explained(
    rest: Tensor, after: Mapping[str, Tensor], y: Tensor, y_new: Tensor, rows: Tensor
) -> dict[str, float]:
    """The held-out R^2 of the results' variation within their class, predicted from the images' other latents.

    A ridge regression from the latents that the model keeps (z_s; posterior means) to each statistic of the
    intervention's result, both relative to their mean among the images of one old class that are set to one new class.
    It is fitted to the first half of the images and scored on the other half. It is 0 if results are sampled anew, or
    if the prediction is worse than the mean.

    Args:
        rest: `(N, D)`, the images' latents, D >= 1. after, y, y_new: see `kept`.
        rows: `(M,)`, the index of each intervention's image.

    Returns a value in [0, 1] for each statistic, NaN if either half has fewer than two interventions.

    Raises:
        InputError: the shapes do not fit, latents are not finite, or rows are not 0 to N - 1.
    """
    rest, rows = check_finite("rest", rest, 2), as_labels(rows, "rows")
    (y, y_new), rows = _classes(y, y_new), rows.to(rest.device)
    outside = rows.is_floating_point() or rows.shape != y.shape or ((rows < 0) | (rows >= len(rest))).any()
    if outside or not rest.shape[1]:
        shapes = f"{tuple(rest.shape)} and {tuple(rows.shape)}, {len(y)} interventions"
        raise InputError(f"rest, rows: got shapes {shapes}; expected (N, D) and (M,), integers 0 to N - 1")
    out = {}
    for name, value in after.items():
        (t,) = _columns(name, y, value)
        use = t.isfinite() & (y != MISSING) & (y_new != MISSING)
        number = rows[use].unique(return_inverse=True)[1].to(y.device)
        held_out = number >= (int(number.max()) + 1) // 2 if len(number) else number > 0
        group = _groups(y[use], y_new[use], held_out.long())
        features, target = _within(rest[rows[use]].double().to(y.device), group)[0], _within(t[use], group)[0]
        out[name] = _r2(*(part.cpu().numpy() for part in (features, target, held_out)))
    return out


def _r2(features: np.ndarray, target: np.ndarray, held_out: np.ndarray) -> float:
    if min(held_out.sum(), (~held_out).sum()) < 2:
        return math.nan
    return held_out_r2(features, target, held_out) if target[held_out].any() else 0.0


def _classes(y: Tensor, y_new: Tensor) -> tuple[Tensor, Tensor]:
    y, y_new = as_labels(y), as_labels(y_new, "y_new")
    for name, part in (("y", y), ("y_new", y_new)):
        if part.is_floating_point() or part.dim() != 1 or part.shape != y.shape or (part < MISSING).any():
            raise InputError(
                f"{name}: got {part.dtype} of shape {tuple(part.shape)}; expected the classes of the same "
                f"interventions, integers (M,) from {MISSING}"
            )
    return y, y_new.to(y.device)


def _columns(name: str, y: Tensor, *values: Tensor) -> list[Tensor]:
    values = [as_tensor(name, value).double().to(y.device) for value in values]
    for value in values:
        if value.shape != y.shape:
            raise InputError(f"{name}: got shape {tuple(value.shape)}; expected {tuple(y.shape)}, that of y")
    return values


def _groups(*labels: Tensor) -> Tensor:
    """The index of each row's group, `(M,)`; rows with the same labels form a group."""
    return torch.stack(labels, 1).unique(dim=0, return_inverse=True)[1]


def _sum(values: Tensor, group: Tensor) -> Tensor:
    """Sums over groups, `(G, ...)`."""
    number = int(group.max()) + 1 if len(group) else 0
    return values.new_zeros(number, *values.shape[1:]).index_add_(0, group, values)


def _within(values: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Values minus their group's mean, and a mask of groups that vary by more than rounding; in others they are 0."""
    size = _sum(torch.ones_like(values), group)
    centred = values - (_sum(values, group) / size)[group]
    varies = _sum(centred**2, group) > 1e-10 * _sum(values**2, group)
    return torch.where(varies[group], centred, 0.0), varies
