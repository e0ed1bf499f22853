"""Graphs before they are compiled."""

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_semivae.infer.inductor import merged

aten = torch.ops.aten


def count(graph, target) -> int:
    return sum(node.target == target for node in graph.graph.nodes)


def test_what_is_computed_twice_is_computed_once_and_outputs_stay_apart():
    def twice(x: Tensor, w: Tensor) -> list[Tensor]:
        """Gradients of two losses of the same product, one of which stops at x."""
        first, second = (x @ w).sin(), (x.detach() @ w).sin()
        return [
            *torch.autograd.grad(first.sum(), [x, w], retain_graph=True),
            *torch.autograd.grad(second.sum(), [w]),
            w,
        ]

    x, w = (torch.rand(3, 3, requires_grad=True) for _ in "xw")
    graph = make_fx(twice)(x, w)
    expected = [value.detach().clone() for value in graph(x, w)]
    once = merged(make_fx(twice)(x, w))
    assert count(graph, aten.mm.default) == 5 and count(once, aten.mm.default) == 4
    found = once(x.detach(), w.detach())
    torch.testing.assert_close(list(found), expected, rtol=0, atol=0)
    found[1].zero_()
    torch.testing.assert_close(found[2], expected[2])
    found[3].zero_()
    assert w.detach().all(), "an input that is returned is a copy"


def test_a_graph_that_changes_tensors_in_place_stays_as_it_is():
    graph = make_fx(lambda x: (x @ x, x.add_(1), x @ x)[2])(torch.eye(2))
    assert merged(graph) is graph
    torch.testing.assert_close(graph(torch.eye(2)), torch.tensor([[5.0, 4.0], [4.0, 5.0]]))
