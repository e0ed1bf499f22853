"""Graphs split at their random operations."""

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_semivae.infer.random_ops import compiled_between


def dropped(x: Tensor, w: Tensor) -> Tensor:
    y = torch.nn.functional.dropout(x @ w, 0.5)
    y = torch.nn.functional.dropout((y + torch.randn_like(y)).relu(), 0.25)
    return y.sigmoid().bernoulli() + y + torch.rand_like(y)


def rows_of(x: Tensor, w: Tensor) -> Tensor:
    p = (x @ w).softmax(-1)
    return p + torch.nn.functional.dropout(torch.randn(3, 5) + p.multinomial(1), 0.5)


@pytest.mark.parametrize(("fn", "parts"), [(dropped, 2), (rows_of, 2)])
def test_the_order_of_random_numbers_and_what_is_compiled(fn, parts):
    """Dropout's and `randn_like`'s samples need only a shape; `bernoulli` and `multinomial` cut the graph."""
    x, w = torch.rand(3, 4), torch.rand(4, 5)
    compiled = []
    run = compiled_between(make_fx(fn)(x, w), lambda part: compiled.append(part) or part)
    assert len(compiled) == parts
    tags = [getattr(node.target, "tags", ()) for part in compiled for node in part.graph.nodes]
    assert not any(torch.Tag.nondeterministic_seeded in of_node for of_node in tags)
    for seed in range(3):
        torch.manual_seed(seed)
        expected = fn(x, w)
        torch.manual_seed(seed)
        assert torch.equal(run(x, w), expected)


def test_what_no_random_operation_needs_is_compiled_with_what_comes_last():
    def fn(x: Tensor, w: Tensor) -> Tensor:
        early, p = (x @ w).sin(), x.mean(1).softmax(0)
        rows = p.multinomial(2)
        return early[rows] + (x @ w)[rows]

    x, w, compiled = torch.rand(3, 4), torch.rand(4, 5), []
    run = compiled_between(make_fx(fn)(x, w), lambda part: compiled.append(part) or part)
    products = [sum(node.target == torch.ops.aten.mm.default for node in part.graph.nodes) for part in compiled]
    assert products == [0, 2]
    torch.manual_seed(1)
    expected = fn(x, w)
    torch.manual_seed(1)
    assert torch.equal(run(x, w), expected)


def scaled(x: Tensor, w: Tensor) -> Tensor:
    total = x.sum(1)
    x.mul_(2)
    rows = x.mean(1).softmax(0).multinomial(2)
    x.mul_(3)
    return total[rows] + x.sum()


def refilled(x: Tensor, w: Tensor) -> Tensor:
    y = x.exp()
    total = y.sum()
    y.uniform_()
    return total + y


def noisy(x: Tensor, w: Tensor) -> Tensor:
    w.normal_()
    total = x @ w
    w.normal_()
    return total * w.sum()


@pytest.mark.parametrize("fn", [scaled, refilled, noisy])
def test_changes_in_place_stay_where_they_are(fn):
    x, w = torch.rand(3, 4), torch.rand(4, 5)
    run = compiled_between(make_fx(fn)(x.clone(), w.clone()), lambda part: part)
    torch.manual_seed(1)
    expected = fn(x.clone(), w.clone())
    torch.manual_seed(1)
    assert torch.equal(run(x.clone(), w.clone()), expected)
