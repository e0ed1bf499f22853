"""CUDA graphs of compiled graphs: all are captured, with fresh noise, and what they return is safe to keep."""

from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from cases import BY_NAME, CASES
from test_traced import evaluated, same
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_semivae.files import load_checkpoint
from pyro_semivae.infer.graph_checks import _tolerance
from pyro_semivae.infer.traced import NotTraceable, Traced, _draws_elsewhere
from pyro_semivae.train import fit
from pyro_semivae.updates import Update, make_capturable


class Replayed:
    """Stands in for a CUDA graph where there is no GPU: what it returned is overwritten by the next replay."""

    made: ClassVar[list] = []  # of the present test

    def __init__(self, run):
        self.run, self.result, self.replays = run, run(), 0
        self.made.append(self)

    def replay(self):
        self.replays += 1
        if self.replays == 1:  # a capture runs nothing; this one did
            return
        found = self.run()
        for mine, new in zip(self.result or (), found or (), strict=True):
            mine.copy_(new)


def as_traced(graph):
    """Not compiled, which would take a minute. As what is compiled, it is for the strides of its first inputs alone."""
    strides = []

    def run(*tensors):
        strides.append([tensor.stride() for tensor in tensors])
        assert strides[-1] == strides[0]
        return graph(*tensors)

    return run


def with_tensors(optimiser, make=make_capturable):
    """As on a GPU, but without the flag, which optimisers refuse on a CPU."""
    make(optimiser)
    for group in optimiser.param_groups:
        assert group["lr"].device == group["params"][0].device
        group["capturable"] = False


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.cuda)])
def gpu(request, monkeypatch):
    """The device: a GPU, or the CPU with graphs that behave as CUDA graphs; graphs are captured as they were traced."""
    monkeypatch.setattr("pyro_semivae.infer.traced.compiled", as_traced)
    if request.param == "cuda":
        return request.getfixturevalue("device")

    def captured(run):
        graph = Replayed(run)
        return graph, graph.result

    def does_not_wait(run):
        run()
        return ""

    monkeypatch.setattr(Replayed, "made", [])
    monkeypatch.setattr("pyro_semivae.infer.traced.on_gpu", lambda tensors: True)
    for module in ("infer.captured", "updates"):
        monkeypatch.setattr(f"pyro_semivae.{module}.captured", captured)
    for module in ("infer.traced", "updates"):
        monkeypatch.setattr(f"pyro_semivae.{module}.waits_for_gpu", does_not_wait)
    monkeypatch.setattr("pyro_semivae.updates.make_capturable", with_tensors)
    return "cpu"


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_graph_is_captured_and_has_the_losses_of_the_handlers(case, device, monkeypatch):
    monkeypatch.setattr("pyro_semivae.infer.traced.compiled", as_traced)
    graph = same(case, "inductor", device, rtol=1e-9, atol=1e-9)
    assert graph.notes == []


@pytest.mark.parametrize("name", ["ccvae-regulariser", "larvae-prior", "rbvae-recipe"])
def test_a_captured_graph_has_the_losses_of_the_handlers(name, gpu):
    graph = same(BY_NAME[name], "inductor", gpu, rtol=1e-9, atol=1e-9)
    assert graph.notes == []


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["vae", "m2-score", "ccvae-consistency", "larvae-prior"])
def test_a_compiled_one_has_them_too(name, device):
    graph = same(BY_NAME[name], "inductor", device, rtol=1e-7, atol=1e-9)
    assert graph.notes == []


def test_noise_is_new_at_each_replay_and_that_of_the_generator(gpu):
    fn, graph, inputs = evaluated(BY_NAME["ccvae-consistency"], "inductor", gpu)
    torch.manual_seed(5)
    found = [{name: loss.detach() for name, loss in graph(*inputs, done=0.5)[0].items()} for _ in range(6)]
    torch.manual_seed(5)
    expected = [fn(*inputs, done=0.5)[0] for _ in range(6)]
    assert len({float(losses["model"]) for losses in found}) == 6
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one["model"], other["model"].detach(), rtol=1e-9, atol=1e-9)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(2.0))


def of_line(gpu):
    line = Line().to(gpu)

    def compute(x, done):
        return {"loss": (line.slope * x).square().sum()}, [line.slope * x]

    return line, Traced(compute, [line], {"loss": line})


def test_what_a_call_returned_stays(gpu):
    """Gradients add up over calls, and outputs of one call are not those of the next."""
    line, graph = of_line(gpu)
    first, second = torch.ones(3, device=gpu), torch.full((3,), 2.0, device=gpu)
    losses, outputs = [], []
    for x in (first, second):
        found, out = graph(x)
        losses.append(found["loss"])
        outputs += out
    for loss in losses[::-1]:
        assert loss.requires_grad
    assert [float(loss.detach()) for loss in losses] == [12.0, 48.0]
    assert [float(out.mean()) for out in outputs] == [2.0, 4.0]
    one, two = graph.gradients(first), graph.gradients(second)
    assert [float(found.losses["loss"]) for found in (one, two)] == [12.0, 48.0]
    for x in (first, second):
        graph(x)[0]["loss"].backward()
    assert float(line.slope.grad) == 2 * 2 * 3 + 2 * 2 * 12


def test_the_backward_pass_of_an_earlier_call(gpu):
    """Its gradients were overwritten, which is refused."""
    _, graph = of_line(gpu)
    loss = graph(torch.ones(3, device=gpu))[0]["loss"]
    graph(torch.full((3,), 2.0, device=gpu))
    with pytest.raises(NotTraceable, match="the backward pass of an earlier call"):
        loss.backward()


def test_parameters_that_were_moved_are_found(gpu):
    line, graph = of_line(gpu)
    x = torch.ones(3, device=gpu)
    assert float(graph(x)[0]["loss"].detach()) == 12
    line.slope.data = torch.tensor(3.0, device=gpu)
    assert [float(graph(x)[0]["loss"].detach()) for _ in range(2)] == [27, 27]
    with torch.no_grad():
        line.slope.copy_(torch.tensor(1.0))
    assert float(graph(x)[0]["loss"].detach()) == 3


@pytest.mark.cuda
def test_what_waits_for_the_gpu_is_compiled_and_noted(device):
    line = Line().to(device)

    def compute(x, done):
        chosen = torch.multinomial(x, 5, replacement=True).sum().cpu().to(device)
        return {"loss": (line.slope * x + chosen).sum()}, []

    graph = Traced(compute, [line], {"loss": line})
    for _ in range(3):
        assert torch.isfinite(graph(torch.ones(3, device=device))[0]["loss"])
    assert len(graph.notes) == 1 and "is no CUDA graph" in graph.notes[0]


def test_inputs_that_are_not_dense(gpu):
    """Such as every second column: a CUDA graph has a copy of its own."""
    _, graph = of_line(gpu)
    wide, one = torch.arange(8.0, device=gpu).reshape(2, 4), torch.ones(1, device=gpu)
    for x in (wide[:, ::2], one.expand(3), wide.T):
        expected = float((2 * x).square().sum())
        assert [float(graph(x)[0]["loss"].detach()) for _ in range(3)] == [expected] * 3


def test_a_captured_graph_is_compared_less_often(gpu, monkeypatch):
    """At calls 1, 2 and 4, then at every so many; it is much faster than what it is compared with."""
    monkeypatch.setattr("pyro_semivae.infer.traced.EVERY", 3)
    monkeypatch.setattr("pyro_semivae.infer.traced.EVERY_CAPTURED", 5)
    _, graph = of_line(gpu)
    compared, expected = [], graph._expected
    monkeypatch.setattr(graph, "_expected", lambda *args: (compared.append(graph.calls + 1), expected(*args))[1])
    for _ in range(10):
        graph(torch.ones(3, device=gpu))
    assert compared == [1, 2, 4, 5, 10]


@pytest.mark.parametrize(
    ("dtype", "tf32", "tolerance"), [("float32", True, 0.1), ("float32", False, 0.02), ("float64", True, 1e-6)]
)
def test_the_tolerance_where_products_are_shortened(dtype, tf32, tolerance, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    loss = SimpleNamespace(dtype=getattr(torch, dtype), device=torch.device("cuda"), is_cuda=True)
    assert _tolerance(loss, exact=False) == tolerance


def test_a_sample_drawn_on_the_cpu_is_not_captured():
    """It would be the same at each replay."""
    graph = make_fx(lambda x: x + torch.rand(()))(torch.zeros(2))
    assert _draws_elsewhere(graph, torch.device("cuda")) == "a sample is drawn on the CPU"
    assert _draws_elsewhere(graph, torch.device("cpu")) == ""


@pytest.mark.parametrize("found_by", ["waits_for_gpu", "_draws_elsewhere"])
def test_a_graph_that_waits_trains_without_one(found_by, gpu, monkeypatch):
    """And says so."""
    monkeypatch.setattr(f"pyro_semivae.infer.traced.{found_by}", lambda *_: "called a synchronizing operation")
    history, _ = trained("ccvae-consistency", gpu, compile="on")
    assert history.compiled and history.notes == [
        "compile: called a synchronizing operation; the graph is no CUDA graph: its kernels are launched one by one"
    ]


def test_a_graph_that_is_given_up_leaves_its_notes(gpu, monkeypatch):
    """Hooks that come later end it, under auto."""
    monkeypatch.setattr("pyro_semivae.infer.traced.waits_for_gpu", lambda run: "called a synchronizing operation")
    monkeypatch.setattr("pyro_semivae.train.pays", lambda *_: True)

    def hook(epoch, vae):
        if epoch == 2:
            next(vae.parameters()).register_post_accumulate_grad_hook(lambda parameter: None)

    history, _ = trained("m2", gpu, compile="auto", on_epoch=hook)
    assert not history.compiled and len(history.notes) == 2
    assert "is no CUDA graph" in history.notes[0] and "with hooks" in history.notes[1]


def trained(name, gpu, **options):
    """The history of a model that was trained, and its weights."""
    vae, elbo = BY_NAME[name].make()
    x, y = BY_NAME[name].batch()
    how = {"epochs": 5, "batch_size": 3, "corrupt": None, "progress": False, "accelerator": gpu}
    how |= {"warm_up": 0.5, "ema_decay": 0.9}
    history = fit(vae, x.double(), y, elbo=elbo, **{**how, **options})
    return history, vae.state_dict()


def same_training(name, gpu, **options):
    """By captured graphs as by the handlers; the notes."""
    (_, expected), (history, found) = (trained(name, gpu, compile=compile, **options) for compile in ("off", "on"))
    assert history.compiled
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-8)
    return history.notes


@pytest.mark.parametrize("name", ["ccvae-consistency", "m2-score", "rbvae-recipe", "larvae-prior", "inverted"])
def test_training_by_captured_graphs(name, gpu):
    """As by the handlers: schedules, critics with their own optimisers, averages."""
    assert same_training(name, gpu) == []


def test_gradients_that_are_clipped_in_place(gpu):
    assert same_training("m2", gpu, clip=partial(torch.nn.utils.clip_grad_norm_, max_norm=0.01)) == []


def test_an_optimiser_that_cannot_be_captured(gpu):
    """Its steps are taken one by one, with gradients from CUDA graphs."""
    assert same_training("m2", gpu, optimiser=torch.optim.SGD, lr=1e-4) == []
    assert gpu == "cuda" or len(Replayed.made) == 1  # of the gradients


def test_an_optimisers_step_that_waits(gpu, monkeypatch):
    """The second one says so, for in the first one optimisers create their state."""
    asked = []

    def waits(run):
        run()
        asked.append(1)
        return "called a synchronizing operation"

    undone = []
    monkeypatch.setattr("pyro_semivae.updates.waits_for_gpu", waits)
    monkeypatch.setattr("pyro_semivae.updates.undo_capturable", undone.append)
    notes = same_training("m2", gpu)
    assert (
        len(undone) == 1
        and len(asked) == 2
        and notes == ["compile: called a synchronizing operation; the optimiser's step is no CUDA graph"]
    )


def test_the_third_step_is_captured_and_again_if_gradients_are_elsewhere(gpu):
    line, graph = of_line(gpu)
    optimiser = torch.optim.Adam(line.parameters(), lr=0.1, fused=True)
    eager = []
    update = Update({"loss": line}, lambda: (eager.append(1), optimiser.step()), [optimiser])
    expected = Line().to(gpu)
    other = torch.optim.Adam(expected.parameters(), lr=0.1)
    for step in range(9):
        if step == 5:
            line.slope.data = line.slope.data.clone()
        x = torch.full((3,), 1.0 + step, device=gpu)
        update(graph.gradients(x))
        other.zero_grad()
        (expected.slope * x).square().sum().backward()
        other.step()
        torch.testing.assert_close(line.slope, expected.slope, rtol=1e-6, atol=0)
        if gpu == "cuda":
            assert len(eager) == [1, 2, 3, 3, 3, 4, 5, 6, 6][step]
        else:  # the graphs of gradients, and of steps
            assert len(Replayed.made) == [1, 1, 2, 2, 2, 3, 3, 4, 4][step]
    assert update.notes == []


@pytest.mark.parametrize("name", ["m2", "factor-vae"])
def test_a_checkpoint_is_as_on_the_cpu(name, gpu, tmp_path):
    """Learning rates, which are tensors on the GPU, are numbers in it; a run goes on from it as if it never stopped."""
    found = {}
    for parts in ([4], [2, 4]):
        for epochs in parts:
            how = {"checkpoint": tmp_path / f"{len(parts)}.pt", "resume": True, "schedule": "constant", "warm_up": 0.0}
            _, weights = trained(name, gpu, compile="on", epochs=epochs, **how)
        found[len(parts)] = weights
        state = load_checkpoint(tmp_path / f"{len(parts)}.pt")
        of_critics = [critic["optimiser"] for critic in state["critics"].values()]
        assert bool(of_critics) == (name == "factor-vae")
        for group in (group for one in (state["optimiser"], *of_critics) for group in one["param_groups"]):
            assert isinstance(group["lr"], float) and group["capturable"] is False
    for name, value in found[1].items():
        assert torch.equal(value, found[2][name]), name


@pytest.mark.parametrize("compile", ["off", "on"])
def test_the_schedule_reaches_the_steps(compile, gpu):
    """With a learning rate of 0 from the middle on, weights stay."""
    seen = []

    def keep(epoch, vae):
        seen.append(vae.p_x.net.layers[0].weight.detach().clone())

    how = {"schedule": lambda done: float(done < 0.5), "ema_decay": 0.0, "on_epoch": keep}
    trained("m2", gpu, compile=compile, epochs=6, **how)
    first, _, middle, *others = seen
    assert not torch.equal(first, middle) and all(torch.equal(weight, middle) for weight in others)
