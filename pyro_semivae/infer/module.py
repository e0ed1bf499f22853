"""An objective bound to a model and a guide, for torch optimisers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pyro_semivae.errors import InputError
from pyro_semivae.infer.evaluation import Evaluation
from pyro_semivae.infer.handlers import LocalParameters
from pyro_semivae.infer.step import Step
from pyro_semivae.infer.traced import Compiler, Traced

if TYPE_CHECKING:
    from pyro_semivae.infer.base import Objective


class ObjectiveModule(nn.Module):
    """An objective bound to a model and a guide; the forward is the loss.

    It owns the parameters of the modules that model and guide are, or are methods of, and uses these directly: Pyro's
    global parameter store is neither read nor written. Modules that terms own are not included: they have their own
    loss, see `Objective.modules`.

    Raises:
        ValueError: neither model nor guide is a module or a method of one.
    """

    def __init__(self, objective: Objective, model: Callable, guide: Callable):
        super().__init__()
        owners: list[nn.Module] = []
        for fn in (model, guide):
            owner = fn if isinstance(fn, nn.Module) else getattr(fn, "__self__", None)
            if isinstance(owner, nn.Module) and not any(owner is known for known in owners):
                owners.append(owner)
        if not owners:
            raise InputError(
                f"model, guide: got {model!r}, {guide!r}; expected modules or bound methods of modules, "
                f"which have parameters to train"
            )
        self.owners = nn.ModuleList(owners)
        self.objective = objective
        self._pair = (model, guide)

    def evaluate(
        self,
        *args: Any,
        scale: float | Tensor = 1.0,
        labelled: int = 0,
        done: float = 1.0,
        data_complete: bool = False,
        strata: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Evaluation:
        """Evaluates the objective's terms on a batch; see `Step` for the arguments."""
        with LocalParameters():
            step = Step(*self._pair, args, {}, scale, labelled, done, data_complete, strata=dict(strata or {}))
            return self.objective.evaluate(step)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        with LocalParameters():
            return -self.objective.evaluate(Step(*self._pair, args, kwargs)).total()

    def compiled(self, *, compiler: Compiler = "inductor") -> CompiledModule:
        """This module with forward and gradients as one graph, traced and compiled at the first call of a signature.

        Args:
            compiler: see `Traced`, also for the errors raised by a call.

        >>> import torch
        >>> from pyro_semivae.models import VAE
        >>> from pyro_semivae.nn import MLPs
        >>> from pyro_semivae.spaces import Classes
        >>> vae = VAE((1, 2, 3), Classes(2), z=2, networks=MLPs((4,)))
        >>> loss = vae.elbo()(vae.model, vae.guide).compiled(compiler="none")
        >>> optimiser = torch.optim.Adam(loss.parameters())
        >>> for _ in range(3):
        ...     optimiser.zero_grad()
        ...     loss(torch.rand(5, 1, 2, 3)).backward()
        ...     optimiser.step()
        >>> loss.traced.graphs
        1
        """
        return CompiledModule(self, compiler)


class CompiledModule(nn.Module):
    """An objective bound to a model and a guide, whose forward (the loss) and gradients run as a graph.

    It owns the parameters of `module`. Modules owned by terms get no gradient from it.

    Attributes:
        module: the compiled module. traced: its graphs.
    """

    def __init__(self, module: ObjectiveModule, compiler: Compiler = "inductor"):
        super().__init__()
        self.module = module
        self.traced = Traced(self._loss, [module, module.objective.modules()], {"loss": module}, compiler=compiler)

    def _loss(self, args: tuple, kwargs: dict[str, Any], *, done: float) -> tuple[dict[str, Tensor], None]:
        return {"loss": self.module(*args, **kwargs)}, None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        losses, _ = self.traced(args, kwargs)
        return losses["loss"]
