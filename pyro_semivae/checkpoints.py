"""The history, the averaged weights and the checkpoints of a training run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyro_semivae.data.batches import Batches
from pyro_semivae.errors import InputError
from pyro_semivae.files import check_fields, check_finite, load_checkpoint, not_finite, save_checkpoint
from pyro_semivae.models import SemiVAE
from pyro_semivae.models.saving import built
from pyro_semivae.settings import difference
from pyro_semivae.updates import plain_state

if TYPE_CHECKING:
    from pyro_semivae.trainer import Trainer


class History(list[dict[str, float]]):
    """One record per epoch of training: its number, the objective, the ELBO, terms and monitors by name.

    Attributes:
        compiled: whether the steps ran as a compiled graph, see `fit`.
        notes: fallbacks, such as a step that could not be compiled.

    >>> History([{"epoch": 1, "objective": -9.0, "elbo": -8.0}, {"epoch": 2, "objective": -7.5, "elbo": -7.25}])
    2 epochs, the last one: objective -7.5, elbo -7.25
    """

    def __init__(self, records: Iterable[dict[str, float]] = ()):
        super().__init__(records)
        self.compiled, self.notes = False, []

    def __repr__(self) -> str:
        if not self:
            return "no epochs"
        numbers = ", ".join(f"{name.removeprefix('term/')} {x:.4g}" for name, x in self[-1].items() if name != "epoch")
        return f"{len(self)} epochs, the last one: {numbers}"


class Average:
    """An exponential moving average of a model's parameters over steps; no-op for decay 0.

    It is torch's `AveragedModel` with `get_ema_multi_avg_fn`, to the bit, without what these do at every step.

    Attributes:
        values: parameter's name -> its average. steps: the number of averaged steps.
    """

    def __init__(self, vae: SemiVAE, decay: float):
        self.vae, self.decay, self.steps = vae, decay, 0
        self._weights = {name: parameter.detach() for name, parameter in vae.named_parameters() if decay}
        self.values = {name: weight.clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Updates the average after a step."""
        if self.values:
            self.steps += 1
            decay = min(self.decay, self.steps / (self.steps + 9))  # small at first: initial weights count little
            torch._foreach_lerp_([*self.values.values()], [*self._weights.values()], 1 - decay)

    @torch.no_grad()
    def exchange(self) -> None:
        """Exchanges weights and averages."""
        for (_, parameter), value in zip(self.vae.named_parameters(), self.values.values(), strict=False):
            weight = parameter.clone()
            parameter.copy_(value)
            value.copy_(weight)

    def weights(self, vae: SemiVAE) -> dict[str, Tensor]:
        """The model's state dict with averages in place of parameters, under all names of shared ones; not copied."""
        parameters = dict(vae.named_parameters())
        averages = {id(parameters[name]): value for name, value in self.values.items()}
        named = vae.named_parameters(remove_duplicate=False)
        return {**vae.state_dict(), **{name: averages[id(p)] for name, p in named if id(p) in averages}}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context in which the model has the averages as its weights."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()


class Checkpoint:
    """The state of a training run that `fit` writes and reads: everything for a bit-identical resume except the data.

    Args:
        trainer: the trainer with its model and optimisers; prepared, but not started yet.
        setting: name -> text of the settings that must be the same in a resumed run (see `settings.setting`).
        config: plain values to keep.

    Attributes:
        best: the best epoch's weights, with early stopping. The file's `weights` are these, or without early stopping
            the averaged weights of the last epoch.
    """

    def __init__(
        self,
        trainer: Trainer,
        batches: Batches,
        setting: dict[str, Any],
        config: dict[str, Any],
    ):
        self.trainer, self.batches, self.setting, self.config = trainer, batches, setting, config
        self.vae, self.averaged, self.optimiser = trainer.vae, trainer.averaged, trainer.optimiser
        self.precision = trainer.fabric.strategy.precision
        self.best: dict[str, Tensor] = {}
        self.free = {*not_finite(dict(self.vae.named_buffers()))}  # buffers that need not be finite

    def save(self, path: str | Path, history: History, random: list[dict[str, Any]]) -> None:
        """Writes the state after the epochs of `history`.

        Args:
            random: the states of each process's random generators, as tensors: `"cpu"`, and others.

        Raises:
            FloatingPointError: a weight, an average or the optimiser's state is not finite.
            InputError: the file cannot be written. In both cases an older file is kept unchanged.
        """
        averaged = self.averaged
        state = {
            "model": type(self.vae).__name__,
            "built": built(self.vae),
            "weights": self.best or averaged.weights(self.vae),
            "in_training": dict(self.vae.state_dict()),  # with buffers: those in `weights` may be of an older epoch
            "averages": averaged.values,
            "steps": averaged.steps,
            "scaler": self.precision.state_dict(),
            "optimiser": plain_state(self.optimiser),
            "critics": self.trainer.states(),
            "random": random[0],
            "random_of_others": random[1:],
            "epoch": len(history),
            "labelled": self.batches.labelled,
            "history": [*history],
            "config": self.config,
            "setting": self.setting,
        }
        if bad := not_finite(self._numbers(state)):
            raise FloatingPointError(
                f"{', '.join(bad[:5])} not finite after epoch {len(history)}; {path} is left as it was"
            )
        save_checkpoint(path, state)

    def restore(self, path: str | Path, epochs: int) -> tuple[History, list[dict[str, Any]], dict[str, Tensor]]:
        """Restores the state from a file.

        Everything is checked first, so that an error changes nothing. The first process alone reads the file.

        Returns the finished epochs, the states of the random generators of the processes that wrote the file, and the
        file's `weights` (those of the best epoch with early stopping).

        Raises:
            FileNotFoundError: there is no such file.
            InputError: the file is damaged, of an older version, or from a run with another model, setting or labelled
                rows; its numbers are not finite; it contains more than `epochs` epochs.
        """
        state = self.trainer.processes.of_first(partial(load_checkpoint, path, type(self.vae).__name__))
        check_fields(state, path, FIELDS)
        check_fit(self.vae, state["weights"], path)
        if not torch.equal(state["labelled"], self.batches.labelled):
            raise InputError(f"checkpoint: {path} was trained with other labelled rows than those of y")
        if (other := difference(state["setting"], self.setting)) is not None:
            raise InputError(f"checkpoint: {path} was trained with other {other}")
        if state["epoch"] > epochs:
            raise InputError(f"epochs: got {epochs}; {path} has been trained for {state['epoch']} already")
        self._check_training(state, path)
        check_finite(self._numbers(state), path)
        self.vae.load_state_dict(state["in_training"])
        self.averaged.steps = state["steps"]
        for name, value in self.averaged.values.items():
            value.copy_(state["averages"][name])
        self.precision.load_state_dict(state["scaler"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.trainer.load_states(state["critics"])
        return History(state["history"]), _random_states(state), state["weights"]

    def _numbers(self, state: dict[str, Any]) -> dict[str, Tensor]:
        """Name for messages -> tensor, for the tensors of a state that must be finite."""
        parts = {
            "weights": state["weights"],
            "weights in training": state["in_training"],
            "averages": state["averages"],
        }
        names = dict(enumerate(name for name, _ in self.vae.named_parameters()))
        for i, of_parameter in state["optimiser"]["state"].items():
            parts[f"the optimiser's state of {names.get(i, i)}:"] = of_parameter
        for name, critic in state["critics"].items():
            parts[f"weights of {name}:"] = critic["weights"]
            parts |= {f"the state of {name}'s optimiser, {i}:": p for i, p in critic["optimiser"]["state"].items()}
        return {f"{of} {name}": x for of, part in parts.items() for name, x in part.items() if name not in self.free}

    def _check_training(self, state: dict[str, Any], path: str | Path) -> None:
        """Checks the rest of the state: weights in training, averages, optimiser, random states and history."""
        _check_tensors(state["in_training"], self.vae.state_dict(), path, "in_training")
        _check_tensors(state["averages"], self.averaged.values, path, "averages")
        self._check_critics(state["critics"], path)
        for random in _random_states(state):
            check_fields(random, path, {"cpu": Tensor}, "random")
            try:
                torch.Generator().set_state(random["cpu"])
            except (RuntimeError, TypeError) as error:
                raise InputError(f"checkpoint: {path}: random['cpu'] is no state of a generator ({error})") from error
        history = state["history"]
        check_fields(history, path, dict.fromkeys(range(len(history)), dict), "history")
        if len(history) != state["epoch"]:
            raise InputError(f"checkpoint: {path}: 'history' has {len(history)} epochs, not {state['epoch']}")
        _check_optimiser(state["optimiser"], self.optimiser, path, "optimiser")

    def _check_critics(self, states: dict[str, Any], path: str | Path) -> None:
        """Checks the states of the modules that terms own."""
        optimisers = self.trainer.critic_optimisers
        check_fields(states, path, dict.fromkeys(optimisers, dict), "critics")
        for name, optimiser in optimisers.items():
            where = f"critics[{name!r}]"
            check_fields(states[name], path, {"weights": dict, "optimiser": dict}, where)
            own = self.trainer.critics[name].state_dict()
            _check_tensors(states[name]["weights"], own, path, f"{where}['weights']")
            _check_optimiser(states[name]["optimiser"], optimiser, path, f"{where}['optimiser']")


def _random_states(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of the random generators of each process; older files have those of one."""
    return [state["random"], *state.get("random_of_others", [])]


def _check_optimiser(found: dict[str, Any], optimiser: torch.optim.Optimizer, path: str | Path, name: str) -> None:
    """Checks that a state belongs to an optimiser with the same parameters.

    Raises:
        InputError: it does not; the message names file and key.
    """
    mine = optimiser.state_dict()
    check_fields(found, path, {"state": dict, "param_groups": list}, name)
    if len(found["param_groups"]) != len(mine["param_groups"]):
        raise InputError(f"checkpoint: {path}: {name}['param_groups'] has another length than this optimiser's")
    for i, group in enumerate(mine["param_groups"]):
        where = f"{name}['param_groups'][{i}]"
        check_fields(found["param_groups"], path, {i: dict}, f"{name}['param_groups']")
        check_fields(found["param_groups"][i], path, {key: _kind(value) for key, value in group.items()}, where)
        if found["param_groups"][i]["params"] != group["params"]:
            raise InputError(f"checkpoint: {path}: {where}['params'] are other parameters than this optimiser's")
    parameters = dict(enumerate(p for group in optimiser.param_groups for p in group["params"]))
    moments = ("step", "exp_avg", "exp_avg_sq") if isinstance(optimiser, torch.optim.Adam) else ()
    for i, part in found["state"].items():
        where = f"{name}['state'][{i!r}]"
        check_fields(found["state"], path, {i: dict}, f"{name}['state']")
        if i not in parameters:
            raise InputError(f"checkpoint: {path}: {where} belongs to no parameter")
        check_fields(part, path, dict.fromkeys(moments, Tensor), where)
        if not moments:  # the state of other optimisers is not known
            continue
        vectors = {name: value for name, value in part.items() if isinstance(value, Tensor) and value.dim()}
        _check_tensors(vectors, dict.fromkeys(vectors, parameters[i]), path, where)


FIELDS = {
    "in_training": dict,
    "averages": dict,
    "scaler": dict,
    "steps": int,
    "optimiser": dict,
    "critics": dict,
    "random": dict,
    "epoch": int,
    "labelled": Tensor,
}
FIELDS |= {"history": list, "config": dict, "setting": dict}  # fields of `fit`'s checkpoints, beside model and weights


def _kind(value: Any) -> type | tuple[type, ...]:
    """The types that a value in an optimiser's group may have, from its present value."""
    return (int, float) if type(value) in (int, float) else type(value)


def _check_tensors(found: dict[str, Any], own: dict[str, Tensor], path: str | Path, where: str) -> None:
    """Checks that `found` has tensors with the names and sizes of `own`, and no others.

    Raises:
        InputError: it does not; the message names file and key.
    """
    check_fields(found, path, dict.fromkeys(own, Tensor), where)
    for name, value in found.items():
        if name not in own or value.shape != own[name].shape:
            expected = f"of shape {tuple(own[name].shape)}" if name in own else "not there"
            raise InputError(
                f"checkpoint: {path}: {where}[{name!r}] has shape {tuple(value.shape)}, expected: {expected}"
            )


def replace_weights(path: str | Path, vae: SemiVAE) -> None:
    """Writes a model's current weights into its checkpoint, after a training stage outside `fit`.

    A resumed run also gets the new buffers (M1's classifier), but keeps the parameters in training.

    Raises:
        FloatingPointError: a parameter is not finite.
        InputError: the file is damaged, or cannot be written. In both cases the file is unchanged.
    """
    state = load_checkpoint(path, type(vae).__name__)
    if bad := not_finite(dict(vae.named_parameters())):
        raise FloatingPointError(f"{', '.join(bad[:5])} not finite; {path} is left as it was")
    weights, trained = vae.state_dict(), dict(vae.named_parameters(remove_duplicate=False))
    if "in_training" in state:
        buffers = {name: value for name, value in weights.items() if name not in trained}
        state["in_training"] = {**state["in_training"], **buffers}
    save_checkpoint(path, {**state, "weights": weights})


def load_weights(vae: nn.Module, state: dict[str, Any], path: str | Path = "checkpoint") -> None:
    """Loads a checkpoint's weights into a model.

    Raises:
        InputError: the model has other parameters or sizes, or the weights are not finite; the model is unchanged.
    """
    check_fit(vae, state["weights"], path)
    free = {*not_finite(dict(vae.named_buffers()))}  # buffers that need not be finite
    check_finite({name: value for name, value in state["weights"].items() if name not in free}, path)
    vae.load_state_dict(state["weights"])


def check_fit(vae: nn.Module, weights: dict[str, Any], path: str | Path) -> None:
    """Checks that weights have the names and sizes of a model's state dict.

    Raises:
        InputError: they do not; the message names the first few differences.
    """
    own = vae.state_dict()
    wrong = [f"no {name}" for name in own if name not in weights]
    wrong += [f"unknown {name}" for name in weights if name not in own]
    wrong += [
        f"size mismatch for {name}: {tuple(weights[name].shape)}, the model's is {tuple(value.shape)}"
        for name, value in own.items()
        if isinstance(weights.get(name), Tensor) and weights[name].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise InputError(f"checkpoint: {path} does not fit this {type(vae).__name__}: {', '.join(wrong[:5])}{more}")
