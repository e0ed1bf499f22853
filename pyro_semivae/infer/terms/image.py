"""The discriminative term for images in the inverted VAE (Gemp et al. 2017, Eq. 8)."""

from __future__ import annotations

from collections.abc import Mapping

from pyro import poutine
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.errors import InputError
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.evidence import Impute
from pyro_semivae.infer.roles import sample_sites
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.tables import masked, to_rows
from pyro_semivae.spaces import is_missing


class ImageTerm(Term):
    r"""-||x - E[x|y,z]||^2 for examples with all labels known, z from its prior; else 0 (Gemp et al. 2017, Eq. 8).

    The paper says "L2"; here it is squared. One z is sampled, in another run of the model.

    Raises:
        InputError: when evaluated: the model has several data sites or labels.
    """

    needs_labels = True

    def values(self, run: Run) -> Mapping[str, Tensor]:
        if not run.labels:
            raise InputError("ImageTerm: there is no label; expected a model with one")
        if not run.observed:
            return {}
        step = run.step.parts()[0]  # the labelled rows, if the step says which
        trace = poutine.trace(Impute()(step.model)).get_trace(*step.args, **step.kwargs)
        data = [site for name, site in sample_sites(trace) if site["is_observed"] and name not in run.observed]
        if len(data) != 1 or len(run.observed) != 1:
            got = f"{len(data)} data sites and the labels {list(run.observed)}"
            raise InputError(f"ImageTerm: got {got}; expected one of each")
        (site,), (y,) = data, run.observed.values()
        squared = (site["value"] - site["fn"].mean).square().flatten(-site["fn"].event_dim).sum(-1)
        distance = to_rows(masked(squared, site), site)
        known = ~is_missing(y).reshape(len(y), -1).any(1)
        return {"-||x - E[x|y,z]||^2": F.pad(-distance * known[: len(distance)], (0, len(y) - len(distance)))}
