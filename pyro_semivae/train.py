"""fit(): the one training loop."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from lightning_fabric import Fabric
from pyro import poutine
from torch import Tensor, nn
from tqdm import tqdm

from pyro_semivae.checkpoints import Average, Checkpoint, History
from pyro_semivae.data.batches import Batches
from pyro_semivae.errors import InputError, check_count
from pyro_semivae.files import check_plain, writable_file
from pyro_semivae.infer import LabelledFirst, ObjectiveModule, RowELBO, RowScale
from pyro_semivae.labels import is_missing
from pyro_semivae.models import SemiVAE
from pyro_semivae.settings import setting
from pyro_semivae.watch import FiniteWatch, check_weights


def constant(progress: float) -> float:
    """The learning rate stays as it is."""
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine, from 1 at the start of training to 0 at its end."""
    return 0.5 * (1 + math.cos(math.pi * progress))


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine}


def fit(
    vae: SemiVAE,
    x: Tensor,
    y: Tensor | None = None,
    *,
    labels_alone: Tensor | None = None,
    elbo: RowELBO | None = None,
    epochs: int = 20,
    batch_size: int = 200,
    labelled_batch_size: int | None = None,
    labelled_weight: float = 1.0,
    lr: float = 5e-4,
    eps: float = 1e-8,
    clip: Callable[[Iterable[nn.Parameter]], Any] | None = None,
    schedule: Callable[[float], float] = constant,
    warm_up: float = 0.0,
    corrupt: Callable[[Tensor], Tensor] | None = None,
    average: float = 0.0,
    seed: int = 0,
    accelerator: str = "cpu",
    precision: str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    on_epoch: Callable[[int, SemiVAE], dict[str, float] | None] | None = None,
    progress: bool = True,
    device_budget: int = 2 << 30,
) -> History:
    """Trains a model and its guide with Adam; labels may be missing in any pattern.

    Args:
        vae: the model. It is trained in place and left on the device; Pyro's parameter store is not used.
        x: images, uint8 or float in [0, 1], `(N, C, H, W)`.
        y: labels, with missing entries; `None` if none is known.
        labels_alone: labels that have no image, `(N_a,)` or `(N_a, L)`, for objectives that score them
            (`TraceInverted_ELBO`); a step draws `batch_size` of them.
        elbo: the objective (default: `vae.elbo_for(y)`).
        epochs: the number of passes through the unlabelled rows, or the labelled ones if that takes more steps.
        batch_size, labelled_batch_size, labelled_weight, device_budget: see `data.Batches`.
        lr, schedule: Adam's learning rate, and its factor as a function of the fraction of training done.
        eps: Adam's epsilon.
        clip: what is done to the parameters' gradients before a step, e.g.
            `partial(torch.nn.utils.clip_grad_value_, clip_value=1.0)`.
        warm_up: the fraction of training over which the objective's `beta` rises linearly from 0 to what it is.
        corrupt: noise on the images that the guide sees, e.g. `data.shift`; the model scores the clean ones. Since any
            q(z | corrupt(x)) is a guide, what is maximised is a bound still (Im et al., AAAI 2017).
        average: the decay of a moving average of the weights over steps, e.g. 0.998 (Polyak and Juditsky, 1992), which
            is what the model has after training, after every epoch and in the checkpoint; 0 for the last weights.
        seed: seeds the order of the rows and the noise (torch's global generators).
        accelerator, precision: as Fabric knows them, e.g. `"cuda"` and `"bf16-mixed"`; one device.
        checkpoint: a file written after every epoch. resume: continue from it where it exists; the run is then
            bit-identical to one that was never interrupted (same machine; a schedule's end moves with `epochs`).
            A checkpoint of another data set, objective, seed, batch size or learning rate is refused.
        config: plain values to keep in the checkpoint.
        on_epoch: called after every epoch with its number (from 1) and the model; what it returns goes into the
            history.
        progress: show a bar with the bound's terms; where the output is no terminal, up to
            twenty lines.

    Returns one dict per epoch: `epoch`, `bound` (nats per row, weights included), `term/<name>` and `monitor/<name>`
    (means over the epoch's steps), `seconds`.

    Raises:
        ValueError: `x` or `y` are not what the model takes; no row is labelled and `elbo` needs some; the checkpoint
            is damaged or another model's.
        FloatingPointError: a term of the bound, or a parameter, is not finite. The last checkpoint is kept.
    """
    check_count("epochs", epochs)
    if not 0 < lr < math.inf:
        raise InputError(f"lr: got {lr}; accepted is a finite number above 0")
    if not 0 < eps < math.inf:
        raise InputError(f"eps: got {eps}; accepted is a finite number above 0")
    if not 0 <= warm_up <= 1:
        raise InputError(f"warm_up: got {warm_up}; accepted is a fraction of training, 0 to 1")
    if not 0 <= average < 1:
        raise InputError(f"average: got {average}; accepted is 0 <= average < 1")
    if elbo is not None and not isinstance(elbo, RowELBO):
        raise InputError(f"elbo: got {type(elbo).__name__}; accepted are this library's objectives, e.g. vae.elbo()")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: got {seed}; accepted are 0 to 2^32 - 1")
    vae.validate(x, y)
    elbo = vae.elbo_for(y) if elbo is None else elbo
    if labels_alone is not None:
        labels_alone = vae.labels.validate(labels_alone, "labels_alone")
        if not elbo.scores_labels_alone:
            raise InputError(f"labels_alone: got {len(labels_alone)} labels; {type(elbo).__name__} accepts none alone")
        if not len(labels_alone) or is_missing(labels_alone).any():
            raise InputError("labels_alone: got missing labels, or no rows; accepted are one or more, all known")
    check_plain(config or {}, "config")
    if checkpoint is not None:
        checkpoint = writable_file(checkpoint, "checkpoint")
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
    torch.manual_seed(seed)
    batches = Batches(
        x,
        y,
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
    vae.to(fabric.device)
    optimiser = torch.optim.Adam(vae.parameters(), lr, eps=eps, fused=True)
    history: History = []
    averaged = Average(vae, average)
    of_batches = f"{batches.sizes}, labelled_weight {labelled_weight}, seed {seed}"
    of_optimiser = {"lr": lr, "schedule": schedule, "warm_up": warm_up, "corrupt": corrupt, "average": average}
    of_optimiser |= {"precision": precision, "eps": eps, "clip": clip}
    kept = {} if checkpoint is None else setting(vae, elbo, x, batches, of_batches, of_optimiser)
    state = Checkpoint(vae, averaged, optimiser, batches, kept, config or {})
    if resume and checkpoint is not None:
        if checkpoint.exists():
            history, random = state.restore(checkpoint, epochs)
            _set_random(random)
        else:
            print(f"no checkpoint at {checkpoint}: starting at epoch 1", file=sys.stderr, flush=True)
    step_module = _Step(elbo(vae.model, vae.guide if corrupt is None else _corrupted(vae.guide, corrupt)))
    module, optimiser = fabric.setup(step_module, optimiser)
    total_steps = max(1, epochs * batches.steps)
    watch = FiniteWatch(every=1 if fabric.device.type == "cpu" else 25)
    with pyro.validation_enabled(False), _training(vae), _warming_up(elbo, warm_up) as warm:
        for epoch in range(len(history), epochs):
            start, sums = time.perf_counter(), None
            with _bar(batches.steps, epoch, epochs, progress) as bar:
                for step, batch in enumerate(batches.epoch(epoch)):
                    done = (epoch * batches.steps + step) / total_steps
                    warm(done)
                    for group in optimiser.param_groups:
                        group["lr"] = lr * schedule(done)
                    parts = [batch] if batch.alone is None else [batch, batch.alone]
                    loss, terms, means = module(*((part.x, part.y, part.scale, part.labelled) for part in parts))
                    rows = torch.cat([part.rows for part in parts])
                    watch(terms, rows, step_module.names, f"epoch {epoch + 1}, step {step + 1}")
                    optimiser.zero_grad()
                    fabric.backward(loss)
                    if clip is not None:
                        clip(vae.parameters())
                    optimiser.step()
                    averaged.update()
                    sums = means if sums is None else sums + means
                    _show(bar, step, sums, step_module.names)
                watch.check(step_module.names)
                history.append(_record(epoch, sums / batches.steps, step_module, time.perf_counter() - start))
                if on_epoch is not None:
                    vae.eval()
                    with averaged.in_place():
                        history[-1].update({k: float(v) for k, v in (on_epoch(epoch + 1, vae) or {}).items()})
                    vae.train()
            every = -(-epochs // 20)  # at most twenty lines
            if progress and not sys.stderr.isatty() and ((epoch + 1) % every == 0 or epoch + 1 == epochs):
                print(_line(history[-1], epochs), file=sys.stderr, flush=True)
            check_weights(vae, epoch + 1)
            if checkpoint is not None:
                state.save(checkpoint, history, random=_random())
    averaged.exchange()
    return history


def _random() -> dict[str, Any]:
    """The state of the process's random numbers."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def _set_random(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def _training(vae: SemiVAE) -> Iterator[None]:
    vae.train()
    try:
        yield
    finally:
        vae.eval()


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


def _corrupted(guide: Callable, corrupt: Callable[[Tensor], Tensor]) -> Callable:
    def guide_of_corrupted(x: Tensor | None, y: Tensor | None = None) -> None:
        with poutine.block():  # noise may ask the model
            x = None if x is None else corrupt(x)
        return guide(x, y)

    return guide_of_corrupted


class _Step(nn.Module):
    """The one module that Fabric wraps: its forward is the loss of a batch, with what there is to report."""

    def __init__(self, objective: ObjectiveModule):
        super().__init__()
        self.objective = objective
        self.names: list[str] = []  # of the terms
        self.monitors: list[str] = []

    def forward(self, *parts: tuple[Tensor | None, Tensor | None, Tensor, int]) -> tuple[Tensor, Tensor, Tensor]:
        """The loss; each row's terms, `(T, B)` (a batch's own repeated); their scaled sums and monitors, `(T + M,)`.

        Args:
            parts: images, labels, scales and how many are labelled: of the rows with images, and of those without. The
                terms of one part are 0 for the rows of the other.
        """
        loss, terms, sums, monitors = 0.0, [], {}, {}
        for x, y, scale, labelled in parts:
            with RowScale(scale), LabelledFirst(labelled):
                rows = self.objective.rows(x, y)
            loss = loss - rows.total()
            terms.append(torch.stack([term.detach().expand(len(scale)) for term in rows.terms.values()]))
            for name, term in rows.terms.items():
                sums[name] = (term if name.startswith("batch/") else (term * scale).sum()).detach()
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


def _bar(steps: int, epoch: int, epochs: int, progress: bool) -> tqdm:
    return tqdm(
        total=steps,
        desc=f"epoch {epoch + 1}/{epochs}",
        disable=not (progress and sys.stderr.isatty()),
        mininterval=0.5,
        leave=epoch + 1 == epochs,
    )


def _show(bar: tqdm, step: int, sums: Tensor, names: Sequence[str]) -> None:
    if bar.disable:
        return
    if time.time() - bar.last_print_t >= bar.mininterval or step + 1 == bar.total:
        terms = (sums[: len(names)] / (step + 1)).tolist()
        shown = {"bound": sum(terms), **dict(zip(names, terms, strict=True))}
        bar.set_postfix({name: f"{value:.2f}" for name, value in shown.items()}, refresh=False)
    bar.update()


def _line(record: dict[str, float], epochs: int) -> str:
    """A readable line per epoch, for output that goes to a file."""
    shown = " ".join(
        f"{name.removeprefix('term/').removeprefix('monitor/')} {value:.4g}"
        for name, value in record.items()
        if name != "epoch"
    )
    return f"epoch {record['epoch']}/{epochs}: {shown}"
