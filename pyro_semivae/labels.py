"""What is observed and what is missing: label spaces, missing entries, and the handler for them.

Class labels are integer tensors with -1 for missing (as in scikit-learn); multi-label and continuous labels
are float tensors with NaN for missing, per entry; `None` means that all are missing. Models keep their one
line, `y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})`; the handlers here turn
the observed values of such a site into evidence about an enumerated (or imputed) one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor, check_count

MISSING = -1


def is_missing(y: Tensor) -> Tensor:
    """Boolean mask of the missing entries of `y`, of its shape: NaN in a float tensor, -1 in an integer one.

    >>> is_missing(torch.tensor([3, -1])), is_missing(torch.tensor([0.0, float("nan")]))
    (tensor([False,  True]), tensor([False,  True]))

    Raises:
        InputError: see `as_labels`.
    """
    y = as_labels(y)  # 255 of uint8 compares equal to -1
    return y.isnan() if y.is_floating_point() else y == MISSING


def any_known(y: Tensor) -> Tensor:
    """Boolean mask `(N,)` of the rows of `y`, `(N,)` or `(N, L)`, in which any label is known.

    >>> any_known(torch.tensor([3, -1])), any_known(torch.tensor([[0.0, torch.nan], [torch.nan, torch.nan]]))
    (tensor([ True, False]), tensor([ True, False]))
    """
    known = ~is_missing(y)
    return known if known.dim() == 1 else known.any(1)


def as_labels(y: Any, name: str = "y", accepted: str = "integers (classes) or floats (binary labels)") -> Tensor:
    """Labels as this library computes with them: integers of any type as int64, floats as they are.

    Small integers would not do: a uint8 tensor is a mask where it is an index, and cannot hold -1.

    Args:
        y: a tensor, a numpy array or lists of numbers. accepted: what the error says is.

    Raises:
        InputError: it is something else, or of booleans.

    >>> as_labels(torch.tensor([1, 2], dtype=torch.uint8)).dtype
    torch.int64
    """
    y = as_tensor(name, y, accepted)
    if y.dtype == torch.bool:
        raise InputError(f"{name}: got dtype torch.bool; accepted is {accepted}")
    return y if y.is_floating_point() else y.long()


def as_binary(y: Any, name: str = "y") -> Tensor:
    """Binary labels of any number, `(N, L)` of the default dtype: see `Binary.validate`.

    Raises:
        InputError: they are no float `(N, L)`, or have values other than 0, 1 and NaN.

    >>> as_binary([[1.0, 0.0]])
    tensor([[1., 0.]])
    """
    y = as_labels(y, name)
    if y.dim() != 2 or not y.shape[1] or not y.is_floating_point():
        raise InputError(
            f"{name}: got {y.dtype} of shape {tuple(y.shape)}; accepted are binary labels, float (N, L) of 0, 1 and, "
            f"for missing, NaN"
        )
    return Binary(y.shape[1]).validate(y, name)


def enumerates(site: dict) -> bool:
    """Whether a site (or message) is a label to be summed: `infer={"enumerate": "parallel"}`."""
    return site["infer"].get("enumerate") == "parallel"


@dataclass(frozen=True)
class Classes:
    """The label space of one label with `num_classes` values: integer tensors `(B,)`, -1 for missing.

    Raises:
        ValueError: there are fewer than two classes.
    """

    num_classes: int

    def __post_init__(self) -> None:
        check_count("num_classes", self.num_classes, 2)

    def prior(self, probs: Tensor | None = None) -> Tensor:
        """Checked probabilities of the classes, `(num_classes,)`; uniform where not given.

        Raises:
            ValueError: they are not positive, not as many as classes or do not sum to 1.
        """
        if probs is None:
            return torch.full((self.num_classes,), 1 / self.num_classes)
        probs = as_tensor("prior", probs)
        if probs.shape != (self.num_classes,) or not (probs > 0).all() or abs(probs.sum() - 1) > 1e-4:
            raise InputError(f"prior: got {probs}; accepted are {self.num_classes} positive numbers that sum to 1")
        return probs

    @property
    def code_size(self) -> int:
        """The size of a label as a vector: one-hot."""
        return self.num_classes

    def missing(self, num_rows: int, device: torch.device | None = None) -> Tensor:
        """`num_rows` labels, all missing."""
        return torch.full((num_rows,), MISSING, dtype=torch.long, device=device)

    def validate(self, y: Tensor, name: str = "y") -> Tensor:
        """Returns `y` as a `(B,)` int64 tensor.

        Raises:
            ValueError: wrong rank or dtype, or labels outside -1 .. num_classes - 1.
        """
        accepted = f"a 1-d integer tensor with labels 0 to {self.num_classes - 1}, or {MISSING} for missing"
        y = as_labels(y, name, accepted)
        if y.is_floating_point():
            raise InputError(f"{name}: got dtype {y.dtype}; accepted is {accepted}")
        if y.dim() != 1:
            raise InputError(f"{name}: got shape {tuple(y.shape)}; accepted is {accepted}")
        outside = (y < MISSING) | (y >= self.num_classes)
        if outside.any():
            rows = outside.nonzero()[:5, 0].tolist()
            raise InputError(f"{name}: got {y[rows].tolist()} at rows {rows}; accepted is {accepted}")
        return y


@dataclass(frozen=True)
class Binary:
    """The label space of `num_labels` binary labels: float tensors `(B, num_labels)` of 0, 1, NaN for missing.

    Raises:
        ValueError: there is none.
    """

    num_labels: int

    def __post_init__(self) -> None:
        check_count("num_labels", self.num_labels)

    def prior(self, probs: Tensor | None = None) -> Tensor:
        """Checked probabilities of on, `(num_labels,)`; 1/2 where not given.

        Raises:
            ValueError: they are not inside of (0, 1) or not as many as labels.
        """
        if probs is None:
            return torch.full((self.num_labels,), 0.5)
        probs = as_tensor("prior", probs)
        if probs.shape != (self.num_labels,) or not ((probs > 0) & (probs < 1)).all():
            raise InputError(f"prior: got {probs}; accepted are {self.num_labels} probabilities in (0, 1)")
        return probs

    @property
    def code_size(self) -> int:
        """The size of the labels as a vector."""
        return self.num_labels

    def missing(self, num_rows: int, device: torch.device | None = None) -> Tensor:
        """`num_rows` rows of labels, all missing."""
        return torch.full((num_rows, self.num_labels), torch.nan, device=device)

    def validate(self, y: Tensor, name: str = "y") -> Tensor:
        """Returns `y` as a `(B, num_labels)` tensor of the default dtype.

        Raises:
            ValueError: wrong rank or dtype, or values that are not 0, 1 or NaN.
        """
        accepted = f"a float tensor (B, {self.num_labels}) of 0, 1 and, for missing, NaN"
        y = as_labels(y, name, accepted)
        if not y.is_floating_point():
            raise InputError(f"{name}: got dtype {y.dtype}; accepted is {accepted}")
        if y.dim() != 2 or y.shape[1] != self.num_labels:
            raise InputError(f"{name}: got shape {tuple(y.shape)}; accepted is {accepted}")
        outside = ~((y == 0) | (y == 1) | y.isnan())
        if outside.any():
            rows = outside.any(1).nonzero()[:5, 0].tolist()
            raise InputError(f"{name}: got {y[outside][:5].tolist()} at rows {rows}; accepted is {accepted}")
        return y.to(torch.get_default_dtype())


def frequencies(y: Tensor, num_classes: int | None = None, smoothing: float = 1.0) -> Tensor:
    """How often each class, or each binary label, is on among the observed entries of `y`, for a prior p(y).

    Args:
        y: `(N,)` integer labels with `num_classes`, or `(N, L)` floats, 0 or 1; some missing.
        num_classes: C of class labels; None for binary ones.
        smoothing: added to each count (of each class; of on and off), so that nothing is impossible.

    Returns probabilities, `(C,)` or `(L,)`.

    Raises:
        InputError: `y` has another shape, dtype or other values; `smoothing` is not a number above 0.

    >>> frequencies(torch.tensor([0, 0, 1, -1]), 2)
    tensor([0.6000, 0.4000])
    >>> frequencies(torch.tensor([[1.0, 0.0], [1.0, float("nan")]]))
    tensor([0.7500, 0.3333])
    """
    if not isinstance(smoothing, Real) or not 0 < smoothing < math.inf:
        raise InputError(f"smoothing: got {smoothing!r}; accepted is a finite number above 0")
    if num_classes is not None:
        y = Classes(check_count("num_classes", num_classes, 2)).validate(y)
        counts = torch.bincount(y[~is_missing(y)], minlength=num_classes) + smoothing
        return counts / counts.sum()
    y = as_binary(y)
    return (y.nansum(0) + smoothing) / ((~is_missing(y)).sum(0) + 2 * smoothing)


def _check_support(msg) -> None:
    """With validation on, as Pyro does: one entry per row (and label), each missing or in the support.

    Batch dimensions may be on the left of either, as everywhere.
    """
    y = msg["value"]
    if is_validation_enabled():
        accepted = tuple(msg["fn"].batch_shape)
        dims = min(y.dim(), len(accepted))
        if dims == 0 or y.shape[-dims:] != accepted[-dims:]:
            accepted = accepted[-max(y.dim(), 1) :]
            raise InputError(f"label '{msg['name']}': got shape {tuple(y.shape)}; accepted is {accepted}")
        outside = ~(msg["fn"].support.check(y) | is_missing(y))
        if outside.any():
            raise InputError(
                f"label '{msg['name']}': got {y[outside][:5].tolist()}; accepted are the values of "
                f"{msg['fn'].support} and, for missing, {'NaN' if y.is_floating_point() else MISSING}"
            )


class Evidence(Messenger):
    """Enumerates label sites that are passed values, and remembers the values.

    A site with `infer={"enumerate": "parallel"}` and `obs=y` becomes an unobserved one, to be enumerated by
    the handler outside of this one; `observed[name]` is then `y`, whose missing entries never reach a
    `log_prob`. An objective reads the sum over the label back through `select` and `is_missing`.

    Args:
        complete: no entry is missing: the site has the values that were passed, and nothing is enumerated.
    """

    def __init__(self, *, complete: bool = False) -> None:
        super().__init__()
        self.complete = complete
        self.observed: dict[str, Tensor] = {}

    def _pyro_sample(self, msg) -> None:
        if msg["is_observed"] and enumerates(msg):
            _check_support(msg)
            self.observed[msg["name"]] = msg["value"]
            msg["is_observed"] = False
            if self.complete:
                msg["done"] = True
            else:
                msg["value"] = None


class Impute(Messenger):
    """Draws the missing entries of label sites, and keeps the others.

    Outside of objectives (tasks, prior sampling): `obs=y` with missing entries becomes a value in which they
    are drawn from the site's own distribution. Enter it outside of plates, which expand that distribution.

    Args:
        most_probable: take the most probable value instead of a draw.
    """

    def __init__(self, *, most_probable: bool = False):
        super().__init__()
        self.most_probable = most_probable

    def _pyro_sample(self, msg) -> None:
        if enumerates(msg) and not (msg["done"] and not msg["is_observed"]):
            drawn = _mode(msg["fn"]) if self.most_probable else msg["fn"].sample()
            if msg["is_observed"]:
                _check_support(msg)
                drawn = torch.where(is_missing(msg["value"]), drawn, msg["value"])
            msg["is_observed"], msg["value"], msg["done"] = False, drawn, True


def _mode(fn) -> Tensor:
    """The most probable value of a discrete distribution, of its batch shape."""
    values = fn.enumerate_support(expand=False)
    return values.expand(values.shape[:1] + fn.batch_shape).gather(0, fn.log_prob(values).argmax(0, keepdim=True))[0]


def select(table: Tensor, values: Tensor, observed: Tensor, dim: int) -> Tensor:
    """The entries of an enumerated table at the observed values; 0 where the value is missing.

    Args:
        table: `(C, ..., B)`, a function of the enumerated value.
        values: the enumerated values, broadcastable to `table`.
        observed: `(..., B)` values, some missing.
        dim: the (negative) enumeration dimension of `table`, which is summed out.

    >>> select(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0], [1]]), torch.tensor([1, -1]), -2)
    tensor([3., 0.])

    Raises:
        InputError: `dim` is not a dimension of `table` from the right, `values` does not have its size there,
            `observed` has more than one entry there, or the three do not broadcast.
    """
    shapes = [tuple(part.shape) for part in (table, values, observed)]
    if not -table.dim() <= dim < 0:
        raise InputError(f"dim: got {dim} for a table of shape {shapes[0]}; accepted are {-table.dim()} to -1")
    fits = values.dim() >= -dim and table.shape[dim] in (1, values.shape[dim])
    fits = fits and (observed.dim() < -dim or observed.shape[dim] == 1)
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        fits = False
    if not fits:
        raise InputError(
            f"table, values, observed: got shapes {shapes[0]}, {shapes[1]}, {shapes[2]}; accepted are shapes that "
            f"broadcast, the second with the first's size and the third with none or 1 at dimension {dim}"
        )
    return torch.where(values == observed, table, 0.0).sum(dim)
