"""Progress of long work: a bar on a terminal, a readable line elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from tqdm import tqdm


def steps_of(steps: int, what: str, shown: bool = True) -> Iterable[int]:
    """`range(steps)` with a bar; where standard error is no terminal, one line that says what goes on."""
    on_terminal = sys.stderr.isatty()
    if shown and not on_terminal:
        print(f"{what}: {steps} steps", file=sys.stderr, flush=True)
    return tqdm(range(steps), desc=what, disable=not (shown and on_terminal))


def epoch_bar(steps: int, epoch: int, epochs: int, progress: bool) -> tqdm:
    """The bar of an epoch's steps, on a terminal."""
    return tqdm(
        total=steps,
        desc=f"epoch {epoch + 1}/{epochs}",
        disable=not (progress and sys.stderr.isatty()),
        mininterval=0.5,
        leave=epoch + 1 == epochs,
    )


def show_terms(bar: tqdm, so_far: Callable[[], dict[str, float]]) -> None:
    """Moves the bar on by one step; where that draws it, and at the last step, with the terms' means so far beside it.

    Args:
        so_far: returns the means by their names; asked when they are shown.
    """
    shown = bar.update()
    if not bar.disable and (shown or bar.n == bar.total):
        bar.set_postfix({name: f"{value:.2f}" for name, value in so_far().items()})


def epoch_line(record: dict[str, float], epochs: int) -> str:
    """A readable line per epoch, for output that goes to a file."""
    shown = " ".join(
        f"{name.removeprefix('term/').removeprefix('monitor/')} {value:.4g}"
        for name, value in record.items()
        if name != "epoch" and not name.startswith("weight/")
    )
    return f"epoch {record['epoch']}/{epochs}: {shown}"
