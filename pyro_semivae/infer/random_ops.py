"""Splits graphs at their random operations, so that compiling keeps the order of random numbers.

A compiler may reorder independent operations, random ones included; from the same state of the generator, two samples
are then exchanged. Here random operations are not compiled and keep their order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.passes.split_module import split_module

from pyro_semivae.infer.operations import EMPTY, EMPTY_LIKE, changes_in_place, is_random

aten = torch.ops.aten
LIKE = {aten.rand_like.default: aten.uniform_.default, aten.randn_like.default: aten.normal_.default}


def multinomial(
    probs: Tensor, num_samples: int, replacement: bool = False, *, generator: torch.Generator | None = None
) -> Tensor:
    """One sample a row as torch draws it, in operations of which the random one needs no values; `(..., 1)`.

    Torch's own operation also checks the probabilities, for which it waits for a GPU.

    >>> probs = torch.tensor([[0.2, 0.8], [0.5, 0.5]])
    >>> with torch.random.fork_rng():
    ...     expected = torch.multinomial(probs, 1)
    >>> torch.equal(multinomial(probs, 1), expected)
    True
    """
    if num_samples != 1 or generator is not None:
        return NotImplemented
    noise = torch.empty_like(probs).exponential_()
    return (probs / noise).argmax(-1, keepdim=True)


def normal(mean: Tensor | float, std: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Samples as torch draws them, in operations of which the random one needs no values.

    Torch's own operation also checks the scales, for which it waits for a GPU.

    >>> mean, std = torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])
    >>> with torch.random.fork_rng():
    ...     expected = torch.normal(mean, std)
    >>> torch.equal(normal(mean, std), expected)
    True
    """
    if generator is not None:
        return NotImplemented
    shape = torch.broadcast_shapes(std.shape, mean.shape if isinstance(mean, Tensor) else ())
    noise = torch.empty(shape, dtype=torch.result_type(mean, std), device=std.device).normal_()
    return noise * std + mean


# Operations to trace as others that give the same values.
DECOMPOSED: dict[Any, Callable] = {
    aten.multinomial.default: multinomial,
    aten.normal.Tensor_Tensor: normal,
    aten.normal.float_Tensor: normal,
}


def compiled_between(graph: GraphModule, compile: Callable[[GraphModule], Callable]) -> Callable:
    """The function of a graph, with the parts between its random operations compiled.

    Random operations that need only a shape (`randn_like`) come first, in one part. The graph is cut at each random
    operation that depends on values (`multinomial`).

    Args:
        graph: traced by `make_fx`; it is changed.
        compile: turns a part without random operations into a function of the same inputs.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> def sample(x: Tensor) -> Tensor:
    ...     return (x + torch.randn_like(x)).sigmoid().bernoulli()
    >>> parts = []
    >>> run = compiled_between(make_fx(sample)(torch.zeros(3)), lambda part: parts.append(part) or part)
    >>> len(parts)
    1
    >>> with torch.random.fork_rng():
    ...     expected = sample(torch.zeros(3))
    >>> torch.equal(run(torch.zeros(3)), expected)
    True
    """
    part_of = _parts(graph)
    if not any(part % 2 == 0 for part in part_of.values()):
        return compile(graph)
    cut = split_module(graph, None, lambda node: part_of[node], keep_original_order=True)
    for name, part in list(cut.named_children()):
        if int(name.removeprefix("submod_")) % 2:
            setattr(cut, name, _Function(compile(part)))
    return cut


class _Function(torch.nn.Module):
    """A function as a module."""

    def __init__(self, fn: Callable):
        super().__init__()
        self.fn = fn

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.fn(*inputs)


def _parts(graph: GraphModule) -> dict[Node, int]:
    """Node -> the number of its part: even parts contain random operations, odd parts are compiled."""
    part, part_of, movable = 0, {}, True
    for node in list(graph.graph.nodes):
        if node.op not in ("call_function", "get_attr"):
            continue
        made = _of_shape_alone(graph, node) if is_random(node) else []
        movable &= bool(made) or not changes_in_place(node)
        if not is_random(node):
            part_of[node] = part + 1
            continue
        if not made:
            part, made = part + 2, [node]
        for one in made:
            part_of[one] = part
    if movable:
        _as_late_as_possible(graph, part_of, part + 1)
    *_, output = graph.graph.nodes
    for node in sorted(part_of, key=part_of.get):  # nothing depends on a later part
        output.prepend(node)
    graph.recompile()
    return part_of


def _as_late_as_possible(graph: GraphModule, part_of: dict[Node, int], last: int) -> None:
    """Moves what no random operation needs into the last part, so that more of the graph is compiled at once."""
    for node in reversed(graph.graph.nodes):
        if node in part_of and part_of[node] % 2:
            users = (part_of.get(user, last) for user in node.users)
            part_of[node] = min((part if part % 2 else part - 1 for part in users), default=last)


def _of_shape_alone(graph: GraphModule, node: Node) -> list[Node]:
    """The nodes of a random operation that needs only a shape, rewritten to have no inputs; empty for other nodes."""
    inputs = node.all_input_nodes
    if not inputs:
        return [node]
    first = node.args[0]
    if node.target in LIKE:
        with graph.graph.inserting_before(node):
            empty = _empty(graph, node)
            new = graph.graph.call_function(LIKE[node.target], (empty,))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
        return [empty, new]
    if inputs == [first] and first.target in EMPTY and len(first.users) == 1:
        return [first, node]
    if inputs == [first] and first.target in EMPTY_LIKE and len(first.users) == 1:
        with graph.graph.inserting_before(node):
            empty = _empty(graph, first)
        node.replace_input_with(first, empty)  # `first` is in an earlier part, which drops it
        return [empty, node]
    return []


def _empty(graph: GraphModule, node: Node) -> Node:
    """A node that creates an empty tensor with the layout of another node's value."""
    like = node.meta["val"]
    options = {"dtype": like.dtype, "device": like.device}
    empty = graph.graph.call_function(aten.empty_strided.default, (list(like.shape), list(like.stride())), options)
    empty.meta = dict(node.meta)
    return empty
