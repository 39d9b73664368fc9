"""The rows and pixels of exported partitions are those of the reader and of the Butler; policies; memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import hats
import lsdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lsst.daf.butler import Butler

from lsstcutouts import QualityPolicy, ReadOptions, build_plan, export
from lsstcutouts.bulk.exporting import Export
from lsstcutouts.bulk.part_writer import group_rows
from lsstcutouts.catalog.healpix import healpix_of
from lsstcutouts.plan.quality import Outcome, Quality
from lsstcutouts.read.exports.export_description import ExportDescription
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.sky.geometry import YX
from lsstcutouts.testing import SimulatedRepository

from ..support.exports import by_id, files_of, planes_of, rows_of, same, tables_of
from ..support.faulty import copied, file_of, spoil_tile
from ..support.hats import divided, write_catalog
from ..support.oracle import expected
from .conftest import MASKS, SETTINGS, Exported, targets_of

COLUMNS = {
    "image": "flux",
    "variance": "variance",
    "ivar": "ivar",
    "valid": "valid",
    "psf": "psf",
    "psf_present": "psf_present",
    "wcs": "wcs",
    "offset": "offset",
    "yx0": "yx0",
    "quality": "quality",
    "band_present": "band_present",
}


def delivered(rows: pa.Table) -> pa.Table:
    return by_id(rows.filter(pa.compute.equal(rows["outcome"], "delivered")))


def exported_with(repo: SimulatedRepository, catalog: Any, folder: Path, **settings: Any) -> tuple[Any, pa.Table]:
    result = export(catalog, repo.root, folder, **{**SETTINGS, **settings})
    return result, rows_of(folder) if result.complete else None


def test_every_row_is_there_once_along_the_sky(exported: Exported) -> None:
    rows, targets = rows_of(exported.folder), targets_of(exported.repo)
    assert by_id(rows)["object_id"].to_pylist() == sorted(targets["object_id"].to_pylist())
    healpix = rows["_healpix_29"].to_numpy()
    assert (np.diff(healpix) >= 0).all()
    np.testing.assert_array_equal(healpix, healpix_of(rows["ra"].to_numpy(), rows["dec"].to_numpy()))
    given = by_id(targets)
    for name in ("ra", "dec", "label", "kind", "theta_e", "flux_g", "flux_r", "flux_i"):
        assert by_id(rows)[name].combine_chunks().equals(given[name].combine_chunks()), name
    reasons = rows.filter(pa.compute.not_equal(rows["outcome"], "delivered"))
    assert all(reasons["reason"].to_pylist())
    assert rows.filter(pa.compute.equal(rows["outcome"], "delivered"))["reason"].null_count == exported.result.delivered
    assert exported.result.rows == len(rows) == sum(exported.result.outcomes.values()) == 140
    assert exported.result.delivered == 80
    assert exported.result.complete


@pytest.mark.parametrize("plane", [*COLUMNS, "mask"])
def test_pixels_are_those_of_the_reader(exported: Exported, plane: str) -> None:
    plan = build_plan(
        exported.repo.root, exported.repo.truth, **{name: SETTINGS[name] for name in ("collections", "bands", "size")}
    )
    options = ReaderOptions(planes=("image", "variance", "ivar", "mask", "valid", "psf"), mask_planes=MASKS)
    batch = CutoutReader(plan, options).read(np.argsort(plan.object_id))
    rows = delivered(rows_of(exported.folder))
    found = planes_of(rows, "mask_bits" if plane == "mask" else COLUMNS[plane])
    np.testing.assert_array_equal(found, np.asarray(batch[plane]))


def test_pixels_are_those_of_the_butler(exported: Exported) -> None:
    plan = build_plan(
        exported.repo.root, exported.repo.truth, **{name: SETTINGS[name] for name in ("collections", "bands", "size")}
    )
    rows = delivered(rows_of(exported.folder))
    flux, variance, valid = (planes_of(rows, name) for name in ("flux", "variance", "valid"))
    place = {number: at for at, number in enumerate(rows["object_id"].to_pylist())}
    for target in range(0, len(plan), 7):
        at, want = place[int(plan.object_id[target])], expected(exported.repo, plan, target)
        np.testing.assert_array_equal(flux[at], np.where(want.has_value, want.image, 0))
        np.testing.assert_array_equal(variance[at], np.where(want.has_value, want.variance, 0))
        np.testing.assert_array_equal(valid[at], want.valid)
    row = next(row for row in rows.to_pylist() if row["patch"] == 9 and 40 < row["yx0"][0] - 180 < 90)
    with Butler.from_config(str(exported.repo.root), collections="dp2") as butler:
        image = butler.get("deep_coadd", tract=row["tract"], patch=9, band="i", skymap=exported.repo.skymap).image
    y, x = row["yx0"][0] - image.bbox.y.start, row["yx0"][1] - image.bbox.x.start
    if y >= 0 and 0 <= x <= image.array.shape[1] - 24:
        there = np.nan_to_num(image.array[y : y + 20, x : x + 24])
        np.testing.assert_array_equal(np.array(row["flux"][2], np.float32), there)


def test_names_of_the_multimodal_universe(exported: Exported) -> None:
    rows = delivered(rows_of(exported.folder))
    assert rows["band"].to_pylist()[0] == ["g", "r", "i"]
    np.testing.assert_array_equal(planes_of(rows, "mask"), planes_of(rows, "valid"))
    np.testing.assert_allclose(planes_of(rows, "scale"), 0.2, rtol=1e-3)
    present = planes_of(rows, "psf_present")
    fwhm = planes_of(rows, "psf_fwhm")
    assert np.isnan(fwhm[~present]).all()
    assert ((fwhm[present] > 0.4) & (fwhm[present] < 2.5)).all()


@pytest.mark.filterwarnings("ignore:Right catalog does not have a margin:RuntimeWarning")
def test_hats_and_lsdb_read_it(exported: Exported) -> None:
    folder, rows = exported.folder, rows_of(exported.folder)
    catalog = hats.read_hats(folder)
    info = catalog.main_catalog.catalog_info
    assert info.total_rows == 140
    assert str(exported.repo.root) in str(info.__pydantic_extra__)
    assert info.hats_max_rows == max(pq.read_metadata(file).num_rows for file in files_of(folder))
    pixels = {(p.order, p.pixel) for p in catalog.get_healpix_pixels()}
    assert len(pixels) == len(files_of(folder)) > exported.result.partitions  # some are divided into children
    statistics = catalog.main_catalog.aggregate_column_statistics()
    assert statistics.loc["ra"]["min_value"] == pa.compute.min(rows["ra"]).as_py()
    assert "flux_g" in statistics.index
    opened = lsdb.open_catalog(folder)
    frame = opened.compute()
    assert sorted(frame["object_id"]) == sorted(rows["object_id"].to_pylist())
    middle = rows.filter(pa.compute.equal(rows["outcome"], "delivered")).slice(20, 1).to_pylist()[0]
    near = opened.cone_search(middle["ra"], middle["dec"], 1.0).compute()
    assert middle["object_id"] in set(near["object_id"])
    joined = opened.join(
        lsdb.open_catalog(exported.catalog),
        left_on="object_id",
        right_on="object_id",
        suffixes=("", "_catalog"),
        suffix_method="overlapping_columns",
    ).compute()
    assert len(joined) == 140
    assert (joined["ra"] == joined["ra_catalog"]).all()


def test_files_stay_below_the_limit(exported: Exported) -> None:
    """Of the bytes of the rows; a footer of 30 columns is larger than these few rows."""
    for file in files_of(exported.folder):
        footer = pq.read_metadata(file)
        data = sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
        assert data <= 300_000
    rows = [pq.read_metadata(file).num_rows for file in files_of(exported.folder)]
    assert max(rows) < 25


def test_partitions_outside_the_coverage_have_rows_without_pixels(exported: Exported) -> None:
    rows = rows_of(exported.folder)
    lost = rows.filter(pa.compute.not_equal(rows["outcome"], "delivered"))
    assert set(lost["outcome"].to_pylist()) == {"no_coverage"} or len(set(lost["outcome"].to_pylist())) >= 1
    for name in ("flux", "variance", "ivar", "valid", "mask_bits", "psf", "wcs", "scale"):
        assert lost[name].null_count == len(lost)
    empty = [file for file in files_of(exported.folder) if pq.read_table(file, columns=["flux"])["flux"].null_count]
    assert empty


def test_half_precision_keeps_eleven_bits(dp2_repo: SimulatedRepository, targets: Path, tmp_path: Path) -> None:
    kept = exported_with(dp2_repo, targets, tmp_path / "whole")[1]
    half = exported_with(dp2_repo, targets, tmp_path / "half", dtype="float16")[1]
    for name in ("flux", "variance"):
        whole, scale = planes_of(kept, name), planes_of(half, f"{name}_scale")[..., None, None]
        values = planes_of(half, name)
        assert values.dtype == np.float16
        restored = values.astype(np.float32) * scale
        np.testing.assert_allclose(restored, whole, rtol=2**-10, atol=float(scale.max()) * 2**-14)


@pytest.mark.parametrize(
    "read",
    [
        ReadOptions(min_bands=3),
        ReadOptions(required_bands=("g",)),
        ReadOptions(missing_band="skip"),
        ReadOptions(quality=QualityPolicy(min_valid=0.9999, action="skip")),
    ],
    ids=["min_bands", "required_bands", "missing_band", "quality"],
)
def test_policies_leave_rows_out_with_a_reason(
    dp2_repo: SimulatedRepository, targets: Path, tmp_path: Path, read: ReadOptions
) -> None:
    result, rows = exported_with(dp2_repo, targets, tmp_path / "out", read=read)
    plan = build_plan(
        dp2_repo.root, dp2_repo.truth, **{name: SETTINGS[name] for name in ("collections", "bands", "size")}
    )
    delivery = CutoutReader(plan, ReaderOptions.of(read, planes=("image", "variance", "valid"))).deliver(
        np.arange(len(plan))
    )
    report = delivery.batch_report
    want = {int(i): Outcome(o).name.lower() for i, o in zip(plan.object_id, report.outcome, strict=True)}
    found = dict(zip(rows["object_id"].to_pylist(), rows["outcome"].to_pylist(), strict=True))
    assert {number: found[number] for number in want} == want
    gone = [row for row in rows.select(["object_id", "outcome", "reason", "flux"]).to_pylist() if row["flux"] is None]
    assert 60 < len(gone) < 140
    assert all(row["reason"] for row in gone)
    assert result.delivered == 140 - len(gone)


@pytest.fixture
def broken(dp2_repo: SimulatedRepository, tmp_path: Path) -> SimulatedRepository:
    repo = copied(dp2_repo, tmp_path / "repo")
    for tile in range(4, 16):
        spoil_tile(file_of(repo, 9, "r"), "mask", tile)
    return repo


def test_read_errors_are_skipped_masked_or_fail_their_partition(
    broken: SimulatedRepository, targets: Path, tmp_path: Path
) -> None:
    result, rows = exported_with(broken, targets, tmp_path / "skip", read=ReadOptions(on_read_error="skip"))
    lost = rows.filter(pa.compute.equal(rows["outcome"], "read_error")).to_pylist()
    assert lost
    assert all("mask plane: tile" in row["reason"] and row["flux"] is None for row in lost)
    assert sum(result.failures.values()) >= len(lost)
    result, rows = exported_with(broken, targets, tmp_path / "mask", read=ReadOptions(on_read_error="mask"))
    touched = [row for row in rows.to_pylist() if any(bits & Quality.READ_ERROR for bits in row["quality"])]
    assert {row["object_id"] for row in touched} == {row["object_id"] for row in lost}
    assert all(row["outcome"] == "delivered" for row in touched)
    result, _ = exported_with(broken, targets, tmp_path / "raise")
    assert not result.complete
    assert result.failed
    assert all("patch 9, band r" in text and "cannot be written" not in text for text in result.failed.values())
    assert result.finished + len(result.failed) == result.partitions
    assert not list((tmp_path / "raise").rglob("*.part"))
    assert not (tmp_path / "raise" / "collection.properties").exists()


def test_streamed_columns_equal_the_whole_table(
    dp2_repo: SimulatedRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file in the order of the sky columns are read along; of another one the table is read whole."""
    table = targets_of(dp2_repo)
    table = table.append_column("name", pa.array([f"{i} €" for i in range(140)]).dictionary_encode())
    table = table.append_column("maybe", pa.array([None if i % 3 else i for i in range(140)]))
    table = table.append_column("curve", pa.array([{"t": [1.0 * i, 2.0], "f": [i]} for i in range(140)]))
    monkeypatch.setattr("lsstcutouts.catalog.row_sources._BATCH", 7)
    ordered = write_catalog(tmp_path / "ordered", divided(table, 60), group_rows=13)
    mixed = write_catalog(
        tmp_path / "mixed",
        (
            (cell, part.take(pa.array(np.random.default_rng(3).permutation(len(part)))))
            for cell, part in divided(table, 60)
        ),
    )
    found = []
    for catalog in (ordered, mixed):
        for subset in ({}, {"select": "flux_i > 20000 and kind != 'star'"}):
            folder = tmp_path / f"{catalog.name}-{len(subset)}"
            found.append(
                exported_with(dp2_repo, catalog, folder, planes=("image",), partition_bytes=200_000, **subset)[1]
            )
    for streamed, whole in zip(found[:2], found[2:], strict=True):
        assert streamed.drop_columns("row").equals(whole.drop_columns("row"))
    assert found[0]["maybe"].null_count == pa.compute.sum(pa.compute.is_null(found[0]["maybe"])).as_py() == 93
    assert len(found[1]) < 140


@pytest.mark.parametrize(("size", "rows"), [(1, 8192), (32, 256), (64, 64), (500, 64)])
def test_row_groups_hold_some_mb_of_a_plane(exported: Exported, size: int, rows: int) -> None:
    description = replace(ExportDescription.load(exported.folder), size=YX(size, size))
    assert group_rows(description) == rows


def test_row_groups_are_small_and_not_compressed(exported: Exported) -> None:
    for file in files_of(exported.folder):
        footer = pq.read_metadata(file)
        most = group_rows(ExportDescription.load(exported.folder))
        assert all(footer.row_group(n).num_rows <= most for n in range(footer.num_row_groups))
        group = footer.row_group(0)
        columns = {group.column(n).path_in_schema.split(".")[0]: group.column(n) for n in range(footer.num_columns)}
        assert columns["flux"].compression == "UNCOMPRESSED"
        assert columns["flux"].statistics is None or not columns["flux"].statistics.has_min_max
        assert columns["ra"].statistics.has_min_max


@pytest.mark.filterwarnings("ignore")  # of Dask
def test_the_work_runs_under_map_partitions_of_lsdb(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    table = pq.read_table(dp2_repo.truth, columns=["object_id", "ra", "dec", "label"])
    folder = write_catalog(tmp_path / "objects", divided(table, 20))
    with Export(folder, dp2_repo.root, tmp_path / "mapped", **SETTINGS) as one:
        assert one.begin() == []
        one.prepare()
        meta = one.work().of_frame(pd.DataFrame(), None)
        catalog = lsdb.open_catalog(folder)
        done = catalog.map_partitions(one.work().of_frame, include_pixel=True, meta=meta).compute()
        assert one.finish()
    assert done["rows"].sum() == len(table)
    export(folder, dp2_repo.root, tmp_path / "plain", **SETTINGS)
    assert same(tables_of(tmp_path / "plain"), tables_of(tmp_path / "mapped"))
