"""Models as files: the weights and the constructor's arguments, as plain values that are safe to load."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_semivae.conditionals import Conditional
from pyro_semivae.errors import InputError
from pyro_semivae.files import check_fields, load_checkpoint, note, save_checkpoint

if TYPE_CHECKING:
    from pyro_semivae.models.base import SemiVAE

# The names that a file may contain: module prefix -> whether an object of that module is accepted. Nothing else is
# imported, and only classes of models, spaces, networks and likelihoods are called.
_NAMED: dict[str, Callable[[Any], bool]] = {
    "pyro_semivae.models.": lambda found: isinstance(found, type) and issubclass(found, nn.Module),
    "pyro_semivae.spaces.": dataclasses.is_dataclass,
    "pyro_semivae.nn": dataclasses.is_dataclass,
    "pyro_semivae.conditionals.": lambda found: isinstance(found, type) and issubclass(found, Conditional),
    "pyro_semivae.data.noise": inspect.isfunction,
    "torch.nn.modules.activation": lambda found: isinstance(found, type) and issubclass(found, nn.Module),
}


class _UnknownError(Exception):
    """A value that a file cannot hold."""


def built(vae: SemiVAE) -> dict[str, Any]:
    """A model's class and constructor arguments, encoded for a file; `"unknown"` lists those that it cannot hold."""
    cls = type(vae)
    args, kwargs = vae.built_with
    out: dict[str, Any] = {"class": f"{cls.__module__}.{cls.__qualname__}", "arguments": {}, "unknown": []}
    for name, value in _arguments(cls, args, kwargs).items():
        try:
            out["arguments"][name] = _encoded(value)
        except _UnknownError as error:
            out["unknown"].append(f"{name}={error}")
    return out


def _arguments(cls: type, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name, those in `**kwargs` included."""
    signature = inspect.signature(cls.__init__)
    bound = signature.bind(None, *args, **kwargs).arguments
    out = {}
    for name, value in list(bound.items())[1:]:  # after self
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            raise InputError(f"{cls.__name__}: got *{name}; expected named arguments only, so that it can be saved")
        out |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return out


def _encoded(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = torch.as_tensor(value) if value.ndim else value.item()
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value.detach().cpu() if isinstance(value, Tensor) else value
    if isinstance(value, list | tuple):
        return {"kind": "list" if isinstance(value, list) else "tuple", "of": [_encoded(part) for part in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"kind": "dict", "of": {key: _encoded(part) for key, part in value.items()}}
    if isinstance(value, partial):
        parts = {"args": _encoded(value.args), "keywords": _encoded(value.keywords)}
        return {"kind": "partial", "of": _encoded(value.func), **parts}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _encoded(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": "object", "of": _name(type(value)), "fields": fields}
    if hasattr(value, "built_with"):  # another model, such as M1 in M1+M2, whose weights are saved with this model's
        made = built(value)
        if made["unknown"]:
            raise _UnknownError(f"{type(value).__name__}({', '.join(made['unknown'])})")
        return {"kind": "model", **made}
    if isinstance(value, type) or inspect.isfunction(value):
        return {"kind": "name", "of": _name(value)}
    raise _UnknownError(repr(value)[:100])


def _name(value: Any) -> str:
    name = f"{value.__module__}.{value.__qualname__}"
    try:
        same = _named(name, "") is value
    except InputError:
        same = False
    if not same:
        raise _UnknownError(name)
    return name


def _named(name: str, path: str | Path) -> Any:
    """The object with a name that a file contains."""
    module, _, attribute = name.rpartition(".")
    for prefix, accepted in _NAMED.items():
        if module.startswith(prefix) or module == prefix.rstrip("."):
            try:
                found = getattr(import_module(module), attribute)
            except (ImportError, AttributeError):
                break
            if accepted(found):
                return found
    raise InputError(f"path: {path} names {name}, which is no model, space, network or likelihood of this version")


def _decoded(value: Any, path: str | Path) -> Any:
    if not isinstance(value, dict):
        return value
    kind = value["kind"]
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](_decoded(part, path) for part in value["of"])
    if kind == "dict":
        return {key: _decoded(part, path) for key, part in value["of"].items()}
    if kind == "partial":
        func = _decoded(value["of"], path)
        return partial(func, *_decoded(value["args"], path), **_decoded(value["keywords"], path))
    if kind == "object":
        return _named(value["of"], path)(**{key: _decoded(part, path) for key, part in value["fields"].items()})
    if kind == "model":
        return _made(_named(value["class"], path), value, path)
    return _named(value["of"], path)


def _made(cls: type[SemiVAE], how: dict[str, Any], path: str | Path) -> SemiVAE:
    return cls(**{name: _decoded(value, path) for name, value in how["arguments"].items()})


def save(vae: SemiVAE, path: str | Path) -> None:
    """See `SemiVAE.save`."""
    how = built(vae)
    if how["unknown"]:
        note(f"{path} cannot hold {', '.join(how['unknown'])}: load(path, vae) loads the weights into a model like it")
    weights = {name: value.detach().cpu() for name, value in vae.state_dict().items()}
    save_checkpoint(path, {"model": type(vae).__name__, "weights": weights, "built": how})


def load(path: str | Path, model: type[SemiVAE] | SemiVAE | None = None) -> SemiVAE:
    """Loads a model from a file of `SemiVAE.save`, or from a run's checkpoint; no code in the file is executed.

    Args:
        path: the file. model: None for this package's models; the class, for your own model; or, if the file could not
            hold its arguments (your own functions and modules), a model built the same way, whose weights are replaced.

    Returns the model, on the CPU (a given `model` stays on its device), in the dtype of the weights.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is damaged, or from another version; it holds another class than `model`, or an object that
            this version does not know; its weights do not fit, or are not finite.
    """
    from pyro_semivae.checkpoints import load_weights  # imported here: it imports the models

    state = load_checkpoint(path)
    name = state["model"]
    cls = type(model) if isinstance(model, nn.Module) else model
    if cls is not None and (not isinstance(cls, type) or cls.__name__ != name):
        got = getattr(cls, "__name__", repr(cls))
        raise InputError(f"model: got {got}; expected what {path} holds, a {name}")
    if not isinstance(model, nn.Module):
        model = _rebuilt(state, cls, path)
        saved = [state["weights"][name] for name, _ in model.named_parameters() if name in state["weights"]]
        model.to(saved[0].dtype if saved else torch.get_default_dtype())
    load_weights(model, state, path)
    return model


def _rebuilt(state: dict[str, Any], cls: type[SemiVAE] | None, path: str | Path) -> SemiVAE:
    how = state.get("built")
    if how is None:
        raise InputError(f"path: {path} does not say how its {state['model']} was built; expected load(path, vae)")
    check_fields(state, path, {"built": dict})
    check_fields(how, path, {"class": str, "arguments": dict, "unknown": list}, "built")
    if how["unknown"]:
        unknown = ", ".join(map(str, how["unknown"]))
        raise InputError(f"path: {path} could not hold {unknown}; expected load(path, vae) with a model like it")
    if cls is None and not how["class"].startswith("pyro_semivae.models."):
        raise InputError(f"path: {path} holds a {how['class']}, your own class; expected load(path, {state['model']})")
    try:
        return _made(_named(how["class"], path) if cls is None else cls, how, path)
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"path: {path} was written by another version: {error}") from error
