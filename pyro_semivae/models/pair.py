"""A `SemiVAE` from a model and a guide that are plain functions, or methods of any module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from pyro_semivae.errors import InputError
from pyro_semivae.infer import ClassifierTerm, Objective, TraceLabels_ELBO
from pyro_semivae.models.base import SemiVAE
from pyro_semivae.spaces import Space


class Pair(SemiVAE):
    """Wraps your own model and guide functions, with their spaces, for `fit`, the tasks, `check_model` and `show`.

    Args:
        model, guide: functions with the arguments of `SemiVAE.model` and `SemiVAE.guide`: the values of the sites in
            `spaces`, in that order, each `None` if it is missing. They define their own plates. With a label of several
            entries (`Binary`, `Real`) the plate of rows is dim -2 and data are `(B, 1, ...)`, see `SemiVAE`.
        modules: modules to train, in addition to those that the functions are methods of.
        elbo: a function that returns the objective (default: `TraceLabels_ELBO` with a classifier weight of 1).
        characteristic: see `SemiVAE` (default: the labels).
        spaces: site name -> space.

    Raises:
        InputError: there are no modules to train.

    >>> import pyro, torch, pyro.distributions as dist
    >>> from pyro_semivae.spaces import Classes, Vectors
    >>> class Net(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.means, self.classify = torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Linear(2, 3)
    ...     def model(self, x=None, y=None):
    ...         with pyro.plate("rows", len(y if x is None else x)):
    ...             y = pyro.sample("y", dist.Categorical(torch.ones(3)), obs=y, infer={"enumerate": "parallel"})
    ...             pyro.sample("x", dist.Normal(self.means[y], 1.0).to_event(1), obs=x)
    ...     def guide(self, x, y=None):
    ...         with pyro.plate("rows", len(x)):
    ...             pyro.sample("y", dist.Categorical(logits=self.classify(x)), obs=y, infer={"enumerate": "parallel"})
    >>> net = Net()
    >>> vae = Pair(net.model, net.guide, x=Vectors(2), y=Classes(3))
    >>> from pyro_semivae.train import fit
    >>> _ = fit(vae, torch.randn(9, 2), torch.tensor([0, 1, 2, -1, -1, -1, -1, -1, -1]), epochs=2, progress=False)
    """

    states_graph = False

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        modules: Sequence[nn.Module] = (),
        elbo: Callable[..., Objective] | None = None,
        characteristic: Sequence[str] | None = None,
        **spaces: Space,
    ):
        super().__init__(**spaces)
        owners = [*modules]
        for fn in (model, guide):
            owner = fn if isinstance(fn, nn.Module) else getattr(fn, "__self__", None)
            if isinstance(owner, nn.Module) and not any(owner is known for known in owners):
                owners.append(owner)
        if not owners:
            raise InputError("modules: got none; expected those whose parameters model and guide use")
        self.modules_of_pair = nn.ModuleList(owners)
        self._functions, self._elbo = (model, guide), elbo
        self.characteristic = self.label_sites if characteristic is None else tuple(characteristic)

    def model(self, *values: Tensor | None) -> Any:
        self.register()
        return self._functions[0](*self._arranged(values))

    def guide(self, *values: Tensor | None) -> Any:
        return self._functions[1](*self._arranged(values))

    def _arranged(self, values: Sequence[Tensor | None]) -> list[Tensor | None]:
        pairs, nesting = zip(self.spaces.values(), values, strict=False), self.max_plate_nesting
        return [None if value is None else space.arranged(value, nesting) for space, value in pairs]

    def elbo(self, **options: Any) -> Objective:
        """The objective, with its options."""
        if self._elbo is not None:
            return self._elbo(**options)
        bound = TraceLabels_ELBO(**{"max_plate_nesting": self.max_plate_nesting, **options})
        return bound + ClassifierTerm() if self.label_sites else bound
