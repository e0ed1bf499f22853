import math
import struct
import threading

import numpy as np
import pytest
import torch

from pyro_semivae import data
from pyro_semivae.errors import InputError
from pyro_semivae.spaces import MISSING, Classes, to_unit


def write_idx(path, array):
    array = np.asarray(array, np.uint8)
    path.write_bytes(b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


@pytest.fixture
def mnist(tmp_path):
    """A made MNIST of 20 + 10 images in torchvision's layout."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, n in (("train", 20), ("t10k", 10)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28)))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(n) % 10)
    return tmp_path


def test_idx_files_load_in_torchvisions_layout(mnist):
    loaded = data.load("mnist", mnist, download=False)
    assert loaded.x.shape == (20, 1, 28, 28) and loaded.x.dtype == torch.uint8
    assert loaded.x_test.shape == (10, 1, 28, 28) and loaded.y.tolist() == [*range(10), *range(10)]
    raw = mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    expected = np.frombuffer(raw.read_bytes()[16:], np.uint8).reshape(20, 28, 28)
    assert np.array_equal(loaded.x[:, 0].numpy(), expected)
    held_out = loaded.hold_out(5)
    assert torch.equal(held_out.x_test, loaded.x[15:]) and len(held_out.x) == 15


def test_data_root_comes_from_the_argument_then_the_environment(mnist, monkeypatch, tmp_path):
    monkeypatch.setenv("PYRO_SEMIVAE_DATA", str(mnist))
    assert len(data.load("mnist", download=False).x) == 20
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        data.load("mnist", tmp_path / "elsewhere", download=False)


def test_a_missing_file_says_where_it_belongs(mnist):
    (mnist / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte.*--data-dir"):
        data.load("mnist", mnist, download=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-1], "truncated"),
        (lambda raw: raw[:9], "truncated in its header"),
        (lambda raw: raw + b"x", "too long"),
        (lambda raw: b"\x1f\x8b\x08" + raw[3:], "not an IDX file"),
        (lambda raw: b"", "not an IDX file"),
        (lambda raw: raw[:4] + struct.pack(">3I", 2**22, 2**21, 2**21) + raw[16:], f"truncated: .* {2**64 + 16} from"),
        (lambda raw: raw[:4] + struct.pack(">3I", 0, 28, 28), r"no items, its header says \(0, 28, 28\)"),
        (lambda raw: raw[:3] + b"\xff" + raw[4:], "255 dimensions; expected 1"),
        (lambda raw: raw[:3] + b"\0" + raw[4:], "0 dimensions"),
    ],
)
def test_damaged_idx_files_are_named(mnist, change, message):
    path = mnist / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte: .*{message}"):
        data.load("mnist", mnist, download=False)
    with pytest.raises(ValueError, match="train-images"):  # and it is no reason to fall back on other data
        data.load_auto("mnist", mnist)


def test_images_and_labels_must_belong_together(mnist):
    write_idx(mnist / "MNIST/raw/train-labels-idx1-ubyte", np.arange(19) % 10)
    with pytest.raises(ValueError, match="do not belong together"):
        data.load("mnist", mnist, download=False)
    write_idx(mnist / "MNIST/raw/train-labels-idx1-ubyte", np.full(20, 10))
    with pytest.raises(ValueError, match="label 10 in a set of 10 classes"):
        data.load("mnist", mnist, download=False)


def test_auto_falls_back_on_the_digits_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("pyro_semivae.data.sets._download", lambda folder, root: "no network")
    loaded, said = data.load_auto("fashionmnist", tmp_path)
    assert loaded.name == "digits" and "instead of fashionmnist" in said and "no network" in said


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"dataset: got 'cifar'; expected mnist, fashionmnist, digits"):
        data.load("cifar")


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    loaded = data.load("digits")
    images = torch.empty(1797, 8, 8, dtype=torch.uint8)
    test = torch.arange(1797) % 5 == 4
    images[test], images[~test] = loaded.x_test[:, 0], loaded.x[:, 0]
    assert np.allclose(images.numpy() * (16 / 255), load_digits().images, atol=0.04)
    assert loaded.x.max() == 255


@pytest.mark.parametrize(("labelled", "count"), [(0.1, 100), (40, 40), (7, 7), (1.0, 1000), (1000, 1000), (0.0001, 1)])
def test_labelled_rows_are_balanced_seeded_and_counted(labelled, count):
    y = torch.randint(0, 10, (1000,))
    rows = data.labelled_rows(y, labelled, seed=3)
    assert len(rows) == len(rows.unique()) == count
    per_class = y[rows].bincount(minlength=10)
    if count <= 40:
        assert per_class.max() - per_class.min() <= 1
    assert torch.equal(rows, data.labelled_rows(y, labelled, seed=3))
    if 1 < count < 1000:
        assert not torch.equal(rows, data.labelled_rows(y, labelled, seed=4))


def test_rare_classes_give_all_they_have():
    y = torch.tensor([0] * 3 + [1] * 97)
    assert y[data.labelled_rows(y, 20, seed=0)].bincount().tolist() == [3, 17]


@pytest.mark.parametrize("labelled", [0, -1, 101, 0.0, 1.5, -0.1])
def test_impossible_counts_are_refused(labelled):
    with pytest.raises(ValueError, match="labelled: got"):
        data.labelled_rows(torch.arange(100) % 10, labelled, seed=0)


def test_hidden_labels_are_gone():
    y = torch.arange(10)
    assert data.hide(y, torch.tensor([2, 5])).tolist() == [-1, -1, 2, -1, -1, 5, -1, -1, -1, -1]


def rows_of(batches, epoch=0):
    return [batch.rows.tolist() for batch in batches.epoch(epoch)]


def test_an_epoch_goes_once_through_the_unlabelled_rows():
    x = torch.arange(50, dtype=torch.uint8).reshape(50, 1, 1, 1)
    y = data.hide(torch.arange(50) % 10, torch.tensor([3, 4, 40]))
    batches = data.Batches(x, y, batch_size=9, labelled_batch_size=2, seed=1)
    assert batches.steps == 47 // 9 and batches.sizes == (2, 9)
    seen = rows_of(batches)
    unlabelled = [row for rows in seen for row in rows[2:]]
    assert len(set(unlabelled)) == len(unlabelled) == 45 and not {3, 4, 40} & set(unlabelled)
    labelled = [row for rows in seen for row in rows[:2]]
    assert set(labelled) == {3, 4, 40} and max(map(labelled.count, (3, 4, 40))) - 1 <= min(
        map(labelled.count, (3, 4, 40))
    )
    assert seen == rows_of(batches) != rows_of(batches, 1)
    for batch in batches.epoch(0):
        assert torch.equal((batch.x.flatten() * 255).round().long(), batch.rows)
        assert torch.equal(batch.y, y[batch.rows])


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_scales_make_a_step_an_estimate_of_the_elbo_per_example(weight):
    """design, Scales: s (N_l / B_l) sum_labelled + (N_u / B_u) sum_unlabelled, divided by N."""
    n_l, n_u = 20, 40
    y = data.hide(torch.arange(n_l + n_u) % 10, torch.arange(n_l))
    value = torch.rand(n_l + n_u)
    x = torch.zeros(n_l + n_u, 1, 1, 1, dtype=torch.uint8)
    batches = data.Batches(x, y, batch_size=8, labelled_batch_size=4, labelled_weight=weight)
    steps = [(value[batch.rows] * batch.scale).sum() for epoch in range(3) for batch in batches.epoch(epoch)]
    expected = (weight * value[:n_l].sum() + value[n_l:].sum()) / (n_l + n_u)
    # 5 steps an epoch of 4 labelled and 8 unlabelled rows go through both exactly once.
    torch.testing.assert_close(torch.stack(steps).mean(), expected)


def test_all_or_no_rows_labelled():
    x = torch.zeros(20, 1, 1, 1, dtype=torch.uint8)
    every = data.Batches(x, torch.arange(20) % 10, batch_size=5)
    assert every.sizes == (5, 0) and every.steps == 4
    assert sorted(row for rows in rows_of(every) for row in rows) == list(range(20))
    torch.testing.assert_close(every.scale, torch.full((5,), 1 / 5))
    none = data.Batches(x, None, batch_size=5)
    assert none.sizes == (0, 5) and next(iter(none.epoch(0))).y is None


def test_few_unlabelled_rows_do_not_shorten_the_epoch():
    x = torch.zeros(30, 1, 1, 1, dtype=torch.uint8)
    batches = data.Batches(x, data.hide(torch.arange(30) % 10, torch.arange(29)), batch_size=6, labelled_batch_size=5)
    assert batches.sizes == (5, 1) and batches.steps == 5
    seen = rows_of(batches)
    assert all(rows[5] == 29 for rows in seen) and len({row for rows in seen for row in rows[:5]}) == 25


def test_large_sets_stay_where_they_are():
    x = torch.zeros(20, 1, 2, 2, dtype=torch.uint8)
    batches = data.Batches(x, None, batch_size=5, device_budget=79)
    assert batches.data["x"] is x and next(iter(batches.epoch(0))).x.dtype == torch.get_default_dtype()


@pytest.mark.parametrize("stage", [1, 100, 10_000])
def test_staged_batches_are_those_of_a_resident_set(stage, monkeypatch):
    monkeypatch.setattr(data.batches, "STAGE", stage)
    x = torch.arange(30 * 4, dtype=torch.uint8).reshape(30, 1, 2, 2)
    y = data.hide(torch.arange(30) % 10, torch.arange(7))  # labelled rows come round within a stage
    options = {"batch_size": 5, "labelled_batch_size": 4, "seed": 2}
    resident, staged = data.Batches(x, y, **options), data.Batches(x, y, device_budget=0, **options)
    assert staged.staged and not resident.staged
    for a, b in zip(resident.epoch(1), staged.epoch(1), strict=True):
        assert torch.equal(a.rows, b.rows) and torch.equal(a.x, b.x) and torch.equal(a.y, b.y)


IMAGES = torch.zeros(20, 1, 2, 2, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 2.5}, "batch_size: got 2.5; expected a positive integer"),
        ({"batch_size": True}, "batch_size: got True"),
        ({"batch_size": 10**20}, f"batch_size: got {10**20}; expected an integer from 1 to"),
        ({"batch_size": 1e20}, "batch_size: got 1e"),
        ({"batch_size": "5"}, "batch_size: got '5'"),
        ({"labelled_batch_size": 0}, "labelled_batch_size: got 0"),
        ({"labelled_weight": -1}, "labelled_weight: got -1"),
        ({"labelled_weight": math.nan}, "labelled_weight: got nan"),
        ({"device_budget": -1}, "device_budget: got -1"),
        ({"device_budget": "2 GB"}, "device_budget: got '2 GB'"),
        ({"seed": 2**32}, f"seed: got {2**32}; expected an integer from 0 to {2**32 - 1}"),
        ({"seed": 1.5}, "seed: got 1.5"),
        ({"x": IMAGES[:0]}, "x: got 0 rows"),
        ({"x": IMAGES[:, 0, 0, 0]}, r"x: got torch.uint8 of shape \(20,\)"),
        ({"x": IMAGES.long()}, "x: got torch.int64"),
        ({"x": None}, "x: got NoneType"),
        ({"y": torch.arange(19)}, r"x, y: got 20 rows and values of shape \(19,\)"),
        ({"y": torch.tensor(1)}, r"x, y: got 20 rows and values of shape \(\)"),
        ({"y": [True] * 20}, "y: got dtype torch.bool"),
        ({"unpaired_labels": []}, "unpaired_labels: got 0 rows"),
    ],
)
def test_what_batches_cannot_be_made_of_is_named(options, message):
    with pytest.raises(InputError, match=message):
        data.Batches(**{"x": IMAGES, "y": torch.arange(20) % 3, **options})


def test_batches_of_arrays_lists_and_small_integers_are_those_of_tensors():
    x, y = torch.randint(0, 256, (20, 1, 2, 2), dtype=torch.uint8), torch.arange(20) % 4 - 1
    expected = list(data.Batches(x, y, batch_size=6, labelled_batch_size=3, unpaired_labels=y).epoch(0))
    sizes = {"batch_size": np.int64(6), "labelled_batch_size": np.uint8(3), "seed": np.int32(0)}
    for images, labels in ((x.numpy(), y.numpy().astype(np.int8)), (x.tolist(), y.tolist())):
        images = np.asarray(images, np.uint8)
        got = list(data.Batches(images, labels, unpaired_labels=labels, **sizes).epoch(0))
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and torch.equal(a.alone.y, b.alone.y)
            assert a.y.dtype == a.alone.y.dtype == torch.int64


def test_a_batch_has_at_most_all_rows():
    batches = data.Batches(IMAGES, torch.arange(20) % 3 - 1, batch_size=10_000)
    assert batches.sizes == (13, 7) and batches.steps == 1


def test_only_bytes_and_floats_become_images_in_the_unit_interval():
    assert to_unit(torch.tensor([0, 51], dtype=torch.uint8)).tolist() == [0.0, 0.2]
    for x in (torch.tensor([0, 51]), torch.tensor([True])):
        with pytest.raises(InputError, match=f"x: got dtype {x.dtype}; expected floats"):
            to_unit(x)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, 1, 5]), r"got \[5\] at rows \[2\]"),
        (torch.tensor([0, -2, 1]), r"got \[-2\] at rows \[1\]"),
        (torch.tensor([0.0, 1.0]), "float"),
        (torch.tensor([True]), "bool"),
        (torch.tensor([[0, 1]]), r"shape \(1, 2\)"),
        ("01", "str"),
    ],
)
def test_labels_outside_the_space_are_named(y, message):
    with pytest.raises(ValueError, match=rf"y: .*{message}.*expected.*0 to 4.*-1"):
        Classes(5).validate(y)
    assert MISSING == -1 and Classes(5).validate(torch.tensor([0, 4, -1])).dtype == torch.int64


def test_labels_are_lost_entry_by_entry_and_dropped_row_by_row():
    y = torch.ones(4000, 6)
    y[3000:] = torch.nan
    lost = data.lose_labels(y, seed=1, rows=0.5, entries=0.3)
    missing = lost[:3000].isnan()
    assert lost[3000:].isnan().all() and (lost[:3000].nan_to_num(1) == 1).all()
    hit = missing.any(1)
    expected = 0.5 * (1 - 0.7**6)
    assert abs(hit.double().mean() - expected) < 5 * (expected * (1 - expected) / 3000) ** 0.5
    assert abs(missing.double().mean() - 0.15) < 0.02
    assert torch.equal(
        data.lose_labels(y[:100], seed=1).isnan().any(1), data.lose_labels(y[:100], seed=1).isnan().any(1)
    )
    dropped = data.drop_partly_labelled(lost)
    assert dropped[:3000][hit].isnan().all() and not dropped[:3000][~hit].isnan().any()


def test_a_thread_gathers_the_next_rows_while_a_step_runs(monkeypatch):
    monkeypatch.setattr(data.batches, "STAGE", 2 * 4 * 6)  # of two steps
    x = torch.randint(0, 256, (24, 6), dtype=torch.uint8)
    batches = data.Batches(x, None, batch_size=4, device_budget=0)
    threads, gathered = [], data.Batches._gathered
    second = threading.Event()

    def watched(self, rows):
        threads.append(threading.current_thread())
        if len(threads) == 2:
            second.set()
        return gathered(self, rows)

    monkeypatch.setattr(data.Batches, "_gathered", watched)
    steps = batches.epoch(0)
    assert torch.equal(next(steps).values["x"], x[next(data.Batches(x, None, batch_size=4).epoch(0)).rows])
    assert second.wait(10), "before the second step, whose rows are there, is taken"
    assert len([*steps]) == 5 and len(threads) == 3 and threading.current_thread() not in threads


def test_an_error_in_reading_ahead_is_raised_where_the_rows_are_needed(monkeypatch):
    monkeypatch.setattr(data.batches, "STAGE", 1)

    def broken(self, rows):
        raise OSError("the disk is gone")

    monkeypatch.setattr(data.Batches, "_gathered", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        next(data.Batches(torch.rand(8, 6), None, batch_size=4, device_budget=0).epoch(0))


def test_uint8_data_stay_uint8_in_a_batch_and_are_floats_in_the_step():
    x = torch.arange(12, dtype=torch.uint8).view(4, 3) * 20
    batch = next(data.Batches(x, None, batch_size=4, dtype=torch.float64).epoch(0))
    assert torch.equal(batch.values["x"], x[batch.rows])
    assert batch.x.dtype == torch.float64 and torch.equal(batch.x, x[batch.rows].double() / 255)


@pytest.mark.parametrize("budget", [0, 2**30])
def test_labelled_rows_are_unlabelled_ones_too_as_if_they_were_there_twice(budget):
    x, y = torch.rand(11, 1, 2, 3), torch.tensor([-1, 2, -1, 0, 1, -1, -1, 2, -1, -1, 1])
    known = (y >= 0).nonzero()[:, 0]
    how = {"batch_size": 4, "labelled_batch_size": 2, "seed": 3, "device_budget": budget}
    twice = data.Batches(torch.cat([x[known], x]), torch.cat([y[known], torch.full_like(y, -1)]), **how)
    once = data.Batches(x, y, also_unlabelled=True, **how)
    assert once.sizes == twice.sizes and once.steps == twice.steps and torch.equal(once.scale, twice.scale)
    for one, other in zip(once.epoch(1), twice.epoch(1), strict=True):
        assert torch.equal(one.x, other.x) and torch.equal(one.y, other.y)
        assert torch.equal(one.scale, other.scale) and (one.y[2:] == -1).all() and (one.y[:2] >= 0).all()
    partly = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan], [0.0, 1.0]])
    batch = next(data.Batches(x[:3], {"y": partly}, batch_size=3, also_unlabelled=True).epoch(0))
    assert batch.y[2:].isnan().all() and batch.y[:2].isnan().sum() == 1 and len(batch.y) == 5


@pytest.mark.parametrize("budget", [1 << 30, 0])
def test_strata_have_as_many_rows_each_and_the_same_weight(budget):
    """Three values of 20, 7 and 3 rows: batches of 5 each, or of all there are, sorted, of the total weight 1/3."""
    y = torch.tensor([0] * 20 + [2] * 3 + [1] * 7)
    x = torch.arange(30.0).view(30, 1).expand(30, 2).contiguous()
    batches = data.Batches(x, y, batch_size=5, stratify=("y", 3), device_budget=budget, seed=2)
    assert batches.sizes == (5, 5, 3) and batches.steps == 4
    seen = []
    for batch in batches.epoch(0):
        assert batch.y.tolist() == [0] * 5 + [1] * 5 + [2] * 3 and batch.labelled == 0
        assert batch.strata == {"y": (5, 5, 3)}
        torch.testing.assert_close(batch.scale, torch.tensor([1 / 15] * 10 + [1 / 9] * 3))
        assert torch.equal(batch.x[:, 0].long(), batch.rows.cpu()) and torch.equal(y[batch.rows.cpu()], batch.y)
        seen += batch.rows[:5].tolist()
    assert sorted(seen) == [*range(20)], "the longest stream defines an epoch"
    again = [batch.rows.tolist() for batch in batches.epoch(0)]
    assert again != [batch.rows.tolist() for batch in batches.epoch(1)] and again[0][:5] == seen[:5]


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (torch.tensor([0, 1, -1, 1]), {}, "y: got torch.int64 of shape .*; expected 0 to 2 of every row"),
        (torch.tensor([0, 1, 3, 1]), {}, "expected 0 to 2 of every row"),
        (torch.rand(4, 2).round(), {}, "expected 0 to 2 of every row"),
        (None, {}, "y: got nothing; expected a value, 0 to 2, of every row"),
        (torch.tensor([0, 2, 2, 0]), {}, r"y: got no row of the values \[1\]; expected some of each"),
        (torch.tensor([0, 1, 1, 0]), {}, r"y: got no row of the values \[2\]"),
        (torch.tensor([0, 1, 2, 0]), {"also_unlabelled": True}, "stratify: got .* beside labelled_batch_size"),
        (torch.tensor([0, 1, 2, 0]), {"labelled_batch_size": 2}, "stratify: got .* beside labelled_batch_size"),
    ],
)
def test_what_cannot_be_stratified_is_named(y, options, message):
    with pytest.raises(InputError, match=message):
        data.Batches(torch.rand(4, 3), y, stratify=("y", 3), **options)
