"""Several labels that depend on each other: the joint sum over the missing ones against a loop over their values."""

import itertools
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import assert_equal_with_gradients
from chain import ENUMERATE, FIRST, SECOND, Chain, D, X
from torch import nn
from torch.testing import assert_close

from pyro_semivae import SemiVAE, tasks
from pyro_semivae.conditionals import BernoulliLikelihood, Gaussian, Label, LabelPrior
from pyro_semivae.errors import InputError
from pyro_semivae.infer import ClassifierTerm, TraceLabels_ELBO
from pyro_semivae.infer.graph import same_term
from pyro_semivae.models import M2
from pyro_semivae.nn import MLP, MLPs
from pyro_semivae.spaces import MISSING, Binary, Classes, Images


class Noise(pyro.poutine.messenger.Messenger):
    """Gives z the same noise whatever the labels are."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg):
        if msg["name"] == "z" and not msg["done"] and msg["value"] is None:
            msg["value"], msg["done"] = msg["fn"].base_dist.loc + 0.7 * self.noise, True


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_two_labels_that_depend_on_each_other_are_summed_jointly(beta):
    """Values and every gradient, with labels missing in all four ways."""
    chain, noise = Chain(), torch.randn(len(X), D)
    elbo = TraceLabels_ELBO(beta=beta) + 3.0 * ClassifierTerm()
    terms = elbo.weighted_terms(chain.model, Noise(noise)(chain.guide), X, FIRST, SECOND)
    names = "log p(x) log p(z) -log q(z) log p(a) -log q(a_m) log p(b) -log q(b_m) log q(a_o,b_o)"
    assert all(same_term(*pair) for pair in zip(terms, re.split(r" (?=-?log)", names), strict=True))
    total, expected = sum(terms.values()), chain.by_hand(noise, 3.0, beta)
    assert_equal_with_gradients(total, expected, chain)


def test_labels_that_are_independent_in_the_guide_have_classifiers_of_their_own():
    chain = Chain()
    with torch.no_grad():
        chain.q_b[:] = chain.q_b[:1]  # q(b | x, a) is the same for all a, but the graph still has the edge
    terms = (TraceLabels_ELBO() + ClassifierTerm()).weighted_terms(chain.model, chain.guide, X, FIRST, SECOND)
    log_q_a = chain.q_a(X).log_softmax(-1)
    log_q_b = (X @ chain.q_b[0]).log_softmax(-1)
    expected = torch.zeros(len(X))
    for i in range(len(X)):
        expected[i] += (log_q_a[i, FIRST[i]] if FIRST[i] >= 0 else 0) + (log_q_b[i, SECOND[i]] if SECOND[i] >= 0 else 0)
    assert_close(terms["log q(a_o,b_o)"], expected)


def test_too_many_terms_are_refused_by_name():
    chain = Chain()
    with pytest.raises(InputError, match=r"max_terms: got 11, and site 'x' .* 12 values of the labels \['a', 'b'\]"):
        TraceLabels_ELBO(max_terms=11).weighted_terms(chain.model, chain.guide, X, FIRST, SECOND)
    TraceLabels_ELBO(max_terms=12).weighted_terms(chain.model, chain.guide, X, FIRST, SECOND)


def test_a_site_below_all_entries_of_a_label_is_refused():
    vae = M2((1, 2, 3), Binary(4), z=5, networks=MLPs((7,)))
    y = torch.tensor([1.0, 0.0, torch.nan]).repeat(3)[:, None].expand(9, 4)
    elbo = TraceLabels_ELBO(max_plate_nesting=2)
    with pytest.raises(ValueError, match="would need 2"):
        elbo.weighted_terms(vae.model, vae.guide, torch.rand(9, 1, 2, 3), y)


class ByEachValue(nn.Module):
    """p(x | y) whose mean is y, a value of an enumerated label, whichever the entry."""

    def forward(self, y, z):
        return dist.Normal(y[..., None, None, None].expand(*y.shape, 1, 2, 3), 1.0).to_event(3)


def test_a_site_that_takes_one_value_for_all_entries_is_refused():
    vae = M2((1, 2, 3), Binary(4), z=5, networks=MLPs((7,)))
    vae.p_x, vae.q_z = ByEachValue(), Gaussian(MLP([(1, 2, 3)], [], (10,)))
    vae.q_z.forward = lambda x, y, forward=vae.q_z.forward: forward(x)
    elbo = TraceLabels_ELBO(max_plate_nesting=2)
    with pytest.raises(InputError, match="'x' depends on all the labels 'y' at once"):
        elbo.weighted_terms(vae.model, vae.guide, torch.rand(9, 1, 2, 3), torch.full((9, 4), torch.nan))


class OneEntry(SemiVAE):
    """p(tame) p(kind) p(x | tame, kind), q(tame | x) q(kind | x, tame): `tame` is a binary label of one entry."""

    states_graph = False

    def __init__(self):
        x, tame, kind = Images(1, 4, 4), Binary(1), Classes(3)
        super().__init__(x=x, tame=tame, kind=kind)
        self.p_tame, self.p_kind = (
            LabelPrior(tame, torch.tensor([0.3])),
            LabelPrior(kind, torch.tensor([0.2, 0.3, 0.5])),
        )
        self.p_x = BernoulliLikelihood(x, MLP([tame, kind], [], x.shape))
        self.q_tame, self.q_kind = Label(tame, MLP([x.shape], [], (1,))), Label(kind, MLP([x.shape, tame], [], (3,)))

    def sample(self, p_tame, p_kind, tame, kind, x=None):
        with self.entries("tame"):
            tame = pyro.sample("tame", p_tame(*([] if x is None else [x])), obs=tame, infer=ENUMERATE)
        return tame, pyro.sample("kind", p_kind(*([] if x is None else [x, tame])), obs=kind, infer=ENUMERATE)

    def model(self, x=None, tame=None, kind=None):
        self.register()
        with self.rows(x, tame, kind) as (x, tame, kind):
            return pyro.sample("x", self.p_x(*self.sample(self.p_tame, self.p_kind, tame, kind)), obs=x)

    def guide(self, x=None, tame=None, kind=None):
        with self.rows(x, tame, kind) as (x, tame, kind):
            self.sample(self.q_tame, self.q_kind, tame, kind, x)

    def elbo(self, **options):
        return TraceLabels_ELBO(max_plate_nesting=self.max_plate_nesting, **options)


def test_a_binary_label_of_one_entry_is_summed_below_sites_outside_of_its_plate():
    """As a class label of two values is: a column of 0, 1 and blanks is such a label."""
    vae, x, nan = OneEntry(), torch.rand(4, 1, 4, 4), torch.nan
    tame, kind = torch.tensor([1.0, nan, nan, 0.0]), torch.tensor([2, MISSING, 1, MISSING])
    terms = vae.elbo().terms(vae.model, vae.guide, x, tame[:, None], kind)
    found = sum(term for name, term in terms.items() if not name.startswith("log q("))
    probs = tasks.classify(vae, {"x": x})
    for row in range(4):
        image, expected, of_kind = x[row, None, None], 0.0, torch.zeros(3)
        for t, k in itertools.product((0.0, 1.0), range(3)):
            t_, k_ = torch.tensor([[t]]), torch.tensor([[k]])
            q_t, q_k = (q.log_prob(y) for q, y in ((vae.q_tame(image), t_), (vae.q_kind(image, t_), k_)))
            of_kind[k] += (q_t + q_k).exp().item()
            if (tame[row].isnan() or tame[row] == t) and kind[row] in (MISSING, k):
                q = (q_t if tame[row].isnan() else 0) + (q_k if kind[row] == MISSING else 0)
                p = vae.p_tame().log_prob(t_) + vae.p_kind().log_prob(k_) + vae.p_x(t_, k_).log_prob(image)
                expected += (torch.as_tensor(q).exp() * (p - q)).item()
        assert found[row].item() == pytest.approx(expected)
        assert_close(probs["kind"][row], of_kind)
        assert_close(probs["tame"][row], vae.q_tame(image).probs[0])
