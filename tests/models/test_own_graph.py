"""Objectives know roles and not names: a user's own graph, names and plain Pyro style, and errors that teach."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.testing import assert_close

from pyro_semivae.infer import Step, TraceCCVAE_ELBO
from pyro_semivae.infer.graph import graphs_of
from pyro_semivae.spaces import MISSING


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
    terms = elbo.weighted_terms(own.model, guide, pixels, K_LABELS)
    assert list(terms) == [
        "w log p(pixels|u,v)",
        "w log p(v|u)",
        "w log p(u|k_o)",
        "-w log q(u|pixels)",
        "-w log q(v|pixels,u)",
        "-w log q(k_o|z)",
        "log q(k_o|x)",
        "log p(k_o)",
    ]
    u, v = (guide.trace.nodes[name]["value"][0] for name in ("u", "v"))
    missing = K_LABELS == MISSING
    w = terms["-log q(v)"] / -dist.Normal(own.encode_v(torch.cat([pixels, u], -1)), 0.4).log_prob(v).sum(-1)
    assert_close(w[missing], torch.ones(2))
    assert_close(terms["log p(v)"], w * dist.Normal(own.to_v(u), 0.5).log_prob(v).sum(-1))
    log_p_u = dist.Normal(own.mean, 1.0).log_prob(u.unsqueeze(1)).sum(-1)  # (B, 4)
    expected = torch.where(
        missing, (log_p_u + torch.tensor(0.25).log()).logsumexp(-1), log_p_u[torch.arange(6), K_LABELS]
    )
    assert_close(terms["log p(u)"], w * expected)
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
    elbo.weighted_terms(model, own.guide, pixels, K_LABELS)
    with torch.no_grad():
        pyro.param("offset").unconstrained().add_(3.0)
    elbo.weighted_terms(model, own.guide, pixels, K_LABELS)
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
        elbo.weighted_terms(own.model, swapped(own, v="vv"), pixels, K_LABELS)

    def without_v(pixels, k=None):
        with poutine.block(hide=["v"]):
            own.guide(pixels, k)

    with pytest.raises(ValueError, match="site 'v' is latent in the model but never sampled in the guide"):
        elbo.weighted_terms(own.model, without_v, pixels, K_LABELS)

    def without_k(pixels, k=None):
        own.guide(pixels, None) if k is None else poutine.block(own.guide, hide=["k"])(pixels, None)

    with pytest.raises(ValueError, match=r"label 'k' is not in the guide: its classifier q\(k\|z\) is needed there"):
        elbo.weighted_terms(own.model, without_k, pixels, K_LABELS)

    def scaled(pixels, k=None):
        with pyro.plate("data", len(pixels), dim=-1):
            k = pyro.sample("k", dist.Categorical(torch.ones(4) / 4), obs=k, infer={"enumerate": "parallel"})
            u = pyro.sample("u", dist.Normal(own.mean[k], 1.0).to_event(1))
            with poutine.scale(scale=2.0):
                v = pyro.sample("v", dist.Normal(own.to_v(u), 0.5).to_event(1))
            pyro.sample("pixels", dist.Normal(own.to_pixels(torch.cat([u, v], -1)), 1.0).to_event(1), obs=pixels)

    with pytest.raises(ValueError, match="scaled differently"):
        elbo.weighted_terms(scaled, own.guide, pixels, K_LABELS)

    def outside(pixels, k=None):
        pyro.sample("global", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))
        own.model(pixels, k)

    with pytest.raises(ValueError, match="site 'global' is outside of the plate of rows"):
        elbo.weighted_terms(outside, own.guide, pixels, K_LABELS)


def test_a_scaled_latent_is_refused_under_a_row_scale_too():
    own, pixels = Own(), torch.randn(6, 7)

    class Doubled(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            if msg["name"] == "v":
                msg["scale"] = 2.0

    for scale in (torch.ones(6), torch.linspace(1, 2, 6)):
        with Doubled(), pytest.raises(ValueError, match="scaled differently"):
            TraceCCVAE_ELBO(num_samples=2).evaluate(Step(own.model, own.guide, (pixels, K_LABELS), scale=scale))


@pytest.mark.parametrize("bad", [4, -2])
def test_a_label_outside_its_support_is_an_error(bad):
    own, pixels = Own(), torch.randn(6, 7)
    with pytest.raises(ValueError, match=rf"label 'k': got \[{bad}\]; expected"):
        TraceCCVAE_ELBO(num_samples=2).weighted_terms(
            own.model, own.guide, pixels, K_LABELS.index_fill(0, torch.tensor(3), bad)
        )


def test_a_label_that_nothing_depends_on_is_refused():
    own, pixels = Own(), torch.randn(6, 7)

    def model(pixels, k=None):
        with pyro.plate("data", len(pixels), dim=-1):
            pyro.sample("k", dist.Categorical(torch.ones(4) / 4), obs=k, infer={"enumerate": "parallel"})
            u = pyro.sample("u", dist.Normal(own.mean[0], 1.0).to_event(1))
            v = pyro.sample("v", dist.Normal(own.to_v(u), 0.5).to_event(1))
            pyro.sample("pixels", dist.Normal(own.to_pixels(torch.cat([u, v], -1)), 1.0).to_event(1), obs=pixels)

    with pytest.raises(ValueError, match="label 'k': no latent or data site"):
        TraceCCVAE_ELBO(num_samples=2).weighted_terms(model, own.guide, pixels, K_LABELS)


class Several(nn.Module):
    """L binary labels in the plate "labels" inside of "data": p(y_i) p(z_i | y_i) p(x | z), q(z | x) q(y_i | z_i)."""

    L = 3

    def __init__(self):
        super().__init__()
        self.prior = torch.tensor([0.2, 0.5, 0.7])
        self.mean = nn.Parameter(torch.randn(2, self.L))
        self.out = nn.Linear(self.L, 7)
        self.encode = nn.Linear(7, self.L)
        self.slope = nn.Parameter(torch.randn(self.L))

    def plates(self, x):
        return pyro.plate("data", len(x), dim=-2), pyro.plate("labels", self.L, dim=-1)

    def model(self, x, y=None):
        data, labels = self.plates(x)
        with data:
            with labels:
                y = pyro.sample("y", dist.Bernoulli(self.prior), obs=y, infer={"enumerate": "parallel"})
                z = pyro.sample("z", dist.Normal(torch.where(y > 0, self.mean[1], self.mean[0]), 1.0))
            pyro.sample("x", dist.Normal(self.out(z).unsqueeze(-2), 1.0).to_event(1), obs=x.unsqueeze(-2))

    def guide(self, x, y=None):
        data, labels = self.plates(x)
        with data, labels:
            z = pyro.sample("z", dist.Normal(self.encode(x), 0.4))
            infer = {"enumerate": "parallel", "is_auxiliary": y is not None}
            pyro.sample("y", dist.Bernoulli(logits=self.slope * z), obs=y, infer=infer)


@pytest.mark.parametrize("marginal", ["exact", "jensen"])
@pytest.mark.parametrize("detach", ["none", "weight"])
def test_partly_observed_rows_by_hand(marginal, detach):
    """Several labels, each entry observed or missing on its own: the bound of design, row by row."""
    several, x, k = Several(), torch.randn(5, 7), 4
    nan = float("nan")
    y = torch.tensor([[1.0, 0.0, 1.0], [nan, 1.0, nan], [0.0, nan, 0.0], [nan, nan, nan], [nan, 0.0, 0.0]])
    guide = poutine.trace(several.guide)
    elbo = TraceCCVAE_ELBO(marginal=marginal, detach=detach, weights="independent", num_samples=k, max_plate_nesting=2)
    terms = elbo.weighted_terms(several.model, guide, x, y)
    z = guide.trace.nodes["z"]["value"]  # (particles, B, L)
    total = []
    for b in range(5):
        log_q = [torch.nn.functional.logsigmoid(s * several.slope * z[:, b]) for s in (-1, 1)]  # y = 0, 1
        bracket = dist.Normal(several.out(z[0, b]), 1.0).log_prob(x[b]).sum()
        bracket = bracket - dist.Normal(several.encode(x[b]), 0.4).log_prob(z[0, b]).sum()
        log_q_o, prior = torch.zeros(len(z)), torch.zeros(())
        for i in range(several.L):
            log_p_z = [dist.Normal(several.mean[c, i], 1.0).log_prob(z[0, b, i]) for c in (0, 1)]
            log_p_y = [(1 - several.prior[i]).log(), several.prior[i].log()]
            if y[b, i].isnan():
                joint = [log_p_z[c] + log_p_y[c] for c in (0, 1)]
                if marginal == "exact":
                    bracket = bracket + torch.stack(joint).logsumexp(0)
                else:
                    q = [log_q[c][0, i] for c in (0, 1)]
                    bracket = bracket + sum(q[c].exp() * (joint[c] - q[c]) for c in (0, 1))
            else:
                c = int(y[b, i])
                bracket, prior = bracket + log_p_z[c], prior + log_p_y[c]
                log_q_o = log_q_o + log_q[c][:, i]
        log_q_x = log_q_o[1 : 1 + k].logsumexp(0) - torch.tensor(float(k)).log()
        w = (log_q_o[-1 if detach == "weight" else 0] - log_q_x).exp()
        total.append(w * (bracket - log_q_o[0]) + log_q_x + prior)
    assert_close(sum(terms.values()), torch.stack(total))


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
    torch.manual_seed(0)
    losses.append(-elbo.evaluate(Step(own.model, own.guide, (pixels, K_LABELS), scale=torch.full((6,), 10.0))).total())
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
    terms = TraceCCVAE_ELBO(num_samples=2).weighted_terms(own.model, own.guide, pixels, K_LABELS)
    assert "w log p(pixels,u|k_o)" in terms
    with pytest.raises(ValueError, match="beta: expected 1"):
        TraceCCVAE_ELBO(num_samples=2, beta=2.0).weighted_terms(own.model, own.guide, pixels, K_LABELS)


class Counted(Own):
    """Its network counts its runs, also in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))

    def model(self, pixels, k=None):
        self.runs += 1
        super().model(pixels, k)


def test_to_find_the_parents_draws_nothing_and_leaves_the_module_as_it_was():
    own, pixels = Counted().train(), torch.randn(6, 7)
    before = torch.get_rng_state()
    assert graphs_of(own.model, own.guide, {"pixels": pixels, "k": K_LABELS})["p"]["pixels"] == ("u", "v")
    assert torch.equal(torch.get_rng_state(), before)
    assert own.runs == 0 and own.training
