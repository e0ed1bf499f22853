"""fit(): the training loop."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from pyro_semivae.checkpoints import Checkpoint, History
from pyro_semivae.compiling import COMPILE, Compile, pays
from pyro_semivae.contract import check_sites, check_terms
from pyro_semivae.data.batches import Batches
from pyro_semivae.data.noise import Corruption
from pyro_semivae.digests import digest
from pyro_semivae.epochs import Loop
from pyro_semivae.errors import InputError, check_choice, check_count, check_number
from pyro_semivae.files import check_plain, writable_file
from pyro_semivae.infer import Objective
from pyro_semivae.models import SemiVAE
from pyro_semivae.processes import Processes, connect, devices_of_launch, launched
from pyro_semivae.settings import setting
from pyro_semivae.spaces import is_missing
from pyro_semivae.spaces.base import absent_rows, rows_of
from pyro_semivae.stopping import EarlyStopping
from pyro_semivae.streams import RandomStreams
from pyro_semivae.trainer import Optimiser, Trainer
from pyro_semivae.watch import signs_of_failure


def constant(progress: float) -> float:
    """A constant learning rate."""
    return 1.0


def cosine(progress: float) -> float:
    """Cosine decay, from 1 at the start of training to 0 at its end."""
    return 0.5 * (1 + math.cos(math.pi * progress))


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine}
PRECISIONS = ("64-true", "32-true", "bf16-mixed", "16-mixed")
STEPS, LEAST_EPOCHS = 3000, 10  # the default length of training: ten passes through 60,000 rows


Rows = dict[str, Tensor]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in `fit`: `history` contains the finished epochs, the model has its current averaged weights."""

    def __init__(self, history: History):
        super().__init__(f"interrupted after {len(history)} epochs")
        self.history = history


def fit(
    vae: SemiVAE,
    x: Any,
    y: Any = None,
    *,
    unpaired_labels: Any = None,
    elbo: Objective | None = None,
    epochs: int | None = None,
    batch_size: int = 200,
    labelled_batch_size: int | None = None,
    labelled_weight: float = 1.0,
    also_unlabelled: bool = False,
    lr: float = 1e-3,
    optimiser: Optimiser | None = None,
    clip: Callable[[Iterable[nn.Parameter]], Any] | None = None,
    schedule: str | Callable[[float], float] = "cosine",
    warm_up: float | None = None,
    corrupt: Corruption | Literal["recipe"] | None = "recipe",
    ema_decay: float = 0.998,
    seed: int = 0,
    accelerator: str | None = None,
    precision: str | None = None,
    compile: Compile = "auto",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    early_stopping: EarlyStopping | None = None,
    on_epoch: Callable[[int, SemiVAE], dict[str, float] | None] | None = None,
    progress: bool = True,
    device_budget: int = 2 << 30,
) -> History:
    """Trains a model and its guide; labels may be missing in any pattern.

    The defaults are the recipe of the examples: the weights of the objective, the number of steps, the learning rate
    and its schedule, weight averaging, the model's warm-up, and shifts of the guide's images (but no dropout).

    Under `torchrun` or `fabric run` the started processes train one model together: each calls `fit` with the same
    arguments and data, has rows and noise of its own (batch sizes are those of one process) and ends with the same
    model and history. The first one alone calls `on_epoch`, prints and writes checkpoints; a run can be resumed with
    another number of processes.

    Args:
        vae: the model. It is trained in place and stays on the device; Pyro's parameter store is not used. Parameters
            that require no gradient are not changed.
        x: data, such as images, uint8 or float in [0, 1], `(N, C, H, W)`: a tensor, a numpy array or lists. For models
            with sites other than one data site and one label, a mapping from site to values.
        y: labels, with missing entries; `None` if none is known.
        unpaired_labels: labels without images, `(N_a,)` or `(N_a, L)`, for objectives that score them
            (`TraceInverted_ELBO`); a step uses `batch_size` of them. Labels of rows whose x is NaN throughout are
            unpaired too.
        elbo: the objective (default: `vae.elbo_for(y)`, the recipe's; the paper's is `vae.elbo()`).
        epochs: the number of passes through the unlabelled rows, or through the labelled rows if that takes more
            steps; default: the number that gives 3,000 steps, at least ten.
        batch_size, labelled_batch_size, labelled_weight, also_unlabelled, device_budget: see `data.Batches`; its
            `stratify` is the model's.
        lr, schedule: the learning rate, and its factor as a function of the fraction of training done, or the name of
            such a function, "constant" or "cosine".
        optimiser: called with the model's parameters and `lr=...`, returns a torch optimiser: a class, or e.g.
            `partial(torch.optim.AdamW, weight_decay=0.01)` (default: Adam). Modules owned by a term, such as the
            critic of `TotalCorrelation`, are trained by the term's own optimiser.
        clip: a function applied to the parameters before a step, to clip their gradients, e.g.
            `partial(torch.nn.utils.clip_grad_value_, clip_value=1.0)`.
        warm_up: the fraction of training over which the bound's `beta` rises linearly from 0 to its value (default:
            the model's `warm_up`); see `Objective.warmed_up`. Any other weight may be a schedule too.
        corrupt: noise on the guide's data, e.g. `data.shift` (default: the model's `corruption()`; `None` for none;
            with several data sites a mapping from site to noise). The model scores the clean data. Since any
            q(z | corrupt(x)) is a guide, the objective is still a bound (Im et al., AAAI 2017).
        ema_decay: the decay per step of an exponential moving average of the weights (Polyak and Juditsky, 1992). The
            model has the averages after training and after every epoch, as does the checkpoint; 0 for the last weights.
        seed: seeds the order of the rows and the noise. Training has random streams of its own: it does not change
            torch's global generators, and random numbers used by a callback do not change training.
        accelerator, precision: Fabric's arguments, e.g. `"cuda"` and `"bf16-mixed"`; one device (default: the model's).
            Images, densities and bounds are in the model's own precision, layers compute in the lower one.
        compile: `"on"`: loss and gradients run as one graph, traced and compiled at the first step (`infer.Traced`;
            about half a minute, less from the second run on), in place of Pyro's handlers at every step. The noise is
            the same, numbers differ by rounding. `"auto"`: on if the number and size of the steps say that this saves
            more time than it takes; if the step cannot be compiled, or parameters or optimisers have hooks, training
            continues without, and `history.notes` and a printed line say so. `"off"`: never. On a GPU the graph and the
            optimisers' step, `clip` included, are captured as CUDA graphs, as far as they do not wait for the GPU: what
            they do in Python, such as counting, is done only in the first steps.
        checkpoint: a file written after every epoch. resume: continue from this file if it exists; the run is then
            bit-identical to an uninterrupted one (on the same machine; a schedule's end moves with `epochs`). A
            checkpoint with another data set, objective, seed, batch size or learning rate is refused.
        config: plain values to keep in the checkpoint.
        early_stopping: ends training when a value of the history stops improving; the model and the checkpoint then
            have the weights of the best epoch. (The schedule and the warm-up still depend on `epochs`.)
        on_epoch: called after every epoch with its number (from 1) and the model; the returned values are added to the
            history.
        progress: show a progress bar with the ELBO; if the output is not a terminal, print up to twenty lines. At the
            end a note reports if the classifier is at chance on the labelled rows or the latents are unused.

    Returns one dict per epoch, with means over its steps in nats per example: `objective`, the maximised value with all
    weights; `elbo`, the bound alone; `term/<name>`, every term unweighted, and `weight/<name>` if it is not 1 (in the
    last step); `monitor/<name>`; and `epoch`, `seconds`.

    Raises:
        InputError: an argument is invalid; no row is labelled although `elbo` needs labels; the checkpoint is damaged
            or from another model.
        ConnectionError: another process that trains with this one has ended. The last checkpoint is kept.
        FloatingPointError: a term of the bound, the bound, or a parameter is not finite. The last checkpoint is kept.
        Interrupted: by Ctrl-C; it is a KeyboardInterrupt and contains the history.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # 1. Arguments and defaults.
        table, given, labels = _rows(vae, x, y)
        alone = None if unpaired_labels is None else vae.label_values(unpaired_labels, "unpaired_labels")
        table, given, labels, alone = _without_data(vae, elbo, table, given, labels, alone)
        elbo = (
            vae.elbo_for(labels if len(vae.label_sites) != 1 else next(iter(labels.values()), None))
            if elbo is None
            else elbo
        )
        warm_up = vae.warm_up if warm_up is None else warm_up
        corrupt = vae.corruption() if corrupt == "recipe" else corrupt
        schedule = SCHEDULES[check_choice("schedule", schedule, SCHEDULES)] if isinstance(schedule, str) else schedule
        _check(vae, elbo, alone, lr, warm_up, ema_decay, early_stopping)
        _check_callables(clip=clip, schedule=schedule, corrupt=corrupt, on_epoch=on_epoch, optimiser=optimiser)
        seed = check_count("seed", seed, 0, 2**32 - 1)
        check_choice("compile", compile, COMPILE)
        if compile != "off" and precision == "16-mixed":
            if compile == "on":
                raise InputError("compile: got 'on' with precision '16-mixed'; expected another precision, or 'off'")
            compile = "off"  # gradients would be scaled after they are computed
        config = _config(config)
        checkpoint = None if checkpoint is None else writable_file(checkpoint, "checkpoint")
        fabric = _fabric(next(vae.parameters()).device if accelerator is None else accelerator, precision, elbo)
        processes = Processes(fabric)
        progress = progress and processes.first

        # 2. Batches.
        batches = Batches(
            given,
            labels,
            batch_size=batch_size,
            labelled_batch_size=labelled_batch_size,
            labelled_weight=labelled_weight,
            device=fabric.device,
            dtype=next(vae.parameters()).dtype,
            device_budget=device_budget,
            seed=seed,
            unpaired_labels=alone,
            also_unlabelled=also_unlabelled,
            stratify=None if vae.stratify is None else (vae.stratify, vae.spaces[vae.stratify].num_values),
            process=(processes.index, processes.number),
        )
        shapes = {name: (tuple(values.shape), values.dtype) for name, values in table.items()}
        processes.check_same("x, y", (shapes, batches.steps, digest(batches.labelled)))
        if elbo.needs_labels and not len(batches.labelled):
            raise InputError(f"y: got no labelled row; {_needing(elbo)} needs some")
        epochs = max(LEAST_EPOCHS, round(STEPS / batches.steps)) if epochs is None else check_count("epochs", epochs)
        vae.to(fabric.device)
        some = vae.inputs({name: values[:3] for name, values in table.items()})
        missing = len(labels) < len(vae.label_sites) or any(is_missing(values).any() for values in labels.values())
        check_sites(vae, some, missing=missing)
        if missing:
            check_terms(vae, elbo)

        # 3. The trainer, and its state if the run is resumed.
        if optimiser is None:  # not fused if the step would unscale gradients, which is after clipping
            optimiser = partial(torch.optim.Adam, fused=not (clip is not None and precision == "16-mixed"))
        warmed = elbo.warmed_up(warm_up) if warm_up else elbo
        whole = not any(absent_rows(values).any() for values in given.values())
        how = {"optimiser": optimiser, "lr": lr, "corrupt": corrupt, "clip": clip, "ema_decay": ema_decay}
        trainer = Trainer(vae, warmed, fabric, data_complete=whole, **how)
        with RandomStreams(seed, fabric.device), pyro.validation_enabled(False):
            batch = next(batches.epoch(0))
            trainer.prepare(batch)
            if compile == "on" or (compile == "auto" and pays(trainer, batch, epochs * batches.steps)):
                trainer.compile(optional=compile == "auto")
                if progress:
                    print("compiling the step: about half a minute", file=sys.stderr, flush=True)
        of_batches = f"{batches.sizes_alone}, labelled_weight {labelled_weight}, seed {seed}"
        of_batches += ", labelled rows also unlabelled" if also_unlabelled else ""
        of_batches += f", by {vae.stratify}" if vae.stratify else ""
        of_optimiser = {"lr": lr, "schedule": schedule, "warm_up": warm_up, "corrupt": corrupt, "ema_decay": ema_decay}
        of_optimiser |= {"precision": precision, "optimiser": optimiser, "clip": clip}
        of_optimiser |= {"early_stopping": str(early_stopping)}
        kept = {} if checkpoint is None else setting(vae, elbo, given, batches, of_batches, of_optimiser)
        state = Checkpoint(trainer, batches, kept, config)
        history, streams = _resumed(state, checkpoint if resume else None, epochs, seed, early_stopping)
        total = max(1, epochs * batches.steps)
        trainer.start(lambda step: schedule(step / total), len(history) * batches.steps)

        # 4. Epochs of steps.
        loop = Loop(
            vae, table, trainer, batches, state, streams, epochs, on_epoch, early_stopping, checkpoint, progress
        )
        try:
            with pyro.validation_enabled(False), loop.training():
                loop.run(history)
        except KeyboardInterrupt as stop:
            raise Interrupted(history) from stop
        finally:
            trainer.averaged.exchange()
            history.compiled, history.notes = trainer.traced is not None, trainer.notes

        # 5. The weights to keep, and signs of failure.
        if early_stopping is not None and early_stopping.best(history) is not None:
            vae.load_state_dict(state.best)
        if progress:
            for note in trainer.notes + signs_of_failure(vae, table, seed=seed):
                print(f"NOTE: {note}", file=sys.stderr, flush=True)
        return history


def _rows(vae: SemiVAE, x: Any, y: Any) -> tuple[Rows, Rows, Rows]:
    """The rows, checked: of all sites, of data sites, of labels."""
    if not isinstance(vae, SemiVAE):
        raise InputError(f"vae: got {vae!r:.50}; expected a SemiVAE, such as CCVAE")
    table = vae.table(x, y)
    given = {name: table[name].detach() for name in vae.data_sites if name in table}
    labels = {name: table[name] for name in vae.label_sites if name in table}
    if len(given) < len(vae.data_sites):
        lacking = next(name for name in vae.data_sites if name not in given)
        raise InputError(f"{lacking}: got nothing; expected {vae.spaces[lacking]}")
    return table, given, labels


def _without_data(
    vae: SemiVAE, elbo: Any, table: Rows, given: Rows, labels: Rows, alone: Tensor | None
) -> tuple[Rows, Rows, Rows, Tensor | None]:
    """Moves rows whose only data are missing into the unpaired labels, for objectives that score these.

    Raises:
        InputError: there are such rows, and the objective does not score them.
    """
    if len(given) != 1 or not (absent := absent_rows(next(iter(given.values())))).any():
        return table, given, labels, alone
    (name,) = given
    if not (vae.elbo() if elbo is None else elbo).scores_unpaired_labels or len(labels) != 1:
        accepted = "beside data of other sites, or with an objective that scores labels without data"
        raise InputError(f"{name}: got NaN in rows {rows_of(absent)}; expected {accepted}")
    (own,) = labels.values()
    alone = torch.cat([part for part in (own[absent.to(own.device)], alone) if part is not None])
    table, given, labels = (
        {site: values[~absent.to(values.device)] for site, values in rows.items()} for rows in (table, given, labels)
    )
    if not len(next(iter(given.values()))):
        raise InputError(f"{name}: got NaN in all rows; expected one or more with values")
    return table, given, labels, alone


def _resumed(
    state: Checkpoint, path: Path | None, epochs: int, seed: int, early_stopping: EarlyStopping | None
) -> tuple[History, RandomStreams]:
    """The finished epochs and the random streams, from a checkpoint if the run is resumed."""
    history, processes = History(), state.trainer.processes
    index, streams = processes.index, RandomStreams(seed, state.batches.device, process=processes.index)
    if path is not None and processes.of_first(path.exists):
        history, states, kept_weights = state.restore(path, epochs)
        if index < len(states):
            streams.state = states[index]
        else:  # one more process than before: noise that was not used yet
            of_epoch = seed + len(history)
            streams = RandomStreams(of_epoch, state.batches.device, process=index)
        if early_stopping is not None and early_stopping.best(history) is not None:
            state.best = kept_weights
    elif path is not None and processes.first:
        print(f"no checkpoint at {path}: starting at epoch 1", file=sys.stderr, flush=True)
    return history, streams


def _needing(elbo: Objective) -> str:
    return ", ".join(type(part.what).__name__ for part in elbo.parts() if part.what.needs_labels)


def _config(config: Any) -> dict[str, Any]:
    config = {} if config is None else config
    if not isinstance(config, dict):
        raise InputError(f"config: got {type(config).__name__}; expected a dict")
    check_plain(config, "config")
    return config


def _check(
    vae: SemiVAE,
    elbo: Any,
    alone: Tensor | None,
    lr: float,
    warm_up: float,
    ema_decay: float,
    early_stopping: Any,
) -> None:
    check_number("lr", lr, above=0)
    check_number("warm_up", warm_up, least=0, most=1)
    check_number("ema_decay", ema_decay, least=0, below=1)
    if not isinstance(elbo, Objective):
        raise InputError(f"elbo: got {type(elbo).__name__}; expected this library's objectives, e.g. vae.elbo()")
    if not any(parameter.requires_grad for parameter in vae.parameters()):
        raise InputError("vae: got a model of which no parameter requires a gradient: there is nothing to train")
    if any(parameter.is_inference() for parameter in vae.parameters()):
        raise InputError(
            "vae: got a model that was made inside of torch.inference_mode(): make it outside, to train it"
        )
    if not isinstance(early_stopping, EarlyStopping | None):
        raise InputError(f"early_stopping: got {early_stopping!r}; expected an EarlyStopping")
    if alone is not None and not elbo.scores_unpaired_labels:
        raise InputError(f"unpaired_labels: got {len(alone)} labels; {type(elbo).__name__} accepts none alone")
    if alone is not None and (not len(alone) or is_missing(alone).any()):
        raise InputError("unpaired_labels: got missing labels, or no rows; expected one or more, all known")


def _fabric(accelerator: str | torch.device, precision: str | None, elbo: Objective) -> Fabric:
    """Fabric for a precision and one device, or for the processes that were started, with one device each."""
    devices = devices_of_launch()
    if isinstance(accelerator, torch.device):
        if launched() == 1 and accelerator.index is not None:
            devices["devices"] = [accelerator.index]
        accelerator = accelerator.type
    if precision is not None:
        check_choice("precision", precision, PRECISIONS)
    if precision == "16-mixed" and elbo.modules():
        got = "got '16-mixed' with a term that has modules of its own"
        raise InputError(f"precision: {got}; expected 'bf16-mixed' there, which scales no gradients")
    try:
        fabric = Fabric(accelerator=accelerator, precision=None if precision == "16-mixed" else precision, **devices)
    except (RuntimeError, ValueError, ImportError, MisconfigurationException) as error:
        raise InputError(
            f"accelerator: got {accelerator!r} ({error}); expected one that this machine has, such as 'cpu'"
        ) from error
    if precision == "16-mixed":
        if fabric.device.type == "cpu":  # Fabric would take another one
            raise InputError("precision: got '16-mixed' on the CPU, which has none; expected 'bf16-mixed'")
        fabric = Fabric(accelerator=accelerator, precision=precision, **devices)
    connect(fabric)
    return fabric


def _check_callables(**values: Any) -> None:
    for name, value in values.items():
        if name == "corrupt" and isinstance(value, Mapping) and all(map(callable, value.values())):
            continue
        if value is not None and not callable(value):
            example = ", e.g. partial(torch.nn.utils.clip_grad_norm_, max_norm=1.0)" if name == "clip" else ""
            raise InputError(f"{name}: got {value!r}; expected a function{example}")
