"""What is checked of a catalog: units and ranges of positions, missing values, ids, names, and tables that cannot be used."""

import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, Table
from astropy.utils.masked import Masked
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsstcutouts.catalog.checks import RESERVED_NAMES, PositionUnitWarning, RepeatedIdWarning
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import CatalogError, CoordinateError


def test_unitless_small_positions_warn_and_are_degrees():
    small = {"ra": [0.1, 6.28], "dec": [-1.5, 1.5]}
    with pytest.warns(PositionUnitWarning, match=r"may be radians; they are read as degrees.*unit='rad'") as caught:
        catalog = Catalog.from_any(small)
    np.testing.assert_array_equal(catalog.ra, small["ra"])
    assert caught[0].filename == __file__
    with pytest.warns(PositionUnitWarning) as caught:
        Catalog.from_arrays(**small)
    assert caught[0].filename == __file__


def test_stated_units_or_wide_positions_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Catalog.from_arrays([0.1, 1.0], [0.1, 1.0], unit="deg")
        Catalog.from_arrays([0.1, 1.0] * u.deg, [0.1, 1.0] * u.deg)
        Catalog.from_arrays([0.1, 6.3], [0.1, 1.0])
        Catalog.from_arrays([0.1, 6.0], [0.1, 1.6])
        np.testing.assert_allclose(Catalog.from_arrays([1.0], [1.0], unit="rad").ra, np.degrees(1.0))


finite = st.floats(-180, 360, exclude_max=True)


@given(hnp.arrays(np.float64, st.integers(1, 20), elements=finite), st.data())
def test_wrapping(ra, data):
    dec = data.draw(hnp.arrays(np.float64, len(ra), elements=st.floats(-90, 90)))
    catalog = Catalog.from_arrays(ra, dec, unit="deg")
    assert (catalog.ra >= 0).all()
    assert (catalog.ra < 360).all()
    np.testing.assert_array_equal(catalog.dec, dec)
    np.testing.assert_allclose(np.cos(np.radians(catalog.ra - ra)), 1.0, atol=1e-12)


def test_edges_of_the_ranges():
    catalog = Catalog.from_arrays([360.0, -180.0, -1e-300, 0.0], [90.0, -90.0, 0.0, -0.0])
    np.testing.assert_array_equal(catalog.ra, [0.0, 180.0, 0.0, 0.0])
    single = np.array([[2 * np.pi, np.pi], [np.pi / 2, -np.pi / 2]], np.float32)
    np.testing.assert_array_equal(Catalog.from_arrays(*single, unit="rad").dec, [90.0, -90.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", ["ra", "dec"])
def test_positions_that_are_not_finite(at, bad):
    table = {"ra": np.full(20, 10.0), "dec": np.full(20, 20.0)}
    table[at][[3, 5, 6, 7, 8, 9, 19]] = bad
    with pytest.raises(CoordinateError, match=r"arrays: 7 of 20 .*'ra', 'dec'.*rows 3, 5, 6, 7, 8 and 2 more"):
        Catalog.from_any(table)


@pytest.mark.parametrize(
    "table",
    [
        Table({"ra": MaskedColumn([10.0, 2.0], mask=[False, True]), "dec": [1.0, 2.0]}),
        Table({"ra": Masked([10.0, 2.0] * u.deg, mask=[False, True]), "dec": [1.0, 2.0] * u.deg}),
        {"ra": np.ma.array([10.0, 2.0], mask=[False, True]), "dec": [1.0, 2.0]},
        pa.table({"ra": [10.0, None], "dec": [1.0, 2.0]}),
        pa.table({"ra": [10, None], "dec": [1.0, 2.0]}),
        pd.DataFrame({"ra": pd.array([10, None], "Int64"), "dec": [1.0, 2.0]}),
    ],
    ids=["masked", "masked quantity", "ma", "arrow", "arrow int", "pandas"],
)
def test_missing_positions(table):
    with pytest.raises(CoordinateError, match=r"1 of 2 positions.*missing.*row 1 \("):
        Catalog.from_any(table)


@pytest.mark.parametrize(("ra", "dec"), [(360.1, 0.0), (-180.1, 0.0), (10.0, 90.1), (10.0, -91.0)])
def test_positions_out_of_range(ra, dec):
    with pytest.raises(CoordinateError, match=r"1 of 3 .*out of range.*row 2 .*swapped"):
        Catalog.from_arrays([10.0, 11.0, ra], [0.0, 1.0, dec])


@pytest.mark.parametrize("null", ["", None])
def test_missing_extra_values(tmp_path, null):
    table = pa.table(
        {
            "ra": [11.0, 12, 13, 14],
            "dec": [1.0, 2, 3, 4],
            "i": [1, None, 3, None],
            "f": [1.0, None, np.nan, 2.0],
            "s": ["a", None, "b", "c"],
        }
    )
    source = table
    if null == "":
        source = tmp_path / "t.csv"
        source.write_text("# a comment\nra,dec,i,f\n11,1,1,1.0\n12,2,,\n13,3,3,nan\n14,4,,2.0\n")
    np.testing.assert_array_equal(Catalog.from_any(source, columns=("f",)).columns["f"], [1, np.nan, np.nan, 2])
    np.testing.assert_array_equal(Catalog.from_any(source, columns="i").columns["i"], [1, np.nan, 3, np.nan])
    if null is None:
        with pytest.raises(CatalogError, match=r"'s' has no value in row 1"):
            Catalog.from_any(source, columns=("s",))


def test_duplicate_ids():
    with pytest.warns(RepeatedIdWarning, match=r"2 ids of column 'object_id'.* the first 7 in rows 0, 2 .*rows 2, 4"):
        Catalog.from_arrays(np.full(5, 10.0), np.zeros(5), [7, 8, 7, 9, 9])


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.array([1.5, 2.0]), "row 0"),
        (np.array([1.0, np.nan]), "row 1"),
        (np.array([1.0, 2.0**60]), "row 1"),
        (["a", " "], "has no value in row 1"),
        (np.ma.array([1, 2], mask=[0, 1]), "has no value in row 1"),
        ([True, False], "neither integers nor strings"),
    ],
)
def test_ids_that_are_no_ids(ids, words):
    with pytest.raises(CatalogError, match=words):
        Catalog.from_any({"ra": [10.0, 11.0], "dec": [1.0, 2.0], "objectId": ids})


def test_whole_floats_and_unsigned_ids():
    for ids in (np.array([3.0, 4.0]), np.array([3, 4], np.uint64), np.array([3, 4], object)):
        np.testing.assert_array_equal(Catalog.from_arrays([10.0, 11.0], [1.0, 2.0], ids).object_id, [3, 4])


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_reserved_names(name):
    table = {"ra": [10.0], "dec": [10.0], name: [1.0]}
    with pytest.raises(CatalogError, match=rf"{name}.*a batch uses"):
        Catalog.from_any(table, columns=(name,))
    with pytest.raises(CatalogError, match=r"a batch uses"):
        Catalog.from_arrays([10.0], [10.0], columns={name: [1.0]})


@pytest.mark.parametrize(
    ("source", "kwargs", "words"),
    [
        ({"ra": [], "dec": []}, {}, "empty"),
        (pa.table({"ra": pa.array([], pa.float64()), "dec": pa.array([], pa.float64())}), {}, "empty"),
        ({"x": [1.0], "declination": [1.0]}, {}, r"no position columns.*ra= and dec=.*the columns are: x, declination"),
        ({"ra": [10.0], "dec": [1.0]}, {"ra": "ra"}, "give both ra= and dec="),
        ({"ra": [10.0], "dec": [1.0]}, {"ra": "raa", "dec": "dec"}, "no column 'raa'; did you mean 'ra'"),
        ({"ra": [10.0], "dec": [1.0]}, {"object_id": "id"}, "no column 'id'"),
        ({"ra": [10.0], "dec": [1.0], "Label": [1]}, {"columns": ("label",)}, "did you mean 'Label'"),
        ({"ra": [10.0, 11.0], "dec": [1.0]}, {}, "differ in length"),
        ({"ra": 10.0, "dec": [1.0]}, {}, "single value"),
        ({"ra": ["10h23m"], "dec": ["1d"]}, {}, "does not hold one number per row.*SkyCoord"),
        ({"ra": [[10.0]], "dec": [[1.0]]}, {}, "does not hold one number per row"),
        ({"ra": [10.0] * u.deg, "dec": [1.0]}, {}, "'ra' has unit deg and 'dec' has unit None"),
        ({"ra": [10.0] * u.s, "dec": [1.0] * u.s}, {}, "unit 's', which is not an angle"),
        ({"ra": [10.0], "dec": [1.0]}, {"unit": "smoots"}, "not an angle"),
        ({"ra": [10.0], "dec": [1.0], "c": [1j]}, {"columns": ("c",)}, "'c' has type complex128"),
        ({"ra": [10.0], "dec": [1.0], "c": [object()]}, {"columns": ("c",)}, "mixed types or objects"),
        ({"ra": [10.0], "dec": [1.0], "c": [None]}, {"columns": ("c",)}, "has unsupported values"),
        ({"ra": [10.0] * 2, "dec": [1.0] * 2, "c": [[1], [1, 2]]}, {"columns": ("c",)}, "different shapes"),
        (pa.table({"ra": [10.0], "dec": [1.0], "c": [{"a": 1}]}), {"columns": ("c",)}, "'c' has type struct"),
        (
            pa.table({"ra": [9.0] * 3, "dec": [1.0] * 3, "c": [[1], [1], [1, 2]]}),
            {"columns": ("c",)},
            "unlike row 2",
        ),
        (pa.table({"ra": [9.0] * 2, "dec": [1.0] * 2, "c": [[1], None]}), {"columns": ("c",)}, "no value in row 1"),
        (pa.table({"ra": [9.0], "dec": [1.0], "c": [["a"]]}), {"columns": ("c",)}, "every list must hold numbers"),
        (pa.table([[9.0], [9.0], [1.0]], names=["ra", "ra", "dec"]), {}, r"\['ra'\] occur more than once"),
        (pd.DataFrame([[9.0, 9.0, 1.0]], columns=["ra", "ra", "dec"]), {}, "more than once"),
        (pd.DataFrame({"ra": [9.0] * 2, "dec": [1.0] * 2, "c": [1, "a"]}), {"columns": ("c",)}, "mixed types"),
        (object(), {}, r"builtins\.object cannot be read as a catalog"),
        ("t.txt", {}, r"suffix '\.txt'.*not a supported table format; give \.parquet"),
        ("folder/t.csv", {}, "the folder .* does not exist"),
    ],
)
def test_tables_that_cannot_be_used(source, kwargs, words):
    with pytest.raises(CatalogError, match=words):
        Catalog.from_any(source, **kwargs)
