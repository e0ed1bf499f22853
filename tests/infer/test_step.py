"""The plain loops that the benchmark times are of the same bounds."""

import runpy
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from pyro_semivae.data import Batch
from pyro_semivae.infer import LocalParameters, Step
from pyro_semivae.models import CCVAE, M2
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes

STEP = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "speed.py"))


@pytest.mark.parametrize(("model", "plain"), [(CCVAE, "plain_ccvae"), (M2, "plain_m2")])
def test_a_plain_loop_has_the_bound_of_the_objective_it_is_compared_with(monkeypatch, model, plain):
    """Without noise, rows and gradients."""
    torch.manual_seed(0)
    vae = model((1, 3, 5), Classes(10), networks=MLPs((11,)), **({"z_c": 4, "z_s": 0} if model is CCVAE else {}))
    options = (
        {"num_samples": STEP["K"], "marginal": "jensen", "weights": "independent"}
        if model is CCVAE
        else {"classifier_weight": STEP["ALPHA"]}
    )
    y = torch.tensor([3, 9, -1, -1, -1, -1, -1])
    batch = Batch({"x": torch.rand(7, 1, 3, 5), "y": y}, torch.ones(7), torch.arange(7), labelled=2)
    monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda shape, **kind: torch.zeros(shape, **kind))
    monkeypatch.setattr(torch, "randn", torch.zeros)
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    with LocalParameters():
        found = vae.elbo(**options).evaluate(Step(vae.model, vae.guide, (batch.x, y), labelled=2))
    ours = sum(found.contributions().values())
    by_hand = STEP[plain](vae, batch)
    assert_close(ours, by_hand)
    parameters = list(vae.parameters())
    assert_close(*(torch.autograd.grad(total.sum(), parameters) for total in (ours, by_hand)))
