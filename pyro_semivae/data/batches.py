"""Batches of labelled and unlabelled rows, scaled so that a step's total is an unbiased estimate."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor, check_count, check_number
from pyro_semivae.spaces import all_missing, any_known, as_labels, to_unit

STAGE = 64 << 20  # bytes


@dataclass
class Batch:
    """The rows of one training step.

    Attributes:
        values: site name -> the rows' values: data as floats or uint8, labels with missing entries.
        scale, rows: the scale and the index of each row, `(B,)`.
        labelled: the number of leading rows that have any label; with a single class label, none of these is missing.
        strata: label -> the number of rows with each of its values, in the order of the rows; empty if not stratified.
        alone: unpaired labels (without data), as a separate batch.
    """

    values: dict[str, Tensor]
    scale: Tensor
    rows: Tensor
    labelled: int = 0
    alone: Batch | None = None
    strata: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def x(self) -> Tensor | None:
        """The values of the site "x" as floats, or None."""
        return self.floats.get("x")

    @property
    def floats(self) -> dict[str, Tensor]:
        """The values, with uint8 as floats in [0, 1]."""
        return {name: as_floats(value, self.scale.dtype) for name, value in self.values.items()}

    @property
    def y(self) -> Tensor | None:
        """The values of the site "y", or None."""
        return self.values.get("y")


def as_floats(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values of a site, with uint8 data as floats in [0, 1]."""
    return to_unit(values, dtype) if values.dtype == torch.uint8 else values


class Batches:
    """Samples a labelled and an unlabelled batch per step; the longer stream defines an epoch, the other is cycled.

    With N_l labelled and N_u unlabelled rows and batch sizes B_l and B_u, labelled rows have the scale
    `labelled_weight * N_l / B_l / N` and unlabelled ones `N_u / B_u / N`. A step's total is then an unbiased estimate
    of the data set's bound per example, with labelled rows weighted. If all rows are labelled, there are labelled
    batches only; if none is, unlabelled ones only. Rows with any observed label count as labelled. With few labels an
    epoch is one pass through the unlabelled rows, and the labelled rows are cycled. The incomplete batch at the end of
    a pass is dropped; each epoch has a new order.

    Args:
        x: data, floats or uint8, `(N, ...)`, for the site "x", or a mapping from site to data.
        y: labels, possibly missing, for the site "y", or a mapping from site to labels; `None`: no labels. Numpy arrays
            and lists become tensors, integers int64.
        batch_size: B_u; also B_l if all rows are labelled. labelled_batch_size: B_l (default: `batch_size`). A batch
            is at most as large as the number of rows.
        device, dtype: of the batches. Data of at most `device_budget` bytes are kept on the device in their own dtype
            (uint8 stays uint8, also in a batch). Larger data stay where they are, e.g. memory-mapped; a thread gathers
            and moves the rows for many steps at a time, while the steps before them run.
        seed: seeds the order of every epoch, together with the epoch's number.
        stratify: the name of a class label that every row has, and its number of values. A step then has `batch_size`
            rows with each value, sorted by value, and all values have the same weight, whatever their frequencies in
            the data. It excludes `labelled_batch_size`, `labelled_weight` and `also_unlabelled`.
        also_unlabelled: whether labelled rows are also used as unlabelled ones, without their labels. N_u and N are
            then larger by N_l; no row is copied.
        unpaired_labels: N_a labels without images. A step has B_a = min(`batch_size`, N_a) of them, with the scale
            N_a / B_a / N, as a separate `Batch` without images, `batch.alone`.
        process: `(i, n)`: of n times as many rows per step, the i-th part, in the i-th of n processes that train
            together. All sizes are those of one process; the mean of the processes' totals is the total of the whole
            step. With fewer than n times a batch size of rows of a kind, each process has an equal number of them, and
            a row may occur twice in a step.

    Raises:
        InputError: a size is not a positive integer, another number is out of range, there are no rows, the rows have
            an unsupported dtype, or the numbers of rows and labels differ.
    """

    def __init__(
        self,
        x: Tensor | Mapping[str, Tensor],
        y: Tensor | Mapping[str, Tensor] | None,
        *,
        batch_size: int = 200,
        labelled_batch_size: int | None = None,
        labelled_weight: float = 1.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        device_budget: int = 2 << 30,
        seed: int = 0,
        unpaired_labels: Tensor | None = None,
        also_unlabelled: bool = False,
        stratify: tuple[str, int] | None = None,
        process: tuple[int, int] = (0, 1),
    ):
        data = {name: _data(name, values) for name, values in (x if isinstance(x, Mapping) else {"x": x}).items()}
        given = y if isinstance(y, Mapping) else {} if y is None else {"y": y}
        labels = {name: as_labels(values, name) for name, values in given.items()}
        if not data:
            raise InputError("x: got no data; expected data of one site or more")
        n = len(next(iter(data.values())))
        for name, values in [*data.items(), *labels.items()]:
            if not values.dim() or len(values) != n:
                got = f"{n} rows and values of shape {tuple(values.shape)}"
                raise InputError(f"{next(iter(data))}, {name}: got {got}; expected as many of each")
        if unpaired_labels is not None:
            unpaired_labels = as_labels(_rows("unpaired_labels", unpaired_labels), "unpaired_labels")
        batch_size = check_count("batch_size", batch_size)
        if labelled_batch_size is not None:
            labelled_batch_size = check_count("labelled_batch_size", labelled_batch_size)
        labelled_weight = check_number("labelled_weight", labelled_weight, least=0)
        device_budget = check_number("device_budget", device_budget, least=0)
        seed = check_count("seed", seed, 0, 2**32 - 1)
        dtype = dtype or torch.get_default_dtype()
        device = torch.device(device)
        observed = torch.zeros(n, dtype=torch.bool)
        for values in labels.values():
            observed |= any_known(values).cpu()
        self.labelled = observed.nonzero()[:, 0]  # (N_l,)
        self.unlabelled = torch.arange(n) if also_unlabelled else (~observed).nonzero()[:, 0]  # (N_u,)
        n_l, n_u = len(self.labelled), len(self.unlabelled)
        n = n_l + n_u
        n_alone = 0 if unpaired_labels is None else len(unpaired_labels)
        self.process, self.processes = process
        self.strata: dict[str, tuple[int, ...]] = {}
        if stratify is None:
            self.streams = [self.labelled, self.unlabelled]  # row indices, one stream per part of a batch
            asked = [labelled_batch_size if labelled_batch_size and n_u else batch_size, batch_size]
        else:
            if labelled_batch_size is not None or labelled_weight != 1 or also_unlabelled:
                got = f"stratify {stratify[0]!r} beside labelled_batch_size, labelled_weight or also_unlabelled"
                raise InputError(f"stratify: got {got}; expected none of them, which it makes meaningless")
            self.streams = _strata(labels, *stratify)
            asked = [batch_size] * len(self.streams)
        counts = [*map(len, self.streams)]
        self.sizes = tuple(map(self._size, asked, counts))
        self.sizes_alone = tuple(map(min, asked, counts))  # of a single process
        if stratify is None:
            b_l, b_u = self.sizes
            scales = [labelled_weight * n_l / max(b_l, 1) / n, n_u / max(b_u, 1) / n]
        else:
            scales = [1 / size / len(self.sizes) for size in self.sizes]
            self.strata = {stratify[0]: self.sizes}
        passes = [rows // (self.processes * size) for rows, size in zip(counts, self.sizes, strict=True) if size]
        self.steps = max(1, *passes)
        keep = sum(values.numel() * values.element_size() for values in data.values()) <= device_budget
        self.staged = not keep
        self.data = {name: values.to(device) if keep else values for name, values in data.items()}
        self.labels = {name: values.to(device) for name, values in labels.items()}
        self.device, self.dtype, self.seed, self.also_unlabelled = device, dtype, seed, also_unlabelled
        self.unpaired_labels = None if unpaired_labels is None else unpaired_labels.to(device)
        b_a = self._size(batch_size, n_alone)
        self.scale_alone = torch.full((b_a,), n_alone / max(b_a, 1) / n, device=device, dtype=dtype)
        each = [scale for scale, size in zip(scales, self.sizes, strict=True) for _ in range(size)]
        self.scale = torch.tensor(each, device=device, dtype=dtype)

    def _size(self, batch_size: int, rows: int) -> int:
        """How many of some rows a process has in a step."""
        return min(batch_size, -(-rows // self.processes))

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yields the batches of epoch `number`, which depend on the seed, this number and the process alone."""
        generator = torch.Generator().manual_seed((self.seed << 20) + number)
        steps, parts, b_l = self.steps, [], 0 if self.strata else self.sizes[0]
        for rows, size in zip(self.streams, self.sizes, strict=True):
            order = _order(len(rows), steps * self.processes * size, generator)
            parts.append(rows[order].reshape(steps, self.processes, size)[:, self.process])
        rows = torch.cat(parts, 1)  # (steps, B_l + B_u), or (steps, B_0 + B_1 + ...)
        alone = self._alone(generator)
        at = next(iter(self.data.values())).device
        for index, data in self._staged(rows) if self.staged else self._resident(rows.to(at)):
            values = {name: part.to(self.dtype) if part.is_floating_point() else part for name, part in data.items()}
            for name, part in self.labels.items():
                y = part.index_select(0, index.to(self.device))
                values[name] = torch.cat([y[:b_l], all_missing(y[b_l:])]) if self.also_unlabelled else y
            yield Batch(values, self.scale, index, b_l, next(alone), self.strata)

    def _alone(self, generator: torch.Generator) -> Iterator[Batch | None]:
        """Yields batches of the unpaired labels, in random order, without end; None if there are none."""
        if self.unpaired_labels is None:
            yield from itertools.repeat(None)
        number, size = len(self.unpaired_labels), len(self.scale_alone)
        steps = max(1, number // (self.processes * size))
        while True:
            order = _order(number, steps * self.processes * size, generator).to(self.device)
            for rows in order.reshape(steps, self.processes, size)[:, self.process]:
                yield Batch({"y": self.unpaired_labels.index_select(0, rows)}, self.scale_alone, rows)

    def _resident(self, rows: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for index in rows:
            yield index, {name: values.index_select(0, index) for name, values in self.data.items()}

    def _staged(self, rows: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """As `_resident`; a thread gathers the rows of the next steps, up to `STAGE` bytes of them, ahead of these."""
        row_bytes = sum(values[:1].numel() * values.element_size() for values in self.data.values())
        parts = rows.split(max(1, STAGE // (row_bytes * rows.shape[1])))
        with ThreadPoolExecutor(1) as thread:
            ahead = thread.submit(self._gathered, parts[0])
            for part, following in itertools.zip_longest(parts, parts[1:]):
                chunks, positions = ahead.result()
                if following is not None:
                    ahead = thread.submit(self._gathered, following)
                for index, position in zip(part, positions, strict=True):
                    yield index, {name: chunk.index_select(0, position) for name, chunk in chunks.items()}

    def _gathered(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Rows of the data, read in file order and moved to the device together, and the position of each of `rows`."""
        ordered, back = rows.flatten().unique(return_inverse=True)
        chunks = {name: values.index_select(0, ordered) for name, values in self.data.items()}
        chunks = {name: self._sent(chunk) for name, chunk in chunks.items()}
        return chunks, self._sent(back.reshape(rows.shape))

    def _sent(self, values: Tensor) -> Tensor:
        """Values on the device; this does not wait for a GPU."""
        return (values.pin_memory() if self.device.type == "cuda" else values).to(self.device, non_blocking=True)


def _order(number: int, needed: int, generator: torch.Generator) -> Tensor:
    """The indices 0 to `number` - 1 in random order, `needed` of them, again and again in new orders."""
    passes = -(-needed // max(number, 1))
    orders = [torch.randperm(number, generator=generator) for _ in range(passes)]
    return torch.cat([torch.empty(0, dtype=torch.int64), *orders])[:needed]


def _strata(labels: Mapping[str, Tensor], name: str, number: int) -> list[Tensor]:
    """The indices of the rows with each of a label's `number` values."""
    y = labels.get(name)
    if y is None:
        raise InputError(f"{name}: got nothing; expected a value, 0 to {number - 1}, of every row")
    if y.dim() != 1 or y.is_floating_point() or (y < 0).any() or (y >= number).any():
        raise InputError(f"{name}: got {y.dtype} of shape {tuple(y.shape)}; expected 0 to {number - 1} of every row")
    found = [(y.cpu() == value).nonzero()[:, 0] for value in range(number)]
    if empty := [value for value, rows in enumerate(found) if not len(rows)]:
        raise InputError(f"{name}: got no row of the values {empty[:5]}; expected some of each, for stratify")
    return found


def _data(name: str, value: Any) -> Tensor:
    value = _rows(name, value)
    if value.dim() < 2 or not (value.is_floating_point() or value.dtype == torch.uint8):
        got = f"{value.dtype} of shape {tuple(value.shape)}"
        raise InputError(f"{name}: got {got}; expected rows of data, (N, ...), floats or uint8, see fit")
    return value


def _rows(name: str, value: Any) -> Tensor:
    value = as_tensor(name, value)
    if not value.dim() or not len(value):
        raise InputError(f"{name}: got 0 rows, shape {tuple(value.shape)}; expected one or more")
    return value
