"""Exports of every kind of catalog; restarts, refusals, several processes, full disks."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import lsdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import Table

from lsstcutouts import Catalog, Footprint, ReadOptions, build_plan, export
from lsstcutouts.bulk import partition_export
from lsstcutouts.catalog.checks import RepeatedIdWarning
from lsstcutouts.errors import CatalogError, ConfigurationError, EmptyCatalogError, WriteError
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..support.exports import by_id, files_of, planes_of, rows_of, same, tables_of
from ..support.faulty import copied
from ..support.hats import divided, write_catalog
from ..support.processes import run_python
from ..support.ranks import environment
from ..support.repositories import SMALL, simulated_once
from .conftest import MASKS, SETTINGS, Exported, targets_of

PLAIN = {**SETTINGS, "planes": ("image",)}
FULL = {
    **SETTINGS,
    "planes": ("image", "variance", "ivar", "mask", "valid", "psf"),
    "read": ReadOptions(mask_planes=MASKS),
    "partition_bytes": 300_000,
}


@pytest.fixture(scope="module")
def plain(dp2_repo: SimulatedRepository, targets: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Return the rows of an export of image planes, in the order of the ids."""
    folder = tmp_path_factory.mktemp("plain") / "out"
    export(targets, dp2_repo.root, folder, **PLAIN)
    return by_id(rows_of(folder))


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    """Return a copy of the export that a test may change."""
    return Path(shutil.copytree(exported.folder, tmp_path / "copy"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with each target that is read."""
    found, deliver = list[int](), CutoutReader.submit

    def counted(self: CutoutReader, pool: Any, request: Any, **more: Any) -> Any:
        found.extend(request.targets.tolist())
        return deliver(self, pool, request, **more)

    monkeypatch.setattr(CutoutReader, "submit", counted)
    return found


def test_a_footprint_is_drawn_once_and_exported(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    footprint = {"footprint": {"n": 30, "views": 2, "bands": "all"}}
    images = {name: SETTINGS[name] for name in ("collections", "bands", "size")}
    plan = build_plan(dp2_repo.root, footprint, columns=["position", "view"], **images)
    export(footprint, dp2_repo.root, tmp_path / "out", **PLAIN)
    rows = by_id(rows_of(tmp_path / "out"))
    assert rows["object_id"].to_pylist() == list(range(60))
    np.testing.assert_array_equal(rows["ra"].to_numpy(), plan.ra)
    assert rows["view"].to_pylist() == plan.columns["view"].tolist()
    again = export(Footprint(n=30, views=2, bands="all"), dp2_repo.root, tmp_path / "out", **PLAIN)  # the same request
    assert again.complete
    with pytest.raises(CatalogError, match="no column 'label'"):
        export(footprint, dp2_repo.root, tmp_path / "other", columns=["label"], **PLAIN)
    with pytest.raises(ConfigurationError, match="catalog"):
        export(Footprint(n=31), dp2_repo.root, tmp_path / "out", **PLAIN)


def test_plain_tables_give_the_same_rows(dp2_repo: SimulatedRepository, plain: pa.Table, tmp_path: Path) -> None:
    table = targets_of(dp2_repo)
    frame = table.to_pandas()
    pq.write_table(table, tmp_path / "rows.parquet")
    frame.assign(ra=frame.ra / 15).to_csv(tmp_path / "hours.csv", index=False)
    astropy = Table.from_pandas(frame)
    astropy["ra"], astropy["dec"] = np.radians(frame.ra.to_numpy()) * units.rad, frame.dec.to_numpy() * units.deg
    Table.from_pandas(frame).write(tmp_path / "rows.fits")
    columns = {name: frame[name].to_numpy() for name in ("label", "theta_e", "flux_i")}
    catalogs: dict[str, tuple[Any, dict[str, Any]]] = {
        "parquet": (tmp_path / "rows.parquet", {}),
        "hours": (tmp_path / "hours.csv", {"unit": "hourangle,deg"}),
        "astropy": (astropy, {"columns": ["label", "theta_e"]}),
        "fits": (tmp_path / "rows.fits", {}),
        "catalog": (Catalog.from_arrays(frame.ra, frame.dec, frame.object_id, columns), {}),
        "lsdb": (lsdb.from_dataframe(frame, partition_rows=90, highest_order=5), {}),
        "dictionary": ({"path": str(tmp_path / "rows.parquet"), "object_id": "object_id"}, {}),
    }
    for name, (catalog, more) in catalogs.items():
        result = export(catalog, dp2_repo.root, tmp_path / name, **PLAIN, **more)
        rows = by_id(rows_of(tmp_path / name))
        assert result.complete, name
        np.testing.assert_allclose(rows["ra"].to_numpy(), plain["ra"].to_numpy(), rtol=1e-13, err_msg=name)
        for column in ("object_id", "outcome", "label"):
            assert rows[column].to_pylist() == plain[column].to_pylist(), (name, column)
        if name not in {"hours", "astropy"}:  # their positions are rounded, and with them offsets
            for column in ("flux", "offset", "theta_e"):
                np.testing.assert_array_equal(planes_of(rows, column), planes_of(plain, column), err_msg=name)


def test_positions_without_ids(dp2_repo: SimulatedRepository, plain: pa.Table, tmp_path: Path) -> None:
    table = targets_of(dp2_repo)
    sky = SkyCoord(table["ra"].to_numpy(), table["dec"].to_numpy(), unit="deg")
    export(sky, dp2_repo.root, tmp_path / "out", **PLAIN)
    rows = rows_of(tmp_path / "out")
    assert sorted(rows["row"].to_pylist()) == list(range(140))
    ids = np.array(table["object_id"])[rows["row"].to_numpy()]
    order = np.argsort(ids)
    assert rows.take(pa.array(order))["outcome"].to_pylist() == plain["outcome"].to_pylist()


@pytest.mark.parametrize("kind", ["text", "unsigned", "repeated", "nulls", "names"])
@pytest.mark.parametrize("hats", [True, False], ids=["hats", "parquet"])
@pytest.mark.filterwarnings("ignore::lsstcutouts.catalog.checks.RepeatedIdWarning")
def test_unusual_columns(dp2_repo: SimulatedRepository, tmp_path: Path, kind: str, hats: bool) -> None:
    table = targets_of(dp2_repo).select(["object_id", "ra", "dec", "label"])
    numbers = table["object_id"].to_numpy()
    ids = {
        "text": pa.array([f"LSST {n} ü" for n in numbers]),
        "unsigned": pa.array(numbers.astype(np.uint64) + np.uint64(2**63)),
        "repeated": pa.array(numbers // 2**40 * 0 + np.arange(140) // 2),
    }.get(kind, table["object_id"])
    table = table.set_column(0, "object_id", ids)
    if kind == "nulls":
        for name, type_ in (("a", pa.int64()), ("b", pa.float32()), ("c", pa.bool_())):
            table = table.append_column(name, pa.array([None if n % 3 else n % 2 for n in range(140)]).cast(type_))
    if kind == "names":
        for name in ("flux", "row", "tract", "__ra__", "flux_scale", "reason"):
            table = table.append_column(name, pa.array(np.arange(140.0)))
    if hats:
        catalog = write_catalog(tmp_path / "catalog", divided(table, 60))
    else:
        catalog = tmp_path / "rows.parquet"
        pq.write_table(table, catalog)
    result = export(catalog, dp2_repo.root, tmp_path / "out", **PLAIN)
    rows = rows_of(tmp_path / "out")
    assert result.complete
    assert result.delivered == 80
    assert len(set(rows.column_names)) == len(rows.column_names)
    assert sorted(rows["object_id"].to_pylist()) == sorted(ids.to_pylist())
    assert rows["object_id"].type == ids.type
    if kind == "nulls":
        for name in "abc":
            assert rows[name].null_count in {93, 0} if not hats else 93
            values = [v for v in rows[name].to_pylist() if v is not None and not np.isnan(v)]
            assert len(values) == 47, name
    if kind == "names":
        assert pa.types.is_fixed_size_list(rows["flux"].type)
        assert pa.types.is_string(rows["reason"].type)


@pytest.mark.parametrize("kind", ["hats", "collection", "lsdb", "parquet"])
def test_select_and_cone(
    dp2_repo: SimulatedRepository, targets: Path, plain: pa.Table, tmp_path: Path, kind: str
) -> None:
    table = targets_of(dp2_repo)
    pq.write_table(table, tmp_path / "rows.parquet")
    catalog: Any = {
        "hats": targets / "objects",
        "collection": targets,
        "lsdb": lsdb.open_catalog(targets).query("flux_i > 20000"),
        "parquet": tmp_path / "rows.parquet",
    }[kind]
    middle = [53.0657, -27.518]
    given = {"cone": [*middle, 0.005]} if kind == "lsdb" else {"select": "flux_i > 20000", "cone": [*middle, 0.005]}
    result = export(catalog, dp2_repo.root, tmp_path / "out", **PLAIN, **given)
    frame = table.to_pandas()
    sky = SkyCoord(frame.ra, frame.dec, unit="deg")
    near = sky.separation(SkyCoord(*middle, unit="deg")).deg <= 0.005
    want = sorted(frame.object_id[near & (frame.flux_i > 20000)])
    assert 3 < len(want) < 70
    rows = by_id(rows_of(tmp_path / "out"))
    assert rows["object_id"].to_pylist() == want
    assert result.rows == len(want)
    at = np.isin(plain["object_id"].to_numpy(), want)
    np.testing.assert_array_equal(planes_of(rows, "flux"), planes_of(plain.filter(pa.array(at)), "flux"))


def test_another_query_of_lsdb_is_another_catalog(dp2_repo: SimulatedRepository, targets: Path, tmp_path: Path) -> None:
    opened = lsdb.open_catalog(targets)
    export(opened.query("flux_i > 20000"), dp2_repo.root, tmp_path / "out", **PLAIN)
    assert export(opened.query("flux_i > 20000"), dp2_repo.root, tmp_path / "out", **PLAIN).skipped
    with pytest.raises(ConfigurationError, match="another catalog"):
        export(opened.query("flux_i > 30000"), dp2_repo.root, tmp_path / "out", **PLAIN)


def test_nothing_to_export(dp2_repo: SimulatedRepository, targets: Path, tmp_path: Path) -> None:
    for catalog in (targets, dp2_repo.truth):
        with pytest.raises(EmptyCatalogError, match="select='label == 7'"):
            export(catalog, dp2_repo.root, tmp_path / "out", **PLAIN, select="label == 7")
    with pytest.raises(CatalogError, match="no column 'flux_q'"):
        export(targets, dp2_repo.root, tmp_path / "other", **PLAIN, columns=["flux_q"])
    with pytest.raises(ConfigurationError, match="cone"):
        export(Catalog.from_any(dp2_repo.truth), dp2_repo.root, tmp_path / "other", **PLAIN, cone=(53, -27, 1))


def test_a_finished_export_reads_nothing(exported: Exported, copy: Path, reads: list[int]) -> None:
    before = tables_of(copy)
    result = export(exported.catalog, exported.repo.root, copy, **FULL)
    assert result.complete
    assert result.skipped == result.partitions
    assert result.outcomes == exported.result.outcomes
    assert (result.rows, result.bytes, result.files) == (140, exported.result.bytes, exported.result.files)
    assert not reads
    assert same(tables_of(copy), before)


def is_covered(path: Path) -> bool:
    return bool(pq.read_table(path, columns=["flux"])["flux"].null_count == 0)


def test_what_is_missing_is_made_again(exported: Exported, copy: Path, reads: list[int]) -> None:
    """A file that was removed or cut, an unreadable record, files left by a killed process."""
    whole = tables_of(copy)
    files = [path for path in files_of(copy) if pq.read_metadata(path).num_rows > 4 and is_covered(path)]
    files[0].unlink()
    files[-1].write_bytes(files[-1].read_bytes()[:1000])
    record = min((copy / "finished").iterdir())
    record.write_bytes(b"")
    for name in (".Npix=1.parquet.node.1.part", "Npix=1.parquet"):
        (files[0].parent / name).write_bytes(b"PAR1")
    (copy / ".hats-old").mkdir()
    result = export(exported.catalog, exported.repo.root, copy, **FULL)
    assert result.complete
    assert 2 <= result.partitions - result.skipped <= 3
    assert 0 < len(reads) < 80
    assert same(tables_of(copy), whole)
    left = {path.name for path in copy.rglob("*") if path.name.startswith(".")}
    assert not left, left


def test_other_settings_are_refused_by_name(exported: Exported, copy: Path) -> None:
    (copy / "collection.properties").unlink()
    next((copy / "finished").iterdir()).unlink()
    other = {
        "bands": {"bands": "gr"},
        "size": {"size": (20, 25)},
        "planes": {"planes": ("image", "mask")},
        "dtype": {"dtype": "float16"},
        "partition_bytes": {"partition_bytes": 400_000},
        "select": {"select": "label == 1"},
        "cone": {"cone": (53.06, -27.5, 1)},
        "columns": {"columns": ["label"]},
        "min_bands": {"read": ReadOptions(mask_planes=MASKS, min_bands=2)},
        "quality": {"read": replace(FULL["read"], on_read_error="skip")},
    }
    for name, change in other.items():
        with pytest.raises(
            ConfigurationError, match="another on_read_error" if name == "quality" else f"another {name}"
        ):
            export(exported.catalog, exported.repo.root, copy, **{**FULL, **change})
    with pytest.raises(ConfigurationError, match="another catalog"):
        export(exported.repo.truth, exported.repo.root, copy, **FULL)
    for setting in ({"threads": 1}, {"cache_bytes": "50 MB"}):
        assert export(exported.catalog, exported.repo.root, copy, **{**FULL, **setting}).complete


def test_another_repository_is_refused(exported: Exported, targets: Path, copy: Path, tmp_path: Path) -> None:
    moved = copied(exported.repo, tmp_path)
    with pytest.raises(ConfigurationError, match="another repo"):
        export(targets, moved.root, copy, **FULL)
    folder = tmp_path / "out"
    export(targets, moved.root, folder, **PLAIN)
    for result in sorted((folder / "finished").iterdir())[:3]:
        result.unlink()
    shutil.rmtree(moved.root)
    other = simulated_once(SimulationConfig(release="dp2", **{**SMALL, "seed": 8}))
    shutil.copytree(other.root, moved.root)
    with pytest.raises(ConfigurationError, match="has other images for partition"):
        export(targets, moved.root, folder, **PLAIN)


def test_the_same_repository_by_another_path(
    dp2_repo: SimulatedRepository, targets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(targets, dp2_repo.root, tmp_path / "out", **PLAIN)
    monkeypatch.chdir(tmp_path)
    relative = os.path.relpath(dp2_repo.root, tmp_path)
    assert export(os.path.relpath(targets), os.path.normpath(tmp_path / relative), "out", **PLAIN).skipped


def test_outputs_that_cannot_be(dp2_repo: SimulatedRepository, targets: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="file/out"):
        export(targets, dp2_repo.root, tmp_path / "file" / "out", **PLAIN)
    with pytest.raises(ConfigurationError, match="not an export"):
        export(targets, dp2_repo.root, tmp_path, **PLAIN)
    with pytest.raises((ConfigurationError, WriteError), match="file"):
        export(targets, dp2_repo.root, tmp_path / "file", **PLAIN)
    for part in ((0, 2), (3, 2), "1/2", (1.0, 2)):
        with pytest.raises(ConfigurationError, match="part="):
            export(targets, dp2_repo.root, tmp_path / "out", **PLAIN, part=part)
    with pytest.raises(ConfigurationError, match="missing_band=nan"):
        export(targets, dp2_repo.root, tmp_path / "out", **PLAIN, read=ReadOptions(missing_band="nan"))


@pytest.mark.slow
def test_two_processes_share_an_export(
    dp2_repo: SimulatedRepository, targets: Path, plain: pa.Table, tmp_path: Path
) -> None:
    arguments = [dp2_repo.root, targets, tmp_path / "out"]
    run_python("tests.support.exporting", arguments, envs=[environment(PART=f"{number}/2") for number in (1, 2)])
    assert by_id(rows_of(tmp_path / "out")).equals(plain)
    assert (tmp_path / "out" / "collection.properties").exists()
    assert len(lsdb.open_catalog(tmp_path / "out").compute()) == 140
    assert not list((tmp_path / "out").rglob(".*"))


@pytest.mark.slow
def test_a_full_disk_ends_the_run(dp2_repo: SimulatedRepository, targets: Path, tmp_path: Path) -> None:
    arguments = [dp2_repo.root, targets, tmp_path / "out"]
    with pytest.raises(AssertionError, match=r"WriteError.*cannot be written") as caught:
        run_python("tests.support.exporting", arguments, envs=[environment(LARGEST_FILE="60000")])
    assert "File too large" in str(caught.value).splitlines()[-1]
    assert not list((tmp_path / "out").rglob("*.part"))
    assert export(targets, dp2_repo.root, tmp_path / "out", **PLAIN).complete


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self").exists(), reason="root may write everywhere")
def test_a_folder_that_becomes_read_only(
    dp2_repo: SimulatedRepository, targets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file system that is mounted again after an error; the owner of a folder may be root, who writes anywhere."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refused)
        with pytest.raises(WriteError, match="Read-only file system"):
            export(targets, dp2_repo.root, tmp_path / "out", **PLAIN)
    with monkeypatch.context() as patch:
        patch.setattr(partition_export, "write_finished", refused)
        with pytest.raises(PermissionError):
            export(targets, dp2_repo.root, tmp_path / "out", **PLAIN)
    with monkeypatch.context() as patch:
        patch.setattr("hats.catalog.dataset.table_properties.TableProperties.to_properties_file", refused)
        with pytest.raises(WriteError, match="give the same command again"):
            export(targets, dp2_repo.root, tmp_path / "out", **PLAIN)
    result = export(targets, dp2_repo.root, tmp_path / "out", **PLAIN)
    assert result.complete
    assert result.skipped == result.partitions


def test_repeated_ids_warn(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    table = targets_of(dp2_repo)
    catalog = pa.concat_tables([table, table.slice(0, 1)])
    with pytest.warns(RepeatedIdWarning):
        result = export(catalog, dp2_repo.root, tmp_path / "out", **PLAIN)
    assert (result.rows, result.delivered) == (141, 81)


def test_progress_and_numbers(dp2_repo: SimulatedRepository, targets: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    first = export(targets, dp2_repo.root, tmp_path / "out", **PLAIN, part=(1, 3), progress=seen.append)
    assert not first.complete
    assert len(seen) == first.finished == first.partitions // 3
    assert first.rows == sum(one.rows for one in seen)
    assert first.as_dict()["complete"] is False
    second = export(targets, dp2_repo.root, tmp_path / "out", **PLAIN, part=(2, 3))
    assert second.skipped == first.finished
    last = export(targets, dp2_repo.root, tmp_path / "out", **PLAIN)
    assert last.complete
    assert last.skipped == second.finished
    assert last.rows == 140
