"""What training in several processes costs: steps of one and of two processes, measured; of up to 1,024, computed.

python benchmarks/scaling.py [--steps 30] [--out benchmarks/results/scaling-cpu.json]

Measured on this machine's CPU, one thread per process, processes connected by gloo: the seconds of a step of `fit` in
one process and in two with the same rows each, and of the sum of a vector of the gradients' size over both.

Computed for GPUs: a step lasts as long as one GPU's, plus the time to sum the gradients, in a ring within a machine and
between machines (2 (n - 1) / n of the bytes pass each link), with a latency for each level of a tree (Hockney's model;
Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH", 2005). One GPU's step is
the one recorded in `results/step-cuda.json`. Bandwidths and latencies are assumptions, given by flags.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from speed import CONVS, about
from studies.job import markdown
from torch import distributed

from pyro_semivae import CCVAE
from pyro_semivae.data import hide
from pyro_semivae.files import write_json
from pyro_semivae.models import M2, SemiVAE
from pyro_semivae.spaces import Binary, Classes
from pyro_semivae.train import fit

RESULTS = Path(__file__).parent / "results"
IMAGES, FACES = (1, 28, 28), (3, 64, 64)
GPUS = (8, 64, 256, 1024)
PER_MACHINE = 8


def model(name: str) -> tuple[SemiVAE, int]:
    """A model and its batch size."""
    torch.manual_seed(0)
    if name == "faces":
        return CCVAE(FACES, Binary(18), z_s=27, **CONVS), 64
    return (CCVAE(IMAGES, Classes(10), z_c=30, z_s=0) if name == "ccvae" else M2(IMAGES, Classes(10))), 200


NAMES = {"ccvae": "CCVAE", "m2": "M2", "faces": "CCVAE on faces"}


def measured(name: str, steps: int) -> dict[str, float]:
    """Medians in this process, which may be one of several: seconds of a step, and of the sum of the gradients."""
    vae, batch_size = model(name)
    number = int(os.environ["WORLD_SIZE"])
    x = torch.randint(0, 256, (batch_size * steps * number, *vae.x_shape), dtype=torch.uint8)
    y = torch.arange(len(x)) % 10 if name != "faces" else torch.randint(0, 2, (len(x), 18)).float()
    history = fit(
        vae, x, hide(y, torch.arange(batch_size)), epochs=4, batch_size=batch_size, compile="off", progress=False
    )
    found = {"step": statistics.median(record["seconds"] / steps for record in history[1:])}
    gradients = torch.cat([p.detach().flatten() for p in vae.parameters()])
    found["bytes"] = gradients.numel() * gradients.element_size()
    if number > 1:
        times = []
        for _ in range(20):
            start = time.perf_counter()
            distributed.all_reduce(gradients)
            times.append(time.perf_counter() - start)
        found["sum"] = statistics.median(times)
    return found


def launched(name: str, processes: int, steps: int) -> dict[str, float]:
    """What the first of so many processes measured."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), __file__]
        flags = ["--measure", name, "--steps", str(steps), "--out", f"{folder}/found.json"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *command, *flags], capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return json.loads(Path(folder, "found.json").read_text())


def seconds_of_sum(size: float, gpus: int, args: argparse.Namespace) -> float:
    """The time to sum gradients over GPUs: within machines and, if there are several, between them.

    >>> args = argparse.Namespace(within=100.0, between=10.0, latency_within=1.0, latency_between=10.0)
    >>> round(1e6 * seconds_of_sum(1e6, 2, args), 6)  # 1 MB over 100 GB/s, and one level of 1 us up and down
    12.0
    >>> round(1e6 * seconds_of_sum(1e6, 16, args), 6)  # the slower of both, and 3 levels within, 1 between
    126.0
    """
    here, machines = min(gpus, PER_MACHINE), max(1, gpus // PER_MACHINE)
    transfers = [2 * (here - 1) / here * size / (args.within * 1e9)]
    latency = 2 * math.log2(here) * args.latency_within
    if machines > 1:
        transfers.append(2 * (machines - 1) / machines * size / (args.between * 1e9))
        latency += 2 * math.log2(machines) * args.latency_between
    return max(transfers) + 1e-6 * latency


def step_of_gpu(name: str) -> float | None:
    """The recorded seconds of a step on one GPU; None if there is no record."""
    record = json.loads((RESULTS / "step-cuda.json").read_text())
    _, batch_size = model(name)
    found = [row for row in record["results"] if (row["model"], row["batch_size"]) == (NAMES[name], batch_size)]
    return found[0]["step_ms"] / 1e3 if found else None


def tables(record: dict) -> list[str]:
    """Markdown tables of a record: what was measured, and what was computed for GPUs."""
    head = ["", "sent per step", "step of one", "step of two", "sum of gradients", "speed-up of two"]
    rows = [
        [
            f"{row['model']}, batch {row['batch_size']}",
            f"{row['megabytes']:.1f} MB",
            *(f"{row[name]:.3g} ms" for name in ("step_ms", "step_of_two_ms", "sum_ms")),
            f"x {row['speed_up_of_two']:.2f}",
        ]
        for row in record["results"]
    ]
    computed = [
        [f"{row['model']}, {step}", *(f"{share:.2f}" for share in row[name].values())]
        for row in record["results"]
        if "gpu_step_ms" in row
        for step, name in (
            (f"step of {row['gpu_step_ms']:.1f} ms", "efficiency"),
            ("if a step took 1 ms", "efficiency_of_a_step_of_1_ms"),
        )
    ]
    return [markdown(head, rows), markdown(["GPUs", *map(str, GPUS)], computed)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="steps of an epoch")
    parser.add_argument("--within", type=float, default=200.0, help="GB/s of a GPU to others of its machine")
    parser.add_argument("--between", type=float, default=25.0, help="GB/s of a GPU to those of other machines")
    parser.add_argument("--latency-within", type=float, default=10.0, help="microseconds")
    parser.add_argument("--latency-between", type=float, default=20.0, help="microseconds")
    parser.add_argument("--measure", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--out", help="write the results as JSON")
    args = parser.parse_args()
    if args.measure:
        found = measured(args.measure, args.steps)
        if os.environ["RANK"] == "0":
            write_json(args.out, found)
        return
    results = []
    for name, title in NAMES.items():
        one, two = (launched(name, number, args.steps) for number in (1, 2))
        row = {
            "model": title,
            "batch_size": model(name)[1],
            "megabytes": one["bytes"] / 1e6,
            "step_ms": 1e3 * one["step"],
            "step_of_two_ms": 1e3 * two["step"],
            "sum_ms": 1e3 * two["sum"],
            "speed_up_of_two": 2 * one["step"] / two["step"],
        }
        if step := step_of_gpu(name):
            sums = {gpus: seconds_of_sum(one["bytes"], gpus, args) for gpus in GPUS}
            row["gpu_step_ms"] = 1e3 * step
            row["efficiency"] = {gpus: step / (step + seconds) for gpus, seconds in sums.items()}
            row["efficiency_of_a_step_of_1_ms"] = {gpus: 1e-3 / (1e-3 + seconds) for gpus, seconds in sums.items()}
        results.append(row)
        print(row, flush=True)
    if args.out:
        names = ("within", "between", "latency_within", "latency_between")
        assumed = {name: getattr(args, name) for name in names}
        write_json(args.out, {"results": results, "assumed": assumed, **about("cpu")})


if __name__ == "__main__":
    main()
