"""Progress of long work: a bar on a terminal, a readable line elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tqdm import tqdm


def steps_of(steps: int, what: str, shown: bool = True) -> Iterable[int]:
    """`range(steps)` with a bar; where standard error is no terminal, one line that says what goes on."""
    on_terminal = sys.stderr.isatty()
    if shown and not on_terminal:
        print(f"{what}: {steps} steps", file=sys.stderr, flush=True)
    return tqdm(range(steps), desc=what, disable=not (shown and on_terminal))
