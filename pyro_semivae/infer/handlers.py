"""Effect handlers that objectives, training and tasks share."""

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
    """Lets `pyro.module` hand back the module's own parameters, leaving Pyro's global store alone.

    Other `pyro.param` statements, whose values live in the store alone, are left to it: `check_model` refuses them, for
    nothing here but plain SVI trains them.

    >>> with LocalParameters():
    ...     LocalParameters.is_on()
    True
    """

    @staticmethod
    def is_on() -> bool:
        """Whether one is entered here, also outside of a `pyro.poutine.block()`."""
        return _parameters_are_local.get()

    def __enter__(self):
        entered = super().__enter__()
        self._before = _parameters_are_local.set(True)
        return entered

    def __exit__(self, *error):
        _parameters_are_local.reset(self._before)
        return super().__exit__(*error)

    def _pyro_param(self, msg) -> None:
        if module_from_param_with_module_name(msg["name"]) != msg["name"]:  # a module's
            msg["value"] = msg["args"][1]
            msg["done"] = True


class Particles(Messenger):
    """Draws several values of every latent site, in one batch dimension left of all plates.

    Unlike a plate it does not expand the distributions, so that what does not depend on a particle (the
    encoder, its log-density at one particle) is computed once.

    Args:
        size: the particles sampled.
        dim: their batch dimension, negative: `-1 - max_plate_nesting`.
        detach_first: append a last particle, equal to the first one and detached from the graph, so that
            what a guide computes from its latents is available both with and without the gradient through them.
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
        """Values of a distribution, the particles in their dimension."""
        draw = fn.rsample if fn.has_rsample else fn.sample
        batch = fn.batch_shape
        if len(batch) >= -self.dim:  # the parents carry the particles already
            value = draw()
        else:
            value = draw((self.size,))
            value = value.reshape((self.size,) + (1,) * (-1 - self.dim - len(batch)) + value.shape[1:])
        if self.detach_first:
            axis = self.dim - fn.event_dim
            value = torch.cat([value.narrow(axis, 0, self.size), value.narrow(axis, 0, 1).detach()], axis)
        return value


class KnownVectors(Messenger):
    """Where a model's `KnownWhere` knows a vector, the model has that one and not the guide's value of it."""

    def _pyro_sample(self, msg) -> None:
        if isinstance(msg["fn"], KnownWhere) and msg["value"] is not None:
            msg["value"] = msg["fn"].put_in(msg["value"])


class Mean(Messenger):
    """Takes the mean of every latent site instead of a sample (labels to be enumerated are left alone)."""

    def _pyro_sample(self, msg) -> None:
        if not (msg["done"] or msg["is_observed"] or msg["value"] is not None or enumerates(msg)) and hasattr(
            msg["fn"], "batch_shape"
        ):
            msg["value"] = msg["fn"].mean
            msg["done"] = True


class Until(Messenger):
    """Ends a model's run once the sites of these names are sampled; `sites` holds what they are then.

    Args:
        names: of the sites; `None` for the first label.
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
