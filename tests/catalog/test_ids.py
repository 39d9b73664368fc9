"""Ids of targets: numbers of 64 bits with or without a sign, and texts, from the catalog to every file that is written."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts import (
    CutoutDataModule,
    CutoutDataset,
    CutoutLoader,
    LsstDataFetcher,
    ReadOptions,
    SplitOptions,
    write_fits,
)
from lsstcutouts.app.callbacks import PredictionWriter, WorstPredictions
from lsstcutouts.app.training.prediction_pictures import picture_of_highest
from lsstcutouts.catalog.ids import concatenate_columns, hash_ids, rows_of_ids, take_rows
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError, LeakError, PlanError
from lsstcutouts.models import LensClassifier, LensFinder
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import RandomD4, random_keys

from ..support.predicting import Echo, trainer_of

COUNT = 24
TEXTS = [f"LSST J{i:02d}/ä $x${'' if i else ' ' + 'long' * 60}" for i in range(COUNT)]
IDS: dict[str, Any] = {"uint64": 2**64 - 1 - 3 * np.arange(COUNT, dtype=np.uint64), "text": TEXTS}

INTEGERS = st.integers(-(2**63), 2**64 - 1)


def as_ids(values: list[Any]) -> Any:
    if not values or isinstance(values[0], str):
        return values
    return np.array(values, np.uint64 if max(values) >= 2**63 else np.int64)


SETS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=9),
    st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=9),
    st.lists(st.text(max_size=3), unique=True, max_size=9),
)


@given(SETS, SETS)
def test_ids_are_found_exactly(known: list[Any], wanted: list[Any]) -> None:
    """Python's own integers and dictionaries know no rounding."""
    row = {one: i for i, one in enumerate(known)}
    assert rows_of_ids(as_ids(known), as_ids(wanted)).tolist() == [row.get(one, -1) for one in wanted]


def test_rows_of_columns() -> None:
    assert take_rows(["a", "b", "c"], np.array([2, 0])) == ["c", "a"]
    assert take_rows(["a", "b", "c"], np.array([True, False, True])) == ["a", "c"]
    assert take_rows(np.arange(3), np.array([2, 0])).tolist() == [2, 0]
    assert concatenate_columns([["a"], [], ["b"]]) == ["a", "b"]
    assert concatenate_columns([IDS["uint64"][:1], IDS["uint64"][1:]]).tolist() == IDS["uint64"].tolist()


@given(st.lists(st.text(max_size=5), max_size=4))
def test_the_hash_of_a_text_is_the_same_everywhere(texts: list[str]) -> None:
    expected = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "little", signed=True) for t in texts]
    assert hash_ids(texts).tolist() == expected


def test_numbers_stand_for_themselves() -> None:
    """So that what is random for a target stays what it was."""
    numbers = np.array([5, -1, 2**63 - 1])
    assert hash_ids(numbers).tolist() == numbers.tolist()
    big = torch.from_numpy(IDS["uint64"])
    keys = random_keys(big, 1, 2)
    assert len(set(keys.tolist())) == COUNT
    assert keys.tolist() == random_keys(torch.from_numpy(hash_ids(IDS["uint64"])), 1, 2).tolist()
    small = torch.tensor([1, 2, 3])
    assert random_keys(small.to(torch.uint64), 1, 2).tolist() == random_keys(small, 1, 2).tolist()


@pytest.fixture(scope="module", params=list(IDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def catalog_of(repo: SimulatedRepository, ids: Any) -> Catalog:
    """Return targets of the truth, with two positions outside."""
    truth = Catalog.from_any(repo.truth, columns=["label"])
    ra, dec = truth.ra[:COUNT].copy(), truth.dec[:COUNT].copy()
    ra[[0, 7]], dec[[0, 7]] = 200.0, [45.0, 46.0]
    return Catalog.from_arrays(ra, dec, ids, {"label": np.arange(COUNT) % 2, "name": [f"n{i}" for i in range(COUNT)]})


@pytest.fixture(scope="module")
def catalog(dp2_repo: SimulatedRepository, kind: str) -> Catalog:
    return catalog_of(dp2_repo, IDS[kind])


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository, catalog: Catalog) -> CutoutPlan:
    return build_plan(dp2_repo.root, catalog, collections="dp2", bands="gri", size=24, columns=("label", "name"))


def plain(ids: Any) -> list[Any]:
    return ids if isinstance(ids, list) else np.asarray(ids).tolist()


def test_a_plan_keeps_ids(plan: CutoutPlan, catalog: Catalog, kind: str, tmp_path: Path) -> None:
    rows = np.setdiff1d(np.arange(COUNT), plan.rejected.row)
    assert {0, 7} <= set(plan.rejected.row.tolist())
    plan.save(tmp_path / "plan.parquet")
    for one in (plan, CutoutPlan.load(tmp_path / "plan.parquet"), pickle.loads(pickle.dumps(plan))):
        assert plain(one.object_id) == plain(take_rows(catalog.object_id, rows))
        assert plain(one.rejected.object_id) == plain(take_rows(catalog.object_id, one.rejected.row))
        assert type(one.object_id) is type(catalog.object_id)
        assert one.fingerprint() == plan.fingerprint()
        assert one.targets_of(one.object_id).tolist() == list(range(len(one)))
        assert one.rejected.columns["name"] == [f"n{row}" for row in one.rejected.row]
    assert pyarrow.parquet.read_table(tmp_path / "plan.parquet")["object_id"].type == (
        pyarrow.string() if kind == "text" else pyarrow.uint64()
    )
    others = [*plain(plan.object_id)[1:], "x" * 9 if kind == "text" else 2**64 - 2]
    assert CutoutPlan(**{**plan.__dict__, "object_id": as_ids(others)}).fingerprint() != plan.fingerprint()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_keep_ids_and_choices_follow_them(plan: CutoutPlan, catalog: Catalog, kind: str, workers: int) -> None:
    turned: dict[Any, torch.Tensor] = {}
    for size in (5, 8):
        dataset = CutoutDataset(
            plan, batch_size=size, threads=1, cache_bytes="20 MB", seed=size, read=ReadOptions(fill="noise")
        )
        found = []
        for batch in CutoutLoader(dataset, num_workers=workers):
            ids = batch["object_id"]
            if kind == "text":
                assert isinstance(ids, list)
                assert batch["object_hash"].tolist() == hash_ids(ids).tolist()
            else:
                assert ids.dtype == torch.uint64
                assert "object_hash" not in batch
            found += ids if isinstance(ids, list) else ids.tolist()
            choices = RandomD4(3).keys(batch)
            for one, choice in zip(plain(ids), choices, strict=True):
                assert turned.setdefault(one, choice) == choice  # whatever the batch
        assert sorted(found) == sorted(plain(plan.object_id))
        assert plain(dataset.report.object_id) == plain(catalog.object_id)
    assert len(set(map(int, turned.values()))) == len(plan)


def test_noise_is_that_of_the_id(dp2_repo: SimulatedRepository, catalog: Catalog) -> None:
    options: dict[str, Any] = {"bands": "g", "size": 24, "read": ReadOptions(fill="noise"), "seed": 4, "threads": 1}
    with LsstDataFetcher(dp2_repo.root, collections="dp2", **options) as fetcher:
        whole = fetcher.fetch_plan(fetcher.plan(catalog))
        part = fetcher.fetch_plan(fetcher.plan(catalog[3:]))
        at = rows_of_ids(whole["object_id"], part["object_id"])
        np.testing.assert_array_equal(np.asarray(whole["image"])[at], part["image"])


def test_a_fetch_gives_ids_back(dp2_repo: SimulatedRepository, catalog: Catalog, kind: str, tmp_path: Path) -> None:
    with LsstDataFetcher(dp2_repo.root, collections="dp2", bands="gr", size=24, threads=1) as fetcher:
        batch = fetcher.fetch(catalog.ra, catalog.dec, object_id=catalog.object_id)
        assert plain(batch["object_id"]) == plain(catalog.object_id)
        assert type(batch["object_id"]) is type(catalog.object_id)
        if kind == "text":
            np.testing.assert_array_equal(batch["object_hash"], hash_ids(catalog.object_id))
        assert set(np.flatnonzero(np.asarray(batch["tract"]) == -1)) >= {0, 7}
        assert plain(fetcher.report.object_id) == plain(catalog.object_id)
        fetcher.report.save(tmp_path / "report.parquet")
        assert pyarrow.parquet.read_table(tmp_path / "report.parquet")["object_id"].to_pylist() == plain(
            catalog.object_id
        )
        paths = fetcher.write_fits(batch, tmp_path / "cutouts")
    there = np.flatnonzero(np.asarray(batch["tract"]) >= 0).tolist()
    assert len({path.name for path in paths}) == len(paths) == len(there)
    for path, row in zip(paths, there, strict=True):
        assert len(path.name) < 255
        assert path.parent == tmp_path / "cutouts"  # no id leads elsewhere
        header = fits.getheader(path)
        expected = plain(catalog.object_id)[row]
        assert header["OBJECTID"] == (expected.replace("ä", "\\xe4") if kind == "text" else expected)
        assert header["RA"] == catalog.ra[row]


def test_names_of_files_stay_apart(plan: CutoutPlan, tmp_path: Path) -> None:
    """Whatever an id holds, its file has a name of its own in the folder."""
    odd = [
        "../a",
        "..",
        "a/b",
        "a%2Fb",
        "a b",
        "a\\b",
        "é",
        ".",
        "-",
        "C:",
        "x" * 200 + "1",
        "x" * 200 + "2",
        "a\nb",
        "*",
    ]
    few = np.arange(len(odd))
    changed = {**plan.__dict__, "object_id": [*odd, *map(str, range(len(plan) - len(odd)))]}
    own = CutoutPlan(**changed)
    with LsstDataFetcher(plan.repo, collections="dp2", bands="gri", size=24, threads=1) as fetcher:
        batch = fetcher.fetch_plan(own, few)
    paths = write_fits(batch, tmp_path / "cutouts", own)
    assert len(list((tmp_path / "cutouts").iterdir())) == len(set(paths)) == len(odd)


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_training_and_its_files_keep_ids(
    dp2_repo: SimulatedRepository, catalog: Catalog, kind: str, tmp_path: Path
) -> None:
    ids = plain(catalog.object_id)
    splits = {"train": ids[:12], "val": catalog.object_id[12:]}

    def data() -> CutoutDataModule:
        return CutoutDataModule(str(dp2_repo.root), "dp2", catalog, "gri", 24, batch_size=4, columns=("label", "name"), threads=1, cache_bytes="50 MB", augmentations=RandomD4(), splits=SplitOptions(splits, leaks="warn"))  # fmt: skip

    module, model = data(), LensClassifier(LensFinder("gri", widths=(4,)))
    worst = WorstPredictions(tmp_path / "worst", count=3)
    trainer_of(tmp_path, worst, max_epochs=1).fit(model, module)
    assert (tmp_path / "worst" / "worst-0001.png").stat().st_size > 1000
    names = {split: [plan.columns["name"][row] for row in rows] for split, (plan, rows) in module.splits.items()}
    assert set(names["train"]) <= {f"n{i}" for i in range(12)}
    assert set(names["val"]) <= {f"n{i}" for i in range(12, COUNT)}
    loader = module.train_dataloader()
    again = data()
    again.setup()
    again.train_dataloader().load_state_dict({**loader.state_dict(), "epoch": 0, "batch": 1})

    writer = PredictionWriter(tmp_path / "scores.parquet")
    module = data()
    trainer_of(tmp_path, writer).predict(model, module, return_predictions=False)
    table = pyarrow.parquet.read_table(tmp_path / "scores.parquet")
    assert table["object_id"].to_pylist() == ids
    assert table["object_id"].type == (pyarrow.string() if kind == "text" else pyarrow.uint64())
    # Columns of the catalog are there for every row, also where there is no prediction.
    assert table["name"].to_pylist() == [f"n{i}" for i in range(COUNT)]
    assert table["label"].to_pylist() == [i % 2 for i in range(COUNT)]
    assert table["score"].is_valid().to_pylist()[0] is False
    assert picture_of_highest(table, module, tmp_path / "highest.png").stat().st_size > 1000


def test_ids_that_do_not_fit_are_named(plan: CutoutPlan, dp2_repo: SimulatedRepository, kind: str) -> None:
    wrong: Any = [1, 2] if kind == "text" else ["a", "b"]
    kinds = "strings" if kind == "text" else "numbers"
    data = CutoutDataModule(
        plan.repo, "dp2", None, "gri", 24, plan=plan, splits={"train": wrong, "val": plain(plan.object_id)[:2]}
    )
    with pytest.raises(ConfigurationError, match=rf"splits\['train'\] lists object id .*its ids are {kinds}"):
        data.setup()
    once = plain(plan.object_id)[:2]
    data = CutoutDataModule(plan.repo, "dp2", None, "gri", 24, plan=plan, splits={"train": once, "val": once})
    with pytest.raises(ConfigurationError, match=r"object id.* is in both splits 'train' and 'val'"):
        data.setup()


def test_leaks_name_ids_of_any_kind(dp2_repo: SimulatedRepository, plan: CutoutPlan, catalog: Catalog) -> None:
    """Also between two catalogs whose ids are of different kinds."""
    other = Catalog(np.arange(COUNT) + 5000, catalog.ra, catalog.dec, catalog.columns)
    data = CutoutDataModule(
        plan.repo, "dp2", {"train": catalog, "val": other, "test": other}, "gri", 24, splits=SplitOptions(leaks="raise")
    )
    with pytest.raises(LeakError, match=r"object ids .* and 50\d\d in tract") as caught:
        data.setup()
    assert any(f"object ids {one} and" in str(caught.value) for one in plain(catalog.object_id))
    data = CutoutDataModule(
        plan.repo, "dp2", {"train": catalog, "val": other, "test": other}, "gri", 24, splits=SplitOptions(leaks="drop")
    )
    data.setup()
    assert len(data.splits["train"][1]) == len(data.splits["val"][1]) == 0


def test_predictions_of_strange_ids_are_refused(plan: CutoutPlan, kind: str) -> None:
    from lsstcutouts.bulk.prediction_table import prediction_table
    from lsstcutouts.read.report import Report

    strange: Any = ["nobody"] if kind == "text" else np.array([3], np.uint64)
    with pytest.raises(PlanError, match=r"1 predicted objects are not in the plan, the first one is (nobody|3);"):
        prediction_table(plan, {"object_id": strange, "score": np.zeros(1)}, Report(plan))


def test_numbers_beyond_int64_only_where_needed(dp2_repo: SimulatedRepository) -> None:
    catalog = catalog_of(dp2_repo, np.arange(COUNT, dtype=np.uint64))
    assert catalog.object_id.dtype == np.int64
    assert catalog_of(dp2_repo, [*range(COUNT - 1), 2**64 - 1]).object_id.tolist()[-1] == 2**64 - 1
    assert catalog_of(dp2_repo, IDS["uint64"]).select("object_id == 18446744073709551615").object_id.tolist() == [
        2**64 - 1
    ]
    assert catalog_of(dp2_repo, TEXTS).select(f"object_id == {TEXTS[3]!r}").object_id == [TEXTS[3]]
    fingerprints = {catalog_of(dp2_repo, one).fingerprint() for one in (TEXTS, TEXTS[::-1], IDS["uint64"], None)}
    assert len(fingerprints) == 4


def test_ranks_and_models_of_ones_own(dp2_repo: SimulatedRepository, catalog: Catalog, tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path / "scores.parquet")
    data = CutoutDataModule(
        str(dp2_repo.root), "dp2", catalog, "gri", 24, batch_size=5, threads=1, read=ReadOptions(missing_band="skip")
    )
    trainer_of(tmp_path, writer).predict(Echo(), data, return_predictions=False)
    assert writer.table["object_id"].to_pylist() == plain(catalog.object_id)
    has = writer.table["score"].is_valid().to_numpy()
    assert 0 < has.sum() < COUNT
    np.testing.assert_array_equal(writer.table["score"].to_numpy(zero_copy_only=False)[has], catalog.dec[has])
