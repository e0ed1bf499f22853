"""Training one model in several processes, which `torchrun` or `fabric run` started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import TorchElasticEnvironment
from torch import Tensor, distributed, nn

from pyro_semivae.errors import InputError

T = TypeVar("T")


def launched() -> int:
    """The number of processes that `torchrun` or `fabric run` started, on all machines; 1 without them."""
    return TorchElasticEnvironment().world_size() if TorchElasticEnvironment.detect() else 1


def is_first() -> bool:
    """Whether this is the first of the processes that train together, or the only one."""
    return launched() == 1 or TorchElasticEnvironment().global_rank() == 0


def only_first() -> None:
    """Ends this process, with success, unless it is the first one: after training that one evaluates and writes.

    Raises:
        SystemExit: this is not the first process.
    """
    if not is_first():
        raise SystemExit(0)


def devices_of_launch() -> dict[str, Any]:
    """Fabric's arguments for the started processes, with one device each; for a single process, one device.

    Raises:
        InputError: `fabric run` was called with a strategy that splits models over devices.
    """
    if (strategy := os.environ.get("LT_STRATEGY", "ddp")) not in ("ddp", "auto"):
        raise InputError(f"--strategy of fabric run: got {strategy}; expected ddp")
    if launched() == 1:
        return {"devices": 1}
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": here, "num_nodes": launched() // here, "strategy": "ddp"}


def connect(fabric: Fabric) -> None:
    """Connects the started processes; no-op for a single one."""
    if launched() > 1 and os.environ.get("LT_CLI_USED") != "1":  # `fabric run` has it connect when it is made
        fabric.launch()


class Processes:
    """The processes that train one model together, or a single one.

    With n processes, a step has n times the rows of one: each process computes the gradients of its own rows, from its
    own noise, and the mean of the gradients is the same in all of them. Fabric connects the processes: by gloo on CPUs,
    by NCCL on GPUs.

    Attributes:
        number: how many there are. index: which one this is, from 0.
    """

    def __init__(self, fabric: Fabric):
        self.fabric, self.number, self.index = fabric, fabric.world_size, fabric.global_rank

    @property
    def first(self) -> bool:
        """Whether this is the first process."""
        return self.index == 0

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces gradients by their means over the processes, sent as one vector.

        A parameter that has no gradient here counts as having 0.
        """
        if self.number == 1:
            return
        parameters = [*parameters]
        with torch.no_grad():
            given = (torch.zeros_like(p) if p.grad is None else p.grad for p in parameters)
            mean = self.mean(torch.cat([gradient.flatten() for gradient in given]))
            for parameter, part in zip(parameters, mean.split([p.numel() for p in parameters]), strict=True):
                parameter.grad = part.view_as(parameter)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.number == 1:
            return values
        with _connected():
            total = values.clone()
            distributed.all_reduce(total)  # Fabric's own waits for a barrier first
            return total.div_(self.number)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Gives tensors, such as parameters, the values that they have in the first process."""
        if self.number > 1:
            with _connected():
                for tensor in tensors:
                    distributed.broadcast(tensor.detach(), 0)

    def of_first(self, compute: Callable[[], T]) -> T:
        """What a function returns, or raises, in the first process, which alone calls it; in all processes."""
        if self.number == 1:
            return compute()
        found, error = None, None
        if self.first:
            try:
                found = compute()
            except Exception as raised:  # the others would wait for it
                error = raised
        with _connected():
            found, error = self.fabric.broadcast((found, error))
        if error is not None:
            raise error
        return found

    def gathered(self, value: T) -> list[T]:
        """The value of each process, in their order."""
        if self.number == 1:
            return [value]
        found: list[Any] = [None] * self.number
        with _connected():
            distributed.all_gather_object(found, value)
        return found

    def check_same(self, name: str, value: Any) -> None:
        """Checks that all processes have the same value.

        Raises:
            InputError: they do not; the message has the value's name and the process.
        """
        for index, other in enumerate(self.gathered(value)):
            if other != value:
                raise InputError(
                    f"{name}: got others in process {index} than in process {self.index}; expected the same in all of "
                    f"them, so draw splits and labels with a seed"
                )


@contextmanager
def _connected() -> Iterator[None]:
    """Communication with the other processes.

    Raises:
        ConnectionError: it failed, as if another process has ended.
    """
    try:
        yield
    except RuntimeError as error:  # torch.distributed's DistBackendError among them
        raise ConnectionError(
            f"another process of this training has ended, or cannot be reached ({str(error).splitlines()[0][:200]}): "
            f"its own message says why. The last checkpoint, if any, is kept; go on from it with resume"
        ) from error
