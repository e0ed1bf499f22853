"""The settings of a training run as plain values, equal in every process: a resumed run compares them."""

from __future__ import annotations

import copyreg
import dis
import hashlib
import random
import re
import sys
from collections.abc import Mapping
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_semivae.data.batches import Batches
from pyro_semivae.digests import digest
from pyro_semivae.files import note
from pyro_semivae.infer import Objective
from pyro_semivae.infer.base import Summand
from pyro_semivae.models import SemiVAE

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# Libraries whose functions count as the same if their names are.
LIBRARIES = {*sys.stdlib_module_names, "lightning_fabric", "numpy", "pyro", "pyro_semivae", "scipy", "torch"}
RANDOM = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


def setting(
    vae: SemiVAE,
    elbo: Objective,
    data: Mapping[str, Tensor],
    batches: Batches,
    of_batches: str,
    of_optimiser: dict[str, Any],
) -> dict[str, Any]:
    """Name -> setting, for everything that a run depends on. A note on standard error lists what cannot be compared.

    Images and labels are represented by their SHA-256, functions by their code (see `Description`).
    """
    told, prior = Description(vae), getattr(vae, "p_y", None)
    rows = batches.labelled.to(batches.device)
    known = {name: digest(y[rows].nan_to_num(-1.0).double()) for name, y in batches.labels.items()}
    alone = batches.unpaired_labels
    out = {
        "model": told.module(vae),  # its conditionals, the sizes of their networks, dropout
        "prior": {name: value.tolist() for name, value in prior.named_buffers()} if prior is not None else {},
        "objective": told(elbo),
        "data": _one({name: f"{tuple(x.shape)} {x.dtype} SHA-256 {digest(x)}" for name, x in data.items()}),
        # NaN for missing entries is replaced by -1, since NaN does not equal itself.
        "labels": _one(known),
        "labels alone": "none" if alone is None else digest(alone.double()),
        "batches": f"{of_batches}, {batches.dtype}",
        "optimiser": ", ".join(f"{name} {told(value)}" for name, value in of_optimiser.items()),
    }
    if told.unknown:
        what = ", ".join(dict.fromkeys(told.unknown))
        note(f"checkpoint: resuming will not notice other values of {what}: they cannot be compared")
    return {**out, "code": {"Python": PYTHON, **told.codes}}


def _one(of_sites: dict[str, str]) -> str:
    """The texts of several sites, each with its name; that of a single site without."""
    said = [*of_sites.values()] if len(of_sites) == 1 else [f"{name} {value}" for name, value in of_sites.items()]
    return ", ".join(said) or "none"


def difference(was: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first difference between two settings, as the end of a sentence; None if there is none.

    The code of functions is compared within one version of Python; between two versions a note is printed instead.
    """
    for name, value in now.items():
        old = was.get(name)
        if name == "code":
            old = old if isinstance(old, dict) else {}
            functions = [
                key for key in dict.fromkeys([*value, *old]) if key != "Python" and old.get(key) != value.get(key)
            ]
            if functions and old.get("Python") == PYTHON:
                return f"code of {', '.join(functions)}"
            if functions:
                version = old.get("Python")
                note(f"checkpoint: code of Python {version} cannot be compared with {PYTHON}'s: {', '.join(functions)}")
        elif old != value:
            return name + ("" if name in ("labels", "labels alone") else _changed(str(old), str(value)))
    return None


def _changed(was: str, now: str) -> str:
    """The entries that differ between two settings' texts."""
    parts = (dict.fromkeys(map(str.strip, re.split(r"[][{}(),\n]", text))) for text in (was, now))
    before, after = parts
    old, new = ([part for part in parts if part not in others] for parts, others in ((before, after), (after, before)))
    return f": {', '.join(old) or 'less'}, now {', '.join(new) or 'less'}" if old or new else ": in another order"


def described(value: Any) -> str:
    """A setting as text; see `Description`.

    >>> from pyro_semivae.data import shift
    >>> described({"corrupt": partial(shift, pixels=2), "lr": 0.5})
    '(corrupt shift(pixels 2), lr 0.5)'
    """
    return Description()(value)


class Description:
    """Describes values as texts, such that two runs with the same settings have the same texts and codes.

    Numbers and strings are written out. Tensors and arrays are represented by their SHA-256; lists, dicts and objects
    by their content (for an object, what pickle would store); functions by their name, their defaults, the variables
    they close over and the globals they read. If a function only reads attributes of such a variable, as in
    `args.shift`, only these count. Variables that a function assigns are its state, not a setting. The code of
    functions and classes outside `LIBRARIES` is hashed from its bytecode, which depends only on Python's minor version.

    Args:
        model: the model that is trained. Its weights are not a setting: it and its parts are represented by name.

    Attributes:
        codes: qualified name -> hashes of the different functions, or the class, with that name, in order.
        unknown: values that cannot be compared: random generators, and objects that pickle cannot store.
    """

    def __init__(self, model: nn.Module | None = None):
        self.codes: dict[str, list[str]] = {}
        self.unknown: list[str] = []
        self._texts: dict[int, tuple[Any, str]] = {}  # by id; keeping the value keeps the id unique
        self._level = 0
        parts = {} if model is None else dict(model.named_modules())
        self._parts = {id(part): f"the model's {name}" if name else "the model" for name, part in parts.items()}

    def __call__(self, value: Any) -> str:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return repr(value)
        if id(value) not in self._texts:
            self._texts[id(value)] = value, f"<level {self._level}>"  # for values that contain themselves
            self._level += 1
            try:
                text = self._text(value)
            except RecursionError:
                if self._level > 1:
                    raise
                text = self._none(value)
            finally:
                self._level -= 1
            self._texts[id(value)] = value, text
        return self._texts[id(value)][1]

    def module(self, module: nn.Module) -> str:
        """The text of a module without its weights: its `configuration` if it has one, else its `repr`, and the
        functions that its submodules have as attributes. Submodules outside `LIBRARIES` contribute all attributes.
        """
        stated = getattr(module, "configuration", None)
        said = {} if stated is None else stated()
        found = [f"{name} {self(part)}" for name, part in said.items()] or [repr(module)]
        for name, part in module.named_modules():
            own = not _of_library(type(part))
            if own:
                self(type(part))
            for key, value in sorted(vars(part).items()):
                if key[:1] != "_" and key != "training" and (own or (callable(value) and not isinstance(value, type))):
                    found.append(f"{name}.{key} {self(value)}".lstrip("."))
        return "\n".join(found)

    def _text(self, value: Any) -> str:
        if id(value) in self._parts:
            return self._parts[id(value)]
        if isinstance(value, Tensor):
            return f"tensor {value.dtype} {tuple(value.shape)} {digest(value)[:12]}"
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            content = hashlib.sha256(value.tobytes()).hexdigest()[:12]
            return f"array {value.dtype} {value.shape} {content}"
        if isinstance(value, np.generic):
            return self(value.item())
        if isinstance(value, Summand):
            return self._call(type(value), (), value.configuration())
        if isinstance(value, nn.Module):
            return f"{self.module(value)} of weights {digest(dict(value.state_dict()))[:12]}"
        if isinstance(value, dict):
            return f"({self._items(value)})"
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self, value))}]"
        if isinstance(value, set | frozenset):
            return f"{{{', '.join(sorted(map(self, value)))}}}"
        if isinstance(value, partial):
            return self._call(value.func, value.args, value.keywords)
        if isinstance(value, MethodType):
            return f"{self(value.__func__)} of {self(value.__self__)}"
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, ModuleType):
            return value.__name__
        if isinstance(value, BuiltinFunctionType):
            of_object = not isinstance(value.__self__, ModuleType | type | None)
            return _name(value) + (f" of {self(value.__self__)}" if of_object else "")
        if hasattr(value, "__wrapped__"):  # functools.lru_cache
            return f"{type(value).__name__}({self(value.__wrapped__)})"
        return self._object(value)

    def _items(self, items: dict) -> str:
        """The names and texts of entries, sorted."""
        texts = [f"{key if isinstance(key, str) else self(key)} {self(part)}" for key, part in items.items()]
        return ", ".join(sorted(texts))

    def _call(self, function: Any, args: tuple, keywords: dict) -> str:
        return f"{self(function)}({', '.join(filter(None, [*map(self, args), self._items(keywords)]))})"

    def _object(self, value: Any) -> str:
        """An object as pickle would keep it."""
        try:
            if isinstance(value, RANDOM):
                raise TypeError("its state changes while it is used")
            reduced = value.__reduce_ex__(4)
        except Exception:  # classes that do not support pickling raise many types of errors
            return self._none(value)
        if isinstance(reduced, str):  # the name of a global
            return f"{type(value).__module__}.{reduced}"
        make, args, state, *more = (*reduced, None, None, None)[:5]
        if make is copyreg.__newobj__:
            make, *args = args
        held = {} if state is None else state if isinstance(state, dict) else {"state": state}
        for name, items in zip(("items", "entries"), more, strict=True):
            held |= {name: list(items)} if items is not None else {}
        return self._call(make, tuple(args), held)

    def _none(self, value: Any) -> str:
        self.unknown.append(f"{type(value).__module__}.{type(value).__qualname__}")
        return f"<{type(value).__qualname__}>"

    def _class(self, cls: type) -> str:
        for base in cls.__mro__:
            name = f"{base.__module__}.{base.__qualname__}"
            if not _of_library(base) and name not in self.codes:
                self.codes[name] = []
                own = [f"{key} {self._member(part)}" for key, part in sorted(vars(base).items()) if _says(key, part)]
                self.codes[name] = [_short("\n".join(own))]
        return _name(cls)

    def _member(self, part: Any) -> str:
        """A method, property or constant of a class."""
        if isinstance(part, property):
            return " ".join(map(self, (part.fget, part.fset, part.fdel)))
        part = getattr(part, "__func__", part)  # of class and static methods
        return f"{self(part)} {_code(part.__code__)}" if isinstance(part, FunctionType) else self(part)

    def _function(self, function: FunctionType) -> str:
        code, name, library = function.__code__, _name(function), _of_library(function)
        reads, writes = _variables(code, {*code.co_freevars})
        variables = {}
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            variables |= _read(variable, cell, reads.get(variable))
        if not library:
            positional = code.co_varnames[: code.co_argcount]
            defaults = function.__defaults__ or ()
            variables |= dict(zip(positional[len(positional) - len(defaults) :], defaults, strict=True))
            variables |= function.__kwdefaults__ or {}
            for variable, attributes in reads.items():
                if variable in function.__globals__ and variable not in code.co_freevars:
                    variables |= _read(variable, function.__globals__[variable], attributes)
            qualified = f"{function.__module__}.{function.__qualname__}"
            hashes = self.codes.setdefault(qualified, [])
            hashed = _code(code)
            if hashed not in hashes:
                hashes.append(hashed)
            if index := hashes.index(hashed):
                name = f"{name} {index + 1}"
        if own := [variable for variable in variables if variable.split(".")[0] in writes]:
            self.unknown.append(f"{', '.join(own)} of {name}")
        kept = {variable: value for variable, value in variables.items() if variable not in own}
        return f"{name}({self._items(kept)})" if kept else name


def _of_library(value: Any) -> bool:
    return (value.__module__ or "builtins").split(".")[0] in LIBRARIES


def _name(value: Any) -> str:
    """The name of a function or class, with its module if that belongs to another library."""
    module = value.__module__ or "builtins"
    short = module.split(".")[0] in ("builtins", "pyro_semivae") or not _of_library(value)
    return value.__qualname__ if short else f"{module}.{value.__qualname__}"


def _says(name: str, part: Any) -> bool:
    """Whether an attribute of a class is a method or a constant."""
    is_code = isinstance(part, FunctionType | staticmethod | classmethod | property)
    plain = isinstance(part, bool | int | float | str | tuple) and not (name[:2] == name[-2:] == "__")
    return is_code or plain


def _variables(code: CodeType, outer: set[str]) -> tuple[dict[str, set[str] | None], set[str]]:
    """The globals and the variables of `outer` that code, and code nested in it, reads and writes.

    Returns name -> the attributes that are read (None: the variable itself), and the names that are written.
    """
    reads: dict[str, set[str] | None] = {}
    writes: set[str] = set()
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("EXTENDED_ARG", "CACHE")]
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        kind, _, scope = step.opname.partition("_")
        if scope not in ("GLOBAL", "NAME", "DEREF", "CLASSDEREF") or (
            scope.endswith("DEREF") and step.argval not in outer
        ):
            continue
        if kind in ("STORE", "DELETE"):
            writes.add(step.argval)
        elif kind == "LOAD":
            attribute = after.argval if after is not None and after.opname in ("LOAD_ATTR", "LOAD_METHOD") else None
            _add(reads, step.argval, None if attribute is None else {attribute})
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more, written = _variables(inner, outer.intersection(inner.co_freevars))
            writes |= written
            for name, attributes in more.items():
                _add(reads, name, attributes)
    return reads, writes


def _add(reads: dict[str, set[str] | None], name: str, attributes: set[str] | None) -> None:
    before = reads.get(name, set())
    reads[name] = None if before is None or attributes is None else before | attributes


def _read(name: str, value: Any, attributes: set[str] | None) -> dict[str, Any]:
    """Name -> value of a variable, or of those of its attributes that are read."""
    if isinstance(value, CellType):
        try:
            value = value.cell_contents
        except ValueError:  # not assigned yet
            return {}
    if attributes is None:
        return {} if isinstance(value, ModuleType) else {name: value}
    found = {f"{name}.{attribute}": getattr(value, attribute, None) for attribute in sorted(attributes)}
    return {key: part for key, part in found.items() if not isinstance(part, ModuleType)}


def _code(code: CodeType) -> str:
    """A hash of code without file names and line numbers."""
    constants = [_constant(part) for part in code.co_consts]
    about = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags, code.co_argcount)
    counts = (code.co_posonlyargcount, code.co_kwonlyargcount, getattr(code, "co_exceptiontable", b""))
    return _short(repr((code.co_code, constants, about, counts)))


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return _code(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_constant, value))})"
    return f"{{{', '.join(sorted(map(repr, value)))}}}" if isinstance(value, frozenset) else repr(value)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
