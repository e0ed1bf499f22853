"""Every example runs, writes what it promises, and turns bad input into one clear line."""

import json
import runpy
import signal
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch

from pyro_semivae import trainer
from pyro_semivae.infer import Traced

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
EXAMPLES = [name for name in SCRIPTS if name != "demo.py"]  # which trains nothing: see test_demo.py
OTHER = ("larvae.py", "rbvae.py")  # other data, other flags
NOT = [("inverted_vae.py", "faces"), ("rbvae.py", "faces"), ("larvae.py", "digits")]
OF_LABELS = [name for name in EXAMPLES if name not in OTHER]


@pytest.mark.parametrize("script", OF_LABELS)
def test_smoke(script, run_apart, tmp_path):
    code, out, err = run_apart(script, "--smoke-test", "--seed", 3, "--out", tmp_path / "out")
    assert code == 0, err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for key in ("dataset", "labelled", "seed", "epochs", "elbo_per_example", "seconds", "versions", "compiled"):
        assert key in metrics
    assert metrics["seed"] == 3 and metrics["dataset"] == "digits" and "torch" in metrics["versions"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["seed"] == 3
    labelled = json.loads((tmp_path / "out" / "labelled_rows.json").read_text())
    assert len(labelled) == metrics["labelled"]
    assert torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["epoch"] == metrics["epochs"]
    figures = list((tmp_path / "out").glob("*.png"))
    assert figures and all(path.stat().st_size > 2000 for path in figures)
    assert "elbo_per_example" in out


@pytest.mark.parametrize("script", ["m1.py", "inverted_vae.py", "rbvae.py"])
def test_a_run_says_whether_its_step_was_compiled(script, run, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "Traced", partial(Traced, compiler="none"))
    code, _, err = run(script, "--smoke-test", "--compile", "on", "--out", "out")
    assert code == 0, err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["compiled"] and "compile" not in str(metrics.get("notes"))


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("script", "dataset"),
    [*(pair for pair in product(EXAMPLES, ["digits", "faces"]) if pair not in NOT), ("larvae.py", "room")],
)
def test_on_cuda_it_runs_and_resumes(script, dataset, run, tmp_path, device):
    flags = ("--smoke-test", "--cuda", "--dataset", dataset, "--out", "out")
    code, _, err = run(script, *flags)
    assert code == 0, err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["device"] == torch.cuda.get_device_name()
    code, _, err = run(script, *flags, "--resume", "--epochs", metrics["epochs"] + 1)
    assert code == 0, err


SLOW = [pytest.param(script, marks=pytest.mark.slow) for script in ("vae.py", "m1m2.py", "m3.py", "diva.py", "mvae.py")]


@pytest.mark.parametrize("script", ["m1.py", *SLOW])
def test_faces(script, run, tmp_path):
    """Several labels, of which some have one value only among the twenty labelled faces."""
    flags = ("--smoke-test", "--dataset", "faces", "--labelled", 20, "--out", "out")
    code, _, err = run(script, *flags)
    assert code == 0, err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["dataset"] == "faces" and metrics["labelled"] == 20
    assert ("test_accuracy" in metrics) == (script != "vae.py")
    assert ("intervention_matrix" in metrics) == (script not in ("vae.py", "m1.py"))


def test_m1s_checkpoint_has_its_classifier(run, tmp_path):
    code, _, err = run("m1.py", "--smoke-test", "--out", "out")
    assert code == 0, err
    weights = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["weights"]
    assert weights["q_y.net.weight"].abs().sum() > 0
    assert run("m1.py", "--smoke-test", "--out", "out", "--resume", "--epochs", 3)[0] == 0


def test_the_first_stage_of_m1m2_is_not_trained_on_once_the_second_has_begun(run, tmp_path):
    flags = ["--smoke-test", "--out", "out"]
    assert run("m1m2.py", *flags)[0] == 0
    first = (tmp_path / "out" / "m1.pt").read_bytes()
    code, _, err = run("m1m2.py", *flags, "--epochs", 3, "--resume")
    assert code == 0, err
    assert (tmp_path / "out" / "m1.pt").read_bytes() == first
    m1 = torch.load(tmp_path / "out" / "m1.pt", weights_only=True)["weights"]
    both = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    assert both["epoch"] == 3
    for name in ("p_x", "q_z"):
        frozen = {"p_x": "p_x", "q_z": "q_f"}[name]
        for key, value in m1.items():
            if key.startswith(name):
                assert torch.equal(both["weights"][frozen + key.removeprefix(name)], value)


def test_ccvae_on_faces(run, tmp_path):
    flags = ("--smoke-test", "--dataset", "faces", "--labelled", 60, "--partly", "keep", "--out", "here")
    code, _, err = run("ccvae.py", *flags)
    assert code == 0, err
    metrics = json.loads((tmp_path / "here" / "metrics.json").read_text())
    assert metrics["dataset"] == "faces" and metrics["labelled"] == 60
    assert len(metrics["test_accuracy_per_label"]) == 18 and len(metrics["intervention_matrix"]) == 18
    assert 0 <= metrics["characteristic_capture"]["own_nonlinear"] <= 1

    for key in ("swap_difference", "intervention_condition_number", "intervention_selectivity", "frechet_distance"):
        assert metrics[key] > 0
    made = {path.stem for path in (tmp_path / "here").glob("*.png")}
    assert made == {"interventions", "walks", "diversity", "swaps", "generations", "latents", "training", "graph"}


@pytest.mark.slow
def test_runs_are_compared(run, tmp_path):
    compare, flags = "../benchmarks/compare.py", ("--smoke-test", "--dataset", "faces", "--labelled", 60)
    for script, out in (("ccvae.py", "here"), ("m2.py", "m2")):
        assert run(script, *flags, "--out", out)[0] == 0
    code, out, err = run(compare, "here", "m2", "--face", 2, "--label", "Bangs", "--out", "both")
    assert code == 0, err
    assert {path.name for path in (tmp_path / "both").iterdir()} == {"face.png", "label.png"} and "writing" not in out
    code, _, err = run(compare, "here", "--label", "Bang")
    assert code == 2 and "--label: got Bang; expected Arched_Eyebrows, " in err
    (tmp_path / "here" / "config.json").unlink()
    code, _, err = run(compare, "here")
    assert code == 2 and "which has no config.json; expected runs that have ended" in err


def test_ccvae_measures(run, tmp_path):
    code, _, err = run("ccvae.py", "--smoke-test", "--labelled", 50, "--z-s", 3, "--out", "here")
    assert code == 0, err
    metrics = json.loads((tmp_path / "here" / "metrics.json").read_text())
    assert metrics["labelled"] == 50
    for key in ("test_accuracy", "test_accuracy_mean", "generation_accuracy"):
        assert 0 <= metrics[key] <= 1
    assert metrics["mutual_information"] >= 0
    names = {path.stem for path in (tmp_path / "here").glob("*.png")}
    classified = {"confusion", "latents"}
    shown = {"reconstructions", "generations", "interventions", "interpolation", "training", "graph"}
    assert names == shown | classified


def test_ccvae_with_one_label_a_class(run, tmp_path):
    code, _, err = run("ccvae.py", "--smoke-test", "--preset", "one-shot", "--labelled", 10, "--out", "here")
    assert code == 0, err
    metrics = json.loads((tmp_path / "here" / "metrics.json").read_text())
    assert metrics["labelled"] == 10
    history = torch.load(tmp_path / "here" / "checkpoint.pt", weights_only=True)["history"]
    assert history[-1]["term/-KL(q(y_m) || p(y))"] < 0 and history[-1]["term/-KL(r(y_m) || q(y_m))"] < 0
    setting = torch.load(tmp_path / "here" / "checkpoint.pt", weights_only=True)["setting"]["optimiser"]
    assert "alternate(noises [jitter(" in setting and "adversarial(" in setting and "radius 3.0" in setting


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--labelled", "0"], "--labelled: got 0; expected a positive integer"),
        (["--labelled", "1.5"], "--labelled: got 1.5; expected a finite number above 0 and up to 1 "),
        (["--labelled", "many"], "--labelled: got 'many'"),
        (["--labelled", "100000"], "--labelled: got 100000 rows; expected 1 to 1438"),
        (["--alpha", "-1"], "--alpha: got -1.0; expected a finite number from 0"),
        (["--rotate", "-3"], "--rotate: got -3.0"),
        (["--zoom", "nan"], "--zoom: got nan"),
        (["--z-c", "1e20"], "--z-c: got '1e20'; expected a whole number"),
        (
            ["--num-samples", "99999999999999999999"],
            "--num-samples: got 99999999999999999999; expected an integer from 1 to 2147483647",
        ),
        (["--seed", "9" * 20], f"--seed: got {'9' * 20}; expected an integer from 0 to"),
        (["--dataset", "cifar"], "--dataset: got 'cifar'; expected auto, mnist"),
        (["--wrong"], "unrecognized arguments: --wrong"),
        (["--epochs", "0"], "--epochs: got 0"),
        (["--batch-size", "-4"], "--batch-size: got -4"),
        (["--seed", "-1"], "--seed: got -1"),
        (["--shift", "-1"], "--shift: got -1"),
        (["--shift", "9"], "--shift: got 9; expected a finite number from 0 to 8"),
        (["--rotate", "361"], "--rotate: got 361.0; expected a finite number from 0 to 360"),
        (["--adversarial", "400", "--zoom", "2"], "--zoom: got 2.0; expected a finite number from 0 and below 1"),
        (["--partly", "keep"], "--partly: got torch.int64"),
        (["--beta", "-1"], "--beta: got -1"),
        (["--hold-out", "100000"], "--hold-out: got 100000"),
        (["--out", "/proc/nowhere"], "--out: cannot write to /proc/nowhere"),
        (["--dataset", "mnist", "--data-dir", "void"], "dataset mnist: no file void/MNIST/raw/"),
        *([] if torch.cuda.is_available() else [(["--cuda"], "--cuda: this machine has no GPU")]),
    ],
)
def test_bad_flags_are_one_line(flags, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYRO_SEMIVAE_DATA", raising=False)
    monkeypatch.setattr("pyro_semivae.data.sets._download", lambda folder, root: "no network")
    smoke = [] if "mnist" in flags else ["--smoke-test"]
    monkeypatch.setattr(sys, "argv", ["ccvae.py", *smoke, *flags])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "examples" / "ccvae.py"), run_name="__main__")
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")


def test_too_much_memory_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ccvae.py", "--smoke-test", "--z-c", "2000000000"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "examples" / "ccvae.py"), run_name="__main__")
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: out of memory (")


def test_help_shows_the_defaults_that_are_used(monkeypatch, capsys):
    for flags, shown in (
        (
            [],
            (
                "--alpha ALPHA extra weight",
                "(default: 1000.0 on class labels; 1.0 on binary labels; one-shot: 3000.0; paper: 0.0)",
                "0.2 on faces; all on your own data",
                "(default: 0.001; paper: 0.0005 on class labels; 0.0002 on binary labels)",
                "sets defaults of other flags (default: demo)",
            ),
        ),
        (["--preset", "paper"], ("(default: 20; paper: 100)",)),
    ):
        monkeypatch.setattr(sys, "argv", ["ccvae.py", *flags, "--help"])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "examples" / "ccvae.py"), run_name="__main__")
        said = " ".join(capsys.readouterr().out.split())
        assert stop.value.code == 0 and all(part in said for part in shown)


def test_a_run_resumes_after_ctrl_c_and_refuses_another_models_checkpoint(ctrl_c, start, run, tmp_path):
    flags = ["--smoke-test", "--out", "out", "--epochs"]
    process = start("ccvae.py", *flags, "400")
    checkpoint = tmp_path / "out" / "checkpoint.pt"
    for _ in range(600):
        if checkpoint.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.splitlines()[-1].startswith("interrupted: "), err
    done = torch.load(checkpoint, weights_only=True)["epoch"]
    assert 1 <= done < 400
    code, _, err = run("ccvae.py", *flags, done + 1, "--resume")
    assert code == 0, err
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["epochs"] == done + 1
    code, _, err = run("ccvae.py", *flags, done + 1, "--resume", "--z-c", "3")
    assert code == 2 and "does not fit this CCVAE" in err
    code, _, err = run("ccvae.py", *flags, done + 1, "--resume", "--beta", "1")
    assert code == 2 and "trained with other objective" in err and "Traceback" not in err
    code, _, err = run("ccvae.py", *flags, done, "--resume")
    assert code == 2 and f"epochs: got {done}" in err
    checkpoint.write_bytes(b"not a checkpoint")
    code, _, err = run("ccvae.py", *flags, done + 1, "--resume")
    assert code == 2 and err.splitlines()[-1].startswith("error: checkpoint: "), err
