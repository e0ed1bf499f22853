"""Our M2, MVAE, or M2 with the rotated decoder of pyroVED, trained by `fit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from turns import Turns

from pyro_semivae import metrics, tasks
from pyro_semivae.data import hide
from pyro_semivae.infer import Objective
from pyro_semivae.models import M2, MVAE, SemiVAE
from pyro_semivae.nn import MLP, Coded, MLPs, Networks, Shape
from pyro_semivae.spaces import Classes
from pyro_semivae.train import fit


class RotatedDecoder(nn.Module):
    """pyroVED's decoder with rotations: an MLP from a pixel's rotated coordinates, the label and the latents to its
    grey level, at every pixel. The first latent is the angle, in radians.

    Shapes: labels `batch`, latents `batch + (1 + D,)`; output `batch + x_shape`.
    """

    def __init__(self, labels: Classes, z: int, hidden: Sequence[int], x_shape: Shape):
        super().__init__()
        self.labels, self.x_shape = labels, tuple(x_shape)
        rows, columns = (torch.linspace(-1, 1, size) for size in x_shape[1:])
        grid = torch.stack(torch.meshgrid(rows, -columns, indexing="ij"), -1).flatten(0, 1)  # (H * W, 2)
        self.register_buffer("grid", grid, persistent=False)
        self.of_place = nn.Linear(2, hidden[0])
        self.of_rest = nn.Linear(labels.code_size + z - 1, hidden[0], bias=False)
        self.rest = MLP([hidden[0]], hidden, (1,))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        code = self.labels.code(y, z.dtype)
        angle, z = z[..., 0], z[..., 1:]
        cos, sin = angle.cos(), angle.sin()
        turn = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)  # batch + (2, 2)
        batch = torch.broadcast_shapes(code.shape[:-1], z.shape[:-1])
        rest = torch.cat([z.expand(*batch, -1), code.expand(*batch, -1)], -1)
        h = torch.tanh(self.of_place(self.grid @ turn) + self.of_rest(rest).unsqueeze(-2))  # batch + (H * W, hidden)
        return self.rest(h).reshape(*batch, *self.x_shape)


@dataclass(frozen=True)
class Rotated(MLPs):
    """MLPs, with `RotatedDecoder`."""

    def decoder(self, in_sizes: Sequence[int | Coded], x_shape: Shape) -> nn.Module:
        labels, z = in_sizes
        return RotatedDecoder(labels, z, self.hidden, x_shape)


def make(model: str, x_shape: Shape, hidden: Sequence[int], z: int, weight: float) -> tuple[SemiVAE, Objective]:
    """The model and its objective.

    Args:
        model: "m2", "rotated" (with an angle beside `z` latents) or "mvae".
        weight: of the classifier's term (M2), or of log p(y|z) (MVAE).
    """
    networks: Networks = (Rotated if model == "rotated" else MLPs)(tuple(hidden))
    if model == "mvae":
        mvae = MVAE(x_shape, Classes(10), z=z, networks=networks)
        return mvae, mvae.elbo(label_weight=weight)
    m2 = M2(x_shape, Classes(10), z=z + (model == "rotated"), networks=networks)
    return m2, m2.elbo(classifier_weight=weight)


def sizes(rows: int, labelled: int, batch_size: int) -> dict[str, int]:
    """Batches of `batch_size` rows in total, in which labelled rows have their share of the data.

    >>> sizes(12_000, 2_000, 200)
    {'batch_size': 167, 'labelled_batch_size': 33}
    """
    of_labelled = max(1, round(batch_size * labelled / rows))
    return {"batch_size": batch_size - of_labelled, "labelled_batch_size": of_labelled}


def main() -> None:
    turns = Turns()
    settings, arrays = turns.settings, {name: torch.from_numpy(array) for name, array in turns.data.items()}
    x, known, epochs = arrays["x"], arrays["labelled"], settings["epochs"]
    torch.manual_seed(0)
    vae, elbo = make(
        settings["model"], tuple(x.shape[1:]), settings["hidden"], settings["z"], float(settings["weight"])
    )

    def next_turn(epoch: int, _: SemiVAE) -> None:
        turns.done()
        if epoch < epochs:
            turns.wait()

    plain = {"corrupt": None, "ema_decay": 0.0, "schedule": "constant", "progress": False}
    plain["warm_up"] = max(0, settings["warm_up"] - 1) / epochs
    batches = sizes(len(x), len(known), settings["batch_size"])
    turns.wait()
    fit(
        vae,
        x,
        hide(arrays["y"], known),
        elbo=elbo,
        epochs=epochs,
        lr=settings["lr"],
        compile=settings["compile"],
        on_epoch=next_turn,
        **plain,
        **batches,
    )
    accuracy = metrics.accuracy(tasks.classify(vae, arrays["x_test"]), arrays["y_test"])
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    turns.finish(accuracy=accuracy, parameters=parameters, packages=["pyro-semivae", "pyro-ppl", "torch", "numpy"])


if __name__ == "__main__":
    main()
