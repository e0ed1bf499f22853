"""What two processes do, started by torchrun: `test_processes.py` compares their results with a single process's.

torchrun --nproc-per-node 2 together.py FOLDER PART
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_semivae import trainer
from pyro_semivae.errors import InputError
from pyro_semivae.infer import DensityRatio, Traced
from pyro_semivae.models import CCVAE, VAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes
from pyro_semivae.train import fit

ROWS, LABELLED = 48, 12
BATCH, LABELLED_BATCH = 4, 2  # of each of two processes
# Trainings that are compared with those of one process: by name, arguments of `fit`.
CASES = {
    "plain": {"compile": "off"},
    "graph": {"compile": "on", "warm_up": 0.5},
    "clipped": {"also_unlabelled": True, "clip": partial(torch.nn.utils.clip_grad_norm_, max_norm=0.1)},
}


def rows(labelled: int = LABELLED) -> tuple[Tensor, Tensor]:
    """Images of two classes, the first of which are labelled."""
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(ROWS) % 2
    x = 0.6 * torch.rand(ROWS, 1, 2, 3, generator=generator) + 0.4 * y[:, None, None, None]
    return x, torch.where(torch.arange(ROWS) < labelled, y, -1)


def ccvae(seed: int = 0) -> CCVAE:
    torch.manual_seed(seed)
    return CCVAE((1, 2, 3), Classes(2), z_c=2, z_s=1, networks=MLPs((5,)))


def how(processes: int, **changes) -> dict:
    """The arguments of `fit` for steps of the same rows, without noise on images."""
    sizes = {"batch_size": BATCH * 2 // processes, "labelled_batch_size": LABELLED_BATCH * 2 // processes}
    return {"epochs": 4, **sizes, "corrupt": None, "progress": False, "lr": 0.01, **changes}


def without_noise(set: Callable[[Any, str, Any], None]) -> None:
    """Latents have their location as the sample, so that two processes and one compute the same; graphs are traced and
    not compiled.

    Args:
        set: such as `setattr`.
    """
    set(torch.distributions.Normal, "rsample", lambda self, shape=(): self.loc.expand(self._extended_shape(shape)))
    set(trainer, "Traced", partial(Traced, compiler="none"))


def trained(processes: int, **changes) -> tuple[list, dict]:
    """The history and the weights of a training."""
    vae = ccvae()
    history = fit(vae, *rows(), **how(processes, **changes))
    return [*history], vae.state_dict()


def stops_after(epoch: int, now: int, vae) -> None:
    if now == epoch:
        raise RuntimeError("stop")


class Critic(torch.nn.Module):
    """A discriminator of images and latents."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6 + 2, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.layer(torch.cat([x.flatten(1), z], 1))


def noisy(folder: Path) -> dict:
    """Trainings with noise: what the processes have in the end, their noise, an interrupted run, and its files."""
    found = {"noise": []}
    fit(ccvae(), *rows(), **{**how(2, epochs=1), "corrupt": lambda x: found["noise"].append(torch.rand(3)) or x})
    vae = ccvae(seed=rank)  # other weights at the start
    found["few"] = [*fit(vae, *rows(1), **how(2))], vae.state_dict()
    vae = ccvae()
    elbo = vae.elbo_for(rows()[1])
    options = how(2, clip=partial(torch.nn.utils.clip_grad_norm_, max_norm=1.0), elbo=elbo)
    found["whole"] = [*fit(vae, *rows(), **options)], vae.state_dict()
    vae, file = ccvae(), folder / "resumed.pt"
    try:
        fit(vae, *rows(), **options, checkpoint=file, on_epoch=partial(stops_after, 3))
    except RuntimeError as error:
        found["stopped"] = str(error)
    if rank == 0:
        (folder / "after_two.pt").write_bytes(file.read_bytes())
    found["resumed"] = [*fit(vae, *rows(), **options, checkpoint=file, resume=True)], vae.state_dict()
    found["calls"] = []

    def called_back(epoch: int, vae: CCVAE) -> dict[str, float]:
        found["calls"].append(epoch)
        return {"monitor/rank": rank}

    found["called back"] = fit(ccvae(), *rows(), **how(2, epochs=2, progress=True), on_epoch=called_back)[-1]
    torch.manual_seed(rank)
    critic = Critic()  # another one in each process
    vae = VAE((1, 2, 3), Classes(2), z=2, networks=MLPs((5,)))
    elbo = vae.elbo() + DensityRatio("z", net=critic)
    fit(vae, *rows(), **how(2), elbo=elbo)
    found["critic"] = dict(elbo.modules().state_dict())
    fit(ccvae(), *rows(2), **how(2, epochs=2), checkpoint=folder / "two_labels.pt")
    vae = ccvae()
    vae.register_buffer("noise", torch.zeros(3))
    fit(vae, *rows(), **{**how(2, epochs=1), "corrupt": lambda x: (vae.noise.copy_(torch.rand(3)), x)[1]})
    found["buffer"] = vae.noise
    try:
        fit(ccvae(), *rows(LABELLED + rank), **how(2))
    except InputError as error:
        found["other rows"] = str(error)
    return found


def dies(folder: Path) -> None:
    """The second process is killed in the second epoch."""
    learn = trainer.Trainer.learn

    def deadly(self, batch, done, where):
        if rank == 1 and where == "epoch 2, step 2":
            os.kill(os.getpid(), signal.SIGKILL)
        return learn(self, batch, done, where)

    trainer.Trainer.learn = deadly
    fit(ccvae(), *rows(), **how(2), checkpoint=folder / "killed.pt")


if __name__ == "__main__":
    folder, part, rank = Path(sys.argv[1]), sys.argv[2], int(os.environ["RANK"])
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    if part == "dies":
        dies(folder)
    else:
        found = noisy(folder)
        without_noise(setattr)
        found |= {name: trained(2, **changes) for name, changes in CASES.items()}
        torch.save(found, folder / f"{rank}.pt")
