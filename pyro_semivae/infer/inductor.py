"""Graphs compiled by TorchInductor, whose results are kept in the user's folder of caches."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from pyro_semivae.caches import cache_folder
from pyro_semivae.infer.random_ops import compiled_between

CACHE_ENV = "TORCHINDUCTOR_CACHE_DIR"


def compiled(graph: GraphModule) -> Callable[..., Sequence[Tensor]]:
    """A graph whose parts between random operations are compiled at the first call, for the shapes of its inputs."""
    return compiled_between(graph, _Compiled)


class _Compiled:
    """A part of a graph, compiled at its first call, by its inputs."""

    def __init__(self, part: GraphModule):
        self.part, self.run = part, None

    def __call__(self, *inputs: Tensor) -> Any:
        if self.run is None:
            from torch._inductor import compile as by_inductor  # takes a second: only if something is compiled

            with _cached(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about what torch itself uses
                self.run = by_inductor(self.part, list(inputs))
                return self.run(*inputs)
        return self.run(*inputs)


@contextmanager
def _cached() -> Iterator[None]:
    """Sets TorchInductor's cache to the user's folder of caches, unless the user has chosen another one.

    Torch's own default is a temporary folder, which is empty after a restart of the machine. Torch writes it into the
    environment variable as soon as any part of it is imported, so that the variable alone says nothing of the user.
    """
    given = os.environ.get(CACHE_ENV)
    if given is not None and not given.startswith(str(Path(tempfile.gettempdir()) / "torchinductor_")):
        yield
        return
    os.environ[CACHE_ENV] = str(cache_folder() / "inductor")
    try:
        yield
    finally:
        if given is None:
            del os.environ[CACHE_ENV]
        else:
            os.environ[CACHE_ENV] = given
