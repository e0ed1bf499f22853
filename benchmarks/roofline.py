"""A training step's floating-point operations per second, over those of its matrix products alone.

python benchmarks/roofline.py [--cuda] [--steps 30] [--out benchmarks/results/roofline-cpu.json]

The products of a step, forward and backward, are recorded with their sizes and memory layouts, and each is timed as a
bare `torch.mm` or `torch.bmm` into memory that exists. They do all operations that are counted, so that the fraction is
the products' time over the step's: 1 for a step that does nothing else. A compiled step may join products or lay out
memory better, and so be above what its parts reach. Steps and products alternate, so that other load slows both;
times are medians. Models, batches and optimiser are those of `speed.py`.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from handwritten import CASES
from speed import about, arguments, timed
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pyro_semivae.data import Batches, hide
from pyro_semivae.files import write_json
from pyro_semivae.infer import Objective, Traced
from pyro_semivae.models import SemiVAE

aten = torch.ops.aten
# The position of the first factor among an operator's arguments.
PRODUCTS = {aten.mm.default: 0, aten.bmm.default: 0, aten.addmm.default: 1, aten.baddbmm.default: 1}
Layout = tuple[tuple[int, ...], tuple[int, ...]]  # sizes and strides


class Products(TorchDispatchMode):
    """Counts the matrix products that run inside of it, by their factors' sizes and strides.

    >>> with Products() as found:
    ...     _ = torch.addmm(torch.zeros(4), torch.ones(2, 3), torch.ones(4, 3).T)
    >>> found.counts
    Counter({(((2, 3), (3, 1)), ((3, 4), (1, 3))): 1})
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[Layout, Layout]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in PRODUCTS:
            first = PRODUCTS[func]
            a, b = args[first : first + 2]
            self.counts[layout(a), layout(b)] += 1
        return func(*args, **(kwargs or {}))


def layout(factor: Tensor) -> Layout:
    return tuple(factor.shape), tuple(factor.stride())


def flops(factors: tuple[Layout, Layout]) -> int:
    """The operations of a product: two for each multiplication and addition.

    >>> flops((((2, 3), (3, 1)), ((3, 4), (4, 1))))
    48
    """
    (*batch, rows, inner), columns = factors[0][0], factors[1][0][-1]
    count = 2 * rows * inner * columns
    for size in batch:
        count *= size
    return count


def bare(factors: tuple[Layout, Layout], device: str) -> Callable[[], Any]:
    """The product of two random matrices, or batches of them, with these sizes and strides."""
    a, b = (torch.empty_strided(*kind, device=device).normal_() for kind in factors)
    product = torch.mm if a.dim() == 2 else torch.bmm
    return partial(product, a, b, out=product(a, b))


def measure(make: Callable[[], tuple[SemiVAE, Objective]], batch_size: int, steps: int, device: str) -> dict[str, Any]:
    """The roofline of a model's step by Pyro's handlers and as a compiled graph."""
    torch.manual_seed(0)
    x = torch.randint(0, 256, (4 * batch_size, 1, 28, 28), dtype=torch.uint8)
    y = hide(torch.arange(len(x)) % 10, torch.arange(2 * batch_size))
    vae, elbo = make()
    module = elbo(vae.to(device).model, vae.guide)
    optimiser = torch.optim.Adam(vae.parameters(), 5e-4, fused=True)
    batch = next(Batches(x, y, batch_size=batch_size, labelled_batch_size=batch_size, device=device).epoch(0))

    def of_batch(x: Tensor, y: Tensor, scale: Tensor, labelled: int, *, done: float) -> tuple[dict[str, Tensor], None]:
        return {"loss": -module.evaluate(x, y, scale=scale, labelled=labelled, done=done).total()}, None

    graph = Traced(of_batch, [module], {"loss": vae})

    def step(loss: Callable[[], Tensor]) -> None:
        value = loss()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()

    inputs = batch.x, batch.y, batch.scale, batch.labelled
    kinds = {
        "handlers": partial(step, lambda: of_batch(*inputs, done=0.0)[0]["loss"]),
        "compiled": partial(step, lambda: graph(*inputs)[0]["loss"]),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    with pyro.validation_enabled(False):
        with FlopCounterMode(display=False) as counter:
            kinds["handlers"]()
        with Products() as found:
            kinds["handlers"]()
        products = {factors: bare(factors, device) for factors in found.counts}
        alone: dict[tuple[Layout, Layout], list[float]] = {factors: [] for factors in products}
        for _ in range(steps + 5):
            for kind, take in kinds.items():
                times[kind].append(timed(take, device))
            for factors, take in products.items():
                alone[factors].append(timed(take, device))
    total = counter.get_total_flops()
    of_products = sum(flops(factors) * count for factors, count in found.counts.items())
    seconds = sum(statistics.median(alone[factors][5:]) * count for factors, count in found.counts.items())
    result = {"model": type(vae).__name__, "batch_size": batch_size, "gflop": total / 1e9}
    result |= {"products": found.counts.total(), "products_gflop": of_products / 1e9, "products_ms": 1e3 * seconds}
    result["products_gflops"] = of_products / seconds / 1e9
    for kind, taken in times.items():
        median = statistics.median(taken[5:])
        result |= {f"{kind}_ms": 1e3 * median, f"{kind}_gflops": total / median / 1e9}
        result[f"{kind}_fraction"] = total / median / (of_products / seconds)
    return result


def line(result: dict[str, Any]) -> str:
    """A result as one line of text."""
    reached = ", ".join(
        f"{kind} {result[f'{kind}_gflops']:.1f} ({result[f'{kind}_fraction']:.0%})" for kind in ("handlers", "compiled")
    )
    return (
        f"{result['model']}, batch {result['batch_size']}: {result['gflop']:.1f} GFLOP per step; GFLOP/s: "
        f"its {result['products']} matrix products alone {result['products_gflops']:.1f}, {reached}"
    )


def main() -> None:
    args = arguments(__doc__, 30)
    device, results = "cuda" if args.cuda else "cpu", []
    for make in (CASES["ccvae"].make, CASES["m2"].make):
        for batch_size in (200, 64):
            results.append(measure(make, batch_size, args.steps, device))
            print(line(results[-1]), flush=True)
            if args.out:
                write_json(args.out, {"results": results, **about(device)})


if __name__ == "__main__":
    main()
