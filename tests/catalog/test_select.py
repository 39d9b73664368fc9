"""Subsets by expression, against the same in Python row by row."""

import itertools
import math

import numpy as np
import pytest

from lsstcutouts.catalog.select import expression_columns, matching_rows
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError

ROWS = [
    {"mag": 20.5, "label": 1, "kind": "lens", "flag": True},
    {"mag": math.nan, "label": 0, "kind": "star", "flag": False},
    {"mag": 24.0, "label": -1, "kind": "", "flag": True},
    {"mag": 22.0, "label": 3, "kind": "galaxy", "flag": False},
]
COLUMNS = {
    "mag": np.array([r["mag"] for r in ROWS]),
    "label": np.array([r["label"] for r in ROWS]),
    "kind": [r["kind"] for r in ROWS],
    "flag": np.array([r["flag"] for r in ROWS]),
}


@pytest.mark.parametrize(
    "expression",
    [
        "mag < 23",
        "not mag > 23",
        "kind in ('lens', 'galaxy') and label >= 0",
        "kind not in ['star']",
        "21 < mag <= 24",
        "mag * 2 > 43 or label == 1",
        "flag",
        "not flag and label < 2",
        "-label < 0",
        "label / 2 == 1.5",
        "abs(label) == 1",
        "(mag - 20) ** 2 > 3",
        "kind == 'lens'",
        "mag != 24",
        "label in (1, 3) or kind == ''",
        "floor(mag) == 20",
    ],
)
def test_expressions_mean_what_they_mean_in_python(expression: str) -> None:
    def value(row: dict) -> bool:
        if "mag" in expression and math.isnan(row["mag"]):
            return False  # a missing value meets nothing
        return bool(eval(expression, {"abs": abs, "floor": math.floor}, row))

    np.testing.assert_array_equal(matching_rows(expression, COLUMNS, len(ROWS)), [value(row) for row in ROWS])


@pytest.mark.parametrize(
    "expression", ["mag in (1.0,)", "not mag in (1.0,)", "mag not in (1.0,)", "mag != 1", "not mag == 1"]
)
def test_a_missing_value_meets_nothing(expression: str) -> None:
    assert not matching_rows(expression, COLUMNS, len(ROWS))[1]


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("mag <", "has a syntax error"),
        ("", "has a syntax error"),
        ("label & 1", "use and, or instead"),
        ("magg < 1", "did you mean mag"),
        ("mag.real < 1", "'mag.real' is not supported here"),
        ("mag[0] < 1", "not allowed"),
        ("open('x')", "not one of the functions"),
        ("__import__('os').system('x')", "not supported here|not one of the functions"),
        ("mag is None", "use == instead"),
        ("kind < 3", "cannot be evaluated"),
        ("'a' in kind", "must be a list of values"),
        ("label + 1", "cannot be evaluated"),
        ("[m for m in mag]", "not allowed"),
        ("mag < 1j", "not allowed"),
    ],
)
def test_what_cannot_be_is_explained(expression: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        matching_rows(expression, COLUMNS, len(ROWS))


def test_columns_with_arrays_cannot_be_compared() -> None:
    with pytest.raises(ConfigurationError, match="contains arrays"):
        matching_rows("z > 1", {"z": np.zeros((4, 2))}, 4)


def test_columns_are_named_once() -> None:
    assert expression_columns("b > 1 and a < abs(b) and 'c' == a") == ("b", "a")


def test_a_catalog_selects_rows() -> None:
    catalog = Catalog.from_arrays([10.0, 20.0, 30.0, 40.0], [-10.0, -20.0, -30.0, -40.0], columns=COLUMNS)
    chosen = catalog.select("dec < -15 and label >= 0")
    assert chosen.object_id.tolist() == [1, 3]
    assert chosen.columns["kind"] == ["star", "galaxy"]


TYPES = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]


@pytest.mark.parametrize("expression", [
    "a*3 > 100", "a+b > 250", "a-b < 0", "-a < 0", "abs(a) >= 3", "a*b > a", "a == b", "a in (1, 2)", "b <= a < 200",
    "a in (1, 18446744073709551615)", "a not in (3, 9223372036854775808)", "a > 9223372036854775808", "a-b == -(b-a)",
])  # fmt: skip
def test_integers_of_every_type_are_computed_in_64_bits(expression: str) -> None:
    """Against Python's integers, which do not wrap: the same rows, or a refusal where 64 bits do not hold the result."""
    refused = set()
    for one, two in itertools.product(TYPES, TYPES):
        low, high = np.iinfo(one), np.iinfo(two)
        a = np.array([low.min, low.max, low.max // 2, 0, 1, 100, 3, low.max - 1], one)
        b = np.array([high.max, high.min, 5, 0, 1, 100, high.max // 2, high.max], two)
        expected = [eval(expression, {"abs": abs}, {"a": int(x), "b": int(y)}) for x, y in zip(a, b, strict=True)]
        try:
            np.testing.assert_array_equal(matching_rows(expression, {"a": a, "b": b}, 8), expected)
        except ConfigurationError:
            refused |= {(one, two)}
    assert all(one.itemsize + two.itemsize >= 8 for one, two in refused)


def test_what_leaves_64_bits_is_refused_with_advice() -> None:
    ids = {"a": np.array([2**62, 1]), "f": np.array([1e30, 2.0], np.float32)}
    with pytest.raises(ConfigurationError, match=r"overflow; multiply by 1\.0 first"):
        matching_rows("a * 4 > 5", ids, 2)
    assert matching_rows("a * 1.0 * 4 > 5", ids, 2).tolist() == [True, False]
    assert matching_rows("a > 2.5e18 and a / 2 > 1 and 1e20 > a and abs(-a) > 2.5", ids, 2).tolist() == [True, False]
    assert matching_rows("a * 100 * 3 > 100 * 3 - 1 and 2 ** 40 > a", {"a": np.array([1, 0], np.int8)}, 2).tolist() == [
        True,
        False,
    ]
    odd = np.array([2**24 + 1, 2**24])  # the same in float32
    assert matching_rows("a * 1.5 > 25165824.5", {"a": odd}, 2).tolist() == [True, False]
    assert matching_rows("f * f > 1e50", ids, 2).tolist() == [True, False]  # infinite in float32
    assert matching_rows("a / 2 > 1", ids, 2).tolist() == [True, False]
    assert matching_rows("a < 99999999999999999999999", ids, 2).all()
