"""Draws the two graphs of every model into `docs/drawn`: `python docs/draw.py`.

The PNG files hold, as their description, what was drawn in words; a test compares it with what `show` says today.
"""

import re
from collections.abc import Callable
from pathlib import Path

import torch

from pyro_semivae import CCVAE, SemiVAE, show
from pyro_semivae.drawing import Picture
from pyro_semivae.files import atomic_open
from pyro_semivae.models import DIVA, M1, M1M2, M2, M3, MVAE, VAE, InvertedVAE, LaRVAE, RbVAE, SwapVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Binary, Classes, Real

DRAWN = Path(__file__).parent / "drawn"
SHAPE, N, NETWORKS = (1, 6, 6), 30, MLPs((16,))

MODELS: dict[str, Callable[[], SemiVAE]] = {
    "ccvae": lambda: CCVAE(SHAPE, Classes(10), networks=NETWORKS),
    "ccvae-binary": lambda: CCVAE(SHAPE, Binary(18), networks=NETWORKS),
    "vae": lambda: VAE(SHAPE, Classes(10), networks=NETWORKS),
    "m1": lambda: M1(SHAPE, Classes(10), networks=NETWORKS),
    "m2": lambda: M2(SHAPE, Classes(10), networks=NETWORKS),
    "m1m2": lambda: M1M2(M1(SHAPE, Classes(10), networks=NETWORKS)),
    "m3": lambda: M3(SHAPE, Classes(10), networks=NETWORKS),
    "diva": lambda: DIVA(SHAPE, Classes(10), networks=NETWORKS),
    "mvae": lambda: MVAE(SHAPE, Classes(10), networks=NETWORKS),
    "inverted": lambda: InvertedVAE(SHAPE, Classes(10)),
    "rbvae": lambda: RbVAE(SHAPE, networks=NETWORKS),
    "larvae": lambda: LaRVAE(SHAPE, Real(6), networks=NETWORKS),
    "swapvae": lambda: SwapVAE(SHAPE, networks=NETWORKS),
}


def rows_of(vae: SemiVAE) -> dict[str, torch.Tensor]:
    """Thirty images, of which ten are labelled, or, in a model with a reference set, ten references."""
    labels, at = vae.labels, torch.arange(N)
    if labels.always_known:
        y = (at < 10).long()
    elif labels.entries is None:
        y = (at % labels.num_classes).where(at < 10, -1)
    else:
        y = (at[:, None].expand(N, labels.entries) % 2).to(torch.float).where(at[:, None] < 10, torch.nan)
    return {"x": torch.rand(N, *SHAPE), "y": y}


def picture_of(name: str) -> Picture:
    """The picture of one of `MODELS`."""
    torch.manual_seed(0)
    vae = MODELS[name]()
    return show(vae, rows=rows_of(vae))


def described(picture: Picture) -> str:
    """What is drawn, without the values of the objective's terms, which are a sample's."""
    return re.sub(r" \[[^\]]*\]", "", str(picture))


if __name__ == "__main__":
    for name in MODELS:
        picture = picture_of(name)
        with atomic_open(DRAWN / f"{name}.png") as file:
            metadata = {"Description": described(picture)}
            picture.figure.savefig(file, format="png", dpi=90, bbox_inches="tight", metadata=metadata)
        print(name)
