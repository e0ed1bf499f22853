"""M2 on counts: the graph of `examples/compose/counts.py`."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handwritten.common import Case, Losses, gaussian, log_normal, log_standard, noisy
from pyro_semivae.data import Batch, hide
from pyro_semivae.infer import Objective
from pyro_semivae.models import SemiVAE
from pyro_semivae.spaces import Classes, Counts

ALPHA, TYPES, GENES = 50.0, 4, 60
Cells = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "compose" / "counts.py"))["Cells"]


def rows(number: int) -> dict[str, Any]:
    """Random counts with library sizes, a quarter of them with their type."""
    x = torch.poisson(torch.full((number, GENES), 7.0))
    y = hide(torch.arange(number) % TYPES, torch.arange(number // 4))
    return {"x": {"x": x, "size": x.sum(1, keepdim=True)}, "y": {"y": y}}


def make() -> tuple[SemiVAE, Objective]:
    vae = Cells(Counts(GENES), Classes(TYPES))
    return vae, vae.elbo()


def losses(vae: SemiVAE, critics: nn.ModuleDict, batch: Batch) -> Losses:
    """Rows with a label once, the others once for each type, in one batch."""
    n, encoder, decoder, classifier = batch.labelled, vae.q_z.net.layers, vae.p_x.net.layers, vae.q_y.net.layers
    x, size, y, log_r = batch.x, batch.values["size"], batch.y[:n], vae.p_x.log_r
    seen = x.log1p()
    number, codes = vae.labels.num_classes, torch.eye(vae.labels.num_classes, dtype=x.dtype, device=x.device)

    def expanded(values: Tensor) -> Tensor:  # (B_l + C B_u, ...)
        return torch.cat([values[:n], values[n:].repeat(number, *(1,) * (values.dim() - 1))])

    code = torch.cat([codes[y], codes.repeat_interleave(len(x) - n, 0)])
    loc, scale = gaussian(encoder(torch.cat([expanded(seen), code], 1)))
    z = noisy(loc, scale)
    logits = decoder(torch.cat([code, z], 1)).log_softmax(-1) + expanded(size.log()) - log_r
    r, counts = log_r.exp(), expanded(x)
    of_x = (torch.lgamma(x + r) - torch.lgamma(1 + x) - torch.lgamma(r)).sum(1)  # the same for all types
    log_p_x = expanded(of_x) + (counts * logits - (counts + r) * F.softplus(logits)).sum(1)
    each = log_p_x + log_standard(z) - log_normal(z, loc, scale)

    log_q = classifier(seen).log_softmax(-1)
    log_q_u = log_q[n:].T
    unlabelled = (log_q_u.exp() * (each[n:].reshape(number, -1) - log_q_u)).sum(0)
    labelled = each[:n] + ALPHA * log_q[:n].gather(1, y[:, None]).squeeze(1)
    return {"loss": -((torch.cat([labelled, unlabelled]) - math.log(number)) * batch.scale).sum()}


CASES = {"counts": Case(make, rows, losses, (50,), num_rows=4_000)}
