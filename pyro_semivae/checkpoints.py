"""What a training run remembers: its setting, its state, its averaged weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_semivae.data.batches import Batches
from pyro_semivae.errors import InputError
from pyro_semivae.files import load_checkpoint, save_checkpoint
from pyro_semivae.infer import RowELBO
from pyro_semivae.models import SemiVAE
from pyro_semivae.nn import Noisy

History = list[dict[str, float]]


class Average:
    """A moving average of a model's parameters over steps; without a decay it is nothing at all."""

    def __init__(self, vae: SemiVAE, decay: float):
        self.parameters, self.decay, self.steps = dict(vae.named_parameters()), decay, 0
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights of a step."""
        if self.values:
            self.steps += 1
            decay = min(self.decay, self.steps / (self.steps + 9))  # the first steps count for little
            torch._foreach_lerp_([*self.values.values()], [*self.parameters.values()], 1 - decay)

    @torch.no_grad()
    def exchange(self) -> None:
        """The averages for the weights, and the weights for the averages."""
        for name, value in self.values.items():
            weight = self.parameters[name].clone()
            self.parameters[name].copy_(value)
            value.copy_(weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averages for a while."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()


class Checkpoint:
    """All that a resumed run needs to go on bit-identically, less the data: what `fit` writes and reads.

    Args:
        setting: what must be the same in a run that goes on, by name (see `setting`).
        config: plain values to keep.
    """

    def __init__(
        self,
        vae: SemiVAE,
        averaged: Average,
        optimiser: torch.optim.Optimizer,
        batches: Batches,
        setting: dict[str, Any],
        config: dict[str, Any],
    ):
        self.vae, self.averaged, self.optimiser, self.batches = vae, averaged, optimiser, batches
        self.setting, self.config = setting, config

    def save(self, path: str | Path, history: History, random: dict[str, Tensor]) -> None:
        """Writes the state after the epochs of `history`; `random`: see `RandomStreams.state`."""
        averaged = self.averaged
        state = {
            "model": type(self.vae).__name__,
            "weights": {**self.vae.state_dict(), **averaged.values},
            "in_training": {name: averaged.parameters[name].detach() for name in averaged.values},
            "steps": averaged.steps,
            "optimiser": self.optimiser.state_dict(),
            "random": random,
            "epoch": len(history),
            "labelled": self.batches.labelled,
            "history": history,
            "config": self.config,
            "setting": self.setting,
        }
        save_checkpoint(path, state)

    def restore(self, path: str | Path, epochs: int) -> tuple[History, dict[str, Tensor]]:
        """Takes up the state of a file; returns the epochs that are done and the random states.

        Raises:
            ValueError: the file is damaged, or of another model, setting or labelled rows; more than `epochs` are done.
        """
        state = load_checkpoint(path, type(self.vae).__name__)
        load_weights(self.vae, state, path)
        if not torch.equal(state["labelled"], self.batches.labelled):
            raise InputError(f"checkpoint: {path} was trained with other labelled rows than those of y")
        for name, value in self.setting.items():
            was = state["setting"].get(name)
            if was != value:
                said = "" if name in ("labels", "labels alone") else _changed(str(was), str(value))
                raise InputError(f"checkpoint: {path} was trained with other {name}{said}")
        if state["epoch"] > epochs:
            raise InputError(f"epochs: got {epochs}; {path} has been trained for {state['epoch']} already")
        self.averaged.steps = state["steps"]
        for name, value in self.averaged.values.items():
            value.copy_(state["weights"][name])
        self.vae.load_state_dict(state["in_training"], strict=False)
        self.optimiser.load_state_dict(state["optimiser"])
        return list(state["history"]), state["random"]


def setting(
    vae: SemiVAE, elbo: RowELBO, x: Tensor, batches: Batches, of_batches: str, of_optimiser: dict[str, Any]
) -> dict[str, Any]:
    """What a run depends on, as plain values that are the same in another process."""
    prior = getattr(vae, "p_y", None)
    noises = [described(module.noise) for module in vae.modules() if isinstance(module, Noisy)]
    return {
        "model": "\n".join([repr(vae), *noises]),  # its conditionals, the sizes of their networks, dropout
        "prior": {name: value.tolist() for name, value in prior.named_buffers()} if prior is not None else {},
        "objective": described(elbo),
        "data": f"{tuple(x.shape)} {x.dtype}, sum {_sum(x):.17g}",
        "labels": batches.labelled.tolist() and _labels(batches),
        "labels alone": [] if batches.labels_alone is None else batches.labels_alone.tolist(),
        "batches": of_batches,
        "optimiser": ", ".join(f"{name} {described(value)}" for name, value in of_optimiser.items()),
    }


def _changed(was: str, now: str) -> str:
    """The entries of two settings' texts that are not the same."""
    before, after = (dict.fromkeys(map(str.strip, re.split(r"[,()\n]", text))) for text in (was, now))
    old, new = ([part for part in parts if part not in others] for parts, others in ((before, after), (after, before)))
    return f": {', '.join(old) or 'less'}, now {', '.join(new) or 'less'}"


def _labels(batches: Batches) -> list:
    """The labels of the labelled rows; a missing entry, which no number would be equal to, is -1."""
    return batches.y[batches.labelled.to(batches.y.device)].nan_to_num(-1.0).tolist()


def described(value: Any) -> str:
    """A setting as text: numbers, strings, functions, objectives, what holds them; other things by their type."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {described(part)}" for name, part in sorted(value.items()) if name[:1] != "_")
    if isinstance(value, list | tuple):
        return ", ".join(map(described, value))
    if isinstance(value, RowELBO):
        return f"{type(value).__name__}({described(vars(value))})"
    if isinstance(value, partial):
        return f"{described(value.func)}({', '.join(filter(None, [described(value.args), described(value.keywords)]))})"
    plain = value is None or isinstance(value, int | float | str)
    return str(value) if plain else getattr(value, "__qualname__", type(value).__name__)


def _sum(x: Tensor) -> float:
    """The sum of a tensor that may be memory-mapped, a part at a time."""
    return sum(part.sum(dtype=torch.float64).item() for part in x.split(1000))


def replace_weights(path: str | Path, vae: SemiVAE) -> None:
    """Puts a model's weights of now into a checkpoint of it: after a stage that is not `fit`'s."""
    save_checkpoint(path, {**load_checkpoint(path, type(vae).__name__), "weights": vae.state_dict()})


def load_weights(vae: SemiVAE, state: dict[str, Any], path: str | Path = "checkpoint") -> None:
    """Puts a checkpoint's weights into a model.

    Raises:
        ValueError: the model has other parameters or sizes.
    """
    try:
        vae.load_state_dict(state["weights"])
    except RuntimeError as error:
        said = " ".join(str(error).split("\n\t")[1:]) or str(error)  # torch's first line is a title
        raise InputError(f"checkpoint: {path} does not fit this {type(vae).__name__}: {said}") from error
