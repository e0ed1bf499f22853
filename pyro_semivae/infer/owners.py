"""What modules have at the moment: parameters, buffers and submodules, found fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn


class Owned(NamedTuple):
    """Modules and what they have.

    Attributes:
        parameters, buffers: name -> tensor. trained: loss's name -> names of the parameters that have its gradient.
        modules: all of them.
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    trained: dict[str, list[str]]
    modules: list[nn.Module]


class Owners:
    """A module, which is asked at every step what it has; names are found anew only if something is another one.

    Torch's own walk over named modules takes as long as a small step on a GPU.

    Args:
        root: the module. trained: name of a loss -> the module in it whose parameters get its gradient.
    """

    def __init__(self, root: nn.Module, trained: Mapping[str, nn.Module]):
        self.root, self.trained = root, trained
        self._known: list[int] = []
        self._kept: list[Tensor | None] = []  # so that their ids stay theirs
        self._owned = Owned({}, {}, {}, [])

    def now(self) -> Owned:
        """What it has now."""
        modules = _all_modules(self.root)
        tensors = [value for module in modules for value in (*module._parameters.values(), *module._buffers.values())]
        flags = [value is not None and value.requires_grad for value in tensors]
        known = [*map(id, modules), *map(id, tensors), *flags]
        if self._known != known:
            parameters = dict(self.root.named_parameters())
            names = {id(parameter): name for name, parameter in parameters.items()}
            trained = {
                loss: [names[id(p)] for p in module.parameters() if p.requires_grad]
                for loss, module in self.trained.items()
            }
            self._known, self._kept = known, tensors
            self._owned = Owned(parameters, dict(self.root.named_buffers()), trained, modules)
        return self._owned


def _all_modules(root: nn.Module) -> list[nn.Module]:
    """A module and all modules in it, each once."""
    found, ahead = {}, [root]
    while ahead:
        module = ahead.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = module
            ahead += module._modules.values()
    return [*found.values()]
