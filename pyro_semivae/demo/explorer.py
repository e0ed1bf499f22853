"""Edits an image by a trained model: changes latents or labels, or swaps them with another image's."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, check_choice, check_count, check_number
from pyro_semivae.infer import Mean
from pyro_semivae.models import SemiVAE
from pyro_semivae.spaces import is_missing
from pyro_semivae.structure import available, covariate_sites, descendants, has_label, infers_from_labels
from pyro_semivae.tasks import classify, decode, infer_latents
from pyro_semivae.tasks.images import swapped, with_labels
from pyro_semivae.tasks.latents import Labels, Latents, latents_of, run_model, task

SPREAD = 3.0  # a slider extends by this many standard deviations of the prior to both sides


@dataclass(frozen=True)
class Slider:
    """One coordinate of a latent.

    Attributes:
        name: the latent with the coordinate, or the label to which the coordinate belongs. site, index: the latent, and
            the coordinate's index in its flattened value.
        low, high: its range, see `prior_ranges`.
    """

    name: str
    site: str
    index: int
    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """A class label or one binary label: its name and its values' names. It may also be open (not set)."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class State:
    """An image with its edits, without the model.

    Attributes:
        x: the image, `(1, C, H, W)`. inferred: its latents and labels, or those after a swap.
        latents, labels: the current ones, after all edits. chosen: `(1,)` or `(1, L)`, the labels set by the user;
            missing ones are open.
        seed: of all sampling.
    """

    x: Tensor
    inferred: tuple[Latents, Labels]
    latents: Latents
    labels: Labels
    chosen: Tensor | None
    seed: int


class Explorer:
    """Applies edits to an image with a trained model.

    Each edit takes a `State` and returns a new one; `image` decodes it to the mean of p(x|.). The methods apply tasks
    one after the other to the same image: `move` corresponds to `tasks.traverse`, `choose` to `tasks.intervene`, `swap`
    to `tasks.swap`. Calls from several threads are serialised.

    Attributes:
        sliders: the coordinates of the characteristic latents; for a model without such latents and labels, of all
            latents.
        choices: one for a class label, or one per binary label; none if the model cannot intervene on a label.
        resamples: whether setting a label samples latents, so that they can be resampled.
        swaps: whether the model can swap.

    Args:
        vae: the model. label_names: the names of the classes or binary labels (default: their numbers).

    Raises:
        InputError: the data are not images with 1 or 3 channels, or there are several data sites; the model has several
            labels or a continuous one, or requires a label; the number of names is wrong.
    """

    def __init__(self, vae: SemiVAE, label_names: Sequence[str] = ()):
        _check_served(vae)
        self.vae, self._lock = vae, threading.RLock()
        self._label = vae.label_sites[0] if vae.label_sites else None
        space = vae.labels if self._label else None
        self._entries = space.entries if space else None
        number = 0 if space is None else self._entries or space.num_values
        names = tuple(label_names) or tuple(f"label {i}" if self._entries else str(i) for i in range(number))
        if len(names) != number:
            raise InputError(f"label_names: got {len(names)}; expected {number}, of {space}")
        self._names = names
        has = {name for name, why_not in available(vae).items() if why_not is None}
        self._intervenes = self._label is not None and "intervene" in has
        self.swaps = "swap" in has
        self.choices: tuple[Choice, ...] = ()
        if self._intervenes:
            binary = (Choice(name, ("off", "on")) for name in names)
            self.choices = tuple(binary) if self._entries else (Choice("label", names),)
        self._reads = "classify" in has
        latents, self._by_entry = prior_ranges(vae)
        sites = [name for name in vae.characteristic if name in latents]
        if not sites and not has_label(vae):
            sites = [*latents]
        self.sliders = tuple(slider for site in sites for slider in self._sliders_of(site, *latents[site]))
        below = set() if self._label is None else self._below() & latents.keys()
        self.resamples = self._intervenes and (infers_from_labels(vae) or bool(below))

    def _below(self) -> set[str]:
        """The sites that are sampled when the label is set."""
        return descendants(self.vae, [self._label]) if has_label(self.vae) else set(self.vae.characteristic)

    def _sliders_of(self, site: str, low: Tensor, high: Tensor) -> Iterator[Slider]:
        each = low.numel() // self._entries if site in self._by_entry else 0
        for i, (least, most) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
            name = f"{site}[{i}]"
            if each:
                name = self._names[i // each] + (f" [{i % each}]" if each > 1 else "")
            yield Slider(name, site, i, least, most)

    @contextmanager
    def _alone(self, seed: int) -> Iterator[None]:
        """Serialises calls, because all threads share Pyro's stack of handlers. Samples depend on the seed alone, and
        the caller's random generator is left unchanged."""
        with self._lock, torch.random.fork_rng([]):
            torch.manual_seed(seed)
            yield

    def start(self, x: Tensor, seed: int = 0) -> State:
        """Infers an image's latents and labels, with all labels open.

        Args:
            x: `(1, C, H, W)`, float in [0, 1] or uint8.

        Raises:
            InputError: `x` is something else.
        """
        check_count("seed", seed, least=0)
        with self._alone(seed):
            x = self.vae.inputs({self.vae.data_sites[0]: x})[0]
            if len(x) != 1:
                raise InputError(f"x: got {len(x)} images; expected one, (1, C, H, W)")
            latents, y = infer_one(self.vae, x)
        return State(x, (latents, y), latents, y, self._open(), seed)

    def _open(self) -> Tensor | None:
        return None if self._label is None else self.vae.label_values(self.vae.labels.missing(1))

    def image(self, state: State) -> Tensor:
        """The image decoded from a state, `(C, H, W)` in [0, 1]."""
        with self._alone(state.seed):
            return decode(self.vae, state.latents, state.labels)[0].clamp(0, 1)

    def positions(self, state: State) -> list[float]:
        """The sliders' positions, clamped to their ranges (the latents themselves may be outside)."""
        values = {site: z.flatten().tolist() for site, z in state.latents.items()}
        return [min(max(values[s.site][s.index], s.low), s.high) for s in self.sliders]

    def chosen(self, state: State) -> list[int | None]:
        """The value of each choice; None if it is open."""
        if not self.choices:
            return []
        return [None if value < 0 or value != value else int(value) for value in state.chosen.flatten().tolist()]

    def move(self, state: State, slider: int, value: float) -> State:
        """Sets one coordinate of a latent; its descendants are set to their means given it, other latents are kept.

        Args:
            slider: an index into `sliders`. value: a finite number.
        """
        slider = check_count("slider", slider, least=0, most=len(self.sliders) - 1)
        site, index = self.sliders[slider].site, self.sliders[slider].index
        z = state.latents[site].clone(memory_format=torch.contiguous_format)
        z.view(-1)[index] = check_number("value", value)
        latents = {**state.latents, site: z}
        below = descendants(self.vae, [site]) & latents.keys()
        if below:
            kept = {name: value for name, value in latents.items() if name not in below}
            with self._alone(state.seed):
                latents = mean_latents(self.vae, kept, state.labels)
        return replace(state, latents=latents)

    def choose(self, state: State, choice: int, value: int | None) -> State:
        """Sets a label and samples its descendants, or makes it open and restores its descendants from the image.

        Args:
            choice: an index into `choices`. value: an index into its values; None: open.

        Everything else is kept, including other labels and coordinates that were moved. If labels are evidence on the
        latents (MVAE), the latents are sampled given all labels that are set.
        """
        choice = check_count("choice", choice, least=0, most=len(self.choices) - 1)
        if value is not None:
            check_count("value", value, least=0, most=len(self.choices[choice].values) - 1)
        chosen, only = state.chosen.clone(), self._open()
        at = (0, choice) if self._entries else (0,)
        chosen[at] = only[at] if value is None else value
        only[at] = chosen[at]
        state = replace(state, chosen=chosen)
        if infers_from_labels(self.vae):
            return self._set(state, chosen)
        return self._opened(state, at) if value is None else self._set(state, only)

    def redraw(self, state: State) -> State:
        """Resamples the descendants of the labels that are set, with the next seed."""
        state = replace(state, seed=state.seed + 1)
        return self._set(state, state.chosen) if any(value is not None for value in self.chosen(state)) else state

    def _set(self, state: State, new: Tensor) -> State:
        latents, labels = state.latents, state.labels
        if infers_from_labels(self.vae):  # the labels after a swap are evidence too
            latents, labels = state.inferred
            if not any(value is not None for value in self.chosen(state)):
                return replace(state, latents=latents, labels=labels)
            new = torch.where(is_missing(new), labels.get(self._label, new), new)
        with self._alone(state.seed):
            found = set_label(self.vae, state.x, (latents, labels), {self._label: new})
        return replace(state, latents=found[0], labels=found[1])

    def _opened(self, state: State, at: tuple[int, ...]) -> State:
        """The state after a label is made open: the image's own values, for binary labels in the entry `at` only."""
        (latents, labels), now = state.inferred, dict(state.latents)
        none_set = all(value is None for value in self.chosen(state))
        for site in self._below() & now.keys():
            if site in self._by_entry and site in latents:
                now[site] = now[site].clone()
                now[site][at] = latents[site][at]
            elif site in latents and (none_set or not self._entries):
                now[site] = latents[site]
        out = dict(state.labels)
        if self._label in out:
            out[self._label] = out[self._label].clone()
            out[self._label][at] = labels[self._label][at]
        return replace(state, latents=now, labels=out)

    def swap(self, state: State, other: Tensor, take: str = "characteristics") -> State:
        """Takes another image's characteristics, or everything except these; all labels become open.

        Args:
            other: `(1, C, H, W)`. take: the part taken from `other`, "characteristics" or "rest".
        """
        check_choice("take", take, ("characteristics", "rest"))
        with self._alone(state.seed):
            other = self.vae.inputs({self.vae.data_sites[0]: other})[0]
            pair = (other, state.x) if take == "characteristics" else (state.x, other)
            latents, labels = swapped(self.vae, *pair)
        return replace(
            state, x=pair[1], inferred=(latents, labels), latents=latents, labels=labels, chosen=self._open()
        )

    def read(self, x: Tensor) -> list[tuple[str, float]]:
        """Classifies an image `(1, C, H, W)`: pairs of a label's name and q(y|x), with the most probable class first,
        or binary labels in their order; empty for a model without a classifier."""
        if not self._reads:
            return []
        with self._alone(0):
            probs = classify(self.vae, x, mean=True)[0].tolist()
        found = [*zip(self._names, probs, strict=True)]
        return found if self._entries else sorted(found, key=lambda pair: -pair[1])


def _check_served(vae: SemiVAE) -> None:
    accepted = "expected a model of images with 1 or 3 channels, and with at most one label, of classes or binary"
    spaces = [vae.spaces[name] for name in vae.label_sites]
    why = ""
    if len(vae.data_sites) != 1 or covariate_sites(vae):
        why = f"with data {', '.join(vae.data_sites)}"
    elif not vae.spaces[vae.data_sites[0]].pictures or vae.x_shape[0] not in (1, 3):
        why = f"of {vae.spaces[vae.data_sites[0]]}"
    elif len(spaces) > 1:
        why = f"with labels {', '.join(vae.label_sites)}"
    elif spaces and spaces[0].num_values is None:
        why = "with continuous labels"
    elif spaces and spaces[0].always_known:
        why = "whose images need a label"
    if why:
        raise InputError(f"model: got a {type(vae).__name__} {why}; {accepted}")


@task
def prior_ranges(vae: SemiVAE) -> tuple[dict[str, tuple[Tensor, Tensor]], set[str]]:
    """Each latent's prior range, site -> the coordinates' low and high ends, flat; and the set of latents with an entry
    per binary label.

    The range is the union of mean plus or minus three standard deviations over all values of the label."""
    y, number = None, 1
    if vae.label_sites:
        space = vae.labels
        y = torch.arange(space.num_values)
        if space.entries is not None:
            y = torch.tensor([[0.0], [1.0]]).expand(2, space.entries)
        number = len(y)
    trace = run_model(vae, {}, y, number)
    ranges, by_entry = {}, set()
    for site in latents_of(vae, trace):
        fn, frames = trace.nodes[site]["fn"], trace.nodes[site]["cond_indep_stack"]
        low, high = fn.mean - SPREAD * fn.stddev, fn.mean + SPREAD * fn.stddev
        ranges[site] = low.flatten(1).amin(0), high.flatten(1).amax(0)
        if vae.label_sites and f"entries of {vae.label_sites[0]}" in {frame.name for frame in frames}:
            by_entry.add(site)
    return ranges, by_entry


@task
def infer_one(vae: SemiVAE, x: Tensor) -> tuple[Latents, Labels]:
    """The latents of images at the guide's means, and the labels if the guide infers any, by site."""
    latents, y = infer_latents(vae, {vae.data_sites[0]: x})
    return latents, {} if y is None else {vae.label_sites[0]: y}


@task
def mean_latents(vae: SemiVAE, kept: Latents, labels: Labels) -> Latents:
    """All latents, with those not in `kept` at their means."""
    with Mean():
        return latents_of(vae, run_model(vae, kept, labels, len(next(iter(kept.values())))))


@task
def set_label(vae: SemiVAE, x: Tensor, found: tuple[Latents, Labels], new: Labels) -> tuple[Latents, Labels]:
    """Samples latents and labels once after labels are set; see `tasks.images.with_labels`."""
    return with_labels(vae, vae.inputs({vae.data_sites[0]: x}), found, new)[:2]
