"""Rendered cartoon faces with the 18 CelebA attributes that CCVAE uses: 64x64 RGB, no download.

Every attribute that is on has a strength in [0, 1] (width of the smile, size of the lenses, shade): the variation that
a latent can capture beyond the label. Face i of a seed has its own random stream, so it does not depend on the batch,
the order or the number of threads. A face is painted back to front from soft-edged shapes (signed distances in the
square [-1, 1]^2, y pointing down).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pyro_semivae.errors import InputError, check_count, check_number

SIZE = 64
VERSION = 1  # of the renderer; cached files from another version are not used
MOST = 10_000_000  # most faces per call of `draw`: 2.5 GB of random numbers
# name -> the fraction of CelebA images in which it is on
RATES = {
    "Arched_Eyebrows": 0.267,
    "Bags_Under_Eyes": 0.205,
    "Bangs": 0.152,
    "Black_Hair": 0.239,
    "Blond_Hair": 0.148,
    "Brown_Hair": 0.205,
    "Bushy_Eyebrows": 0.142,
    "Chubby": 0.058,
    "Eyeglasses": 0.065,
    "Heavy_Makeup": 0.387,
    "Male": 0.417,
    "No_Beard": 0.835,
    "Pale_Skin": 0.043,
    "Receding_Hairline": 0.080,
    "Smiling": 0.482,
    "Wavy_Hair": 0.320,
    "Wearing_Necktie": 0.073,
    "Young": 0.774,
}
ATTRIBUTES = tuple(RATES)
HAIR = ("Black_Hair", "Blond_Hair", "Brown_Hair")  # at most one is on; none is grey
# Other variation, uniform in [0, 1], which no label describes.
NUISANCES = (
    *("background_r", "background_g", "background_b", "shirt_r", "shirt_g", "shirt_b", "tie_hue", "skin", "grey"),
    *("iris_hue", "iris_value", "x", "y", "face_width", "face_height", "hair_length", "fringe_phase", "wave_phase"),
    *("eye_distance", "nose_bend", "nose_length", "mouth_bend", "mouth_width", "shades"),
)


@dataclass(frozen=True)
class Faces:
    """The parameters of N faces, from which they are painted.

    Attributes:
        labels: bool `(N, 18)`, in the order of `ATTRIBUTES`.
        strengths: float32 `(N, 18)` in [0, 1]; NaN where the attribute is off.
        nuisances: float32 `(N, len(NUISANCES))` in [0, 1].
    """

    labels: np.ndarray
    strengths: np.ndarray
    nuisances: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows) -> Faces:
        return Faces(self.labels[rows], self.strengths[rows], self.nuisances[rows])

    def with_label(self, name: str, on: bool, strength: float = 0.5) -> Faces:
        """The same faces with one attribute switched on or off: the true counterfactual.

        Switching a hair colour on switches the other hair colours off.

        Args:
            strength: the attribute's strength in faces where it was off.

        Raises:
            InputError: the attribute is unknown, or the strength is outside [0, 1].
        """
        if name not in ATTRIBUTES:
            raise InputError(f"name: got {name!r}; expected {', '.join(ATTRIBUTES)}")
        strength = check_number("strength", strength, least=0, most=1)
        labels, strengths = self.labels.copy(), self.strengths.copy()
        if on and name in HAIR:
            others = [ATTRIBUTES.index(other) for other in HAIR if other != name]
            labels[:, others], strengths[:, others] = False, np.nan
        column = ATTRIBUTES.index(name)
        labels[:, column] = on
        strengths[:, column] = np.nan_to_num(strengths[:, column], nan=strength) if on else np.nan
        return Faces(labels, strengths, self.nuisances)


def draw(num_faces: int, seed: int = 0, *, start: int = 0, rates: Literal["celeba", "balanced"] = "celeba") -> Faces:
    """Samples faces `start`, ..., `start + num_faces - 1` of a seed.

    Args:
        rates: `"celeba"`: the attributes' rates in CelebA, with beards on men only. `"balanced"`: every attribute is on
            in half of the faces, independently, except that the four hair colours have a quarter each.

    Raises:
        InputError: `rates` is unknown, or a number is not an integer from 0 to `MOST` (the seed: to 2^64 - 1).
    """
    for name, value, most in (("num_faces", num_faces, MOST), ("seed", seed, 2**64 - 1), ("start", start, MOST)):
        check_count(name, value, 0, most)
    if rates not in ("celeba", "balanced"):
        raise InputError(f"rates: got {rates!r}; expected 'celeba', 'balanced'")
    size = 2 * len(ATTRIBUTES) + len(NUISANCES)
    keys = np.array([seed, 0], np.uint64)
    u = np.empty((num_faces, size), np.float32)
    for i in range(num_faces):
        keys[1] = start + i
        u[i] = np.random.Generator(np.random.Philox(key=keys)).random(size, dtype=np.float32)
    chance, strengths, nuisances = np.split(u, [len(ATTRIBUTES), 2 * len(ATTRIBUTES)], axis=1)
    rate = np.array([RATES[name] if rates == "celeba" else 0.5 for name in ATTRIBUTES], np.float32)
    labels = chance < rate
    hair = [ATTRIBUTES.index(name) for name in HAIR]
    edges = np.cumsum(rate[hair] if rates == "celeba" else [0.25] * 3)
    labels[:, hair] = np.searchsorted(edges, chance[:, hair[0]], side="right")[:, None] == np.arange(3)
    if rates == "celeba":
        male, no_beard = ATTRIBUTES.index("Male"), ATTRIBUTES.index("No_Beard")
        bearded = (1 - RATES["No_Beard"]) / RATES["Male"]  # as a fraction of the men
        labels[:, no_beard] = ~labels[:, male] | (chance[:, no_beard] >= bearded)
    return Faces(labels, np.where(labels, strengths, np.float32("nan")), nuisances)


def paint(faces: Faces, *, threads: int = 1, chunk: int = 64) -> np.ndarray:
    """Paints the images, uint8 `(N, 3, 64, 64)`, in chunks; the result depends on neither `chunk` nor `threads`."""
    threads, chunk = check_count("threads", threads), check_count("chunk", chunk)
    parts = [faces[i : i + chunk] for i in range(0, len(faces), chunk)]
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate([np.empty((0, 3, SIZE, SIZE), np.uint8), *pool.map(_paint, parts)])


def mouth_shape(faces: Faces) -> tuple[np.ndarray, np.ndarray]:
    """The height of the mouth's corners and half of its width, `(N,)` each, in [-.03, .17] and [.13, .21]."""
    column = ATTRIBUTES.index("Smiling")
    smiles, strength = faces.labels[:, column], np.nan_to_num(faces.strengths[:, column])
    bend, width = (faces.nuisances[:, NUISANCES.index(name)] for name in ("mouth_bend", "mouth_width"))
    up = np.where(smiles, 0.08 + 0.09 * strength, -0.03 + 0.04 * bend)
    return up, 0.13 + 0.03 * width + np.where(smiles, 0.05 * strength, 0)


class _Canvas:
    """Images `(n, 64, 64, 3)` on which soft-edged shapes are painted, each within a window of rows and columns."""

    def __init__(self, colour: np.ndarray, offset_x: np.ndarray, offset_y: np.ndarray):
        self.pixels = np.broadcast_to(colour[:, None, None], (len(colour), SIZE, SIZE, 3)).copy()
        self.offset_x, self.offset_y = offset_x, offset_y
        self.centres = ((np.arange(SIZE, dtype=np.float32) + 0.5) * 2 / SIZE) - 1

    def shape(self, sdf, colour, *, where=None, opacity=1.0, left=-1.0, right=1.0, top=-1.0, bottom=1.0) -> None:
        """Paints where `sdf(x, y, rows)` is negative; `x`, `y` are relative to the face's centre.

        Args:
            colour: `(n, 3)`. opacity: a number or `(n,)`. where: which faces have the shape, `(n,)`; default: all.
            left, right, top, bottom: the window's edges, relative to the image's centre.
        """
        rows = np.arange(len(self.pixels)) if where is None else np.flatnonzero(where)
        if not len(rows):
            return
        x0, x1, y0, y1 = (round((edge + 1) * SIZE / 2) for edge in (left, right, top, bottom))
        x = self.centres[None, None, x0:x1] - self.offset_x[rows, None, None]
        y = self.centres[None, y0:y1, None] - self.offset_y[rows, None, None]
        alpha = np.clip(0.5 - sdf(x, y, rows) * (SIZE / 2), 0, 1)
        alpha = alpha * np.broadcast_to(np.asarray(opacity, np.float32), (len(self.pixels),))[rows, None, None]
        window = self.pixels[rows, y0:y1, x0:x1]
        window += alpha[..., None] * (colour[rows, None, None] - window)
        self.pixels[rows, y0:y1, x0:x1] = window


def _ellipse(x, y, rx, ry):
    return (np.sqrt((x / rx) ** 2 + (y / ry) ** 2) - 1) * np.minimum(rx, ry)


def _box(x, y, half_x, half_y):
    return np.maximum(np.abs(x) - half_x, np.abs(y) - half_y)


def _stroke(x, y, half, bend, width):
    """A horizontal stroke of half-length `half`, whose middle is `bend` lower than its ends."""
    t = np.clip(x / half, -1, 1)
    return np.hypot(np.maximum(np.abs(x) - half, 0), y - bend * (1 - t**2)) - width


def _line(x, y, x0, y0, x1, y1, width):
    dx, dy = x1 - x0, y1 - y0
    t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx**2 + dy**2), 0, 1)
    return np.hypot(x - x0 - t * dx, y - y0 - t * dy) - width


def _hsv(hue, saturation, value):
    """Colours `(n, 3)` from hue, saturation and value in [0, 1]."""
    hue, saturation, value = (np.asarray(a, np.float32)[..., None] for a in (hue, saturation, value))
    k = (np.array([5, 3, 1], np.float32) + hue * 6) % 6
    return value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))


def _mix(a, b, t):
    return np.asarray(a, np.float32) + (np.asarray(b, np.float32) - np.asarray(a, np.float32)) * t[:, None]


def _paint(faces: Faces) -> np.ndarray:
    return _Painter(faces).image()


class _Painter:
    """Paints faces, each part over the earlier ones.

    Attributes:
        on, s, u: name -> `(n,)`: whether the attribute is on, its strength (0 if it is off), and the nuisance.
        rx, ry: half of a face's width and height. skin, hair, dark: colours `(n, 3)`.
    """

    def __init__(self, faces: Faces):
        self.on = on = {name: faces.labels[:, i] for i, name in enumerate(ATTRIBUTES)}
        self.s = s = {name: np.nan_to_num(faces.strengths[:, i]) for i, name in enumerate(ATTRIBUTES)}
        self.u = u = {name: faces.nuisances[:, i] for i, name in enumerate(NUISANCES)}
        self.faces, self.number = faces, len(faces)
        self.rx = (0.37 + 0.05 * u["face_width"]) * np.where(on["Chubby"], 1.15 + 0.25 * s["Chubby"], 1)
        self.ry = 0.52 + 0.06 * u["face_height"]
        self.skin, self.hair = self._skin_colour(), self._hair_colour()
        self.dark = self.skin * 0.55
        self.eye_y, self.eye_x = -0.09, 0.16 + 0.035 * u["eye_distance"]
        self.aged, self.makeup = ~on["Young"], on["Heavy_Makeup"]
        background = np.stack([u[f"background_{c}"] for c in "rgb"], 1)
        self.canvas = _Canvas(background, 0.08 * (u["x"] - 0.5), 0.08 * (u["y"] - 0.5) - 0.02)

    def image(self) -> np.ndarray:
        """The images, uint8 `(n, 3, 64, 64)`."""
        self.back_hair()
        self.shirt_and_tie()
        self.skin_and_beard()
        self.hairline_and_bangs()
        for side in (-1, 1):
            self.makeup_around_eye(side)
            self.eye(side)
            self.lines_of_age(side)
        self.forehead()
        self.nose()
        self.mouth()
        self.glasses()
        return np.rint(self.canvas.pixels * 255).astype(np.uint8).transpose(0, 3, 1, 2)

    def grey(self, level: float) -> np.ndarray:
        return np.full((self.number, 3), level, np.float32)

    def at(self, values):
        """A function of `rows` that broadcasts one value per face over the pixels of these faces."""
        return lambda rows: np.broadcast_to(np.asarray(values, np.float32), (self.number,))[rows, None, None]

    def _skin_colour(self) -> np.ndarray:
        skin = _mix([0.50, 0.36, 0.26], [0.88, 0.70, 0.57], self.u["skin"])
        pale = _mix([0.93, 0.85, 0.77], [1.0, 0.98, 0.93], self.s["Pale_Skin"])
        return np.where(self.on["Pale_Skin"][:, None], pale, skin)

    def _hair_colour(self) -> np.ndarray:
        on, s = self.on, self.s
        hair = self.grey(0.5) + 0.16 * self.u["grey"][:, None]
        hair = np.where(on["Black_Hair"][:, None], self.grey(0.02) + 0.12 * s["Black_Hair"][:, None], hair)
        hair = np.where(on["Blond_Hair"][:, None], _mix([0.80, 0.62, 0.22], [1.0, 0.90, 0.60], s["Blond_Hair"]), hair)
        return np.where(on["Brown_Hair"][:, None], _mix([0.26, 0.13, 0.06], [0.52, 0.30, 0.16], s["Brown_Hair"]), hair)

    def _face(self, x, y, rows):
        return _ellipse(x, y, self.at(self.rx)(rows), self.at(self.ry)(rows))

    def back_hair(self) -> None:
        """The hair behind the face, short if Male is on, with a wavy edge if Wavy_Hair is on; and the neck."""
        on, s, u, at = self.on, self.s, self.u, self.at
        wave = np.where(on["Wavy_Hair"], 0.03 + 0.05 * s["Wavy_Hair"], 0)
        length = np.where(on["Male"], 0.12 - 0.36 * s["Male"], 0.42 + 0.28 * u["hair_length"])

        def back_hair(x, y, rows):
            ripple = at(wave)(rows) * np.sin(14 * y + 6.3 * at(u["wave_phase"])(rows))
            width = at(self.rx)(rows) + 0.13 + ripple
            cap = _ellipse(x, y + 0.08, width, at(self.ry)(rows) + 0.12 + ripple * 0.5)
            return np.maximum(np.where(y < -0.08, cap, np.abs(x) - width), y - at(length)(rows))

        self.canvas.shape(back_hair, self.hair, bottom=0.85)
        neck = self.skin * 0.85
        self.canvas.shape(lambda x, y, r: _box(x, y - 0.6, 0.17, 0.3), neck, left=-0.3, right=0.3, top=0.2)

    def shirt_and_tie(self) -> None:
        tie, u = self.on["Wearing_Necktie"], self.u
        shirt = np.where(tie[:, None], self.grey(0.95), np.stack([u[f"shirt_{c}"] for c in "rgb"], 1))
        self.canvas.shape(lambda x, y, r: _ellipse(x, y - 1.25, 0.82, 0.48), shirt, top=0.5)
        width = self.at(0.035 + 0.05 * self.s["Wearing_Necktie"])
        self.canvas.shape(
            lambda x, y, r: _box(x, y - 0.95, width(r) * (0.75 + 0.6 * np.clip(y - 0.75, 0, 1)), 0.2),
            _hsv(u["tie_hue"], 0.75, 0.7), where=tie, left=-0.3, right=0.3, top=0.5,
        )  # fmt: skip

    def skin_and_beard(self) -> None:
        self.canvas.shape(self._face, self.skin, top=-0.75, bottom=0.75)
        # With No_Beard on, a higher strength means less stubble.
        stubble = np.where(~self.on["No_Beard"], 0.85, 0.4 * (1 - self.s["No_Beard"]))

        def lower_face(x, y, rows):
            return np.maximum(self._face(x, y, rows), 0.19 + 0.12 * np.abs(x) - y)

        self.canvas.shape(lower_face, self.hair * 0.6, opacity=stubble, top=0.0, bottom=0.75)

    def hairline_and_bangs(self) -> None:
        """The hairline, receding if the attribute is on, and the bangs over it."""
        on, s, u, at = self.on, self.s, self.u, self.at
        receding = np.where(on["Receding_Hairline"], 0.10 + 0.14 * s["Receding_Hairline"], 0)

        def hairline(x, y, rows):
            back = at(receding)(rows)
            notch = np.where(back > 0, np.clip(0.07 - np.abs(x), 0, None) * 1.2, 0)
            return np.maximum(self._face(x, y, rows), y + 0.30 + back - notch)

        self.canvas.shape(hairline, self.hair, top=-0.75, bottom=0.0)
        fringe = -0.27 + 0.15 * s["Bangs"]

        def bangs(x, y, rows):
            teeth = 0.03 * np.abs(np.sin(13 * x + 6.3 * at(u["fringe_phase"])(rows)))
            return np.maximum(self._face(x, y, rows), y - at(fringe)(rows) + teeth)

        self.canvas.shape(bangs, self.hair * 0.9, where=on["Bangs"], top=-0.75, bottom=0.1)

    def _around_eye(self, side: int):
        """The pixels' offsets from an eye, outwards and downwards, and the window on its side."""
        eye_x, eye_y = self.at(self.eye_x), self.eye_y
        window = {"left": -0.55, "right": 0.1} if side < 0 else {"left": -0.1, "right": 0.55}
        return (lambda x, r: side * x - eye_x(r)), (lambda y: y - eye_y), window

    def makeup_around_eye(self, side: int) -> None:
        """The blush on the cheek and the eye shadow."""
        dx, dy, window = self._around_eye(side)
        strong = 0.45 + 0.5 * self.s["Heavy_Makeup"]
        self.canvas.shape(
            lambda x, y, r: _ellipse(dx(x, r) - 0.06, y - 0.17, 0.10, 0.07),
            _mix(self.skin, [0.95, 0.35, 0.4], strong), where=self.makeup, opacity=0.8, top=-0.05, bottom=0.4, **window,
        )  # fmt: skip
        self.canvas.shape(
            lambda x, y, r: _ellipse(dx(x, r), dy(y) + 0.05, 0.115, 0.085),
            _mix(self.skin, [0.65, 0.2, 0.65], strong), where=self.makeup, top=-0.4, bottom=0.15, **window,
        )  # fmt: skip

    def eye(self, side: int) -> None:
        """The eye, the bag under it and the brow. A higher strength of Young means larger eyes."""
        on, s, u, at = self.on, self.s, self.u, self.at
        dx, dy, window = self._around_eye(side)
        big = at(1 + np.where(on["Young"], 0.1 + 0.35 * s["Young"], 0))
        iris = _hsv(u["iris_hue"], 0.5, 0.25 + 0.25 * u["iris_value"])
        for rx, ry, colour in ((0.085, 0.052, self.grey(0.97)), (0.038, 0.045, iris)):
            self.canvas.shape(
                lambda x, y, r, rx=rx, ry=ry: _ellipse(dx(x, r), dy(y), rx * big(r), ry * big(r)), colour,
                top=-0.4, bottom=0.2, **window,
            )  # fmt: skip
        self.canvas.shape(
            lambda x, y, r: _stroke(dx(x, r), dy(y) - 0.085, 0.085, 0.035, 0.018), self.dark,
            where=on["Bags_Under_Eyes"], opacity=0.4 + 0.6 * s["Bags_Under_Eyes"], top=-0.2, bottom=0.25, **window,
        )  # fmt: skip
        arch = at(np.where(on["Arched_Eyebrows"], -0.06 - 0.09 * s["Arched_Eyebrows"], -0.01))
        thick = at(np.where(on["Bushy_Eyebrows"], 0.036 + 0.03 * s["Bushy_Eyebrows"], 0.014))
        self.canvas.shape(
            lambda x, y, r: _stroke(dx(x, r), dy(y) + 0.115, 0.11, arch(r), thick(r)), self.hair * 0.45,
            top=-0.5, bottom=0.1, **window,
        )  # fmt: skip

    def lines_of_age(self, side: int) -> None:
        """Crow's feet and the fold beside the mouth."""
        dx, dy, window = self._around_eye(side)
        for up in (-0.05, 0.0, 0.05):
            self.canvas.shape(
                lambda x, y, r, up=up: _line(dx(x, r), dy(y), 0.11, 0.4 * up, 0.19, 1.4 * up, 0.006),
                self.dark, where=self.aged, opacity=0.8, top=-0.3, bottom=0.2, **window,
            )  # fmt: skip
        self.canvas.shape(
            lambda x, y, r: _line(side * x, y, 0.10, 0.12, 0.19, 0.27, 0.008), self.dark, where=self.aged, opacity=0.8,
            top=0.0, bottom=0.4, **window,
        )  # fmt: skip

    def forehead(self) -> None:
        self.canvas.shape(
            lambda x, y, r: _stroke(x, y + 0.25, 0.17, -0.01, 0.008), self.dark, where=self.aged & ~self.on["Bangs"],
            opacity=0.6, left=-0.35, right=0.35, top=-0.4, bottom=-0.1,
        )  # fmt: skip

    def nose(self) -> None:
        bend, end = self.at(0.03 + 0.03 * self.u["nose_bend"]), self.at(0.08 + 0.05 * self.u["nose_length"])
        self.canvas.shape(
            lambda x, y, r: _line(x, y, 0.0, -0.04, bend(r), end(r), 0.012), self.dark, opacity=0.8,
            left=-0.2, right=0.2, top=-0.2, bottom=0.25,
        )  # fmt: skip

    def mouth(self) -> None:
        on, s, makeup = self.on, self.s, self.makeup
        smile, half = map(self.at, mouth_shape(self.faces))
        red = _mix(self.skin, [0.88, 0.06, 0.20], 0.5 + 0.5 * s["Heavy_Makeup"])
        lips = np.where(makeup[:, None], red, np.float32([[0.62, 0.30, 0.26]]))
        width = self.at(0.02 + np.where(makeup, 0.008 + 0.012 * s["Heavy_Makeup"], 0))
        window = {"left": -0.4, "right": 0.4, "top": 0.1, "bottom": 0.6}
        self.canvas.shape(lambda x, y, r: _stroke(x, y - 0.29, half(r), smile(r), width(r)), lips, **window)
        self.canvas.shape(
            lambda x, y, r: _stroke(x, y - 0.275, half(r) * 0.75, smile(r) * 0.8, 0.016), self.grey(0.98),
            where=on["Smiling"], **window,
        )  # fmt: skip

    def glasses(self) -> None:
        """Two rings and a bridge; sunglasses are dark inside the rings."""
        worn, eye_x, eye_y = self.on["Eyeglasses"], self.at(self.eye_x), self.eye_y
        lens = self.at(0.12 + 0.07 * self.s["Eyeglasses"])
        window = {"top": -0.45, "bottom": 0.3, "left": -0.55, "right": 0.55}
        for side in (-1, 1):

            def ring(x, y, rows, side=side):
                return _ellipse(side * x - eye_x(rows), y - eye_y, lens(rows), lens(rows) * 0.9)

            def rim(x, y, rows, ring=ring):
                return np.abs(ring(x, y, rows)) - 0.018

            sunglasses = worn & (self.u["shades"] < 0.3)
            self.canvas.shape(ring, self.grey(0.06), where=sunglasses, opacity=0.92, **window)
            self.canvas.shape(rim, self.grey(0.05), where=worn, **window)
        self.canvas.shape(
            lambda x, y, r: _box(x, y - eye_y, eye_x(r) - lens(r), 0.014), self.grey(0.05), where=worn,
            left=-0.3, right=0.3, top=-0.4, bottom=0.2,
        )  # fmt: skip
