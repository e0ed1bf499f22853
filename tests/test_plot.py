"""Figures have each image, name and curve in its place."""

import pytest
import torch
from torch.testing import assert_close

from pyro_semivae.plot import (
    confusion_matrix,
    image_grid,
    latents_by_class,
    latents_by_label,
    noted,
    training_curves,
)


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


def test_a_confusion_is_read_by_rows_and_a_class_without_examples_stays_empty():
    figure = confusion_matrix(torch.tensor([[3, 1, 0], [0, 2, 2], [0, 0, 0]]), ["a", "b", "c"])
    axis = figure.axes[0]
    said = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in axis.texts}  # (row, column)
    assert said == {(0, 0): "0.75", (0, 1): "0.25", (1, 1): "0.50", (1, 2): "0.50"}
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("said", "true")
    assert_close(shown(figure)[:2], torch.tensor([[0.75, 0.25, 0], [0, 0.5, 0.5]]))


def test_latents_are_coloured_by_their_class():
    z, y = torch.randn(7, 2), torch.tensor([0, 1, -1, 1, 0, 0, 1])
    axis = latents_by_class(z, y, ["a", "b"]).axes[0]
    for c, dots in enumerate(axis.collections):
        assert dots.get_label() == "ab"[c]
        assert_close(torch.as_tensor(dots.get_offsets().data), z[y == c])
    assert len({tuple(dots.get_facecolor()[0]) for dots in axis.collections}) == 2


def test_of_many_entries_the_principal_ones_are_shown():
    z = torch.randn(200, 1) * torch.tensor([0.0, 5.0, 0.0, 0.0]) + 0.5 * torch.randn(200, 4)
    axis = latents_by_class(z, torch.zeros(200, dtype=torch.long), ["a"]).axes[0]
    across = torch.as_tensor(axis.collections[0].get_offsets().data)[:, 0]
    assert torch.corrcoef(torch.stack([across, z[:, 1]]))[0, 1].abs() > 0.99
    share = int(axis.get_xlabel().split(", ")[1].split("%")[0]) / 100
    variances = torch.linalg.eigvalsh(torch.cov(z.T))
    assert share == pytest.approx((variances[-1] / variances.sum()).item(), abs=0.006)


def test_each_labels_latent_where_it_is_on_and_off():
    z = torch.cat([torch.zeros(20, 2), torch.ones(20, 2) * torch.tensor([3.0, -7.0])])
    y = torch.cat([torch.zeros(20, 2), torch.ones(20, 2)])
    y[0] = torch.nan
    figure = latents_by_label(z, y, ["a", "b"])
    for axis, value in zip(figure.axes, (3.0, -7.0), strict=True):
        off, on = ([p for p in bars if p.get_height()] for bars in axis.containers)
        assert len(off) == len(on) == 1
        for (bar,), at in ((off, 0.0), (on, value)):
            assert bar.get_x() - 1e-6 <= at <= bar.get_x() + bar.get_width() + 1e-6
    assert [axis.get_title() for axis in figure.axes] == ["a", "b"]


def test_what_was_not_learnt_is_said_on_every_figure_drawn_then(tmp_path):
    def told(figure):
        return [text.get_text() for text in figure.texts]

    before = image_grid(torch.rand(1, 1, 1, 4, 4))
    with noted(["it has learnt nothing", "z is not used"]):
        inside = image_grid(torch.rand(1, 1, 1, 4, 4), path=tmp_path / "a.png")
        curves = training_curves([{"epoch": 1, "objective": -1.0, "elbo": -1.0}])
    after = image_grid(torch.rand(1, 1, 1, 4, 4))
    assert told(before) == told(after) == []
    for figure in (inside, curves):
        (said,) = told(figure)
        assert "learnt" in said and "not used" in " ".join(said.split())
