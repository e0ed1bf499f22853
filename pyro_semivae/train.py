"""fit(): the one training loop."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from lightning_fabric import Fabric
from pyro import poutine
from torch import Tensor, nn

from pyro_semivae.checkpoints import Average, Checkpoint, History
from pyro_semivae.data.batches import Batch, Batches
from pyro_semivae.data.noise import Corruption, by_site
from pyro_semivae.errors import InputError, check_choice, check_count, check_number
from pyro_semivae.files import check_plain, writable_file
from pyro_semivae.infer import LabelledFirst, ObjectiveModule, RowELBO, RowScale
from pyro_semivae.models import SemiVAE
from pyro_semivae.progress import epoch_bar, epoch_line, show_terms
from pyro_semivae.settings import setting
from pyro_semivae.spaces import is_missing
from pyro_semivae.spaces.base import absent_rows, rows_of
from pyro_semivae.stopping import EarlyStopping
from pyro_semivae.streams import RandomStreams
from pyro_semivae.watch import FiniteWatch, check_weights, signs_of_failure


def constant(progress: float) -> float:
    """The learning rate stays as it is."""
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine, from 1 at the start of training to 0 at its end."""
    return 0.5 * (1 + math.cos(math.pi * progress))


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine}
PRECISIONS = ("64-true", "32-true", "bf16-mixed", "16-mixed")
STEPS, LEAST_EPOCHS = 3000, 10  # what training takes where nothing is said: ten passes through 60,000 rows


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in `fit`: `history` has the epochs that were done, the model its weights (the averages) of now."""

    def __init__(self, history: History):
        super().__init__(f"interrupted after {len(history)} epochs")
        self.history = history


def fit(
    vae: SemiVAE,
    x: Any,
    y: Any = None,
    *,
    labels_alone: Any = None,
    elbo: RowELBO | None = None,
    epochs: int | None = None,
    batch_size: int = 200,
    labelled_batch_size: int | None = None,
    labelled_weight: float = 1.0,
    lr: float = 1e-3,
    eps: float = 1e-8,
    clip: Callable[[Iterable[nn.Parameter]], Any] | None = None,
    schedule: str | Callable[[float], float] = "cosine",
    warm_up: float | None = None,
    corrupt: Corruption | Literal["recipe"] | None = "recipe",
    average: float = 0.998,
    seed: int = 0,
    accelerator: str = "cpu",
    precision: str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    early_stopping: EarlyStopping | None = None,
    on_epoch: Callable[[int, SemiVAE], dict[str, float] | None] | None = None,
    progress: bool = True,
    device_budget: int = 2 << 30,
) -> History:
    """Trains a model and its guide with Adam; labels may be missing in any pattern.

    What is not said is the recipe of the examples: the objective's weights, the number of steps, the learning rate and
    its schedule, averaged weights, the model's warm-up, a shift of what the guide sees (not its dropout).

    Args:
        vae: the model. It is trained in place and left on the device; Pyro's parameter store is not used. Parameters
            that require no gradient stay as they are.
        x: data, such as images, uint8 or float in [0, 1], `(N, C, H, W)`: a tensor, a numpy array or lists. Or, for
            models with other sites than one of data and one label, a mapping from site to values.
        y: labels, with missing entries; `None` if none is known.
        labels_alone: labels that have no image, `(N_a,)` or `(N_a, L)`, for objectives that score them
            (`TraceInverted_ELBO`); a step draws `batch_size` of them.
        elbo: the objective (default: `vae.elbo_for(y)`, the recipe's; the paper's is `vae.elbo()`).
        epochs: the number of passes through the unlabelled rows, or the labelled ones if that takes more steps;
            default: as many as make 3,000 steps, ten at least.
        batch_size, labelled_batch_size, labelled_weight, device_budget: see `data.Batches`.
        lr, schedule: Adam's learning rate, and its factor as a function of the fraction of training done, or the name
            of one, "constant" or "cosine".
        eps: Adam's epsilon.
        clip: what is done to the parameters' gradients before a step, e.g.
            `partial(torch.nn.utils.clip_grad_value_, clip_value=1.0)`.
        warm_up: the fraction of training over which the objective's `beta` rises linearly from 0 to what it is
            (default: the model's `warm_up`).
        corrupt: noise on the data that the guide sees, e.g. `data.shift` (default: the model's `corruption()`; `None`
            for none; with several sites of data a mapping from site to noise); the model scores the clean ones. Since
            any q(z | corrupt(x)) is a guide, what is maximised is a bound still (Im et al., AAAI 2017).
        average: the decay of a moving average of the weights over steps (Polyak and Juditsky, 1992), which
            is what the model has after training, after every epoch and in the checkpoint; 0 for the last weights.
        seed: seeds the order of the rows and the noise. Training has random streams of its own: torch's global
            generators are afterwards as they were, and what a callback draws changes nothing.
        accelerator, precision: as Fabric knows them, e.g. `"cuda"` and `"bf16-mixed"`; one device. Images, densities
            and bounds are in the model's own precision, layers compute in the lower one.
        checkpoint: a file written after every epoch. resume: continue from it where it exists; the run is then
            bit-identical to one that was never interrupted (same machine; a schedule's end moves with `epochs`).
            A checkpoint of another data set, objective, seed, batch size or learning rate is refused.
        config: plain values to keep in the checkpoint.
        early_stopping: ends training when a value of the history gets no better; the model then has the weights of its
            best epoch, as has the checkpoint. (A schedule and the warm-up still go by `epochs`.)
        on_epoch: called after every epoch with its number (from 1) and the model; what it returns goes into the
            history.
        progress: show a bar with the bound's terms; where the output is no terminal, up to
            twenty lines. At the end a note says if the classifier is at chance on the labelled rows, or the latents
            are not used.

    Returns one dict per epoch: `epoch`, `bound` (nats per row, weights included), `term/<name>` and `monitor/<name>`
    (means over the epoch's steps), `seconds`.

    Raises:
        InputError: an argument is not what it should be; no row is labelled and `elbo` needs some; the checkpoint
            is damaged or another model's.
        FloatingPointError: a term of the bound, the bound, or a parameter, is not finite. The last checkpoint is kept.
        Interrupted: by Ctrl-C; it has the history, and is a KeyboardInterrupt.
    """
    with torch.inference_mode(False), torch.enable_grad():
        if not isinstance(vae, SemiVAE):
            raise InputError(f"vae: got {vae!r:.50}; accepted is a SemiVAE, such as CCVAE")
        table = vae.table(x, y)
        given = {name: table[name].detach() for name in vae.data_sites if name in table}
        labels = {name: table[name] for name in vae.label_sites if name in table}
        if len(given) < len(vae.data_sites):
            lacking = next(name for name in vae.data_sites if name not in given)
            raise InputError(f"{lacking}: got nothing; accepted are {vae.spaces[lacking]}")
        if len(given) == 1 and (absent := absent_rows(next(iter(given.values())))).any():
            raise InputError(
                f"{next(iter(given))}: got NaN in rows {rows_of(absent)}; accepted beside data of other sites alone"
            )
        elbo = (
            vae.elbo_for(labels if len(vae.label_sites) != 1 else next(iter(labels.values()), None))
            if elbo is None
            else elbo
        )
        warm_up = vae.warm_up if warm_up is None else warm_up
        corrupt = vae.corruption() if corrupt == "recipe" else corrupt
        schedule = SCHEDULES[check_choice("schedule", schedule, SCHEDULES)] if isinstance(schedule, str) else schedule
        _check(vae, elbo, lr, eps, warm_up, average)
        _check_callables(clip=clip, schedule=schedule, corrupt=corrupt, on_epoch=on_epoch)
        if not isinstance(early_stopping, EarlyStopping | None):
            raise InputError(f"early_stopping: got {early_stopping!r}; accepted is an EarlyStopping")
        seed = check_count("seed", seed, 0, 2**32 - 1)
        labels_alone = (
            None if labels_alone is None else _check_alone(vae.label_values(labels_alone, "labels_alone"), elbo)
        )
        config = {} if config is None else config
        if not isinstance(config, dict):
            raise InputError(f"config: got {type(config).__name__}; accepted is a dict")
        check_plain(config, "config")
        checkpoint = None if checkpoint is None else writable_file(checkpoint, "checkpoint")
        fabric = _fabric(accelerator, precision)
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
            labels_alone=labels_alone,
        )
        if elbo.needs_labels and not len(batches.labelled):
            raise InputError(f"y: got no labelled row; {type(elbo).__name__} as configured needs some")
        epochs = max(LEAST_EPOCHS, round(STEPS / batches.steps)) if epochs is None else check_count("epochs", epochs)
        vae.to(fabric.device)
        fused = not (clip is not None and precision == "16-mixed")  # which unscales in the step, after the clipping
        optimiser = torch.optim.Adam([p for p in vae.parameters() if p.requires_grad], lr, eps=eps, fused=fused)
        history: History = []
        streams = RandomStreams(seed, fabric.device)
        averaged = Average(vae, average)
        of_batches = f"{batches.sizes}, labelled_weight {labelled_weight}, seed {seed}"
        of_optimiser = {"lr": lr, "schedule": schedule, "warm_up": warm_up, "corrupt": corrupt, "average": average}
        of_optimiser |= {"precision": precision, "eps": eps, "clip": clip, "early_stopping": str(early_stopping)}
        kept = {} if checkpoint is None else setting(vae, elbo, given, batches, of_batches, of_optimiser)
        state = Checkpoint(vae, averaged, optimiser, batches, kept, config, fabric.strategy.precision)
        if resume and checkpoint is not None:
            if checkpoint.exists():
                history, streams.state, kept_weights = state.restore(checkpoint, epochs)
                if early_stopping is not None and early_stopping.best(history) is not None:
                    state.best = kept_weights
            else:
                print(f"no checkpoint at {checkpoint}: starting at epoch 1", file=sys.stderr, flush=True)
        guide = vae.guide if corrupt is None else _corrupted(vae, corrupt)
        step = _Step(elbo(vae.model, guide), vae.spaces)
        optimiser = fabric.setup_optimizers(optimiser)
        watch = FiniteWatch(every=1 if fabric.device.type == "cpu" else 25)

        def learn(batch: Batch, done: float, where: str) -> Tensor:
            """One step, when a fraction `done` of training is done; returns what there is to report."""
            warm(done)
            for group in optimiser.param_groups:
                group["lr"] = lr * schedule(done)
            parts = [batch] if batch.alone is None else [batch, batch.alone]
            with fabric.autocast():
                loss, terms, means = step(parts)
            watch(terms, torch.cat([part.rows for part in parts]), step.names, where, loss)
            optimiser.zero_grad()
            fabric.backward(loss)
            if clip is not None:
                fabric.strategy.precision.unscale_gradients(optimiser.optimizer)
                clip(vae.parameters())
            optimiser.step()
            averaged.update()
            return means

        steps, total = batches.steps, max(1, epochs * batches.steps)
        try:
            with pyro.validation_enabled(False), _training(vae), _warming_up(elbo, warm_up) as warm, streams:
                for epoch in range(len(history), epochs):
                    if early_stopping is not None and early_stopping.is_over(history):
                        break
                    start, sums = time.perf_counter(), None
                    with epoch_bar(steps, epoch, epochs, progress) as bar:
                        for i, batch in enumerate(batches.epoch(epoch)):
                            means = learn(batch, (epoch * steps + i) / total, f"epoch {epoch + 1}, step {i + 1}")
                            sums = means if sums is None else sums + means
                            show_terms(bar, i, sums, step.names)
                        watch.check(step.names)
                        history.append(_record(epoch, sums / steps, step, time.perf_counter() - start))
                        if on_epoch is not None:
                            with _evaluating(vae), averaged.in_place(), streams.outside():
                                history[-1].update(_values(on_epoch(epoch + 1, vae)))
                    every = -(-epochs // 20)  # at most twenty lines
                    if progress and not sys.stderr.isatty() and ((epoch + 1) % every == 0 or epoch + 1 == epochs):
                        print(epoch_line(history[-1], epochs), file=sys.stderr, flush=True)
                    check_weights(vae, averaged.values, epoch + 1)
                    if early_stopping is not None and early_stopping.best(history) == epoch:
                        with averaged.in_place():
                            state.best = {name: value.clone() for name, value in vae.state_dict().items()}
                    if checkpoint is not None:
                        state.save(checkpoint, history, streams.now())
        except KeyboardInterrupt as stop:
            raise Interrupted(history) from stop
        finally:
            averaged.exchange()
        if early_stopping is not None and early_stopping.best(history) is not None:
            vae.load_state_dict(state.best)
        if progress:
            for note in signs_of_failure(vae, table, seed=seed):
                print(f"NOTE: {note}", file=sys.stderr, flush=True)
        return history


def _check(
    vae: SemiVAE,
    elbo: Any,
    lr: float,
    eps: float,
    warm_up: float,
    average: float,
) -> None:
    check_number("lr", lr, above=0)
    check_number("eps", eps, above=0)
    check_number("warm_up", warm_up, least=0, most=1)
    check_number("average", average, least=0, below=1)
    if not isinstance(elbo, RowELBO):
        raise InputError(f"elbo: got {type(elbo).__name__}; accepted are this library's objectives, e.g. vae.elbo()")
    if not any(parameter.requires_grad for parameter in vae.parameters()):
        raise InputError("vae: got a model of which no parameter requires a gradient: there is nothing to train")
    if any(parameter.is_inference() for parameter in vae.parameters()):
        raise InputError(
            "vae: got a model that was made inside of torch.inference_mode(): make it outside, to train it"
        )


def _fabric(accelerator: str, precision: str | None) -> Fabric:
    """One device, and what computes in a lower precision there."""
    if precision is not None:
        check_choice("precision", precision, PRECISIONS)
    try:
        fabric = Fabric(accelerator=accelerator, devices=1, precision=None if precision == "16-mixed" else precision)
    except (RuntimeError, ValueError, ImportError) as error:
        raise InputError(
            f"accelerator: got {accelerator!r} ({error}); accepted is one that this machine has, such as 'cpu'"
        ) from error
    if precision != "16-mixed":
        return fabric
    if fabric.device.type == "cpu":  # Fabric would take another one
        raise InputError("precision: got '16-mixed' on the CPU, which has none; accepted there is 'bf16-mixed'")
    return Fabric(accelerator=accelerator, devices=1, precision=precision)


def _values(said: Any) -> dict[str, float]:
    """What a callback says, as numbers."""
    try:
        return {name: float(value) for name, value in ({} if said is None else said).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"on_epoch: returned {said!r:.50}; accepted is None, or a dict of numbers by name") from error


def _check_callables(**values: Any) -> None:
    for name, value in values.items():
        if name == "corrupt" and isinstance(value, Mapping) and all(map(callable, value.values())):
            continue
        if value is not None and not callable(value):
            example = ", e.g. partial(torch.nn.utils.clip_grad_norm_, max_norm=1.0)" if name == "clip" else ""
            raise InputError(f"{name}: got {value!r}; accepted is a function{example}")


def _check_alone(labels_alone: Tensor, elbo: RowELBO) -> Tensor:
    if not elbo.scores_labels_alone:
        raise InputError(f"labels_alone: got {len(labels_alone)} labels; {type(elbo).__name__} accepts none alone")
    if not len(labels_alone) or is_missing(labels_alone).any():
        raise InputError("labels_alone: got missing labels, or no rows; accepted are one or more, all known")
    return labels_alone


@contextmanager
def _training(vae: SemiVAE) -> Iterator[None]:
    vae.train()
    try:
        yield
    finally:
        vae.eval()


@contextmanager
def _evaluating(vae: SemiVAE) -> Iterator[None]:
    vae.eval()
    try:
        with torch.enable_grad():  # what is switched off inside is on again outside
            yield
    finally:
        vae.train()


@contextmanager
def _warming_up(elbo: RowELBO, until: float) -> Iterator[Callable[[float], None]]:
    """A function of the fraction of training done that sets the objective's beta, which in the end is what it was."""
    beta = getattr(elbo, "beta", None)
    if until and beta is None:
        raise InputError(f"warm_up: got {until}; accepted is 0 with {type(elbo).__name__}, which has no beta")

    def warm(done: float) -> None:
        if until:
            elbo.beta = beta * min(1.0, done / until)

    try:
        yield warm
    finally:
        if until:
            elbo.beta = beta


def _corrupted(vae: SemiVAE, corrupt: Corruption) -> Callable:
    """The guide, which sees data with noise."""
    noises = by_site(corrupt, vae.data_sites)

    def noisy(name: str, x: Tensor) -> Tensor:
        with poutine.block():  # noise may ask the model
            seen = noises[name](x)
        if not isinstance(seen, Tensor) or seen.shape != x.shape:
            got = tuple(seen.shape) if isinstance(seen, Tensor) else type(seen).__name__
            raise InputError(f"corrupt: returned {got}; accepted are images of the shape {tuple(x.shape)} that it gets")
        return seen

    def guide_of_corrupted(*values: Tensor | None) -> None:
        pairs = zip(vae.spaces, values, strict=False)
        return vae.guide(*(noisy(name, x) if name in noises and x is not None else x for name, x in pairs))

    return guide_of_corrupted


class _Step(nn.Module):
    """Its forward is the loss of a batch, with what there is to report."""

    def __init__(self, objective: ObjectiveModule, sites: Iterable[str]):
        super().__init__()
        self.objective, self.sites = objective, tuple(sites)
        self.names: list[str] = []  # of the terms
        self.monitors: list[str] = []

    def forward(self, parts: Sequence[Batch]) -> tuple[Tensor, Tensor, Tensor]:
        """The loss; each row's terms, `(T, B)` (a batch's own repeated); their scaled sums and monitors, `(T + M,)`.

        Args:
            parts: the rows with images, and those without. The terms of one part are 0 for the rows of the other.
        """
        loss, terms, sums, monitors = 0.0, [], {}, {}
        for part in parts:
            with RowScale(part.scale), LabelledFirst(part.labelled):
                rows = self.objective.rows(*map(part.values.get, self.sites))
            loss = loss - rows.total()
            terms.append(torch.stack([term.detach().expand(len(part.scale)) for term in rows.terms.values()]))
            for name, term in rows.terms.items():
                sums[name] = (term if name.startswith("batch/") else (term * part.scale).sum()).detach()
            monitors |= {name: value.detach() for name, value in rows.monitors.items()}
        self.names, self.monitors = [*sums], [*monitors]
        return loss, torch.block_diag(*terms), torch.stack([*sums.values(), *monitors.values()])


def _record(epoch: int, means: Tensor, module: _Step, seconds: float) -> dict[str, float]:
    values = means.tolist()
    terms, monitors = values[: len(module.names)], values[len(module.names) :]
    return {
        "epoch": epoch + 1,
        "bound": sum(terms),
        **{f"term/{name}": value for name, value in zip(module.names, terms, strict=True)},
        **{f"monitor/{name}": value for name, value in zip(module.monitors, monitors, strict=True)},
        "seconds": seconds,
    }
