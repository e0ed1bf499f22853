"""Files under real conditions: killed and concurrent writers, full disks, flipped bits, locked and used folders."""

import errno
import math
import os
import random
import signal
import sys
import threading

import pytest
import torch
from damage import flipped, full_disk

from pyro_semivae import cli, data
from pyro_semivae.caches import cache_folder
from pyro_semivae.digests import BLOCK, blocks, digest
from pyro_semivae.errors import InputError
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.files import (
    FolderLock,
    atomic_open,
    load_checkpoint,
    read_json,
    save_checkpoint,
    writable_file,
    writable_folder,
    write_json,
)
from pyro_semivae.runs import FILES

STATE = {"model": "Some", "weights": {"a": torch.arange(40.0), "b": torch.tensor(2)}, "more": [1, None, "x", 0.5, True]}


@pytest.fixture
def other():
    """Starts a process that calls a function and waits to be killed; returns its id, or None where the call failed."""
    started = []

    def start(call, *args):
        ready, done = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                kept = call(*args)  # noqa: F841  as long as the process lives
                os.write(done, b"ready")
                signal.pause()
            finally:
                os._exit(1)
        os.close(done)
        said = os.read(ready, 100)
        os.close(ready)
        if not said:
            os.waitpid(pid, 0)
            return None
        started.append(pid)
        return pid

    def kill(pid):
        started.remove(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    start.kill = kill
    yield start
    for pid in [*started]:
        kill(pid)


FORK = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def half_written(path):
    context = atomic_open(path)
    file = context.__enter__()
    file.write(b"half")
    file.flush()
    return context, file


@FORK
def test_what_a_killed_writer_leaves_is_removed_and_a_living_ones_is_not(other, tmp_path):
    path = tmp_path / "file[1].json"  # not a pattern
    living, dead = other(half_written, path), other(half_written, path)
    other.kill(dead)
    assert len(list(tmp_path.iterdir())) == 2
    write_json(path, 1)
    left = {part.name for part in tmp_path.iterdir()}
    assert len(left) == 2 and path.name in left, "the living writer's file is there still"
    other.kill(living)
    write_json(path, 2)
    assert [part.name for part in tmp_path.iterdir()] == [path.name] and read_json(path) == 2


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append(os.fstat(file).st_size), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(b), replace(a, b)))
    write_json(tmp_path / "a", 12345)
    assert calls == [6, tmp_path / "a"]


def test_a_file_has_the_rights_of_any_other(tmp_path):
    write_json(tmp_path / "written", 1)
    (tmp_path / "touched").touch()
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "touched").stat().st_mode


def test_threads_that_write_one_path_do_not_tear_it(tmp_path):
    path, wrong, done = tmp_path / "file.json", [], threading.Event()
    write_json(path, [0] * 2000)

    def write(number):
        try:
            for _ in range(20):
                write_json(path, [number] * 2000)
        except Exception as error:
            wrong.append(error)

    def read():
        while not done.is_set():
            value = read_json(path)
            if len(value) != 2000 or len({*value}) > 1:
                wrong.append(value)

    writers = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    reader = threading.Thread(target=read)
    for thread in [*writers, reader]:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert not wrong and [part.name for part in tmp_path.iterdir()] == ["file.json"]


def test_a_disk_that_is_full_leaves_the_old_file_and_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    large = {**STATE, "weights": {"a": torch.rand(1_000_000)}}
    with full_disk():
        for write in (lambda: save_checkpoint(path, large), lambda: write_json(path, [0] * 100_000)):
            with pytest.raises(InputError, match=r"\.pt: cannot be written \(File too large\); an older file is .*$"):
                write()

    def fail(state, file):
        raise RuntimeError("PytorchStreamWriter failed\n at")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(InputError, match=r"cannot be written \(PytorchStreamWriter failed\); an older file is left"):
        save_checkpoint(path, large)
    assert load_checkpoint(path)["more"] == STATE["more"] and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_error_of_what_is_written_passes(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image"), atomic_open(tmp_path / "a"):
        raise FileNotFoundError("no image")
    with pytest.raises(FileNotFoundError, match="other"), atomic_open(tmp_path / "a"):
        open(tmp_path / "other")  # noqa: SIM115
    with pytest.raises(InputError, match=r"none/a: cannot be written \(No such file or directory\)"):
        write_json(tmp_path / "none" / "a", 1)
    with pytest.raises(InputError, match="cannot be written"):
        write_json(tmp_path, 1)
    assert not [*tmp_path.iterdir()]


def test_the_digest_is_of_types_shapes_and_content():
    x = torch.arange(6)
    values = [
        *(x, x.float(), x.int(), x.reshape(2, 3), x.reshape(3, 2), x.flip(0), [x], (x,), {"x": x}, {"y": x}),
        *(
            0,
            0.0,
            -0.0,
            False,
            None,
            "0",
            "",
            [],
            {},
            [[]],
            [0],
            ["0"],
            ["a", "b"],
            ["ab"],
            [1, [2]],
            [[1], 2],
            [1, 12],
            [11, 2],
        ),
        *({"a": 1, "b": 2}, {"a": 2, "b": 1}, {1: 2}, {"1": 2}, torch.tensor(1), torch.tensor([1]), torch.tensor(True)),
        *(torch.zeros(0), torch.zeros(0, 2), torch.tensor(1.0).bfloat16(), torch.tensor(1.0).half()),
    ]
    assert len({digest(value) for value in values}) == len(values)
    large = torch.arange(5_000_000).reshape(500, 100, 100)
    sizes = [len(block) for block in blocks(large)]
    assert sum(sizes) == large.numel() * 8 and BLOCK - 80_000 < max(sizes) <= BLOCK
    assert digest(large) == digest(large.clone()) == digest(large.mT.contiguous().mT)
    assert digest(large) != digest(torch.cat([large[:-2], large[-2:].flip(0)]))
    assert digest(torch.tensor([float("nan")])) == digest(torch.tensor([float("nan")]))


def test_flipped_bits_of_a_checkpoint_are_one_error(tmp_path):
    path, rng, same = tmp_path / "a.pt", random.Random(0), 0
    save_checkpoint(path, STATE)
    content, expected = path.read_bytes(), digest(load_checkpoint(path))
    for bit in rng.sample(range(8 * len(content)), 100):
        path.write_bytes(flipped(content, bit))
        try:
            assert digest(load_checkpoint(path)) == expected
            same += 1
        except InputError as error:
            assert str(error).startswith(f"checkpoint: {path} ") and "\n" not in str(error)
    assert same < 80, "most of a checkpoint counts"


@pytest.mark.parametrize("key", ["a", "b"])
def test_other_weights_under_the_old_digest_are_refused(key, tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, STATE)
    state = torch.load(path, weights_only=True)
    state["weights"][key] += 1
    torch.save(state, path)
    with pytest.raises(InputError, match=r"a\.pt is damaged: its content is not what was written"):
        load_checkpoint(path)
    del state["sha256"]
    torch.save(state, path)
    with pytest.raises(InputError, match=r"a\.pt was written by an older version, without a digest"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "'model' is of type NoneType; expected str"),
        ({"weights": None}, "'weights' is of type NoneType; expected dict"),
        ({"weights": {"a": None}}, r"weights\['a'\] is of type NoneType; expected Tensor"),
        ({"model": "Other"}, "holds a Other, expected a Some"),
    ],
)
def test_what_is_wrong_in_a_checkpoint_is_named(change, message, tmp_path):
    save_checkpoint(tmp_path / "a.pt", {**STATE, **change})
    with pytest.raises(InputError, match=rf"checkpoint: .*a\.pt:? {message}"):
        load_checkpoint(tmp_path / "a.pt", "Some")


def test_what_no_checkpoint_can_hold_is_named(tmp_path):
    for value, message in (
        ({"a": {(1, 2): 3}}, r"checkpoint\['a'\]: got the key \(1, 2\)"),
        ({"a": torch.eye(2).to_sparse()}, r"checkpoint\['a'\]: got a tensor of torch.sparse_coo"),
        ({"a": [{1}]}, r"checkpoint\['a'\]\[0\]: got builtins.set"),
    ):
        with pytest.raises(InputError, match=message):
            save_checkpoint(tmp_path / "a.pt", value)


def test_paths_of_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert writable_folder("~/out", "--out") == tmp_path / "out" and (tmp_path / "out").is_dir()
    assert writable_file("~/to/checkpoint.pt", "checkpoint") == tmp_path / "to" / "checkpoint.pt"
    assert cache_folder("~/cache") == tmp_path / "cache" and data.data_root("~/data") == tmp_path / "data"
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", "~/other")
    monkeypatch.setenv("PYRO_SEMIVAE_DATA", "~/sets")
    assert cache_folder() == tmp_path / "other" and data.data_root() == tmp_path / "sets"
    monkeypatch.delenv("PYRO_SEMIVAE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    own = {"linux": ".cache/pyro_semivae", "darwin": "Library/Caches/pyro_semivae"}
    assert cache_folder() == tmp_path / own.get(sys.platform, cache_folder())
    save_checkpoint("~/a.pt", STATE)
    assert load_checkpoint("~/a.pt")["model"] == "Some" and (tmp_path / "a.pt").is_file()
    for path in ("a\0b", "~nobody-of-this-name/x", 3, None):
        with pytest.raises(InputError, match=r"^--out: got .*; expected a path"):
            writable_folder(path, "--out")
    with pytest.raises(InputError, match=r"data_dir: got 'a\\x00b'; expected a path"):
        data.load("mnist", "a\0b")
    with pytest.raises(InputError, match="checkpoint: got the folder"):
        writable_file(tmp_path, "checkpoint")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad\.json: this is no JSON"):
        read_json(tmp_path / "bad.json")


@FORK
def test_a_folder_is_one_processs_until_it_ends_or_is_killed(other, tmp_path):
    holder = other(FolderLock, tmp_path, "--out")
    with pytest.raises(InputError, match=rf"--out: {tmp_path} is in use by process {holder} on .*; wait"):
        FolderLock(tmp_path, "--out")
    other.kill(holder)
    lock = FolderLock(tmp_path, "--out")
    again = FolderLock(tmp_path / ".." / tmp_path.name, "--out")  # this process has it
    assert other(FolderLock, tmp_path, "--out") is None
    del lock
    assert other(FolderLock, tmp_path, "--out") is None
    del again
    assert other(FolderLock, tmp_path, "--out")


def test_where_there_are_no_locks_a_note_says_so(tmp_path, monkeypatch, capsys):
    def no_locks(file, *, blocking):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("pyro_semivae.files.lock_descriptor", no_locks)
    FolderLock(tmp_path, "--out")
    assert "is not locked (No locks available): a second run there" in capsys.readouterr().err
    for on_windows in (False, True):
        monkeypatch.setattr("pyro_semivae.files.ON_WINDOWS", on_windows)
        write_json(tmp_path / "a", 1)
        write_json(tmp_path / "a", 2)
        assert read_json(tmp_path / "a") == 2 and not [*tmp_path.glob(".*.part")]


def run_of(tmp_path, *flags):
    flags = ["--smoke-test", "--dataset", "digits", "--labelled", "50", "--out", str(tmp_path / "out"), *flags]
    return ExampleRun(cli.Compared.parse(None, flags), preferred="digits")


@FORK
def test_a_run_that_is_there_is_overwritten_only_if_asked_to(other, tmp_path, capsys):
    out = tmp_path / "out"
    run = run_of(tmp_path)
    run.finish({})
    (out / "mine.txt").touch()
    with pytest.raises(InputError, match=r"--out: .*out has a run already \(config.json, .*metrics.json\): go on"):
        run_of(tmp_path)
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    for name in ("checkpoint.pt", "m1.pt"):  # one that has begun only
        history = [{"seconds": 1.5}, {"seconds": 2.5}]
        save_checkpoint(out / name, {**STATE, "epoch": 2, "history": history, "config": {}})
        with pytest.raises(InputError, match=r"\(--resume\), replace it \(--overwrite\), or name another folder$"):
            run_of(tmp_path)
    assert run_of(tmp_path, "--resume").in_training == 4.0
    assert "NOTE: --resume: goes on after epoch 2 of " in capsys.readouterr().out
    with pytest.raises(InputError, match="--overwrite: got --resume too"):
        run_of(tmp_path, "--resume", "--overwrite")
    assert (out / "checkpoint.pt").exists()
    run_of(tmp_path, "--overwrite")
    assert f"NOTE: --overwrite: removes checkpoint.pt, m1.pt of the run in {out}" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"mine.txt", ".lock"}
    save_checkpoint(out / "checkpoint.pt", {**STATE, "epoch": 2, "history": [3], "config": {}})
    with pytest.raises(InputError, match=r"checkpoint\.pt: history\[0\] is of type int; expected dict"):
        run_of(tmp_path, "--resume")
    del run
    holder = other(FolderLock, out, "--out")
    with pytest.raises(InputError, match=f"--out: .* in use by process {holder}"):
        run_of(tmp_path, "--overwrite")


@pytest.mark.parametrize("value", [math.nan, {1, 2}, {"a": torch.ones(1)}])
def test_what_json_cannot_hold_is_one_error(tmp_path, value):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(InputError, match=r"a.json: cannot be written as JSON \("):
        write_json(path, {"a": value})
    assert read_json(path) == {"a": 1}
