"""Predictions as a file: each row of the catalog once, whoever read it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts import ReadOptions
from lsstcutouts.app.callbacks import PredictionWriter
from lsstcutouts.bulk.prediction_table import META, joined, prediction_table
from lsstcutouts.errors import ConfigurationError, PlanError
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.quality import Outcome, QualityPolicy
from lsstcutouts.read.batch_report import BatchReport, Failure
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.read.report import Report
from lsstcutouts.testing import SimulatedRepository

from ..support.examples import examples
from ..support.faulty import copied, file_of
from ..support.predicting import Echo, catalog_of, data_of, trainer_of
from ..support.processes import run_ranks

COUNT = 37  # rows, of which two lie outside


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, catalog_of(dp2_repo.truth, COUNT), collections="dp2", bands="gri", size=24)


def predicted(repo: SimulatedRepository, folder: Path, count: int = COUNT, **changes: Any) -> Any:
    """Predict in this process and return the table that was written."""
    writer = PredictionWriter(folder / "scores.parquet")
    limits = {"limit_predict_batches": changes.pop("limit")} if "limit" in changes else {}
    trainer_of(folder, writer, **limits).predict(
        Echo(), data_of(repo.root, catalog_of(repo.truth, count), **changes), return_predictions=False
    )
    table = pyarrow.parquet.read_table(folder / "scores.parquet")
    assert table.equals(writer.table)
    return table


def check(table: Any, repo: SimulatedRepository, count: int = COUNT) -> dict[str, int]:
    """See that each catalog row is there once, in order, with its own values; return the outcomes."""
    catalog = catalog_of(repo.truth, count)
    assert table["row"].to_pylist() == list(range(count))
    np.testing.assert_array_equal(table["object_id"], catalog.object_id)
    np.testing.assert_array_equal(table["ra"], catalog.ra)
    has = np.array([score is not None for score in table["score"].to_pylist()])
    outcome = np.array(table["outcome"].to_pylist())
    np.testing.assert_array_equal(has, outcome == "delivered")
    np.testing.assert_array_equal(has, [reason is None for reason in table["reason"].to_pylist()])
    for name in ("mean", "embedding"):
        np.testing.assert_array_equal(has, [value is not None for value in table[name].to_pylist()])
    np.testing.assert_array_equal(np.array(table["score"])[has], catalog.dec[has])
    positions = np.array(table["embedding"].filter(has).to_pylist()).reshape(-1, 2)
    np.testing.assert_array_equal(positions, np.column_stack([catalog.ra, catalog.dec])[has])
    names, counts = np.unique(outcome, return_counts=True)
    found = dict(zip(names.tolist(), counts.tolist(), strict=True))
    assert json.loads(table.schema.metadata[META.encode()])["outcomes"] == found
    return found


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_rows_with_missing_bands(dp2_repo: SimulatedRepository, plan: CutoutPlan, tmp_path: Path, workers: int) -> None:
    table = predicted(dp2_repo, tmp_path, num_workers=workers, read=ReadOptions(missing_band="skip"))
    found = check(table, dp2_repo)
    assert set(found) == {"delivered", "missing_band", "outside_tracts"}
    assert (found["outside_tracts"], table["tract"].to_pylist()[0]) == (2, -1)
    assert table["reason"].to_pylist()[0] == "in no tract that has coadds"
    about = json.loads(table.schema.metadata[META.encode()])
    assert (about["plan"], about["bands"], about["checkpoint"]) == (plan.fingerprint(), ["g", "r", "i"], None)
    with LsstDataFetcher(dp2_repo.root, collections="dp2", bands="gri", size=24) as fetcher:
        batch = fetcher.fetch_plan(plan)
    whole = batch["band_present"].all(axis=1)
    np.testing.assert_array_equal(
        table["object_id"].filter(np.array(table["outcome"].to_pylist()) == "delivered"), plan.object_id[whole]
    )
    means = np.asarray(batch["image"], np.float64).mean(axis=(1, 2, 3))[whole]
    np.testing.assert_allclose(table["mean"].drop_null(), means, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(np.array(table["quality_g"])[plan.row] & 1, ~batch["band_present"][:, 0])


def test_rows_of_bad_quality(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    policy = QualityPolicy(max_masked={"DETECTED": 0.7}, action="skip")
    assert set(check(predicted(dp2_repo, tmp_path, read=ReadOptions(quality=policy)), dp2_repo)) == {
        "delivered",
        "quality",
        "outside_tracts",
    }


def test_no_row_is_left(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    found = check(
        predicted(
            dp2_repo, tmp_path, read=ReadOptions(quality=QualityPolicy(max_masked={"DETECTED": 0.3}, action="skip"))
        ),
        dp2_repo,
    )
    assert found == {"quality": COUNT - 2, "outside_tracts": 2}


def test_rows_that_cannot_be_read(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    repo = copied(dp2_repo, tmp_path)
    path = file_of(repo, 9, "r")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    table = predicted(repo, tmp_path, read=ReadOptions(on_read_error="skip"))
    assert set(check(table, repo)) == {"delivered", "read_error", "outside_tracts"}
    reasons = {
        r for r, o in zip(table["reason"].to_pylist(), table["outcome"].to_pylist(), strict=True) if o == "read_error"
    }
    assert all(reason.startswith("left out: unreadable file: ") for reason in reasons)
    assert any(path.name in reason for reason in reasons)


def test_a_prediction_that_is_cut_short(
    dp2_repo: SimulatedRepository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = check(predicted(dp2_repo, tmp_path, limit=2), dp2_repo)
    assert found == {"delivered": 16, "not_read": COUNT - 18, "outside_tracts": 2}
    assert "were not read" not in caplog.text  # somebody asked for that


def test_columns_of_the_catalog_are_kept(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path / "scores.parquet", checkpoint="best.ckpt")
    data = data_of(dp2_repo.root, str(dp2_repo.truth), columns=("label",))
    trainer_of(tmp_path, writer).predict(Echo(), data, return_predictions=False)
    truth = pyarrow.parquet.read_table(dp2_repo.truth)
    assert writer.table["label"].to_pylist() == truth["label"].to_pylist()
    assert json.loads(writer.table.schema.metadata[META.encode()])["checkpoint"] == "best.ckpt"


@pytest.mark.slow
def test_two_ranks_write_one_file(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    """Catalogs that do not divide; the second one leaves fewer rows than ranks to the last batch."""
    counts = (COUNT, 36, 19)
    run_ranks("tests.support.predicting", [dp2_repo.root, tmp_path, *counts], 2)
    for count in counts:
        alone = predicted(dp2_repo, tmp_path / str(count), count, read=ReadOptions(missing_band="skip"))
        together = pyarrow.parquet.read_table(tmp_path / f"{count}.parquet")
        check(together, dp2_repo, count)
        assert together.drop_columns("mean").equals(alone.drop_columns("mean"))
    assert not list(tmp_path.glob(".*.part"))
    # Each rank has seen a half; the worst of both are drawn.
    known = catalog_of(dp2_repo.truth, COUNT)
    covered = np.flatnonzero(known.ra < 200)
    wanted = known.object_id[covered[np.argsort(-known.dec[covered])[:7]]]
    np.testing.assert_array_equal(np.load(tmp_path / "worst" / "worst.npy"), wanted)
    assert [path.name for path in (tmp_path / "worst").glob("*.png")] == ["worst-0001.png"]


@given(st.data())
@examples(60)
def test_any_sharing_gives_each_row_once(plan: CutoutPlan, data: st.DataObject) -> None:
    n = len(plan)
    owner = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n)))  # -1: read by nobody
    choices = [Outcome.DELIVERED, Outcome.MISSING_BAND, Outcome.READ_ERROR]
    outcome = np.array(data.draw(st.lists(st.sampled_from(choices), min_size=n, max_size=n)), np.uint8)
    failure = Failure("a.fits", 1, 2, "g", "image", "CorruptFileError", "a.fits: cut")
    parts, report = [], Report(plan)
    for rank in range(3):
        mine = np.flatnonzero(owner == rank)
        good = mine[outcome[mine] == Outcome.DELIVERED]
        parts.append({"object_id": plan.object_id[good], "score": good.astype(np.float32)})
        other = Report(plan)
        lost = tuple(np.flatnonzero(outcome[mine] == Outcome.READ_ERROR).tolist())
        quality = np.zeros((len(mine), 3), np.int32)
        other.add(BatchReport(mine, outcome[mine], quality, ((failure, lost),) if lost else ()))
        report += other
    everyone = np.flatnonzero((owner >= 0) & (outcome == Outcome.DELIVERED))
    table = prediction_table(plan, joined(parts), report)
    assert table["row"].to_pylist() == list(range(COUNT))
    names = dict(zip(table["object_id"].to_pylist(), table["outcome"].to_pylist(), strict=True))
    wanted = np.where(owner < 0, np.uint8(Outcome.NOT_READ), outcome)
    assert [names[i] for i in plan.object_id.tolist()] == [Outcome(o).name.lower() for o in wanted]
    if len(everyone):
        scores = dict(zip(table["object_id"].to_pylist(), table["score"].to_pylist(), strict=True))
        assert [scores[i] for i in plan.object_id[everyone].tolist()] == everyone.tolist()
    reasons = dict(zip(table["object_id"].to_pylist(), table["reason"].to_pylist(), strict=True))
    for target in np.flatnonzero(wanted == Outcome.READ_ERROR).tolist():
        assert reasons[int(plan.object_id[target])] == "left out: unreadable file: a.fits: cut"


def test_objects_that_are_not_accounted_for(plan: CutoutPlan) -> None:
    ids = plan.object_id[[3, 5, 3]]
    with pytest.raises(PlanError, match=f"more than once, the first one is {ids[0]}"):
        prediction_table(plan, {"object_id": ids}, Report(plan))
    with pytest.raises(PlanError, match="1 predicted objects are not in the plan, the first one is 5"):
        prediction_table(plan, {"object_id": np.array([5])}, Report(plan))


class Wrong(Echo):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def predict_step(self, batch: Any, _: int) -> Any:
        return self.answer(batch)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda b: b["ra"], "must return a dictionary with object_id"),
        (
            lambda b: {"object_id": b["object_id"], "ra": b["ra"]},
            "returns ra, but the output file already has columns of this name",
        ),
        (lambda b: {"object_id": b["object_id"], "score": b["ra"][1:]}, "7 values of 'score' for a batch of 8 rows"),
        (lambda b: {"object_id": b["object_id"]} | ({} if len(b["ra"]) < 8 else {"a": b["ra"]}), "the columns"),
    ],
)
def test_what_a_model_must_not_return(dp2_repo: SimulatedRepository, tmp_path: Path, answer: Any, words: str) -> None:
    data = data_of(dp2_repo.root, catalog_of(dp2_repo.truth, COUNT))
    trainer = trainer_of(tmp_path, PredictionWriter(tmp_path / "scores.parquet"))
    with pytest.raises(ConfigurationError, match=words):
        trainer.predict(Wrong(answer), data, return_predictions=False)
    assert not (tmp_path / "scores.parquet").exists()


def test_texts_and_half_precision(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    def answer(batch: Any) -> dict[str, Any]:
        names = [f"object {i}" for i in batch["object_id"].tolist()]
        return {"object_id": batch["object_id"], "name": names, "half": batch["dec"].to(torch.bfloat16)}

    writer = PredictionWriter(tmp_path / "scores.parquet")
    data = data_of(dp2_repo.root, catalog_of(dp2_repo.truth, COUNT))
    trainer_of(tmp_path, writer).predict(Wrong(answer), data, return_predictions=False)
    ids, names = writer.table["object_id"].to_pylist(), writer.table["name"].to_pylist()
    assert [name for name in names if name] == [f"object {i}" for i, name in zip(ids, names, strict=True) if name]
    assert writer.table["half"].type == "float"


def test_a_loader_of_something_else(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, PredictionWriter(tmp_path / "scores.parquet"))
    with pytest.raises(ConfigurationError, match="with one CutoutLoader, not with DataLoader"):
        trainer.predict(Echo(), torch.utils.data.DataLoader([torch.zeros(1)]))  # type: ignore[arg-type]
