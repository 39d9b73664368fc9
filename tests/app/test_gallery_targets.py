"""Which rows of a catalog a gallery shows, in which order, with which columns, wherever they come from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from lsstcutouts import Catalog, Footprint, build_plan
from lsstcutouts.app.gallery.gallery_targets import GalleryTargets, Source, find_targets
from lsstcutouts.bulk.prediction_table import DESCRIPTION, META
from lsstcutouts.errors import ConfigurationError, CoverageError
from lsstcutouts.testing import SimulatedRepository

from ..support.exported import exported
from ..support.hats import divided, write_catalog


@pytest.fixture
def table(dp2_repo: SimulatedRepository) -> pa.Table:
    """The targets in an order of their own, with columns of many kinds."""
    rng = np.random.default_rng(2)
    truth = pq.read_table(dp2_repo.truth)
    truth = truth.take(rng.permutation(len(truth)))
    score = rng.integers(0, 9, len(truth)) / 8  # many are equal
    more = {
        "score": pa.array(np.where(score == 0.5, np.nan, score)),
        "rank": pa.array([None if i % 7 == 3 else i % 5 for i in range(len(truth))]),
        "note": pa.array([None if i % 6 == 1 else f"n{i % 4}" for i in range(len(truth))]),
        "large": pa.array([None if i == 5 else 2**60 + i for i in range(len(truth))]),
        "night": pa.array(np.datetime64("2026-01-01") + np.arange(len(truth))),
        "spectrum": pa.array([[1.0] * (i % 3) for i in range(len(truth))]),
        "pair": pa.array([[1.0, 2.0]] * len(truth), pa.list_(pa.float64(), 2)),
    }
    for name, values in more.items():
        truth = truth.append_column(name, values)
    return truth


def found(repo: SimulatedRepository, catalog: Any, **changes: Any) -> GalleryTargets:
    source = Source(catalog, repo.root, repo.collections, bands="gri", size=(24, 30))
    return find_targets(source, **changes)


def ids(targets: GalleryTargets) -> list[Any]:
    return [targets.object_id(i) for i in range(len(targets))]


@pytest.mark.parametrize(
    "keys", [["score"], ["-score"], ["kind", "-score"], ["-kind", "score", "-dec"], ["rank", "-large"], ["-object_id"]]
)
def test_the_order_is_that_of_pandas(dp2_repo: SimulatedRepository, table: pa.Table, keys: list[str]) -> None:
    names = [key.removeprefix("-") for key in keys]
    ascending = [not key.startswith("-") for key in keys]
    frame = table.select(["object_id", "ra", "dec", "kind", "score", "rank", "large"]).to_pandas()
    frame["large"] = pd.array(table["large"].to_pylist(), "Int64")  # float64 would round them
    for name, up in list(zip(names, ascending, strict=True))[::-1]:
        frame = frame.sort_values(name, ascending=up, kind="stable", na_position="last")
    targets = found(dp2_repo, table, sort=keys, limit=50)
    assert ids(targets) == frame["object_id"].tolist()[:50]
    for i in range(50):
        assert targets.row[i] == frame.index[i]
        assert targets.values(i)["kind"] == frame["kind"].iloc[i]


def test_columns_with_one_value_a_row_are_shown(dp2_repo: SimulatedRepository, table: pa.Table) -> None:
    targets = found(dp2_repo, table)
    rows = table.to_pylist()
    for i, row in enumerate(rows):
        values = targets.values(i)
        assert set(rows[0]) - set(values) == {"object_id", "spectrum", "pair", "night"}
        assert values["note"] == (row["note"] or "")
        assert values["rank"] == row["rank"] or (row["rank"] is None and np.isnan(values["rank"]))
        assert values["large"] == ("" if row["large"] is None else str(row["large"]))  # float64 would round them
        assert (values["ra"], values["dec"]) == (row["ra"], row["dec"])


def test_every_source_gives_the_same(dp2_repo: SimulatedRepository, table: pa.Table, tmp_path: Path) -> None:
    plain = table.drop(["night", "spectrum", "pair", "large", "rank"])
    pq.write_table(plain, tmp_path / "x.parquet")
    pyarrow.csv.write_csv(plain, tmp_path / "x.csv")
    Table.from_pandas(plain.to_pandas()).write(tmp_path / "x.fits")
    write_catalog(tmp_path / "hats", divided(plain, 20))
    want = found(dp2_repo, plain, sort="-flux_i", select="label == 1", limit=20)
    sources: list[Any] = [
        *(tmp_path / "x.parquet", str(tmp_path / "x.csv"), tmp_path / "x.fits", tmp_path / "hats"),
        *(plain.to_pandas(), Table.from_pandas(plain.to_pandas())),
        Catalog.from_any(plain, columns=["flux_i", "label"]),
        [tmp_path / "x.parquet"],
    ]
    for source in sources:
        targets = found(dp2_repo, source, sort="-flux_i", select="label == 1", limit=20)
        assert ids(targets) == ids(want), source
        assert targets.total == want.total
        np.testing.assert_array_equal(targets.columns["flux_i"], want.columns["flux_i"])


def test_rows_without_pixels_are_left_out_and_named(dp2_repo: SimulatedRepository, table: pa.Table) -> None:
    frame = table.select(["object_id", "ra", "dec", "score"]).to_pandas()
    frame.loc[frame.index % 3 == 1, "ra"] += 60
    targets = found(dp2_repo, frame, sort="score")
    order = frame.sort_values("score", kind="stable")
    inside = order.index % 3 != 1
    assert ids(targets) == order["object_id"][inside].tolist()
    np.testing.assert_array_equal(targets.columns["score"], order["score"][inside])
    assert sorted(one for one, _ in targets.outside) == sorted(order["object_id"][~inside])


def test_a_limit_counts_what_is_covered(dp2_repo: SimulatedRepository, table: pa.Table) -> None:
    frame = table.select(["object_id", "ra", "dec"]).to_pandas()
    frame.loc[:9, "dec"] += 40
    frame.loc[12, "dec"] += 40
    targets = found(dp2_repo, frame, limit=4)
    assert ids(targets) == frame["object_id"][[10, 11, 13, 14]].tolist()
    assert [one for one, _ in targets.outside] == frame["object_id"][[*range(10), 12]].tolist()
    with pytest.raises(CoverageError):
        found(dp2_repo, frame[:10], limit=3)


def test_repeated_ids_stay_apart(dp2_repo: SimulatedRepository, table: pa.Table) -> None:
    frame = table.select(["object_id", "ra", "dec", "score"]).to_pandas().assign(object_id="same")
    targets = found(dp2_repo, frame, sort="-score")
    order = frame.sort_values("score", ascending=False, kind="stable", na_position="last")
    assert [targets.values(i)["ra"] for i in range(80)] == order["ra"].tolist()


def test_predictions_know_their_images(dp2_repo: SimulatedRepository, table: pa.Table, tmp_path: Path) -> None:
    images = {"repo": str(dp2_repo.root), "collections": [dp2_repo.collections], "bands": ["r", "g"], "size": [20, 26]}
    about = {"dataset_type": "deep_coadd", "rows": 80, **images}
    predictions = table.select(["object_id", "ra", "dec", "score"]).replace_schema_metadata({META: json.dumps(about)})
    pq.write_table(predictions, tmp_path / "p.parquet")
    write_catalog(tmp_path / "folder", divided(predictions, 30))
    (tmp_path / "folder" / DESCRIPTION).write_text(json.dumps({"images": images | {"dataset_type": "deep_coadd"}}))
    for source in (tmp_path / "p.parquet", predictions, tmp_path / "folder", tmp_path / "folder" / "objects"):
        targets = find_targets(Source(source), limit=9)
        assert (targets.plan.bands, targets.plan.size) == (("r", "g"), (20, 26))
    changed = find_targets(Source(tmp_path / "p.parquet", bands="i", size=12), limit=9)
    assert (changed.plan.bands, changed.plan.size) == (("i",), (12, 12))


def test_rows_of_an_export(dp2_repo: SimulatedRepository, table: pa.Table, tmp_path: Path) -> None:
    pq.write_table(table.drop(["night", "spectrum", "note", "large"]), tmp_path / "x.parquet")
    folder = exported(dp2_repo, tmp_path / "cut", tmp_path / "x.parquet", select="label == 1")
    frame = table.to_pandas()
    lenses = frame[frame["label"] == 1].sort_values("flux_i", ascending=False, kind="stable")
    for source in (Source(None, folder), Source(folder), Source(tmp_path / "x.parquet", folder)):
        targets = find_targets(source, sort="-flux_i", select="label == 1")
        assert ids(targets) == lenses["object_id"].tolist()
        assert [targets.values(i)["kind"] for i in range(len(targets))] == lenses["kind"].tolist()
        assert (targets.plan.size, targets.plan.bands) == ((24, 31), ("g", "r", "i"))
        assert targets.plan.pixels is not None
    part = find_targets(Source(frame, folder, bands="ig", size=20), limit=20)
    inside = frame["object_id"].isin(lenses["object_id"])
    assert ids(part) == frame["object_id"][inside].tolist()[:20]
    before = frame["object_id"][: frame["object_id"].tolist().index(ids(part)[-1])]
    assert [one for one, _ in part.outside] == before[~inside[before.index]].tolist()
    assert part.plan.bands == ("i", "g")
    with pytest.raises(CoverageError, match="none of the"):
        find_targets(Source(frame[frame["label"] == 0], folder))
    with pytest.raises(ConfigurationError, match="has no band 'z'"):
        find_targets(Source(folder, bands="gz"))


def test_positions_in_radians_and_named_columns(dp2_repo: SimulatedRepository, table: pa.Table) -> None:
    frame = table.to_pandas()
    renamed = pd.DataFrame({"a": np.radians(frame["ra"]), "d": np.radians(frame["dec"]), "name": frame["object_id"]})
    source = Source(
        renamed, dp2_repo.root, dp2_repo.collections, "gri", 8, ra="a", dec="d", object_id="name", unit="rad"
    )
    targets = find_targets(source)
    assert ids(targets) == frame["object_id"].tolist()
    np.testing.assert_allclose([targets.values(i)["ra"] for i in range(80)], frame["ra"], atol=1e-9)


def test_positions_of_a_footprint(dp2_repo: SimulatedRepository) -> None:
    plan = build_plan(dp2_repo.root, Footprint(n=20), collections="dp2", bands="gri", size=(24, 30))
    some = found(dp2_repo, {"footprint": {"n": 20}}, sort="-position", limit=5)
    assert ids(some) == [19, 18, 17, 16, 15]
    assert (some.total, some.label) == (20, "footprint kind=uniform, n=20")
    np.testing.assert_array_equal(some.plan.ra[some.target], plan.ra[19:14:-1])
    assert ids(found(dp2_repo, Footprint(n=20, views=2), select="view == 1 and position < 2")) == [1, 3]
    with pytest.raises(ConfigurationError, match="cone= is for tables"):
        found(dp2_repo, Footprint(n=20), cone=(53, -27, 1))
