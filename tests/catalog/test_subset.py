"""The rows that a catalog shall have: expressions, cones, and what may be skipped because of statistics."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.catalog.subset import Subset
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import CatalogError, ConfigurationError

from ..support.examples import examples

NUMBERS = st.one_of(st.integers(-5, 5), st.floats(-5, 5, width=32))
TERMS = st.one_of(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), NUMBERS).map(
        lambda t: f"{t[0]} {t[1]} {t[2]}"
    ),
    st.tuples(NUMBERS, st.sampled_from(["<", "<=", ">", ">="]), st.sampled_from("ab")).map(
        lambda t: f"{t[0]} {t[1]} {t[2]}"
    ),
    st.tuples(NUMBERS, st.sampled_from("ab"), NUMBERS).map(lambda t: f"{t[0]} < {t[1]} <= {t[2]}"),
    st.lists(st.integers(-5, 5), min_size=1, max_size=3).map(lambda values: f"a in {values}"),
    st.lists(st.integers(-5, 5), min_size=1, max_size=3).map(lambda values: f"b not in {values}"),
    st.sampled_from(["abs(a) < 2", "a + b > 3", "a > b"]),
)
EXPRESSIONS = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(" and ".join),
        st.tuples(inner, inner).map(lambda t: f"({t[0]} or {t[1]})"),
        inner.map("not ({})".format),
    ),
    max_leaves=4,
)


@examples(200)
@given(
    EXPRESSIONS,
    st.lists(st.integers(-6, 6), min_size=1, max_size=4),
    st.lists(st.floats(-6, 6, width=32), min_size=4, max_size=4),
)
def test_what_is_skipped_has_no_row_that_is_kept(expression: str, a: list[int], b: list[float]) -> None:
    columns: dict[str, Any] = {"a": np.array(a, np.int16), "b": np.array(b[: len(a)], np.float32)}
    statistics = {n: {"min": v.min().item(), "max": v.max().item()} for n, v in columns.items()}
    subset = Subset(expression)
    if subset.mask(columns, len(a)).any():
        assert subset.may_match(statistics)
    assert subset.may_match({})
    assert subset.may_match({"a": statistics["a"]}) or not subset.mask(columns, len(a)).any()


@pytest.mark.parametrize(
    ("expression", "skipped"),
    [
        ("a > 9", True),
        ("9 < a", True),
        ("3 <= a < 1", False),
        ("a in (7, 9)", True),
        ("a == 4 and b < 3", False),
        ("a > 9 or b < 3", False),
        ("not a > 9", False),
        ("a < -1 and name == 'x'", True),
        ("name > 'a'", False),
        ("name == 'x'", True),
        ("name == 3", False),
        ("a * 2 > 99", False),
    ],
)
def test_what_is_skipped(expression: str, skipped: bool) -> None:
    statistics: dict[str, Any] = {
        "a": {"min": 0, "max": 5},
        "b": {"min": 0.0, "max": 5.0},
        "name": {"min": "a", "max": "c"},
    }
    assert Subset(expression).may_match(statistics) is not skipped


@pytest.mark.parametrize(
    "cone", [(1, 2), "1,2,3", (1, 2, 0), (400, 0, 1), (0, 91, 1), (0, 0, 181), (0, 0, "1"), (0, 0, np.nan)]
)
def test_invalid_cones(cone: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"cone=.*(must be RA, Dec and radius in degrees|out of range)"):
        Catalog.from_arrays([1.0], [2.0]).from_any({"ra": [1.0], "dec": [2.0]}, cone=cone)


def test_subsets_of_tables_in_memory() -> None:
    table = {"ra": [10.0, 11.0, 359.9], "dec": [1.0, np.nan, 0.0], "mag": np.ma.array([20, 21, 22], mask=[0, 1, 0])}
    assert Catalog.from_any(table, cone=(0.0, 0.0, 0.2)).ra.tolist() == [359.9]
    found = Catalog.from_any(table, select="mag > 19 and ra < 100", columns=["mag"])
    assert (found.object_id.tolist(), found.columns["mag"].tolist()) == ([0], [20])
    radians = {"ra": np.radians([100.0, 110.0]), "dec": np.radians([10.0, 20.0]), "id": [1, 2]}
    assert Catalog.from_any(
        radians, unit="rad", object_id="id", select="ra > 105 and object_id > 0"
    ).object_id.tolist() == [2]
    with pytest.raises(ConfigurationError, match="'object_id', which the catalog does not have"):
        Catalog.from_any(table, select="object_id > 1")
    with pytest.raises(CatalogError, match=r"arrays: no row meets select='mag > 99' \(3 rows were tested"):
        Catalog.from_any(table, select="mag > 99")
    with pytest.raises(CatalogError, match=r"use catalog\.select"):
        Catalog.from_any(found, select="mag > 99")
    assert len(Catalog.from_any({**table, "dec": [0.0] * 3}, select="1 < 2")) == 3
