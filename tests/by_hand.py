"""What tests by hand share: a network's layers on vectors, and the comparison of a bound with its formula."""

import torch
from torch.testing import assert_close


def through(net, *vectors):
    """The layers of an `MLP` on the concatenation of its parents as vectors, `(..., B, size_i)`."""
    batch = torch.broadcast_shapes(*(vector.shape[:-1] for vector in vectors))
    return net.layers(torch.cat([vector.expand(*batch, vector.shape[-1]) for vector in vectors], -1))


def assert_equal_with_gradients(ours, expected, module):
    """Two totals are equal in value and in the gradient of every parameter, of which none is 0."""
    assert_close(ours, expected)
    gradients = [
        torch.autograd.grad(total.sum(), [*module.parameters()], retain_graph=True) for total in (ours, expected)
    ]
    for (name, _), one, other in zip(module.named_parameters(), *gradients, strict=True):
        assert one.any(), name
        assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")
