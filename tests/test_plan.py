"""A plan is kept, saved, loaded and summed up without loss."""

import json
import pickle
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from lsstcutouts.errors import PlanError
from lsstcutouts.plan import CutoutPlan, Reason, ragged
from lsstcutouts.planner import build_plan
from lsstcutouts.simulate import SimulatedRepository


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
        catalog, dp2_repo.root, collections="dp2", bands="gri", size=(32, 45), columns=("kind", "shape", "flag")
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
    words = {"first": "is a plan of format 1, this version reads 3; make it again"}
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
