"""CCVAE's recipe with and without the style terms on letters in many fonts, on which no setting was chosen.

python benchmarks/letters.py                # renders runs/letters.npz, trains three times, records the results
python benchmarks/letters.py --parts recipe --epochs 200   # as many steps as the recipe takes on MNIST

The images have 28x28 pixels and show one of 26 capital letters in one of the 21 fonts included in matplotlib (upright
and slanted, light and bold, with and without serifs), with random shear, rotation, size, stroke width and position near
the centre. There are 12,000 training images, 20 of each letter with a label, and 3,000 test images.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from studies import job
from studies.job import ROOT

from pyro_semivae.files import atomic_open, write_json

FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
)
SIDE, TIMES = 28, 4  # rendered at four times the size
NUMBERS = {"train": 12_000, "test": 3_000}
PARTS = {
    "recipe": ["--preset", "recipe"],
    "without": ["--preset", "recipe", "--tau", "0", "--generated", "0", "--style", "0", "--independence", "0"],
    "recipe-1": ["--preset", "recipe-1"],
}


def letter(index: int, font: str, rng: np.random.Generator) -> np.ndarray:
    """One image, uint8 `(28, 28)`, white on black."""
    side = SIDE * TIMES
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    face = ImageFont.truetype(str(folder / f"{font}.ttf"), int(rng.uniform(16, 23) * TIMES))
    image = Image.new("L", (side, side))
    stroke = int(rng.integers(0, 4))
    where = (side / 2, side / 2)
    ImageDraw.Draw(image).text(where, chr(ord("A") + index), 255, face, anchor="mm", stroke_width=stroke)
    shear, angle, *move = rng.uniform(-0.3, 0.3), rng.uniform(-0.2, 0.2), *rng.uniform(-2, 2, 2) * TIMES
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1.0, shear], [0.0, 1.0]])
    centre = np.array([side / 2, side / 2])
    start = centre - matrix @ (centre + move)
    rows = np.concatenate([matrix, start[:, None]], 1).ravel()
    image = image.transform((side, side), Image.Transform.AFFINE, tuple(rows), Image.Resampling.BILINEAR)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def render(path: Path) -> None:
    """Writes the images and labels."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, number in NUMBERS.items():
        y = rng.permutation(np.arange(number) % 26)
        x = np.stack([letter(int(k), FONTS[rng.integers(len(FONTS))], rng) for k in y])
        end = "_test" if part == "test" else ""
        arrays |= {f"x{end}": x, f"letter{end}": np.array([chr(ord("A") + k) for k in y])}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path) as file:
        np.savez_compressed(file, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--cuda", action="store_true")
    args = parser.parse_args()
    path = ROOT / "runs" / "letters.npz"
    if not path.exists():
        render(path)
    for part in args.parts:
        name = part if args.epochs == 40 else f"{part}-{args.epochs}-epochs"
        flags, out = PARTS[part], ROOT / "runs" / f"letters-{name}-seed{args.seed}"
        command = ["examples/ccvae.py", "--dataset", "runs/letters.npz", "--labelled", "520"]
        command += ["--epochs", str(args.epochs), "--seed", str(args.seed), *flags]
        command += ["--out", str(out.relative_to(ROOT)), "--resume"]
        command += ["--cuda"] if args.cuda else []
        subprocess.run([sys.executable, *command], check=True, cwd=ROOT)
        about = {"command": " ".join(["python", *command]), "date": datetime.date.today().isoformat()}
        result = job.RESULTS / "ccvae" / f"letters-{name}-seed{args.seed}.json"
        write_json(result, {**json.loads((out / "metrics.json").read_text()), **about})


if __name__ == "__main__":
    main()
