"""Compiled graphs on a GPU, captured as CUDA graphs: one call launches all kernels of a step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def captured(run: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
    """A CUDA graph of the kernels that a function launches, and what it returned, which each replay overwrites.

    Args:
        run: it was called before, and only launches kernels.

    Raises:
        RuntimeError: it does something that no CUDA graph can. Torch's generator on the GPU is of no use afterwards.
    """
    graph = torch.cuda.CUDAGraph()
    torch._C._cuda_clearCublasWorkspaces()  # each graph gets its own, which nothing else frees
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread stages data
            result = run()
    except RuntimeError as error:
        raise RuntimeError(f"compile: {error}; train without CUDA graphs, in a new process: compile='off'") from error
    torch._C._cuda_clearCublasWorkspaces()
    return graph, result


def on_gpu(tensors: Iterable[Tensor]) -> bool:
    """Whether all tensors are on a GPU that has CUDA graphs."""
    return all(tensor.is_cuda for tensor in tensors)


def waits_for_gpu(run: Callable[[], object]) -> str:
    """What a function waits for the GPU for, such as a value, which no CUDA graph can; empty if it does not wait.

    Args:
        run: it is called once.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    waits = ""
    for one in seen:
        message = str(one.message).splitlines()[0]
        if message.startswith("called a synchronizing"):
            waits = waits or message
        elif not message.startswith("Synchronization debug mode"):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return waits


class Captured:
    """A function of tensors on a GPU whose kernels are captured once and replayed together.

    Launching a small model's kernels one by one takes longer than running them. Each replay reads and writes the same
    memory: results are valid until the next call. Noise is new at each replay, and the same as without capture from the
    same state of the generator.

    Args:
        run: a function of tensors, see `captured`; it may change the owned ones.
        owned: the number of first arguments that are used where they are; the others, which are contiguous, are copied.

    Attributes:
        captures: the number of captures: one, and one more whenever the owned tensors are others.
    """

    def __init__(self, run: Callable[..., Sequence[Tensor]], owned: int):
        self.run, self.owned, self.captures = run, owned, 0
        self._places: list[int] = []

    def __call__(self, *tensors: Tensor) -> Sequence[Tensor]:
        own, given = tensors[: self.owned], [*tensors[self.owned :]]
        with torch.no_grad(), torch.cuda.device_of(tensors[0]):
            places = [tensor.data_ptr() for tensor in own]
            if places == self._places:
                torch._foreach_copy_(self._inputs, given, non_blocking=True)
            else:
                inputs = [tensor.clone() for tensor in given]
                self._graph, self._results = captured(lambda: self.run(*own, *inputs))
                self._inputs, self._places, self.captures = inputs, places, self.captures + 1
            self._graph.replay()
        return self._results
