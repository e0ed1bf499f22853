"""Relative times of training steps, of epochs and of steps with many labels; all within one run.

python benchmarks/speed.py [--cuda] [--steps 60] [--models m2 rbvae] [--out benchmarks/results/speed-cpu.json]

A step by Pyro's handlers, as a compiled graph (also with its layers in bfloat16), and by plain `SVI.step` with
`pyro.optim.Adam`, beside hand-written torch (`benchmarks/handwritten`), eager and under `torch.compile`. All have the
same networks, the same fused Adam (SVI: Pyro's, one optimiser a tensor) and the same objective; critics have their own
optimisers, whose steps are included. The steps alternate, so that other load slows all; ratios are of medians.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable
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
from pyro_semivae.nn import Convs
from pyro_semivae.runs import versions
from pyro_semivae.spaces import Binary
from pyro_semivae.train import fit

CONVS = {"networks": Convs(), "likelihood": LaplaceLikelihood}
SIZES = ("batch_size", "labelled_batch_size")


def timed(step: Callable[[], None], device: str) -> float:
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


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
            critics.
    """

    def __init__(
        self,
        losses: Callable[[], dict[str, Tensor]],
        trained: dict[str, torch.nn.Module],
        optimisers: list,
        compiled: bool,
    ):
        self.losses, self.optimisers = losses, optimisers
        self.parameters = {name: list(module.parameters()) for name, module in trained.items()}
        if compiled and len(trained) == 1:
            self.losses = torch.compile(losses)
        elif compiled:
            torch._dynamo.config.trace_autograd_ops = True
            self.gradients = torch.compile(self.gradients)

    def __call__(self) -> None:
        if len(self.parameters) == 1:
            loss = self.losses()["loss"]
            for optimiser in self.optimisers:
                optimiser.zero_grad()
            loss.backward()
        else:
            for name, gradients in self.gradients().items():
                for parameter, gradient in zip(self.parameters[name], gradients, strict=True):
                    parameter.grad = gradient
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


def measure(name: str, batch_size: int, steps: int, epochs: int, device: str) -> dict[str, float | str | None]:
    torch.manual_seed(0)
    case = CASES[name]
    vae, elbo = case.make()
    vae.to(device)
    critics = elbo.modules().to(device)
    module, trained = elbo(vae.model, vae.guide), {"loss": vae, **critics}
    rows = case.rows(case.num_rows)
    sizes = {"batch_size": batch_size} if "stratify" in rows else dict.fromkeys(SIZES, batch_size)
    batches = Batches(**rows, **sizes, device=device)
    batch = next(batches.epoch(0))
    batch = replace(batch, values=batch.floats)
    optimisers = [torch.optim.Adam(vae.parameters(), 5e-4, fused=True, **case.adam), *elbo.optimisers().values()]
    given = given_of(batch, tuple(vae.spaces))
    graph = Traced(partial(evaluated, module), [module, critics], trained)
    lower = Traced(partial(evaluated, module), [module, critics], trained)

    def in_lower_precision() -> dict[str, Tensor]:  # as `fit(precision="bf16-mixed")`
        with torch.autocast(device, torch.bfloat16):
            return lower(*given)[0]

    kinds: dict[str, Callable[[], Any]] = {
        "handlers": Step(lambda: evaluated(module, *given)[0], trained, optimisers, False),
        "compiled": Step(lambda: graph(*given)[0], trained, optimisers, False),
        "bf16": Step(in_lower_precision, trained, optimisers, False),
        "plain": Step(lambda: case.losses(vae, critics, batch), trained, optimisers, False),
        "plain_compiled": Step(lambda: case.losses(vae, critics, batch), trained, optimisers, True),
    }
    if case.svi:

        def of_svi(model: Callable, guide: Callable) -> Tensor:
            return sum(elbo.differentiable_loss(model, guide, *values) for values, *_ in given)

        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 5e-4}), loss=of_svi)
        kinds["svi"] = svi.step
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    warm = 10 if steps > 10 else 3
    with pyro.validation_enabled(False):
        for _ in range(steps + warm):
            for kind, take in kinds.items():
                times[kind].append(timed(take, device))
    pyro.clear_param_store()
    median = {kind: statistics.median(seconds[warm:]) for kind, seconds in times.items()}
    table = {}
    for site in ("x", "y"):
        table |= rows[site] if isinstance(rows[site], dict) else {site: rows[site]}
    options = {"epochs": 1, "progress": False, "accelerator": device, "compile": "off", **sizes}
    options |= {name: value for name, value in rows.items() if name not in ("x", "y", "stratify")}  # the model's own
    ratios = []
    for _ in range(epochs):  # an epoch of fit() beside as many bare steps, alternating
        seconds = fit(vae, table, elbo=elbo, **options)[0]["seconds"]
        with pyro.validation_enabled(False):
            bare = sum(timed(kinds["handlers"], device) for _ in range(batches.steps))
        ratios.append(seconds / bare)
    return {
        "model": name,
        "batch_size": batch_size,
        "handlers_over_plain": median["handlers"] / median["plain"],
        "compiled_over_plain": median["compiled"] / median["plain"],
        "compiled_over_plain_compiled": median["compiled"] / median["plain_compiled"],
        "bf16_over_compiled": median["bf16"] / median["compiled"],
        "svi_over_compiled": median["svi"] / median["compiled"] if case.svi else None,
        "epoch_ratio": statistics.median(ratios) if ratios else None,
        "compile_seconds": graph.seconds,
        **{f"{kind}_ms": 1e3 * seconds for kind, seconds in median.items()},
        **({} if case.svi else {"svi_ms": None}),
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
    "Pyro's handlers": "handlers_ms",
    "`SVI.step`": "svi_ms",
}
RATIOS = {
    "compiled / hand-written": "compiled_over_plain",
    "compiled / hand-written, `torch.compile`": "compiled_over_plain_compiled",
    "handlers / hand-written": "handlers_over_plain",
    "`SVI.step` / compiled": "svi_over_compiled",
    "compiled in bf16 / compiled": "bf16_over_compiled",
    "epoch of `fit` / its steps, by handlers": "epoch_ratio",
}


def tables(record: dict[str, Any]) -> list[str]:
    """Markdown tables of a record: times, and ratios."""
    found = []
    for columns, form in ((TIMES, "{:#.3g} ms"), (RATIOS, "×{:.2f}")):
        rows = [
            [
                f"{NAMES[result['model']]}, batch {result['batch_size']}",
                *(
                    "-" if result[key] is None else form.format(result[key]).replace(". ", " ")
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
    parser.add_argument("--epochs", type=int, default=3, help="epochs of `fit` to time per model (default: 3)")
    args = parser.parse_args()
    device = "cuda" if args.cuda else "cpu"
    found: dict[str, Any] = {"results": []}
    for name in args.models:
        for batch_size in CASES[name].batch_sizes:
            found["results"].append(measure(name, batch_size, args.steps, args.epochs, device))
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
