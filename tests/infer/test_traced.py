"""Losses and gradients by a graph are those of the handlers, under the same noise, for every case."""

import random

import numpy as np
import pyro
import pytest
import torch
from cases import BY_NAME, CASES
from torch import nn

from pyro_semivae.infer.owners import Owners
from pyro_semivae.infer.traced import NotTraceable, Traced
from pyro_semivae.train import fit

COMPILED = ("vae", "m2-score")  # the second one's graph is cut by a sample of values


def marked(name):
    return pytest.param(name, marks=pytest.mark.slow)


def evaluated(case, compiler, device="cpu"):
    """The function of a case that is traced, the graph of it, and its inputs."""
    vae, elbo = case.make()
    x, y = (values.to(device) for values in case.batch())
    x, scale = x.double(), torch.rand(len(x), device=device).double() + 0.5
    module = elbo(vae.to(device).model, vae.guide)
    elbo.modules().to(device, torch.float64)

    def fn(x, y, scale, done):
        found = module.evaluate(x, y, scale=scale, done=done)
        return {"model": -found.total(), **found.losses}, [value.value.detach() for value in found.values]

    with torch.no_grad(), pyro.validation_enabled(False):
        fn(x, y, scale, 0.0)  # critics get their sizes
    critics = elbo.modules()
    return fn, Traced(fn, [module, critics], {"model": vae, **critics}, compiler=compiler), (x, y, scale)


def same(case, compiler, device="cpu", **tolerance):
    fn, graph, (x, y, scale) = evaluated(case, compiler, device)
    torch.manual_seed(3)
    with pyro.validation_enabled(False):
        losses, terms = fn(x, y, scale, done=0.25)
    parameters = {name: [p for p in module.parameters() if p.requires_grad] for name, module in graph.trained.items()}
    expected = {
        name: torch.autograd.grad(loss, parameters[name], retain_graph=True, allow_unused=True)
        for name, loss in losses.items()
    }
    torch.manual_seed(3)
    found, of_graph = graph(x, y, scale, done=0.25)
    assert {*found} == {*losses}
    for name, loss in losses.items():
        torch.testing.assert_close(found[name].detach(), loss.detach(), **tolerance)
        gradients = torch.autograd.grad(found[name], parameters[name], allow_unused=True)
        assert any(gradient is not None for gradient in gradients)
        for gradient, other in zip(gradients, expected[name], strict=True):
            assert (gradient is None) == (other is None)
            if other is not None:
                torch.testing.assert_close(gradient, other, **tolerance)
    torch.testing.assert_close(of_graph, terms, **tolerance)
    assert graph.graphs == 1 and graph.calls == 1
    return graph


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_graph_has_the_terms_losses_and_gradients_of_the_handlers(case):
    same(case, "none", rtol=0, atol=0)


PREPARED = ("m2", "larvae-prior", "factor-vae", "inverted")


@pytest.mark.parametrize("name", [*PREPARED, *(marked(name) for name in BY_NAME if name not in PREPARED)])
def test_passes_over_a_graph_keep_them(name, monkeypatch):
    """Before the compiler, which is left out."""
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs: graph)
    same(BY_NAME[name], "inductor", rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_graph_has_them_too(name):
    same(BY_NAME[name], "inductor", rtol=1e-9, atol=1e-9)


def test_random_operations_keep_their_order_where_a_graph_is_cut():
    """The sample that depends on values comes second, as without a graph."""
    line = Line()

    def compute(x, done):
        noise = torch.randn(4)
        chosen = torch.multinomial((line.slope * x).softmax(0).detach(), 4, replacement=True)
        return {"loss": (line.slope * x[chosen] * noise).sum()}, [noise, chosen]

    graph, x = Traced(compute, [line], {"loss": line}), torch.rand(6)
    torch.manual_seed(1)
    expected = compute(x, 0.0)
    torch.manual_seed(1)
    found = graph(x)
    assert torch.equal(found[1][0], expected[1][0]) and torch.equal(found[1][1], expected[1][1])
    torch.testing.assert_close(found[0]["loss"].detach(), expected[0]["loss"].detach())


@pytest.mark.parametrize("name", ["ccvae-exact", "m2", "vae", "mvae", "rbvae"])
def test_a_warm_up_of_beta_is_an_input_of_the_graph(name, graphs):
    found = []
    for compile in ("off", "on"):
        vae, elbo = BY_NAME[name].make()
        x, y = BY_NAME[name].batch()
        how = {"epochs": 4, "batch_size": 4, "warm_up": 0.8, "corrupt": None, "progress": False}
        fit(vae, x.double(), y, elbo=elbo, compile=compile, **how)
        found.append(vae.state_dict())
    assert len(graphs) == 1 and all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.name not in COMPILED], ids=lambda case: case.name)
def test_compiled_graphs_have_them_too(case):
    same(case, "inductor", rtol=1e-7, atol=1e-9)


class Normalised(nn.Module):
    """A network with running statistics, which a step changes."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x):
        return self.net(x)


def test_running_statistics_are_updated_once_a_step():
    """Comparing both, and tracing, leaves them as they were."""
    torch.manual_seed(0)
    one, x = Normalised(), torch.rand(7, 2, 3)
    other = Normalised()
    other.load_state_dict(one.state_dict())
    graph = Traced(lambda x, done: ({"loss": one(x).sum()}, []), [one], {"loss": one}, compiler="none")
    for _ in range(5):
        graph(x)[0]["loss"].backward()
        other(x).sum().backward()
    for name, value in other.state_dict().items():
        assert torch.equal(one.state_dict()[name], value), name
    one.eval()
    other.eval()
    assert torch.equal(graph(x)[0]["loss"], other(x).sum()) and graph.graphs == 2


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope, self.steps = nn.Parameter(torch.tensor(2.0)), 0


def of_line(compute, **options):
    line = Line()
    return line, Traced(
        lambda x, done: ({"loss": compute(line, x)}, []), [line], {"loss": line}, compiler="none", **options
    )


def counted(line, x):
    line.steps += 1
    return (line.slope * x * line.steps).sum()


REFUSED = {
    "random": (lambda line, x: (line.slope * x * random.random()).sum(), "the step draws from random;"),
    "numpy": (
        lambda line, x: (line.slope * x * np.random.rand()).sum(),  # noqa: NPY002
        r"the step draws from numpy\.random;",
    ),
    "branch": (
        lambda line, x: (line.slope * x).sum() if x.sum() > 0 else line.slope,
        "the step is no graph of tensors",
    ),
    "item": (lambda line, x: line.slope * x.sum().item(), "the step is no graph of tensors"),
    "counter": (counted, "Something in model, guide or terms is not a function of tensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_graph_is_refused(name):
    compute, message = REFUSED[name]
    _, graph = of_line(compute)
    with pytest.raises(NotTraceable, match=f"compile: .*{message}"):
        for _ in range(8):
            graph(torch.rand(5) + 0.1)


def test_the_fraction_of_training_is_an_input():
    line = Line()

    def compute(x, done):
        return {"loss": (line.slope * x * done).sum()}, []

    graph = Traced(compute, [line], {"loss": line}, compiler="none")
    found = [float(graph(torch.ones(2), done=done)[0]["loss"].detach()) for done in (0.0, 0.5, 0.75)]
    assert found == [0.0, 2.0, 3.0] and graph.graphs == 1


def test_what_fails_leaves_no_trace_behind():
    """Random numbers, running statistics and graphs are as they were."""
    torch.manual_seed(0)
    net, x, state = Normalised(), torch.rand(7, 2, 3), {"factor": 1.0}

    def compute(x, done):
        state["factor"] += 1
        return {"loss": (net(x) * state["factor"] * torch.rand(7, 1)).sum()}, []

    graph = Traced(compute, [net], {"loss": net}, compiler="none")
    before, weights = torch.get_rng_state(), {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(NotTraceable, match="the graph has the loss") as caught:
        graph(x)
    assert caught.value.first and graph.graphs == 0 and torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


def test_inputs_with_gradients_and_other_buffers_are_refused_and_no_gradients_means_no_graph():
    _, graph = of_line(lambda line, x: (line.slope * x).sum())
    with pytest.raises(NotTraceable, match="an input that requires a gradient"):
        graph(torch.ones(2, requires_grad=True))
    with torch.no_grad():
        assert float(graph(torch.ones(2))[0]["loss"]) == 4 and graph.graphs == 0

    class Counting(Line):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

    counting = Counting()

    def compute(x, done):
        counting.seen = counting.seen + 1
        return {"loss": (counting.slope * x).sum()}, []

    with pytest.raises(NotTraceable, match=r"another tensor in the place of the buffer .*seen"):
        Traced(compute, [counting], {"loss": counting}, compiler="none")(torch.ones(2))


def test_an_attribute_that_changes_later_is_found():
    line, graph = of_line(lambda line, x: (line.slope * x * (1 + line.steps)).sum())
    graph(torch.ones(2))
    line.steps = 1
    with pytest.raises(NotTraceable, match="such as an attribute that changes from step to step"):
        for _ in range(3):
            graph(torch.ones(2))


def test_other_shapes_have_graphs_of_their_own_up_to_a_number():
    line, graph = of_line(lambda line, x: (line.slope * x).sum(), most_graphs=2)
    for size in (3, 4, 3, 4):
        graph(torch.ones(size))[0]["loss"].backward()
    assert line.slope.grad == 14 and graph.graphs == 2
    with pytest.raises(NotTraceable, match=r"got 3 different signatures .*; expected at most 2"):
        graph(torch.ones(5))


def test_a_frozen_parameter_and_the_scale_of_the_loss():
    """The gradient is that of whatever the loss is multiplied with; a signature knows what requires a gradient."""
    line, graph = of_line(lambda line, x: (line.slope * x).sum() + (0 * x).sum())
    (3 * graph(torch.ones(2))[0]["loss"]).backward()
    assert line.slope.grad == 6
    line.slope.requires_grad_(False)
    assert not graph(torch.ones(2))[0]["loss"].requires_grad and graph.graphs == 2


def test_another_parameter_or_module_in_the_place_of_one_is_found():
    """Also where its shape is the same, and the graph is."""
    line, graph = of_line(lambda line, x: (line.slope * x).sum())
    x = torch.ones(2)
    assert float(graph(x)[0]["loss"].detach()) == 4
    line.slope = nn.Parameter(torch.tensor(3.0))
    graph(x)[0]["loss"].backward()
    assert line.slope.grad == 2 and float(graph(x)[0]["loss"].detach()) == 6 and graph.graphs == 1
    both = nn.ModuleList([Line()])
    graph = Traced(lambda x, done: ({"loss": both[0].slope * x.sum()}, []), [both], {"loss": both}, compiler="none")
    graph(x)
    both[0] = Line()
    graph(x)[0]["loss"].backward()
    assert both[0].slope.grad == 2


def test_a_parameter_that_goes_to_another_module_is_found():
    """All modules together have the same ones then, in the same order."""
    both = nn.ModuleList([Line(), nn.Module()])
    owners = Owners(both, {"of the first": both[0]})
    assert owners.now().trained == {"of the first": ["0.slope"]}
    both[1].slope = both[0].slope
    del both[0].slope
    assert owners.now().trained == {"of the first": []} and [*owners.now().parameters] == ["1.slope"]


def test_a_parameter_that_is_moved_is_found():
    """Its values in other memory, of another dtype, in another layout: the parameter itself is the same object."""
    square = nn.Linear(2, 2, bias=False)
    graph = Traced(
        lambda x, done: ({"loss": square(x.to(square.weight.dtype)).square().sum()}, []),
        [square],
        {"loss": square},
        compiler="none",
    )
    x = torch.rand(3, 2)

    def changes(new, graphs):
        square.weight.data = new(square.weight.data)
        expected = square(x.to(square.weight.dtype)).square().sum()
        assert torch.equal(graph(x)[0]["loss"].detach(), expected.detach()) and graph.graphs == graphs

    for _ in range(5):  # calls 3, 5, ... are not compared
        changes(lambda data: data + 1, 1)
    changes(lambda data: data.t(), 2)
    changes(lambda data: data.t(), 2)
    changes(lambda data: data.float(), 3)
    square.double()
    changes(lambda data: data, 3)


def test_lower_precision_is_compared_less_exactly(monkeypatch):
    """Under autocast losses are of float32, but their gradients differ as those of bfloat16 do."""

    def rough(graph, inputs):
        return lambda *given: [1.1 * value for value in graph(*given)]

    monkeypatch.setattr("torch._inductor.compile", rough)
    line = nn.Linear(3, 2).float()
    graph = Traced(lambda x, done: ({"loss": line(x).float().square().sum()}, []), [line], {"loss": line})
    with torch.autocast("cpu", torch.bfloat16):
        assert graph(torch.rand(4, 3, dtype=torch.float32))[0]["loss"].dtype == torch.float32
    with pytest.raises(NotTraceable, match="gradients differ"):
        graph(torch.rand(4, 3, dtype=torch.float32))
