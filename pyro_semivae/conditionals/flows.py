"""A conditional whose density is a normalising flow, or any other module that returns a distribution over vectors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from pyro_semivae.conditionals.base import Conditional
from pyro_semivae.errors import InputError


class Flow(Conditional):
    """p(z | parents) over vectors, from a module that maps a context to a distribution, such as zuko's flows.

    Args:
        flow: maps a context, `batch + (size,)`, to a torch distribution of batch shape `batch` and event shape `(D,)`,
            which needs `rsample` in a guide. Without parents it is called without arguments.
        net: maps the parents to the context, e.g. `networks.encoder(x_shape, size, [labels])`, `MLP(..)`, or
            `Joined(..)`, which only concatenates. With None the only parent is the context, or there are no parents, as
            in a prior.

    ::

        import zuko  # not a dependency

        self.q_z = Flow(zuko.flows.NSF(features=z, context=16), MLP([x_shape, labels], (600,), (16,)))
        self.p_z = Flow(zuko.flows.NSF(features=z))

    Samples and enumerated labels are batch dimensions of the context, on the left. Under autocast the net computes in
    the lower precision, but the flow and its densities do not. `import zuko` switches off the validation of all torch
    distributions; `pyro.enable_validation()` after the import switches it on again.

    Raises:
        InputError: the module returns something else.
    """

    def __init__(self, flow: nn.Module, net: nn.Module | None = None):
        super().__init__()
        self.flow, self.net = flow, net

    def forward(self, *parents: Tensor) -> dist.TorchDistribution:
        context = parents if self.net is None else (self.net(*parents),)
        parts = itertools.chain(context, self.flow.parameters(), self.flow.buffers())
        device_type = next((part.device.type for part in parts), "cpu")
        with _full_precision(device_type):
            fn = self.flow(*context)
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in context))
        shapes = [tuple(getattr(fn, name, ())) for name in ("batch_shape", "event_shape")]
        if not isinstance(fn, torch.distributions.Distribution) or shapes[0] != batch or len(shapes[1]) != 1:
            raise InputError(
                f"flow: {type(self.flow).__name__} makes {type(fn).__name__} of batch shape {shapes[0]} and event "
                f"shape {shapes[1]}; expected a distribution of batch shape {tuple(batch)} and event shape (D,)"
            )
        return FlowDistribution(fn, device_type)


class FlowDistribution(dist.TorchDistribution):
    """Wraps a torch distribution over vectors, such as `zuko.distributions.NormalizingFlow`, for Pyro.

    Args:
        base: the distribution. device_type: the type of device it computes on, `"cpu"` or `"cuda"`.

    `mean` is the mean of `base`, if it has one. A flow has no mean in closed form; `mean` is then the **image of the
    base distribution's mean**: a central point of the density (in one dimension its median, if the base is symmetric),
    and the mean if the flow is affine. Tasks that take latents at their mean (`reconstruct`, `classify` with
    `mean=True`) use it.
    """

    arg_constraints: ClassVar = {}

    def __init__(self, base: torch.distributions.Distribution, device_type: str = "cpu"):
        self.base, self.device_type = base, device_type
        super().__init__(base.batch_shape, base.event_shape)

    @property
    def has_rsample(self) -> bool:
        return self.base.has_rsample

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        try:
            return self.base.support
        except NotImplementedError:  # zuko's distributions do not define it
            return constraints.real_vector

    def expand(self, batch_shape: Sequence[int], _instance: FlowDistribution | None = None) -> FlowDistribution:
        new = self._get_checked_instance(FlowDistribution, _instance)
        new.__init__(self.base.expand(torch.Size(batch_shape)), self.device_type)
        return new

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with _full_precision(self.device_type):
            return self.base.rsample(torch.Size(sample_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with _full_precision(self.device_type):
            return self.base.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        with _full_precision(self.device_type):
            return self.base.log_prob(value)

    @property
    def mean(self) -> Tensor:
        with _full_precision(self.device_type):
            try:
                return self.base.mean
            except NotImplementedError:
                pass
            if isinstance(self.base, torch.distributions.TransformedDistribution):
                value = self.base.base_dist.mean
                for transform in self.base.transforms:
                    value = transform(value)
                return value
            if not (hasattr(self.base, "transform") and hasattr(self.base, "base")):
                raise InputError(
                    f"mean: {type(self.base).__name__} has none; expected a flow, or a distribution with a mean"
                )
            return self.base.transform.inv(self.base.base.mean)  # zuko's transforms map values to the base


def _full_precision(device_type: str) -> AbstractContextManager:
    """Disables autocast: densities are never summed in half precision."""
    return torch.autocast(device_type, enabled=False)
