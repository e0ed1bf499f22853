"""The graphs of examples/compose, small, with rows some of which are missing."""

import runpy
from pathlib import Path

import pytest
import torch

from pyro_semivae.spaces import MISSING, Classes, Counts, Images, Real

FOLDER = Path(__file__).parents[1] / "examples" / "compose"
NAN, B = torch.nan, 13  # no other size is 13
DIGIT = torch.tensor([0, 2, MISSING, 1, MISSING, 2, 0, MISSING, 1, MISSING, MISSING, 2, 1])
OTHER = torch.tensor([1, MISSING, 0, MISSING, 1, MISSING, 0, 1, MISSING, 0, MISSING, 1, 0])


def two_labels(own):
    rows = {"x": torch.rand(B, 2, 3, 4), "digit": DIGIT, "colour": OTHER}
    return own["Coloured"](Images(2, 3, 4), Classes(3), Classes(2), z=5), rows


def rotation(own):
    angle = torch.linspace(-1, 1, B)[:, None].where((OTHER >= 0)[:, None], NAN)
    rows = {"x": torch.rand(B, 2, 3, 4), "digit": DIGIT, "angle": angle}
    return own["Rotated"](Images(2, 3, 4), Classes(3), Real(1), z=5), rows


def counts(own):
    rows = {"x": torch.randint(9, (B, 7)), "y": DIGIT, "size": 10 + torch.rand(B, 1)}
    return own["Cells"](Counts(7), Classes(3), z=5), rows


def adgm(own):
    return own["ADGM"](Images(2, 3, 4), Classes(3), a=4, z=5), {"x": torch.rand(B, 2, 3, 4), "y": DIGIT}


def two_layers(own):
    rows = {"x": torch.rand(B, 2, 3, 4), "y": DIGIT}
    return own["TwoLayers"](Images(2, 3, 4), Classes(3), z_c=4, z_1=5, z_2=6), rows


def two_views(own):
    upper, lower = torch.rand(B, 2, 3, 4), torch.rand(B, 1, 5, 4)
    upper[2], lower[0], lower[5] = NAN, NAN, NAN
    return own["Views"](Images(2, 3, 4), Images(1, 5, 4), z=6), {"upper": upper, "lower": lower}


def own_folder(own):
    angle = torch.linspace(-1, 1, B)[:, None].where((OTHER >= 0)[:, None], NAN)
    rows = {"x": torch.rand(B, 2, 3, 4), "digit": DIGIT, "angle": angle}
    return own["Labelled"](x=Images(2, 3, 4), digit=Classes(3), angle=Real(1, (0.5,), (2.0,)), z=5), rows


def factors(own):
    y = torch.linspace(-1, 1, 2 * B).reshape(B, 2).where((OTHER >= 0)[:, None], NAN)
    rows = {"x": torch.rand(B, 2, 3, 4), "shape": DIGIT, "y": y}
    return own["Room"](Images(2, 3, 4), Classes(3), Real(2), z=5), rows


GRAPHS = (factors, two_labels, rotation, counts, adgm, two_layers, two_views, own_folder)
BUILD = {build.__name__: build for build in GRAPHS}
each_graph = pytest.mark.parametrize("name", BUILD)


def build(name):
    torch.manual_seed(0)
    return BUILD[name](runpy.run_path(str(FOLDER / f"{name}.py")))
