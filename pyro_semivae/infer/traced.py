"""Functions of parameters and tensors as graphs, traced once per signature and compiled.

Pyro's handlers run in Python at every step, but they do the same to tensors at every step of one signature: objectives
have no `.item()`, no branch on a tensor's value and no shape that depends on one. So loss and gradients are traced once
(`torch.fx`'s `make_fx`), the graph is compiled (TorchInductor), and later steps run only the compiled graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pyro
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pyro_semivae.errors import check_choice
from pyro_semivae.infer.captured import Captured, on_gpu, waits_for_gpu
from pyro_semivae.infer.graph_checks import NotTraceable, as_before, check_same, first_line, torch_alone
from pyro_semivae.infer.inductor import compiled
from pyro_semivae.infer.operations import is_random
from pyro_semivae.infer.owners import Owned, Owners, kind
from pyro_semivae.infer.random_ops import DECOMPOSED
from pyro_semivae.infer.weights import Schedules

Compiler = Literal["inductor", "none"]
COMPILERS = ("inductor", "none")
MOST_GRAPHS = 8
EVERY, EVERY_CAPTURED = 500, 2_500  # calls; the function takes as long as up to 4 calls, or 20 of a CUDA graph

Evaluated = tuple[dict[str, Tensor], Any]


@dataclass
class _Graph:
    """A traced function.

    Attributes:
        run: parameters, buffers, inputs and the values of schedules -> losses, gradients, other outputs.
        schedules: the schedules that it uses. losses: the names of the losses.
        gradients: for each loss, which of its parameters have a gradient.
        spec: the structure of the other outputs. constants: position -> output that is not a tensor.
        calls: the number of calls. captured: the same as a CUDA graph, whose results the next call overwrites.
    """

    run: Callable[..., Sequence[Tensor]]
    schedules: Schedules
    losses: list[str] = field(default_factory=list)
    gradients: list[list[bool]] = field(default_factory=list)
    spec: TreeSpec | None = None
    constants: dict[int, Any] = field(default_factory=dict)
    calls: int = 0
    captured: Captured | None = None


class Gradients(NamedTuple):
    """What a graph computed.

    Attributes:
        losses: name -> loss. of: loss's name -> its gradients in the parameters that it trains, None for others.
        out: the other outputs. source: the CUDA graph whose next call overwrites the gradients.
    """

    losses: dict[str, Tensor]
    of: dict[str, list[Tensor | None]]
    out: Any
    source: Captured | None


class Traced:
    """A function of modules' parameters and of tensors, run as a graph that is traced once per signature.

    A signature consists of the shapes, strides, dtypes and devices of all tensors, the modes of the modules (training
    or evaluation, which parameters require a gradient), autocast, and all inputs that are not tensors. Everything else
    that the function reads, such as an attribute of a model, is a constant of the graph. Torch's random numbers are new
    at every call, and the same as without a graph from the same state of the generator.

    On a GPU the compiled graph is captured as a CUDA graph, which launches all of its kernels at once.

    Losses, gradients and other outputs of the graph are compared with those of the function under the same noise, at
    calls 1, 2, 4, 8, ..., then at every 500th call (of a CUDA graph: every 2,500th), and whenever `checks_next` is set,
    to detect a graph that computes something else.

    Args:
        fn: called with the inputs and `done=`; returns name -> loss, scalars, and other outputs in lists, tuples and
            dicts, whose tensors are detached.
        modules: the modules whose parameters and buffers `fn` reads.
        trained: name of a loss -> the module whose parameters get its gradient.
        compiler: `"inductor"`; or `"none"`, the operations of the graph one by one, without a C++ compiler.
        most_graphs: the maximum number of signatures, each of which is traced and compiled separately.

    Attributes:
        calls: the number of calls. checks_next: whether the next call compares.
        graphs: the number of graphs. num_nodes: the number of operations of the latest graph.
        seconds: the total time of tracing and compiling.
        notes: why a graph could not be captured; its kernels are then launched one by one.
    """

    def __init__(
        self,
        fn: Callable[..., Evaluated],
        modules: Sequence[nn.Module],
        trained: Mapping[str, nn.Module],
        *,
        compiler: Compiler = "inductor",
        most_graphs: int = MOST_GRAPHS,
    ):
        self.trained, self.most_graphs = dict(trained), most_graphs
        self.compiler = check_choice("compiler", compiler, COMPILERS)
        self.root = _Root(fn, modules)
        self._owners = Owners(self.root, self.trained)
        self._graphs: dict[Any, _Graph] = {}
        self._specs: list[TreeSpec] = []
        self.num_nodes, self.seconds, self.calls, self.checks_next = 0, 0.0, 0, False
        self.notes: list[str] = []

    @property
    def graphs(self) -> int:
        return len(self._graphs)

    def __call__(self, *inputs: Any, done: float = 1.0) -> Evaluated:
        """The losses, whose `backward` returns the gradients computed by the graph, and the other outputs.

        With gradients disabled the function is called without a graph.

        Args:
            done: the fraction of training done, the argument of schedules.

        Raises:
            NotTraceable: see `gradients`.
        """
        if not torch.is_grad_enabled():
            return self.root(*inputs, done=done)
        graph, found = self._evaluated(inputs, done)
        owned = self._owners.now()
        losses = {
            name: _Loss.apply(loss, found.of[name], graph, *map(owned.parameters.get, owned.trained[name]))
            for name, loss in found.losses.items()
        }
        return losses, found.out

    def gradients(self, *inputs: Any, done: float = 1.0) -> Gradients:
        """The losses, their gradients and the other outputs, without autograd.

        Args:
            done: the fraction of training done, the argument of schedules.

        Raises:
            NotTraceable: the function branches on a tensor's value, uses random numbers that are not torch's, replaces
                a buffer, or computes something else than its graph; an input requires a gradient; there are more
                signatures than `most_graphs`; the compiler fails.
        """
        return self._evaluated(inputs, done)[1]

    def _evaluated(self, inputs: Any, done: float) -> tuple[_Graph, Gradients]:
        owned = self._owners.now()
        leaves, spec = tree_flatten(inputs)
        leaves = [leaf.contiguous() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves):
            raise NotTraceable("compile: got an input that requires a gradient, which a graph does not give")
        if spec not in self._specs:
            self._specs.append(spec)
        modes = tuple(module.training for module in owned.modules)
        device = next((t.device.type for t in (*owned.tensors, *leaves) if isinstance(t, Tensor)), "cpu")
        key = owned.kinds, tuple(map(kind, leaves)), modes, _autocast(device), self._specs.index(spec)
        graph, expected = self._graphs.get(key), None
        calls = 1 if graph is None else graph.calls + 1
        every = EVERY if graph is None or graph.captured is None else EVERY_CAPTURED
        checks = self.checks_next or calls % every == 0 or (calls < every and calls & (calls - 1) == 0)
        with as_before(owned.buffers.values(), on_error_alone=True) if checks else nullcontext():
            try:
                if checks:
                    schedules = Schedules() if graph is None else graph.schedules
                    with as_before(owned.buffers.values()), schedules, torch_alone():
                        expected = self._expected(inputs, owned, done)
                if graph is None:
                    graph = self._graphs[key] = self._graph(leaves, spec, owned, schedules, done)
                graph.calls = calls
                found = self._run(graph, owned.tensors, leaves, done)
                if expected is not None:
                    check_same(found[:3], expected, exact=self.compiler == "none")
            except NotTraceable as error:
                self._graphs.pop(key, None)
                error.first = calls == 1
                raise
        self.calls, self.checks_next = self.calls + 1, False
        return graph, found

    def _expected(
        self, inputs: Any, owned: Owned, done: float
    ) -> tuple[dict[str, Tensor], dict[str, list[Tensor | None]], Any]:
        """Losses, gradients and other outputs without a graph."""
        losses, out = self.root(*inputs, done=done)
        for name, buffer in self.root.named_buffers():
            if owned.buffers.get(name) is not buffer:
                raise NotTraceable(f"compile: the step puts another tensor in the place of the buffer {name}")
        gradients = _gradients(losses, owned.trained, owned.parameters)
        return {name: loss.detach() for name, loss in losses.items()}, gradients, out

    def _run(self, graph: _Graph, owned: Sequence[Tensor], leaves: Sequence[Any], done: float) -> Gradients:
        """A graph's losses, gradients and other outputs."""
        tensors = _flat(graph, owned, leaves, done)
        with torch.no_grad():
            found = iter((graph.captured or graph.run)(*tensors))
        losses = {name: next(found) for name in graph.losses}
        gradients = {
            name: [next(found) if there else None for there in which]
            for name, which in zip(graph.losses, graph.gradients, strict=True)
        }
        leaves = [graph.constants[i] if i in graph.constants else next(found) for i in range(graph.spec.num_leaves)]
        if graph.captured is not None:
            leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            losses = {name: loss.clone() for name, loss in losses.items()}
        return Gradients(losses, gradients, tree_unflatten(leaves, graph.spec), graph.captured)

    def _graph(self, leaves: Sequence[Any], spec: TreeSpec, owned: Owned, schedules: Schedules, done: float) -> _Graph:
        """Traces the function, and compiles the graph."""
        if self.graphs == self.most_graphs:
            raise NotTraceable(
                f"compile: got {self.graphs + 1} different signatures (shapes of a batch, modes of modules, parameters "
                f"that are frozen); expected at most {self.most_graphs}, for each is compiled anew"
            )
        graph = _Graph(lambda *tensors: (), schedules)

        def flat(*tensors: Tensor) -> list[Tensor]:
            given = dict(zip([*owned.parameters, *owned.buffers], tensors, strict=False))
            rest = iter(tensors[len(given) :])
            here = tree_unflatten([next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
            *values, now = next(rest)
            with schedules.given(values):
                losses, out = functional_call(self.root, given, here, {"done": now})
            gradients = _gradients(losses, owned.trained, given)
            graph.losses = [*losses]
            graph.gradients = [[gradient is not None for gradient in gradients[name]] for name in losses]
            flat_out, graph.spec = tree_flatten(out)
            graph.constants = {i: leaf for i, leaf in enumerate(flat_out) if not isinstance(leaf, Tensor)}
            found = [gradient for name in losses for gradient in gradients[name] if gradient is not None]
            return [*losses.values(), *found, *(leaf for leaf in flat_out if isinstance(leaf, Tensor))]

        start = time.perf_counter()
        there = [t.detach() for t in owned.parameters.values()] + [t.clone() for t in owned.buffers.values()]
        tensors = _flat(graph, there, leaves, done)
        for tensor, parameter in zip(tensors, owned.parameters.values(), strict=False):
            tensor.requires_grad_(parameter.requires_grad)
        try:
            with as_before([]), torch_alone(), torch.enable_grad():
                traced = make_fx(flat, DECOMPOSED)(*tensors)
        except NotTraceable:
            raise
        except Exception as error:  # whatever a model does that is not a function of tensors
            raise NotTraceable(f"compile: the step is no graph of tensors: {first_line(error)}") from error
        self.num_nodes = len(traced.graph.nodes)
        graph.run = traced
        if self.compiler == "inductor":
            tensors = [tensor.detach() for tensor in tensors]
            captures, waits = on_gpu(tensors), _draws_elsewhere(traced, tensors[0].device)
            try:
                graph.run = compiled(traced)
                with as_before(tensors):
                    graph.run(*tensors)  # compiles
                    if captures and not waits:
                        waits = waits_for_gpu(lambda: graph.run(*tensors))
            except Exception as error:  # whatever the compiler raises, such as that there is no C++ compiler
                raise NotTraceable(f"compile: TorchInductor failed: {first_line(error)}") from error
            if captures and not waits:
                graph.captured = Captured(graph.run, len(there))
            elif captures:
                self.notes.append(f"compile: {waits}; the graph is no CUDA graph: its kernels are launched one by one")
        self.seconds += time.perf_counter() - start
        return graph


class _Root(nn.Module):
    """A function as a module that has the modules whose parameters the function reads."""

    def __init__(self, fn: Callable[..., Evaluated], modules: Sequence[nn.Module]):
        super().__init__()
        self.fn, self.owned = fn, nn.ModuleList(modules)

    def forward(self, *inputs: Any, done: float) -> Evaluated:
        with pyro.validation_enabled(False):  # its checks branch
            return self.fn(*inputs, done=done)


class _Loss(torch.autograd.Function):
    """A scalar whose gradient is there already."""

    @staticmethod
    def forward(ctx, loss: Tensor, gradients: list[Tensor | None], graph: _Graph, *parameters: Tensor) -> Tensor:
        ctx.gradients, ctx.graph, ctx.calls = gradients, graph, graph.calls
        return loss.clone()

    @staticmethod
    def backward(ctx, factor: Tensor):
        gradients, ctx.gradients = ctx.gradients, None  # let go of, so that they become `.grad` as they are
        if ctx.graph.captured is not None and ctx.graph.calls != ctx.calls:
            accepted = "expected it before the next call, which reuses the memory of its gradients on a GPU"
            raise NotTraceable(f"compile: got the backward pass of an earlier call; {accepted}")
        there = [gradient for gradient in gradients if gradient is not None]
        if there and (factor.device.type != "cpu" or factor.item() != 1):
            scaled = iter(torch._foreach_mul(there, factor))
            gradients = [None if gradient is None else next(scaled) for gradient in gradients]
        return None, None, None, *gradients


def _draws_elsewhere(graph: GraphModule, device: torch.device) -> str:
    """Says so if a random operation is on the CPU, and not on the device: a CUDA graph would repeat its sample."""
    values = [node.meta.get("val") for node in graph.graph.nodes if is_random(node)]
    others = any(isinstance(value, Tensor) and value.device.type != device.type for value in values)
    return "a sample is drawn on the CPU" if others else ""


def _autocast(device: str) -> Any:
    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _flat(graph: _Graph, owned: Sequence[Tensor], leaves: Sequence[Any], done: float) -> list[Tensor]:
    """All inputs of a graph."""
    values = torch.tensor([*graph.schedules.values(done), done], dtype=torch.float64)
    values = values.to(owned[0].device, non_blocking=True) if owned else values  # does not wait for a GPU
    return [*owned, *(leaf for leaf in leaves if isinstance(leaf, Tensor)), values]


def _gradients(
    losses: Mapping[str, Tensor], trained: Mapping[str, list[str]], parameters: Mapping[str, Tensor]
) -> dict[str, list[Tensor | None]]:
    """Loss's name -> its gradient in each of the parameters that it trains."""
    found: dict[str, list[Tensor | None]] = {}
    for name, loss in losses.items():
        own = [parameters[parameter] for parameter in trained[name]]
        found[name] = [*torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True)] if own else []
    return found
