"""Relative times of training steps, of epochs and of steps with many labels; all within one run.

python benchmarks/speed.py [--cuda] [--steps 60] [--models m2 rbvae] [--out benchmarks/results/speed-cpu.json]

A step by Pyro's handlers, as a compiled graph (also with its layers in bfloat16), and by plain `SVI.step` with
`pyro.optim.Adam`, beside hand-written torch (`benchmarks/handwritten`), eager and under `torch.compile`; on a GPU in
its mode of CUDA graphs, and also with the whole step captured as one by hand. All have the same networks, the same
fused Adam (SVI: Pyro's, one optimiser a tensor) and the same objective; critics have their own optimisers, whose steps
are included. The steps alternate, so that other load slows all; ratios are of medians.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyro
import torch
from handwritten import CASES
from handwritten.images import K
from pyro.infer import SVI
from studies.job import markdown
from torch import Tensor

from pyro_semivae import CCVAE
from pyro_semivae.conditionals import LaplaceLikelihood
from pyro_semivae.data import Batch, Batches
from pyro_semivae.files import write_json
from pyro_semivae.infer import ObjectiveModule, Traced
from pyro_semivae.infer.traced import Gradients
from pyro_semivae.models import SemiVAE
from pyro_semivae.nn import Convs
from pyro_semivae.runs import versions
from pyro_semivae.spaces import Binary
from pyro_semivae.train import fit
from pyro_semivae.updates import Update

CONVS = {"networks": Convs(), "likelihood": LaplaceLikelihood}
KINDS = ("handlers", "compiled", "bf16", "plain", "plain_compiled", "plain_captured", "svi")
SIZES = ("batch_size", "labelled_batch_size")


def timed(step: Callable[[], None], device: str) -> float:
    """Seconds of a step; on a GPU the mean of ten, since a loop waits for the GPU only now and then."""
    steps = 10 if device == "cuda" else 1
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def labels_ratio(steps: int, device: str, few: int = 5, many: int = 40, rows: int = 50) -> float:
    """The time of a step with `many` binary labels relative to one with `few`, with the same networks."""

    def prepare(num_labels: int) -> Callable[[], None]:
        vae = CCVAE((3, 64, 64), Binary(num_labels), z_s=many + 5 - num_labels, **CONVS).to(device)  # 45 latents
        module = vae.elbo(num_samples=K)(vae.model, vae.guide)
        x = torch.rand(rows, 3, 64, 64, device=device)
        y = torch.randint(0, 2, (rows, num_labels), device=device).float()
        y[rows // 2 :] = torch.nan

        def step() -> None:
            vae.zero_grad()
            module(x, y).backward()

        return step

    with pyro.validation_enabled(False):
        pair = prepare(few), prepare(many)
        times = [[timed(step, device) for step in pair] for _ in range(steps + 5)][5:]
    return statistics.median(t[1] for t in times) / statistics.median(t[0] for t in times)


class WholeStep:
    """A step that is captured as one CUDA graph, its optimisers included, as torch's documentation does it.

    Args:
        step: a step whose optimisers are capturable. Its batch is always in the same memory.
    """

    def __init__(self, step: Step):
        self.step, self.graph = step, None

    def __call__(self) -> None:
        if self.graph is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.step()
            torch.cuda.current_stream().wait_stream(side)
            for optimiser in self.step.optimisers:
                optimiser.zero_grad()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.step()
        self.graph.replay()


Given = tuple[tuple[Tensor | None, ...], Tensor, int, tuple[tuple[str, tuple[int, ...]], ...]]


def given_of(batch: Batch, sites: tuple[str, ...]) -> list[Given]:
    """The rows with data, and those without, as arguments of a graph."""
    parts = [batch] if batch.alone is None else [batch, batch.alone]
    return [(tuple(map(p.values.get, sites)), p.scale, p.labelled, tuple(p.strata.items())) for p in parts]


def evaluated(module: ObjectiveModule, *parts: Given, done: float = 1.0) -> tuple[dict[str, Tensor], None]:
    """The library's losses by Pyro's handlers."""
    losses: dict[str, Tensor] = {"loss": 0.0}
    for values, scale, labelled, strata in parts:
        how = {"scale": scale, "labelled": labelled, "strata": dict(strata), "data_complete": True, "done": done}
        found = module.evaluate(*values, **how)
        losses = {**losses, **found.losses, "loss": losses["loss"] - found.total()}
    return losses, None


class Step:
    """A step of the optimisers of a model and of the critics that its objective owns.

    Args:
        losses: returns the losses. compiled: whether `torch.compile` runs them, with their gradients if there are
            critics. mode: that of `torch.compile`.
    """

    def __init__(
        self,
        losses: Callable[[], dict[str, Tensor]],
        trained: dict[str, torch.nn.Module],
        optimisers: list,
        compiled: bool,
        mode: str | None = None,
    ):
        self.losses, self.optimisers = losses, optimisers
        self.parameters = {name: list(module.parameters()) for name, module in trained.items()}
        if compiled and len(trained) == 1:
            self.losses = torch.compile(losses, mode=mode)
        elif compiled:
            torch._dynamo.config.trace_autograd_ops = True
            self.gradients = torch.compile(self.gradients, mode=mode)

    def __call__(self) -> None:
        if len(self.parameters) == 1:
            for optimiser in self.optimisers:
                optimiser.zero_grad()
            self.losses()["loss"].backward()
        else:
            for name, gradients in self.gradients().items():
                for parameter, gradient in zip(self.parameters[name], gradients, strict=True):
                    parameter.grad = gradient
        self.take()

    def take(self) -> None:
        for optimiser in self.optimisers:
            optimiser.step()

    def gradients(self) -> dict[str, tuple[Tensor, ...]]:
        """Each loss's gradient in the parameters that it trains alone; the model's last, as it frees the graph."""
        losses = self.losses()
        order = sorted(losses, key="loss".__eq__)
        return {
            name: torch.autograd.grad(
                losses[name], self.parameters[name], retain_graph=name != "loss", allow_unused=True
            )
            for name in order
        }


def measure(
    name: str, batch_size: int, steps: int, epochs: int, device: str, only: Sequence[str]
) -> dict[str, float | str | None]:
    torch.manual_seed(0)
    case = CASES[name]
    vae, elbo = case.make()
    vae.to(device)
    critics = elbo.modules().to(device)
    module, trained = elbo(vae.model, vae.guide), {"loss": vae, **critics}
    rows = case.rows(case.num_rows * (2 if device == "cuda" else 1))
    sizes = {"batch_size": batch_size} if "stratify" in rows else dict.fromkeys(SIZES, batch_size)
    batches = Batches(**rows, **sizes, device=device)
    batch = next(batches.epoch(0))
    batch = replace(batch, values=batch.floats)
    optimisers = [torch.optim.Adam(vae.parameters(), 5e-4, fused=True, **case.adam), *elbo.optimisers().values()]
    given = given_of(batch, tuple(vae.spaces))
    graph = Traced(partial(evaluated, module), [module, critics], trained)
    lower = Traced(partial(evaluated, module), [module, critics], trained)

    def in_lower_precision() -> Gradients:  # as `fit(precision="bf16-mixed")`
        with torch.autocast(device, torch.bfloat16):
            return lower.gradients(*given)

    mode = "reduce-overhead" if device == "cuda" else None
    handlers = Step(lambda: evaluated(module, *given)[0], trained, optimisers, False)
    update = Update(trained, handlers.take, optimisers)  # as `fit` does
    kinds: dict[str, Callable[[], Any]] = {
        "handlers": handlers,
        "compiled": lambda: update(graph.gradients(*given)),
        "bf16": lambda: update(in_lower_precision()),
        "plain": Step(lambda: case.losses(vae, critics, batch), trained, optimisers, False),
        "plain_compiled": Step(lambda: case.losses(vae, critics, batch), trained, optimisers, True, mode),
    }
    if device == "cuda":
        hand_written = Step(lambda: case.losses(vae, critics, batch), trained, optimisers, True)
        kinds["plain_captured"] = WholeStep(hand_written)
    if case.svi:

        def of_svi(model: Callable, guide: Callable) -> Tensor:
            return sum(elbo.differentiable_loss(model, guide, *values) for values, *_ in given)

        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 5e-4}), loss=of_svi)
        kinds["svi"] = svi.step
    kinds = {kind: take for kind, take in kinds.items() if kind in only}
    failed: dict[str, str] = {}
    for kind in kinds.keys() & {"plain_compiled", "plain_captured"}:
        try:
            kinds[kind]()
        except Exception as error:  # whatever torch.compile raises, such as for gradients of gradients
            failed[kind] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            del kinds[kind]
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    warm = 10 if steps > 10 and device == "cpu" else 3
    with pyro.validation_enabled(False):
        for _ in range(steps + warm):
            for kind, take in kinds.items():
                times[kind].append(timed(take, device))
    pyro.clear_param_store()
    median = {kind: statistics.median(seconds[warm:]) for kind, seconds in times.items()}

    def ratio(kind: str, other: str) -> float | None:
        return median[kind] / median[other] if kind in median and other in median else None

    table = {}
    for site in ("x", "y"):
        table |= rows[site] if isinstance(rows[site], dict) else {site: rows[site]}
    options = {"progress": False, "accelerator": device, **sizes}
    options |= {name: value for name, value in rows.items() if name not in ("x", "y", "stratify")}  # the model's own

    def epoch_ratio(kind: str) -> float | None:
        """Epochs of `fit` beside as many bare steps, alternately; with neither noise nor averages, as bare steps.

        The first epoch, which compiles, does not count.
        """
        if not epochs or kind not in median or (kind, device) == ("handlers", "cuda"):  # where a graph is what trains
            return None
        bare = []

        def alone(epoch: int, vae: SemiVAE) -> None:
            vae.train()
            bare.append(sum(timed(kinds[kind], device) for _ in range(batches.steps)))

        how = {"compile": "on" if kind == "compiled" else "off", "corrupt": None, "ema_decay": 0.0}
        history = fit(vae, table, elbo=elbo, epochs=epochs + 1, on_epoch=alone, **how, **options)
        pairs = zip(history[1:], bare[1:], strict=True)
        return statistics.median(record["seconds"] / seconds for record, seconds in pairs)

    return {
        "model": name,
        "batch_size": batch_size,
        "handlers_over_plain": ratio("handlers", "plain"),
        "compiled_over_plain": ratio("compiled", "plain"),
        "compiled_over_plain_compiled": ratio("compiled", "plain_compiled"),
        "compiled_over_plain_captured": ratio("compiled", "plain_captured"),
        "bf16_over_compiled": ratio("bf16", "compiled"),
        "svi_over_compiled": ratio("svi", "compiled"),
        "epoch_ratio": epoch_ratio("handlers"),
        "compiled_epoch_ratio": epoch_ratio("compiled"),
        "compile_seconds": graph.seconds,
        **{f"{kind}_ms": 1e3 * median[kind] if kind in median else None for kind in KINDS},
        "notes": graph.notes + update.notes,
        "failed": failed,
    }


def about(device: str) -> dict[str, Any]:
    """Machine, date and versions of the measurement."""
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    machine = torch.cuda.get_device_name() if device == "cuda" else cpu
    return {"machine": machine, "date": datetime.date.today().isoformat(), "versions": versions()}


def flags(description: str, steps: int) -> argparse.ArgumentParser:
    """The flags of a benchmark of steps.

    Args:
        steps: the default number of steps to time.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--out", help="write the results as JSON")
    return parser


def arguments(description: str, steps: int) -> argparse.Namespace:
    """The parsed `flags`."""
    return flags(description, steps).parse_args()


def said(value: float | str | None) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


NAMES = {
    "ccvae": "CCVAE",
    "m2": "M2",
    "ccvae-faces": "CCVAE, faces",
    "inverted": "inverted VAE",
    "larvae": "LaRVAE, beta-TCVAE",
    "rbvae": "sRb-VAE, critics' steps included",
    "two-labels": "two labels of 10, summed jointly",
    "counts": "M2 on counts",
}
TIMES = {
    "compiled graph": "compiled_ms",
    "hand-written": "plain_ms",
    "hand-written, `torch.compile`": "plain_compiled_ms",
    "hand-written, whole step as a CUDA graph": "plain_captured_ms",
    "Pyro's handlers": "handlers_ms",
    "`SVI.step`": "svi_ms",
}
RATIOS = {
    "compiled / hand-written": "compiled_over_plain",
    "compiled / hand-written, `torch.compile`": "compiled_over_plain_compiled",
    "compiled / hand-written, whole step as a CUDA graph": "compiled_over_plain_captured",
    "handlers / hand-written": "handlers_over_plain",
    "`SVI.step` / compiled": "svi_over_compiled",
    "compiled in bf16 / compiled": "bf16_over_compiled",
    "epoch of `fit` / its steps, by handlers": "epoch_ratio",
    "epoch of `fit` / its steps, compiled": "compiled_epoch_ratio",
}


def tables(record: dict[str, Any]) -> list[str]:
    """Markdown tables of a record: times, and ratios."""
    found = []
    for columns, form in ((TIMES, "{:#.3g} ms"), (RATIOS, "×{:.2f}")):
        columns = {title: key for title, key in columns.items() if any(result.get(key) for result in record["results"])}
        rows = [
            [
                f"{NAMES[result['model']]}, batch {result['batch_size']}",
                *(
                    "-" if result.get(key) is None else form.format(result[key]).replace(". ", " ")
                    for key in columns.values()
                ),
            ]
            for result in record["results"]
        ]
        found.append(markdown(["step", *columns], rows))
    return found


def main() -> None:
    parser = flags(__doc__, 60)
    parser.add_argument(
        "--models", nargs="+", choices=[*CASES], default=[*CASES], help="models to measure (default: all)"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds of steps (default: all)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of `fit` to time per model (default: 3)")
    args = parser.parse_args()
    device = "cuda" if args.cuda else "cpu"
    found: dict[str, Any] = {"results": []}
    for name in args.models:
        for batch_size in CASES[name].batch_sizes:
            found["results"].append(measure(name, batch_size, args.steps, args.epochs, device, args.kinds))
            print("  ".join(f"{key} {said(value)}" for key, value in found["results"][-1].items()), flush=True)
            if args.out:  # after each model, so that nothing is lost
                write_json(args.out, {**found, **about(device)})
    if "ccvae-faces" in args.models:
        found["labels_40_over_5"] = labels_ratio(args.steps // 2, device)
        print(f"a step with 40 binary labels over one with 5: {found['labels_40_over_5']:.3g}", flush=True)
    if args.out:
        write_json(args.out, {**found, **about(device)})


if __name__ == "__main__":
    main()
