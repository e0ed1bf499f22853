"""Products of the same weights in a graph become one."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_semivae.infer.inductor import merged
from pyro_semivae.infer.joining import joined

aten = torch.ops.aten
NAMES = {
    aten.addmm.default: "addmm",
    aten.mm.default: "mm",
    aten.convolution.default: "conv",
    aten.convolution_backward.default: "conv_backward",
    aten.cat.default: "cat",
}


def counted(graph) -> dict[str, int]:
    return dict(Counter(NAMES[node.target] for node in graph.graph.nodes if node.target in NAMES))


def traced(loss, module: nn.Module, *inputs: Tensor):
    """The graph of a loss and of its gradients in a module's parameters, and its inputs."""
    names, values = zip(*module.named_parameters(), strict=True)

    def fn(*given: Tensor) -> list[Tensor]:
        own, rest = given[: len(names)], given[len(names) :]
        value = loss(lambda *x: torch.func.functional_call(module, dict(zip(names, own, strict=True)), x), *rest)
        return [value, *torch.autograd.grad(value, own, allow_unused=True)]

    given = [*(value.detach().clone().requires_grad_() for value in values), *inputs]
    graph = merged(make_fx(fn)(*given))
    graph.graph.eliminate_dead_code()
    return graph, [value.detach() for value in given]


def before_and_after(loss, module: nn.Module, *inputs: Tensor) -> tuple[dict[str, int], dict[str, int]]:
    """Counts operations before and after, and asserts that all results are the same."""
    graph, given = traced(loss, module, *inputs)
    expected, before = graph(*given), counted(graph)
    once = joined(graph)
    once.graph.lint()
    torch.testing.assert_close(once(*given), expected, rtol=1e-11, atol=1e-11)
    return before, counted(merged(once))


def mlp(*sizes: int) -> nn.Sequential:
    layers = [module for pair in pairwise(sizes) for module in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def convs() -> nn.Sequential:
    layers = [
        nn.Conv2d(2, 3, 3, stride=2),
        nn.LeakyReLU(),
        nn.Conv2d(3, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4, 5),
    ]
    return nn.Sequential(*layers)


def deconvs() -> nn.Sequential:
    layers = [
        nn.Linear(3, 20),
        nn.Unflatten(1, (5, 2, 2)),
        nn.ReLU(),
        nn.ConvTranspose2d(5, 2, 2, stride=2),
        nn.Sigmoid(),
    ]
    return nn.Sequential(*layers)


def test_runs_of_a_network_become_one():
    """Three runs, one of them in another shape, of a network with two layers: two products forwards, and two gradients
    of weights and one of the hidden layer backwards."""
    x, y, z = torch.randn(2, 3), torch.randn(4, 3), torch.randn(6, 5, 3)

    def loss(net, x, y, z):
        return net(x).sin().sum() + net(y).square().sum() * 0.3 + net(z).cos().sum()

    before, after = before_and_after(loss, mlp(3, 7, 4), x, y, z)
    assert before == {"addmm": 6, "mm": 9} and {**after, "cat": 0} == {"addmm": 2, "mm": 3, "cat": 0}
    assert after["cat"] == 2, "the inputs and the gradients of the outputs; what lies between is not copied"


def test_networks_of_images_too():
    x, y = torch.randn(2, 2, 6, 6), torch.randn(5, 2, 6, 6)

    def loss(net, x, y):
        return net(x).sin().sum() + net(y).square().sum()

    before, after = before_and_after(loss, convs(), x, y)
    assert before == {"conv": 4, "addmm": 2, "conv_backward": 4, "mm": 4}
    assert after == {"conv": 2, "addmm": 1, "conv_backward": 2, "mm": 2, "cat": 2}
    z, e = torch.randn(2, 3), torch.randn(4, 3)
    before, after = before_and_after(loss, deconvs(), z, e)
    assert before["conv"] == before["conv_backward"] == 2 and after["conv"] == after["conv_backward"] == 1


def test_rows_of_one_tensor_in_another_order():
    x = torch.randn(7, 3)

    def loss(net, x):
        return net(x[3:]).sin().sum() + net(x[:3]).square().sum()

    _, after = before_and_after(loss, mlp(3, 6, 2), x)
    assert after["addmm"] == 2 and after["mm"] == 3
    assert after["cat"] == 1, "the rows of x are together already; the gradients of the outputs are not"


def test_what_depends_on_each_other_stays_apart():
    def loss(net, x, y):
        first = net(x)
        return net(first).sin().sum() + net(y).sum()

    before, after = before_and_after(loss, nn.Linear(3, 3), torch.randn(2, 3), torch.randn(4, 3))
    assert before["addmm"] == 3 and after["addmm"] == 2
    assert after["mm"] == before["mm"] - 2 == 2, "the gradients of the weights are one product all the same"


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = convs(), nn.Sequential(deconvs(), nn.UpsamplingNearest2d(6))

    def forward(self, which: str, x: Tensor) -> Tensor:
        return getattr(self, which)(x)


def test_runs_with_gradients_come_first():
    """Generated images have no gradient in the decoder, and are encoded with the others."""

    def loss(net, x, y, z):
        with torch.no_grad():
            generated = net("decoder", z)
        codes = [net("encoder", images) for images in (x, y, generated)]
        images = [net("decoder", code[:, :3]) for code in codes[:2]]
        return sum(code.square().sum() for code in codes) + sum(image.sin().sum() for image in images)

    before, after = before_and_after(loss, Both(), torch.randn(2, 2, 6, 6), torch.randn(4, 2, 6, 6), torch.randn(3, 3))
    assert before["conv"] == 3 * 2 + 3 and before["conv_backward"] == 3 * 2 + 2
    assert after["conv"] == 2 + 2 and after["conv_backward"] == 2 + 1


def test_gradients_that_are_not_added_up_stay_apart():
    net, x, y = nn.Linear(3, 4), torch.randn(2, 3), torch.randn(5, 3)

    def fn(w, b, x, y):
        found = [torch.nn.functional.linear(rows, w, b).sin().sum() for rows in (x, y)]
        return [gradient for loss in found for gradient in torch.autograd.grad(loss, [w, b])]

    w, b = (value.detach().clone().requires_grad_() for value in (net.weight, net.bias))
    graph = merged(make_fx(fn)(w, b, x, y))
    expected = graph(w.detach(), b.detach(), x, y)
    once = joined(graph)
    assert counted(once)["addmm"] == 1 and counted(once)["mm"] == 2
    torch.testing.assert_close(once(w.detach(), b.detach(), x, y), expected)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 5), nn.Linear(5, 2)])

    def forward(self, which: int, x: Tensor) -> Tensor:
        return self.layers[which](x)


def test_operations_whose_rows_are_not_alike_are_not_moved():
    """Scales that differ between the runs, a mean over rows, and a tensor with one row."""
    x, y, scale = torch.randn(4, 3), torch.randn(4, 3), torch.rand(1, 5)

    def loss(net, x, y, scale):
        first, second = net[0](x), net[0](y)
        first, second = (first * scale).sigmoid() * 2, (second * scale).sigmoid() * 3
        return net[1](first - first.mean(0)).sin().sum() + net[1](second - second.mean(0)).sum()

    def given(net, *inputs):
        return loss([lambda x: net(0, x), lambda x: net(1, x)], *inputs)

    before, after = before_and_after(given, Pair(), x, y, scale)
    assert before["addmm"] == 4 and after["addmm"] == 2


def test_a_sum_with_a_matrix_is_not_a_layer():
    graph = make_fx(lambda b, x, y, w: torch.addmm(b, x, w).sin() + torch.addmm(b, y, w).cos())(*torch.rand(4, 3, 3))
    assert counted(joined(graph)) == {"addmm": 2}
    graph(*torch.rand(4, 3, 3))


@pytest.mark.parametrize(("number", "shared"), [(40, True), (300, False)])
def test_long_and_shared_pointwise_operations(number, shared):
    """Each is looked at once, though there are 2 to the 40 ways through the first; the second are too many for it."""

    def loss(net, x):
        rows = [net(0, x[2:]), net(0, x[:2])]
        for _ in range(number):
            rows = [h * h.sigmoid() if shared else h.tanh() for h in rows]
        return sum(net(1, h).sum() for h in rows)

    before, after = before_and_after(loss, Pair(), torch.randn(5, 3))
    assert before["addmm"] == 4 and after["addmm"] == 2


def test_shapes_that_are_no_rows():
    """A view of one number, and one whose memory has another order."""
    w, b = torch.randn(5, 1), torch.randn(5)
    once = joined(make_fx(lambda x, y: [torch.nn.functional.linear(v.reshape(1, 1), w, b) for v in (x, y)])(*w[:2, 0]))
    found = once(*w[:2, 0])
    torch.testing.assert_close(torch.cat(found), torch.nn.functional.linear(w[:2], w, b))

    def last(x: Tensor, y: Tensor, w: Tensor) -> list[Tensor]:
        return [(v @ w).view(-1, 3, 2, 2).contiguous(memory_format=torch.channels_last) for v in (x, y)]

    given = torch.randn(2, 5), torch.randn(4, 5), torch.randn(5, 12)
    torch.testing.assert_close(joined(make_fx(last)(*given))(*given), last(*given))


@pytest.mark.parametrize(
    "rows",
    [
        lambda x: (x[:3], x[3:5]),
        lambda x: (x[0:4:2], x[4:8:2]),
        lambda x: (x[:4] * x[4:8, :1], x[1:5] * x[4:8, :1]),
        lambda x: (x[:, :1], x[:3, 1:2]),
    ],
)
def test_rows_that_are_a_part_of_a_tensor(rows):
    before_and_after(lambda net, x: sum(net(part.expand(-1, 3)).sin().sum() for part in rows(x)), mlp(3, 5, 2), R)


R = torch.rand(8, 3, dtype=torch.float64)


def test_operations_that_differ_between_runs():
    """Two kinds of GELU, a factor for each row in both, and a sum of products with a factor."""
    factor = torch.rand(4, 1)

    def loss(net, x, y, factor):
        hidden = [torch.nn.functional.gelu(net(0, x), approximate=kind) for kind in ("none", "tanh")]
        of_y = [net(0, y[i : i + 4]) * factor for i in (0, 4)]
        return sum(net(1, h).sin().sum() for h in (*hidden, *of_y))

    _, after = before_and_after(loss, Pair(), torch.randn(4, 3), R, factor)
    assert after["addmm"] == 2

    def summed(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return torch.add(a.t() @ b, c.t() @ d, alpha=3)

    given = [torch.randn(number, 3) for number in (4, 4, 5, 5)]
    torch.testing.assert_close(joined(make_fx(summed)(*given))(*given), summed(*given))


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 60))])
def test_random_programs(seed):
    """Networks run on inputs, on parts of them and on each other's outputs, with shared rows and weights."""
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)

    def pick(number: int) -> int:
        return int(torch.randint(number, (), generator=draw))

    plan = [(pick(3), pick(50), pick(5)) for _ in range(8)]

    class Nets(nn.Module):
        def __init__(self):
            super().__init__()
            self.nets = nn.ModuleList([mlp(4, 6, 4), nn.Linear(4, 4), mlp(4, 5, 4)])

        def forward(self, which: int, x: Tensor) -> Tensor:
            return self.nets[which](x)

    def loss(net, x, y):
        known, total = [x, y, x[:2], x[2:], y[1:4]], 0.0
        for which, place, kind in plan:
            rows = known[place % len(known)]
            rows = [rows, rows.detach(), rows.tanh(), rows * 2 + rows, torch.cat([rows, rows[:1]])][kind]
            known.append(net(which, rows))
            total = total + known[-1].sin().sum() * (1 + place)
        return total

    before, after = before_and_after(loss, Nets(), torch.randn(5, 4), torch.randn(6, 4))
    assert all(after.get(name, 0) <= before[name] for name in before if name != "cat")


@pytest.mark.parametrize(
    ("few", "products"),
    [(1, {"addmm": 2, "mm": 2}), (2, {"addmm": 1, "mm": 1, "cat": 2})],
)
def test_a_large_product_is_copied_for_enough_others_alone(few, products):
    _, after = before_and_after(
        lambda net, x, y: (net(x) * x[:, :1]).sin().sum() + (net(y) * 2).cos().sum(),
        nn.Linear(3, 2).double(),
        torch.randn(30, 3, dtype=torch.float64),
        torch.randn(few, 3, dtype=torch.float64),
    )
    assert after == products


def test_rows_that_are_in_one_tensor_are_joined_however_few():
    _, after = before_and_after(
        lambda net, x: net(x[:30]).sin().sum() + net(x[30:]).cos().sum(),
        nn.Linear(3, 2).double(),
        torch.randn(31, 3, dtype=torch.float64),
    )
    assert after["addmm"] == 1
