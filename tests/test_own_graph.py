"""Objectives know roles and not names: a user's own graph, names and plain Pyro style, and errors that teach."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.testing import assert_close

from pyro_semivae.infer import RowScale, TraceCCVAE_ELBO
from pyro_semivae.labels import MISSING


class Own(nn.Module):
    """p(k) p(u | k) p(v | u) p(pixels | u, v): two latents in a row, the second a child of the first."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.randn(4, 2))
        self.to_v = nn.Linear(2, 3)
        self.to_pixels = nn.Linear(5, 7)
        self.encode_u = nn.Linear(7, 2)
        self.encode_v = nn.Linear(9, 3)
        self.classify = nn.Linear(2, 4)

    def model(self, pixels, k=None):
        pyro.module("own", self)
        with pyro.plate("data", len(pixels), dim=-1):
            k = pyro.sample("k", dist.Categorical(torch.ones(4) / 4), obs=k, infer={"enumerate": "parallel"})
            u = pyro.sample("u", dist.Normal(self.mean[k], 1.0).to_event(1))
            v = pyro.sample("v", dist.Normal(self.to_v(u), 0.5).to_event(1))
            pyro.sample("pixels", dist.Normal(self.to_pixels(torch.cat([u, v], -1)), 1.0).to_event(1), obs=pixels)

    def guide(self, pixels, k=None):
        with pyro.plate("data", len(pixels), dim=-1):
            u = pyro.sample("u", dist.Normal(self.encode_u(pixels), 0.3).to_event(1))
            both = torch.cat([pixels.expand(*u.shape[:-1], 7), u], -1)  # u has particles on the left
            pyro.sample("v", dist.Normal(self.encode_v(both), 0.4).to_event(1))
            infer = {"enumerate": "parallel", "is_auxiliary": k is not None}
            pyro.sample("k", dist.Categorical(logits=self.classify(u)), obs=k, infer=infer)


K_LABELS = torch.tensor([1, MISSING, 3, 0, MISSING, 2])


def test_own_names_and_a_chain_of_latents():
    own, pixels = Own(), torch.randn(6, 7)
    elbo = TraceCCVAE_ELBO(num_samples=5, detach="weight")
    guide = poutine.trace(own.guide)
    terms = elbo.terms(own.model, guide, pixels, K_LABELS)
    assert list(terms) == ["p(pixels)", "p(v)", "p(u)", "q(u)", "q(v)", "q(y|z)", "q(y|x)", "p(y)"]
    u, v = (guide.trace.nodes[name]["value"][0] for name in ("u", "v"))
    missing = K_LABELS == MISSING
    w = terms["q(v)"] / -dist.Normal(own.encode_v(torch.cat([pixels, u], -1)), 0.4).log_prob(v).sum(-1)
    assert_close(w[missing], torch.ones(2))
    assert_close(terms["p(v)"], w * dist.Normal(own.to_v(u), 0.5).log_prob(v).sum(-1))
    log_p_u = dist.Normal(own.mean, 1.0).log_prob(u.unsqueeze(1)).sum(-1)  # (B, 4)
    expected = torch.where(
        missing, (log_p_u + torch.tensor(0.25).log()).logsumexp(-1), log_p_u[torch.arange(6), K_LABELS]
    )
    assert_close(terms["p(u)"], w * expected)
    elbo(own.model, own.guide)(pixels, K_LABELS).backward()
    assert all(p.grad is not None and p.grad.any() for p in own.parameters())
    assert len(pyro.get_param_store()) == 0, "pyro.module in the user's model does not reach the store"


def test_other_parameters_of_plain_pyro_models_stay_in_the_store():
    own, pixels = Own(), torch.randn(6, 7)
    seen = []

    def model(pixels, k=None):
        seen.append(pyro.param("offset", torch.zeros(7)))
        own.model(pixels, k)

    elbo = TraceCCVAE_ELBO(num_samples=2)
    elbo.terms(model, own.guide, pixels, K_LABELS)
    with torch.no_grad():
        pyro.param("offset").unconstrained().add_(3.0)
    elbo.terms(model, own.guide, pixels, K_LABELS)
    assert list(pyro.get_param_store()) == ["offset"] and (seen[-1] == 3).all()


def swapped(own, **names):
    """The guide with sites renamed."""

    def guide(pixels, k=None):
        class Rename(poutine.messenger.Messenger):
            def _pyro_sample(self, msg):
                msg["name"] = names.get(msg["name"], msg["name"])

        with Rename():
            own.guide(pixels, k)

    return guide


def test_errors_teach():
    own, pixels = Own(), torch.randn(6, 7)
    elbo = TraceCCVAE_ELBO(num_samples=2)
    with pytest.raises(
        ValueError, match=r"site 'vv' is sampled in the guide but never in the model: did you mean 'v'\?"
    ):
        elbo.terms(own.model, swapped(own, v="vv"), pixels, K_LABELS)

    def without_v(pixels, k=None):
        with poutine.block(hide=["v"]):
            own.guide(pixels, k)

    with pytest.raises(ValueError, match="site 'v' is latent in the model but never sampled in the guide"):
        elbo.terms(own.model, without_v, pixels, K_LABELS)

    def without_k(pixels, k=None):
        own.guide(pixels, None) if k is None else poutine.block(own.guide, hide=["k"])(pixels, None)

    with pytest.raises(ValueError, match=r"label 'k' is not in the guide: this bound needs its classifier q\(k\|z\)"):
        elbo.terms(own.model, without_k, pixels, K_LABELS)

    def scaled(pixels, k=None):
        with pyro.plate("data", len(pixels), dim=-1):
            k = pyro.sample("k", dist.Categorical(torch.ones(4) / 4), obs=k, infer={"enumerate": "parallel"})
            u = pyro.sample("u", dist.Normal(own.mean[k], 1.0).to_event(1))
            with poutine.scale(scale=2.0):
                v = pyro.sample("v", dist.Normal(own.to_v(u), 0.5).to_event(1))
            pyro.sample("pixels", dist.Normal(own.to_pixels(torch.cat([u, v], -1)), 1.0).to_event(1), obs=pixels)

    with pytest.raises(ValueError, match="scaled differently"):
        elbo.terms(scaled, own.guide, pixels, K_LABELS)

    def outside(pixels, k=None):
        pyro.sample("global", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))
        own.model(pixels, k)

    with pytest.raises(ValueError, match="site 'global' is outside of the plate 'data'"):
        elbo.terms(outside, own.guide, pixels, K_LABELS)


def test_a_subsampled_plate_scales_the_loss():
    own, pixels = Own(), torch.randn(6, 7)

    def scaled(fn):
        def run(pixels, k=None):
            with poutine.scale(scale=10.0):
                fn(pixels, k)

        return run

    elbo = TraceCCVAE_ELBO(num_samples=2)
    losses = []
    for model, guide in ((own.model, own.guide), (scaled(own.model), scaled(own.guide))):
        torch.manual_seed(0)
        losses.append(elbo.loss(model, guide, pixels, K_LABELS))
    with RowScale(torch.full((6,), 10.0)):
        torch.manual_seed(0)
        losses.append(elbo.loss(own.model, own.guide, pixels, K_LABELS))
    assert_close(losses[1], 10 * losses[0])
    assert_close(losses[2], 10 * losses[0])


def test_beta_is_refused_where_one_sum_has_data_and_latents():
    class DataOfLabel(Own):
        def model(self, pixels, k=None):
            with pyro.plate("data", len(pixels), dim=-1):
                k = pyro.sample("k", dist.Categorical(torch.ones(4) / 4), obs=k, infer={"enumerate": "parallel"})
                u = pyro.sample("u", dist.Normal(self.mean[k], 1.0).to_event(1))
                v = pyro.sample("v", dist.Normal(self.to_v(u), 0.5).to_event(1))
                loc = self.to_pixels(torch.cat([u, v], -1)) + k.unsqueeze(-1)
                pyro.sample("pixels", dist.Normal(loc, 1.0).to_event(1), obs=pixels)

    own, pixels = DataOfLabel(), torch.randn(6, 7)
    assert "p(pixels,u)" in TraceCCVAE_ELBO(num_samples=2).terms(own.model, own.guide, pixels, K_LABELS)
    with pytest.raises(ValueError, match="beta: accepted is 1"):
        TraceCCVAE_ELBO(num_samples=2, beta=2.0).terms(own.model, own.guide, pixels, K_LABELS)
