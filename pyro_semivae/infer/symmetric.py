"""The symmetric KL divergence between guide and model (Pu et al. 2018; Ruiz et al. 2019, Eq. 3)."""

from __future__ import annotations

from pyro_semivae.errors import InputError
from pyro_semivae.infer.base import Bound, Part, Sum
from pyro_semivae.infer.evaluation import Value
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.step import Step
from pyro_semivae.infer.tables import log_prob, to_rows
from pyro_semivae.infer.terms import DensityRatio, LatentReconstruction
from pyro_semivae.infer.weights import Weight, check_weight


class TraceSymmetricKL_ELBO(Sum):
    r"""-(KL(q || p) + KL(p || q)), q = q(z|x) p_data(x) and p = p(x|z) p(z), estimated with learned density ratios.

    .. math::
        J = E_q[d] - E_p[d], \qquad d = \log \frac{q(z|x) p_\mathrm{data}(x)}{p(x|z) p(z)}

    A discriminator d with fixed parameters gives only one part of J's gradient, the one through samples: through z to
    the guide's parameters psi, and through x to the model's theta. The other part is explicit, because the derivatives
    of log q in E_q and of log p in E_p have mean 0:

    .. math::
        \nabla J = E_q[\nabla_z d \, \partial_\psi z] - E_p[\nabla_x d \, \partial_\theta x]
            - E_q[\partial_\theta \log p_\theta(x|z)] - E_p[\partial_\psi \log q_\psi(z|x)]

    The last two terms are the reconstructions that the paper adds "similar to Symmetric VAEs". With weight 1 and
    gradients that stop at the samples, they make the gradient exact. Without the stops (a possible reading of the
    paper), the paths through z and x are counted twice, by d and by the reconstructions.

    Args:
        ratios: `DensityRatio` terms: one for all rows, or one for each group of rows (with its own latents).
        adversarial, reconstruction, latents: weights of the ratios, of log p(x|z), of log q(z|x~).
        stop_gradients: whether the reconstructions' gradients stop at the samples.
        max_plate_nesting: see `Objective`.

    Terms: `log p(x|z)`; `-J(x,z)` for each ratio; `log q(z|x~)`. The latents' densities are reported, so that the
    history has the ELBO, but are not part of the objective.

    Raises:
        InputError: there is no ratio; the ratios differ in `generate`.

    >>> from pyro_semivae.nn import MLPs
    >>> from pyro_semivae.models import VAE
    >>> from pyro_semivae.spaces import Classes
    >>> import torch
    >>> vae = VAE((1, 8, 8), Classes(2), z=3, networks=MLPs((16,)))
    >>> elbo = TraceSymmetricKL_ELBO(DensityRatio("z", net=MLPs((16,)).discriminator((1, 8, 8), [3])))
    >>> list(elbo.weighted_terms(vae.model, vae.guide, torch.rand(4, 1, 8, 8)))
    ['log p(x|z)', '-J(x,z)', 'log q(z|x~)']
    """

    def __init__(
        self,
        *ratios: DensityRatio,
        adversarial: Weight = 1.0,
        reconstruction: Weight = 1.0,
        latents: Weight = 1.0,
        stop_gradients: bool = True,
        max_plate_nesting: int = 1,
    ):
        weights = {"adversarial": adversarial, "reconstruction": reconstruction, "latents": latents}
        for name, weight in weights.items():
            check_weight(name, weight, least=0)
        if not ratios or len({ratio.generate for ratio in ratios}) > 1:
            got = f"ratios that generate by {[ratio.generate for ratio in ratios]}"
            raise InputError(f"ratios: got {got}; expected one DensityRatio or more, with one `generate`")
        bound = Reconstruction(stop_gradients=stop_gradients, max_plate_nesting=max_plate_nesting)
        guessed = LatentReconstruction(ratios[0].generate, stop_gradients=stop_gradients)
        parts = [Part(bound, (reconstruction,)), *(Part(ratio, (adversarial,)) for ratio in ratios)]
        super().__init__(*parts, Part(guessed, (latents,)))


class Reconstruction(Bound):
    """log p(x | z) with z from the guide; the latents' densities are reported but not maximised.

    Args:
        stop_gradients: whether to stop the gradient at z.
    """

    def __init__(self, *, stop_gradients: bool = True, max_plate_nesting: int = 1):
        super().__init__(max_plate_nesting=max_plate_nesting)
        self.stop_gradients = stop_gradients

    def runs(self, step: Step) -> list[Run]:
        return [step.run(self.max_plate_nesting, detached=self.stop_gradients)]

    def values(self, run: Run) -> list[Value]:
        if run.labels:
            got = f"{type(self).__name__}: got a guide and model with the labels {run.labels}"
            raise InputError(f"{got}; expected no labels that may be missing; declare observed ones as Groups")
        values = [self._value(run, "log p", name) for name in run.roles.data]
        for name in run.latents:
            values += [self._value(run, "log p", name, removed=True), self._value(run, "-log q", name, removed=True)]
        return values

    def _value(self, run: Run, what: str, name: str, *, removed: bool = False) -> Value:
        site = (run.guide if "q" in what else run.model).nodes[name]
        density = to_rows(log_prob(site), site)
        return Value(f"{what}({name})", -density if "-" in what else density, removed=removed)
