"""One step: a model and a guide on a batch, and their runs, which are cached and shared by all terms."""

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
    """A model, a guide and a batch of `B` rows, on which an objective is evaluated.

    Attributes:
        model, guide: functions of the same arguments. args, kwargs: the arguments, some of them None.
        scale: the factor of each row in the loss, a number or `(B,)`; only `Objective` applies it.
        labelled: n, if the first n rows have labels and the others have none; 0 if this is not known. Objectives do not
            branch on values, and which labels are missing is a matter of values; this makes it a shape. Some of several
            binary labels may be missing in the labelled rows, a class label may not.
        done: the fraction of training done, the argument of schedules; 1 outside of training.
        data_complete: whether it is known that no row of data is missing.
        without_labels: whether it is known that no row has labels.
        strata: label -> the number of rows for each of its values, if rows are sorted by the label; empty otherwise.
        names: the names of the arguments (default: the names that the model gives them).
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
        """Name -> argument, in the model's order; omitted arguments that precede given ones are None."""
        names = [*(argument_names(self.model) if self.names is None else self.names)]
        names += [f"argument {i + 1}" for i in range(len(names), len(self.args))]
        given = {**dict(zip(names, self.args, strict=False)), **self.kwargs}
        last = max((i for i, name in enumerate(names) if name in given), default=-1)
        return {**{name: given.get(name) for name in names[: last + 1]}, **given}

    def with_arguments(self, values: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """The positional and keyword arguments with some values replaced; new names become keyword arguments."""
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
        """Runs the guide with `particles`, and the model replayed against the first one; cached by the arguments.

        Discrete labels are enumerated in both, in the same dimensions; with `fully_observed`, the given labels are not
        enumerated.

        Args:
            nesting: the number of nested plates; particles lie left of them, and enumerated labels left of particles.
            particles: the number of values of each latent. detach_first: append one more, the first one detached.
            fully_observed: whether no entry of a discrete label is missing.
            missing_labels: `"enumerate"`; or sample them, `"reinforce"`, or `"gumbel"` with a `temperature`.
            detached: whether the model gets the guide's samples without gradient. A vector that the model's density
                fixes (see `KnownWhere`) is a parameter of the model and keeps its gradient.
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
        """Runs the guide alone once more; not cached."""
        return poutine.trace(self.guide).get_trace(*self.args, **self.kwargs)

    def graphs(self) -> dict[str, Graph]:
        """The graphs of the model (`"p"`) and of the guide (`"q"`); call it after the runs."""
        runs = [run for run in self._runs.values() if isinstance(run, Run)]
        continuous = {name for run in runs for name in run.continuous}
        return graphs_of(self.model, self.guide, self.named(), continuous)

    def parts(self) -> list[Step]:
        """Two steps, the labelled and the unlabelled rows; this step alone if `labelled` is 0."""
        if not self.labelled:
            return [self]
        if "parts" not in self._runs:
            parts = self.rows(0, self.labelled), self.rows(self.labelled, None)
            self._runs["parts"] = [part for part in parts if part.num_rows]
        return self._runs["parts"]

    @property
    def num_rows(self) -> int:
        """B, from the first tensor among the arguments."""
        return len(next(value for value in self.named().values() if isinstance(value, Tensor)))

    def rows(self, start: int, stop: int | None) -> Step:
        """A step with a range of the rows; cached. `without_labels` is set if all of them come after `labelled`."""
        rows = slice(start, stop)
        changes: dict[str, Any] = {
            "args": _rows_of(self.args, rows),
            "kwargs": _rows_of(self.kwargs, rows),
            "without_labels": self.without_labels or bool(self.labelled and start >= self.labelled),
        }
        return self.another(("rows", start, stop), scale=1.0, labelled=0, strata={}, **changes)

    def hiding(self, labels: Collection[str]) -> Step:
        """A step with the same rows, without these labels and with scale 1; cached."""
        given = self.named()
        args = tuple(None if name in labels else value for name, value in given.items())
        changes: dict[str, Any] = {"args": args, "kwargs": {}, "names": [*given], "labelled": 0, "scale": 1.0}
        return self.another(("hiding", frozenset(labels)), **changes)

    def another(self, key: Hashable, **changes: Any) -> Step:
        """A copy of this step with some attributes changed, cached by `key`; this step keeps it alive."""
        if key not in self._runs:
            self._runs[key] = replace(self, **changes)
        return self._runs[key]


def _rows_of(values: Any, rows: slice) -> Any:
    if isinstance(values, dict):
        return {name: _rows_of(value, rows) for name, value in values.items()}
    if isinstance(values, tuple):
        return tuple(_rows_of(value, rows) for value in values)
    return values[rows] if isinstance(values, Tensor) else values
