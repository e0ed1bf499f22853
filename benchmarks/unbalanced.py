"""The effect of the prior p(y) for unbalanced classes: M2 and CCVAE, with true frequencies and with a uniform prior.

python benchmarks/unbalanced.py [--dataset digits] [--seeds 0 1 2] [--out benchmarks/results/unbalanced-digits-cpu.json]

Training images are subsampled: class c keeps a fraction 10^(-c / 9) of its images, so that the last class has a tenth
of the first one's. 2 % of each class's rows are labelled, at least four, as if rows were labelled at random. `fit` has
its defaults. Metrics are the accuracy on the test set, whose classes are balanced, and on its three rarest classes. The
data are scikit-learn's digits, with networks of 128 units, or FashionMNIST, with 600-600 (hours).
"""

from __future__ import annotations

import argparse
import datetime
import statistics
from functools import partial
from pathlib import Path

import torch

from pyro_semivae import CCVAE, data, metrics, tasks
from pyro_semivae.files import write_json
from pyro_semivae.models import M2
from pyro_semivae.nn import MLPs
from pyro_semivae.runs import versions
from pyro_semivae.train import fit

MODELS = {"m2": M2, "ccvae": partial(CCVAE, z_c=30, z_s=0)}
RARE = (7, 8, 9)


def thinned(y: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of an unbalanced subset, and the labelled ones (as positions in the subset)."""
    generator = torch.Generator().manual_seed(seed)
    rows, labelled = [], []
    for c in range(10):
        of_class = (y == c).nonzero()[:, 0]
        kept = of_class[torch.randperm(len(of_class), generator=generator)[: int(len(of_class) * 10 ** (-c / 9))]]
        rows.append(kept)
        labelled.append(torch.arange(len(kept)) < max(4, round(0.02 * len(kept))))
    return torch.cat(rows), torch.cat(labelled).nonzero()[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dataset", choices=["digits", "fashionmnist"], default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", help="default: benchmarks/results/unbalanced-<dataset>-cpu.json")
    args = parser.parse_args()
    args.out = args.out or f"benchmarks/results/unbalanced-{args.dataset}-cpu.json"
    images = data.load(args.dataset, args.data_dir)
    networks = MLPs((128,)) if args.dataset == "digits" else MLPs()
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name, model in MODELS.items():
        for prior in ("true", "uniform"):
            accuracies: dict[str, list[float]] = {"all": [], "rare": []}
            for seed in args.seeds:
                rows, labelled = thinned(images.y, seed)
                x, true = images.x[rows], images.y[rows]
                torch.manual_seed(seed)
                probs = images.labels.frequencies(true, smoothing=1e-6) if prior == "true" else None
                vae = model(images.x_shape, images.labels, prior=probs, networks=networks)
                fit(vae, x, data.hide(true, labelled), seed=seed, progress=False)
                found = tasks.in_batches(lambda part, vae=vae: tasks.classify(vae, part), images.x_test)
                rare = torch.isin(images.y_test, torch.tensor(RARE))
                accuracies["all"].append(metrics.accuracy(found, images.y_test))
                accuracies["rare"].append(metrics.accuracy(found[rare], images.y_test[rare]))
                print(name, prior, seed, accuracies["all"][-1], accuracies["rare"][-1], flush=True)
            results.setdefault(name, {})[prior] = accuracies
    command = f"python benchmarks/unbalanced.py --dataset {args.dataset}"
    about = {"command": command, "seeds": args.seeds, "versions": versions()}
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, {"accuracy": results, **about, "date": datetime.date.today().isoformat()})
    for name, of_model in results.items():
        for prior, accuracies in of_model.items():
            shown = ", ".join(f"{rows} {statistics.mean(values):.3f}" for rows, values in accuracies.items())
            print(f"{name:>6} {prior:>8} prior: {shown}")


if __name__ == "__main__":
    main()
