"""Where a catalog comes from: results of queries, several files, coordinates, CSV files as people write them."""

import io
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pyvo
from astropy import units as u
from astropy.coordinates import AltAz, SkyCoord
from astropy.io.votable import parse
from astropy.table import QTable, Table

from lsstcutouts.catalog.checks import PositionColumnWarning, RepeatedIdWarning
from lsstcutouts.catalog.id_lists import read_ids
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import CatalogError, CoordinateError

BIG = 2**64 - 1 - np.arange(3, dtype=np.uint64)

VOTABLE = """<?xml version="1.0"?><VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">{outside}
<RESOURCE type="results">{before}{table}{after}</RESOURCE></VOTABLE>"""

TABLE = """<TABLE><FIELD name="objectId" datatype="long"/><FIELD name="coord_ra" datatype="double" unit="deg"/>
<FIELD name="coord_dec" datatype="double" unit="deg"/><DATA><TABLEDATA>
<TR><TD>1</TD><TD>53.0</TD><TD>-28</TD></TR><TR><TD>2</TD><TD>54.0</TD><TD>-29</TD></TR></TABLEDATA></DATA></TABLE>"""


def info(value: str, content: str = "") -> str:
    return f'<INFO name="QUERY_STATUS" value="{value}">{content}</INFO>'


def votable(*, before: str = "", after: str = "", outside: str = "", table: str = TABLE) -> bytes:
    return VOTABLE.format(before=before, after=after, outside=outside, table=table).encode()


def as_file(path: Path, text: bytes):
    path.write_bytes(text)
    return path


def as_votable(path: Path, text: bytes):
    return parse(io.BytesIO(text), verify="ignore")


def as_query(path: Path, text: bytes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pyvo.dal.DALOverflowWarning)
        return pyvo.dal.TAPResults(as_votable(path, text))


FORMS = [as_file, as_votable, as_query]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text",
    [
        votable(before=info("OK"), after=info("OVERFLOW")),
        votable(before=info("OVERFLOW")),
        votable(before=info("OK"), after=info("overflow", "limit of 2 rows")),
    ],
)
def test_a_result_that_is_cut_off_is_refused(tmp_path: Path, form, text: bytes) -> None:
    source = form(tmp_path / "result.xml", text)
    with pytest.raises(CatalogError, match=r"truncated after 2 rows .*QUERY_STATUS=OVERFLOW.*MAXREC") as caught:
        Catalog.from_any(source)
    assert ("limit of 2 rows" in str(caught.value)) == (b"limit of" in text)
    catalog = Catalog.from_any(source, allow_overflow=True)
    assert (catalog.object_id.tolist(), catalog.ra.tolist()) == ([1, 2], [53.0, 54.0])


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_result_is_read(tmp_path: Path, form) -> None:
    catalog = Catalog.from_any(form(tmp_path / "result.vot", votable(before=info("OK"))))
    assert (catalog.object_id.tolist(), catalog.dec.tolist()) == ([1, 2], [-28.0, -29.0])
    # Other words at other places are no status.
    Catalog.from_any(form(tmp_path / "r.vot", votable(before=info("OK"), outside='<INFO name="OVERFLOW" value="no"/>')))


@pytest.mark.parametrize("form", FORMS[:2])
def test_a_failed_query_is_told_in_the_words_of_the_server(tmp_path: Path, form) -> None:
    with pytest.raises(CatalogError, match="the query failed: Qserv timed out"):
        Catalog.from_any(form(tmp_path / "e.xml", votable(before=info("ERROR", "Qserv timed out"), table="")))
    with pytest.raises(CatalogError, match="the query failed: too late"):  # behind the rows that came so far
        Catalog.from_any(form(tmp_path / "e.xml", votable(before=info("OK"), after=info("ERROR", "too late"))))
    with pytest.raises(CatalogError, match="contains no table"):
        Catalog.from_any(form(tmp_path / "e.xml", votable(table="")))


def test_one_result_in_a_list_that_is_cut_off_is_found(tmp_path: Path) -> None:
    files = [tmp_path / "a.xml", tmp_path / "b.xml"]
    files[0].write_bytes(votable(before=info("OK")))
    files[1].write_bytes(votable(after=info("OVERFLOW")))
    with pytest.raises(CatalogError, match=r"b.xml: the query result is truncated"):
        Catalog.from_any(files)
    with pytest.raises(CatalogError, match=r"b.xml: the query result is truncated"):
        read_ids(tmp_path / "b.xml")


COORDINATES = SkyCoord([10.0, 200.0], [-30.0, 40.0], unit="deg")


@pytest.mark.parametrize("frame", ["icrs", "fk5", "galactic", "barycentrictrueecliptic"])
def test_coordinates_of_any_frame(frame: str) -> None:
    given = COORDINATES.transform_to(frame)
    for catalog in (
        Catalog.from_any(given),
        Catalog.from_arrays(given),
        Catalog.from_any(QTable({"where": given, "mag": [1.0, 2.0]}), columns=["mag"]),
    ):
        np.testing.assert_allclose(catalog.ra, COORDINATES.ra.deg, atol=1e-9)
        np.testing.assert_allclose(catalog.dec, COORDINATES.dec.deg, atol=1e-9)


def test_coordinates_that_are_none() -> None:
    assert Catalog.from_any(COORDINATES[0]).ra.tolist() == [10.0]
    assert Catalog.from_arrays(COORDINATES, object_id=["a", "b"]).object_id == ["a", "b"]
    distant = SkyCoord(10 * u.deg, 20 * u.deg, distance=3 * u.pc)
    np.testing.assert_allclose(Catalog.from_any(distant).dec, [20.0])
    with pytest.raises(CoordinateError, match="cannot be transformed to ICRS"):
        Catalog.from_any(SkyCoord([1], [2], unit="deg", frame=AltAz()))
    with pytest.raises(CoordinateError, match=r"shape \(2, 2\)"):
        Catalog.from_any(SkyCoord(np.ones((2, 2)), np.ones((2, 2)), unit="deg"))
    with pytest.raises(CatalogError, match="leave dec= out"):
        Catalog.from_arrays(COORDINATES, [1.0, 2.0])
    with pytest.raises(CatalogError, match="give ra= and dec="):
        Catalog.from_arrays([1.0, 2.0])


PARTS = {
    "integers": ([pa.array([1, 2], pa.int32()), pa.array([2**40, 4], pa.int64())], [1, 2, 2**40, 4], np.int64),
    "unsigned": ([pa.array([1, 2], pa.int64()), pa.array(BIG[:2], pa.uint64())], [1, 2, *BIG[:2].tolist()], np.uint64),
    "small unsigned": ([pa.array([-1, 2], pa.int64()), pa.array([3, 4], pa.uint64())], [-1, 2, 3, 4], np.int64),
    "floats": ([pa.array([0.5, None], pa.float32()), pa.array([0.1, 1.0])], [0.5, np.nan, 0.1, 1.0], np.float64),
    "floats and integers": ([pa.array([1, 2]), pa.array([0.5, None])], [1.0, 2.0, 0.5, np.nan], np.float64),
    "texts": ([pa.array(["a", "b"]), pa.array(["c", "d"], pa.large_string())], ["a", "b", "c", "d"], None),
    "dictionary": ([pa.array(["a", "b"]).dictionary_encode(), pa.array(["b", "c"])], ["a", "b", "b", "c"], None),
    "booleans": ([pa.array([True, False]), pa.array([True, True])], [True, False, True, True], np.bool_),
    "nothing": ([pa.array([None, None], pa.null()), pa.array([0.5, 1.0])], [np.nan, np.nan, 0.5, 1.0], np.float64),
    "arrays": (
        [pa.array([[1, 2], [3, 4]]), pa.array([[0.5, 1.0], [1.0, 1.0]])],
        [[1, 2], [3, 4], [0.5, 1], [1, 1]],
        np.float64,
    ),
}


def write_parts(folder: Path, parts) -> Path:
    folder.mkdir()
    for i, values in enumerate(parts):
        columns = {"ra": [10.0, 11.0], "dec": [1.0, 2.0], "x": values}
        pq.write_table(pa.table(columns), folder / f"part-{i}.parquet")
    return folder


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_different_types_are_promoted(tmp_path: Path, name: str) -> None:
    parts, expected, dtype = PARTS[name]
    values = Catalog.from_any(write_parts(tmp_path / "targets.v2", parts), columns=["x"]).columns["x"]
    if dtype is None:
        assert values == expected
    else:
        assert values.dtype == dtype
        np.testing.assert_array_equal(values, np.array(expected, dtype))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (([1, 2], ["a", "b"]), "part-1.parquet: column 'x' holds strings, but numbers in .*part-0.parquet"),
        (([True, False], [0, 1]), "part-1.parquet: column 'x' holds numbers, but booleans in"),
        (([[1, 2], [3, 4]], [[1, 2, 3], [3, 4, 5]]), r"part-1.parquet: column 'x' holds arrays \(3,\) of numbers"),
        (([2**60, 1], [0.5, 1.0]), "part-0.parquet: column 'x' has integers from 0 to 1152921504606846976"),
        (([-1, 1], pa.array(BIG[:2])), "column 'x' has integers from -1 to 18446744073709551615"),
    ],
)
def test_parts_that_no_type_holds_are_refused(tmp_path: Path, parts, words: str) -> None:
    with pytest.raises(CatalogError, match=words):
        Catalog.from_any(write_parts(tmp_path / "folder", parts), columns=["x"])


def test_a_part_without_a_column_or_with_another_unit_is_named(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "folder", [[1, 2], [3, 4]])
    pq.write_table(pa.table({"ra": [1.0], "dec": [2.0]}), folder / "part-1.parquet")
    with pytest.raises(CatalogError, match=r"part-1.parquet: no column 'x', which .*part-0.parquet has"):
        Catalog.from_any(folder, columns=["x"])
    assert len(Catalog.from_any(folder)) == 3  # nobody asks for x
    table = Table({"ra": [1.0] * u.rad, "dec": [0.5] * u.rad})
    table.write(folder / "part-2.parquet")
    with pytest.raises(CatalogError, match=r"part-2.parquet: column 'ra' has unit rad, but None in"):
        Catalog.from_any(folder)


def test_folders_patterns_lists_and_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_parts(tmp_path / "my targets", [[1, 2], [3, 4]])
    for hidden in (".cache/x.parquet", "_tmp/y.parquet", "._part-0.parquet", "data_thumbnail.parquet", "notes.txt"):
        (folder / hidden).parent.mkdir(exist_ok=True)
        (folder / hidden).write_bytes((folder / "part-0.parquet").read_bytes())
    csv = tmp_path / "more.csv"
    csv.write_text("ra,dec,x\n12,3,5\n")
    csvs = tmp_path / "csvs"
    csvs.mkdir()
    (csvs / "a.csv").write_text("ra,dec\n")
    monkeypatch.chdir(tmp_path)
    for source in (
        folder,
        folder.as_uri(),
        f"{folder}/part-*.parquet",
        f"{tmp_path}/*/part-?.parquet",
        "my targets",
        "my targets/part-[01].parquet",
        Path("my targets/part-*.parquet"),
        [folder / "part-0.parquet", (folder / "part-1.parquet").as_uri()],
        (folder / "part-0.parquet", pd.read_parquet(folder / "part-1.parquet")),
    ):
        catalog = Catalog.from_any(source, columns=["x"])
        assert catalog.columns["x"].tolist() == [1, 2, 3, 4], source
        assert catalog.object_id.tolist() == [0, 1, 2, 3]
    assert Catalog.from_any([folder, csv], columns=["x"]).columns["x"].tolist() == [1, 2, 3, 4, 5]
    assert Catalog.from_any(csv.as_uri()).source == str(csv)
    for source, words in (
        ("part-*.fits", "no file matches this pattern"),
        ([], "empty list"),
        ("s3://bucket/a.parquet", r"s3://bucket/a.parquet: a catalog cannot be read from this kind of URL"),
        ("file:///no/such/file.csv", "^/no/such/file.csv: this file does not exist"),
        (
            csvs,
            r"csvs: this folder contains no Parquet file .* but a.csv; give a file, or a pattern such as .*/csvs/\*.csv",
        ),
        ([[1.0, 2.0]], "builtins.float cannot be read as a catalog"),
    ):
        with pytest.raises(CatalogError, match=words):
            Catalog.from_any(source)


@pytest.mark.parametrize(
    "text",
    [
        b"objectId, ra, dec, kind\n1, 53.0, -28, lens\n2, 54.5, -29, no lens\n",
        b"objectId ,ra ,dec ,kind\n1 ,53.0 ,-28 ,lens\n2 ,54.5 ,-29 ,no lens\n",
        b"\xef\xbb\xbfobjectId,ra,dec,kind\r\n1,53.0,-28,lens\r\n2,54.5,-29,no lens\r\n",
        b'\xef\xbb\xbf"objectId", "ra", "dec", "kind"\n1, 53.0, -28, lens\n2, 54.5, -29, no lens\n',
        b"# made by hand\n#\nobjectId,\tra,\tdec,\tkind\n1,53.0,-28,\tlens\n2,54.5,-29,\tno lens\n",
    ],
)
def test_blanks_in_csv_do_not_count(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text)
    catalog = Catalog.from_any(path, columns=["kind"])
    assert (catalog.object_id.tolist(), catalog.ra.tolist(), catalog.dec.tolist()) == ([1, 2], [53.0, 54.5], [-28, -29])
    assert catalog.columns["kind"] == ["lens", "no lens"]


def test_csv_keeps_every_digit_and_late_types(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = "".join(f"{i},10,1\n" for i in range(200_000))  # more than one block of Arrow's reader
    path.write_text(f"x,ra,dec\n{rows}a,10.5,1\n")
    catalog = Catalog.from_any(path, columns=["x"])
    assert (catalog.columns["x"][-1], catalog.ra[-1]) == ("a", 10.5)
    path.write_text("object_id,ra,dec,x\n" + "".join(f"{i},10,1,1e300\n" for i in BIG.tolist()))
    assert Catalog.from_any(path).object_id.tolist() == BIG.tolist()


@pytest.mark.parametrize("text", ["ra,dec\n", "object_id,ra,dec,label\n", "# a comment\nra,dec\n"])
def test_a_header_alone_holds_no_rows(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(CatalogError, match=r"t.csv: the catalog is empty"):
        Catalog.from_any(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("diaObjectId", "diaSourceId"), "diaSourceId"),
        (("SourceID",), "SourceID"),
        (("sourceId", "diaObjectId"), "diaObjectId"),
        (("source", "source_id"), "source_id"),
        (("source", "objectId"), "objectId"),
        (("source",), "source"),
    ],
)
def test_id_columns_by_priority(names: tuple[str, ...], expected: str) -> None:
    table = {name: [10 * i + 5, 10 * i + 6] for i, name in enumerate(names)} | {"ra": [10.0, 11.0], "dec": [1.0, 2.0]}
    np.testing.assert_array_equal(Catalog.from_any(table).object_id, table[expected])
    np.testing.assert_array_equal(read_ids(table), table[expected])


@pytest.mark.parametrize("source", [["gaia", "gaia"], ["gaia", None], [1.5, 2.5], [{"a": 1}, {"a": 2}]])
def test_a_source_that_says_where_a_row_comes_from_is_no_id(source) -> None:
    frame = pd.DataFrame({"ra": [10.0, 11.0], "dec": [1.0, 2.0], "source": source})
    assert Catalog.from_any(frame).object_id.tolist() == [0, 1]
    with pytest.raises((CatalogError, RepeatedIdWarning), match="source"):
        Catalog.from_any(frame, object_id="source")


def test_the_position_columns_that_are_taken_are_named() -> None:
    table = {"ra": [10.0, 11.0], "dec": [1.0, 2.0], "coord_ra": [20.0, 21.0], "coord_dec": [1.0, 2.0]}
    with pytest.warns(
        PositionColumnWarning, match="read from 'ra' and 'dec', but 'coord_ra' and 'coord_dec' have different values"
    ):
        assert Catalog.from_any(table).ra.tolist() == [10.0, 11.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Catalog.from_any(table, ra="coord_ra", dec="coord_dec")
        Catalog.from_any(table | {"coord_ra": [10.0001, 11.0]})  # the same positions, as in Rubin's tables of sources
    with pytest.warns(PositionColumnWarning, match="'RA' and 'DEC' have different values"):
        Catalog.from_any({"ra": [10.0], "dec": [1.0], "RA": ["00:40:00"], "DEC": ["01:00:00"]})


def test_units_of_each_axis() -> None:
    for unit in ("hourangle,deg", ("hourangle", "deg"), "hourangle, deg"):
        np.testing.assert_allclose(Catalog.from_arrays([1.0], [20.0], unit=unit).ra, [15.0])
    with pytest.raises(CatalogError, match="give one unit, or one each for RA and Dec"):
        Catalog.from_arrays([1.0], [20.0], unit="deg,deg,deg")
