"""How much of an image survives when its class is set to another one: by simple statistics, and by its latents."""

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
    """Statistics of bright figures on a dark ground that mean something, `(B,)` each, float64.

    * `brightness`: the mean of the pixels, in [0, 1].
    * `thickness`: twice the sum of the pixels over the length of the outline (the total variation), in pixels: of a
      long stroke its width.
    * `slant`: how many pixels the figure leans to the right for each pixel up: the shear in its second moments, minus
      the covariance of column and row over the variance of the row.
    * `width`, `height`: the sides of the box whose second moments it has, sqrt(12 Var + 1) of column and row, pixels.

    Args:
        x: `(B, C, H, W)`, float or uint8; colours are averaged. A black image has a brightness; the rest is NaN.

    Raises:
        InputError: they are no images, or not finite.

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
    """How much of an image's variation within its class an intervention on the class keeps, by each statistic.

    The correlation of a statistic of the image with that of its intervention among the images of one old class that
    are set to one new class; the mean over these groups, each with the weight of its size minus 1. So what the classes
    themselves differ in does not count. 1 where every result is its image's, changed by the classes alone (t = a + b s
    with b > 0, a and b of the two classes); 0 in expectation where results are new samples, exactly 0 where they are
    all the same. It says nothing of whether the class was set: an intervention that does nothing has 1 as well.

    Args:
        before, after: see `image_statistics`; of each intervention's image and result, `(M,)`.
        y, y_new: `(M,)`, the image's class and the one that was set; where one is missing (-1) it does not count, nor
            where the statistic is NaN.

    Returns a value in [-1, 1] for each statistic, NaN where no group has two images that differ.

    Raises:
        InputError: there are other statistics before and after, or the shapes differ.
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
    """How much of the results' variation within their class the images' other latents explain: held-out R^2.

    Ridge regression from what the model keeps of an image (z_s; posterior means) to each statistic of its intervention,
    both relative to their mean among the images of one old class that are set to one new class. The first half of the
    images fits it, the other half scores it. 0 where results are sampled anew, or worse than the mean.

    Args:
        rest: `(N, D)`, of the images, D one or more. after, y, y_new: see `kept`.
        rows: `(M,)`, which image each intervention is of.

    Returns a value in [0, 1] for each statistic, NaN where fewer than two interventions are in either half.

    Raises:
        InputError: the shapes do not fit, latents are not finite, or rows are not 0 to N - 1.
    """
    rest, rows = check_finite("rest", rest, 2), as_labels(rows, "rows")
    (y, y_new), rows = _classes(y, y_new), rows.to(rest.device)
    outside = rows.is_floating_point() or rows.shape != y.shape or ((rows < 0) | (rows >= len(rest))).any()
    if outside or not rest.shape[1]:
        shapes = f"{tuple(rest.shape)} and {tuple(rows.shape)}, {len(y)} interventions"
        raise InputError(f"rest, rows: got shapes {shapes}; expected (N, D) and (M,), numbers of 0 to N - 1")
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
    """The number of each row's group, the rows of which have the same labels, `(M,)`."""
    return torch.stack(labels, 1).unique(dim=0, return_inverse=True)[1]


def _sum(values: Tensor, group: Tensor) -> Tensor:
    """Sums over groups, `(G, ...)`."""
    number = int(group.max()) + 1 if len(group) else 0
    return values.new_zeros(number, *values.shape[1:]).index_add_(0, group, values)


def _within(values: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Values minus their group's mean, and in which groups they vary by more than rounding; elsewhere they are 0."""
    size = _sum(torch.ones_like(values), group)
    centred = values - (_sum(values, group) / size)[group]
    varies = _sum(centred**2, group) > 1e-10 * _sum(values**2, group)
    return torch.where(varies[group], centred, 0.0), varies
