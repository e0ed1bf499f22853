"""The time of a training step of our beta-TCVAE and FactorVAE relative to pythae's, with the same networks and batch,
within one run.

pip install pythae     # in an environment of its own, if its pins conflict; this project does not depend on it
python benchmarks/step_pythae.py [--cuda] [--steps 60] [--out benchmarks/results/step-pythae-cpu.json]

Both sides have LaRVAE's convolutions (Nie et al. 2020, Table D.2) on 64x64 grey images, ten latents, batches of 64,
Bernoulli pixels and torch's Adam; pythae's models are trained by a plain loop, without its trainer. Steps alternate, so
that other load slows both; the results are ratios of medians.

The two FactorVAEs do different work. In a batch of B images pythae trains the VAE on B / 2 and permutes the latents of
the other half; ours trains the VAE on all B, and the critic distinguishes one half from the other, permuted half. Ours
on a batch of 64 is therefore compared with pythae's on 128, where both train the VAE on 64 images, and on 64.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial

import pyro
import torch
from speed import about, arguments, timed
from torch import Tensor

from pyro_semivae.conditionals import BernoulliLikelihood
from pyro_semivae.files import write_json
from pyro_semivae.infer import BatchTotalCorrelation, Objective, TotalCorrelation
from pyro_semivae.models import VAE
from pyro_semivae.nn import InstanceNormConvs
from pyro_semivae.spaces import Classes

SHAPE, Z, N, BATCH = (1, 64, 64), 10, 100_000, 64
WEIGHT = 6.0


def ours(objective: Callable[[VAE], Objective], device: str) -> Callable[[Tensor], None]:
    """Our training step on images: of the model, and of the objective's critic if there is one."""
    vae = VAE(SHAPE, Classes(2), z=Z, networks=InstanceNormConvs(), likelihood=BernoulliLikelihood).to(device)
    elbo = objective(vae)
    elbo(vae.model, vae.guide)(torch.rand(4, *SHAPE, device=device))  # a critic gets its sizes from the first batch
    optimisers = [torch.optim.Adam(vae.parameters(), 1e-4), *elbo.optimisers().values()]
    module = elbo(vae.model, vae.guide)

    def step(x: Tensor) -> None:
        found = module.evaluate(x)
        for optimiser in optimisers:
            optimiser.zero_grad()
        (-found.total() + sum(found.losses.values())).backward()
        for optimiser in optimisers:
            optimiser.step()

    return step


def theirs(name: str, device: str) -> Callable[[Tensor], None]:
    """pythae's training step on images."""
    from pythae import models
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = InstanceNormConvs().encoder(SHAPE, 2 * Z)

        def forward(self, x: Tensor) -> ModelOutput:
            loc, log_variance = self.net(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = InstanceNormConvs().decoder([Z], SHAPE)

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.net(z).sigmoid())

    shared = {"input_dim": SHAPE, "latent_dim": Z, "reconstruction_loss": "bce"}
    if name == "factor":
        config = models.FactorVAEConfig(gamma=WEIGHT, **shared)
        model = models.FactorVAE(config, encoder=Encoder(), decoder=Decoder()).to(device)
        critic = [*model.discriminator.parameters()]
        others = [p for p in model.parameters() if all(p is not own for own in critic)]
        optimisers = [torch.optim.Adam(others, 1e-4), torch.optim.Adam(critic, 1e-4)]
    else:
        config = models.BetaTCVAEConfig(beta=WEIGHT, **shared)
        model = models.BetaTCVAE(config, encoder=Encoder(), decoder=Decoder()).to(device)
        optimisers = [torch.optim.Adam(model.parameters(), 1e-4)]

    def step(x: Tensor) -> None:
        found = model({"data": x}, dataset_size=N)
        for optimiser in optimisers:
            optimiser.zero_grad()
        if name == "factor":  # as pythae's adversarial trainer does
            found.autoencoder_loss.backward(retain_graph=True, inputs=others)
            found.discriminator_loss.backward(inputs=critic)
        else:
            found.loss.backward()
        for optimiser in optimisers:
            optimiser.step()

    return step


OBJECTIVES: dict[str, Callable[[VAE], Objective]] = {
    "tc": lambda vae: vae.elbo() + (WEIGHT - 1) * BatchTotalCorrelation(N, "z"),
    "factor": lambda vae: vae.elbo() + WEIGHT * TotalCorrelation("z"),
}


def measure(name: str, steps: int, device: str, their_batch: int) -> dict[str, float | str]:
    torch.manual_seed(0)
    pair = ours(OBJECTIVES[name], device), theirs(name, device)
    x = torch.rand(max(BATCH, their_batch), *SHAPE, device=device).round()
    with pyro.validation_enabled(False):
        times = [
            [timed(partial(step, x[:rows]), device) for step, rows in zip(pair, (BATCH, their_batch), strict=True)]
            for _ in range(steps + 5)
        ][5:]
    own, other = (statistics.median(both[i] for both in times) for i in (0, 1))
    return {
        "model": name,
        "their_batch": their_batch,
        "ratio": own / other,
        "step_ms": 1e3 * own,
        "their_ms": 1e3 * other,
    }


def main() -> None:
    args = arguments(__doc__, 60)
    try:
        import pythae  # noqa: F401
    except ImportError:
        sys.exit("error: pythae is not installed; run: pip install pythae")
    device, results = "cuda" if args.cuda else "cpu", []
    for name, their_batch in (("tc", BATCH), ("factor", 2 * BATCH), ("factor", BATCH)):
        results.append(measure(name, args.steps, device, their_batch))
        print("  ".join(f"{k} {v:.3g}" if k != "model" else v for k, v in results[-1].items()), flush=True)
    if args.out:
        write_json(args.out, {"results": results, **about(device)})


if __name__ == "__main__":
    main()
