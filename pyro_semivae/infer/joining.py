"""Joins what a graph computes with the same weights: one product over the rows of all runs of a network.

A model that is run on labelled rows, on unlabelled rows and on what it generates calls each of its networks several
times. Here these calls become one, as in a program written by hand, and so do their gradients.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from pyro_semivae.infer.operations import is_pointwise, is_view

aten = torch.ops.aten
# Operation with weights -> which of its arguments have rows.
FORWARD = {aten.addmm.default: (1,), aten.convolution.default: (0,)}
BACKWARD = {aten.convolution_backward.default: (1, 0), aten.mm.default: (0,)}
ROWS = {**FORWARD, **BACKWARD}
TRANSPOSED = (aten.t.default, aten.permute.default, aten.transpose.int)
DEEPEST = 100  # pointwise operations and views between two products
FEW = 1 / 16  # of all rows: where all but one run have so few together, copying all of them costs more than it spares


def joined(graph: GraphModule) -> GraphModule:
    """A graph of the same results with one product, or convolution, for all those that have the same weights.

    Products are joined where none depends on another, and unless the rows of a large one would be copied for those of a
    few. The gradients of their weights, which autograd adds up, become one product too.

    Args:
        graph: traced by `make_fx`, without changes in place; it is changed.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> once = joined(make_fx(lambda x, y, w: (x @ w).sin().sum() + (y @ w).cos().sum())(*torch.zeros(3, 2, 2)))
    >>> sum(node.target == torch.ops.aten.mm.default for node in once.graph.nodes)
    1
    """
    joining = _Joining(graph.graph)
    _move_views(graph.graph)
    joining.clean()
    for chosen in (_has_gradient, lambda node: True):  # a gradient is twice the work of a product
        for nodes in _with_the_same_weights(graph.graph, FORWARD):
            joining.join_where_independent([*filter(chosen, nodes)])
        joining.clean()
    for leaves in _sums_of_products(graph.graph):
        joining.join_sum(leaves)
    joining.clean()
    for nodes in _with_the_same_weights(graph.graph, BACKWARD):
        joining.join_where_independent(nodes)
    joining.lift()
    joining.clean()
    graph.recompile()
    return graph


class _Joining:
    """Joins nodes of a graph, whose order is then no longer that of its computations."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.made: dict[tuple[Node, ...], Node] = {}  # tensors -> the one of all their rows
        self.origins: dict[Node, tuple[Node, int] | None] = {}
        self.orders: dict[frozenset[Node], tuple[Node, ...]] = {}  # of tensors whose rows were copied into one

    def clean(self) -> None:
        """Orders the nodes and erases those that are not used."""
        _sort(self.graph)
        self.graph.eliminate_dead_code()
        self.made.clear()  # some may be erased

    def join_where_independent(self, nodes: list[Node]) -> None:
        """Joins the nodes that do not depend on each other, in several groups where some do."""
        while len(nodes) > 1:
            before, bit = _ancestors(self.graph)
            first, *others = nodes
            chosen = [first]
            for node in others:
                if not any(before[node] & bit[one] or before[one] & bit[node] for one in chosen):
                    chosen.append(node)
            if len(chosen) > 1:
                self.join(chosen)
            nodes = [node for node in nodes if node not in chosen]

    def join(self, nodes: Sequence[Node]) -> None:
        """Replaces operations by one on all their rows."""
        first, which = nodes[0], ROWS[nodes[0].target]
        nodes = self._in_order(nodes, [[node.args[i] for i in which] for node in nodes])
        if not self._worth([tuple(node.args[i] for node in nodes) for i in which]):
            return
        args = list(first.args)
        for i in which:
            args[i] = self.all_rows([node.args[i] for node in nodes])
        numbers = [_num_rows(node.args[which[0]]) for node in nodes]
        if first.target != aten.convolution_backward.default:
            self._split(self._call(first.target, args, first, sum(numbers)), numbers, [[node] for node in nodes])
            return
        every = self._call(first.target, args, first)
        for i, _ in enumerate(first.meta["val"]):
            parts = [[user for user in node.users if user.args[1] == i] for node in nodes]
            if not any(parts):
                continue
            like = next(part for of_node in parts for part in of_node)
            if i == 0:
                self._split(self._call(operator.getitem, (every, i), like, sum(numbers)), numbers, parts)
            else:  # a gradient of weights is the sum over all rows
                (one,), *others = parts
                one.replace_all_uses_with(self._call(operator.getitem, (every, i), like))
                for (other,) in others:
                    _leave_out(other)

    def join_sum(self, leaves: Sequence[Node]) -> None:
        """Replaces a sum of products of transposed tensors, the gradients of the same weights, by one product."""
        pairs = [(leaf.args[1], leaf.args[0].args[0]) for leaf in leaves]
        order = self._in_order(range(len(leaves)), pairs)
        ordered = [tuple(pairs[i][k] for i in order) for k in (0, 1)]
        if not self._worth(ordered):
            return
        right, left = map(self.all_rows, ordered)
        first = leaves[0]
        turned = self._call(aten.t.default, (left,), first.args[0])
        turned.meta["val"] = left.meta["val"].t()
        first.replace_all_uses_with(self._call(first.target, (turned, right), first))
        for leaf in leaves[1:]:
            _leave_out(leaf)

    def all_rows(self, nodes: Sequence[Node]) -> Node:
        """The tensor of all rows of these tensors; if possible one that is there, or computed from such ones."""
        found = self._lifted(tuple(nodes))
        if found is None:
            found = self._call(aten.cat.default, ([*nodes],), nodes[0], sum(map(_num_rows, nodes)))
            self.made[tuple(nodes)], self.orders[frozenset(nodes)] = found, tuple(nodes)
        return found

    def _worth(self, tensors: Sequence[tuple[Node, ...]]) -> bool:
        """Whether the rows are in one tensor, or not too few besides the most of them to copy all."""
        numbers = [_num_rows(node) for node in tensors[0]]
        return sum(numbers) - max(numbers) >= FEW * sum(numbers) or all(map(self._lifted, tensors))

    def lift(self) -> None:
        """Replaces copies of rows into one tensor where, after later joins, there is one or can be computed."""
        _sort(self.graph)
        for node in list(self.graph.nodes):
            if node.target == aten.cat.default and len(node.args) == 1 and tuple(node.args[0]) in self.orders.values():
                self.made.pop(tuple(node.args[0]), None)
                if found := self._lifted(tuple(node.args[0])):
                    node.replace_all_uses_with(found)

    def _lifted(self, nodes: tuple[Node, ...], depth: int = 0) -> Node | None:
        """As `all_rows`, or nothing."""
        if nodes not in self.made and depth <= DEEPEST:
            found = self._whole(nodes) or self._viewed(nodes, depth) or self._pointwise(nodes, depth)
            self.made |= {nodes: found} if found else {}
        return self.made.get(nodes)

    def _whole(self, nodes: tuple[Node, ...]) -> Node | None:
        """The tensor whose rows they are, in this order."""
        ranges = [_range_of(node) for node in nodes]
        if None in ranges or len({source for source, _, _ in ranges}) > 1:
            return None
        ends = [0, *(stop for _, _, stop in ranges)]
        whole = ends[-1] == _num_rows(ranges[0][0]) and ends[:-1] == [start for _, start, _ in ranges]
        return ranges[0][0] if whole else None

    def _viewed(self, nodes: tuple[Node, ...], depth: int) -> Node | None:
        if not all(is_view(node) and _num_rows(node.args[0]) == _num_rows(node) for node in nodes):
            return None
        if len({_shape(node)[1:] for node in nodes}) > 1 or len({_shape(node.args[0])[1:] for node in nodes}) > 1:
            return None
        source = self._lifted(tuple(node.args[0] for node in nodes), depth + 1)
        if source is None:
            return None
        shape = [_num_rows(source), *_shape(nodes[0])[1:]]
        return self._call(aten.reshape.default, (source, shape), nodes[0], shape[0])

    def _pointwise(self, nodes: tuple[Node, ...], depth: int) -> Node | None:
        first = nodes[0]
        if len({(node.target, _shape(node)[1:]) for node in nodes}) > 1 or not all(map(is_pointwise, nodes)):
            return None
        if any(node.kwargs != first.kwargs or len(node.args) != len(first.args) for node in nodes):
            return None
        args: list[Any] = []
        for of_each in zip(*(node.args for node in nodes), strict=True):
            if all(
                isinstance(arg, Node) and _shape(arg) == _shape(node) for arg, node in zip(of_each, nodes, strict=True)
            ):
                args.append(self._lifted(of_each, depth + 1))
            elif all(arg == of_each[0] for arg in of_each) and not _has_rows(of_each[0], first):
                args.append(of_each[0])
            else:
                return None
            if args[-1] is None and of_each[0] is not None:
                return None
        return self._call(first.target, args, first, sum(map(_num_rows, nodes)))

    def _in_order(self, nodes: Sequence[Any], tensors: Iterable[Iterable[Node]]) -> list[Any]:
        """The nodes in the order that their tensors' rows have in one tensor; as they are if there is none."""
        self.origins.clear()
        for of_each in zip(*tensors, strict=True):
            ranges = [self._origin(tensor) for tensor in of_each]
            if None not in ranges and len({source for source, _ in ranges}) == 1:
                starts = [start for _, start in ranges]
                return [nodes[i] for i in sorted(range(len(nodes)), key=starts.__getitem__)]
            copied = self.orders.get(frozenset(of_each), ())
            if len(copied) == len(of_each) == len({*copied}):
                return [nodes[of_each.index(tensor)] for tensor in copied]
        return [*nodes]

    def _origin(self, node: Node, depth: int = 0) -> tuple[Node, int] | None:
        """Of which tensor a tensor's rows are computed row by row, and from which row on; None if of none."""
        if found := _range_of(node):
            return found[:2]
        if depth > DEEPEST:
            return None
        if node not in self.origins:
            self.origins[node] = None
            if is_view(node) and _num_rows(node.args[0]) == _num_rows(node):
                self.origins[node] = self._origin(node.args[0], depth + 1)
            elif is_pointwise(node):
                args = (arg for arg in node.args if isinstance(arg, Node) and _shape(arg) == _shape(node))
                self.origins[node] = next(filter(None, (self._origin(arg, depth + 1) for arg in args)), None)
        return self.origins[node]

    def _split(self, every: Node, numbers: Sequence[int], parts: Sequence[Sequence[Node]]) -> None:
        """Replaces nodes by so many rows each of a node."""
        start = 0
        for number, nodes in zip(numbers, parts, strict=True):
            for node in nodes:
                rows = (every, 0, start, start + number)
                node.replace_all_uses_with(self._call(aten.slice.Tensor, rows, every, number))
            start += number

    def _call(self, target: Callable, args: Sequence[Any], like: Node, number: int | None = None) -> Node:
        """A new operation, whose result is like another's, or has another number of rows."""
        *_, output = self.graph.nodes
        with self.graph.inserting_before(output):
            node = self.graph.call_function(target, tuple(args), dict(like.kwargs) if target == like.target else {})
        value = like.meta["val"]
        node.meta["val"] = value if number is None else value.new_empty((number, *value.shape[1:]))
        return node


def _move_views(graph: Graph) -> None:
    """Views of matrices come after pointwise operations, so that a network's layers follow each other as matrices; what
    is transposed twice is not."""
    for node in graph.nodes:
        if node.target == aten.t.default and node.args[0].target == aten.t.default:
            node.replace_all_uses_with(node.args[0].args[0])
        if is_view(node) and is_view(node.args[0]):
            node.args = (node.args[0].args[0], *node.args[1:])
        if is_view(node) and _shape(node) == _shape(node.args[0]):
            node.replace_all_uses_with(node.args[0])
        if not is_pointwise(node) or node.kwargs.get("memory_format"):
            continue
        tensors = [arg for arg in node.args if isinstance(arg, Node)]
        if not tensors or len(tensors) < len(node.all_input_nodes):
            continue
        if any(not is_view(arg) or _shape(arg) != _shape(node) for arg in tensors):
            continue
        shapes = {_shape(arg.args[0]) for arg in tensors}
        if len(shapes) == 1 and len(shape := shapes.pop()) == 2 and len(_shape(node)) > 2:
            with graph.inserting_before(node):
                args = tuple(arg.args[0] if isinstance(arg, Node) else arg for arg in node.args)
                inner = graph.call_function(node.target, args, node.kwargs)
                view = graph.call_function(aten.reshape.default, (inner, [*_shape(node)]))
            inner.meta["val"], view.meta["val"] = node.meta["val"].new_empty(shape), node.meta["val"]
            node.replace_all_uses_with(view)


def _with_the_same_weights(graph: Graph, operations: Iterable[Callable]) -> list[list[Node]]:
    """Nodes that differ in their rows alone; the largest first."""
    groups: dict[Any, list[Node]] = {}
    for node in graph.nodes:
        if node.target not in operations or (node.target == aten.mm.default and node.args[0].target in TRANSPOSED):
            continue  # a product with a transposed tensor is the gradient of weights
        if node.target == aten.addmm.default and len(_shape(node.args[0])) > 1:
            continue  # what is added has rows of its own
        which = ROWS[node.target]
        others = tuple(str(arg) for i, arg in enumerate(node.args) if i not in which)
        shapes = tuple(_shape(node.args[i])[1:] for i in which)
        key = (node.target, others, str(node.kwargs), shapes)
        if node.target == aten.convolution_backward.default:
            parts = [user for user in node.users if user.args[1] > 0]
            if not all(part.users for part in parts):
                continue
            key += tuple(sorted((part.args[1], _sum_of(part).name) for part in parts))
        groups.setdefault(key, []).append(node)
    shared = [nodes for nodes in groups.values() if len(nodes) > 1]
    return sorted(shared, key=lambda nodes: -_size(nodes[0]))


def _sums_of_products(graph: Graph) -> Iterator[list[Node]]:
    """Products with transposed matrices that are added up, and used for nothing else."""
    groups: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        if node.target == aten.mm.default and node.args[0].target == aten.t.default and _sum_of(node) is not node:
            groups.setdefault(_sum_of(node), []).append(node)
    yield from (nodes for nodes in groups.values() if len(nodes) > 1)


def _sum_of(node: Node) -> Node:
    """The sum that a node is a part of, through sums of sums that are used for nothing else; else the node itself."""
    while len(node.users) == 1:
        (user,) = node.users
        added = user.target == aten.add.Tensor and not user.kwargs and len({*user.args}) == 2
        if not added or not all(isinstance(arg, Node) and _shape(arg) == _shape(node) for arg in user.args):
            break
        node = user
    return node


def _leave_out(part: Node) -> None:
    """Takes a part out of the sum that is its only use."""
    (total,) = part.users
    (other,) = [arg for arg in total.args if arg is not part]
    total.replace_all_uses_with(other)
    total.graph.erase_node(total)


def _sort(graph: Graph) -> None:
    """Orders nodes so that each comes after what it depends on, and otherwise as they were."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    missing = {node: len(node.all_input_nodes) for node in graph.nodes}
    ready = [i for node, i in place.items() if not missing[node]]
    nodes = [*graph.nodes]
    *_, output = nodes
    heapq.heapify(ready)
    while ready:
        node = nodes[heapq.heappop(ready)]
        if node is not output:
            output.prepend(node)
        for user in node.users:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, place[user])


def _ancestors(graph: Graph) -> tuple[dict[Node, int], dict[Node, int]]:
    """What each node depends on, as a number with a bit for each node, and the bits."""
    _sort(graph)
    before: dict[Node, int] = {}
    bit = {node: 1 << i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        before[node] = 0
        for one in node.all_input_nodes:
            before[node] |= before[one] | bit[one]
    return before, bit


def _range_of(node: Node) -> tuple[Node, int, int] | None:
    """The tensor of which a tensor is a range of rows, and the range."""
    if node.target != aten.slice.Tensor:
        return None
    source, dim, start, stop, step = (*node.args, *(None, 0, None, None, 1)[len(node.args) :])
    if dim != 0 or step != 1:
        return None
    start, stop, _ = slice(start, stop).indices(_num_rows(source))
    return source, start, stop


def _has_gradient(node: Node) -> bool:
    """Whether the weights of an operation have a gradient from it."""
    (x,) = (node.args[i] for i in ROWS[node.target][:1])
    return any(
        (user.target == aten.mm.default and user.args[1] is x)
        or (user.target == aten.convolution_backward.default and user.args[1] is x)
        for user in x.users
    )


def _has_rows(arg: Any, node: Node) -> bool:
    return isinstance(arg, Node) and len(_shape(arg)) == len(_shape(node)) and _num_rows(arg) != 1


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _num_rows(node: Node) -> int:
    return _shape(node)[0] if _shape(node) else 0


def _size(node: Node) -> int:
    values = node.meta["val"] if isinstance(node.meta["val"], (tuple, list)) else [node.meta["val"]]
    return max(value.numel() for value in values if isinstance(value, torch.Tensor))
