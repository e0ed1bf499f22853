"""A small model and rows to train it on."""

import torch

from pyro_semivae import CCVAE, data
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes


def make(seed=0, **options):
    torch.manual_seed(seed)
    return CCVAE(
        (1, 4, 7), Classes(5), **{"z_c": 2, "z_s": 3, "networks": MLPs((11,)), "label_hidden": (6,), **options}
    )


def rows(n=60, labelled=20):
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(0, 256, (n, 1, 4, 7), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, 5, (n,), generator=generator)
    return x, data.hide(y, torch.arange(labelled)), y


def options(**more):
    plain = {"schedule": "constant", "ema_decay": 0.0, "progress": False}
    return {"epochs": 4, "batch_size": 8, "labelled_batch_size": 5, "lr": 1e-2, **plain, **more}


def same_weights(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def untimed(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]
