"""The space of continuous labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor, check_count, check_number
from pyro_semivae.nn import positive
from pyro_semivae.spaces.base import Labels, rows_of
from pyro_semivae.spaces.missing import as_labels, is_missing


@dataclass(frozen=True)
class Real(Labels):
    """`size` continuous labels (an angle, an age): float tensors `(B, size)`, NaN where an entry is missing.

    The prior is a Gaussian for each label, and networks return a mean and a raw scale for each. The inputs and outputs
    of networks are standardised by `loc` and `scale`, so that an age in years is as easy for them as an angle in
    radians.

    Args:
        size: the number of labels. loc, scale: a number for each label, such as the mean and standard deviation of its
            values (default: 0 and 1). The default prior is the Gaussian with these parameters.

    Raises:
        InputError: `size` is not a positive integer; `loc` or `scale` are not `size` finite numbers; a `scale` is not
            above 0.

    >>> age = Real(1, loc=(40.0,), scale=(20.0,))
    >>> age.code(torch.tensor([[60.0]]), torch.float32), age.prior().flatten()
    (tensor([[[1.]]]), tensor([40., 20.]))
    """

    size: int
    loc: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    num_values: ClassVar[None] = None
    marker: ClassVar[float] = math.nan
    report: ClassVar[str] = "values"

    def __post_init__(self) -> None:
        check_count("size", self.size)
        for name, accepted in (("loc", {}), ("scale", {"above": 0})):
            given = getattr(self, name)
            if given is None:
                continue
            if not isinstance(given, list | tuple) or len(given) != self.size:
                raise InputError(f"{name}: got {given!r}; expected {self.size} numbers, one for each label")
            numbers = tuple(check_number(name, value, **accepted) for value in given)
            object.__setattr__(self, name, numbers)  # the class is frozen

    def __repr__(self) -> str:
        units = "" if self.loc is None and self.scale is None else f", loc={self.loc}, scale={self.scale}"
        return f"Real(size={self.size}{units})"

    def in_units_of(self, y: Tensor) -> Real:
        """The space with the means and standard deviations of the known values in `y` as `loc` and `scale`."""
        known = [column[~is_missing(column)].double() for column in self.validate(y).T]
        spread = [column.std(correction=0).item() if len(column) else 0.0 for column in known]
        loc = (column.mean().item() if len(column) else 0.0 for column in known)
        return Real(self.size, tuple(loc), tuple(s or 1.0 for s in spread))

    def _units(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        loc = 0.0 if self.loc is None else like.new_tensor(self.loc)
        return loc, 1.0 if self.scale is None else like.new_tensor(self.scale)

    @property
    def entries(self) -> int:
        return self.size

    code_size = entries

    @property
    def raw_size(self) -> int:
        return 2 * self.size

    def prior(self, given: Any = None) -> Tensor:
        """Checks means and standard deviations, `(2, size)`, and returns them; `loc` and `scale` by default.

        Raises:
            InputError: they are not finite, their shape is another, or a standard deviation is not above 0.
        """
        if given is None:
            return torch.tensor([self.loc or (0.0,) * self.size, self.scale or (1.0,) * self.size])
        both = as_tensor("prior", given)
        if both.shape != (2, self.size) or not both.isfinite().all() or not (both[1] > 0).all():
            accepted = f"(2, {self.size}), finite means and standard deviations above 0"
            raise InputError(f"prior: got {both}; expected {accepted}")
        return both

    def logits(self, parameters: Tensor) -> Tensor:
        """The parameters of `prior_distribution`."""
        return parameters

    def prior_distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Normal(parameters[0], parameters[1])

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        (loc, scale), (at, unit) = raw.squeeze(-2).chunk(2, -1), self._units(raw)
        return dist.Normal(at + unit * loc, unit * positive(scale))

    def code(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        at, unit = self._units(values)
        return ((values - at) / unit).unsqueeze(-2)

    def validate(self, values: Any, name: str = "y") -> Tensor:
        """The labels as a tensor `(B, size)` of the default dtype.

        Raises:
            InputError: wrong rank or dtype, or infinite values.
        """
        accepted = f"a float tensor (B, {self.size}) of finite numbers, or NaN for missing"
        y = as_labels(values, name, accepted)
        if not y.is_floating_point():
            raise InputError(f"{name}: got dtype {y.dtype}; expected {accepted}")
        if y.dim() != 2 or y.shape[1] != self.size:
            raise InputError(f"{name}: got shape {tuple(y.shape)}; expected {accepted}")
        if (outside := y.isinf()).any():
            raise InputError(f"{name}: got infinity at rows {rows_of(outside.any(1))}; expected {accepted}")
        return y.to(torch.get_default_dtype())

    def frequencies(self, y: Any, smoothing: float = 1.0) -> Tensor:
        """Means and standard deviations of the observed labels, `(2, size)`, as `prior` takes them. `smoothing` is a
        number of additional rows with the observed mean and a deviation of 1, so that no deviation is 0.

        >>> Real(1).frequencies(torch.tensor([[1.0], [3.0], [torch.nan]]), smoothing=1.0)[0]
        tensor([2.])
        """
        check_number("smoothing", smoothing, above=0)
        y = self.validate(y)
        known, mean = ~is_missing(y), y.nanmean(0).nan_to_num()
        squares = ((y - mean).nan_to_num().square() * known).sum(0)
        return torch.stack([mean, ((squares + smoothing) / (known.sum(0) + smoothing)).sqrt()])

    def probabilities(self, table: Tensor) -> Tensor:
        raise InputError("classify: continuous labels have no probabilities, only means")

    def score(self, found: Tensor, y: Tensor) -> dict[str, float]:
        return {"mean_absolute_error": (found - y).abs().nanmean().item()}

    def settings(self, y: Tensor) -> list[tuple[str, Tensor]]:
        found = []
        for entry in range(self.entries):
            known = y[:, entry][~is_missing(y[:, entry])].double()
            for value in known.quantile(torch.tensor([0.05, 0.275, 0.5, 0.725, 0.95]).to(known)) if len(known) else ():
                row = torch.full((self.entries,), torch.nan)
                row[entry] = value
                found.append((f"{entry}: {value:.2g}" if self.entries > 1 else f"{value:.2g}", row))
        return found

    def most_probable(self, probs: Tensor) -> Tensor:
        return probs
