"""The loop over epochs: steps, records, callbacks, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_semivae.checkpoints import Checkpoint, History
from pyro_semivae.data.batches import Batches
from pyro_semivae.errors import InputError
from pyro_semivae.models import SemiVAE
from pyro_semivae.progress import Progress
from pyro_semivae.stopping import EarlyStopping
from pyro_semivae.streams import RandomStreams
from pyro_semivae.tally import Tally
from pyro_semivae.trainer import Trainer
from pyro_semivae.watch import check_weights, labelled_accuracy


@dataclass
class Loop:
    """The training loop.

    Attributes:
        vae, table, trainer, batches: the model, its training rows, the trainer and the batches.
        state: the state that checkpoints contain.
        streams: the random streams.
        epochs: the number of epochs.
        on_epoch, early_stopping, checkpoint, progress: see `fit`.
    """

    vae: SemiVAE
    table: dict[str, Tensor]
    trainer: Trainer
    batches: Batches
    state: Checkpoint
    streams: RandomStreams
    epochs: int
    on_epoch: Callable[[int, SemiVAE], dict[str, float] | None] | None
    early_stopping: EarlyStopping | None
    checkpoint: Path | None
    progress: bool

    def run(self, history: History) -> None:
        """Runs the epochs that the history does not contain yet, and adds their records to it."""
        with Progress(self.epochs, self.batches.steps, len(history), self.progress) as progress:
            self._run(history, progress)

    def _run(self, history: History, progress: Progress) -> None:
        for epoch in range(len(history), self.epochs):
            if self.early_stopping is not None and self.early_stopping.is_over(history):
                break
            record, processes = self._learn(epoch, progress), self.trainer.processes
            processes.share(self.vae.buffers())  # such as running means, of each process's own rows
            history.append(processes.of_first(lambda record=record: record))  # seconds differ
            history[-1].update(processes.of_first(partial(self._called_back, epoch)))
            progress.epoch(history[-1], self._accuracy() if progress.draws else {})
            check_weights(self.vae, self.trainer.averaged.values, epoch + 1)
            self._keep(epoch, history)

    def _learn(self, epoch: int, progress: Progress) -> dict[str, float]:
        """Takes the steps of an epoch; returns its record."""
        tally, steps = Tally(self.vae), self.batches.steps
        for i, batch in enumerate(self.batches.epoch(epoch)):
            done = (epoch * steps + i) / max(1, self.epochs * steps)
            if self.trainer.traced is not None and (epoch, i + 1) == (self.epochs - 1, steps):
                self.trainer.traced.checks_next = True
            graphs = self.trainer.graphs
            tally.add(self.trainer.learn(batch, done, f"epoch {epoch + 1}, step {i + 1}"), batch)
            if self.trainer.graphs > graphs:  # the step was compiled
                progress.restart()
            progress.step(tally.bound)
        self.trainer.watch.check()
        return tally.record(epoch, self.trainer.processes)

    def _called_back(self, epoch: int) -> dict[str, float]:
        """The values that the callback returns after an epoch."""
        if self.on_epoch is None:
            return {}
        with self._evaluating():
            return _values(self.on_epoch(epoch + 1, self.vae))

    def _accuracy(self) -> dict[str, str]:
        """The classifier's accuracy on labelled rows, for the progress bar."""
        with self._evaluating():
            found = labelled_accuracy(self.vae, self.table, seed=0)
        only = len(found) == 1
        return {"accuracy" if only else f"accuracy of {name}": f"{value:.3f}" for name, value in found.items()}

    def _keep(self, epoch: int, history: History) -> None:
        """Stores the weights if the epoch is the best one so far, and saves the checkpoint, in the first process."""
        if self.early_stopping is not None and self.early_stopping.best(history) == epoch:
            with self.trainer.averaged.in_place():
                self.state.best = {name: value.clone() for name, value in self.vae.state_dict().items()}
        if self.checkpoint is not None:
            processes = self.trainer.processes
            states = processes.gathered(self.streams.now())
            processes.of_first(partial(self.state.save, self.checkpoint, history, states))

    @contextmanager
    def training(self) -> Iterator[None]:
        """Context with the model in training mode (afterwards in evaluation mode) and the streams' random numbers."""
        self.vae.train()
        try:
            with self.streams:
                yield
        finally:
            self.vae.eval()

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Context for callbacks: evaluation mode, averaged weights, and the caller's random numbers."""
        self.vae.eval()
        try:
            with torch.enable_grad(), self.trainer.averaged.in_place(), self.streams.outside():
                yield  # enable_grad: a callback that disables gradients has no effect on training
        finally:
            self.vae.train()


def _values(said: Any) -> dict[str, float]:
    """The returned values of a callback, as numbers."""
    try:
        return {name: float(value) for name, value in ({} if said is None else said).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"on_epoch: returned {said!r:.50}; expected None, or a dict of numbers by name") from error
