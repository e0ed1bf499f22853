"""Training in two processes, which torchrun starts and gloo connects."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import together
import torch
from filelock import FileLock

from pyro_semivae.data.batches import Batches
from pyro_semivae.train import fit

SCRIPT = Path(together.__file__)


def launch(*arguments: object, **how) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, **how)


@pytest.fixture(scope="module")
def results(tmp_path_factory, worker_id):
    """What each of the two processes found, and their folder; computed once for all processes that run the tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "together"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            folder.mkdir()
            done = launch(SCRIPT, folder, "all", timeout=300)
            assert done.returncode == 0, done.stderr[-3000:]
            (folder / "stderr.txt").write_text(done.stderr)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)], folder


def same(one, other, **tolerance) -> None:
    """Weights and histories are the same, up to a tolerance; seconds may differ."""
    (history, weights), (others_history, others) = one, other
    for record, expected in zip(history, others_history, strict=True):
        assert record.keys() == expected.keys()
        for name in record.keys() - {"seconds"}:
            torch.testing.assert_close(torch.tensor(record[name]), torch.tensor(expected[name]), **tolerance, msg=name)
    for name, value in others.items():
        torch.testing.assert_close(weights[name], value, **tolerance)


EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize("name", together.CASES)
def test_two_processes_take_the_steps_of_one_with_twice_the_rows(name, results, monkeypatch):
    together.without_noise(monkeypatch.setattr)
    expected = together.trained(1, **together.CASES[name])
    for found in results[0]:
        same(found[name], expected, rtol=1e-9, atol=1e-11)
    before = together.ccvae().state_dict()
    assert any((expected[1][name] - value).abs().max() > 0.01 for name, value in before.items()), "it has learnt"


def test_all_processes_have_the_same_model_and_history_in_the_end_whatever_they_began_with(results):
    first, second = results[0]
    for part in ("few", "whole", "resumed"):
        assert first[part][0] == second[part][0]
        same(first[part], second[part], **EXACT)


def test_the_first_process_alone_prints(results):
    _, folder = results
    printed = (folder / "stderr.txt").read_text()
    assert printed.count("epoch 2/2") == 1


def test_modules_of_terms_are_the_same_in_all_processes(results):
    first, second = (found["critic"] for found in results[0])
    assert first and all(torch.equal(value, second[name]) for name, value in first.items())


def test_buffers_are_the_first_ones_after_an_epoch(results):
    first, second = (found["buffer"] for found in results[0])
    assert first.all() and torch.equal(first, second)


def test_a_run_with_fewer_labels_than_its_processes_have_places_for_resumes_in_one(results):
    """Two labelled rows: one for each of two processes, both for a single one."""
    file = results[1] / "two_labels.pt"
    assert len(fit(together.ccvae(), *together.rows(2), **together.how(2), checkpoint=file, resume=True)) == 4


def test_each_process_has_its_own_noise(results):
    first, second = (torch.stack(found["noise"]) for found in results[0])
    assert first.shape == second.shape and (first != second).all()


def test_a_labelled_set_smaller_than_the_number_of_processes(results):
    history, _ = results[0][0]["few"]
    assert len(history) == 4 and history[-1]["objective"] > history[0]["objective"]


def test_a_resumed_run_is_the_uninterrupted_one(results):
    for found in results[0]:
        assert found["stopped"] == "stop", "an error of the first process's callback reaches the others"
        same(found["resumed"], found["whole"], **EXACT)


def test_the_first_process_alone_calls_back_and_its_values_are_everyones(results):
    first, second = results[0]
    assert first["calls"] == [1, 2] and second["calls"] == []
    assert first["called back"] == second["called back"] and second["called back"]["monitor/rank"] == 0


def test_other_rows_in_one_process_are_an_error_in_all(results):
    for rank, found in enumerate(results[0]):
        message = f"x, y: got others in process {1 - rank} than in process {rank}; expected the same in all of them"
        assert found["other rows"].startswith(message)


def test_a_run_resumes_in_another_number_of_processes(results, tmp_path):
    file = tmp_path / "checkpoint.pt"
    file.write_bytes((results[1] / "after_two.pt").read_bytes())
    vae = together.ccvae()
    clip = together.partial(torch.nn.utils.clip_grad_norm_, max_norm=1.0)
    options = together.how(2, clip=clip, elbo=vae.elbo_for(together.rows()[1]))  # the sizes of one process, as before
    history = fit(vae, *together.rows(), **options, checkpoint=file, resume=True)
    assert (len(history) == 4 and history[:2] == results[0][0]["whole"][0][:2]) or history[1]["epoch"] == 2


def test_a_process_that_dies_stops_the_others_and_the_run_resumes(tmp_path):
    start = time.monotonic()
    done = launch(SCRIPT, tmp_path, "dies", timeout=200)
    assert done.returncode != 0 and time.monotonic() - start < 60
    assert "another process of this training has ended" in done.stderr or "SIGKILL" in done.stderr
    history = fit(together.ccvae(), *together.rows(), **together.how(2), checkpoint=tmp_path / "killed.pt", resume=True)
    assert len(history) == 4


def batches(number: int, size: int, **how) -> list[list]:
    """The batches of two epochs, of each of some processes."""
    x, y = together.rows()
    rows = {"x": x, "y": y} | how
    return [
        [batch for epoch in (0, 1) for batch in Batches(**rows, batch_size=size, process=(i, number)).epoch(epoch)]
        for i in range(number)
    ]


@pytest.mark.parametrize("also_unlabelled", [False, True])
def test_the_rows_of_a_step_are_shared_out(also_unlabelled):
    (whole,) = batches(
        1, 8, labelled_batch_size=4, also_unlabelled=also_unlabelled, unpaired_labels=torch.arange(10) % 2
    )
    parts = batches(2, 4, labelled_batch_size=2, also_unlabelled=also_unlabelled, unpaired_labels=torch.arange(10) % 2)
    assert len(whole) == len(parts[0]) == len(parts[1]) > 4
    for step, *of_process in zip(whole, *parts, strict=True):
        for a, b in ((step, of_process), (step.alone, [part.alone for part in of_process])):
            assert sorted(a.rows.tolist()) == sorted(row for part in b for row in part.rows.tolist())
            assert float(a.scale.sum()) == pytest.approx(sum(float(part.scale.sum()) for part in b) / 2, rel=1e-12)
        assert all(part.labelled == 2 and (part.y[:2] >= 0).all() and (part.y[2:] < 0).all() for part in of_process)


def test_few_rows_are_shared_out_in_equal_numbers():
    x, _ = together.rows()
    y = torch.where(torch.arange(len(x)) < 3, 0, -1)
    for i in range(4):
        (first, *_) = Batches(x, y, batch_size=5, process=(i, 4)).epoch(0)
        assert first.labelled == 1 and first.rows[0] < 3 and float(first.scale[0]) == pytest.approx(3 / len(x))
