"""Steps of optimisers on given gradients; on a GPU as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
        elif seen.graph is None:
            seen.graph, _ = captured(lambda: self._eager(gradients))
            seen.graph.replay()
        else:
            seen.graph.replay()
        seen.number += 1

    def _eager(self, gradients: Gradients) -> None:
        used: set[int] = set()
        for name, found in gradients.of.items():
            parameters = (p for p in self.trained[name].parameters() if p.requires_grad)
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = None if gradient is None else _own(gradient, parameter, used)
        self.take()


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


def make_capturable(optimiser: Optimizer) -> None:
    """Has an optimiser read its learning rate and its number of steps on the GPU, as its step's CUDA graph must."""
    for group in optimiser.param_groups:
        group["capturable"] = True
        if not isinstance(group["lr"], Tensor):
            group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32, device=group["params"][0].device)
    for parameter, state in optimiser.state.items():  # of a run that is resumed
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(parameter.device)


def plain_state(optimiser: Optimizer) -> dict[str, Any]:
    """An optimiser's state, as it is on any device: learning rates are numbers."""
    state = optimiser.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    if "capturable" in optimiser.defaults:
        groups = [{**group, "capturable": optimiser.defaults["capturable"]} for group in groups]
    return {**state, "param_groups": groups}
