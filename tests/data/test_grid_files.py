"""Readers of dSprites, 3D Shapes and Isaac3D on tiny files in the official layouts, and on malformed ones."""

import builtins

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from pyro_semivae.data import grid_files
from pyro_semivae.data.grid_files import DSPRITES, load_dsprites, load_isaac3d, load_shapes3d
from pyro_semivae.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(grid_files, "ROWS", 5)  # several parts


def table(sizes):
    return np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), 1)


def dsprites(root, sizes=(1, 3, 2, 4, 1, 2), **changes):
    """Pixel (0, n) of image n is on."""
    classes = table(sizes).astype(np.int64)
    imgs = np.zeros((len(classes), 64, 64), np.uint8)
    imgs[np.arange(len(classes)), 0, np.arange(len(classes)) % 64] = 1
    arrays = {"imgs": imgs, "latents_classes": classes, "latents_values": classes * 0.5, **changes}
    arrays["metadata"] = np.array({"title": "dSprites"}, dtype=object)  # a pickle, not to be read
    (root / "dsprites").mkdir(exist_ok=True)
    np.savez_compressed(root / "dsprites" / DSPRITES, **{k: v for k, v in arrays.items() if v is not None})
    return imgs


def test_dsprites(tmp_path):
    imgs = dsprites(tmp_path)
    grid = load_dsprites(tmp_path)
    assert grid.factor_names == ("shape", "scale", "orientation", "y") and grid.sizes == (3, 2, 4, 2)
    assert grid.symmetric == ("orientation",) and grid.x_shape == (1, 64, 64)
    rows = torch.tensor([0, 17, 47, 3])
    x = grid.images(grid.classes(rows))
    assert x.dtype == torch.uint8 and torch.equal(x[:, 0], torch.from_numpy(imgs[rows]) * 255)
    assert grid.halved().images(grid.classes(rows)).max() == 64  # of four pixels one
    (cached,) = (tmp_path / "cache").glob("dsprites-*.npy")
    written = cached.stat().st_mtime_ns
    assert torch.equal(load_dsprites(tmp_path).images(grid.classes(rows)), x) and cached.stat().st_mtime_ns == written
    dsprites(tmp_path, imgs=1 - imgs)
    changed = load_dsprites(tmp_path).images(grid.classes(rows))
    assert torch.equal(changed, 255 - x), "another file is not taken for the cached one"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imgs": None}, "cannot be read"),
        ({"imgs": np.zeros((48, 32, 32), np.uint8)}, r"imgs: got uint8 of shape \(48, 32, 32\); expected"),
        ({"imgs": np.full((48, 64, 64), 255, np.uint8)}, "imgs: got the value 255; expected 0 and 1"),
        ({"imgs": np.zeros((48, 64, 64))}, "imgs: got float64"),
        ({"latents_classes": table((1, 3, 2, 4, 1, 2))[::-1].copy()}, "48 rows of factors with .* not in their order"),
        ({"latents_classes": table((1, 3, 2, 4, 1, 2))[:-1]}, "47 rows of factors"),
        ({"latents_classes": np.zeros(48, np.int64)}, r"latents_classes: got int64 of shape \(48,\)"),
        ({"latents_classes": table((1, 3, 2, 4, 1, 2)) * 0.5}, "latents_classes: got float64"),
        ({"latents_classes": table((1, 3, 2, 8, 1))}, r"latents_classes: got int64 of shape \(48, 5\); expected .*6"),
    ],
)
def test_malformed_dsprites(changes, message, tmp_path):
    dsprites(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        load_dsprites(tmp_path)
    assert not [*(tmp_path / "cache").glob("*")]


def test_dsprites_that_are_cut_off_or_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataset dsprites: no .*64x64.npz. It is at https://github"):
        load_dsprites(tmp_path)
    dsprites(tmp_path)
    path = tmp_path / "dsprites" / DSPRITES
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="cannot be read"):
        load_dsprites(tmp_path)


def test_damaged_dsprites_are_one_error(tmp_path):
    dsprites(tmp_path)
    path = tmp_path / "dsprites" / DSPRITES
    whole, refused = path.read_bytes(), 0
    for place in range(60, len(whole) // 2, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            load_dsprites(tmp_path)
        except InputError as error:
            refused += "cannot be read" in str(error)
    assert refused > 10  # the others are damaged where nothing is read, or in values


def shapes3d(root, **changes):
    """Image n is of the colour (n, 0, 255 - n); labels are values, as in the original."""
    classes = table((2, 1, 2, 3, 2, 2))
    labels = np.stack([c / 10 if i < 3 else 0.75 + c / 14 if i == 3 else c for i, c in enumerate(classes.T)], 1)
    labels[:, 5] = -30 + 60 * classes[:, 5]
    images = np.zeros((len(classes), 64, 64, 3), np.uint8)
    images[..., 0] = np.arange(len(classes))[:, None, None]
    images[..., 2] = 255 - images[..., 0]
    (root / "3dshapes").mkdir(exist_ok=True)
    with h5py.File(root / "3dshapes" / "3dshapes.h5", "w") as file:
        for name, value in {"images": images, "labels": labels, **changes}.items():
            if value is not None:
                file.create_dataset(name, data=value, compression="gzip" if name == "images" else None)


def test_shapes3d(tmp_path):
    shapes3d(tmp_path)
    grid = load_shapes3d(tmp_path)
    assert grid.factor_names == ("floor", "object", "scale", "shape", "orientation") and grid.sizes == (2, 2, 3, 2, 2)
    rows = torch.tensor([0, 47, 13])
    x = grid.images(grid.classes(rows))
    assert x.shape == (3, 3, 64, 64) and torch.equal(x[:, 0, 5, 6].long(), rows) and x[1, 2, 0, 0] == 255 - 47
    assert torch.equal(load_shapes3d(tmp_path).images(grid.classes(rows)), x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((48, 64, 64, 1), np.uint8)}, r"images: got uint8 of shape \(48, 64, 64, 1\)"),
        ({"images": np.zeros((48, 64, 64, 3))}, "images: got float64"),
        ({"labels": None}, "cannot be read"),
        ({"labels": np.zeros((48, 6))}, "labels: got 48 rows"),
        ({"labels": np.zeros((48, 5))}, r"labels: got shape \(48, 5\); expected \(N, 6\)"),
        ({"labels": np.zeros(48)}, r"labels: got shape \(48,\)"),
        ({"labels": np.full((48, 6), np.nan)}, "of finite numbers"),
    ],
)
def test_malformed_shapes3d(changes, message, tmp_path):
    shapes3d(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        load_shapes3d(tmp_path)


def test_shapes3d_without_h5py_or_its_file(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="dataset 3dshapes: no "):
        load_shapes3d(tmp_path)
    shapes3d(tmp_path)
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "h5py":
            raise ImportError
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"h5py is not installed; run: pip install 'pyro_semivae\[hdf5\]'"):
        load_shapes3d(tmp_path)


def test_isaac3d_has_the_order_of_its_script(tmp_path):
    """An image's number is shape * 245760 + robot_x * 30720 + ... in the full set: here of smaller sizes."""
    assert [*grid_files.ISAAC3D_FACTORS.values()] == [3, 8, 5, 4, 4, 4, 6, 4, 4]
    bases = np.cumprod([1, 4, 4, 6, 4, 4, 4, 5, 8])[::-1]
    assert bases.tolist() == [245760, 30720, 6144, 1536, 384, 96, 16, 4, 1]
    folder = tmp_path / "Isaac3D_down128" / "images"
    folder.mkdir(parents=True)
    sizes = (2, 3, 1, 1, 1, 1, 1, 1, 2)
    for number in range(12):
        Image.new("RGB", (128, 128), (number, 0, 100)).save(folder / f"{number:06d}.png")
    grid = load_isaac3d(tmp_path, sizes=sizes)
    assert grid.factor_names == ("object_shape", "robot_x", "wall_color") and grid.sizes == (2, 3, 2)
    x = grid.images(torch.tensor([[1, 2, 0], [0, 0, 1]]))
    assert x.shape == (2, 3, 64, 64) and x[:, 0, 9, 9].tolist() == [10, 1]
    (folder / "000011.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image .*000011\.png.*High-res-disentanglement"):
        load_isaac3d(tmp_path, sizes=sizes)
    with pytest.raises(InputError, match="sizes: got 2; expected 9"):
        load_isaac3d(tmp_path, sizes=(2, 6))
