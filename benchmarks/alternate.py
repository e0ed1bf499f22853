"""Compares the time of an epoch of `fit` in two source trees; epochs alternate, so that other load slows both.

git worktree add /tmp/before COMMIT
python benchmarks/alternate.py /tmp/before . [--epochs 20] [--cuda]

For CCVAE and M2 on random images (28x28, ten classes, MLPs of 600-600, batches of 200 and 64, half of the rows
labelled) it prints the second tree's median time divided by the first one's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

WORKER = """
import sys, torch
from pyro_semivae.models import CCVAE, M2
from pyro_semivae import data
from pyro_semivae.train import fit
torch.set_num_threads(1)
torch.manual_seed(0)
x, y = torch.randint(0, 256, (3000, 1, 28, 28), dtype=torch.uint8), torch.arange(3000) % 10
y[1500:] = -1
model, batch, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sizes = {"z_c": 30, "z_s": 0} if model == "ccvae" else {}
vae = (CCVAE if model == "ccvae" else M2)((1, 28, 28), data.load("digits").labels, **sizes)
elbo = vae.elbo(marginal="jensen") if model == "ccvae" else vae.elbo(classifier_weight=10.0)
how = dict(elbo=elbo, epochs=1, batch_size=batch, labelled_batch_size=batch, corrupt=None, progress=False,
           accelerator=device)
for _ in sys.stdin:
    print(fit(vae, x, y, **how)[0]["seconds"], flush=True)
"""


def alternating(trees: list[Path], model: str, batch: int, epochs: int, device: str) -> list[list[float]]:
    """Seconds per epoch in each tree, without the first two epochs."""
    workers = []
    for tree in trees:
        path = os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", WORKER, model, str(batch), device]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        workers.append(subprocess.Popen(command, env=environment, cwd=tree, text=True, bufsize=1, **pipes))
    seconds: list[list[float]] = [[] for _ in trees]
    for _ in range(epochs + 2):
        for worker, times in zip(workers, seconds, strict=True):
            worker.stdin.write("go\n")
            times.append(float(worker.stdout.readline()))
    for worker in workers:
        worker.stdin.close()
        worker.wait()
    return [times[2:] for times in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--cuda", action="store_true")
    args = parser.parse_args()
    trees = [args.before.resolve(), args.after.resolve()]
    for model, batch in (("ccvae", 200), ("ccvae", 64), ("m2", 200), ("m2", 64)):
        before, after = alternating(trees, model, batch, args.epochs, "cuda" if args.cuda else "cpu")
        pairs = [b / a for a, b in zip(before, after, strict=True)]
        ratio, medians = statistics.median(after) / statistics.median(before), statistics.median(pairs)
        print(f"{model}, batches of {batch}: {ratio:.3f} (median of the pairs' ratios {medians:.3f})", flush=True)


if __name__ == "__main__":
    main()
