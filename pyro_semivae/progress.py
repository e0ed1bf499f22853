"""Progress of long computations: a bar on a terminal and in notebooks, lines of text elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from tqdm.auto import tqdm

FIRST_LINE = 5.0  # seconds of training after which a line estimates the total time


def draws_bars() -> bool:
    """Whether standard error is a terminal or belongs to a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return sys.stderr.isatty() or "IPKernelApp" in getattr(shell, "config", {})


def steps_of(steps: int, what: str, shown: bool = True, *, delay: float = 0.0) -> Iterator[int]:
    """`range(steps)` with a progress bar, shown after `delay` seconds. Without bars, it prints one line with `what`,
    and after `FIRST_LINE` seconds one with the time left."""
    bars = draws_bars()
    if shown and not bars:
        print(f"{what}: {steps} steps", file=sys.stderr, flush=True)
    bar, start, told = None, time.perf_counter(), False
    try:
        for step in range(steps):
            passed = time.perf_counter() - start
            if shown and not bars and not told and step and passed >= FIRST_LINE:
                told = True
                print(f"{what}: about {passed / step * (steps - step):.0f} s left", file=sys.stderr, flush=True)
            if bar is None and shown and bars and time.perf_counter() - start >= delay:
                bar = tqdm(total=steps, initial=step, desc=what)
            yield step
            if bar is not None:
                bar.update()
    finally:
        if bar is not None:
            bar.close()


class Progress:
    """The progress of training.

    On a terminal and in notebooks it is one bar over the steps of all epochs, with the time left, the mean ELBO in this
    epoch so far, and other known values. Elsewhere it prints a line with the expected time after `FIRST_LINE` seconds,
    and at most twenty lines with the values of an epoch.

    Args:
        epochs, steps: the number of epochs, and of steps per epoch.
        done: the number of epochs finished before.
        shown: whether to show anything.
    """

    def __init__(self, epochs: int, steps: int, done: int = 0, shown: bool = True):
        self.epochs, self.steps, self.shown = epochs, steps, shown
        total, before = epochs * steps, done * steps
        self.bar = tqdm(
            total=total, initial=before, mininterval=0.5, dynamic_ncols=True, disable=not (shown and draws_bars())
        )
        self.start, self.at, self.first = time.perf_counter(), before, before
        self.told, self.known = False, {}

    @property
    def draws(self) -> bool:
        """Whether a bar is drawn."""
        return not self.bar.disable

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def restart(self) -> None:
        """Measures the time per step from the next one on; called before `step` for a step that was compiled."""
        self.start, self.first = time.perf_counter(), self.at + 1
        self.bar.unpause()

    def step(self, elbo: Callable[[], float]) -> None:
        """Advances by one step.

        Args:
            elbo: returns the mean ELBO in this epoch so far; called only when it is shown.
        """
        self.at += 1
        if self.draws:
            shown = self.bar.update()
            if shown or self.at % self.steps == 0:
                self.bar.set_description(f"epoch {-(-self.at // self.steps)}/{self.epochs}", refresh=False)
                self.bar.set_postfix({"elbo": f"{elbo():.2f}", **self.known})
        elif self.shown and not self.told and (took := time.perf_counter() - self.start) > FIRST_LINE:
            self.told = True
            a_step, left = took / (self.at - self.first), self.epochs * self.steps - self.first
            step = f"step {(self.at - 1) % self.steps + 1} of {self.steps}"
            takes = f"about {_time(a_step * self.steps)} per epoch, {_time(a_step * left)} in total"
            print(f"epoch {-(-self.at // self.steps)}/{self.epochs}: {step}; {takes}", file=sys.stderr, flush=True)

    def epoch(self, record: dict[str, float], known: dict[str, str]) -> None:
        """Ends an epoch with its record; `known` is what the bar shows beside the ELBO from now on."""
        self.known = known
        self.told = True
        if self.draws:
            self.bar.set_postfix({"elbo": f"{record['elbo']:.2f}", **known})
        every = -(-self.epochs // 20)
        if self.shown and not self.draws and (record["epoch"] % every == 0 or record["epoch"] == self.epochs):
            print(epoch_line(record, self.epochs), file=sys.stderr, flush=True)


def _time(seconds: float) -> str:
    """A duration as text.

    >>> _time(8.2), _time(75), _time(5400)
    ('8 s', '1.2 min', '1.5 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def epoch_line(record: dict[str, float], epochs: int) -> str:
    """An epoch's record as one line of text, without terms and their weights.

    >>> epoch_line({"epoch": 2, "elbo": -281.62, "objective": -281.62, "term/log p(x|z)": -260.8}, 40)
    'epoch 2/40: elbo -281.6'
    """
    shown = {
        name.removeprefix("monitor/"): f"{value:.4g}"
        for name, value in record.items()
        if name != "epoch" and not name.startswith(("term/", "weight/"))
    }
    if shown.get("objective") == shown["elbo"]:
        del shown["objective"]
    return f"epoch {record['epoch']}/{epochs}: {', '.join(map(' '.join, shown.items()))}"
