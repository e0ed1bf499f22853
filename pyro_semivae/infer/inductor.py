"""Graphs compiled by TorchInductor, whose results are kept in the user's folder of caches."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._functorch.compile_utils import fx_graph_cse
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from pyro_semivae.caches import cache_folder
from pyro_semivae.infer.joining import ROWS, joined
from pyro_semivae.infer.operations import EMPTY, EMPTY_LIKE, changes_in_place, is_pointwise, is_random, is_view
from pyro_semivae.infer.random_ops import compiled_between

aten = torch.ops.aten
SAME = (aten.alias.default, aten.detach.default)  # operations whose result is their argument
CONVOLUTIONS = {aten.convolution.default: 2, aten.convolution_backward.default: 3}  # and how many images they take
# Operations that are not pointwise, whose result is a new tensor.
NEW = (*EMPTY, *EMPTY_LIKE, aten.fill.Scalar, *ROWS)
CACHE_ENV = "TORCHINDUCTOR_CACHE_DIR"


def compiled(graph: GraphModule) -> Callable[..., Sequence[Tensor]]:
    """A graph whose parts between random operations are compiled at the first call, for the shapes of its inputs."""
    return compiled_between(out_of_place(graph), _Compiled)


def prepared(graph: GraphModule, inputs: Sequence[Tensor]) -> GraphModule:
    """A graph of the same results that does less, as TorchInductor by itself would not.

    Args:
        graph: without random operations; it is changed. inputs: tensors with the shapes of its inputs.
    """
    if _changes_in_place(graph):
        return graph
    return merged(channels_last(joined(merged(graph)), inputs))


def out_of_place(graph: GraphModule) -> GraphModule:
    """A graph in which operations return new tensors instead of changing ones that nothing else uses; it is changed.

    Autograd's own formulas have such changes (1 - w in the gradient of `lerp`), dropout has them too, and other passes
    leave graphs alone that change tensors.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> graph = out_of_place(make_fx(lambda x: x.exp().add_(1))(torch.zeros(2)))
    >>> [str(node.target) for node in graph.graph.nodes][1:3]
    ['aten.exp.default', 'aten.add.Tensor']
    """
    for node in graph.graph.nodes:
        kind, _, rest = str(node.target).partition(".")
        name, _, overload = rest.partition(".")
        in_place = kind == "aten" and name.endswith("_") and not name.startswith("_") and changes_in_place(node)
        if in_place and not is_random(node) and _is_new(node.args[0]) and len(node.args[0].users) == 1:
            target = getattr(getattr(aten, name.removesuffix("_"), None), overload, None)
            if target is not None and _is_like(target, node):
                node.target = target
    graph.recompile()
    return graph


def _is_new(value: Any) -> bool:
    """Whether it is the result of an operation that returns a tensor of its own."""
    if not isinstance(value, Node) or value.op != "call_function":
        return False
    if is_random(value):
        first = next(iter(value.args), None)
        return not changes_in_place(value) or (isinstance(first, Node) and first.target in (*EMPTY, *EMPTY_LIKE))
    return not changes_in_place(value) and (value.target in NEW or is_pointwise(value))


def _is_like(target: Callable[..., Tensor], node: Node) -> bool:
    """Whether another operation has a node's result in shape and dtype: new tensors may have a higher precision."""

    def of_meta(arg: Node) -> Tensor:
        return torch.empty(arg.meta["val"].shape, dtype=arg.meta["val"].dtype, device="meta")

    found, value = target(*map_arg(node.args, of_meta), **map_arg(node.kwargs, of_meta)), node.meta["val"]
    return found.shape == value.shape and found.dtype == value.dtype


def merged(graph: GraphModule) -> GraphModule:
    """A graph in which what is computed twice from the same values is computed once, except for what it returns.

    TorchInductor does this for pointwise operations only: not for the convolutions of a critic, say, that a term and
    the critic's own loss both run on the same images. A graph that changes tensors in place is returned as it is.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> once = merged(make_fx(lambda x: (x.detach() @ x).sin() + (x @ x).cos())(torch.zeros(2, 2)))
    >>> sum(node.target == torch.ops.aten.mm.default for node in once.graph.nodes)
    1
    """
    if _changes_in_place(graph):
        return graph
    for node in list(graph.graph.nodes):
        if node.target in SAME:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    found = GraphModule(graph, fx_graph_cse(graph.graph))
    *_, output = found.graph.nodes
    seen: set[Node] = set()

    def own(value: Node) -> Node:  # what is returned may be changed in place
        if value not in seen and value.op != "placeholder":
            seen.add(value)
            return value
        with found.graph.inserting_before(output):
            copy = found.graph.call_function(aten.clone.default, (value,))
        copy.meta = dict(value.meta)
        return copy

    output.args = map_arg(output.args, own)
    found.recompile()
    return found


def channels_last(graph: GraphModule, inputs: Sequence[Tensor]) -> GraphModule:
    """A graph whose convolutions of images on the CPU, and their gradients, keep channels last in memory.

    TorchInductor computes convolutions on the CPU in this layout, but gradients in the layout in which they were
    traced; without this, every activation would be copied from one to the other. Results have the usual layout. A graph
    that changes tensors in place is returned as it is.

    Args:
        inputs: tensors with the shapes of the graph's inputs.
    """
    found = [node for node in graph.graph.nodes if node.target in CONVOLUTIONS and _is_image(node.args[0])]
    if not found or _changes_in_place(graph):
        return graph

    def copied(value: Node, before: Node, layout: torch.memory_format) -> Node:
        with graph.graph.inserting_before(before):
            return graph.graph.call_function(aten.clone.default, (value,), {"memory_format": layout})

    for node in found:
        number = CONVOLUTIONS[node.target]
        of_images = (copied(value, node, torch.channels_last) for value in node.args[:number])
        node.args = (*of_images, *node.args[number:])
    for node in graph.graph.nodes:
        if is_view(node):
            node.target = aten.reshape.default  # a view of channels that are last may need a copy
    *_, output = graph.graph.nodes

    def usual(value: Node) -> Node:
        return copied(value, output, torch.contiguous_format) if _is_image(value) else value

    output.args = map_arg(output.args, usual)
    graph.recompile()
    with torch.no_grad():
        return make_fx(graph)(*(tensor.detach() for tensor in inputs))


def _is_image(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dim() == 4 and value.device.type == "cpu"


def _changes_in_place(graph: GraphModule) -> bool:
    return any(map(changes_in_place, graph.graph.nodes))


class _Compiled:
    """A part of a graph, compiled at its first call, by its inputs."""

    def __init__(self, part: GraphModule):
        self.part, self.run = part, None

    def __call__(self, *inputs: Tensor) -> Any:
        if self.run is None:
            from torch._inductor import compile as by_inductor  # takes a second: only if something is compiled

            with _cached(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about what torch itself uses
                self.run = by_inductor(prepared(self.part, inputs), list(inputs))
                return self.run(*inputs)
        return self.run(*inputs)


@contextmanager
def _cached() -> Iterator[None]:
    """Sets TorchInductor's cache to the user's folder of caches, unless the user has chosen another one.

    Torch's own default is a temporary folder, which is empty after a restart of the machine. Torch writes it into the
    environment variable as soon as any part of it is imported, so that the variable alone says nothing of the user.
    """
    given = os.environ.get(CACHE_ENV)
    if given is not None and not given.startswith(str(Path(tempfile.gettempdir()) / "torchinductor_")):
        yield
        return
    os.environ[CACHE_ENV] = str(cache_folder() / "inductor")
    try:
        yield
    finally:
        if given is None:
            del os.environ[CACHE_ENV]
        else:
            os.environ[CACHE_ENV] = given
