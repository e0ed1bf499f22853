"""Decides whether training is long enough for compiling its step to save time."""

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
GAIN = 0.13  # of a step's time, at least (benchmarks/results/speed-cpu.json)
GAIN_GPU = 5e-3  # seconds of a step, at least (benchmarks/results/speed-cuda.json): Python, whatever the model's size
PER_SECOND = 6e10  # floating-point operations per second of two cores; a constant, for the same decision everywhere
PYTHON = 5e-3  # seconds per step in Pyro's handlers


def seconds_of_step(trainer: Trainer, batch: Batch) -> float:
    """A rough estimate of a step's time from its number of operations, without a clock, so that it is reproducible."""
    owned = nn.ModuleList([trainer.objective, trainer.critics])
    with FlopCounterMode(display=False) as counter, torch.no_grad(), as_it_is(owned):
        trainer.losses([batch] if batch.alone is None else [batch, batch.alone], 0.0)
    return PYTHON + 3 * counter.get_total_flops() / PER_SECOND  # and twice as many back


def pays(trainer: Trainer, batch: Batch, steps: int) -> bool:
    """Whether compiling saves more time than it takes over all steps."""
    if steps < 100 or trainer.fabric.device.type not in ("cpu", "cuda"):
        return False
    if trainer.fabric.device.type == "cuda":
        return steps * GAIN_GPU >= COST
    return seconds_of_step(trainer, batch) * steps * GAIN > COST
