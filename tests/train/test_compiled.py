"""Training by a graph, compiled or not."""

from functools import partial
from types import SimpleNamespace

import pyro
import pytest
import torch
from cases import BY_NAME

import pyro_semivae.trainer as trainer_module
from pyro_semivae import data
from pyro_semivae.compiling import pays, seconds_of_step
from pyro_semivae.data import Batches
from pyro_semivae.errors import InputError
from pyro_semivae.infer import WarmUp
from pyro_semivae.models import VAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes
from pyro_semivae.train import fit


@pytest.mark.parametrize("name", ["ccvae-consistency", "m2-score", "rbvae-recipe", "larvae-prior", "inverted"])
def test_training_by_a_graph_is_training_without(name, graphs):
    """Schedules, noise on data, dropout, critics with their own optimisers, averages: bit for bit."""
    found = {}
    for compile in ("off", "on"):
        vae, elbo = BY_NAME[name].make()
        x, y = BY_NAME[name].batch()
        elbo = WarmUp(0.7, 2.0) * elbo
        how = {"epochs": 5, "batch_size": 3, "corrupt": partial(data.shift, pixels=1), "progress": False}
        history = fit(vae, x.double(), y, elbo=elbo, compile=compile, ema_decay=0.9, **how)
        assert history.compiled == (compile == "on") and not history.notes
        found[compile] = (
            [{name: value for name, value in record.items() if name != "seconds"} for record in history],
            vae.state_dict(),
        )
    (records, weights), (of_graph, weights_of_graph) = found["off"], found["on"]
    assert of_graph == records and records[0] != records[-1]
    assert any(name.startswith("weight/") for name in records[0])
    assert all(torch.equal(value, weights_of_graph[name]) for name, value in weights.items())
    assert len(graphs) == 1 and graphs[0].calls >= 5


def test_a_run_that_goes_on_is_one_that_was_never_interrupted(graphs, tmp_path):
    case, states = BY_NAME["factor-vae"], {}
    x, y = case.batch()
    for parts in ([4], [2, 4]):
        for epochs in parts:
            vae, elbo = case.make()
            file = tmp_path / f"{len(parts)}.pt"
            how = {"checkpoint": file, "resume": True, "progress": False, "schedule": "constant"}
            fit(vae, x.double(), y, elbo=elbo, epochs=epochs, batch_size=2, compile="on", **how)
        states[len(parts)] = vae.state_dict()
    assert all(torch.equal(value, states[2][name]) for name, value in states[1].items())


def small():
    torch.manual_seed(0)
    vae = VAE((1, 2, 3), Classes(2), z=2, networks=MLPs((4,)))
    return vae, torch.rand(12, 1, 2, 3)


class Branching(VAE):
    """A model that looks at values."""

    def model(self, x=None, y=None):
        if x is not None and x.mean() > 2:
            return
        super().model(x, y)


def test_auto_goes_on_without_a_graph_and_says_so(monkeypatch, capsys):
    """As if it had never been asked for."""
    monkeypatch.setattr("pyro_semivae.train.pays", lambda *_: True)
    found = {}
    for compile in ("auto", "off"):
        _, x = small()
        vae = Branching((1, 2, 3), Classes(2), z=2, networks=MLPs((4,)))
        history = fit(vae, x, epochs=2, batch_size=6, compile=compile)
        found[compile] = history, vae.state_dict(), capsys.readouterr().err
    history, weights, said = found["auto"]
    assert not history.compiled and len(history) == 2 and not found["off"][0].notes
    assert "the step is no graph of tensors" in history.notes[0] and "training goes on without" in history.notes[0]
    assert f"NOTE: {history.notes[0]}" in said
    assert all(torch.equal(value, weights[name]) for name, value in found["off"][1].items())
    with pytest.raises(InputError, match=r"no graph of tensors.*compile='off' trains without a graph"):
        fit(vae, x, epochs=2, batch_size=6, compile="on", progress=False)
    with pytest.raises(InputError, match="compile: got 'yes'"):
        fit(vae, x, epochs=2, compile="yes")
    with pytest.raises(InputError, match="compile: got 'on' with precision '16-mixed'"):
        fit(vae, x, epochs=2, compile="on", precision="16-mixed")


def test_auto_goes_on_where_there_is_no_compiler(monkeypatch):
    def fails(part, inputs):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr("torch._inductor.compile", fails)
    monkeypatch.setattr("pyro_semivae.train.pays", lambda *_: True)
    vae, x = small()
    history = fit(vae, x, epochs=1, batch_size=6, progress=False)
    assert "TorchInductor failed: RuntimeError: no C++ compiler; training goes on" in history.notes[0]


class Moving(VAE):
    """A model with an attribute that it reads."""

    factor = 1.0

    def guide(self, x=None, y=None):
        super().guide(x if x is None else x * self.factor, y)


def test_the_last_step_of_a_training_is_compared(graphs):
    """What changes after the last power of two."""
    _, x = small()
    vae = Moving((1, 2, 3), Classes(2), z=2, networks=MLPs((4,)))

    def change(epoch, vae):
        vae.factor = 1.0 if epoch < 5 else 0.0

    with pytest.raises(InputError, match="such as an attribute that changes from step to step"):
        fit(vae, x, epochs=7, batch_size=12, compile="on", on_epoch=change, corrupt=None, progress=False)
    assert graphs[0].calls == 6


def test_progress_does_not_count_the_step_that_compiles(graphs, monkeypatch):
    seen = []
    monkeypatch.setattr("pyro_semivae.progress.Progress.restart", lambda self: seen.append(self.at))
    vae, x = small()
    fit(vae, x, epochs=2, batch_size=6, compile="on", progress=False)
    assert seen == [0] and graphs[0].calls == 4


def test_lower_precision_is_in_the_graph(graphs):
    found = []
    for compile in ("off", "on"):
        vae, x = small()
        vae.float()
        fit(vae, x.float(), epochs=3, batch_size=6, compile=compile, precision="bf16-mixed", progress=False)
        found.append(vae.state_dict())
    assert len(graphs) == 1 and all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_auto_compiles_what_is_long():
    """By the number of steps and their size, not by a clock."""
    vae, x = small()
    batches = Batches(x, None, batch_size=6)
    fabric = trainer_module.Fabric(accelerator="cpu", devices=1)
    how = {"optimiser": torch.optim.Adam, "lr": 1e-3, "corrupt": None, "clip": None, "ema_decay": 0.0}
    trainer = trainer_module.Trainer(vae, vae.elbo(), fabric, **how)
    batch = next(batches.epoch(0))
    with pyro.validation_enabled(False):
        assert 0.004 < seconds_of_step(trainer, batch) < 0.006
        assert seconds_of_step(trainer, batch) == seconds_of_step(trainer, batch)
        assert not pays(trainer, batch, 5_000) and pays(trainer, batch, 500_000)


def test_on_a_gpu_compiling_pays_from_a_number_of_steps():
    """Python's part of a step does not depend on the model."""
    trainer = SimpleNamespace(fabric=SimpleNamespace(device=torch.device("cuda")))
    assert [pays(trainer, None, steps) for steps in (5_999, 6_000)] == [False, True]
    trainer.fabric.device = torch.device("meta")
    assert not pays(trainer, None, 10**9)
