"""What training tells while it goes on: on a terminal, in a notebook, in a file."""

import io
import sys
import types

import pytest
import torch
from training import options

from pyro_semivae import epochs as module_of_epochs
from pyro_semivae import progress as module
from pyro_semivae.models import M2
from pyro_semivae.nn import MLPs
from pyro_semivae.progress import Progress, draws_bars, steps_of
from pyro_semivae.spaces import Binary, Classes
from pyro_semivae.train import fit


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_terminal(monkeypatch):
    """A terminal as standard error; in the test itself, for pytest exchanges it between a fixture and the test."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_the_bound_is_asked_for_when_the_bar_is_drawn_and_at_the_end_of_an_epoch(monkeypatch):
    terminal = on_terminal(monkeypatch)
    asked = []

    def bound():
        asked.append(progress.at)
        return -progress.at / 8

    with Progress(2, 500, 0) as progress:
        progress.bar.mininterval = 1e6
        for epoch in range(2):
            for step in range(500):
                if epoch and step == 100:
                    progress.bar.mininterval = 0  # time enough has passed
                progress.step(bound)
            progress.epoch({"epoch": epoch + 1, "elbo": -1.5}, {"accuracy": "0.875"})
    assert asked[0] == 500 and asked[1] >= 600 and asked[-1] == 1000 and len(asked) < 500
    drawn = terminal.getvalue().split("\r")
    assert any("epoch 2/2" in line and "elbo=-125.00, accuracy=0.875" in line for line in drawn)
    assert "100%" in drawn[-1] and "1000/1000" in drawn[-1] and "elbo=-1.50, accuracy=0.875" in drawn[-1]
    assert "\n" not in terminal.getvalue().strip(), "one bar for all epochs"


def test_a_run_that_goes_on_begins_where_it_was(monkeypatch):
    terminal = on_terminal(monkeypatch)
    with Progress(4, 10, done=3) as progress:
        progress.step(lambda: 0.0)
    assert "31/40" in terminal.getvalue()


def test_the_step_that_compiles_is_no_measure_of_the_others(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    with Progress(2, 100) as progress:
        for seconds in (60.0, *[1.0] * 30):
            clock[0] += seconds
            if seconds > 1:
                progress.restart()
            progress.step(lambda: 0.0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "epoch 1/2: step 7 of 100; about 1.7 min per epoch, 3.3 min in total"


def test_a_file_has_a_line_after_some_seconds_and_one_an_epoch(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    with Progress(40, 300, done=10) as progress:
        assert not progress.draws
        for _ in range(300):
            clock[0] += 0.4
            progress.step(lambda: pytest.fail("nobody sees it"))
        progress.epoch({"epoch": 11, "elbo": -1.5}, {})
        progress.epoch({"epoch": 12, "elbo": -1.5, "weight/log p(z)": 2.0, "term/log p(z)": 3.0}, {})
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "epoch 11/40: step 13 of 300; about 2.0 min per epoch, 1.0 h in total",
        "epoch 12/40: elbo -1.5",
    ]
    with Progress(60, 3) as progress:  # epochs that are short have their lines soon enough
        for epoch in range(1, 4):
            for _ in range(3):
                clock[0] += 1.1
                progress.step(lambda: pytest.fail("nobody sees it"))
            progress.epoch({"epoch": epoch, "elbo": -1.5}, {})
    assert capsys.readouterr().err.splitlines() == ["epoch 3/60: elbo -1.5"]
    with Progress(1, 3, shown=False) as progress:
        clock[0] += 100
        progress.step(lambda: pytest.fail("nobody sees it"))
        progress.epoch({"epoch": 1, "elbo": -1.5}, {})
    assert capsys.readouterr().err == ""


def test_in_a_notebook_bars_are_drawn(monkeypatch):
    assert not draws_bars()
    for config, expected in (({"IPKernelApp": {}}, True), ({}, False)):
        shell = types.SimpleNamespace(config=config)
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert draws_bars() == expected
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not draws_bars()


def test_steps_of_something_else(monkeypatch):
    terminal = on_terminal(monkeypatch)
    assert [*steps_of(3, "a classifier")] == [0, 1, 2] and "a classifier: 100%" in terminal.getvalue()
    terminal = on_terminal(monkeypatch)
    assert [*steps_of(3, "a classifier", delay=60.0)] == [0, 1, 2] and terminal.getvalue() == ""


@pytest.mark.parametrize("labels", [Classes(3), Binary(2)], ids=str)
def test_fit_shows_the_bound_and_the_accuracy_on_labelled_rows(monkeypatch, labels):
    terminal = on_terminal(monkeypatch)
    torch.manual_seed(0)
    y = labels.missing(12)
    y[:4] = 1
    vae = M2((1, 2, 3), labels, z=2, networks=MLPs((5,)))
    elbo = vae.elbo(missing_labels="enumerate" if labels == Classes(3) else "gumbel")
    how = {**options(), "progress": True, "epochs": 3, "elbo": elbo}
    history = fit(vae, torch.rand(12, 1, 2, 3), y, **how)
    assert "epoch 3/3: 100%" in terminal.getvalue() and "accuracy=" in terminal.getvalue()
    assert f"elbo={history[-1]['elbo']:.2f}, accuracy=" in terminal.getvalue()


def test_the_bar_changes_nothing_of_the_training(monkeypatch):
    """Its accuracies take random numbers of their own, and the model is in training mode afterwards."""
    y = torch.tensor([0, 1, 2, -1, -1, -1])
    weights = []
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        torch.manual_seed(0)
        vae = M2((1, 2, 3), Classes(3), z=2, networks=MLPs((5,), dropout=0.3))
        how = {**options(), "progress": True, "ema_decay": 0.9}
        fit(vae, torch.linspace(0, 1, 36).view(6, 1, 2, 3), y, **how)
        weights.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert torch.equal(*weights)


def test_the_accuracy_is_of_the_averaged_weights(monkeypatch):
    terminal = on_terminal(monkeypatch)
    torch.manual_seed(0)
    x, y = torch.rand(60, 1, 2, 3), torch.arange(60) % 3
    vae = M2((1, 2, 3), Classes(3), z=2, networks=MLPs((5,)))
    last = {}
    monkeypatch.setattr(module_of_epochs, "labelled_accuracy", lambda vae, *of, **how: last.update(weights(vae)) or {})
    fit(vae, x, y, **{**options(), "progress": True, "ema_decay": 0.99, "lr": 0.1, "epochs": 2})
    assert terminal.getvalue() and all(torch.equal(last[name], value) for name, value in weights(vae).items())


def weights(vae):
    return {"training": torch.tensor(vae.training), **{name: value.clone() for name, value in vae.state_dict().items()}}
