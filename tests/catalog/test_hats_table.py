"""HATS catalogs and catalogs of LSDB: the same rows as files of Parquet, read in parts, and errors of damaged ones."""

import builtins
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hats
import lsdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord

from lsstcutouts.catalog import rows as rows_module
from lsstcutouts.catalog.checks import RepeatedIdWarning
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import CatalogError, ConfigurationError, DependencyError, MemoryBudgetError

from ..support.server import serving

ROWS = 600
COLUMNS = ("mag_i", "name", "flag")


def objects() -> pd.DataFrame:
    """Return a table around the RA of 0, whose columns hold what Rubin's tables hold; ``label`` and ``mag_i`` have nulls."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "objectId": np.arange(ROWS) + 2**60,
            "coord_ra": rng.uniform(-2, 2, ROWS) % 360,
            "coord_dec": rng.uniform(-30, -26, ROWS),
            "mag_i": rng.uniform(18, 26, ROWS).astype(np.float32),
            "label": pd.array(rng.integers(0, 3, ROWS), "Int64"),
            "name": [f"object {i}" for i in range(ROWS)],
            "flag": rng.random(ROWS) < 0.5,
            "ra": 1.0,  # another pair of positions, which hats.properties does not name
            "dec": 1.0,
        }
    )
    frame.loc[::7, "label"] = pd.NA
    frame.loc[::9, "mag_i"] = np.nan
    return frame


def written(frame: pd.DataFrame, path: Path, **options: Any) -> Path:
    """Write a HATS catalog: a collection with a margin cache of 100 arcsec unless ``as_collection`` is false."""
    collection = options.pop("as_collection", True)
    margin = 100.0 if collection else None
    catalog = lsdb.from_dataframe(
        frame,
        ra_column="coord_ra",
        dec_column="coord_dec",
        margin_threshold=margin,
        **{"partition_rows": 80, "highest_order": 6, **options},
    )
    catalog.write_catalog(path, catalog_name="objects", as_collection=collection, progress_bar=False)
    return path


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(objects(), tmp_path_factory.mktemp("hats") / "my objects")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(
        objects(), tmp_path_factory.mktemp("one") / "one", partition_rows=10**6, highest_order=2, as_collection=False
    )


def partitions(catalog: Path) -> list[Path]:
    """Return the partition files along ``_healpix_29``, found without the packages for HATS."""

    def start(file: Path) -> int:
        order, pixel = (int(part.split("=")[1]) for part in (file.parts[-3], file.stem))
        return pixel << 2 * (29 - order)

    return sorted(catalog.glob("dataset/Norder=*/Dir=*/Npix=*.parquet"), key=start)


def as_parquet(catalog: Path, path: Path) -> Path:
    """Write the rows of a HATS catalog to one Parquet file, in the order that is documented."""
    pq.write_table(pa.concat_tables([pq.ParquetFile(file).read() for file in partitions(catalog)]), path)
    return path


POSITION = {"ra": "coord_ra", "dec": "coord_dec"}


def assert_same(one: Catalog, other: Catalog) -> None:
    assert one.fingerprint() == other.fingerprint()
    assert one.object_id.dtype == other.object_id.dtype
    for name, values in other.columns.items():
        assert type(one.columns[name]) is type(values)


def test_every_form_of_a_catalog_gives_the_rows_of_its_files(collection: Path, single: Path, tmp_path: Path) -> None:
    main = collection / "objects"
    assert len(partitions(main)) > 8
    assert list(collection.glob("objects_*/dataset/Norder=*"))  # the margin cache, whose rows are not targets
    plain = Catalog.from_any(as_parquet(main, tmp_path / "rows.parquet"), columns=COLUMNS, **POSITION)
    assert len(plain) == ROWS
    for source in (
        collection,
        str(collection),
        collection.as_uri(),
        main,
        {"path": collection},
        hats.read_hats(collection),
        hats.read_hats(main),
        lsdb.open_catalog(collection),
        lsdb.open_catalog(collection, columns="all", margin_cache=None),
    ):
        assert_same(Catalog.from_any(source, columns=COLUMNS), plain)
    one = Catalog.from_any(as_parquet(single, tmp_path / "one.parquet"), columns=COLUMNS, **POSITION)
    assert_same(Catalog.from_any(single, columns=COLUMNS), one)
    with pytest.warns(RepeatedIdWarning, match="600 ids"):
        both = Catalog.from_any([single, collection], columns=COLUMNS, cone=(0.0, -28.0, 9.0))
    assert (len(both), both[:ROWS].fingerprint()) == (2 * ROWS, one.fingerprint())


def test_a_catalog_behind_a_server(collection: Path, tmp_path: Path) -> None:
    plain = Catalog.from_any(collection, columns=COLUMNS, cone=(0.2, -28.0, 0.4))
    shutil.copytree(collection, tmp_path / "objects")
    with serving(tmp_path) as server:
        url = f"{server.url}/objects"
        assert_same(Catalog.from_any(url, columns=COLUMNS, cone=(0.2, -28.0, 0.4)), plain)
        with pytest.raises(CatalogError, match=r"/nothing.* does not exist.*hats.properties or collection.properties"):
            Catalog.from_any(f"{server.url}/nothing")


SUBSETS: list[dict[str, Any]] = [
    {"select": "mag_i < 99"},
    {"select": "mag_i < 20.5"},
    {"select": "20 < mag_i <= 20.5 and not label == 1"},
    {"select": "label in (1, 2)"},
    {"select": "label != 1 or mag_i > 25"},
    {"select": "name == 'object 17'"},
    {"select": f"object_id >= {2**60 + 590}"},
    {"select": "ra > 359 and dec < -29"},
    {"cone": (0.0, -28.0, 0.7)},
    {"cone": (359.9, -28.0, 180.0)},
    {"cone": (0.3, -27.5, 1.0), "select": "mag_i < 22 and label >= 0"},
]


@pytest.mark.parametrize("subset", SUBSETS, ids=str)
def test_a_subset_is_that_of_the_same_rows_as_parquet(
    collection: Path, single: Path, tmp_path: Path, subset: dict[str, Any]
) -> None:
    for path, main in ((collection, collection / "objects"), (single, single)):
        table = as_parquet(main, tmp_path / f"{main.name}.parquet")
        plain = Catalog.from_any(table, columns=COLUMNS, **POSITION, **subset)
        frame = pq.read_table(table).to_pandas()
        query = subset.get("select", "objectId > 0").replace("object_id", "objectId")
        query = query.replace("ra ", "coord_ra ").replace("dec ", "coord_dec ")
        kept = frame.eval(query.replace("not label == 1", "label.notnull() and label != 1")) & ~(
            frame.label.isnull() & ("label !=" in query) & ~(frame.mag_i > 25)
        )
        if "cone" in subset:
            ra, dec, radius = subset["cone"]
            position = SkyCoord(frame.coord_ra, frame.coord_dec, unit="deg")
            kept &= position.separation(SkyCoord(ra, dec, unit="deg")).deg <= radius
        np.testing.assert_array_equal(plain.object_id, frame.objectId[kept])
        assert len(plain) > 0
        for source in (path, {"path": path, **subset}, lsdb.open_catalog(path)):
            found = Catalog.from_any(source, columns=COLUMNS, **({} if isinstance(source, dict) else subset))
            assert_same(found, plain)


def test_catalogs_that_lsdb_or_hats_have_filtered(collection: Path) -> None:
    catalog = lsdb.open_catalog(collection)
    expected = Catalog.from_any(collection, cone=(0.3, -27.5, 1.0), select="mag_i < 22", columns=COLUMNS)
    assert_same(Catalog.from_any(catalog.query("mag_i < 22").cone_search(0.3, -27.5, 3600), columns=COLUMNS), expected)
    opened = lsdb.open_catalog(collection, columns=["objectId", "coord_ra", "coord_dec"], filters=[("mag_i", "<", 22)])
    assert_same(
        Catalog.from_any(opened.cone_search(0.3, -27.5, 3600)),
        Catalog.from_any(collection, cone=(0.3, -27.5, 1.0), select="mag_i < 22"),
    )
    with pytest.raises(CatalogError, match="no column 'mag_i'"):
        Catalog.from_any(opened, columns=["mag_i"])
    main = hats.read_hats(collection).main_catalog
    some = main.filter_from_pixel_list(main.get_healpix_pixels()[2:4])  # whole partitions
    files = partitions(collection / "objects")[2:4]
    ids = pa.concat_tables([pq.ParquetFile(file).read(["objectId"]) for file in files])["objectId"].to_pylist()
    assert Catalog.from_any(some).object_id.tolist() == ids
    assert Catalog.from_any(catalog.pixel_search(main.get_healpix_pixels()[2:4])).object_id.tolist() == ids


def test_nothing_is_kept(collection: Path) -> None:
    for source in (collection, lsdb.open_catalog(collection)):
        with pytest.raises(CatalogError, match=r"no row meets select='mag_i < 0' \(.* of 600 were tested"):
            Catalog.from_any(source, select="mag_i < 0")
        with pytest.raises(CatalogError, match=r"no row meets cone=\(90.0, 0.0, 1.0\) \(0 rows"):
            Catalog.from_any(source, cone=(90.0, 0.0, 1.0))
        with pytest.raises(ConfigurationError, match=r"'magi', which the catalog does not have; did you mean mag_i"):
            Catalog.from_any(source, select="magi < 20")
        with pytest.raises(ConfigurationError, match="cannot be evaluated"):
            Catalog.from_any(source, select="name < 20")
    with pytest.raises(ConfigurationError, match="unknown setting 'where'; besides path there are ra,"):
        Catalog.from_any({"path": collection, "where": "mag_i < 20"})


@pytest.fixture
def read_groups(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """Return a list of what is read from now on: file and columns of each row group."""
    found: list[tuple[str, tuple[str, ...]]] = []
    original = pads.ParquetFileFragment.to_table

    class Counted:
        def __init__(self, fragment: Any) -> None:
            self.fragment = fragment

        def __getattr__(self, name: str) -> Any:
            return getattr(self.fragment, name)

        def subset(self, **chosen: Any) -> "Counted":
            return Counted(self.fragment.subset(**chosen))

        def to_table(self, columns: list[str]) -> Any:
            found.append((self.fragment.path, tuple(columns)))
            return original(self.fragment, columns=columns)

    from hats.io import file_io

    class CountedSet:
        def __init__(self, dataset: Any) -> None:
            self.dataset = dataset

        def __getattr__(self, name: str) -> Any:
            return getattr(self.dataset, name)

        def get_fragments(self) -> Iterator[Counted]:
            return map(Counted, self.dataset.get_fragments())

    opened = file_io.read_parquet_dataset

    def counted(source: Any, **more: Any) -> tuple[Any, CountedSet]:
        path, dataset = opened(source, **more)
        return path, CountedSet(dataset)

    monkeypatch.setattr(file_io, "read_parquet_dataset", counted)
    return found


def test_only_needed_row_groups_and_columns_are_read(
    tmp_path: Path, read_groups: list[tuple[str, tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A column of 8 MB, which would be held if whole partitions were read: 600 rows of 3500 numbers.
    frame = objects().sort_values("coord_ra")
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(ROWS * 3500, dtype=np.float32)), 3500)
    frame["spectrum"] = pd.Series(wide, dtype=pd.ArrowDtype(wide.type), index=frame.index)
    path = written(frame, tmp_path / "wide", partition_rows=200, as_collection=False, lowest_order=2)
    for file in partitions(path):  # as hats-import writes them: sorted, several row groups
        table = pq.ParquetFile(file).read().sort_by("_healpix_29")
        pq.write_table(table, file, row_group_size=20)
    total = sum(pq.ParquetFile(file).num_row_groups for file in partitions(path))
    assert total >= 25
    del read_groups[:]
    whole = Catalog.from_any(path)
    assert len(read_groups) == total
    assert {columns for _, columns in read_groups} == {("coord_ra", "coord_dec", "objectId")}
    del read_groups[:]
    part = Catalog.from_any(path, cone=(0.3, -27.5, 0.2), columns=["spectrum"])
    wide_reads = [columns for _, columns in read_groups if "spectrum" in columns]
    assert len(wide_reads) <= 6
    assert len(read_groups) < total
    numbers = frame.set_index("objectId")["spectrum"]
    for one, spectrum in zip(part.object_id.tolist(), part.columns["spectrum"], strict=True):
        np.testing.assert_array_equal(spectrum, numbers[one])
    near = SkyCoord(whole.ra, whole.dec, unit="deg").separation(SkyCoord(0.3, -27.5, unit="deg")).deg <= 0.2
    np.testing.assert_array_equal(part.object_id, whole.object_id[near])
    del read_groups[:]
    bright = Catalog.from_any(path, select=f"objectId == {2**60 + 5}")
    assert bright.object_id.tolist() == [2**60 + 5]
    assert len(read_groups) <= total  # statistics of ids say little here, but are used
    del read_groups[:]
    with pytest.raises(CatalogError, match=r"no row meets select='mag_i > 30' \(0 rows of 600"):
        Catalog.from_any(path, select="mag_i > 30")
    assert read_groups == []
    monkeypatch.setattr(rows_module, "available_memory", lambda: 50_000)
    with pytest.raises(MemoryBudgetError, match=r"600 rows and their plan need .*select= and cone="):
        Catalog.from_any(path)
    assert read_groups == []
    assert len(Catalog.from_any(path, select="mag_i < 19")) < 100


def test_partitions_of_different_types(tmp_path: Path) -> None:
    path = written(objects(), tmp_path / "types", partition_rows=200, as_collection=False)
    first, second = partitions(path)[:2]
    table = pq.ParquetFile(first).read()
    n = table.column_names.index("label")
    pq.write_table(table.set_column(n, "label", table["label"].cast(pa.int16())), first)
    other = pq.ParquetFile(second).read()
    pq.write_table(other.set_column(n, "label", pa.array([2.5] * len(other))), second)
    found = Catalog.from_any(path, columns=["label"], select="label >= 0").columns["label"]
    assert found.dtype == np.float64
    assert 2.5 in found
    pq.write_table(other.set_column(n, "label", pa.array(["two"] * len(other))), second)
    with pytest.raises(CatalogError, match=rf"{second.name}: column 'label' holds strings, but numbers in .*Npix"):
        Catalog.from_any(path, columns=["label"], cone=(0, -28, 5))
    pq.write_table(other.drop_columns("label"), second)
    with pytest.raises(CatalogError, match=rf"{second.name} has no column 'label'.*copy the catalog again"):
        Catalog.from_any(path, columns=["label"])
    assert len(Catalog.from_any(path)) == ROWS


def test_damaged_catalogs(collection: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(collection, tmp_path / name))

    lost = copy("lost")
    file = partitions(lost / "objects")[3]
    file.unlink()
    with pytest.raises(
        CatalogError, match=rf"lost: partition dataset/.*{file.name} does not exist.*list of partitions"
    ):
        Catalog.from_any(lost)
    file.write_bytes(b"PAR1 nothing")
    with pytest.raises(CatalogError, match=rf"{file.name} cannot be read: .*copy the catalog again"):
        Catalog.from_any(lost)
    with pytest.raises(CatalogError, match=r"lsdb catalog objects: partition Norder=.* cannot be read"):
        Catalog.from_any(lsdb.open_catalog(lost))
    bare = copy("bare")
    for name in ("hats.properties", "properties"):
        (bare / "objects" / name).unlink()
    with pytest.raises(CatalogError, match=r"objects: this folder holds partitions .* but no hats.properties"):
        Catalog.from_any(bare / "objects")
    with pytest.raises(CatalogError, match=r"bare does not exist: .*No properties file found"):
        Catalog.from_any(bare)
    with pytest.raises(CatalogError, match="this folder holds partitions"):
        Catalog.from_any(str(tmp_path / "los*" / "objects" / "dataset"))
    margin = next(path for path in collection.iterdir() if path.name.startswith("objects_"))
    with pytest.raises(CatalogError, match=r"type 'margin', not a table of objects or sources; give its main catalog"):
        Catalog.from_any(margin)
    wrong = copy("wrong")
    (wrong / "collection.properties").write_text("obs_collection=x\n")
    with pytest.raises(CatalogError, match=r"(?s)wrong cannot be read: .*hats_primary_table_url"):
        Catalog.from_any(wrong)


@pytest.mark.parametrize("ids", [[f"J{i:04d}" for i in range(40)], list(range(40)), list(range(2**62, 2**62 + 40))])
def test_ids_of_every_type(tmp_path: Path, ids: list[Any]) -> None:
    frame = objects()[:40].assign(objectId=np.array(ids, np.uint64 if ids[0] == 2**62 else None))
    path = written(frame, tmp_path / "ids", partition_rows=20, as_collection=False)
    found = Catalog.from_any(path, columns=["name"])
    assert sorted(np.asarray(found.object_id).tolist()) == sorted(ids)
    rows = [int(name.split()[1]) for name in found.columns["name"]]
    assert np.asarray(found.object_id).tolist() == [ids[row] for row in rows]
    one = Catalog.from_any(path, select=f"object_id == {ids[7]!r}")
    assert np.asarray(one.object_id).tolist() == [ids[7]]


def test_partitions_may_be_folders_of_files(collection: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(collection / "objects", tmp_path / "folders"))
    for file in partitions(path):
        table = pq.ParquetFile(file).read()
        file.unlink()
        file.with_suffix("").mkdir()
        pq.write_table(table[:5], file.with_suffix("") / "a.parquet")
        pq.write_table(table[5:], file.with_suffix("") / "b.parquet")
    for name in ("hats.properties", "properties"):
        text = (path / name).read_text().replace("hats_npix_suffix=.parquet", "hats_npix_suffix=/")
        (path / name).write_text(text)
    assert_same(Catalog.from_any(path, columns=COLUMNS), Catalog.from_any(collection, columns=COLUMNS))


def test_a_missing_package_is_named(collection: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".", maxsplit=1)[0] in {"hats", "s3fs"}:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return original(name, *rest, **more)

    with pytest.raises(DependencyError, match=r"s3://bucket/objects: .*s3fs"):
        Catalog.from_any("s3://bucket/objects")
    monkeypatch.setitem(sys.modules, "hats", None)
    with pytest.raises(DependencyError, match=r"pip install 'lsstcutouts\[bulk\]'"):
        Catalog.from_any(collection)
