"""MultiVae's `MVAE` of an image and its label, trained by the loop of its trainer without logs and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from multivae.data.datasets import IncompleteDataset
from multivae.models import MVAE, MVAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn.base_architectures import BaseDecoder, BaseEncoder
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from turns import Turns


def mlp(size: int, hidden: Sequence[int], out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(size, width), nn.ReLU()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, out))


class Encoder(BaseEncoder):
    """A network to means and log variances."""

    def __init__(self, net: nn.Module, z: int):
        super().__init__()
        self.net, self.latent_dim = net, z

    def forward(self, x: Tensor) -> ModelOutput:
        out = self.net(x.flatten(1))
        return ModelOutput(embedding=out[:, : self.latent_dim], log_covariance=out[:, self.latent_dim :])


class Decoder(BaseDecoder):
    """A network to logits."""

    def __init__(self, net: nn.Module, z: int, shape: Sequence[int]):
        super().__init__()
        self.net, self.latent_dim, self.shape = net, z, tuple(shape)

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.net(z).reshape(len(z), *self.shape))


def main() -> None:
    turns = Turns()
    settings = turns.settings
    torch.manual_seed(0)
    x = torch.from_numpy(turns.data["x"]).float() / 255
    y = F.one_hot(torch.from_numpy(turns.data["y"]), 10).float()
    known = torch.zeros(len(x), dtype=torch.bool)
    known[torch.from_numpy(turns.data["labelled"])] = True
    y[~known] = 0
    masks = {"image": torch.ones(len(x), dtype=torch.bool), "label": known}
    dataset = IncompleteDataset(data={"image": x, "label": y}, masks=masks)
    loader = DataLoader(dataset, batch_size=settings["batch_size"], shuffle=True)

    z, hidden, shape = settings["z"], settings["hidden"], tuple(x.shape[1:])
    pixels = x[0].numel()
    config = MVAEConfig(
        n_modalities=2,
        latent_dim=z,
        input_dims={"image": shape, "label": (10,)},
        decoders_dist={"image": "bernoulli", "label": "categorical"},
        decoder_dist_params={},
        uses_likelihood_rescaling=True,
        rescale_factors={"image": 1.0, "label": settings["weight"]},
        warmup=settings["warm_up"],
    )
    encoders = {
        "image": Encoder(mlp(pixels, hidden, 2 * z), z),
        "label": Encoder(nn.Linear(10, 2 * z, bias=False), z),  # a table, as in ours
    }
    decoders = {"image": Decoder(mlp(z, hidden, pixels), z, shape), "label": Decoder(mlp(z, [50], 10), z, (10,))}
    vae = MVAE(config, encoders=encoders, decoders=decoders)
    torch.distributions.Distribution.set_default_validate_args(False)  # grey levels are no values of its Bernoulli
    optimiser = torch.optim.Adam(vae.parameters(), settings["lr"])
    for epoch in range(1, settings["epochs"] + 1):
        turns.wait()
        vae.train()
        total = 0.0  # as in the trainer, which reads every loss
        for i, batch in enumerate(loader):
            out = vae(batch, epoch=epoch, dataset_size=len(dataset), uses_ddp=False, batch_ratio=i / len(loader))
            optimiser.zero_grad()
            out.loss.backward()
            optimiser.step()
            total += out.loss.item()
        assert math.isfinite(total)
        turns.done()
    with torch.no_grad():
        x_test = torch.from_numpy(turns.data["x_test"]).float() / 255
        code = vae.encoders["image"](x_test)
        precision = (-code.log_covariance).exp()
        mean = precision * code.embedding / (1 + precision)  # of q(z | x), with the prior's expert
        found = vae.decoders["label"](mean).reconstruction.argmax(-1)
    accuracy = (found.numpy() == turns.data["y_test"]).mean().item()
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    turns.finish(accuracy=accuracy, parameters=parameters, packages=["multivae", "pythae", "torch", "numpy"])


if __name__ == "__main__":
    main()
