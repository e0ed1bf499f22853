"""Scripts run as a user runs them: in a process of their own, or, where it is the same and faster, in this one."""

import contextlib
import io
import os
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Caches and data of the test alone."""
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYRO_SEMIVAE_DATA", raising=False)


def interruptible():
    """Ctrl-C ends the script, also where the tests run in the background and ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start(tmp_path, cache):
    """Starts a script in a process of its own."""

    def start(script, *flags):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, EXAMPLES / script, *map(str, flags)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, preexec_fn=interruptible, **pipes)

    return start


@pytest.fixture
def run_apart(start):
    """Runs a script in a process of its own: exit status, output, errors."""

    def run(script, *flags):
        process = start(script, *flags)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    return run


@pytest.fixture
def run(tmp_path, cache, monkeypatch):
    """Runs a script in this process, which has imported everything: exit status, output, errors."""

    def run(script, *flags):
        out, err, code = io.StringIO(), io.StringIO(), 0
        streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with monkeypatch.context() as patch, streams[0], streams[1], warnings.catch_warnings():
            warnings.simplefilter("default")  # a user's are no errors
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", [script, *map(str, flags)])
            torch.set_default_dtype(torch.float32)
            try:
                runpy.run_path(str(EXAMPLES / script), run_name="__main__")
            except SystemExit as stop:
                code = stop.code or 0
            except Exception:
                code = 1
                traceback.print_exc()
            finally:
                torch.set_default_dtype(torch.float64)
        return code, out.getvalue(), err.getvalue()

    return run
