"""Where the time of a training step goes, by Pyro's handlers and as a compiled graph.

python benchmarks/profile_step.py [--cuda] [--steps 30] [--out benchmarks/results/profile-cpu.json]

CCVAE on MNIST-sized images, 200 labelled and 200 unlabelled ones, as in `speed.py`. The profiler's time of torch's
operations is summed by kind; a step's time without the profiler, less this sum, is Python and, for the graph, the code
that TorchInductor wrote, which fuses the pointwise operations.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import pyro
import torch
from handwritten import CASES
from speed import about, arguments
from studies.job import markdown
from torch.profiler import ProfilerActivity, profile

from pyro_semivae.data import Batch, Batches, hide
from pyro_semivae.files import write_json
from pyro_semivae.infer import ObjectiveModule

# Kind -> parts of the names of torch's operations, the first that fits.
KINDS = {
    "matrix products": ("mm", "linear", "convolution", "mkl", "gemm", "cutlass"),
    "random numbers": ("normal", "uniform", "bernoulli", "exponential", "multinomial"),
    "optimiser": ("adam",),
    "other operations": ("",),
}
WARM_UP = 65  # a graph is checked at its 64th call, and not again until the 128th
REST = {"handlers": "Python", "compiled": "fused code and Python"}


def kind_of(name: str) -> str:
    """The kind of an operation.

    >>> [kind_of(name) for name in ("aten::addmm", "aten::normal_", "aten::_fused_adam_", "aten::sum")]
    ['matrix products', 'random numbers', 'optimiser', 'other operations']
    """
    return next(kind for kind, parts in KINDS.items() if any(part in name.lower() for part in parts))


def shares(step: Callable[[], None], steps: int, device: str) -> dict[str, float]:
    """Kind of operation -> milliseconds per step; `total` is measured without the profiler."""

    def synchronised() -> None:
        step()
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARM_UP):
        synchronised()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        synchronised()
        times.append(time.perf_counter() - start)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities) as found:
        for _ in range(steps):
            synchronised()
    sums = dict.fromkeys(KINDS, 0.0)
    for event in found.key_averages():
        if event.key.startswith("aten::"):
            own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
            sums[kind_of(event.key)] += own / steps / 1e3
    return {**sums, "total": 1e3 * statistics.median(times)}


def row(kind: str, found: Mapping[str, float]) -> list[str]:
    """The cells of a line of the table.

    >>> row("handlers", {"matrix products": 20.0, "total": 30.0})
    ["Pyro's handlers", '30.0 ms', '20.0 ms', '10.0 ms (Python)']
    """
    names = {"handlers": "Pyro's handlers", "compiled": "compiled graph"}
    parts = {name: value for name, value in found.items() if name != "total"}
    rest = max(0.0, found["total"] - sum(parts.values()))
    return [
        names[kind],
        *(f"{value:#.3g} ms" for value in (found["total"], *parts.values())),
        f"{rest:#.3g} ms ({REST[kind]})",
    ]


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table of the results."""
    return markdown(["", "a step", *KINDS, "the rest"], [row(kind, found) for kind, found in results.items()])


def main() -> None:
    args = arguments(__doc__, 30)
    device = "cuda" if args.cuda else "cpu"
    torch.manual_seed(0)
    x = torch.randint(0, 256, (2_000, 1, 28, 28), dtype=torch.uint8)
    vae, elbo = CASES["ccvae"].make()
    vae.to(device)
    y = hide(torch.arange(len(x)) % 10, torch.arange(1_000))
    batch: Batch = next(Batches(x, y, batch_size=200, labelled_batch_size=200, device=device).epoch(0))
    images = batch.x
    module: ObjectiveModule = elbo(vae.model, vae.guide)
    optimiser = torch.optim.Adam(vae.parameters(), 5e-4, fused=True)
    compiled = module.compiled()

    def step(loss: Callable) -> None:
        value = loss(images, batch.y)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()

    results = {}
    with pyro.validation_enabled(False):
        for kind, loss in (("handlers", module), ("compiled", compiled)):
            results[kind] = shares(partial(step, loss), args.steps, device)
            print(" | ".join(row(kind, results[kind])), flush=True)
    if args.out:
        write_json(args.out, {"results": results, **about(device)})


if __name__ == "__main__":
    main()
