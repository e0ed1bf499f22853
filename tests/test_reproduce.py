"""A recorded run counts as long as all that was recorded of its settings is what the example does today."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def studies(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from studies import job, labels

    monkeypatch.setattr(job, "RESULTS", tmp_path)
    return job, labels


@pytest.mark.parametrize("model", ["ccvae", "m2", "m3", "diva", "mvae"])
@pytest.mark.parametrize("dataset", ["mnist", "faces"])
def test_the_settings_are_all_of_the_examples_flags_for_the_data_set(studies, model, dataset):
    job, _ = studies
    flags = job.Job("labels", dataset, "0.06", "demo", 3, model, {"beta": 1.5}, f"{model}.py").settings
    assert flags["beta"] == 1.5 and flags["epochs"] in (10, 12) and flags["lr"] == 1e-3 and flags["average"] == 0.998
    assert flags["batch_size"] == (64 if dataset == "faces" else 200)
    if model in ("m2", "m3", "diva"):
        assert (flags["alpha"], flags["shift"]) == ((100.0, 0) if dataset == "faces" else (1000.0, 1))
    assert not {"dataset", "labelled", "seed", "out", "cuda", "resume"} & set(flags)
    json.dumps(flags)


def test_a_run_with_other_settings_is_missing(studies):
    _, labels = studies
    one = labels.job_of("mnist", "0.06", "demo", 0, "m2")
    assert one.result() is None
    one.path.parent.mkdir(parents=True)
    for recorded, counts in (
        (one.settings, True),
        ({**one.settings, "alpha": 0.1}, False),
        ({"epochs": 12, "lr": 1e-3}, True),  # an older record, which knows less
        ({"epochs": 11, "lr": 1e-3}, False),
        ({**one.settings, "gone": 1}, False),
    ):
        one.path.write_text(json.dumps({"settings": recorded, "test_accuracy": 0.5}))
        assert (one.result() is not None) == counts


def test_a_preset_that_a_study_does_not_have_is_one_line():
    command = [sys.executable, str(BENCHMARKS / "reproduce.py"), "labels", "--preset", "split", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "argument --preset: invalid choice: 'split'" in done.stderr.splitlines()[-1]
