"""CelebA and CheXpert from tiny made files in the official layout, well-formed and not."""

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_semivae import data
from pyro_semivae.data import chexpert
from pyro_semivae.data.faces import ATTRIBUTES

NAMES = """
5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair
Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
Wearing_Necktie Young
""".split()  # noqa: SIM905
HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(path, seed, size=(178, 218), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def celeba(tmp_path):
    """Faces 0 to 2 for training, 3 for validation, 4 and 5 for the test; attribute j of face i is on if j % 6 == i."""
    folder = tmp_path / "celeba"
    values = np.where(np.arange(40) % 6 == np.arange(6)[:, None], 1, -1)
    lines = ["6", " ".join(NAMES) + " "]  # the official file ends this line with a space, and pads values
    for i in range(6):
        picture(folder / "img_align_celeba" / f"{i + 1:06d}.jpg", i)
        lines.append(f"{i + 1:06d}.jpg " + " ".join(f"{v:2d}" for v in values[i]))
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    splits = [0, 0, 0, 1, 2, 2]
    partition = "".join(f"{i + 1:06d}.jpg {split}\n" for i, split in enumerate(splits))
    (folder / "list_eval_partition.txt").write_text(partition)
    return tmp_path


def test_celeba(celeba, cache):
    faces = data.load("celeba", celeba)
    assert faces.label_names == ATTRIBUTES and faces.x.shape == (3, 3, 64, 64) and faces.x_test.shape == (2, 3, 64, 64)
    official = [1, 3, 5, 8, 9, 11, 12, 13, 15, 18, 20, 24, 26, 28, 31, 33, 38, 39]  # CCVAE's 18
    assert [NAMES[i] for i in official] == list(ATTRIBUTES)
    for y, rows in ((faces.y, [0, 1, 2]), (faces.y_test, [4, 5])):
        expected = torch.tensor([[float(j % 6 == i) for j in official] for i in rows])
        assert torch.equal(y.double(), expected)
    with Image.open(celeba / "celeba" / "img_align_celeba" / "000005.jpg") as image:
        pixels = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(faces.x_test[0].numpy(), pixels)
    stamps = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    again = data.load("celeba", celeba)
    assert torch.equal(again.x, faces.x) and {p.name: p.stat().st_mtime_ns for p in cache.iterdir()} == stamps
    two = data.load_celeba(celeba, attributes=("Young", "Bald"))
    assert two.y.shape == (3, 2)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("list_attr_celeba.txt", "6\n", "7\n", "got 6 images; line 1 says 7: is the file truncated"),
        ("list_attr_celeba.txt", "6\n", "six\n", "line 1: got 'six'"),
        ("list_attr_celeba.txt", "000002.jpg -1", "000002.jpg -3", "line 4: got '000002.jpg -3 .*expected"),
        ("list_attr_celeba.txt", "000002.jpg -1", "000002.jpg", "line 4: got '000002.jpg .*expected"),
        ("list_attr_celeba.txt", "Young", "Old", r"attributes: got \(.*'Young'.*\); expected some of 5_o_Clock"),
        ("list_eval_partition.txt", "000002.jpg 0", "000002.jpg 3", "line 2: got '000002.jpg 3'"),
        (
            "list_eval_partition.txt",
            "000002.jpg 0\n",
            "",
            "1 images are in one of the two lists only",
        ),
        ("list_attr_celeba.txt", "6\n", "²\n", "line 1: got '²'"),
        ("list_attr_celeba.txt", "6\n", "6" * 5000 + "\n", "line 1: got '6{100}'; expected the number of images"),
        ("list_eval_partition.txt", "000003.jpg 0", "000002.jpg 2", "line 3: got 000002.jpg again"),
        ("list_eval_partition.txt", "000003.jpg 0", "000003.jpg 0\n000003.jpg 0", "line 4: got 000003.jpg again"),
        ("list_attr_celeba.txt", "000002.jpg -1", "\n000002.jpg -3", "line 5: got"),
        ("list_attr_celeba.txt", "Young", "Bald", "line 2: got .*expected different names"),
        ("list_attr_celeba.txt", "000003.jpg", "000002.jpg", "got 000002.jpg in several lines"),
    ],
)
def test_malformed_celeba_files_are_named(celeba, name, old, new, message):
    edit(celeba / "celeba" / name, old, new)
    with pytest.raises(ValueError, match=message):
        data.load("celeba", celeba)


def test_the_lists_of_celeba_may_be_in_another_order_and_have_a_mark(celeba, cache):
    first = data.load("celeba", celeba)
    path = celeba / "celeba" / "list_eval_partition.txt"
    path.write_text("\ufeff" + "\n".join(reversed(path.read_text().splitlines())))
    again = data.load("celeba", celeba)
    assert torch.equal(again.y, first.y) and torch.equal(again.x, first.x)
    path.write_bytes(b"\xff\xfe000001.jpg")
    with pytest.raises(ValueError, match=r"list_eval_partition\.txt: cannot be read .*; expected text in UTF-8"):
        data.load("celeba", celeba)


def test_missing_celeba_files_are_named(celeba, tmp_path, cache):
    with pytest.raises(FileNotFoundError, match=r"no .*attr_celeba.txt\. Get img_align.*mmlab.*unpack"):
        data.load("celeba", tmp_path / "nowhere")
    (celeba / "celeba" / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image .*000002\.jpg\. Get img_align"):
        data.load("celeba", celeba)
    assert not list(cache.glob("*.npy")) and not list(cache.glob(".*npy*")), "nothing half is left"
    (celeba / "celeba" / "img_align_celeba" / "000002.jpg").write_bytes(b"no jpeg")
    with pytest.raises(ValueError, match=r"000002\.jpg cannot be decoded"):
        data.load("celeba", celeba)


@pytest.fixture
def xrays(tmp_path):
    folder = tmp_path / "CheXpert-v1.0-small"
    rows = {
        # Cardiomegaly, Edema, Consolidation, Atelectasis, Pleural Effusion
        "train": [
            ("Frontal", ["1.0", "", "-1.0", "0.0", ""]),
            ("Lateral", ["1.0"] * 5),
            ("Frontal", ["", "-1.0"] * 2 + ["1.0"]),
        ],
        "valid": [("Frontal", ["0.0", "1.0", "0.0", "1.0", "0.0"])],
    }
    for split, entries in rows.items():
        lines = [HEADER]
        for i, (view, values) in enumerate(entries):
            name = f"{split}/patient{i:05d}/study1/view1_{view.lower()}.jpg"
            picture(folder / name, i, (390, 320), "L")
            cardio, edema, consolidation, atelectasis, effusion = values
            findings = f",,,{cardio},,,{edema},{consolidation},,{atelectasis},,{effusion},,,"
            lines.append(f"CheXpert-v1.0-small/{name},Male,60,{view},{'AP' if view == 'Frontal' else ''}{findings}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("AP,,,1.0", "AP,,,,1.0", "line 2: got 20 fields; expected 19"),
        ("AP,,,1.0", "AP,,1.0", "line 2: got 18 fields"),
        ("Frontal,AP,,,1.0", "frontal,AP,,,1.0", "line 2, Frontal/Lateral: got 'frontal'"),
        ("AP,,,1.0", "AP,,,2.0", "line 2, Cardiomegaly: got '2.0'"),
        ("patient00002", "patient00000", "line 4, Path: got train/patient00000/.* again; expected different"),
        ("train/patient00002", "valid/patient00000", "valid/patient00000/.* is in train.csv as well"),
    ],
)
def test_malformed_chexpert_lines_are_named(xrays, old, new, message):
    edit(xrays / "CheXpert-v1.0-small" / "train.csv", old, new)
    with pytest.raises(ValueError, match=message):
        data.load("chexpert", xrays)


def test_a_truncated_table_is_no_shorter_one(xrays):
    path = xrays / "CheXpert-v1.0-small" / "train.csv"
    path.write_text(path.read_text().rstrip()[:-30])
    with pytest.raises(ValueError, match=r"line 4: got .* fields; expected 19"):
        data.load("chexpert", xrays)


def test_chexpert_and_its_policies(xrays):
    nan = torch.nan
    default = data.load("chexpert", xrays)
    assert default.x.shape == (2, 1, 64, 64) and default.label_names == chexpert.FINDINGS
    expected = torch.tensor([[1, 0, nan, 0, 0], [0, nan, 0, nan, 1]]).double()
    assert torch.equal(default.y.double().nan_to_num(-5), expected.nan_to_num(-5))
    assert torch.equal(default.y_test.double(), torch.tensor([[0, 1, 0, 1, 0]]).double())

    other = data.load_chexpert(xrays, blank="missing", uncertain="positive", views="all")
    expected = torch.tensor([[1, nan, 1, 0, nan], [1, 1, 1, 1, 1], [nan, 1, nan, 1, 1]]).double()
    assert torch.equal(other.y.double().nan_to_num(-5), expected.nan_to_num(-5)) and len(other.x) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blank": "zero"}, "blank: got 'zero'"),
        ({"views": "side"}, "views: got 'side'"),
        ({"findings": ("Flu",)}, "no column"),
        ({"findings": ()}, "findings: got"),
        ({"size": 0}, "size: got 0"),
    ],
)
def test_bad_chexpert_options_are_named(xrays, options, message):
    with pytest.raises(ValueError, match=message):
        data.load_chexpert(xrays, **options)


def test_malformed_and_missing_chexpert_files_are_named(xrays, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*train.csv\. Register at https://.*unpack"):
        data.load("chexpert", tmp_path / "nowhere")
    path = xrays / "CheXpert-v1.0-small" / "valid.csv"
    edit(path, ",,0.0,,,1.0,", ",,0.5,,,1.0,")
    with pytest.raises(ValueError, match=r"valid.csv: line 2, Cardiomegaly: got '0.5'"):
        data.load("chexpert", xrays)
    edit(path, ",,0.5,,,1.0,", ",,-1.0,,,1.0,")
    assert data.load("chexpert", xrays).y_test.isnan().tolist() == [[True] + [False] * 4], "a test label may be missing"
    assert data.load_chexpert(xrays, uncertain="positive").y_test[0, 0] == 1
