"""Files that are either old or new, never half: written beside and renamed; checkpoints with a digest."""

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

ON_WINDOWS = os.name == "nt"  # where no open file is renamed or removed: what a killed writer leaves behind stays


def note(text: str) -> None:
    """Says on standard error what is done in the place of what was asked for."""
    print(f"NOTE: {text}", file=sys.stderr, flush=True)


def user_path(path: str | Path, name: str) -> Path:
    """A path as it comes from the user, `~` expanded.

    Raises:
        InputError: it is no path, has a NUL in it, or a home folder that is not there; the message names the argument.
    """
    if not isinstance(path, str | os.PathLike) or "\0" in str(path):
        raise InputError(f"{name}: got {path!r}; expected a path without NUL")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{name}: got {path} ({error}); expected a path") from error


def writable_folder(path: str | Path, name: str = "out") -> Path:
    """Makes the folder and tries to write into it.

    Raises:
        InputError: it cannot be made or written to; the message names the argument.
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
    """The path of a file that can be written; makes its folder.

    Raises:
        InputError: it is a folder, or cannot be written; the message names the argument.
    """
    path = user_path(path, name)
    if path.is_dir():
        raise InputError(f"{name}: got the folder {path}; expected a file's path")
    writable_folder(path.parent, name)
    return path


class FolderLock:
    """One process writes into a folder at a time. The lock goes with this object, or with the process, killed or not.

    In a process that has the lock already it is the same one. Where the file system has no locks a note says so.
    (`filelock.FileLock` would not say who has it.)

    Args:
        name: of the argument that the folder came from.

    Raises:
        InputError: another process has it; the message has its id.
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
            os.lseek(self._file, 1, os.SEEK_SET)  # the lock is on the first byte, which Windows lets nobody else read
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
    """A binary file beside `path` that takes its place when all is written and on the disk.

    Its name is its own, and it is locked: of several writers of one path the last one to end counts, and what a killed
    one has left behind is removed by the next.

    Raises:
        InputError: it cannot be written, e.g. because the disk is full. What was at `path` before is as it was.
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
            if not ON_WINDOWS:  # while it is locked, or it could be taken for a killed writer's
                os.replace(str(beside), path)
        if ON_WINDOWS:
            os.replace(str(beside), path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(beside)):
            raise  # it is about what the caller reads
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
        except OSError:  # no locks here: nobody removes it either
            return beside, file
        if locked and beside.exists():  # if not, it is taken for a stale one, or was, before it was locked
            return beside, file
        file.close()


def _remove_stale(path: Path) -> None:
    """Removes what killed writers of `path` have left: nobody has it locked."""
    for other in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        try:
            with open(other, "rb") as file:
                if lock_descriptor(file.fileno(), blocking=False):
                    other.unlink(missing_ok=True)
        except OSError:  # gone already, another user's, or no locks here
            continue


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    """Writes `value` as JSON.

    Raises:
        InputError: it holds what JSON has not (NaN and infinity among it), or cannot be written; an older file is left.
    """
    try:
        text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be written as JSON ({error})") from error
    with atomic_open(user_path(path, "path")) as file:
        file.write(text.encode())


def read_json(path: str | Path) -> Any:
    """What `write_json` wrote.

    Raises:
        FileNotFoundError: there is no such file. InputError: it is damaged.
    """
    path = user_path(path, "path")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: this is no JSON ({error})") from error


def check_plain(value: Any, name: str) -> None:
    """Checks that a value is made of what a checkpoint can hold.

    Raises:
        InputError: something in it is not a dense tensor, number, string, None, list or dict; the message says where.
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


DIGEST = "sha256"  # the key of a checkpoint's digest, of all else that it holds


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Saves tensors, numbers, strings, lists and dicts in one file, with a digest of them; see `check_plain`.

    Raises:
        InputError: something else is in it, or the file cannot be written (an older one is left as it was).
    """
    check_plain(state, "checkpoint")
    with atomic_open(user_path(path, "checkpoint")) as file:
        try:
            torch.save({**state, DIGEST: digest(state)}, file)
        except RuntimeError as error:  # torch hides the error of a full disk behind one of its own
            cause = error.__context__ if isinstance(error.__context__, OSError) else None
            raise cause or OSError(errno.EIO, str(error).splitlines()[0]) from error


def load_checkpoint(path: str | Path, model: str | None = None) -> dict[str, Any]:
    """Loads what `save_checkpoint` wrote, on the CPU, without running any code from it.

    Args:
        path: the file.
        model: the class name of the model that it should hold.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is damaged, no checkpoint of this library, of an older version, or one of another model.
    """
    path = user_path(path, "checkpoint")
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: no file {path}")
    damaged = f"checkpoint: {path} cannot be read: damaged, or no checkpoint"
    with open(path, "rb") as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
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
    """Checks that a part of a checkpoint, `where`, has entries of these types (a list: by index).

    Raises:
        InputError: one is missing or of another type, as of another version; the message names file and key.
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
    """Checks the numbers of a checkpoint.

    Raises:
        InputError: a tensor is not finite; the message names file and tensor.
    """
    if bad := not_finite(tensors):
        raise InputError(f"checkpoint: {path}: {', '.join(bad[:5])} not finite; expected finite numbers")


def not_finite(tensors: Mapping[str, Any]) -> list[str]:
    """The names of the tensors that have NaN or infinite entries; other values count as finite."""
    return [name for name, x in tensors.items() if isinstance(x, Tensor) and not x.isfinite().all()]
