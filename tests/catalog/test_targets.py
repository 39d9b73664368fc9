import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.io.votable import from_table
from astropy.table import QTable, Table

from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import CatalogError

BIG = 2**60 + np.array([1, 2, 3, 5])  # neighbours that a float64 cannot tell apart
RA = np.array([-10.0, 0.0, 53.1, 359.9])
DEC = np.array([-90.0, 0.5, -28.1, 90.0])
WRAPPED = np.array([350.0, 0.0, 53.1, 359.9])
MAG = np.array([20.5, np.nan, 22.5, 23.5])
FLAG = np.array([True, False, True, True])
NAME = ["a", "", "long name", "ö"]
VECTOR = np.arange(8.0).reshape(4, 2)
COLUMNS = ("mag", "flag", "name", "vector", "count")


def columns():
    return {
        "objectId": BIG,
        "coord_ra": RA,
        "coord_dec": DEC,
        "mag": MAG,
        "flag": FLAG,
        "name": NAME,
        "vector": VECTOR,
        "count": np.array([1, 2, 3, 4], np.int16),
        "unused": np.array([1j, 2, 3, 4]),
    }


def astropy_table(**units):
    table = Table(columns())
    for name, unit in ({"coord_ra": "deg", "coord_dec": "deg"} | units).items():
        table[name].unit = unit
    return table


def arrow_table(unit=None):
    data = {name: values for name, values in columns().items() if name not in {"vector", "unused"}}
    table = pa.table(data | {"vector": pa.array(VECTOR.tolist()), "unused": pa.array([{"a": 1}] * 4)})
    for name in ("coord_ra", "coord_dec") if unit else ():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name).with_metadata({"unit": unit}), table.column(name))
    return table


def write_fits(path):
    table = astropy_table()
    table["name"] = ["a", "", "long name", "o"]
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((3, 4))), fits.table_to_hdu(table)]).writeto(path)


def write_votable(path):
    table = astropy_table()
    del table["unused"]
    from_table(table).to_xml(str(path))


def write_csv(path):
    frame = pd.DataFrame({k: v for k, v in columns().items() if k not in {"vector", "unused"}})
    frame.to_csv(path, index=False)


def write_ecsv(path):
    table = astropy_table()
    del table["unused"]
    table.write(path, format="ascii.ecsv")


def write_parquet(path):
    pq.write_table(arrow_table("deg"), path)


def write_parquet_folder(path):
    path.mkdir()
    table = arrow_table("deg")
    pq.write_table(table[:1], path / "part-0.parquet")
    pq.write_table(table[1:], path / "part-1.parquet")


FILES = {
    "t.parquet": write_parquet,
    "t.pq": write_parquet,
    "folder.parquet": write_parquet_folder,
    "t.csv": write_csv,
    "t.ecsv": write_ecsv,
    "ecsv.csv": write_ecsv,
    "t.fits": write_fits,
    "t.fits.gz": write_fits,
    "T.FITS": write_fits,
    "t.vot": write_votable,
    "t.votable": write_votable,
    "t.xml": write_votable,
}


def check(catalog, names=COLUMNS, name_values=NAME):
    assert catalog.object_id.dtype == np.int64
    np.testing.assert_array_equal(catalog.object_id, BIG)
    np.testing.assert_array_equal(catalog.ra, WRAPPED)
    np.testing.assert_array_equal(catalog.dec, DEC)
    assert list(catalog.columns) == list(names)
    for name in names:
        values = catalog.columns[name]
        if name == "name":
            assert values == name_values
        else:
            assert values.dtype.isnative
            assert values.flags.c_contiguous
            np.testing.assert_array_equal(values, columns()[name])
    assert catalog.columns["flag"].dtype == bool


@pytest.mark.parametrize("name", FILES)
def test_every_file_format_gives_the_same_catalog(tmp_path, name):
    folder = tmp_path / "a folder (with = and [brackets])"
    folder.mkdir()
    path = folder / name
    FILES[name](path)
    wanted = COLUMNS if name != "t.csv" else ("mag", "flag", "name", "count")
    catalog = Catalog.from_any(path, columns=wanted)
    check(catalog, wanted, ["a", "", "long name", "o"] if "fits" in name.lower() else NAME)
    assert catalog.source == str(path)
    assert Catalog.from_any(str(path)).columns == {}


@pytest.mark.parametrize(
    "make",
    [
        astropy_table,
        lambda: QTable(astropy_table()),
        lambda: arrow_table("deg"),
        lambda: arrow_table("deg").to_batches()[0],
        columns,
        lambda: {k: np.asarray(v).astype(np.asarray(v).dtype.newbyteorder(">")) for k, v in columns().items()},
        lambda: pd.DataFrame(columns() | {"vector": list(VECTOR)}),
        lambda: pd.DataFrame(columns() | {"vector": list(VECTOR)}).set_index("objectId"),
        lambda: pd.DataFrame(columns() | {"vector": list(VECTOR)}).drop(columns="unused").convert_dtypes(),
        lambda: pd.DataFrame(columns() | {"vector": list(VECTOR)}).astype({"name": "category"}),
        lambda: astropy_table().as_array(),
    ],
    ids=[
        "Table",
        "QTable",
        "pyarrow",
        "batch",
        "mapping",
        "big-endian",
        "pandas",
        "index",
        "nullable",
        "category",
        "rec",
    ],
)
def test_every_table_in_memory_gives_the_same_catalog(make):
    check(Catalog.from_any(make(), columns=COLUMNS))


def test_fits_string_columns_and_tnull(tmp_path):
    path = tmp_path / "t.fits"
    hdu = fits.BinTableHDU.from_columns(
        [
            fits.Column("RA", "D", array=RA, unit="deg"),
            fits.Column("DEC", "D", array=DEC, unit="deg"),
            fits.Column("good", "J", array=[1, 2, 3, 4], null=-99),
            fits.Column("holes", "J", array=[1, -99, 3, -99], null=-99),
            fits.Column("odd", "D", array=RA, unit="furlongs per (fortnight"),
        ]
    )
    hdu.writeto(path)
    catalog = Catalog.from_any(path, columns=("good",))
    np.testing.assert_array_equal(catalog.columns["good"], [1, 2, 3, 4])
    np.testing.assert_array_equal(catalog.object_id, range(4))
    np.testing.assert_array_equal(Catalog.from_any(path, columns=("holes",)).columns["holes"], [1, np.nan, 3, np.nan])


@pytest.mark.parametrize("unit", ["rad", "radian", "hourangle", "deg", "arcsec"])
def test_units_are_honoured(tmp_path, unit):
    factor = u.deg.to(unit)
    table = Table({"ra": RA * factor, "dec": DEC * factor}, units={"ra": unit, "dec": unit})
    table.write(tmp_path / "t.ecsv")
    from_table(table).to_xml(str(tmp_path / "t.vot"))
    arrow = pa.table({name: np.asarray(table[name]) for name in ("ra", "dec")})
    plain = [arrow.schema.field(name).with_metadata({"unit": unit}) for name in ("ra", "dec")]
    pq.write_table(arrow.cast(pa.schema(plain)), tmp_path / "t.parquet")
    sources = [
        table,
        QTable(table),
        dict(QTable(table).items()),
        *(tmp_path / f"t.{s}" for s in ("ecsv", "vot", "parquet")),
    ]
    if unit not in {"hourangle", "radian"}:  # FITS has no name for them
        table.write(tmp_path / "t.fits")
        sources.append(tmp_path / "t.fits")
    for source in sources:
        catalog = Catalog.from_any(source)
        np.testing.assert_allclose(catalog.ra, WRAPPED, rtol=0, atol=1e-12)
        np.testing.assert_allclose(catalog.dec, DEC, rtol=0, atol=1e-12)
    stated = Catalog.from_any({"ra": RA * factor, "dec": DEC * factor}, unit=unit)
    np.testing.assert_allclose(stated.ra, WRAPPED, rtol=0, atol=1e-12)


def test_units_in_the_header_that_astropy_writes_into_parquet(tmp_path):
    header = "\n".join(
        [
            "datatype:",
            "- {name: ra, unit: rad, datatype: float64}",
            "- {name: dec, unit: !astropy.units.Unit {unit: rad}, datatype: float64}",
        ]
    )
    table = pa.table({"ra": np.radians(WRAPPED), "dec": np.radians(DEC)})
    pq.write_table(table.replace_schema_metadata({"table_meta_yaml": header}), tmp_path / "t.parquet")
    np.testing.assert_allclose(Catalog.from_any(tmp_path / "t.parquet").ra, WRAPPED, atol=1e-12)


def test_parquet_as_astropy_writes_it(tmp_path):
    table = Table({"ra": np.radians(WRAPPED), "dec": np.radians(DEC)}, units={"ra": "rad", "dec": "rad"})
    table.write(tmp_path / "t.parquet", format="parquet")
    np.testing.assert_allclose(Catalog.from_any(tmp_path / "t.parquet").ra, WRAPPED, atol=1e-12)


def test_the_unit_given_goes_before_the_one_stated():
    catalog = Catalog.from_any(astropy_table(coord_ra="rad", coord_dec="rad"), unit="deg")
    np.testing.assert_array_equal(catalog.ra, WRAPPED)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("RA", "DEC", "coord_ra", "coord_dec"), ("RA", "DEC")),
        (("coord_ra", "coord_dec", "Ra", "Dec"), ("Ra", "Dec")),
        (("RA", "DEC", "ra", "dec"), ("ra", "dec")),
        (("ra", "coord_ra", "coord_dec"), ("coord_ra", "coord_dec")),
        (("raJ2000", "decJ2000", "object"), ("raJ2000", "decJ2000")),
        (("RAJ2000", "DEJ2000"), ("RAJ2000", "DEJ2000")),
        (("RA_ICRS", "DE_ICRS"), ("RA_ICRS", "DE_ICRS")),
    ],
)
@pytest.mark.filterwarnings("ignore::lsstcutouts.catalog.checks.PositionColumnWarning")
def test_position_columns_are_found_by_priority(names, expected):
    table = {name: np.full(3, 10.0 + i) for i, name in enumerate(names)}
    catalog = Catalog.from_any(table)
    assert (catalog.ra[0], catalog.dec[0]) == (10.0 + names.index(expected[0]), 10.0 + names.index(expected[1]))


def test_columns_can_be_named():
    table = {"lon": [40.0, 41.0], "lat": [1.0, 2.0], "ra": [0.0, 0.0], "dec": [0.0, 0.0], "source": [7, 8]}
    catalog = Catalog.from_any(table, ra="lon", dec="lat", object_id="source", columns=("source", "lat"))
    np.testing.assert_array_equal(catalog.ra, [40, 41])
    np.testing.assert_array_equal(catalog.object_id, [7, 8])
    np.testing.assert_array_equal(catalog.columns["lat"], [1.0, 2.0])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("diaObjectId", "objectId"), 1),
        (("OBJECT_ID", "objectId"), 0),
        (("objectid", "OBJECTID"), 0),
        (("id",), 0),
        (("other",), None),
    ],
)
def test_ids_are_found_by_priority(names, expected):
    table = {name: [10 * i + 5, 10 * i + 6] for i, name in enumerate(names)} | {"ra": [10.0, 11.0], "dec": [1.0, 2.0]}
    ids = Catalog.from_any(table).object_id
    np.testing.assert_array_equal(ids, [0, 1] if expected is None else [10 * expected + 5, 10 * expected + 6])


def test_from_arrays_takes_ids_only_as_ids():
    catalog = Catalog.from_arrays([10.0, 20.0], [1.0, 2.0], columns={"objectId": [5, 5], "name": ["x", "y"]})
    np.testing.assert_array_equal(catalog.object_id, [0, 1])
    np.testing.assert_array_equal(catalog.columns["objectId"], [5, 5])
    assert catalog.columns["name"] == ["x", "y"]
    assert len(Catalog.from_arrays(10.0, 20.0)) == 1


def test_a_catalog_does_not_change_with_the_arrays_it_came_from():
    ra, ids, extra = np.array([10.0, 20.0]), np.array([1, 2]), np.array([1.0, 2.0])
    catalog = Catalog.from_arrays(ra, ra, ids, {"extra": extra})
    before = catalog.fingerprint()
    ra[:], ids[:], extra[:] = 0, 0, 0
    assert catalog.fingerprint() == before


def test_a_catalog_passes_through():
    catalog = Catalog.from_any(columns(), columns=("mag",))
    assert Catalog.from_any(catalog) is catalog
    assert Catalog.from_any(catalog, columns=("mag",)) is catalog
    with pytest.raises(CatalogError, match="no column 'magn'; did you mean 'mag'"):
        Catalog.from_any(catalog, columns=("magn",))


def test_a_file_that_is_not_there(tmp_path):
    (tmp_path / "targets.csv").write_text("ra,dec\n10,1\n")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "empty.parquet").mkdir()
    with pytest.raises(CatalogError, match=r"this file does not exist \(did you mean targets.csv\?\)"):
        Catalog.from_any(tmp_path / "target.csv")
    with pytest.raises(CatalogError, match="this folder contains no Parquet file"):
        Catalog.from_any(tmp_path / "folder.csv")
    with pytest.raises(CatalogError, match="contains no Parquet file"):
        Catalog.from_any(tmp_path / "empty.parquet")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"\x00\x01garbage\xff" * 50, b"<html></html>"], ids=["empty", "junk", "html"])
@pytest.mark.filterwarnings("ignore::astropy.io.votable.exceptions.VOWarning")
@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_damaged_files(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CatalogError, match=str(path)):
        Catalog.from_any(path)


@pytest.mark.parametrize("name", sorted(set(FILES) - {"folder.parquet", "t.csv", "t.ecsv", "ecsv.csv"}))
@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_truncated_files(tmp_path, name):
    path = tmp_path / name
    FILES[name](path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(CatalogError, match=str(path)):
        Catalog.from_any(path)


def test_a_fits_file_without_a_table(tmp_path):
    fits.PrimaryHDU(np.zeros((3, 4))).writeto(tmp_path / "t.fits")
    with pytest.raises(CatalogError, match="no table"):
        Catalog.from_any(tmp_path / "t.fits")


def test_take():
    catalog = Catalog.from_any(columns(), columns=COLUMNS)
    for rows in (
        [2, 0],
        np.array([2, 0]),
        slice(1, 3),
        FLAG,
        np.array([], int),
        [],
        slice(0),
        [True, False, False, True],
    ):
        part = catalog[rows]
        index = np.arange(4)[rows] if len(np.atleast_1d(np.arange(4)[rows])) else []
        assert len(part) == len(index)
        np.testing.assert_array_equal(part.object_id, BIG[np.array(index, int)])
        assert part.columns["name"] == [NAME[i] for i in index]
        np.testing.assert_array_equal(part.columns["vector"], VECTOR[np.array(index, int)])
    with pytest.raises(IndexError):
        catalog.take([4])
    with pytest.raises(IndexError):
        catalog.take([True])


def test_fingerprint():
    catalog = Catalog.from_any(columns(), columns=COLUMNS)
    again = Catalog.from_any(arrow_table(), columns=COLUMNS[::-1])
    assert catalog.fingerprint() == again.fingerprint()
    assert len(catalog.fingerprint()) == 64
    prints = {catalog.fingerprint(), catalog[::-1].fingerprint(), catalog[:3].fingerprint()}
    prints |= {Catalog.from_any(columns(), columns=COLUMNS[:n]).fingerprint() for n in range(4)}
    moved = columns()
    moved["coord_dec"] = DEC + np.array([1e-13, 0, 0, 0])
    prints.add(Catalog.from_any(moved, columns=COLUMNS).fingerprint())
    renamed = columns() | {"name": ["a", "long name", "", "ö"]}
    prints.add(Catalog.from_any(renamed, columns=COLUMNS).fingerprint())
    assert len(prints) == 9
    fixed = Catalog.from_arrays([10.0, 20.0], [1.0, -2.0], [5, 6], {"label": [0, 1], "name": ["x", "yz"]})
    assert fixed.fingerprint() == FIXED_FINGERPRINT


FIXED_FINGERPRINT = "ea576fe29a70e825d8d8d9276b0489e5fa07828a7b13540b67e8f4147f1de80c"


def test_pickle():
    catalog = Catalog.from_any(columns(), columns=COLUMNS)
    assert pickle.loads(pickle.dumps(catalog)).fingerprint() == catalog.fingerprint()


def test_only_asked_columns_are_read_and_a_million_rows_are_quick(tmp_path):
    count = 1_000_000
    rng = np.random.default_rng(0)
    ids = rng.permutation(count) + 2**60
    table = pa.table({"objectId": ids, "coord_ra": rng.uniform(-180, 180, count), "coord_dec": np.zeros(count)})
    pq.write_table(table.append_column("label", [ids % 2]), tmp_path / "t.parquet")
    start = time.process_time()
    catalog = Catalog.from_any(tmp_path / "t.parquet", columns=("label",))
    assert time.process_time() - start < 1.0
    np.testing.assert_array_equal(catalog.object_id, ids)


def test_the_import_is_light():
    code = (
        "import sys, lsstcutouts.catalog.targets as c; c.Catalog.from_arrays([10.0], [1.0]);"
        "sys.exit(' '.join(m for m in ('torch', 'pandas', 'astropy', 'lsst.daf.butler') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path.cwd(), check=False)
    assert done.stderr == "\n", done.stderr
