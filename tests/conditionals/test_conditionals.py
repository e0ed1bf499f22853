import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from pyro_semivae.conditionals import (
    BayesLabel,
    BernoulliLikelihood,
    Gaussian,
    Label,
    LabelPrior,
    SplitGaussian,
    StandardNormal,
)
from pyro_semivae.distributions import GreyBernoulli
from pyro_semivae.nn import MLP, positive
from pyro_semivae.spaces import Classes, Images


def test_conditionals_broadcast_on_the_left():
    x, z = torch.rand(6, 1, 4, 7), torch.rand(3, 1, 2)
    assert Gaussian(MLP([(1, 4, 7)], [5], (4,)))(x).batch_shape == (6,)
    both = BernoulliLikelihood(Images(1, 4, 7), MLP([(2,), (1, 4, 7)], [5], (1, 4, 7)))(z, x)
    assert both.batch_shape == (3, 6) and both.event_shape == (1, 4, 7)
    one, two = SplitGaussian(MLP([(2,)], [5], (2 * 7,)), (3, 4))(z)
    assert one.shape() == (3, 1, 3) and two.shape() == (3, 1, 4)
    assert Label(Classes(9), MLP([(2,)], [5], (9,)))(z).shape() == (3, 1)


def test_a_split_gaussian_has_the_densities_of_one_gaussian():
    net, x = MLP([(4,)], [], (2 * 5,)), torch.rand(6, 4)
    parts = SplitGaussian(net, (2, 0, 3))(x)
    z = torch.randn(6, 5)
    total = sum(q.log_prob(part) for q, part in zip(parts, z.split((2, 0, 3), -1), strict=True))
    assert_close(total, Gaussian(net)(x).log_prob(z))
    assert_close(parts[1].log_prob(z[:, :0]), torch.zeros(6))


def test_scales_are_softplus_plus_the_floor():
    raw = torch.linspace(-50, 50, 11)
    assert_close(positive(raw), F.softplus(raw) + 1e-3)
    q = Gaussian(nn.Identity())(torch.cat([torch.zeros(3), torch.full((3,), -800.0)]))
    assert_close(q.base_dist.scale, torch.full((3,), 1e-3))


def test_bayes_rule():
    p_z = Gaussian(MLP([Classes(3)], [4], (4,)))
    prior = torch.tensor([0.2, 0.5, 0.3])
    classifier = BayesLabel(p_z, LabelPrior(Classes(3), prior))
    z = torch.randn(7, 6, 2)
    joint = torch.stack([p_z(torch.tensor(c)).log_prob(z).exp() * prior[c] for c in range(3)], -1)
    assert_close(classifier(z).probs, joint / joint.sum(-1, keepdim=True))
    assert not list(classifier.parameters()) and len(list(nn.ModuleList([p_z, classifier]).parameters())) == 4


def test_grey_bernoulli_is_the_cross_entropy_on_its_support_only():
    logits, x = torch.randn(5, 3), torch.rand(5, 3)
    fn = GreyBernoulli(logits=logits)
    assert_close(fn.log_prob(x), -F.binary_cross_entropy(logits.sigmoid(), x, reduction="none"))
    assert_close(fn.log_prob(x.round()), torch.distributions.Bernoulli(logits=logits).log_prob(x.round()))
    assert_close(fn.expand((2, 5, 3)).log_prob(x), fn.log_prob(x).expand(2, 5, 3))
    for bad in (1.01, -0.01, float("nan")):
        with pytest.raises(ValueError, match="support"):
            fn.log_prob(torch.full((5, 3), bad))
    assert set(fn.sample().unique().tolist()) <= {0.0, 1.0}


def test_constants_follow_the_module():
    prior = StandardNormal(3).to(torch.float32)
    assert prior().sample().dtype == torch.float32
    assert not StandardNormal(3).state_dict() and set(LabelPrior(Classes(2)).state_dict()) == {"logits"}


@pytest.mark.parametrize("hidden", [(), (6,)])
def test_a_large_parent_is_not_repeated_for_each_value_of_a_small_one(hidden):
    """An image beside its enumerated labels: the first layer sees it once, and the result is the same."""
    net, x, y, seen = MLP([(1, 8, 9), (4,)], hidden, (3,)), torch.rand(7, 1, 8, 9), torch.eye(4)[:, None], []
    expected = net.layers(torch.cat([x.flatten(1).expand(4, 7, 72), y.expand(4, 7, 4)], -1))
    net.layers[0].register_forward_hook(lambda *_: seen.append(1))
    assert_close(net(x, y), expected)
    assert not seen  # the layer was not asked for the product of the concatenation
    assert_close(net(x, y.expand(4, 7, 4).contiguous()), expected)


def test_mlp_names_a_wrong_shape():
    net = MLP([(2,), (1, 4, 7)], [5], (3,))
    with pytest.raises(ValueError, match=r"parent 1: expected a shape ending in \(1, 4, 7\), got \(6, 28\)"):
        net(torch.rand(6, 2), torch.rand(6, 28))
    with pytest.raises(ValueError, match="takes 2 parents"):
        net(torch.rand(6, 2))
