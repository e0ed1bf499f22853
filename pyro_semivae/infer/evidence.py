"""Handlers for label sites with missing values, and the observed values that objectives read from them.

Models declare a label in one line, `y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})`. The
handlers here make such a site an enumerated (or imputed) one, and keep its observed values, some of them missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from pyro.distributions import Bernoulli
from pyro.infer.inspect import site_is_deterministic
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.errors import InputError
from pyro_semivae.spaces import MISSING, is_missing


def enumerates(site: dict) -> bool:
    """Whether a site (or message) is a label to marginalise: `infer={"enumerate": "parallel"}`."""
    return site["infer"].get("enumerate") == "parallel"


def enumeration_dim(site: dict) -> int | None:
    """The (negative) batch dimension of an enumerated site's values, as recorded by Pyro; None if not enumerated."""
    return site["infer"].get("_enumerate_dim")


def _check_support(msg) -> None:
    """If validation is enabled, checks that a label has one entry per row (and label), each missing or in the support.

    Both the label and its distribution may have more batch dimensions on the left.
    """
    y = msg["value"]
    if is_validation_enabled():
        accepted, one_hot = tuple(msg["fn"].shape()), msg["fn"].event_dim > 0
        dims = min(y.dim(), len(accepted))
        if dims == 0 or y.shape[-dims:] != accepted[-dims:]:
            accepted = accepted[-max(y.dim(), 1) :]
            raise InputError(f"label '{msg['name']}': got shape {tuple(y.shape)}; expected {accepted}")
        missing = is_missing(y).any(-1) if one_hot else is_missing(y)
        outside = ~(msg["fn"].support.check(y) | missing)
        if outside.any():
            raise InputError(
                f"label '{msg['name']}': got {y[outside][:5].tolist()}; expected the values of "
                f"{msg['fn'].support} and, for missing, {'NaN' if y.is_floating_point() else MISSING}"
            )


class Evidence(Messenger):
    """Makes observed labels unobserved, for a run of a guide and then of the model, and stores their values.

    A discrete label, `infer={"enumerate": "parallel"}` and `obs=y`, is then enumerated by the enclosing handler. A
    continuous label, observed in guide and model, takes its known values, and samples from the guide where they are
    missing; the model is replayed with both. `observed[name]` holds the values that were passed; their missing entries
    never reach a `log_prob`.

    Args:
        fully_observed: whether no entry of a discrete label is missing; labels then take the values that were passed
            and are not enumerated.
        data_complete: whether no row of data is missing; missing rows are then not looked for.
        draw: maps the distribution of a continuous label to the values for its missing entries; default: a sample.

    Attributes:
        observed: name -> values of the labels, some missing.
        continuous: the names of the continuous labels.
    """

    def __init__(
        self, *, fully_observed: bool = False, draw: Callable[[Any], Tensor] | None = None, data_complete: bool = False
    ) -> None:
        super().__init__()
        self.fully_observed, self.draw, self.data_complete = fully_observed, draw, data_complete
        self.observed: dict[str, Tensor] = {}
        self.continuous: list[str] = []
        self.of_guide = True

    def then_model(self) -> Evidence:
        """This handler, switched to the model: sites that only the model observes are data."""
        self.of_guide = False
        return self

    def _pyro_sample(self, msg) -> None:
        if not msg["is_observed"]:
            return
        name, y = msg["name"], msg["value"]
        if enumerates(msg):
            _check_support(msg)
            self.observed[name] = y
            msg["is_observed"] = False
            if self.fully_observed:
                msg["done"] = True
            else:
                msg["value"] = None
        elif self.of_guide and is_continuous_label(msg):
            self.observed[name] = y
            self.continuous.append(name)
            drawn = msg["fn"].rsample() if self.draw is None else self.draw(msg["fn"])
            msg["value"] = torch.where(is_missing(y), drawn, y.nan_to_num())
            msg["is_observed"], msg["done"] = False, True
        elif name in self.continuous:
            msg["is_observed"], msg["value"] = False, None
        elif not self.of_guide and not self.data_complete and _may_be_absent(msg):
            _leave_out_absent(msg)


def _may_be_absent(msg: dict) -> bool:
    """Whether rows of an observed data site may be missing (all NaN): floats with an event shape."""
    event = getattr(msg["fn"], "event_shape", ())
    return len(event) > 0 and 0 not in event and msg["value"].is_floating_point()


def _leave_out_absent(msg: dict) -> None:
    """Masks the missing rows of data (NaN) and sets them to 0; the mask excludes their density."""
    value, event_dim = msg["value"], msg["fn"].event_dim
    absent = value[(..., *(0,) * event_dim)].isnan()
    msg["value"] = torch.where(absent[(..., *(None,) * event_dim)], 0.0, value)
    msg["mask"] = ~absent if msg["mask"] is None else msg["mask"] & ~absent


def is_continuous_label(site: dict) -> bool:
    """Whether an observed site in a *guide* is a continuous label: it is unless marked as data."""
    marked = enumerates(site) or site["infer"].get("is_auxiliary") or site_is_deterministic(site)
    return site["is_observed"] and not marked and getattr(site["fn"], "has_rsample", False)


class DrawLabels(Evidence):
    """Samples the missing entries of a guide's discrete labels, too, and keeps the observed entries.

    Args:
        temperature: the temperature of relaxed, reparameterised samples: Bernoulli, or one-hot vectors for classes;
            None for plain samples.
    """

    def __init__(self, temperature: float | None, *, data_complete: bool = False):
        super().__init__(data_complete=data_complete)
        self.temperature = temperature

    def _pyro_sample(self, msg) -> None:
        if not (enumerates(msg) and self.of_guide):
            super()._pyro_sample(msg)
            return
        fn = msg["fn"]
        if self.temperature is None:
            drawn = fn.sample()
        elif isinstance(fn, Bernoulli):
            drawn = ((fn.logits + torch.rand_like(fn.logits).logit(eps=1e-6)) / self.temperature).sigmoid()
        else:
            drawn = F.gumbel_softmax(fn.logits, self.temperature)  # (B, C)
        if msg["is_observed"]:
            y = msg["value"]
            self.observed[msg["name"]] = y
            missing = is_missing(y)
            if drawn.dim() > y.dim():  # one-hot rows; those for missing labels are not used
                codes = torch.eye(drawn.shape[-1], dtype=drawn.dtype, device=drawn.device)
                y, missing = codes[y], missing.unsqueeze(-1)
            drawn = torch.where(missing, drawn, y)
        msg["value"], msg["is_observed"], msg["done"] = drawn, False, True


class Impute(Messenger):
    """Samples the missing entries of label sites, and keeps the others.

    For use outside of objectives (tasks, prior sampling): `obs=y` with missing entries becomes a value in which they
    are sampled from the site's own distribution. Enter it outside of plates, which expand that distribution.

    Args:
        most_probable: take the most probable value instead of a sample, for continuous labels the mean.
        continuous: the names of continuous labels.
    """

    def __init__(self, *, most_probable: bool = False, continuous: Collection[str] = ()):
        super().__init__()
        self.most_probable, self.continuous = most_probable, frozenset(continuous)

    def _pyro_sample(self, msg) -> None:
        if msg["name"] in self.continuous and msg["is_observed"]:
            drawn = msg["fn"].mean if self.most_probable else msg["fn"].sample()
            msg["value"] = torch.where(is_missing(msg["value"]), drawn, msg["value"])
            msg["is_observed"], msg["done"] = False, True
        elif msg["is_observed"] and not enumerates(msg) and _may_be_absent(msg):
            _leave_out_absent(msg)
        elif enumerates(msg) and not (msg["done"] and not msg["is_observed"]):
            drawn = _mode(msg["fn"]) if self.most_probable else msg["fn"].sample()
            if msg["is_observed"]:
                _check_support(msg)
                drawn = torch.where(is_missing(msg["value"]), drawn, msg["value"])
            msg["is_observed"], msg["value"], msg["done"] = False, drawn, True


def _mode(fn) -> Tensor:
    """The most probable value of a discrete distribution, in its batch shape."""
    values = fn.enumerate_support(expand=False)
    return values.expand(values.shape[:1] + fn.batch_shape).gather(0, fn.log_prob(values).argmax(0, keepdim=True))[0]


def select(table: Tensor, values: Tensor, observed: Tensor, dim: int) -> Tensor:
    """The entries of an enumerated table at the observed values; 0 where the value is missing.

    Args:
        table: `(C, ..., B)`, a function of the enumerated value.
        values: the enumerated values, broadcastable to `table`.
        observed: `(..., B)` values, some missing.
        dim: the (negative) enumeration dimension of `table`, which is marginalised.

    >>> select(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0], [1]]), torch.tensor([1, -1]), -2)
    tensor([3., 0.])

    Raises:
        InputError: `dim` is not a dimension of `table` from the right, `values` does not have its size there,
            `observed` has more than one entry there, or the three do not broadcast.
    """
    shapes = [tuple(part.shape) for part in (table, values, observed)]
    if not -table.dim() <= dim < 0:
        raise InputError(f"dim: got {dim} for a table of shape {shapes[0]}; expected {-table.dim()} to -1")
    fits = values.dim() >= -dim and table.shape[dim] in (1, values.shape[dim])
    fits = fits and (observed.dim() < -dim or observed.shape[dim] == 1)
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        fits = False
    if not fits:
        raise InputError(
            f"table, values, observed: got shapes {shapes[0]}, {shapes[1]}, {shapes[2]}; expected shapes that "
            f"broadcast, the second with the first's size and the third with none or 1 at dimension {dim}"
        )
    return torch.where(values == observed, table, 0.0).sum(dim)
