"""Log-densities of sites as tables: their dimensions (rows, plates, particles) and their sums, `(B,)`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.infer.evidence import enumerates
from pyro_semivae.infer.roles import sample_sites


def log_prob(site: dict) -> Tensor:
    """The log-density of a site, in its batch shape, masked as the site is and not scaled."""
    return masked(site["fn"].log_prob(site["value"]), site)


def masked(table: Tensor, site: dict) -> Tensor:
    """A table in a site's batch shape, set to 0 where `poutine.mask` excludes the site."""
    return scale_and_mask(table, mask=site["mask"])


def advantage(reward: Tensor) -> Tensor:
    """Each row's reward minus the leave-one-out baseline, detached; keeps a score-function gradient unbiased."""
    others = (reward.sum() - reward) / max(len(reward) - 1, 1)
    return (reward - others).detach()


def sampled_index(log_q: Tensor, dim: int) -> Tensor:
    """Samples an index along `dim` with probabilities exp(log_q); the result lacks `dim` and has no gradient."""
    gumbel = -(-torch.rand_like(log_q).clamp(min=torch.finfo(log_q.dtype).tiny).log()).log()
    return (log_q.detach() + gumbel).argmax(dim)


def varies(table: Tensor, dim: int | None) -> bool:
    """Whether a table varies along a (negative) dimension."""
    return dim is not None and table.dim() >= -dim and table.shape[dim] > 1


def row_dim(site: dict) -> int:
    """The batch dimension of the plate of rows, the outermost plate, independent of its name.

    Raises:
        ValueError: the site is in no plate.
    """
    dims = plate_dims(site)
    if not dims:
        raise InputError(f"site '{site['name']}' is outside of the plate of rows; expected all sites inside it")
    return min(dims)


def plate_dims(site: dict) -> set[int]:
    """The batch dimensions of the plates that a site is in."""
    return {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}


def plates_of_entries(label: dict, site: dict) -> set[int]:
    """The plates of size above 1 around a label and not around a site; enumeration would need 2^L terms."""
    within = plate_dims(site)
    return {f.dim for f in label["cond_indep_stack"] if f.vectorized and f.size > 1 and f.dim not in within}


def reduce_plates(table: Tensor, site: dict, keep: set[int]) -> Tensor:
    """Sums a site's `table` over its plates, except for the dimensions to `keep`; summed ones stay, with size 1."""
    dims = sorted(plate_dims(site) - keep)
    return table.sum(dims, keepdim=True) if dims else table


def to_rows(table: Tensor, site: dict) -> Tensor:
    """Sums a site's `table` over the plates inside the plate of rows, `(B,)`; its other dimensions must be 1."""
    dim = row_dim(site)
    return reduce_plates(table, site, keep={dim}).reshape(table.shape[dim])


def row_scale(trace: Trace, names: Iterable[str]) -> float | Tensor:
    """The common scale of a trace's sites from Pyro's handlers: a number or a scalar tensor.

    Raises:
        ValueError: the sites are scaled differently (use weights for single terms).
    """
    sites = [trace.nodes[name] for name in names]
    scales = [site["scale"] for site in sites]
    if any(isinstance(scale, Tensor) and scale.dim() for scale in scales) or any(s != scales[0] for s in scales):
        raise InputError(
            f"sites {[site['name'] for site in sites]} are scaled differently: scale whole rows (their plate, or "
            f"Step's scale), and give single terms a weight"
        )
    return scales[0]


def first_particle(trace: Trace, dim: int) -> Trace:
    """A copy of a guide's trace in which every latent has the value of its first particle."""
    first = trace.copy()
    for name, site in sample_sites(trace):
        fn, value = site["fn"], site["value"]
        axis = dim - fn.event_dim
        if not enumerates(site) and value.dim() >= -axis and value.shape[axis] > 1:
            first.nodes[name] = {**site, "value": value.select(axis, 0)}
    return first


def without_gradients(trace: Trace) -> Trace:
    """A copy of a guide's trace with detached values; its densities keep their gradients."""
    copied = trace.copy()
    for name, site in sample_sites(trace):
        copied.nodes[name] = {**site, "value": site["value"].detach()}
    return copied


def masked_rows(values: Tensor, site: dict) -> Tensor:
    """One number per row, `(B,)`, set to 0 where `poutine.mask` excludes a site."""
    return to_rows(masked(values.reshape(-1, *(1,) * (-1 - row_dim(site))), site), site)
