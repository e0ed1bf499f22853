"""Figures that compare runs of several methods on the same faces, labels or classes.

python examples/ccvae.py --dataset faces; python examples/m2.py --dataset faces --labelled 0.2; ...
python benchmarks/compare.py runs/ccvae-faces runs/m2-faces runs/diva-faces --face 4 --label Eyeglasses

`face.png` has a row per method: a face, its reconstruction, and each of its labels switched. `label.png` has a row per
method: one label switched in many faces. It accepts runs of `examples/ccvae.py`, `m2.py`, `m1m2.py`, `m3.py`, `diva.py`
and `mvae.py` on binary labels. It reads the checkpoint and configuration from each folder and trains nothing.

python benchmarks/compare.py runs/inverted_vae-mnist-m2 runs/inverted_vae-mnist

For runs of `examples/inverted_vae.py`, `canonical.png` has a row per run with the canonical image of the value that is
assigned to each class (Gemp et al. 2017, Fig. 2).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from studies.job import example
from torch import Tensor

from pyro_semivae import cli, report, tasks
from pyro_semivae.checkpoints import load_weights
from pyro_semivae.data import NAMES, ImageData
from pyro_semivae.errors import InputError
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.files import load_checkpoint, read_json, user_path, writable_folder
from pyro_semivae.models import SemiVAE
from pyro_semivae.plot import image_grid

MODELS = ("CCVAE", "M2", "M1M2", "M3", "DIVA", "MVAE", "InvertedVAE")
FACES = {"face": 4, "label": None, "faces": 10}  # flags of the figures for binary labels


def load(folder: str | Path) -> tuple[SemiVAE, ExampleRun]:
    """The trained model in an example's output folder, and its run with the data.

    Raises:
        InputError: the run's script is not supported, or its flags have changed since; its labels are classes, but it
            is not a run of `inverted_vae.py`.
    """
    folder = user_path(folder, "runs")
    state = load_checkpoint(folder / "checkpoint.pt")
    if state["model"] not in MODELS:
        raise InputError(f"runs: got {folder}, a {state['model']}; expected {', '.join(MODELS)}")
    name = "inverted_vae" if state["model"] == "InvertedVAE" else state["model"].lower()
    script = example(name)
    if not (folder / "config.json").is_file():
        raise InputError(f"runs: got {folder}, which has no config.json; expected runs that have ended")
    config = read_json(folder / "config.json")
    dataset = config.pop("dataset_used").removesuffix("-held-out")
    used = {"dataset": dataset if config["dataset"] in ("auto", *NAMES) else config["dataset"], "out": folder}
    used |= {"cuda": False, "resume": False, "overwrite": False}
    if changed := sorted(script.Settings.defaults().keys() ^ config.keys()):
        names = ", ".join(changed)
        raise InputError(f"runs: got {folder}, of another version of {name}.py; it and this one differ in {names}")
    job = ExampleRun(script.Settings(**{**config, **used}), preferred=used["dataset"], writes=False)
    if state["model"] != "InvertedVAE" and job.data.y.dim() != 2:
        raise InputError(f"runs: got {folder} on {job.data.name}, which has classes; expected sets of binary labels")
    vae = script.make(job)
    load_weights(vae, state, folder)
    return vae.eval(), job


def switched(y: Tensor, label: int) -> Tensor:
    """The labels for `tasks.intervene` that switch one label; the others are missing, and so are kept."""
    out = torch.full_like(y, torch.nan)
    out[:, label] = 1 - y[:, label]
    return out


def draw(vaes: dict[str, SemiVAE], data: ImageData, face: int, label: int, num_faces: int, out: Path) -> None:
    """Writes `face.png` and `label.png`."""
    x, y = data.x_test, data.y_test
    with torch.random.fork_rng():
        rows = []
        for vae in vaes.values():
            torch.manual_seed(0)
            one, its = vae.images(x[face : face + 1]), y[face : face + 1]
            changed = [tasks.intervene(vae, one, switched(its, i))[0] for i in range(y.shape[1])]
            rows.append(torch.cat([one, tasks.reconstruct(vae, one), *changed]))
        names = ["x", "reconstruction", *data.label_names]
        title = "the column's label switched, the rest kept"
        image_grid(torch.stack(rows), rows=[*vaes], columns=names, title=title, path=out / "face.png")
        rows = [next(iter(vaes.values())).images(x[:num_faces])]
        for vae in vaes.values():
            torch.manual_seed(0)
            rows.append(tasks.intervene(vae, vae.images(x[:num_faces]), switched(y[:num_faces], label))[0])
        title = f"{data.label_names[label]} switched, the rest kept"
        image_grid(torch.stack(rows), rows=["x", *vaes], title=title, path=out / "label.png")


def draw_canonical(runs: dict[str, tuple[SemiVAE, ExampleRun]], out: Path) -> None:
    """Writes `canonical.png`; the assignment of values to classes is in the runs' `metrics.json`."""
    rows, classes = [], sorted({job.args.classes for _, job in runs.values()})
    if len(classes) > 1:
        raise InputError(f"runs: got runs with labels of {classes} classes; expected one number")
    for vae, job in runs.values():
        job.keep_classes(job.args.classes)
        assigned = read_json(job.out / "metrics.json")["assigned"]
        rows.append(report.canonical_images(vae, job.data, job.labelled_rows)[torch.tensor(assigned).argsort()])
    names = next(iter(runs.values()))[1].data.label_names
    title = "the value of y that is taken for a class, z the mean over the labelled rows"
    image_grid(torch.stack(rows), rows=[*runs], columns=names, title=title, path=out / "canonical.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="output folders of examples")
    parser.add_argument("--face", type=int, help=f"index of the face in the test set (default: {FACES['face']})")
    parser.add_argument("--label", help="the label to switch in many faces (default: the first)")
    parser.add_argument("--faces", type=int, help=f"number of faces for that label (default: {FACES['faces']})")
    parser.add_argument("--out", default="runs/compare")
    args = parser.parse_args()
    loaded = [load(folder) for folder in args.runs]
    data, used = loaded[0][1].data, sorted({job.data.name for _, job in loaded})
    if len(used) > 1:
        raise InputError(f"runs: got runs on {used}; expected one data set")
    kinds = [type(vae).__name__ for vae, _ in loaded]
    choices = (kinds, [Path(folder).name for folder in args.runs], args.runs)
    names = next((names for names in choices if len({*names}) == len(names)), None)
    if names is None:
        raise InputError(f"runs: got {', '.join(args.runs)}; expected each folder once")
    if "InvertedVAE" in kinds:
        if {*kinds} != {"InvertedVAE"}:
            raise InputError(f"runs: got {', '.join(kinds)}; expected InvertedVAE's alone, or the others")
        for flag in FACES:
            if getattr(args, flag) is not None:
                raise InputError(f"--{flag}: got {getattr(args, flag)}; expected none with InvertedVAE's runs")
        draw_canonical(dict(zip(names, loaded, strict=True)), writable_folder(args.out, "--out"))
        return
    vars(args).update({flag: default for flag, default in FACES.items() if getattr(args, flag) is None})
    args.label = args.label or data.label_names[0]
    if args.label not in data.label_names:
        raise InputError(f"--label: got {args.label}; expected {', '.join(data.label_names)}")
    for name, value, most in (("--face", args.face, len(data.x_test) - 1), ("--faces", args.faces, len(data.x_test))):
        if not 0 <= value <= most:
            raise InputError(f"{name}: got {value}; expected 0 to {most}")
    vaes = {name: vae for name, (vae, _) in zip(names, loaded, strict=True)}
    draw(vaes, data, args.face, data.label_names.index(args.label), args.faces, writable_folder(args.out, "--out"))


if __name__ == "__main__":
    cli.main(main)
