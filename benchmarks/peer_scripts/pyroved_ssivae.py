"""pyroVED's `ssiVAE`, trained by its `auxSVItrainer`."""

from __future__ import annotations

import pyroved
import torch
from pyroved.trainers import auxSVItrainer
from torch.nn import functional as F
from turns import Turns


def main() -> None:
    turns = Turns()
    settings = turns.settings
    x = torch.from_numpy(turns.data["x"]).flatten(1).float() / 255
    y = F.one_hot(torch.from_numpy(turns.data["y"]), 10).float()
    known = torch.zeros(len(x), dtype=torch.bool)
    known[torch.from_numpy(turns.data["labelled"])] = True
    how = {"batch_size": settings["batch_size"]}
    labelled = pyroved.utils.init_dataloader(x[known], y[known], **how)
    unlabelled = pyroved.utils.init_dataloader(x[~known], **how)

    hidden = [*settings["hidden"]]
    vae = pyroved.models.ssiVAE(
        turns.data["x"].shape[2:],
        latent_dim=settings["z"],
        num_classes=10,
        invariances=settings["invariances"],
        hidden_dim_e=hidden,
        hidden_dim_d=hidden,
        hidden_dim_cls=hidden,
        activation="relu",
        device="cpu",
    )
    trainer = auxSVItrainer(vae, lr=settings["lr"], device="cpu")
    for _ in range(settings["epochs"]):
        turns.wait()
        trainer.step(unlabelled, labelled, aux_loss_multiplier=settings["weight"])
        turns.done()
    found = vae.classifier(torch.from_numpy(turns.data["x_test"]).flatten(1).float() / 255)
    accuracy = (found.numpy() == turns.data["y_test"]).mean().item()
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    turns.finish(accuracy=accuracy, parameters=parameters, packages=["pyroved", "pyro-ppl", "torch", "numpy"])


if __name__ == "__main__":
    main()
