"""The cost of terms added to a bound: the time of a training step relative to one without them, within one run.

python benchmarks/step_terms.py [--cuda] [--steps 40] [--out benchmarks/results/step-terms-cpu.json]

It measures CCVAE with the terms that keep style in interventions (MNIST's sizes, 100 labelled and 200 unlabelled rows),
and LaRVAE relative to its baseline (room's sizes, 64 and 64). The steps of a model's objectives alternate; the results
are ratios of medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial

import pyro
import torch
from speed import about, arguments, timed
from torch import Tensor

from pyro_semivae import CCVAE
from pyro_semivae.conditionals import BernoulliLikelihood
from pyro_semivae.files import write_json
from pyro_semivae.infer import ClassifierTerm, Objective, Step, style_terms
from pyro_semivae.models import LaRVAE, SemiVAE
from pyro_semivae.nn import InstanceNormConvs, MLPs, Paired
from pyro_semivae.spaces import Classes, Real

BASES = {"beta": 4.0, "tc": 4.0, "factor": 10.0}  # as in the study


def style(device: str, steps: int) -> dict[str, float]:
    """Added terms -> ratio, for CCVAE."""
    vae = CCVAE((1, 28, 28), Classes(10), z_c=10, z_s=20, networks=MLPs((600, 600))).to(device)
    x, y = torch.rand(300, 1, 28, 28), torch.full((300,), -1)
    y[:100] = torch.arange(100) % 10
    bound = vae.elbo(marginal="jensen") + 1000.0 * ClassifierTerm()
    objectives = {"bound": bound}
    for share in (1.0, 0.25):
        add = partial(style_terms, kept=["z_s"], share=share)
        objectives[f"replacement, share {share:g}"] = bound + add("z_c", generated=0.0)
        objectives[f"regression, share {share:g}"] = bound + add()
        objectives[f"both, share {share:g}"] = bound + add("z_c")
        objectives[f"all, share {share:g}"] = bound + add("z_c", style=0.5, independence=10.0)
    return ratios(vae, objectives, x.to(device), y.to(device), 100, steps)


def larvae(base: str, device: str, steps: int) -> dict[str, float]:
    """LaRVAE's options -> ratio to its baseline."""
    networks = Paired(InstanceNormConvs(8, 96, normalise=False), MLPs((192, 384)))
    vae = LaRVAE((3, 32, 32), Real(6), z=5, networks=networks, likelihood=BernoulliLikelihood).to(device)
    x, y = torch.rand(128, 3, 32, 32), torch.full((128, 6), torch.nan)
    y[:64] = torch.randn(64, 6)
    make = partial(vae.elbo, base=vae.base(base, BASES[base], 12_000), alpha=300.0, pixels=4.0, also_labelled=False)
    objectives = {
        "baseline": make(tau=0.0),
        "printed": make(replacement="guide"),
        "ours": make(replacement="prior", generated=300.0),
    }
    return ratios(vae, objectives, x.to(device), y.to(device), 64, steps)


def ratios(
    vae: SemiVAE, objectives: Mapping[str, Objective], x: Tensor, y: Tensor, labelled: int, steps: int
) -> dict[str, float]:
    """Objective -> the time of a training step, including the critics' gradients, relative to the first objective."""
    optimiser = torch.optim.Adam(vae.parameters(), 1e-4, fused=True)

    def step(objective: Objective) -> None:
        optimiser.zero_grad()
        found = objective.evaluate(Step(vae.model, vae.guide, (x, y), labelled=labelled))
        (sum(found.losses.values()) - found.total()).backward()
        optimiser.step()

    times: dict[str, list[float]] = {name: [] for name in objectives}
    with pyro.validation_enabled(False):
        for _ in range(steps + 5):
            for name, objective in objectives.items():
                times[name].append(timed(partial(step, objective), x.device.type))
    medians = {name: statistics.median(of[5:]) for name, of in times.items()}
    pyro.clear_param_store()
    first, *others = medians
    return {name: medians[name] / medians[first] for name in others}


def main() -> None:
    args = arguments(__doc__, 40)
    device = "cuda" if args.cuda else "cpu"
    results = {"ccvae": style(device, args.steps)}
    results |= {f"larvae {base}": larvae(base, device, args.steps) for base in BASES}
    for model, of in results.items():
        print(model, *(f"{name}: {ratio:.3g}" for name, ratio in of.items()), sep="  ", flush=True)
    if args.out:
        write_json(args.out, {"results": results, **about(device)})


if __name__ == "__main__":
    main()
