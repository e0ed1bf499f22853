"""Columns of labels: classes, numbers, missing cells, and what cannot be read."""

import numpy as np
import pytest
import torch

from pyro_semivae.data.columns import read_columns, site_name
from pyro_semivae.errors import InputError
from pyro_semivae.spaces import Binary, Classes, Real, Vectors

pytestmark = pytest.mark.usefixtures("cache")


def test_what_becomes_of_columns():
    nan = torch.nan
    given = {
        "text": ["b", " a ", "NULL", "b"],
        "truth": ["true", "False", "?", "1"],
        "ones": ["1", "", "1", "NA"],
        "digit": ["10", "9", "N/A", "10.0"],
        "half": ["0.5", "1", "nan", "2"],
        "objects": [1.5, None, nan, 2],
        "flags": np.array([True, False, True, True]),
        "integers": np.array([3, -1, 0, 3]),
        "signed": np.array([-1, -2, 0, 3]),
        "bytes": np.array([b"u", b"v", b"", b"u"]),
        "many": np.array([[0, 1], [-1, 1], [1, 1], [0, 0]]),
        "tensor": torch.tensor([[0.5, 1], [nan, 1], [1, 1], [0, 0]]),
    }
    found = read_columns(given)
    expected = {
        "text": (Classes(2), ("a", "b"), [1, 0, -1, 1]),
        "truth": (Binary(1), ("truth",), [[1], [0], [nan], [1]]),
        "ones": (Binary(1), ("ones",), [[1], [nan], [1], [nan]]),
        "digit": (Classes(2), ("9", "10"), [1, 0, -1, 1]),
        "half": (Real(1), ("half",), [[0.5], [1], [nan], [2]]),
        "objects": (Real(1), ("objects",), [[1.5], [nan], [nan], [2]]),
        "flags": (Binary(1), ("flags",), [[1], [0], [1], [1]]),
        "integers": (Classes(2), ("0", "3"), [1, -1, 0, 1]),
        "signed": (Real(1), ("signed",), [[-1], [-2], [0], [3]]),
        "bytes": (Classes(2), ("u", "v"), [0, 1, -1, 0]),
        "many": (Binary(2), ("many 0", "many 1"), [[0, 1], [nan, 1], [1, 1], [0, 0]]),
        "tensor": (Real(2), ("tensor 0", "tensor 1"), [[0.5, 1], [nan, 1], [1, 1], [0, 0]]),
    }
    for site, (space, names, values) in expected.items():
        column = found[site]
        assert (column.space, column.names) == (space, names), site
        torch.testing.assert_close(column.values, torch.tensor(values).to(column.values), equal_nan=True, msg=site)
        assert column.values.dtype == (torch.int64 if isinstance(space, Classes) else torch.get_default_dtype())
    assert read_columns({"n": np.arange(20)})["n"].space == Classes(20)
    assert read_columns({"n": np.arange(21)})["n"].space == Real(1)


def test_kinds_say_otherwise():
    given = {"Digit": ["0", "1", ""], "size": [1, 2, 3], "id": ["a", "b", "c"], "age": [0.5, 1.5, 0.5]}
    found = read_columns(given, {"digit": "class", "size": "data", "id": "ignore", "age": "class"})
    assert {site: column.space for site, column in found.items()} == {
        "digit": Classes(2),
        "size": Vectors(1),
        "age": Classes(2),
    }
    assert found["age"].names == ("0.5", "1.5") and found["digit"].values.tolist() == [0, 1, -1]
    assert read_columns(given, {"size": "real"})["size"].space == Real(1)


@pytest.mark.parametrize(
    ("given", "kinds", "message"),
    [
        ({"a": ["1", "x"]}, {"a": "real"}, "a: row 1: got 'x'; expected numbers"),
        ({"a": ["1", "2"]}, {"a": "binary"}, "a: row 1: got 2.0; expected 0, 1 and missing"),
        ({"a": ["1", "2"]}, {"b": "binary"}, "kinds: got the column 'b'; expected 'a'"),
        ({"a": ["1", "2"]}, {"a": "vector"}, "kinds: got 'vector' for 'a'; expected 'class', "),
        ({"a": ["1", "2"]}, ["a"], "kinds: got .*expected a mapping"),
        ({"a": [str(i) + "a" for i in range(30)]}, None, "a: got 30 different texts in 30 cells, such as '0a'"),
        ({"a": np.array([1, -1, 1])}, None, "a: got -1 and 1 alone; expected 0 and 1"),
        ({"a": np.array([1.0, -1, 0])}, None, "a: got -1 and other whole numbers"),
        ({"a": np.array([2.0, -1, 0])}, {"a": "class"}, "a: got -1 and other whole numbers"),
        ({"a": np.zeros((3, 2, 2))}, None, r"a: got float64 of shape \(3, 2, 2\)"),
        ({"a": np.zeros((3, 2))}, {"a": "class"}, r"a: got shape \(3, 2\); expected classes \(N,\)"),
        ({"a": [["u", "v"], ["u", "w"]]}, None, r"a: got texts of shape \(2, 2\)"),
        ({"a": [[1, 2], [3]]}, None, "a: got values that do not form an array"),
        ({"a": [1j, 2j]}, None, "a: got complex128"),
        ({"a": ["0.5", "1e400"]}, None, "a: row 1: got inf; expected numbers up to 1.8e.308"),
        ({"a": np.array([[0.5, 1], [2, -np.inf]])}, None, r"a: row 1: got \[ *2. -inf\]; expected numbers up to"),
        ({"a": np.array([1.0, np.inf])}, {"a": "class"}, "a: row 1: got inf"),
    ],
)
def test_bad_columns_are_named(given, kinds, message):
    with pytest.raises(InputError, match=message):
        read_columns(given, kinds)


def test_a_matrix_of_one_column_is_a_column():
    (found,) = read_columns({"y": torch.tensor([[2], [0], [-1], [3]])}).values()
    assert found.space == Classes(3) and found.values.tolist() == [1, 0, -1, 2]
    (found,) = read_columns({"pet": np.array([["cat"], ["dog"], [None]], dtype=object)}).values()
    assert found.names == ("cat", "dog") and found.values.tolist() == [0, 1, -1]
    (found,) = read_columns({"tame": np.array([[1.0], [np.nan]])}).values()
    assert found.space == Binary(1) and found.names == ("tame",) and found.values.shape == (2, 1)


def test_numbers_that_a_float_cannot_tell_apart_are_noted(capsys):
    """Times of one day, in seconds since 1970, are 128 seconds apart in float32."""
    torch.set_default_dtype(torch.float32)
    read_columns({"a": [1.0e9 + 1e4 * i for i in range(9)], "c": [0.1, 0.1, 0.1], "s": [0.1, 0.2, None]}, {"a": "real"})
    assert capsys.readouterr().err == ""
    read_columns({"at": ["1764000000.5", "", "1764000100", "1764000200"]})
    assert "NOTE: at: numbers about 1.764e+09 are rounded, by up to 56; their stand" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"a: row 1: got 1e\+39; expected numbers up to 3.4e.38"):
        read_columns({"a": ["0.5", "1e39"]})


def test_names_of_sites():
    assert site_name("  Grösse ") == "grösse" and site_name("_a__b_") == "a__b" and site_name("x") == "x_"
    assert site_name("Z") == "z_"
    assert site_name("lambda") == "lambda_" and site_name("Ⅳ 2") == "iv_2" and site_name("1") == "_1"
