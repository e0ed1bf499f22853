"""Figures have each image, name and curve in its place."""

import pytest
import torch
from torch.testing import assert_close

from pyro_semivae.plot import image_grid, training_curves


def shown(figure):
    return torch.tensor(figure.axes[0].images[0].get_array().data)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_has_its_images_in_rows_and_columns(channels):
    images = torch.rand(2, 3, channels, 5, 4)
    pixels = shown(image_grid(images, rows=["r", "s"], columns=["a", "b", "c"], title="what"))
    pad = 1
    assert pixels.shape[:2] == (2 * 5 + pad, 3 * 4 + 2 * pad)
    for r in range(2):
        for k in range(3):
            cell = pixels[r * 6 : r * 6 + 5, k * 5 : k * 5 + 4].reshape(5, 4, channels)
            assert_close(cell.double(), images[r, k].permute(1, 2, 0), atol=1e-6, rtol=0)
    assert (pixels[5] == 1).all() and (pixels[:, 4] == 1).all(), "white between them"


def test_the_names_of_a_grid_are_at_their_rows_and_columns(tmp_path):
    figure = image_grid(
        torch.rand(2, 3, 1, 5, 4), rows=["r", "s"], columns=["a", "b", "c"], title="what", path=tmp_path / "g.png"
    )
    axis = figure.axes[0]
    assert [(t.get_text(), x) for t, x in zip(axis.get_xticklabels(), axis.get_xticks(), strict=True)] == [
        ("a", 2.0), ("b", 7.0), ("c", 12.0),
    ]  # fmt: skip
    assert [(t.get_text(), y) for t, y in zip(axis.get_yticklabels(), axis.get_yticks(), strict=True)] == [
        ("r", 2.5), ("s", 8.5),
    ]  # fmt: skip
    assert axis.get_xlabel() == "what" and (tmp_path / "g.png").stat().st_size > 0


def test_curves_have_a_panel_each_with_its_unit():
    history = [
        {
            "epoch": e,
            "objective": -5.0 + e,
            "elbo": -6.0 + e,
            "term/log p(x|z)": -4.0 * e,
            "term/log p(y)": -1.0 - 1e-8 * e,
            "weight/log p(y)": 2.0,
            "monitor/ess": 0.1 * e,
            "seconds": 1.0,
        }
        for e in (1, 2, 3)
    ]
    axes = [axis for axis in training_curves(history).axes if axis.get_visible()]
    curves = {axis.get_title(): axis.lines[0].get_xydata().tolist() for axis in axes}
    shown = {f"{name} (nats per example)" for name in ("objective", "elbo", "log p(x|z)")}
    assert set(curves) == {*shown, "ess"}, "log p(y) changes by rounding alone"
    assert curves["log p(x|z) (nats per example)"] == [[1, -4], [2, -8], [3, -12]]
    assert curves["elbo (nats per example)"] == [[1, -5], [2, -4], [3, -3]]
    assert curves["objective (nats per example)"] == [[1, -4], [2, -3], [3, -2]]


def test_a_figure_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    image_grid(torch.rand(1, 2, 1, 4, 4), path=path)
    before = path.read_bytes()

    def half(self, file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    with pytest.raises(KeyboardInterrupt):
        image_grid(torch.rand(1, 2, 1, 4, 4), path=path)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
