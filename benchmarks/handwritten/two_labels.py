"""Two labels that are marginalised jointly: the graph of `examples/compose/two_labels.py`."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handwritten.common import Case, Losses, gaussian, log_bernoulli, log_normal, log_standard, noisy
from pyro_semivae.data import Batch, hide
from pyro_semivae.infer import Objective
from pyro_semivae.models import SemiVAE
from pyro_semivae.spaces import Classes, Images

ALPHA = 100.0
Coloured = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "compose" / "two_labels.py"))["Coloured"]


def rows(number: int) -> dict[str, Any]:
    """Random images; each label is known for a tenth of them."""
    labels = {name: hide(torch.randint(10, (number,)), torch.rand(number) < 0.1) for name in ("digit", "colour")}
    return {"x": torch.randint(0, 256, (number, 3, 8, 8), dtype=torch.uint8), "y": labels}


def make() -> tuple[SemiVAE, Objective]:
    vae = Coloured(Images(3, 8, 8), Classes(10), Classes(10))
    return vae, vae.elbo()


def losses(vae: SemiVAE, critics: nn.ModuleDict, batch: Batch) -> Losses:
    """All pairs of labels, in one batch; the part of a first layer that is the same for all pairs is computed once.

    Which labels are known differs between rows, so that shapes cannot depend on it: known ones are weights of 0 and 1.
    """
    x, digit, colour = batch.x.flatten(1), batch.values["digit"], batch.values["colour"]
    colours, digits = vae.spaces["colour"].num_classes, vae.spaces["digit"].num_classes
    of_digit, of_colour = (torch.eye(size, dtype=x.dtype, device=x.device) for size in (digits, colours))

    def parts(layer: nn.Linear, *codes: Tensor) -> list[Tensor]:  # of the images, with the bias; of each label's values
        of_x, *others = layer.weight.split([x.shape[1], *map(len, codes)], 1)
        return [F.linear(x, of_x, layer.bias), *map(F.linear, codes, others)]

    log_q_d = vae.q_digit.net.layers(x).log_softmax(-1).T  # (D, B)
    first, *rest = vae.q_colour.net.layers
    h_x, h_d = parts(first, of_digit)
    log_q_c = nn.Sequential(*rest)(h_x + h_d[:, None]).log_softmax(-1).movedim(-1, 0)  # (C, D, B)
    first, *rest = vae.q_z.net.layers
    h_x, h_d, h_c = parts(first, of_digit, of_colour)
    loc, scale = gaussian(nn.Sequential(*rest)((h_x + h_d[:, None]) + h_c[:, None, None]))  # (C, D, B, D_z)
    z = noisy(loc, scale)
    codes = [of_digit[:, None].expand(*z.shape[:3], -1), of_colour[:, None, None].expand(*z.shape[:3], -1)]
    log_p_x = log_bernoulli(x.expand(*z.shape[:2], -1, -1), vae.p_x.net.layers(torch.cat([*codes, z], -1)))
    log_p_c = vae.p_colour.net.layers(of_digit).log_softmax(-1).T[..., None]  # (C, D, 1)
    inside = log_p_x + log_standard(z) - log_normal(z, loc, scale) + log_p_c - math.log(digits)

    no_digit, no_colour = digit < 0, colour < 0  # (B,)
    same_d, same_c = of_digit[:, digit] == 1, of_colour[:, colour] == 1  # (D, B), (C, B)
    w_d = torch.where(no_digit, log_q_d.exp(), same_d.to(x))
    w_c = torch.where(no_colour, log_q_c.exp(), same_c[:, None].to(x))
    missing = no_digit * log_q_d + no_colour * log_q_c
    bound = (w_d * w_c * (inside - missing)).sum((0, 1))
    joint = torch.where(no_digit | same_d, log_q_d, -torch.inf)
    joint = joint + torch.where(no_colour | same_c[:, None], log_q_c, -torch.inf)
    log_q_known = torch.where(no_digit & no_colour, 0.0, joint.flatten(0, 1).logsumexp(0))
    return {"loss": -((bound + ALPHA * log_q_known) * batch.scale).sum()}


CASES = {"two-labels": Case(make, rows, losses, (50,), num_rows=1_400)}
