"""The bar of an epoch, on a terminal and elsewhere."""

import io
import sys

import pytest

from pyro_semivae.progress import epoch_bar, show_terms


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_means_are_asked_for_when_the_bar_is_drawn_and_at_the_last_step(monkeypatch):
    terminal, steps, asked = Terminal(), [], []
    monkeypatch.setattr(sys, "stderr", terminal)

    def so_far():
        asked.append(len(steps))
        return {"objective": -len(steps) / 8}

    with epoch_bar(1000, 0, 2, progress=True) as bar:
        for step in range(1000):
            steps.append(step)
            if step == 600:
                bar.mininterval = 0  # time enough has passed
            show_terms(bar, so_far)
    assert asked[0] > 600, "not before it is time"
    assert asked[-1] == bar.n == 1000 and len(asked) < 1000
    last = terminal.getvalue().split("\r")
    assert any("epoch 1/2: 100%" in line and "objective=-125.00" in line for line in last)


def test_without_a_terminal_no_mean_is_asked_for(capsys):
    with epoch_bar(3, 0, 1, progress=True) as bar:
        for _ in range(3):
            show_terms(bar, lambda: pytest.fail("nobody sees it"))
    assert capsys.readouterr().err == ""
