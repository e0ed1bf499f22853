"""A recorded run counts as long as all that was recorded of its settings is what the example does today."""

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pyro_semivae.models.parts import STYLE

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


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
    assert flags["beta"] == 1.5 and flags["epochs"] in (10, 12) and flags["lr"] == 1e-3 and flags["ema_decay"] == 0.998
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


def test_the_reference_based_study_runs_every_method_alike(studies, monkeypatch):
    """The settings of all methods are those of sRb-VAE but for what makes them another method."""
    from studies import rbvae

    found = {job.part: job.settings for job in rbvae.jobs("demo", [4]) if job.dataset == "mnist"}
    assert {*found} == {*rbvae.PAPER} and len(rbvae.jobs("demo", None)) == 3 * 3 * 9
    for name, settings in found.items():
        other = {key for key, value in settings.items() if value != found["srb-vae"][key]}
        chosen = {"svae": {"adversarial", "latents"}, "swap-vae": {"adversarial"}}.get(name, set())
        chosen |= {"strength"} if name in ("beta-vae", "beta-tcvae", "dip-vae-1", "dip-vae-2") else set()
        assert other == {*rbvae.METHODS[name]} | chosen, name
    paths = [job.path.name for preset in ("demo", "ablation", "choice") for job in rbvae.jobs(preset, None)]
    assert len({*paths}) == len(paths) and "mnist-demo-no-crossing-seed0.json" in paths
    held_out = [job.settings for preset in ("ablation", "choice") for job in rbvae.jobs(preset, None)]
    assert {settings["hold_out"] for settings in held_out} == {10_000}, "choices are not made on the test images"
    for method in ("beta-vae", "beta-tcvae", "dip-vae-1", "dip-vae-2", "svae", "swap-vae"):
        settings = {**found[method], "hold_out": 10_000}
        assert settings in held_out, f"what {method} has is one of the choices"


def test_the_reference_based_tables(studies, monkeypatch):
    from studies import rbvae

    values = {**dict.fromkeys(rbvae.BEYOND, 0.25), **dict.fromkeys(rbvae.ANCHORS, 0.125), "measures": 3}
    for job in rbvae.jobs("demo", [0, 1]):
        if job.part in ("vae", "srb-vae") and job.dataset in ("mnist", "fashionmnist"):
            job.path.parent.mkdir(parents=True, exist_ok=True)
            # The first run on FashionMNIST has collapsed, of the VAE both.
            values["kl_common"] = 30.0 if job.dataset == "mnist" or job.seed > (job.part == "vae") else 0.01
            run = {**values, **dict.fromkeys(rbvae.ERRORS, 0.1 + 0.2 * job.seed), "settings": job.settings}
            job.path.write_text(json.dumps(run))
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rbvae.table("demo").splitlines()[2:]]
    assert [row[:3] for row in rows] == [
        ["mnist", "vae", "2"],
        ["mnist", "srb-vae", "2"],
        ["fashionmnist", "vae", "0 of 2"],
        ["fashionmnist", "srb-vae", "1 of 2"],
    ]
    assert [row[3] for row in rows[1:]] == ["0.200 ± 0.100", "0.200 ± 0.100", "0.300"]
    assert [row[-1] for row in rows] == ["0.085", "0.060", "", ""]
    beyond = rbvae.beyond_table("demo")
    assert "errors without a model: median 0.125, pixels 0.125, components 0.125" in beyond


def test_a_preset_that_a_study_does_not_have_is_one_line():
    command = [sys.executable, str(BENCHMARKS / "reproduce.py"), "labels", "--preset", "split", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: --preset: got split; no example of the study labels has it" in done.stderr.splitlines()[-1]


def test_the_inverted_vaes_table_has_differences_to_what_it_is_compared_with(studies, monkeypatch):
    """Mean of the inverted model's trials less the other's; the error is that of two independent samples."""
    from studies import inverted as study

    found = {"m2": [3.0, 2.0, 4.0], "m2 as inverted": [1.0], "inverted": [0.5, 1.5]}

    def trials(dataset, model, preset):
        values = found.get(model, []) if dataset == "mnist" else []
        return [{**dict.fromkeys(study.MEASURES, value), "distinct_digits": 10 - int(value > 2)} for value in values]

    monkeypatch.setattr(study, "trials", trials)
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in study.table("demo").splitlines()[2:]]
    assert [row[1] for row in rows] == ["m2", "m2 as inverted", "inverted", "inverted minus m2"]
    assert [row[-2] for row in rows] == ["1 of 3", "1 of 1", "2 of 2", ""]
    error = (1.0 / 3 + 0.5 / 2) ** 0.5
    assert rows[0][3] == f"3.000 ± {(1 / 3) ** 0.5:.3f}" and rows[-1][3] == f"-2.000 ± {error:.3f}"
    flags = {job.part: job.flags for job in study.jobs("demo", [4])}
    wide = " ".join(flags["m2 wide"])
    assert wide.endswith("--classifier-hidden 200 200 --encoder-hidden 200 200 --activation relu")
    assert "--no-reverse" in flags["m2 as inverted"] and "demo" in flags["m2 as inverted"] and "m2" in flags["m2"]


@pytest.mark.parametrize("at_once", [1, 3])
def test_runs_at_once_are_recorded_and_their_output_is_in_files(studies, at_once, monkeypatch, tmp_path):
    import reproduce
    from studies import job, rbvae

    seen, together = [], threading.Barrier(at_once, timeout=10)

    def run(command, *, check, cwd, stdout, stderr):
        together.wait()  # three are under way
        seen.append(stdout is not None)
        if stdout is not None:
            stdout.write("epoch 1")
        out = tmp_path / command[command.index("--out") + 1]
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.json").write_text(json.dumps({"measures": 3, "seed": command[command.index("--seed") + 1]}))

    monkeypatch.setattr(job, "ROOT", tmp_path)
    monkeypatch.setattr(job.subprocess, "run", run)
    flags = ["rbvae", "--dataset", "mnist", "--part", "vae", "--at-once", str(at_once)]
    monkeypatch.setattr("sys.argv", ["reproduce.py", *flags])
    reproduce.main()
    runs = [run for run in rbvae.jobs("demo", None) if run.part == "vae" and run.dataset == "mnist"]
    assert [run.result()["seed"] for run in runs] == ["0", "1", "2"]
    logs = [path.read_text() for path in tmp_path.rglob("log.txt")]
    assert seen == [at_once > 1] * 3 and logs == ["epoch 1"] * (3 if at_once > 1 else 0)


def test_after_a_run_that_failed_no_other_is_started(studies, monkeypatch, tmp_path):
    import reproduce
    from studies import job

    started = []

    def run(command, **how):
        started.append(command)
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(job, "ROOT", tmp_path)
    monkeypatch.setattr(job.subprocess, "run", run)
    monkeypatch.setattr("sys.argv", ["reproduce.py", "rbvae", "--dataset", "mnist"])
    with pytest.raises(subprocess.CalledProcessError):
        reproduce.main()
    assert len(started) == 1


def test_larvaes_study_pairs_methods_on_the_same_labels(studies):
    from studies import larvae

    found = larvae.jobs("demo", None)
    assert len(found) == 2 * 4 * 3 * 3 * 4 + 3 * 4 and len({job.path for job in found}) == len(found)
    curves = [job for preset in ("tau", "nuisance") for job in larvae.jobs(preset, None)]
    assert len({job.path for job in [*found, *curves]}) == len(found) + 2 * 4 * 4 + 3 * 4 * 4
    of = {job.part: job.settings for job in found if (job.dataset, job.rate, job.seed) == ("room", "0.02", 3)}
    for base in larvae.BASES:
        settings = [of[f"{base} {method}"] for method in larvae.METHODS if method != "longer"]
        differ = {key for key in settings[0] if len({str(each[key]) for each in settings}) > 1}
        assert differ == {"tau", "replacement", "generated"}
        assert all(each["base"] == base and not each["baseline"] and each["images"] == 12_000 for each in settings)
    lowest = {job.part: job.settings for job in found if (job.dataset, job.rate) == ("room", "0.01")}
    longer, short = lowest["tc longer"], lowest["tc baseline"]
    assert {key for key in short if short[key] != longer[key]} == {"epochs"} and longer["epochs"] > short["epochs"]
    held_out = larvae.jobs("choice", None)
    assert len({job.path for job in held_out}) == len(held_out) and all(j.settings["hold_out"] for j in held_out)
    values = {"baseline": (0.3, 1.0), "longer": (0.3, 0.95), "printed": (0.25, 0.9), "ours": (0.5, 0.7)}
    for job in found:
        base, method = job.part.split()
        if job.dataset == "room" and job.rate == "0.01" and base == "tc" and job.seed < 2:
            mig, l2 = values[method]
            job.path.parent.mkdir(parents=True, exist_ok=True)
            run = {**dict.fromkeys(larvae.MEASURES, 0.0), "mig": mig + 0.1 * job.seed * (method == "ours"), "l2": l2}
            job.path.write_text(json.dumps({**run, "measures": 3, "settings": job.settings}))
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in larvae.differences().splitlines()[2:]]
    assert rows[0] == ["room", "tc", "0.01", "longer", "2", "0.000 ± 0.000", "-0.050 ± 0.000"]
    assert rows[1] == ["room", "tc", "0.01", "printed", "2", "-0.050 ± 0.000", "-0.100 ± 0.000"]
    assert rows[2][5] == "0.250 ± 0.050" and rows[2][6] == "-0.300 ± 0.000"
    told = {(row[3], row[1]) for row in rows[3:]}
    assert ("printed", "mig: better in 0 of 1 cells") in told and ("ours", "l2: better in 1 of 1 cells") in told
    assert len(larvae.table().splitlines()) == 2 + 4
    assert not larvae.example_table(), "nothing is recorded here"
    points = [[cell.strip() for cell in row.split("|")[1:-1]] for row in larvae.curves().splitlines()[2:]]
    assert points == [
        ["tau", "1", "printed", "2", "0.250 ± 0.000", "0.900 ± 0.000"],
        ["tau", "1", "ours", "2", "0.550 ± 0.050", "0.700 ± 0.000"],
        ["nuisance", "5", "baseline", "2", "0.300 ± 0.000", "1.000 ± 0.000"],
        ["nuisance", "5", "printed", "2", "0.250 ± 0.000", "0.900 ± 0.000"],
        ["nuisance", "5", "ours", "2", "0.550 ± 0.050", "0.700 ± 0.000"],
    ], "a curve passes through the method's own runs"


def test_letters_in_many_fonts(studies, tmp_path, monkeypatch):
    import letters
    from letters import PARTS
    from studies.job import example

    from pyro_semivae.data import load_path

    monkeypatch.setattr(letters, "NUMBERS", {"train": 78, "test": 26})
    for name in ("one", "other"):
        letters.render(tmp_path / f"{name}.npz")
    one, other = (load_path(tmp_path / f"{name}.npz").labelled_by("letter") for name in ("one", "other"))
    assert torch.equal(one.x, other.x) and one.x.shape == (78, 1, 28, 28) and len(one.label_names) == 26
    assert torch.bincount(one.y, minlength=26).eq(3).all() and len(one.x.flatten(1).unique(dim=0)) == 78
    assert (one.x.amax((1, 2, 3)) == 255).all() and (one.x[..., 0, :] == 0).all(), "whole letters"
    settings = {part: example("ccvae").Settings.parse(None, flags).for_data("mnist") for part, flags in PARTS.items()}
    weights = {part: [getattr(found, name) for name in STYLE] for part, found in settings.items()}
    assert weights == {"recipe": [*STYLE.values()], "without": [0.0] * 4, "recipe-1": [0.0] * 4}
    assert [(found.z_c, found.z_s, found.beta) for found in settings.values()] == [(10, 20, 2.0)] * 2 + [(30, 0, 4.0)]


def test_what_keeps_style_is_a_study_of_several_models(studies):
    from studies import ccvae

    found = ccvae.jobs("style", None)
    assert len({job.path for job in found}) == len(found) == 2 * len(ccvae.STYLE)
    of = {job.part.removeprefix("style "): job.settings for job in found if job.dataset == "mnist"}
    assert all(settings["hold_out"] == 10_000 for settings in of.values())
    weights = {"tau", "generated", "style", "independence"}
    assert all(of["all"][name] > 0 for name in (*weights, "z_s")) and not any(of["neither"][name] for name in weights)
    assert len({str(sorted(settings.items())) for settings in of.values()}) == len(of), "no two train the same"
    assert of["DIVA with all"]["tau"] == 0.5 and "tau" not in of["M2 with regression"]
    values = dict.fromkeys(ccvae.STYLE_MEASURES, 0.5)
    for job in found[:2]:
        job.path.parent.mkdir(parents=True, exist_ok=True)
        kept = dict.fromkeys(ccvae.KEPT, 0.25)
        job.path.write_text(json.dumps({**values, "kept": kept, "measures": 3, "settings": job.settings}))
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in ccvae.style_table().splitlines()[2:]]
    assert [row[:3] for row in rows] == [["mnist", "all", "0.500"], ["mnist", "neither", "0.500"]]
    assert rows[0][-1] == "0.250"


def test_ccvae_beside_its_family_is_its_first_recipe_and_the_one_that_keeps_style(studies):
    from studies import ccvae, labels

    short, full = (labels.job_of("mnist", "0.004", preset, 0, "ccvae") for preset in ("demo", "recipe"))
    assert full == ccvae.job_of("mnist", "0.004", "recipe", 0) and short.study == "labels"
    assert (short.settings["epochs"], short.settings["beta"], short.settings["tau"]) == (10, 4.0, 0.0)
    assert (full.settings["epochs"], full.settings["beta"], full.settings["tau"]) == (40, 2.0, 0.5)
    kept = dict.fromkeys(ccvae.KEPT, 0.25)
    for job, accuracy in ((short, 0.5), (full, 0.75), (replace(full, seed=1), 0.25)):
        job.path.parent.mkdir(parents=True, exist_ok=True)
        values = dict.fromkeys((*ccvae.DIVERSITY, *ccvae.SET, *ccvae.MEASURES, *labels.OF_CLASSES), accuracy)
        about = {"kept": kept, "measures": 3, "epochs": job.settings["epochs"], "settings": job.settings}
        job.path.write_text(json.dumps({**values, **about}))
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in labels.table("mnist").splitlines()[2:]]
    assert [row[2:6] for row in rows] == [
        ["ccvae, keeping style", "40", "2", "0.500 ± 0.250"],
        ["ccvae", "10", "1", "0.500"],
    ]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in labels.kept_table().splitlines()[2:]]
    assert [row[2:5] for row in rows] == [["ccvae, keeping style", "0.750", "0.750"], ["ccvae", "0.500", "0.500"]]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in ccvae.diversity_table("recipe").splitlines()[2:]]
    assert rows == [["mnist", "0.004", "recipe", "2", *["0.500 ± 0.250"] * 4, *["0.250 ± 0.000"] * 5]]
    older = ccvae.job_of("mnist", "0.004", "recipe-1", 0)
    older.path.write_text(json.dumps({"measures": 2, "settings": older.settings, "test_accuracy": 0.5}))
    assert (
        older.result()
        and ccvae.diversity_table("recipe-1") == ""
        and "mnist | 0.004 | recipe | 2" in ccvae.table("recipe")
    )


def test_faces_are_compared_with_and_without_what_keeps_style(studies):
    """The recipe is one of the rows; what it is was chosen on held-out rows; older records stay what they were."""
    from studies import faces, labels
    from studies.job import Job

    found = {job.part: job.settings for job in faces.jobs("demo", None) if job.rate == "0.06"}
    recipe = Job("faces", "faces", "0.06", "demo", 0).settings
    assert found[faces.STYLED] == recipe and recipe["tau"] and recipe["generated"] and recipe["entries"] == "one"
    diva = found.pop(faces.OF_DIVA)
    assert all(diva[name] == recipe[name] for name in ("tau", "generated", "entries", "epochs", "z_s"))
    marginals = {part: settings for part, settings in found.items() if part not in ("replace one", faces.STYLED)}
    assert all((s["tau"], s["generated"], s["entries"]) == (0, 0, "all") for s in marginals.values())
    assert {*faces.MARGINALS, "partly keep", "control variate"} < {*marginals}
    chosen = {job.part: job.settings for job in faces.jobs("style", None)}
    assert {settings.pop("hold_out") for settings in chosen.values()} == {faces.HELD_OUT}
    assert len({str(sorted(settings.items())) for settings in chosen.values()}) == len(chosen) == len(faces.CHOICE)
    assert {**chosen[f"style {faces.STYLED}"], "hold_out": 0} == {"hold_out": 0, **recipe}
    values = {name: 0.5 for name in faces.MEASURES if not name.startswith(("own", "others"))}
    values["characteristic_capture"] = dict.fromkeys(("own_linear", "own_nonlinear"), 0.25)
    values["characteristic_capture"] |= dict.fromkeys(("others_linear", "others_nonlinear"), 0.125)
    jobs = {"jensen": faces.job_of("0.06", "demo", 0, "jensen"), "style none": faces.choice_of("none", 0)}
    jobs["styled"] = faces.job_of("0.06", "demo", 0, faces.STYLED)
    for accuracy, job in enumerate(jobs.values()):
        job.path.parent.mkdir(parents=True, exist_ok=True)
        about = {"measures": 3, "epochs": 10, "settings": job.settings}
        job.path.write_text(json.dumps({**values, "test_accuracy": accuracy, **about}))
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in labels.table("faces").splitlines()[2:]]
    assert [row[2:6] for row in rows] == [
        ["ccvae, keeping style", "10", "1", "2.000"],
        ["ccvae", "10", "1", "0.000"],
    ]
    assert [row[-2:] for row in rows] == [["0.862", "0.890"]] * 2, "the paper's"
    (row,) = ([cell.strip() for cell in row.split("|")[1:-1]] for row in faces.choice_table().splitlines()[2:])
    assert row[:2] == ["none", "1.000"] and row[-4:] == ["0.250", "0.250", "0.125", "0.125"]


def test_a_run_without_a_weight_is_not_one_with_it(studies):
    """Records that are older than a flag had what it does nothing with."""
    from studies.job import Job

    job = Job("ccvae", "mnist", "0.004", "recipe-1", 0)
    job.path.parent.mkdir(parents=True, exist_ok=True)
    older = {name: value for name, value in job.settings.items() if name not in ("tau", "generated", "share")}
    job.path.write_text(json.dumps({"settings": older}))
    assert job.result() is not None
    job.path.write_text(json.dumps({"settings": {**older, "preset": "recipe"}}))
    assert job.result() is not None, "a preset's name is no setting"
    assert replace(job, changes={"tau": 0.5}).result() is None and replace(job, changes={"z_s": 9}).result() is None
