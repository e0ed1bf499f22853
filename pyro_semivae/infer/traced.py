"""Functions of parameters and tensors as graphs, traced once per signature and compiled.

Pyro's handlers run in Python at every step, but they do the same to tensors at every step of one signature: objectives
have no `.item()`, no branch on a tensor's value and no shape that depends on one. So loss and gradients are traced once
(`torch.fx`'s `make_fx`), the graph is compiled (TorchInductor), and later steps run only the compiled graph.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyro
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pyro_semivae.errors import InputError, check_choice
from pyro_semivae.infer.inductor import compiled
from pyro_semivae.infer.weights import Schedules

Compiler = Literal["inductor", "none"]
COMPILERS = ("inductor", "none")
MOST_GRAPHS = 8
EVERY = 250  # calls
TOLERANCE = {torch.float64: 1e-6, torch.float32: 0.02}  # of gradients, relative to their norm
LOWER = 0.2  # the tolerance in lower precision, also under autocast, whose losses are of float32

Evaluated = tuple[dict[str, Tensor], Any]


class NotTraceable(InputError):
    """A function cannot be run as one graph; the message says why.

    Attributes:
        first: whether it happened at the first call of a signature, before its graph was used for training.
    """

    first = False


@dataclass
class _Graph:
    """A traced function.

    Attributes:
        run: parameters, buffers, inputs and the values of schedules -> losses, gradients, other outputs.
        schedules: the schedules that it uses. losses: the names of the losses.
        gradients: for each loss, which of its parameters have a gradient.
        spec: the structure of the other outputs. constants: position -> output that is not a tensor.
        calls: the number of calls.
    """

    run: Callable[..., Sequence[Tensor]]
    schedules: Schedules
    losses: list[str] = field(default_factory=list)
    gradients: list[list[bool]] = field(default_factory=list)
    spec: TreeSpec | None = None
    constants: dict[int, Any] = field(default_factory=dict)
    calls: int = 0


class Traced:
    """A function of modules' parameters and of tensors, run as a graph that is traced once per signature.

    A signature consists of the shapes, strides, dtypes and devices of all tensors, the modes of the modules (training
    or evaluation, which parameters require a gradient), autocast, and all inputs that are not tensors. Everything else
    that the function reads, such as an attribute of a model, is a constant of the graph. Torch's random numbers are new
    at every call, and the same as without a graph from the same state of the generator.

    Losses, gradients and other outputs of the graph are compared with those of the function under the same noise, at
    calls 1, 2, 4, 8, ..., at every 250th call, and whenever `checks_next` is set, to detect a graph that computes
    something else.

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
        self._graphs: dict[Any, _Graph] = {}
        self.num_nodes, self.seconds, self.calls, self.checks_next = 0, 0.0, 0, False

    @property
    def graphs(self) -> int:
        return len(self._graphs)

    def __call__(self, *inputs: Any, done: float = 1.0) -> Evaluated:
        """The losses, whose `backward` returns the gradients computed by the graph, and the other outputs.

        With gradients disabled the function is called without a graph.

        Args:
            done: the fraction of training done, the argument of schedules.

        Raises:
            NotTraceable: the function branches on a tensor's value, uses random numbers that are not torch's, replaces
                a buffer, or computes something else than its graph; an input requires a gradient; there are more
                signatures than `most_graphs`; the compiler fails.
        """
        if not torch.is_grad_enabled():
            return self.root(*inputs, done=done)
        parameters, buffers = dict(self.root.named_parameters()), dict(self.root.named_buffers())
        trained = self._trained(parameters)
        leaves, spec = tree_flatten(inputs)
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves):
            raise NotTraceable("compile: got an input that requires a gradient, which a graph does not give")
        key = _signature(self.root, [*parameters.values(), *buffers.values(), *leaves], spec)
        graph, expected = self._graphs.get(key), None
        calls = 1 if graph is None else graph.calls + 1
        checks = self.checks_next or calls & (calls - 1) == 0 or calls % EVERY == 0
        with _as_before(buffers.values(), on_error_alone=True) if checks else nullcontext():
            try:
                if checks:
                    schedules = Schedules() if graph is None else graph.schedules
                    with _as_before(buffers.values()), schedules, _torch_alone():
                        expected = self._expected(inputs, trained, parameters, buffers, done)
                if graph is None:
                    graph = self._graph(inputs, parameters, buffers, trained, schedules, done)
                    self._graphs[key] = graph
                graph.calls = calls
                losses, gradients, out = self._run(graph, [*parameters.values(), *buffers.values()], leaves, done)
                if expected is not None:
                    _check_same(self.compiler, (losses, gradients, out), expected)
            except NotTraceable as error:
                self._graphs.pop(key, None)
                error.first = calls == 1
                raise
        self.calls, self.checks_next = self.calls + 1, False
        losses = {
            name: _Loss.apply(loss, gradients[name], *map(parameters.get, trained[name]))
            for name, loss in losses.items()
        }
        return losses, out

    def _expected(
        self,
        inputs: Any,
        trained: Mapping[str, list[str]],
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        done: float,
    ) -> tuple[dict[str, Tensor], dict[str, list[Tensor | None]], Any]:
        """Losses, gradients and other outputs without a graph."""
        losses, out = self.root(*inputs, done=done)
        for name, buffer in self.root.named_buffers():
            if buffers.get(name) is not buffer:
                raise NotTraceable(f"compile: the step puts another tensor in the place of the buffer {name}")
        return {name: loss.detach() for name, loss in losses.items()}, _gradients(losses, trained, parameters), out

    def _trained(self, parameters: Mapping[str, Tensor]) -> dict[str, list[str]]:
        """Loss's name -> names of the parameters that have its gradient."""
        names = {id(parameter): name for name, parameter in parameters.items()}
        return {
            loss: [names[id(p)] for p in module.parameters() if p.requires_grad]
            for loss, module in self.trained.items()
        }

    def _run(
        self, graph: _Graph, owned: Sequence[Tensor], leaves: Sequence[Any], done: float
    ) -> tuple[dict[str, Tensor], dict[str, list[Tensor | None]], Any]:
        """A graph's losses, gradients and other outputs."""
        with torch.no_grad():
            found = iter(graph.run(*_flat(graph, owned, leaves, done)))
        losses = {name: next(found) for name in graph.losses}
        gradients = {
            name: [next(found) if there else None for there in which]
            for name, which in zip(graph.losses, graph.gradients, strict=True)
        }
        leaves = [graph.constants[i] if i in graph.constants else next(found) for i in range(graph.spec.num_leaves)]
        return losses, gradients, tree_unflatten(leaves, graph.spec)

    def _graph(
        self,
        inputs: Any,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        trained: Mapping[str, list[str]],
        schedules: Schedules,
        done: float,
    ) -> _Graph:
        """Traces the function, and compiles the graph."""
        if self.graphs == self.most_graphs:
            raise NotTraceable(
                f"compile: got {self.graphs + 1} different signatures (shapes of a batch, modes of modules, parameters "
                f"that are frozen); expected at most {self.most_graphs}, for each is compiled anew"
            )
        graph = _Graph(lambda *tensors: (), schedules)
        leaves, spec = tree_flatten(inputs)

        def flat(*tensors: Tensor) -> list[Tensor]:
            given = dict(zip([*parameters, *buffers], tensors, strict=False))
            rest = iter(tensors[len(given) :])
            here = tree_unflatten([next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
            *values, now = next(rest)
            with schedules.given(values):
                losses, out = functional_call(self.root, given, here, {"done": now})
            gradients = _gradients(losses, trained, given)
            graph.losses = [*losses]
            graph.gradients = [[gradient is not None for gradient in gradients[name]] for name in losses]
            flat_out, graph.spec = tree_flatten(out)
            graph.constants = {i: leaf for i, leaf in enumerate(flat_out) if not isinstance(leaf, Tensor)}
            found = [gradient for name in losses for gradient in gradients[name] if gradient is not None]
            return [*losses.values(), *found, *(leaf for leaf in flat_out if isinstance(leaf, Tensor))]

        start = time.perf_counter()
        owned = [*parameters.values(), *(buffer.clone() for buffer in buffers.values())]
        tensors = _flat(graph, owned, leaves, done)
        for tensor, parameter in zip(tensors, parameters.values(), strict=False):
            tensor.requires_grad_(parameter.requires_grad)
        try:
            with _as_before([]), _torch_alone(), torch.enable_grad():
                traced = make_fx(flat)(*tensors)
        except NotTraceable:
            raise
        except Exception as error:  # whatever a model does that is not a function of tensors
            raise NotTraceable(f"compile: the step is no graph of tensors: {_first_line(error)}") from error
        self.num_nodes = len(traced.graph.nodes)
        graph.run = traced
        if self.compiler == "inductor":
            tensors = [tensor.detach() for tensor in tensors]
            try:
                graph.run = compiled(traced)
                with _as_before(tensors):
                    graph.run(*tensors)  # compiles
            except Exception as error:  # whatever the compiler raises, such as that there is no C++ compiler
                raise NotTraceable(f"compile: TorchInductor failed: {_first_line(error)}") from error
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
    def forward(ctx, loss: Tensor, gradients: list[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx, factor: Tensor):
        gradients, ctx.gradients = ctx.gradients, None  # let go of, so that they become `.grad` as they are
        if factor.device.type != "cpu" or factor.item() != 1:
            gradients = [None if gradient is None else factor * gradient for gradient in gradients]
        return None, None, *gradients


def _signature(root: nn.Module, tensors: Sequence[Any], spec: TreeSpec) -> Any:
    device = next((tensor.device.type for tensor in tensors if isinstance(tensor, Tensor)), "cpu")
    modes = tuple(module.training for module in root.modules())
    return tuple(map(_kind, tensors)), modes, _autocast(device), str(spec)


def _kind(value: Any) -> Any:
    """What a graph takes of an input for granted."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device, value.requires_grad
    return value


def _autocast(device: str) -> Any:
    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _flat(graph: _Graph, owned: Sequence[Tensor], leaves: Sequence[Any], done: float) -> list[Tensor]:
    """All inputs of a graph, without gradients."""
    inputs = [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]
    values = torch.cat([graph.schedules.values(done), torch.tensor([done], dtype=torch.float64)])
    return [*(tensor.detach() for tensor in owned), *inputs, values.to(owned[0].device) if owned else values]


def _gradients(
    losses: Mapping[str, Tensor], trained: Mapping[str, list[str]], parameters: Mapping[str, Tensor]
) -> dict[str, list[Tensor | None]]:
    """Loss's name -> its gradient in each of the parameters that it trains."""
    found: dict[str, list[Tensor | None]] = {}
    for name, loss in losses.items():
        own = [parameters[parameter] for parameter in trained[name]]
        found[name] = [*torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True)] if own else []
    return found


@contextmanager
def _as_before(buffers: Iterable[Tensor], *, on_error_alone: bool = False) -> Iterator[None]:
    """What is done inside changes neither torch's random generators nor these buffers.

    Args:
        on_error_alone: only if it raises an error.
    """
    kept = [(buffer, buffer.clone()) for buffer in buffers]
    generators = [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())]
    states = [generator.get_state() for generator in generators]
    restores = True
    try:
        yield
        restores = not on_error_alone
    finally:
        if restores:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
            with torch.no_grad():
                for buffer, before in kept:
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)


@contextmanager
def _torch_alone() -> Iterator[None]:
    """Refuses random numbers that are not torch's: they would be constants of a graph."""
    own, of_numpy = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    yield
    drawn = ["random"] if random.getstate() != own else []
    drawn += ["numpy.random"] if str(np.random.get_state(legacy=False)) != str(of_numpy) else []  # noqa: NPY002
    if drawn:
        random.setstate(own)
        np.random.set_state(of_numpy)  # noqa: NPY002
        raise NotTraceable(f"compile: the step draws from {drawn[0]}; expected torch's random numbers alone")


Found = tuple[dict[str, Tensor], dict[str, list[Tensor | None]], Any]  # losses, their gradients, other outputs


def _check_same(compiler: Compiler, found: Found, expected: Found) -> None:
    """Compares a graph's losses, gradients and other outputs with the function's own, of the same noise.

    A graph that is not compiled has the same operations, and may differ by the order of sums alone.
    """
    for name, loss in expected[0].items():
        exact = loss.dtype in TOLERANCE and not torch.is_autocast_enabled(loss.device.type)
        tolerance = (1e-5 if compiler == "none" else TOLERANCE[loss.dtype]) if exact else LOWER
        pairs = list(zip(found[1][name], expected[1][name], strict=True))
        off = [
            float((found[0][name] - loss).abs() / loss.abs().clamp(min=1.0)),
            _off([a for a, _ in pairs], [b for _, b in pairs], least=1e-6 * max(1.0, float(loss.abs()))),
            *(_off([a], [b], least=1.0) for a, b in zip(*map(_tensors, (found[2], expected[2])), strict=True)),
        ]
        if bool(loss.isfinite()) and not all(part <= tolerance for part in off):
            raise NotTraceable(
                f"compile: the graph has the loss {float(found[0][name]):.6g} and the model, from the same random "
                f"numbers, {float(loss):.6g}; their gradients differ by {off[1]:.2g} of their norm, their terms by up "
                f"to {max(off[2:], default=0.0):.2g}. Something in model, guide or terms is not a function of tensors "
                f"and torch's random numbers alone, such as an attribute that changes from step to step, or a "
                f"generator of its own"
            )


def _tensors(tree: Any) -> list[Tensor]:
    """The outputs to compare; scalars may be weights, which are numbers without a graph."""
    leaves, _ = tree_flatten(tree)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim()]


def _off(found: Sequence[Tensor | None], expected: Sequence[Tensor | None], *, least: float) -> float:
    """The norm of a difference, relative to the norm of what is expected; missing tensors are zeros."""
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if a is not None or b is not None]
    if not pairs:
        return 0.0
    mine = _joined([torch.zeros_like(b) if a is None else a for a, b in pairs])
    theirs = _joined([torch.zeros_like(a) if b is None else b for a, b in pairs])
    return float((mine - theirs).nan_to_num().norm() / theirs.nan_to_num().norm().clamp(min=least))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
