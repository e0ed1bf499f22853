"""Whether a training is long enough to compile its step."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pyro_semivae.data.batches import Batch
from pyro_semivae.infer.graph import as_it_is
from pyro_semivae.trainer import Trainer

Compile = Literal["auto", "on", "off"]
COMPILE = ("auto", "on", "off")
COST = 30.0  # seconds: tracing and compiling, on two cores
GAIN = 0.14  # of a step's time, at least (benchmarks/results/speed-cpu.json); not measured on a GPU
PER_SECOND = 6e10  # operations in floating point, of two cores; a constant, so that all machines decide the same
PYTHON = 5e-3  # seconds a step: Pyro's handlers


def seconds_of_step(trainer: Trainer, batch: Batch) -> float:
    """About how long a step takes, from the operations that it is made of and not from a clock: the same at every call.

    It is right within a factor of two or so, which is enough to tell minutes from seconds.
    """
    owned = nn.ModuleList([trainer.objective, trainer.critics])
    with FlopCounterMode(display=False) as counter, torch.no_grad(), as_it_is(owned):
        trainer.losses([batch] if batch.alone is None else [batch, batch.alone], 0.0)
    return PYTHON + 3 * counter.get_total_flops() / PER_SECOND  # and twice as many back


def pays(trainer: Trainer, batch: Batch, steps: int) -> bool:
    """Whether compiling costs less time than it saves in all of a training's steps; False where it is not measured."""
    if steps < 100 or trainer.fabric.device.type != "cpu":
        return False
    return seconds_of_step(trainer, batch) * steps * GAIN > COST
