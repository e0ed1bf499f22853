"""Separate random streams for training, which leave the caller's generators unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


class RandomStreams:
    """States of torch's global generators, of the CPU and one GPU, that are active only inside `with streams:`.

    Args:
        process: the streams of different processes differ; that of the first one, 0, is the seed's own.

    Attributes:
        state: the states, in a form that a checkpoint can hold: `{"cpu": tensor}`, with a GPU also `"cuda"`.

    >>> streams = RandomStreams(0)
    >>> torch.manual_seed(1).initial_seed()
    1
    >>> with streams:
    ...     first = torch.rand(1)
    >>> torch.manual_seed(0).initial_seed(), torch.rand(1) == first
    (0, tensor([True]))
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu", *, process: int = 0):
        self.device = torch.device(device)
        if process:  # mixed, since the CPU's generator ignores all but the lowest 32 bits
            seed = int(np.random.SeedSequence([seed, process]).generate_state(1)[0])
        self.state = {"cpu": torch.Generator().manual_seed(seed).get_state()}
        if self.device.type == "cuda":
            self.state["cuda"] = torch.Generator(self.device).manual_seed(seed).get_state()
        self._callers = self.state

    def now(self) -> dict[str, torch.Tensor]:
        """The current states of torch's generators (inside `with streams:`, the stream's)."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _set(self, states: dict[str, torch.Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if self.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)

    def __enter__(self) -> RandomStreams:
        self._callers = self.now()
        self._set(self.state)
        return self

    def __exit__(self, *error: object) -> None:
        self.state = self.now()
        self._set(self._callers)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Context, inside `with streams:`, with the caller's generators."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()
