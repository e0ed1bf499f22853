"""The ELBO with model and guide exchanged: the guide generates labels, the model infers the data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Literal
from weakref import ref

from pyro import poutine
from pyro.distributions import Bernoulli, Independent, TransformedDistribution
from pyro.distributions.transforms import SigmoidTransform
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_semivae.distributions import RelaxedLogits
from pyro_semivae.errors import InputError, check_choice, check_number
from pyro_semivae.infer.base import Bound
from pyro_semivae.infer.evaluation import Value
from pyro_semivae.infer.evidence import Impute, enumerates
from pyro_semivae.infer.roles import Roles, sample_sites
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.step import Step
from pyro_semivae.infer.tables import advantage, log_prob, row_scale, to_rows
from pyro_semivae.spaces import is_missing

Gradient = Literal["relaxed", "reinforce", "mean", "hard"]
GRADIENTS = ("relaxed", "reinforce", "mean", "hard")


class TraceReverse_ELBO(Bound):
    r"""The bound on the labels' evidence under the *guide*, with the model as the variational distribution.

    .. math::
        \log q(y) \ge E_{p(z) p(x|y,z)}[\log q(x) + \log q(y|x) + \log q(z|x,y) - \log p(x|y,z) - \log p(z)]

    (Gemp et al. 2017, Eq. 5). If z is observed as well (Eq. 17), the same without log p(z) is a bound on log q(y, z).
    The model's own density of observed sites (the prior of y) is not scored: all sites are scored in the guide, and
    only the latent ones in the model.

    Args:
        observed: names of the sites that are observed in reverse. Missing values are sampled from the model and treated
            as data.
        gradient: the gradient through generated images (or other discrete latents of the model); latent labels need
            `"reinforce"` or `"hard"`. `"relaxed"`: relaxed Bernoullis with their densities in both functions; a bound
            for the relaxed variables. `"mean"`: the mean instead of a sample; **not a bound**. `"reinforce"`: a binary
            sample and the score function with a leave-one-out baseline; unbiased. `"hard"`: a binary sample without a
            gradient through it (the reference code); the remaining gradient of the decoder has mean zero. Samples that
            can be reparameterised always are.
        temperature: the temperature of the relaxed Bernoullis.
        max_plate_nesting: 1 for class labels, 2 if a label has entries in a plate inside the plate of rows.

    Terms (each `(B,)`, in nats): `reverse: log q(x)`, `reverse: log q(y|x)`, `reverse: log q(z|x,y)`,
    `reverse: -log p(x|y,z)`, `reverse: -log p(z)` (where z is latent), and with `"reinforce"` the surrogate
    `reverse: score(x)`, whose value is 0.

    The call has the usual order, with x missing: `terms(model, guide, None, y)`. If x is given as well, it is the bound
    on log q(x, y) of Eq. 59, which the paper leaves out because it is loose.

    Raises:
        ValueError: an option has an invalid value; a site is in only one of the two functions; the guide fails
            without images; labels of given images are missing, or are given but not among `observed`.
    """

    scores_unpaired_labels = True

    def __init__(
        self,
        *,
        observed: Sequence[str] = ("y",),
        gradient: Gradient = "relaxed",
        temperature: float = 0.5,
        max_plate_nesting: int = 1,
    ):
        super().__init__(max_plate_nesting=max_plate_nesting)
        check_choice("gradient", gradient, GRADIENTS)
        check_number("temperature", temperature, above=0)
        self.observed, self.gradient, self.temperature = tuple(observed), gradient, temperature

    def runs(self, step: Step) -> list[Run]:
        """One run: first the model, then the guide."""
        labels = _Labels(self.observed)
        with Imagine(self.gradient, self.temperature, self.observed) as imagine:
            guess = poutine.trace(labels(step.model)).get_trace(*step.args, **step.kwargs)
            labels.check({name for name, site in sample_sites(guess) if site["is_observed"]})
            values = {name: site["value"] for name, site in sample_sites(guess)}
            guide = poutine.condition(Impute()(step.guide), data=values)
            try:
                generated = poutine.trace(guide).get_trace(*step.args, **step.kwargs)
            except (AttributeError, TypeError) as error:
                raise InputError(
                    f"guide: failed in reverse ({error}); expected sites for all data, with a density "
                    f"q(x), whose values the guide uses"
                ) from error
        self._check(dict(sample_sites(generated)), dict(sample_sites(guess)))
        return [
            Run(generated, guess, Roles((), (), ()), {}, step_ref=ref(step), in_reverse=True, kept={"imagine": imagine})
        ]

    def values(self, run: Run) -> list[Value]:
        values = [
            Value(f"reverse: log q({name})", to_rows(log_prob(site), site), in_elbo=False)
            for name, site in sample_sites(run.guide)
        ]
        for name, site in self._latent(run).items():
            values.append(Value(f"reverse: -log p({name})", -to_rows(log_prob(site), site), in_elbo=False))
        return values

    def _latent(self, run: Run) -> dict[str, dict]:
        """The model's latent sites in reverse."""
        sites = sample_sites(run.model)
        return {name: site for name, site in sites if not (name in self.observed or site["is_observed"])}

    def surrogates(self, run: Run, values: Sequence[Value]) -> list[Value]:
        if self.gradient != "reinforce" or not values:
            return []
        log_p = {name: to_rows(log_prob(site), site) for name, site in self._latent(run).items()}
        reward = advantage(sum(value.summed() for value in values))
        return [
            Value(f"reverse: score({name})", reward * (log_p[name] - log_p[name].detach()), in_elbo=False)
            for name in run.kept["imagine"].discrete
        ]

    def scale(self, run: Run) -> float | Tensor:
        return row_scale(run.guide, [name for name, _ in sample_sites(run.guide)])

    def _check(self, q: dict, p: dict) -> None:
        for names, others, what in ((q, p, "guide"), (p, q, "model")):
            for name in names:
                if name not in others:
                    raise InputError(
                        f"site '{name}' is in the {what} only: with roles exchanged both need all sites, data included "
                        f"(a guide with a density q(x), where x is observed marked is_auxiliary)"
                    )
        if unknown := set(self.observed) - set(p):
            raise InputError(f"observed: got {sorted(unknown)}; expected {', '.join(map(repr, p))}")


class _Labels(Impute):
    """Samples missing entries of labels that are observed in reverse, and records which labels have some."""

    def __init__(self, observed: Sequence[str]):
        super().__init__()
        self.observed = observed
        self.drawn: list[str] = []

    def _pyro_sample(self, msg) -> None:
        if enumerates(msg):
            given = msg["is_observed"]
            if given and msg["name"] not in self.observed:
                got = f"observed: got {', '.join(map(repr, self.observed))}, and values of the label '{msg['name']}'"
                raise InputError(f"{got}; expected no values, or '{msg['name']}' in observed")
            if not given or (is_validation_enabled() and is_missing(msg["value"]).any()):
                self.drawn.append(msg["name"])
        super()._pyro_sample(msg)

    def check(self, data: set[str]) -> None:
        """Raises an InputError if labels of given data were missing and sampled."""
        if data and self.drawn:
            label, site = self.drawn[0], sorted(data)[0]
            raise InputError(f"{label}: got missing labels of given data '{site}'; expected observed labels in reverse")


class Imagine(Messenger):
    """Samples the model's discrete latents (images) with one of `TraceReverse_ELBO`'s gradients, in both functions.

    Args:
        gradient, temperature: see `TraceReverse_ELBO`. observed: names of sites that stay unchanged.

    Attributes:
        discrete: names of the sites that were sampled in this way.
    """

    def __init__(self, gradient: Gradient, temperature: float, observed: Sequence[str]):
        super().__init__()
        self.gradient, self.temperature, self.observed = gradient, temperature, observed
        self.discrete: list[str] = []
        # Shared by both functions: the density in one uses the cached logits that were sampled in the other.
        self._squash: dict[str, SigmoidTransform] = defaultdict(partial(SigmoidTransform, cache_size=1))

    def _pyro_sample(self, msg) -> None:
        fn = msg["fn"]
        if msg["name"] in self.observed or not hasattr(fn, "batch_shape") or fn.has_rsample:
            return
        if enumerates(msg) and self.gradient in ("relaxed", "mean"):
            got = f"gradient: got {self.gradient!r}"
            raise InputError(f"{got}; expected 'reinforce' or 'hard' for '{msg['name']}', a label that is latent")
        if not msg["is_observed"]:  # the model samples it
            self.discrete.append(msg["name"])
        if self.gradient == "relaxed" and msg["name"] in self.discrete:
            msg["fn"] = self._relaxed(msg["name"], fn)
        if self.gradient == "mean" and not msg["is_observed"]:
            self._binary(msg["name"], fn)
            msg["value"], msg["done"] = fn.mean, True

    def _relaxed(self, name: str, fn) -> TransformedDistribution:
        base = self._binary(name, fn)
        temperature = base.logits.new_full((), self.temperature)
        logits = RelaxedLogits(temperature, logits=base.logits)
        return TransformedDistribution(logits, [self._squash[name]]).to_event(fn.event_dim)

    def _binary(self, name: str, fn) -> Bernoulli:
        while isinstance(fn, Independent):
            fn = fn.base_dist
        if not isinstance(fn, Bernoulli):
            got = f"gradient: got {self.gradient!r}"
            raise InputError(f"{got}; expected 'reinforce' or 'hard' for '{name}', which is not binary")
        return fn
