"""The logic of a model's web page, independent of a web library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_semivae.demo.explorer import Explorer, State
from pyro_semivae.demo.pictures import figures, probabilities
from pyro_semivae.demo.trained import Trained, some_rows
from pyro_semivae.demo.uploads import read_upload
from pyro_semivae.errors import InputError
from pyro_semivae.spaces import to_unit

OPEN = -1  # the value of a switch whose label is open
IMAGES = 40  # number of test images to choose from
BEGIN = "Choose an image, or upload one."


@dataclass(frozen=True)
class Session:
    """A user's current image with its edits, and a second image for swaps."""

    state: State | None = None
    second: Tensor | None = None


class Page:
    """The page for a run's model.

    Its methods take a session and return the page's next contents: the session, the images as HTML, a message (empty if
    there is no error), then, unless stated otherwise, the values of all switches and sliders.

    Attributes:
        explorer: the model's explorer, which has the switches (`choices`) and the `sliders`. images: images to choose
            from, `(N, C, H, W)`, float in [0, 1]; empty if the data are unavailable.

    Raises:
        InputError: the model is not supported; see `Explorer`.
    """

    def __init__(self, run: Trained):
        self.explorer = Explorer(run.vae, run.label_names)
        self.images = torch.zeros(0)
        if run.data:  # as floats: a dark uint8 image of values 0 and 1 would be rejected as ambiguous
            self.images = to_unit(run.data.x_test[some_rows(run.data, IMAGES)])

    def shown(self, session: Session, message: str = "") -> list[Any]:
        """The contents for a session."""
        if session.state is None:
            switches, sliders = [None] * len(self.explorer.choices), [0.0] * len(self.explorer.sliders)
        else:
            switches, sliders = self.explorer.chosen(session.state), self.explorer.positions(session.state)
        switches = [OPEN if value is None else value for value in switches]
        return [*self.pictured(session, message), *switches, *(round(value, 2) for value in sliders)]

    def pictured(self, session: Session, message: str = "") -> list[Any]:
        """The session, its images and the message, without switches and sliders."""
        state, second = session.state, session.second
        if state is None:
            return [session, f"<p>{BEGIN}</p>", message]
        now = self.explorer.image(state)
        read = {"image": self.explorer.read(state.x), "changed": self.explorer.read(now.unsqueeze(0))}
        said = "<br/>".join(f"q(y | {name}): {self._most_probable(found)}" for name, found in read.items() if found)
        small = "" if second is None else figures({"second image": second[0]}, 90)
        pictures = figures({"image": state.x[0], "changed": now}, 210)
        return [session, f"{pictures}<p>{said}</p>{small}", message]

    def begin(self) -> list[Any]:
        """Starts a new session, with the first image if there is one."""
        return self.choose(Session(), 0) if len(self.images) else self.shown(Session())

    def _most_probable(self, found: list[tuple[str, float]]) -> str:
        """The three most probable classes, or the binary labels with a probability above 0.5."""
        if self.explorer.vae.labels.entries is None:
            return probabilities(found, 3)
        return probabilities([pair for pair in found if pair[1] > 0.5]) or "none above 0.50"

    def choose(self, session: Session, index: int, second: bool = False) -> list[Any]:
        """Selects one of the images as the current or the second one."""
        return self._taken(session, self.images[index : index + 1], second)

    def upload(self, session: Session, path: str | Path, second: bool = False) -> list[Any]:
        """Reads a file as the current or the second image, or returns its error as the message; deletes the file."""
        try:
            return self._taken(session, read_upload(path, self.explorer.vae.x_shape), second)
        except InputError as error:
            return self.shown(session, str(error))
        finally:
            Path(path).unlink(missing_ok=True)

    def _taken(self, session: Session, x: Tensor, second: bool) -> list[Any]:
        state = self.explorer.start(x)  # also checks x
        return self.shown(replace(session, second=state.x) if second else replace(session, state=state))

    def move(self, session: Session, slider: int, value: float) -> list[Any]:
        """Moves a slider; returns no switches and sliders, because the user is dragging one."""
        if session.state is None:
            return self.pictured(session, BEGIN)
        return self.pictured(replace(session, state=self.explorer.move(session.state, slider, value)))

    def switch(self, session: Session, choice: int, value: int) -> list[Any]:
        """Sets a label, or makes it open (`OPEN`)."""
        return self._changed(
            session, lambda state: self.explorer.choose(state, choice, None if value == OPEN else value)
        )

    def redraw(self, session: Session) -> list[Any]:
        """Resamples the descendants of the labels that are set."""
        if session.state is not None and not any(v is not None for v in self.explorer.chosen(session.state)):
            return self.shown(session, "All labels are open: there is nothing to sample. Set one first.")
        return self._changed(session, self.explorer.redraw)

    def back(self, session: Session) -> list[Any]:
        """Discards all edits: the image as the model infers it, with all labels open."""
        return self._changed(session, lambda state: self.explorer.start(state.x))

    def swap(self, session: Session, take: str) -> list[Any]:
        """Takes the characteristics, or the rest, from the second image."""
        if session.state is None or session.second is None:
            return self.shown(session, "A swap needs two images: choose or upload both.")
        return self._changed(session, lambda state: self.explorer.swap(state, session.second, take))

    def _changed(self, session: Session, change: Callable[[State], State]) -> list[Any]:
        if session.state is None:
            return self.shown(session, BEGIN)
        return self.shown(replace(session, state=change(session.state)))
