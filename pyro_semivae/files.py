"""Atomic file writes (to a temporary file, which is then renamed), and checkpoints with a digest."""

from __future__ import annotations

import errno
import glob
import json
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from weakref import WeakValueDictionary

import torch
from filelock import lock_descriptor
from torch import Tensor

from pyro_semivae.digests import digest
from pyro_semivae.errors import InputError

ON_WINDOWS = os.name == "nt"  # where open files cannot be renamed or removed; files of killed writers stay there


def note(text: str) -> None:
    """Prints a note on standard error, for example on a fallback."""
    print(f"NOTE: {text}", file=sys.stderr, flush=True)


def user_path(path: str | Path, name: str) -> Path:
    """A path given by the user, with `~` expanded.

    Raises:
        InputError: it is not a path, contains a NUL, or the home folder does not exist; the message names the argument.
    """
    if not isinstance(path, str | os.PathLike) or "\0" in str(path):
        raise InputError(f"{name}: got {path!r}; expected a path without NUL")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{name}: got {path} ({error}); expected a path") from error


def writable_folder(path: str | Path, name: str = "out") -> Path:
    """Creates the folder and checks that it is writable.

    Raises:
        InputError: it cannot be created or written to; the message names the argument.
    """
    path = user_path(path, name)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"{name}: cannot write to {path} ({error.strerror or error})") from error
    return path


def writable_file(path: str | Path, name: str) -> Path:
    """The path of a file that can be written; creates its folder.

    Raises:
        InputError: it is a folder, or cannot be written; the message names the argument.
    """
    path = user_path(path, name)
    if path.is_dir():
        raise InputError(f"{name}: got the folder {path}; expected a file's path")
    writable_folder(path.parent, name)
    return path


class FolderLock:
    """A lock that lets one process at a time write into a folder, until this object is deleted or the process ends.

    Locking a folder twice in one process is allowed. If the file system has no locks, a note is printed.
    (`filelock.FileLock` does not report which process has the lock.)

    Args:
        name: the name of the folder's argument, for errors.

    Raises:
        InputError: another process has the lock; the message contains its id.
    """

    _held: ClassVar[WeakValueDictionary[tuple[int, Path], FolderLock]] = WeakValueDictionary()

    def __init__(self, folder: Path, name: str):
        path = folder.resolve() / ".lock"
        key = os.getpid(), path
        self._same, self._file = self._held.get(key), None
        if self._same is not None:
            return
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            locked = lock_descriptor(self._file, blocking=False)
        except OSError as error:
            note(f"{name}: {folder} is not locked ({error.strerror}): a second run there is not noticed")
            return
        if not locked:
            os.lseek(self._file, 1, os.SEEK_SET)  # on Windows others cannot read the first byte, which is locked
            holder = os.read(self._file, 1000).decode(errors="replace") or "another process"
            raise InputError(f"{name}: {folder} is in use by {holder}; wait until it ends, or name another folder")
        os.ftruncate(self._file, 0)
        os.write(self._file, f"\nprocess {os.getpid()} on {socket.gethostname()}".encode())
        self._held[key] = self

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)


@contextmanager
def atomic_open(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary binary file next to `path`, which replaces `path` when it is completely written to disk.

    The file has a unique name and is locked. If several processes write one path, the last one to finish wins; files
    left behind by killed writers are removed by the next one.

    Raises:
        InputError: it cannot be written, e.g. because the disk is full. An existing file at `path` is unchanged.
    """
    path = Path(path)
    beside = None
    try:
        _remove_stale(path)
        beside, file = _new_beside(path)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not ON_WINDOWS:  # while it is locked; otherwise it could be removed as a killed writer's
                os.replace(str(beside), path)
        if ON_WINDOWS:
            os.replace(str(beside), path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(beside)):
            raise  # an error of a file that the caller reads
        raise InputError(f"{path}: cannot be written ({error.strerror}); an older file is left as it was") from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def _new_beside(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        try:
            file = open(beside, "xb")  # noqa: SIM115  the caller closes it
        except OSError as error:
            raise OSError(error.errno, error.strerror) from error
        try:
            locked = lock_descriptor(file.fileno(), blocking=False)
        except OSError:  # no locks on this file system, so that nobody removes the file either
            return beside, file
        if locked and beside.exists():  # otherwise another process treated it as stale before it was locked
            return beside, file
        file.close()


def _remove_stale(path: Path) -> None:
    """Removes the unlocked temporary files of `path`, which killed writers have left behind."""
    for other in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        try:
            with open(other, "rb") as file:
                if lock_descriptor(file.fileno(), blocking=False):
                    other.unlink(missing_ok=True)
        except OSError:  # already removed, another user's, or no locks on this file system
            continue


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    """Writes `value` as JSON.

    Raises:
        InputError: it contains values that JSON does not support (such as NaN and infinity), or cannot be written; an
            older file is kept.
    """
    try:
        text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be written as JSON ({error})") from error
    with atomic_open(user_path(path, "path")) as file:
        file.write(text.encode())


def read_json(path: str | Path) -> Any:
    """Reads a file of `write_json`.

    Raises:
        FileNotFoundError: there is no such file. InputError: it is damaged.
    """
    path = user_path(path, "path")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: this is no JSON ({error})") from error


def check_plain(value: Any, name: str) -> None:
    """Checks that a value consists of types that a checkpoint can hold.

    Raises:
        InputError: a part is not a dense tensor, number, string, None, list or dict; the message says which.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) not in (int, str):
                raise InputError(f"{name}: got the key {key!r}; expected strings and integers in a checkpoint")
            check_plain(item, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            check_plain(item, f"{name}[{i}]")
    elif isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise InputError(f"{name}: got a tensor of {value.layout}, {value.dtype}; expected a dense one")
    elif type(value) not in (int, float, str, bool, type(None)):
        raise InputError(
            f"{name}: got {type(value).__module__}.{type(value).__name__}; expected in a checkpoint: tensors, "
            f"numbers, strings, None, lists and dicts of them"
        )


DIGEST = "sha256"  # the key of a checkpoint's digest, which covers all its other entries


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Saves tensors, numbers, strings, lists and dicts in one file, with their digest; see `check_plain`.

    Raises:
        InputError: it contains other types, or the file cannot be written (an older file is kept).
    """
    check_plain(state, "checkpoint")
    with atomic_open(user_path(path, "checkpoint")) as file:
        try:
            torch.save({**state, DIGEST: digest(state)}, file)
        except RuntimeError as error:  # torch wraps the error of a full disk
            cause = error.__context__ if isinstance(error.__context__, OSError) else None
            raise cause or OSError(errno.EIO, str(error).splitlines()[0]) from error


def load_checkpoint(path: str | Path, model: str | None = None) -> dict[str, Any]:
    """Loads a file of `save_checkpoint`, on the CPU, without executing code from it.

    Args:
        path: the file.
        model: the class name of the expected model.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is damaged, not a checkpoint of this library, of an older version, or of another model.
    """
    path = user_path(path, "checkpoint")
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: no file {path}")
    damaged = f"checkpoint: {path} cannot be read: damaged, or no checkpoint"
    with open(path, "rb") as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many types of errors for damaged files
            raise InputError(damaged) from error
    if not isinstance(state, dict) or "model" not in state or "weights" not in state:
        raise InputError(f"checkpoint: {path} is not a checkpoint of pyro_semivae")
    if DIGEST not in state:
        raise InputError(f"checkpoint: {path} was written by an older version, without a digest; train it anew")
    found = state.pop(DIGEST)
    try:
        check_plain(state, "checkpoint")
        same = digest(state) == found
    except (InputError, RuntimeError) as error:
        raise InputError(damaged) from error
    if not same:
        raise InputError(f"checkpoint: {path} is damaged: its content is not what was written (SHA-256)")
    check_fields(state, path, {"model": str, "weights": dict})
    check_fields(state["weights"], path, dict.fromkeys(state["weights"], Tensor), "weights")
    if model is not None and state["model"] != model:
        raise InputError(f"checkpoint: {path} holds a {state['model']}, expected a {model}")
    return state


def check_fields(
    state: Mapping[Any, Any] | list, path: str | Path, types: Mapping[Any, type | tuple[type, ...]], where: str = ""
) -> None:
    """Checks that a part of a checkpoint, `where`, has entries of these types (for a list: by index).

    Raises:
        InputError: an entry is missing or of another type, e.g. from another version; the message names file and key.
    """
    state = dict(enumerate(state)) if isinstance(state, list) else state
    for key, accepted in types.items():
        name = f"{where}[{key!r}]" if where else repr(key)
        if key not in state:
            raise InputError(f"checkpoint: {path} has no {name}: it was written by another version, or for another use")
        if not isinstance(state[key], accepted) or (accepted is int and isinstance(state[key], bool)):
            got, accepted = type(state[key]).__name__, accepted if isinstance(accepted, tuple) else (accepted,)
            names = " or ".join(kind.__name__ for kind in accepted)
            raise InputError(f"checkpoint: {path}: {name} is of type {got}; expected {names}")


def check_finite(tensors: Mapping[str, Any], path: str | Path) -> None:
    """Checks that the tensors of a checkpoint are finite.

    Raises:
        InputError: a tensor is not finite; the message names file and tensor.
    """
    if bad := not_finite(tensors):
        raise InputError(f"checkpoint: {path}: {', '.join(bad[:5])} not finite; expected finite numbers")


def not_finite(tensors: Mapping[str, Any]) -> list[str]:
    """The names of the tensors that have NaN or infinite entries; other values count as finite."""
    return [name for name, x in tensors.items() if isinstance(x, Tensor) and not x.isfinite().all()]
