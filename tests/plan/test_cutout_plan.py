"""A plan is kept, saved, loaded and summed up without loss."""

import json
import os
import pickle
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from lsstcutouts.errors import PlanError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.tables import FileTable, Reason, ragged
from lsstcutouts.sky.geometry import YX, Box
from lsstcutouts.testing import SimulatedRepository, SimulationConfig, skymap_of

from ..support.repositories import simulated_once


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    table = pyarrow.parquet.read_table(dp2_repo.truth).to_pydict()
    rows = len(table["ra"])
    catalog = {
        "ra": [*table["ra"], 200.0, 201.0],
        "dec": [*table["dec"], 10.0, -10.0],
        "kind": [*table["kind"], "nowhere", "nowhere"],
        "shape": np.arange(3.0 * (rows + 2)).reshape(-1, 3),
        "flag": np.arange(rows + 2) % 2 == 0,
    }
    return build_plan(
        dp2_repo.root, catalog, collections="dp2", bands="gri", size=(32, 45), columns=("kind", "shape", "flag")
    )


def assert_equal(one: CutoutPlan, other: CutoutPlan) -> None:
    assert one.fingerprint() == other.fingerprint()
    for name, value in one.__dict__.items():
        same = other.__dict__[name]
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, same)
            assert value.dtype == same.dtype, name
        elif name in {"patches", "rejected", "columns"}:
            parts = [dict(v if name == "columns" else v.__dict__) for v in (value, same)]
            columns, others = (part | dict(part.pop("columns", {})) for part in parts)
            assert list(columns) == list(others)
            for column, array in columns.items():
                np.testing.assert_array_equal(array, others[column])
                assert type(array) is type(others[column])
                assert isinstance(array, list) or array.dtype == others[column].dtype, column
        elif name == "files":
            assert value.__dict__ == same.__dict__
        else:
            assert value == same, name


def test_a_saved_plan_loads_equal(plan: CutoutPlan, tmp_path: Path) -> None:
    path = tmp_path / "a folder with = (signs)" / "plan.parquet"
    plan.save(path)
    assert_equal(plan, CutoutPlan.load(path))
    assert [p.name for p in path.parent.iterdir()] == ["plan.parquet"]


@pytest.mark.parametrize("query", ["Expires=1&Signature=geheim", "X-Goog-Signature=geheim", "se=2030-01-01&sig=geheim"])
def test_only_the_owner_may_read_signed_urls(plan: CutoutPlan, tmp_path: Path, query: str) -> None:
    """From before they are written, whatever was there; a plan without any is written as other files are."""
    path, umask = tmp_path / "plan.parquet", os.umask(0o022)
    try:
        plan.save(path)
        assert path.stat().st_mode & 0o777 == 0o644
        (tmp_path / f".plan.parquet.{os.uname().nodename}.{os.getpid()}.part").touch(0o644)
        uris = (*plan.files.uri[:-1], f"https://host/key?{query}")
        signed = replace(plan, files=replace(plan.files, uri=uris))
        signed.save(path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert CutoutPlan.load(path).files.uri == uris
        plan.save(path)
        assert path.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(umask)
    assert "geheim" not in repr(signed) + repr(signed.files)


def test_a_plan_without_a_psf_loads_equal(plan: CutoutPlan, tmp_path: Path) -> None:
    assert plan.psf_shape is not None
    bare = CutoutPlan(**{**plan.__dict__, "psf_shape": None})
    bare.save(tmp_path / "plan.parquet")
    assert_equal(bare, CutoutPlan.load(tmp_path / "plan.parquet"))


def test_the_file_is_a_table_that_people_can_read(plan: CutoutPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "plan.parquet").to_pydict()
    assert table["reason"].count(0) == len(plan)
    assert table["reason"][-2:] == [Reason.OUTSIDE_TRACTS] * 2
    assert table["column.kind"][-2:] == ["nowhere"] * 2
    assert set(table["tract"][:-2]) == {5063}


def test_a_pickled_plan_is_small(plan: CutoutPlan) -> None:
    assert_equal(plan, pickle.loads(pickle.dumps(plan)))
    arrays = [v.nbytes for v in plan.__dict__.values() if isinstance(v, np.ndarray)]
    assert sum(arrays) / len(plan) < 100


def test_every_row_is_delivered_or_listed(plan: CutoutPlan) -> None:
    rows = np.concatenate([plan.row, plan.rejected.row])
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(rows)))
    np.testing.assert_array_equal(plan.rejected.ra[-2:], [200.0, 201.0])
    assert set(plan.columns["kind"]) == {"lens", "galaxy", "star"}
    np.testing.assert_array_equal(plan.columns["shape"][:, 0], 3.0 * plan.row)


def test_the_summary_counts(plan: CutoutPlan) -> None:
    summary = plan.summary()
    assert summary.targets == len(plan)
    assert sum(summary.tracts.values()) == sum(summary.per_patch.values()) == len(plan)
    assert summary.rejected[Reason.OUTSIDE_TRACTS.text] >= 2
    assert summary.files == 10
    assert summary.file_bytes == sum(Path(uri).stat().st_size for uri in plan.files.uri)
    assert 0 < summary.bytes_to_read < summary.file_bytes
    assert summary.bands_missing["r"] == 0
    assert summary.bands_missing["g"] > 0
    assert json.loads(json.dumps(summary.as_dict()))["size"] == [32, 45]
    text = str(summary)
    for words in ("32 x 45 px", "tract 5063", "band g: missing for", "not delivered: "):
        assert words in text


def test_missing_bands_are_counted_with_the_neighbours(plan: CutoutPlan) -> None:
    g = plan.bands.index("g")
    alone = [
        i
        for i in range(len(plan))
        if plan.patches.files[plan.primary[i], g] < 0 and all(plan.patches.files[o, g] < 0 for o in plan.others_of(i))
    ]
    assert plan.bands_missing()["g"] == len(alone)


def test_blocks_lie_within_a_patch(plan: CutoutPlan) -> None:
    blocks = plan.blocks()
    for block in np.unique(blocks):
        rows = np.flatnonzero(blocks == block)
        assert len(np.unique(plan.primary[rows])) == 1
        assert (np.ptp(plan.yx0[rows], axis=0) < plan.block_shape).all()
    assert len(set(plan.sky_groups(blocks=False))) == len(np.unique(plan.primary))


@pytest.mark.parametrize("damage", ["missing", "truncated", "catalog", "first"])
def test_what_is_no_plan_is_refused(plan: CutoutPlan, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "plan.parquet"
    plan.save(path)
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "catalog":
        pyarrow.parquet.write_table(pa.table({"ra": [1.0]}), path)
    else:
        table = pyarrow.parquet.read_table(path)
        meta = {**json.loads(table.schema.metadata[b"lsstcutouts.plan"]), "format": 1}
        pyarrow.parquet.write_table(
            table.replace_schema_metadata({b"lsstcutouts.plan": json.dumps(meta).encode()}), path
        )
    words = {"first": "is a plan of format 1, but this version of lsstcutouts reads format 3; make the plan again"}
    with pytest.raises(PlanError, match=rf"plan\.parquet.*{words.get(damage, 'build_plan')}"):
        CutoutPlan.load(path)


def test_ragged() -> None:
    start, values = ragged([[3, 1], [], [7]])
    assert start.tolist() == [0, 2, 2, 3]
    assert values.tolist() == [3, 1, 7]
    assert ragged([])[0].tolist() == [0]


def test_the_estimate_of_bytes_scales(plan: CutoutPlan) -> None:
    """A hundred thousand targets are summed up in about a tenth of a second, not target by target."""
    repeat = np.tile(np.arange(len(plan)), 100_000 // len(plan))
    wide = CutoutPlan(
        **{
            **plan.__dict__,
            **{n: getattr(plan, n)[repeat] for n in ("row", "object_id", "ra", "dec", "primary", "yx0", "offset")},
            "others_start": np.zeros(len(repeat) + 1, np.int64),
            "others": np.zeros(0, np.int64),
        }
    )
    start = time.perf_counter()
    assert wide.summary().bytes_to_read == plan.summary().bytes_to_read
    assert time.perf_counter() - start < 5


def test_the_estimate_of_bytes_counts_whole_tiles(dp1_repo: SimulatedRepository, dp2_repo: SimulatedRepository) -> None:
    """The compressed bytes of the image tiles under the boxes, whatever their shape; also at the tract's first pixels."""
    for repo in (dp1_repo, dp2_repo):
        wcs = skymap_of(repo.config).wcs
        for size, (y, x) in ((20, (430.0, 1000.0)), (64, (400.0, 1000.0)), (31, (250.0, 1210.0))):
            ra, dec = wcs.all_pix2world(x, y, 0)
            plan = build_plan(repo.root, {"ra": [ra], "dec": [dec]}, collections=repo.collections, bands="r", size=size)
            with open_coadd(plan.files.uri[plan.patches.files[plan.primary[0], 0]]) as coadd:
                layout = coadd.layout("image")
                start = coadd.bbox.start
            box = Box.from_start(YX(*plan.yx0[0].tolist()), plan.size).relative_to(start)
            tiles = layout.tiles_under(box)
            sizes = layout.sizes.reshape(layout.tile_grid)[tiles.slices()]
            assert plan.summary().bytes_to_read == pytest.approx(sizes.sum(), rel=0.35)


def test_targets_at_the_first_pixels_of_a_tract() -> None:
    config = SimulationConfig(cells=2, cell=60, grid=3, patches=[0, 1], bands="g", targets=6, missing=None, holes=False)
    repo = simulated_once(config)
    ra, dec = skymap_of(config).sky([2.0, 3.0, 118.0], [1.0, 119.0, 0.0])
    plan = build_plan(repo.root, {"ra": ra, "dec": dec}, collections=repo.collections, bands="g", size=30)
    assert (plan.yx0 < 0).any()
    summary = plan.summary(ranks=2)
    assert 0 < summary.bytes_to_read < summary.file_bytes
    assert len(set(plan.blocks().tolist())) >= 1


def test_whether_files_are_remote_is_found_out_once() -> None:
    """It is asked for with each batch, and a plan can have thousands of files."""

    class Uris(tuple[str, ...]):
        __slots__ = ()
        walks = 0

        def __iter__(self) -> Iterator[str]:
            Uris.walks += 1
            return super().__iter__()

    files = FileTable(Uris(("/a/b.fits", "https://host/c.fits")), (1, 2), ("x", "y"))
    assert [files.remote for _ in range(3)] == [True] * 3
    assert Uris.walks == 1


def test_rejected_rows_are_shown_as_a_table(dp2_repo: SimulatedRepository) -> None:
    table = {"object_id": ["in", "<b>", "far"], "ra": [0.0, 10.0, 11.0], "dec": [0.0, 80.0, 81.0]}
    truth = pyarrow.parquet.read_table(dp2_repo.truth)
    table["ra"][0], table["dec"][0] = truth["ra"][0].as_py(), truth["dec"][0].as_py()
    rejected = build_plan(dp2_repo.root, table, collections=dp2_repo.collections, bands="gri", size=8).rejected
    assert repr(rejected) == "<Rejected: 2 rows, in no tract that has coadds>"
    shown = rejected._repr_html_()
    assert "2 rejected rows" in shown
    assert "&lt;b&gt;" in shown
    assert "81.000000" in shown
    assert shown.count("in no tract that has coadds") == 2
