"""Pyro code that people have: guides that sample a label only where it is missing, one-hot labels, plain pairs."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import nn
from torch.testing import assert_close

from pyro_semivae import Pair, show, tasks
from pyro_semivae.check import check_model
from pyro_semivae.infer import ClassifierTerm, TraceLabels_ELBO
from pyro_semivae.spaces import MISSING, Classes, Vectors
from pyro_semivae.train import fit

C, D, E = 4, 2, 5
ENUMERATE = {"enumerate": "parallel"}
Y = torch.tensor([2, MISSING, 0, 3, MISSING, 1, MISSING])
X = torch.linspace(-1, 1, len(Y) * E, dtype=torch.float64).reshape(-1, E)


class Written(nn.Module):
    """M2 as people write it in Pyro: one-hot labels, which the guide samples where they are not given."""

    def __init__(self):
        super().__init__()
        self.q_y, self.q_z, self.p_x = nn.Linear(E, C), nn.Linear(E + C, 2 * D), nn.Linear(D + C, E)

    def model(self, xs, ys=None):
        pyro.module("written", self)
        with pyro.plate("minibatch", len(xs)):
            zs = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            ys = pyro.sample("y", dist.OneHotCategorical(torch.ones(C) / C), obs=ys)
            loc = self.p_x(torch.cat(_joined(zs, ys), -1))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=xs)

    def guide(self, xs, ys=None):
        with pyro.plate("minibatch", len(xs)):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(logits=self.q_y(xs)))
            loc, raw = self.q_z(torch.cat(_joined(xs, ys), -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


def _joined(*parents):
    batch = torch.broadcast_shapes(*(parent.shape[:-1] for parent in parents))
    return [parent.expand(*batch, parent.shape[-1]) for parent in parents]


class SameNoise(poutine.messenger.Messenger):
    """z from the same noise, whatever enumerates the labels before it."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg):
        if msg["name"] == "z" and msg["value"] is None and not msg["done"]:
            base = msg["fn"].base_dist
            msg["value"], msg["done"] = base.loc + base.scale * self.noise, True


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
@pytest.mark.parametrize("known", [False, True])
def test_a_guide_that_samples_labels_where_they_are_missing_equals_pyros_objective(known):
    """Pyro's semi-supervised VAE, enumerated by `config_enumerate`: loss and gradients."""
    written, rows = Written(), slice(0, 3) if known else slice(3, None)
    x, y = X[rows], torch.eye(C)[Y[rows].clamp(min=0)] if known else None
    guide = SameNoise(torch.randn(len(x), D))(config_enumerate(written.guide, "parallel", expand=True))
    losses = [
        elbo.differentiable_loss(written.model, guide, x, y)
        for elbo in (TraceLabels_ELBO(), TraceEnum_ELBO(max_plate_nesting=1))
    ]
    assert_close(*losses)
    used = [p for name, p in written.named_parameters() if not (known and name.startswith("q_y"))]
    assert_close(*(torch.autograd.grad(loss, used) for loss in losses))


class OneHot(nn.Module):
    """The same graph, for one-hot labels that the guide observes, some rows of NaN, and for class labels."""

    def __init__(self, one_hot):
        super().__init__()
        self.one_hot = one_hot
        self.q_y, self.q_z, self.p_x = nn.Linear(E, C), nn.Linear(E + C, 2 * D), nn.Linear(D + C, E)

    def label(self, logits):
        return dist.OneHotCategorical(logits=logits) if self.one_hot else dist.Categorical(logits=logits)

    def code(self, y):
        return y if self.one_hot else torch.eye(C)[y]

    def model(self, x=None, y=None):
        with pyro.plate("minibatch", len(y if x is None else x)):
            y = pyro.sample("y", self.label(torch.arange(C) / 3), obs=y, infer=ENUMERATE)
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            loc = self.p_x(torch.cat(_joined(z, self.code(y)), -1))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("minibatch", len(x)):
            y = pyro.sample("y", self.label(self.q_y(x)), obs=y, infer=ENUMERATE)
            loc, raw = self.q_z(torch.cat(_joined(x, self.code(y)), -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


@pytest.mark.parametrize("missing_labels", ["enumerate", "reinforce"])
def test_one_hot_labels_are_class_labels(missing_labels):
    found, noise = [], torch.randn(len(X), D)
    for one_hot in (False, True):
        torch.manual_seed(0)
        pair = OneHot(one_hot)
        y = torch.eye(C)[Y.clamp(min=0)].where((Y >= 0)[:, None], torch.nan) if one_hot else Y
        elbo = TraceLabels_ELBO(missing_labels=missing_labels, beta=1.5) + 3.0 * ClassifierTerm()
        torch.manual_seed(1)
        terms = elbo.weighted_terms(pair.model, SameNoise(noise)(pair.guide), X, y)
        found.append([*terms.values(), *torch.autograd.grad(sum(terms.values()).sum(), [*pair.parameters()])])
    assert_close(*found)


def test_a_plain_pair_is_trained_checked_and_asked(tmp_path):
    torch.manual_seed(0)
    pair = OneHot(False)
    vae = Pair(pair.model, pair.guide, x=Vectors(E), y=Classes(C))
    check_model(vae, X, Y)
    assert not show(vae, rows={"x": X, "y": Y}, path=tmp_path / "graph.png").why_not
    before = pair.q_y.weight.clone()
    history = fit(vae, X, Y, epochs=3, batch_size=4, progress=False, checkpoint=tmp_path / "checkpoint.pt")
    assert len(history) == 3 and not torch.equal(pair.q_y.weight, before)
    assert_close(tasks.classify(vae, X), pair.q_y(X).softmax(-1).detach())
    assert tasks.generate(vae, torch.tensor([0, 3]), 2).shape == (2, 2, E)
    assert tasks.intervene(vae, X, torch.full((len(X),), 1)).shape == (1, len(X), E)
    assert tasks.swap(vae, X, X.flip(0)).shape == X.shape
    with pytest.raises(ValueError, match="modules: got none"):
        Pair(lambda x, y: None, lambda x, y: None, x=Vectors(E), y=Classes(C))
