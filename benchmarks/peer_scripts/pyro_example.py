"""Kingma et al.'s M2 as Pyro's example of a semi-supervised VAE writes it, in words of our own.

Labels are one-hot; a batch is labelled throughout or not at all; each batch takes one step of the ELBO, in which a
missing label is marginalised, and one of an auxiliary loss, which is not zero for labelled batches only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.optim import Adam
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from turns import Turns

EPSILON = 1e-7


def mlp(size: int, hidden: Sequence[int], out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(size, width), nn.ReLU()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, out))


def joined(*parts: Tensor) -> Tensor:
    """Concatenates vectors whose batches broadcast."""
    batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*batch, -1) for part in parts], -1)


class SSVAE(nn.Module):
    """p(z) p(y) p(x | y, z) and q(y | x) q(z | x, y)."""

    def __init__(self, pixels: int, hidden: Sequence[int], z: int, weight: float):
        super().__init__()
        self.z, self.weight = z, weight
        self.encoder_y = mlp(pixels, hidden, 10)
        self.encoder_z = mlp(pixels + 10, hidden, 2 * z)
        self.decoder = mlp(z + 10, hidden, pixels)

    def q_y(self, x: Tensor) -> dist.OneHotCategorical:
        return dist.OneHotCategorical(F.softmax(self.encoder_y(x), -1).clamp(EPSILON, 1 - EPSILON))

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("ss_vae", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.z), x.new_ones(self.z)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(x.new_ones(10) / 10), obs=y)
            probs = torch.sigmoid(self.decoder(joined(z, y))).clamp(EPSILON, 1 - EPSILON)
            pyro.sample("x", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", self.q_y(x))
            loc, log_scale = self.encoder_z(joined(x, y)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def model_classify(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("ss_vae", self)
        with pyro.plate("data", len(x)):
            if y is not None:
                with poutine.scale(scale=self.weight):
                    pyro.sample("y_aux", self.q_y(x), obs=y)

    def guide_classify(self, x: Tensor, y: Tensor | None = None) -> None:
        """The auxiliary loss has no latents."""


def batches(labelled: DataLoader, unlabelled: DataLoader) -> Iterator[tuple[Tensor, ...]]:
    """An epoch: each labelled batch after as many unlabelled ones as there are for it."""
    every = max(1, len(unlabelled) // len(labelled))
    of_labelled, left = iter(labelled), len(labelled)
    for i, batch in enumerate(unlabelled):
        yield tuple(batch)
        if (i + 1) % every == 0 and left:
            yield tuple(next(of_labelled))
            left -= 1
    for batch in of_labelled:
        yield tuple(batch)


def main() -> None:
    turns = Turns()
    settings = turns.settings
    pyro.set_rng_seed(0)
    pyro.enable_validation(settings["validation"])
    x = torch.from_numpy(turns.data["x"]).flatten(1).float() / 255
    y = F.one_hot(torch.from_numpy(turns.data["y"]), 10).float()
    known = torch.zeros(len(x), dtype=torch.bool)
    known[torch.from_numpy(turns.data["labelled"])] = True
    how = {"batch_size": settings["batch_size"], "shuffle": True}
    labelled = DataLoader(TensorDataset(x[known], y[known]), **how)
    unlabelled = DataLoader(TensorDataset(x[~known]), **how)

    vae = SSVAE(x.shape[1], settings["hidden"], settings["z"], settings["weight"])
    optimiser = Adam({"lr": settings["lr"]})
    guide = config_enumerate(vae.guide, "parallel", expand=True)
    elbo = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    losses = [
        SVI(vae.model, guide, optimiser, loss=elbo),
        SVI(vae.model_classify, vae.guide_classify, optimiser, loss=Trace_ELBO()),
    ]
    for _ in range(settings["epochs"]):
        turns.wait()
        for batch in batches(labelled, unlabelled):
            for loss in losses:
                loss.step(*batch)
        turns.done()
    with torch.no_grad():
        found = vae.encoder_y(torch.from_numpy(turns.data["x_test"]).flatten(1).float() / 255).argmax(-1)
    accuracy = (found.numpy() == turns.data["y_test"]).mean().item()
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    turns.finish(accuracy=accuracy, parameters=parameters, packages=["pyro-ppl", "torch", "numpy"])


if __name__ == "__main__":
    main()
