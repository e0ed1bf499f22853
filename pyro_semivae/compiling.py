"""Whether a training is long enough to compile its step."""

from __future__ import annotations

from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from pyro_semivae.data.batches import Batch
from pyro_semivae.infer.graph import as_it_is
from pyro_semivae.trainer import Trainer

Compile = Literal["auto", "on", "off"]
COMPILE = ("auto", "on", "off")
COST = 40.0  # seconds: tracing and compiling, on two cores
GAIN = {"cpu": 0.15, "cuda": 0.7}  # of a step's time, at least (benchmarks/speed.py)
PER_SECOND = {"cpu": 3e10, "cuda": 1e13}  # operations in floating point, of a core and of a GPU
PYTHON = 5e-3  # seconds a step: Pyro's handlers


def seconds_of_step(trainer: Trainer, batch: Batch) -> float:
    """About how long a step takes, from the operations that it is made of and not from a clock: the same at every call.

    It is right within a factor of two or so, which is enough to tell minutes from seconds.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad(), as_it_is(trainer.vae):
        trainer.losses([batch] if batch.alone is None else [batch, batch.alone], 0.0)
    device = trainer.fabric.device.type
    cores = torch.get_num_threads() if device == "cpu" else 1
    return PYTHON + 3 * counter.get_total_flops() / (PER_SECOND.get(device, 1e12) * cores)  # and twice as many back


def pays(trainer: Trainer, batch: Batch, steps: int) -> bool:
    """Whether compiling costs less time than it saves in all of a training's steps."""
    if steps < 100:
        return False
    return seconds_of_step(trainer, batch) * steps * GAIN.get(trainer.fabric.device.type, 0.0) > COST
