"""What modules have at the moment: parameters, buffers and submodules, found fast."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

from torch import Tensor, nn


class Owned(NamedTuple):
    """Modules and what they have.

    Attributes:
        parameters, buffers: name -> tensor. trained: loss's name -> names of the parameters that have its gradient.
        modules: all of them. tensors: parameters and buffers, in this order, without gradients.
        kinds: what a graph takes for granted of these, see `kind`.
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    trained: dict[str, list[str]]
    modules: list[nn.Module]
    tensors: list[Tensor]
    kinds: tuple[Any, ...]


def kind(value: Any) -> Any:
    """What a graph takes for granted of an input: a tensor's shape, strides, ...; all of another value."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device, value.requires_grad
    return value


class Owners:
    """A module, which is asked at every step what it has; names are found anew only if something is another one.

    Torch's own walk over named modules takes as long as a small step on a GPU.

    Args:
        root: the module. trained: name of a loss -> the module in it whose parameters get its gradient.
    """

    def __init__(self, root: nn.Module, trained: Mapping[str, nn.Module]):
        self.root, self.trained = root, trained
        self._dicts: list[dict[str, Any]] = []  # what each module has: modules, parameters, buffers
        self._held: list[Any] = []  # the values in them, so that their ids stay theirs
        self._known: list[Any] = []
        self._owned = Owned({}, {}, {}, [], [], ())

    def now(self) -> Owned:
        """What it has now."""
        if not self._known or self._seen() != self._known:
            self._find()
        return self._owned

    def _seen(self) -> list[Any]:
        """What there is and where; equal as long as nothing was replaced, frozen or moved."""
        tensors = [*self._owned.parameters.values(), *self._owned.buffers.values()]
        return [
            [*map(len, self._dicts)],
            [*map(id, chain.from_iterable(map(dict.values, self._dicts)))],
            [tensor.data_ptr() for tensor in tensors],  # of a device, and another one if the dtype is
            [tensor.shape for tensor in tensors],
            [tensor.stride() for tensor in tensors],
            [tensor.requires_grad for tensor in tensors],
        ]

    def _find(self) -> None:
        modules = list(self.root.modules())
        parameters, buffers = dict(self.root.named_parameters()), dict(self.root.named_buffers())
        names = {id(parameter): name for name, parameter in parameters.items()}
        trained = {
            loss: [names[id(p)] for p in module.parameters() if p.requires_grad]
            for loss, module in self.trained.items()
        }
        tensors = [*parameters.values(), *buffers.values()]
        self._dicts = [own for m in modules for own in (m._modules, m._parameters, m._buffers)]
        self._held = [*chain.from_iterable(map(dict.values, self._dicts))]
        self._owned = Owned(
            parameters, buffers, trained, modules, [t.detach() for t in tensors], tuple(map(kind, tensors))
        )
        self._known = self._seen()
