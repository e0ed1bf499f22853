"""Effect handlers shared by objectives, training and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

import torch
from pyro.params import module_from_param_with_module_name
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_semivae.distributions import KnownWhere
from pyro_semivae.infer.evidence import enumerates

ROW_PLATE = "data"

_parameters_are_local: ContextVar[bool] = ContextVar("parameters_are_local", default=False)


class LocalParameters(Messenger):
    """Makes `pyro.module` return the module's own parameters, without Pyro's global parameter store.

    Other `pyro.param` statements still use the store. `check_model` rejects them, because only plain SVI trains them.

    >>> with LocalParameters():
    ...     LocalParameters.is_on()
    True
    """

    @staticmethod
    def is_on() -> bool:
        """Whether one is active here, even if entered outside of a `pyro.poutine.block()`."""
        return _parameters_are_local.get()

    def __enter__(self):
        entered = super().__enter__()
        self._before = _parameters_are_local.set(True)
        return entered

    def __exit__(self, *error):
        _parameters_are_local.reset(self._before)
        return super().__exit__(*error)

    def _pyro_param(self, msg) -> None:
        if module_from_param_with_module_name(msg["name"]) != msg["name"]:  # a parameter of a module
            msg["value"] = msg["args"][1]
            msg["done"] = True


class Particles(Messenger):
    """Samples several values of every latent site, in one batch dimension left of all plates.

    Unlike a plate it does not expand the distributions, so that values that do not depend on a particle (the encoder,
    its log-density at one particle) are computed once.

    Args:
        size: the number of particles.
        dim: their batch dimension, negative: `-1 - max_plate_nesting`.
        detach_first: whether to append a last particle, equal to the first one and detached from the graph, so that
            functions of the latents in the guide are available both with and without the gradient through them.
    """

    def __init__(self, size: int, dim: int, detach_first: bool = False):
        super().__init__()
        self.size, self.dim, self.detach_first = size, dim, detach_first

    def _pyro_sample(self, msg) -> None:
        if msg["done"] or msg["is_observed"] or msg["value"] is not None or enumerates(msg):
            return
        if hasattr(msg["fn"], "batch_shape"):  # else it is a plate
            msg["value"], msg["done"] = self.draw(msg["fn"]), True

    def draw(self, fn) -> Tensor:
        """Samples from a distribution, with the particles in their dimension."""
        draw = fn.rsample if fn.has_rsample else fn.sample
        batch = fn.batch_shape
        if len(batch) >= -self.dim:  # the parents have particles already
            value = draw()
        else:
            value = draw((self.size,))
            value = value.reshape((self.size,) + (1,) * (-1 - self.dim - len(batch)) + value.shape[1:])
        if self.detach_first:
            axis = self.dim - fn.event_dim
            value = torch.cat([value.narrow(axis, 0, self.size), value.narrow(axis, 0, 1).detach()], axis)
        return value


class KnownVectors(Messenger):
    """Uses the vectors that a model's `KnownWhere` fixes in place of the guide's values."""

    def _pyro_sample(self, msg) -> None:
        if isinstance(msg["fn"], KnownWhere) and msg["value"] is not None:
            msg["value"] = msg["fn"].put_in(msg["value"])


class Mean(Messenger):
    """Uses the mean of every latent site instead of a sample (except labels to enumerate)."""

    def _pyro_sample(self, msg) -> None:
        if not (msg["done"] or msg["is_observed"] or msg["value"] is not None or enumerates(msg)) and hasattr(
            msg["fn"], "batch_shape"
        ):
            msg["value"] = msg["fn"].mean
            msg["done"] = True


class Until(Messenger):
    """Ends a model's run once the named sites are sampled; `sites` holds a copy of each.

    Args:
        names: the names of the sites; `None` for the first label.
    """

    class Enough(Exception):
        pass

    def __init__(self, names: Sequence[str] | None = None):
        super().__init__()
        self.names, self.sites = names, {}

    def _pyro_post_sample(self, msg) -> None:
        if enumerates(msg) if self.names is None else msg["name"] in self.names:
            self.sites[msg["name"]] = msg.copy()
            if len(self.sites) == len(self.names or self.sites):
                raise self.Enough

    def __exit__(self, kind, value, traceback):
        super().__exit__(kind, value, traceback)
        return kind is self.Enough
