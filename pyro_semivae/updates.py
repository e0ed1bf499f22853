"""Steps of optimisers on given gradients; on a GPU as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_semivae.infer.captured import Captured, captured, waits_for_gpu
from pyro_semivae.infer.traced import Gradients


class Update:
    """Gives parameters the gradients of a graph, and takes a step with them.

    If the gradients are those of a CUDA graph, which are always in the same memory, the step is captured as one too:
    the third one, since optimisers create their state in the first, and the second shows whether it can be.

    Args:
        trained: name of a loss -> the module whose parameters get its gradient.
        take: takes the step, from the parameters' `grad`.
        optimisers: those that `take` uses; `make_capturable` changes them before the first step that may be captured.
        captures: whether steps may be captured, which all of the optimisers have to support too.

    Attributes:
        notes: why a step could not be captured.
    """

    def __init__(
        self,
        trained: Mapping[str, nn.Module],
        take: Callable[[], None],
        optimisers: Sequence[Optimizer],
        *,
        captures: bool = True,
    ):
        self.trained, self.take, self.notes = dict(trained), take, []
        self.captures = captures and all("capturable" in optimiser.defaults for optimiser in optimisers)
        self.optimisers = [*optimisers]
        self._steps: dict[Captured, _Steps] = {}

    def __call__(self, gradients: Gradients) -> None:
        """Takes a step."""
        source = gradients.source
        if source is None or not self.captures:
            self._eager(gradients)
            return
        if not self._steps:
            for optimiser in self.optimisers:
                make_capturable(optimiser)
        seen = self._steps.get(source)
        if seen is None or seen.captures != source.captures:  # the gradients are in another place now
            seen = self._steps[source] = _Steps(source.captures)
        if seen.graph is None and seen.number < 2:
            waits = waits_for_gpu(lambda: self._eager(gradients))
            if seen.number and waits:
                self.notes.append(f"compile: {waits}; the optimiser's step is no CUDA graph")
                self.captures = False
                for optimiser in self.optimisers:
                    undo_capturable(optimiser)
        elif seen.graph is None:
            seen.graph, _ = captured(lambda: self._eager(gradients))
            seen.graph.replay()
        else:
            seen.graph.replay()
        seen.number += 1

    def _eager(self, gradients: Gradients) -> None:
        for optimiser in self.optimisers:
            optimiser.zero_grad()  # of parameters that were frozen since
        used: set[int] = set()
        for name, found in gradients.of.items():
            parameters = (p for p in self.trained[name].parameters() if p.requires_grad)
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = None if gradient is None else _own(gradient, parameter, used)
        self.take()


def hooked(optimisers: Sequence[Optimizer]) -> bool:
    """Whether parameters have hooks on their gradients, or optimisers on their steps, which a graph would not call."""
    of_steps = (o._optimizer_step_pre_hooks or o._optimizer_step_post_hooks for o in optimisers)
    of_gradients = (
        p._post_accumulate_grad_hooks for o in optimisers for group in o.param_groups for p in group["params"]
    )
    return any(of_steps) or any(of_gradients)


@dataclass
class _Steps:
    """The steps on the gradients of a CUDA graph: which of its captures, their number, and their own CUDA graph."""

    captures: int
    number: int = 0
    graph: torch.cuda.CUDAGraph | None = None


def _own(gradient: Tensor, parameter: Tensor, used: set[int]) -> Tensor:
    """A gradient laid out as its parameter, not in the memory of another one, as autograd puts it into `grad`."""
    same = gradient.stride() == parameter.stride() and gradient.dtype == parameter.dtype
    if same and (place := gradient.data_ptr()) not in used:
        used.add(place)
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


_given: WeakKeyDictionary[Optimizer, list[tuple[Any, bool]]] = WeakKeyDictionary()  # learning rates, capturable


def make_capturable(optimiser: Optimizer) -> None:
    """Has an optimiser read its learning rates and its state on the GPU, as its step's CUDA graph must."""
    _given[optimiser] = [(group["lr"], group["capturable"]) for group in optimiser.param_groups]
    for group in filter(_has_parameters, optimiser.param_groups):
        device = group["params"][0].device
        group["capturable"], group["lr"] = True, torch.tensor(float(group["lr"]), dtype=torch.float32, device=device)
        for parameter in group["params"]:  # of a run that is resumed
            _move_scalars(optimiser.state.get(parameter, {}), device)


def undo_capturable(optimiser: Optimizer) -> None:
    """Undoes `make_capturable`, but for the values of learning rates."""
    for group, (lr, capturable) in zip(optimiser.param_groups, _given.pop(optimiser, ()), strict=False):
        group["capturable"], group["lr"] = capturable, _like(lr, group["lr"])
        for parameter in () if capturable or group.get("fused") else group["params"]:
            _move_scalars(optimiser.state.get(parameter, {}), torch.device("cpu"))


def plain_state(optimiser: Optimizer) -> dict[str, Any]:
    """An optimiser's state as it would be without `make_capturable`: learning rates as they were given."""
    state = optimiser.state_dict()
    groups = [
        {**group, "lr": _like(lr, group["lr"]), "capturable": capturable}
        for group, (lr, capturable) in zip(state["param_groups"], _given.get(optimiser, ()), strict=False)
    ]
    return {**state, "param_groups": groups or state["param_groups"]}


def _like(given: float | Tensor, now: float | Tensor) -> float | Tensor:
    return torch.full_like(given, float(now)) if isinstance(given, Tensor) else float(now)


def _has_parameters(group: dict[str, Any]) -> bool:
    return bool(group["params"])


def _move_scalars(state: dict[str, Any], device: torch.device) -> None:
    """Moves numbers of a parameter's state, such as the number of steps."""
    scalars = {name: value for name, value in state.items() if isinstance(value, Tensor) and not value.dim()}
    state.update({name: value.to(device) for name, value in scalars.items()})
