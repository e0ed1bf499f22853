"""One step: a model and a guide on a batch, and their runs, each made once and shared by all terms."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from weakref import ref

from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_semivae.infer.evidence import DrawLabels, Evidence
from pyro_semivae.infer.graph import Graph, argument_names, graphs_of
from pyro_semivae.infer.handlers import KnownVectors, Particles
from pyro_semivae.infer.roles import assign_roles
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.tables import first_particle, without_gradients


@dataclass(eq=False)
class Step:
    """A model and a guide on a batch of `B` rows: what an objective is evaluated on.

    Attributes:
        model, guide: functions of the same arguments. args, kwargs: the arguments, some of them None.
        scale: the factor of each row in the loss, a number or `(B,)`; `Objective` applies it, and nobody else.
        labelled: how many rows at the beginning have labels, while the others have none; 0 where that is not known.
            Which labels are missing are values, and no objective looks at values; this makes it a shape. Of several
            binary labels some may be missing in these rows; a class label is not.
        done: the fraction of training done, by which schedules go; 1 outside of training.
        data_complete: whether it is known that no row of data is missing.
        without_labels: whether it is known that no row has labels.
        strata: label -> how many rows have each of its values, where they are sorted by it; empty where they are not.
        names: of the arguments (default: the model's own names of them).
    """

    model: Callable
    guide: Callable
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    scale: float | Tensor = 1.0
    labelled: int = 0
    done: float = 1.0
    data_complete: bool = False
    without_labels: bool = False
    names: Sequence[str] | None = None
    strata: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _runs: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def named(self) -> dict[str, Any]:
        """The arguments by their names, in the order of the model's; those that are left out before others are None."""
        names = [*(argument_names(self.model) if self.names is None else self.names)]
        names += [f"argument {i + 1}" for i in range(len(names), len(self.args))]
        given = {**dict(zip(names, self.args, strict=False)), **self.kwargs}
        last = max((i for i, name in enumerate(names) if name in given), default=-1)
        return {**{name: given.get(name) for name in names[: last + 1]}, **given}

    def with_arguments(self, values: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """The positional and the other arguments, with other values of some; those that are not given are added by
        name."""
        names = [*self.named()][: len(self.args)]
        args = tuple(values.get(name, value) for name, value in zip(names, self.args, strict=True))
        return args, {**self.kwargs, **{name: value for name, value in values.items() if name not in names}}

    @property
    def without_data(self) -> bool:
        """Whether the first argument, the data, is missing."""
        return next(iter(self.named().values()), None) is None

    def run(
        self,
        nesting: int = 1,
        *,
        particles: int = 1,
        detach_first: bool = False,
        fully_observed: bool = False,
        missing_labels: Literal["enumerate", "reinforce", "gumbel"] = "enumerate",
        temperature: float = 0.5,
        detached: bool = False,
    ) -> Run:
        """One run of the guide, with `particles`, and one of the model against the first of them; asked for again, the
        same one.

        Discrete labels are enumerated in both, in the same dimensions; those passed are not where they are
        `fully_observed`.

        Args:
            nesting: how many plates are nested; particles lie left of them, and enumerated labels left of these.
            particles: how many values latents have. detach_first: one more, the first one detached.
            fully_observed: no entry of a discrete label is missing.
            missing_labels: `"enumerate"`, or sampled: `"reinforce"`, or `"gumbel"` with a `temperature`.
            detached: the model has the guide's samples without their gradient; a vector that its own density knows (see
                `KnownWhere`) is a parameter of the model and keeps its own.
        """
        key = (nesting, particles, detach_first, fully_observed, missing_labels, temperature, detached)
        if key not in self._runs:
            self._runs[key] = self._run(*key)
        return self._runs[key]

    def _run(
        self,
        nesting: int,
        particles: int,
        detach_first: bool,
        fully_observed: bool,
        missing_labels: str,
        temperature: float,
        detached: bool,
    ) -> Run:
        dim = -1 - int(nesting)
        if missing_labels == "enumerate":
            evidence = Evidence(fully_observed=fully_observed, data_complete=self.data_complete)
        else:
            temperature = None if missing_labels == "reinforce" else temperature
            evidence = DrawLabels(temperature, data_complete=self.data_complete)
        many = particles > 1 or detach_first
        with poutine.enum(first_available_dim=dim - 1) if missing_labels == "enumerate" else nullcontext():
            with Particles(particles, dim, detach_first) if many else nullcontext():
                guide_trace = poutine.trace(evidence(self.guide)).get_trace(*self.args, **self.kwargs)
            values = first_particle(guide_trace, dim) if many else guide_trace
            values = without_gradients(values) if detached else values
            model = poutine.replay(evidence.then_model()(self.model), trace=values)
            model = KnownVectors()(model) if detached else model
            model_trace = poutine.trace(model).get_trace(*self.args, **self.kwargs)
        roles, continuous = assign_roles(model_trace, guide_trace), tuple(evidence.continuous)
        how = (dim, particles, detach_first, fully_observed)
        return Run(guide_trace, model_trace, roles, evidence.observed, continuous, ref(self), *how)

    def run_guide(self) -> Trace:
        """Another run of the guide alone."""
        return poutine.trace(self.guide).get_trace(*self.args, **self.kwargs)

    def graphs(self) -> dict[str, Graph]:
        """The graphs of the model, as `"p"`, and of the guide, `"q"`; asked for after the runs."""
        runs = [run for run in self._runs.values() if isinstance(run, Run)]
        continuous = {name for run in runs for name in run.continuous}
        return graphs_of(self.model, self.guide, self.named(), continuous)

    def parts(self) -> list[Step]:
        """The rows with labels and those without, each a step of its own; this one, where it is not known which."""
        if not self.labelled:
            return [self]
        if "parts" not in self._runs:
            parts = self.rows(0, self.labelled), self.rows(self.labelled, None)
            self._runs["parts"] = [part for part in parts if part.num_rows]
        return self._runs["parts"]

    @property
    def num_rows(self) -> int:
        """B, of the first argument that is there."""
        return len(next(value for value in self.named().values() if isinstance(value, Tensor)))

    def rows(self, start: int, stop: int | None) -> Step:
        """Some of the rows; asked for again, the same step. Of those before and after `labelled` it is known whether
        they have labels."""
        rows = slice(start, stop)
        changes: dict[str, Any] = {
            "args": _rows_of(self.args, rows),
            "kwargs": _rows_of(self.kwargs, rows),
            "without_labels": self.without_labels or bool(self.labelled and start >= self.labelled),
        }
        return self.another(("rows", start, stop), scale=1.0, labelled=0, strata={}, **changes)

    def hiding(self, labels: Collection[str]) -> Step:
        """The same rows without these labels; asked for again, the same step, of the scale 1."""
        given = self.named()
        args = tuple(None if name in labels else value for name, value in given.items())
        changes: dict[str, Any] = {"args": args, "kwargs": {}, "names": [*given], "labelled": 0, "scale": 1.0}
        return self.another(("hiding", frozenset(labels)), **changes)

    def another(self, key: Hashable, **changes: Any) -> Step:
        """A step that differs from this one, and is there as long as this one is; asked for again, the same."""
        if key not in self._runs:
            self._runs[key] = replace(self, **changes)
        return self._runs[key]


def _rows_of(values: Any, rows: slice) -> Any:
    if isinstance(values, dict):
        return {name: _rows_of(value, rows) for name, value in values.items()}
    if isinstance(values, tuple):
        return tuple(_rows_of(value, rows) for value in values)
    return values[rows] if isinstance(values, Tensor) else values
