"""Two labels, one below the other, and the bound of a model of them by a loop over their values."""

import itertools

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyro_semivae.spaces import MISSING

A, B, D, E = 3, 4, 2, 5  # values of the labels, sizes of z and x
ENUMERATE = {"enumerate": "parallel"}
FIRST = torch.tensor([2, MISSING, 0, MISSING, 1, MISSING])
SECOND = torch.tensor([1, 3, MISSING, MISSING, MISSING, 0])
X = torch.linspace(-1, 1, len(FIRST) * E, dtype=torch.float64).reshape(-1, E)


class Chain(nn.Module):
    """p(a) p(b | a) p(z | b) p(x | a, b, z), q(a | x) q(b | x, a) q(z | x, a, b), all of them tables and lines."""

    def __init__(self):
        super().__init__()
        self.p_a, self.p_b = nn.Parameter(torch.randn(A)), nn.Parameter(torch.randn(A, B))
        self.p_z, self.p_x = nn.Parameter(torch.randn(B, D)), nn.Parameter(torch.randn(A, B, E))
        self.out = nn.Parameter(torch.randn(D, E))
        self.q_a, self.q_b = nn.Linear(E, A), nn.Parameter(torch.randn(A, E, B))
        self.q_z, self.shift = nn.Linear(E, D), nn.Parameter(torch.randn(A, B, D))

    def x_given(self, a, b, z):
        return dist.Normal(self.p_x[a, b] + z @ self.out, 1.0).to_event(1)

    def b_given(self, x, a):
        return dist.Categorical(logits=(x.unsqueeze(-2) @ self.q_b[a]).squeeze(-2))

    def z_given(self, x, a, b):
        return dist.Normal(self.q_z(x) + self.shift[a, b], 0.7).to_event(1)

    def model(self, x, a=None, b=None):
        pyro.module("chain", self)
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(logits=self.p_a), obs=a, infer=ENUMERATE)
            b = pyro.sample("b", dist.Categorical(logits=self.p_b[a]), obs=b, infer=ENUMERATE)
            z = pyro.sample("z", dist.Normal(self.p_z[b], 1.0).to_event(1))
            pyro.sample("x", self.x_given(a, b, z), obs=x)

    def guide(self, x, a=None, b=None):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(logits=self.q_a(x)), obs=a, infer=ENUMERATE)
            b = pyro.sample("b", self.b_given(x, a), obs=b, infer=ENUMERATE)
            pyro.sample("z", self.z_given(x, a, b))

    def by_hand(self, noise, alpha, beta):
        """The bound of each row, its missing labels by a loop; and log q of what is observed, times alpha."""
        out = []
        for i, x in enumerate(X):
            log_q_a = self.q_a(x).log_softmax(-1)
            values_a = [FIRST[i]] if FIRST[i] >= 0 else list(torch.arange(A))
            values_b = [SECOND[i]] if SECOND[i] >= 0 else list(torch.arange(B))
            total, known = 0.0, []
            for a, b in itertools.product(values_a, values_b):
                log_q_b = self.b_given(x, a).log_prob(b)
                q_z = self.z_given(x, a, b)
                z = q_z.base_dist.loc + 0.7 * noise[i]
                log_p_z = dist.Normal(self.p_z[b], 1.0).to_event(1).log_prob(z)
                inside = self.x_given(a, b, z).log_prob(x) + beta * (log_p_z - q_z.log_prob(z))
                log_q = 0.0
                for observed, log_p, log_q_y in (
                    (FIRST[i], self.p_a.log_softmax(-1)[a], log_q_a[a]),
                    (SECOND[i], self.p_b[a].log_softmax(-1)[b], log_q_b),
                ):
                    missing = observed < 0
                    inside = inside + (beta if missing else 1.0) * log_p - (beta * log_q_y if missing else 0.0)
                    log_q = log_q + (log_q_y if missing else 0.0)
                total = total + log_q.exp() * inside if isinstance(log_q, torch.Tensor) else total + inside
                known.append(log_q_a[a] + log_q_b)
            anything = FIRST[i] >= 0 or SECOND[i] >= 0
            out.append(total + (alpha * torch.stack(known).logsumexp(0) if anything else 0.0))
        return torch.stack(out)
