"""Graphs before they are compiled."""

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_semivae.infer.inductor import channels_last, merged, out_of_place, prepared

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


def in_place(graph) -> int:
    return sum(node.op == "call_function" and node.is_impure() for node in graph.graph.nodes)


def test_new_tensors_are_not_changed_in_place():
    """The gradient of `lerp` in its weight's own gradient, an activation in place, and dropout; not what others see."""
    w = torch.rand(3, 3, requires_grad=True)

    def fn(x: Tensor, w: Tensor) -> list[Tensor]:
        y = torch.nn.functional.relu_(x @ w).lerp(w.exp(), w).sum()
        return [y, *torch.autograd.grad(y, [w])]

    graph, x = make_fx(fn)(torch.rand(3, 3), w), torch.rand(3, 3)
    expected = graph(x, w.detach())
    assert in_place(graph) >= 3
    torch.testing.assert_close(out_of_place(graph)(x, w.detach()), expected, rtol=0, atol=0)
    assert not in_place(graph)

    def dropped(x: Tensor) -> Tensor:
        return torch.nn.functional.dropout(x, 0.5) * 2

    graph = out_of_place(make_fx(dropped)(x))
    assert not any(str(node.target).startswith("aten.div_") for node in graph.graph.nodes)
    for seed in range(2):
        torch.manual_seed(seed)
        expected = dropped(x)
        torch.manual_seed(seed)
        assert torch.equal(graph(x), expected)

    def seen(x: Tensor) -> Tensor:
        y = x.exp()
        z = y[0]
        y.add_(1)
        return z + x.add_(1).sum()

    graph, given = out_of_place(make_fx(seen)(x.clone())), x.clone()
    assert in_place(graph) == 2
    torch.testing.assert_close(graph(given), x[0].exp() + 1 + (x + 1).sum())
    torch.testing.assert_close(given, x + 1)


def test_what_changes_inputs_is_compiled_as_it_is():
    graph = make_fx(lambda x: (x.add_(1) @ x, x @ x)[1])(torch.eye(2))
    assert prepared(graph, [torch.eye(2)]) is graph


def test_convolutions_keep_channels_last_and_gradients_have_the_usual_layout():
    """Two convolutions, one transposed, with a view between them."""
    x, w, v = (
        torch.rand(2, 3, 6, 6),
        torch.rand(4, 3, 3, 3, requires_grad=True),
        torch.rand(4, 2, 3, 3, requires_grad=True),
    )

    def gradients(x: Tensor, w: Tensor, v: Tensor) -> list[Tensor]:
        h = torch.conv2d(x, w).relu().flatten(1).sin().view(2, 4, 4, 4)
        y = torch.nn.functional.conv_transpose2d(h, v).square().sum()
        return [y, *torch.autograd.grad(y, [w, v])]

    expected = [value.detach() for value in gradients(x, w, v)]
    graph = channels_last(make_fx(gradients)(x, w, v), [x, w, v])
    found = graph(x, w.detach(), v.detach())
    torch.testing.assert_close(list(found), expected)
    assert all(value.is_contiguous() for value in found)
    of_convolutions = [node for node in graph.graph.nodes if node.target == aten.convolution.default]
    assert len(of_convolutions) == 2
    for node in of_convolutions:
        layouts = [
            value.meta["val"].is_contiguous(memory_format=torch.channels_last) for value in (node, *node.args[:2])
        ]
        assert all(layouts)


def test_what_has_no_images_stays_as_it_is():
    for fn in (
        lambda x: x @ x,
        lambda x: torch.conv1d(x[None], x[None]),
        lambda x: torch.conv2d(x[None, None], x[None, None]).add_(1),
    ):
        graph = make_fx(fn)(torch.rand(4, 4))
        assert channels_last(graph, [torch.rand(4, 4)]) is graph


def same_in_place(fn, *inputs: Tensor) -> None:
    """What a function returns, and what it does to its inputs, is the same after `out_of_place`."""
    graph = out_of_place(make_fx(fn)(*(value.clone() for value in inputs)))
    mine, theirs = ([value.clone() for value in inputs] for _ in "ab")
    torch.testing.assert_close(graph(*mine), fn(*theirs), rtol=0, atol=0)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    "fn",
    [
        lambda b, x: (b.mul_(0.9).add_(x.mean(0)), b.sum())[1],
        lambda b, x: b.sub(0.2).gt_(0.5) + b.exp().mul_(x[0].float()),
        lambda b, x: x.exp().float().mul_(x).sin(),
        lambda b, x: (x > 0.5).logical_and_(x < 0.7),
        lambda b, x: ((x * 9).int() + 1) << 1,
        lambda b, x: torch.stack(torch._foreach_mul([x, x + 1], 2.0)),
        lambda b, x: x[0].mul_(2).add_(1) + b,
    ],
)
def test_changes_in_place_of_many_kinds(fn):
    same_in_place(fn, torch.rand(3), torch.rand(3, 3))


def test_new_random_numbers_may_be_changed():
    graph = out_of_place(make_fx(lambda x: x + torch.rand(3).mul_(2) + torch.randperm(3).add_(2))(torch.rand(3)))
    assert not any(str(node.target).startswith(("aten.mul_", "aten.add_")) for node in graph.graph.nodes)


def test_running_statistics_are_changes_in_place():
    def fn(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        for rows in (x[3:], x[:3]):
            total = torch.nn.functional.batch_norm(rows, mean, variance, training=True).sum()
        return total

    x, mean, variance = torch.rand(7, 3), torch.zeros(3), torch.ones(3)
    graph = make_fx(fn)(x, mean.clone(), variance.clone())
    assert prepared(graph, [x, mean, variance]) is graph
    graph = make_fx(lambda x: torch.nn.functional.layer_norm(x, (3,)))(x)
    assert prepared(graph, [x]) is not graph
