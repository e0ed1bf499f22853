"""The symmetric KL divergence against closed forms: all that is Gaussian, the density ratio exact."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import MultivariateNormal
from torch import nn
from torch.distributions import kl_divergence
from torch.func import functional_call
from torch.testing import assert_close

from pyro_semivae.distributions import KnownWhere
from pyro_semivae.errors import InputError
from pyro_semivae.infer import DensityRatio, Generate, LatentReconstruction, Step, TraceSymmetricKL_ELBO

D, X = 2, 3  # sizes of z and of x


class Lines(nn.Module):
    """p(z) = N(0, I), p(x|z) = N(a + B z, s^2), q(z|x) = N(c + W x, t^2), and the data's distribution N(m, S)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b, self.s = (
            nn.Parameter(torch.randn(X)),
            nn.Parameter(torch.randn(X, D)),
            nn.Parameter(0.3 * torch.randn(X)),
        )
        self.c, self.w, self.t = (
            nn.Parameter(torch.randn(D)),
            nn.Parameter(0.5 * torch.randn(D, X)),
            nn.Parameter(0.3 * torch.randn(D)),
        )
        root = torch.eye(X) + 0.4 * torch.randn(X, X)
        self.data = MultivariateNormal(torch.randn(X), root @ root.T)

    def x_given(self, z):
        return dist.Normal(self.a + z @ self.b.T, self.s.exp()).to_event(1)

    def z_given(self, x):
        return dist.Normal(self.c + x @ self.w.T, self.t.exp()).to_event(1)

    def model(self, x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", self.x_given(z), obs=x)

    def guide(self, x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.z_given(x))

    def joint_p(self):
        """p(x, z)."""
        cov = torch.cat(
            [
                torch.cat([self.b @ self.b.T + torch.diag((2 * self.s).exp()), self.b], 1),
                torch.cat([self.b.T, torch.eye(D)], 1),
            ]
        )
        return MultivariateNormal(torch.cat([self.a, torch.zeros(D)]), cov)

    def joint_q(self):
        """q(z|x) p_data(x)."""
        m, s = self.data.mean, self.data.covariance_matrix
        cross = s @ self.w.T
        cov = torch.cat(
            [torch.cat([s, cross], 1), torch.cat([cross.T, self.w @ cross + torch.diag((2 * self.t).exp())], 1)]
        )
        return MultivariateNormal(torch.cat([m, self.c + self.w @ m]), cov)

    def divergence(self):
        p, q = self.joint_p(), self.joint_q()
        return kl_divergence(q, p) + kl_divergence(p, q)


class Exact(nn.Module):
    """log q(x, z) - log p(x, z), the pair's parameters as they were."""

    def __init__(self, pair):
        super().__init__()
        self._pair = (pair,)  # no submodule

    def forward(self, x, z):
        pair = self._pair[0]
        fixed = {name: parameter.detach() for name, parameter in pair.named_parameters()}
        return functional_call(_Ratio(pair), {f"pair.{name}": value for name, value in fixed.items()}, (x, z))


class _Ratio(nn.Module):
    def __init__(self, pair):
        super().__init__()
        self.pair = pair

    def forward(self, x, z):
        both = torch.cat([x, z], 1)
        return self.pair.joint_q().log_prob(both) - self.pair.joint_p().log_prob(both)


def mean_gaussian_log_prob(joint, given, out, weight, bias, log_scale):
    """E log N(out | bias + weight given, exp(log_scale)^2) under a Gaussian over both; `given` and `out` are slices."""
    mean, cov = joint.mean, joint.covariance_matrix
    shift = mean[out] - bias - weight @ mean[given]
    spread = (
        cov[out, out] - weight @ cov[given, out] - cov[out, given] @ weight.T + weight @ cov[given, given] @ weight.T
    )
    squared = (shift.square() + spread.diagonal()) * (-2 * log_scale).exp()
    return (-0.5 * squared - log_scale - 0.5 * math.log(2 * math.pi)).sum()


XS, ZS = slice(0, X), slice(X, X + D)


def expected_loss(pair, stop_gradients):
    """What the loss's gradient is that of, in closed form: the divergence, and without the stops the paths again."""
    loss = pair.divergence()
    if not stop_gradients:
        fixed = {name: parameter.detach() for name, parameter in pair.named_parameters()}
        loss = loss - mean_gaussian_log_prob(pair.joint_q(), ZS, XS, fixed["b"], fixed["a"], fixed["s"])
        loss = loss - mean_gaussian_log_prob(pair.joint_p(), XS, ZS, fixed["w"], fixed["c"], fixed["t"])
    return loss


@pytest.mark.parametrize("stop_gradients", [True, False])
def test_with_the_exact_ratio_it_is_the_symmetric_divergence_and_its_gradient(stop_gradients):
    """Ruiz et al., Eqs. 10 to 13; all gradients. Without the stops both paths through samples are counted twice."""
    pair = Lines()
    ratio = DensityRatio("z", net=Exact(pair))
    elbo = TraceSymmetricKL_ELBO(ratio, stop_gradients=stop_gradients)
    parameters = [*pair.parameters()]
    expected = torch.autograd.grad(expected_loss(pair, stop_gradients), parameters)
    torch.manual_seed(0)
    rows, values, gradients = 4000, [], []
    for _ in range(60):
        found = elbo.evaluate(Step(pair.model, pair.guide, (pair.data.sample((rows,)),), scale=1 / rows))
        values.append(-found.contributions()["-J(x,z)"].mean().detach())
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(-found.total(), parameters)]))
    values, gradients = torch.stack(values), torch.stack(gradients)
    divergence = pair.divergence()
    assert abs(values.mean() - divergence) < 5 * values.std() / len(values) ** 0.5 < 0.02 * divergence
    error = gradients.std(0) / len(gradients) ** 0.5
    expected = torch.cat([g.flatten() for g in expected])
    assert (abs(gradients.mean(0) - expected) < 5 * error).all(), (gradients.mean(0) - expected) / error
    other = torch.autograd.grad(expected_loss(pair, not stop_gradients), parameters)
    other = torch.cat([g.flatten() for g in other])
    assert (abs(gradients.mean(0) - other) > 8 * error).any(), "the two versions are told apart"
    assert (error < 0.05 * expected.abs().max()).all()


def test_by_hand():
    """Every term from the same noise, and every gradient, in plain torch."""
    pair, x = Lines(), torch.randn(7, X)
    net = nn.Bilinear(X, D, 1)
    elbo = TraceSymmetricKL_ELBO(
        DensityRatio("z", net=net), adversarial=1.5, reconstruction=0.7, latents=2.5, stop_gradients=True
    )
    torch.manual_seed(5)
    found = elbo.evaluate(Step(pair.model, pair.guide, (x,)))
    torch.manual_seed(5)
    z = pair.z_given(x).rsample()
    z_p = torch.randn(7, D)
    x_p = pair.a + z_p @ pair.b.T + pair.s.exp() * torch.randn(7, X)
    frozen = functional_call(
        net, {k: v.detach() for k, v in net.named_parameters()}, (torch.cat([x_p, x]), torch.cat([z_p, z]))
    )[:, 0]
    terms = {
        "log p(x)": pair.x_given(z.detach()).log_prob(x),
        "-J(x,z)": frozen[:7] - frozen[7:],
        "log q(z|x~)": pair.z_given(x_p.detach()).log_prob(z_p),
    }
    values = {value.name: value.value for value in found.values}
    for name, value in terms.items():
        assert_close(values[name], value)
    assert_close(
        values["log p(z)"] + values["-log q(z)"], dist.Normal(0.0, 1.0).log_prob(z).sum(1) - pair.z_given(x).log_prob(z)
    )
    total = 0.7 * terms["log p(x)"] + 1.5 * terms["-J(x,z)"] + 2.5 * terms["log q(z|x~)"]
    parameters = [*pair.parameters()]
    assert_close(
        torch.autograd.grad(found.total(), parameters, retain_graph=True),
        torch.autograd.grad(total.sum(), parameters, retain_graph=True),
    )
    (loss,) = found.losses.values()
    d_q, d_p = net(x, z.detach())[:, 0], net(x_p.detach(), z_p)[:, 0]
    by_hand = -(d_q.sigmoid().log() + (1 - d_p.sigmoid()).log()).mean()
    assert_close(loss, by_hand)
    assert_close(
        torch.autograd.grad(loss, [*net.parameters()], retain_graph=True),
        torch.autograd.grad(by_hand, [*net.parameters()]),
    )


def test_a_step_of_the_one_leaves_no_gradient_on_the_other():
    pair, net = Lines(), nn.Bilinear(X, D, 1)
    elbo = TraceSymmetricKL_ELBO(DensityRatio("z", net=net, r1=2.0))
    found = elbo.evaluate(Step(pair.model, pair.guide, (torch.randn(7, X),)))
    of_pair, of_net = [*pair.parameters()], [*net.parameters()]
    (loss,) = found.losses.values()
    assert all(g is None for g in torch.autograd.grad(loss, of_pair, retain_graph=True, allow_unused=True))
    assert all(g is None for g in torch.autograd.grad(found.total(), of_net, retain_graph=True, allow_unused=True))
    assert all(g.any() for g in torch.autograd.grad(loss, of_net, retain_graph=True))
    assert all(g.any() for g in torch.autograd.grad(found.total(), of_pair))


def test_the_penalty_is_that_of_the_guides_pairs():
    """R1: gamma / 2 |grad d|^2 by x and z, of the first eighth of the rows; of a bilinear form it is known."""
    pair, net, x = Lines(), nn.Bilinear(X, D, 1), torch.randn(17, X)
    torch.manual_seed(0)
    plain = TraceSymmetricKL_ELBO(DensityRatio("z", net=net)).evaluate(Step(pair.model, pair.guide, (x,)))
    torch.manual_seed(0)
    with_it = TraceSymmetricKL_ELBO(DensityRatio("z", net=net, r1=2.0)).evaluate(Step(pair.model, pair.guide, (x,)))
    torch.manual_seed(0)
    z = pair.z_given(x).sample()[:3]
    (m,) = net.weight  # (X, D)
    squared = ((z @ m.T) ** 2).sum(1) + ((x[:3] @ m) ** 2).sum(1)
    ((one,), (other,)) = plain.losses.values(), with_it.losses.values()
    assert_close(other - one, squared.mean())


def test_the_mean_is_generated_where_it_is_asked_for():
    pair, x = Lines(), torch.randn(7, X)
    seen = []

    class Net(nn.Module):
        def forward(self, x, z):
            seen.append((x, z))
            return x.sum(1)

    step = Step(pair.model, pair.guide, (x,))
    elbo = TraceSymmetricKL_ELBO(DensityRatio("z", net=Net(), generate=Generate(mean=True)))
    elbo.evaluate(step)
    generated = next((a, z) for a, z in seen if not torch.equal(a, x))
    assert_close(generated[0], pair.a + generated[1] @ pair.b.T)


def test_what_is_wrong_is_said():
    net = nn.Bilinear(X, D, 1)
    with pytest.raises(InputError, match="expected one DensityRatio or more, with one `generate`"):
        TraceSymmetricKL_ELBO()
    with pytest.raises(InputError, match="with one `generate`"):
        TraceSymmetricKL_ELBO(DensityRatio("z", net=net), DensityRatio("z", net=net, generate=Generate(mean=True)))
    with pytest.raises(InputError, match=r"DensityRatio: got \['w'\]; expected latents, z"):
        pair = Lines()
        TraceSymmetricKL_ELBO(DensityRatio("w", net=net)).evaluate(Step(pair.model, pair.guide, (torch.randn(7, X),)))
    with pytest.raises(InputError, match="net: got 3; expected a module"):
        DensityRatio("z", net=3)
    with pytest.raises(InputError, match=r"crossed: got 0\.5 without"):
        Generate(crossed=0.5)
    assert LatentReconstruction().is_same(LatentReconstruction())


class Reference(nn.Module):
    """Rows whose e is known: z ~ N(0, 1), x ~ N(z + e_r, 1), q(z|x) = N(w x, t^2), the data N(m, s^2)."""

    M, S = 1.3, 0.8

    def __init__(self):
        super().__init__()
        self.e_r = nn.Parameter(torch.tensor([0.2]))
        self.w, self.t = nn.Parameter(torch.tensor(0.4)), nn.Parameter(torch.tensor(0.7))

    def known(self, number):
        base = dist.Normal(torch.zeros(number, 1), 1.0).to_event(1)
        return KnownWhere(base, torch.ones(number, dtype=torch.bool), self.e_r)

    def model(self, x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            e = pyro.sample("e", self.known(len(x)))
            pyro.sample("x", dist.Normal(z + e, 1.0).to_event(1), obs=x)

    def guide(self, x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.w * x, self.t).to_event(1))
            pyro.sample("e", self.known(len(x)))

    def joint_q(self):
        m, s = torch.tensor(self.M), torch.tensor(self.S)
        cov = torch.stack(
            [torch.stack([s**2, self.w * s**2]), torch.stack([self.w * s**2, (self.w * s) ** 2 + self.t**2])]
        )
        return MultivariateNormal(torch.stack([m, self.w * m]), cov)

    def joint_p(self):
        mean = torch.cat([self.e_r, torch.zeros(1)])
        return MultivariateNormal(mean, torch.tensor([[2.0, 1.0], [1.0, 1.0]]))


def test_a_vector_that_the_model_knows_is_its_parameter_and_has_the_divergences_gradient():
    """Ruiz et al.'s e_r, through log p(x|z,e_r) and through what is generated; the guide's copy of it adds nothing."""
    pair = Reference()
    elbo = TraceSymmetricKL_ELBO(DensityRatio("z", net=Exact(pair)))
    p, q = pair.joint_p(), pair.joint_q()
    parameters = [*pair.parameters()]
    expected = torch.autograd.grad(kl_divergence(q, p) + kl_divergence(p, q), parameters)
    torch.manual_seed(0)
    rows, gradients = 5000, []
    for _ in range(60):
        x = pair.M + pair.S * torch.randn(rows, 1)
        found = elbo.evaluate(Step(pair.model, pair.guide, (x,), scale=1 / rows))
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(-found.total(), parameters)]))
    gradients, expected = torch.stack(gradients), torch.cat([g.flatten() for g in expected])
    error = gradients.std(0) / len(gradients) ** 0.5
    assert (abs(gradients.mean(0) - expected) < 5 * error).all() and (error < 0.03 * expected.abs()).all()
