"""The regulariser of REVAE's Appendix D.2: generated latents get the label of the nearest labelled example."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pyro import poutine
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.evidence import Evidence, enumeration_dim, select
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.tables import log_prob, plate_dims, to_rows
from pyro_semivae.spaces import is_missing


class NearestLabelTerm(Term):
    r"""log q(y~|z') for rows without observed labels, with z' from the prior (REVAE D.2).

    .. math::
        y \sim p(y), \quad z' \sim p(z_c|y), \quad y^{\sim} = y_r, \quad r = \arg\max_r q(z_c = z'|x_r)

    z' is detached, and r ranges over the labelled rows of the batch (in the paper over all labelled rows, which is the
    same if a batch contains them all). It costs a second run of the guide.

    Raises:
        InputError: when evaluated: the model does not have exactly one class label, or no latent depends on it.
    """

    needs_labels = True
    whole_batch = True

    def values(self, run: Run) -> Mapping[str, Tensor]:
        entries = any(len(plate_dims(run.model.nodes[label])) > 1 for label in run.roles.labels)
        if len(run.roles.labels) != 1 or entries:
            raise InputError(f"NearestLabelTerm: got the labels {run.roles.labels}; expected one class label")
        (label,) = run.roles.labels
        if label not in run.observed:
            return {}
        run.check_classified(label)
        site, y = run.model.nodes[label], run.observed[label]
        dim, drawn = enumeration_dim(site), site["fn"].sample()  # (B,)
        draws = {}
        for name in run.roles.latents:
            fn = run.model.nodes[name]["fn"]
            if len(fn.batch_shape) >= -dim and fn.batch_shape[dim] > 1:  # p(z_c|y)
                z = fn.sample().movedim(dim - fn.event_dim, 0)  # (C, ..., B, D)
                z = z.reshape(z.shape[:1] + z.shape[-1 - fn.event_dim :])  # (C, B, D)
                draws[name] = z[drawn, torch.arange(len(y), device=y.device)]  # (B, D)
        if not draws:
            raise InputError(f"NearestLabelTerm: no latent of the model depends on '{label}'; expected one or more")
        log_q_z = sum(  # log q(z'_b | x_r) for every sample b and row r, (B, B)
            run.guide.nodes[name]["fn"].log_prob(z.unsqueeze(1)) for name, z in draws.items()
        )
        nearest = log_q_z.masked_fill(is_missing(y), -math.inf).argmax(1)
        with (
            poutine.enum(first_available_dim=run.particle_dim - 1),
            Evidence().then_model(),
            poutine.condition(data=draws),
        ):
            classifier = run.step.run_guide().nodes[label]
        log_q_y = select(log_prob(classifier), classifier["value"], y[nearest], enumeration_dim(classifier))
        return {"log q(y~|z')": torch.where(run.known_rows, 0.0, to_rows(log_q_y, classifier))}
