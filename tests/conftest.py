import signal

import pyro
import pytest
import torch

from pyro_semivae.infer.traced import Traced

torch.set_num_threads(1)  # two processes run the tests (setup.cfg)


@pytest.fixture(autouse=True)
def clean_state():
    """Float64, validation on, an empty parameter store and a fixed seed for every test."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    pyro.clear_param_store()
    with pyro.validation_enabled(True):
        yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def device(request):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return "cuda"


@pytest.fixture
def ctrl_c():
    """Ctrl-C interrupts this process and what it starts, also in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def graphs(monkeypatch):
    """`fit(compile="on")` traces and does not compile; the graphs that were made."""
    made = []

    def traced(*args, **kwargs):
        made.append(Traced(*args, compiler="none", **kwargs))
        return made[-1]

    monkeypatch.setattr("pyro_semivae.trainer.Traced", traced)
    return made
