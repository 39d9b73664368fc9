"""Every row is accounted for: by a fetch, by an epoch with and without worker processes, by several ranks."""

import json
import pickle
from pathlib import Path

import lightning as L
import numpy as np
import pyarrow.parquet
import pytest

from lsstcutouts import ReadOptions, Sampling
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError, WriteError
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.models import LensClassifier, LensFinder
from lsstcutouts.order.world import World
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.quality import Outcome, Quality
from lsstcutouts.read.batch_report import BatchReport, Failure
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.read.report import Report
from lsstcutouts.testing import SimulatedRepository

from ..support.faulty import copied, file_of


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    """Return a plan of the truth and two positions that are not covered."""
    truth = Catalog.from_any(dp2_repo.truth)
    ra, dec = np.append(truth.ra, [200.0, 201.0]), np.append(truth.dec, [45.0, 45.0])
    return build_plan(dp2_repo.root, Catalog.from_arrays(ra, dec), collections="dp2", bands="gri", size=24)


def ids_of(loader: CutoutLoader) -> list[int]:
    found: list[int] = []
    for batch in loader:
        assert not any("batch_report" in name for name in batch)
        found += batch["object_id"][~batch["is_padding"]].tolist()
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_accounts_for_every_row(plan: CutoutPlan, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    dataset = CutoutDataset(plan, batch_size=7, cache_bytes="100 MB", read=ReadOptions(missing_band="skip"))
    loader = CutoutLoader(dataset, num_workers=workers)
    assert loader.report.counts()[Outcome.NOT_READ] == len(plan)
    ids = ids_of(loader)
    report = loader.report
    assert len(report) == len(plan) + len(plan.rejected)
    assert sum(report.counts().values()) == len(report)
    assert set(report.counts()) == {Outcome.DELIVERED, Outcome.OUTSIDE_TRACTS, Outcome.MISSING_BAND}
    assert sorted(ids) == sorted(report.object_id[report.outcome == Outcome.DELIVERED].tolist())
    assert len(ids) == report.delivered < len(plan)
    assert report.by_band()["g"][Quality.BAND_ABSENT] >= 2
    (said,) = [r.message for r in caplog.records if "left out" in r.message]
    assert said.startswith(f"{len(plan) - len(ids)} of {len(report)} rows were left out")
    # The next epoch begins a new report.
    next(iter(loader))
    counts = loader.report.counts()
    assert counts[Outcome.NOT_READ] == len(plan) - 7


def test_steps_stay_the_same_when_rows_are_left_out(plan: CutoutPlan) -> None:
    whole = CutoutLoader(CutoutDataset(plan, batch_size=3, cache_bytes="100 MB"))
    some = CutoutLoader(CutoutDataset(plan, batch_size=3, cache_bytes="100 MB", read=ReadOptions(missing_band="skip")))
    batches = list(some)
    assert len(batches) == len(some) == len(whole)
    sizes = [len(b["object_id"]) for b in batches]
    assert min(sizes) >= 1
    assert sum(sizes) < len(plan)
    padding = [b["is_padding"].tolist() for b in batches if b["is_padding"].any()]
    assert all(p == [True] for p in padding)


def test_a_plain_iteration_is_accounted_for_too(plan: CutoutPlan) -> None:
    rows = np.arange(5, 25)
    dataset = CutoutDataset(plan, rows=rows, batch_size=8, cache_bytes="100 MB")
    assert sum(len(b["object_id"]) for b in dataset) == 20
    assert dataset.report.counts() == {Outcome.DELIVERED: 20}
    np.testing.assert_array_equal(dataset.report.object_id, plan.object_id[rows])
    assert pickle.loads(pickle.dumps(dataset)).report.counts() == {Outcome.NOT_READ: 20}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_catalog_column_may_be_called_account(dp2_repo: SimulatedRepository, workers: int) -> None:
    truth = Catalog.from_any(dp2_repo.truth)
    table = {"ra": truth.ra[:6], "dec": truth.dec[:6], "batch_report": np.arange(6)}
    plan = build_plan(dp2_repo.root, table, collections="dp2", bands="r", size=8, columns=("batch_report",))
    loader = CutoutLoader(
        CutoutDataset(plan, batch_size=4, cache_bytes="50 MB", sampling=Sampling(shuffle=False)), num_workers=workers
    )
    found = [row for batch in loader for row in batch["batch_report"].tolist()]
    assert sorted(found) == plan.columns["batch_report"].tolist()
    assert loader.report.delivered == len(plan)


def test_a_report_is_of_one_epoch(plan: CutoutPlan) -> None:
    loader = CutoutLoader(CutoutDataset(plan, batch_size=10, cache_bytes="100 MB"))
    given_up = iter(loader)
    next(given_up)
    latest = iter(loader)
    next(latest)
    next(given_up)
    assert loader.report.delivered == 10
    list(loader)
    loader.load_state_dict({"epoch": 5, "batch": 3})
    next(iter(loader))
    assert loader.report.delivered == 10


def test_the_reports_of_ranks_add_up(plan: CutoutPlan) -> None:
    loaders = [
        CutoutLoader(CutoutDataset(plan, batch_size=5, world=World(r, 3), cache_bytes="100 MB")) for r in range(3)
    ]
    ids = [ids_of(loader) for loader in loaders]
    total = loaders[0].report + loaders[1].report + loaders[2].report
    assert total.delivered == len(plan) == sum(map(len, ids))
    assert Outcome.NOT_READ not in total.counts()
    assert loaders[1].report.delivered == len(ids[1])
    with pytest.raises(ConfigurationError, match="same rows"):
        _ = total + Report(plan, np.arange(3))


def test_the_report_names_what_cannot_be_read(
    dp2_repo: SimulatedRepository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repo = copied(dp2_repo, tmp_path)
    path = file_of(repo, 9, "r")
    with LsstDataFetcher(
        repo.root, collections="dp2", bands="gri", size=24, read=ReadOptions(on_read_error="mask")
    ) as fetcher:
        plan = fetcher.plan(repo.truth)
        path.unlink()
        fetcher.fetch_plan(plan)
        report = fetcher.report
    ((failure, rows),) = report.failures.items()
    assert f"1 read error affected {rows} rows, the first one: {failure.cause}" in caplog.text
    assert failure.uri == str(path)
    assert rows == report.by_band()["r"][Quality.READ_ERROR] > 10
    shown = str(report)
    assert f"unreadable, {rows} rows: file of {path}: " in shown
    assert "band g: " in shown
    plain = report.as_dict()
    assert plain["failures"][0]["rows"] == rows
    assert plain["quality"]["r"]["read_error"] == rows
    assert sum(plain["outcomes"].values()) == plain["rows"] == len(report)


def test_a_report_is_written_as_a_table(plan: CutoutPlan, tmp_path: Path) -> None:
    report = Report(plan)
    target = int(plan.row[4])
    bits = np.array([[0, int(Quality.READ_ERROR), 0]], np.int32)
    failure = Failure("a.fits", 1, 2, "r", "", "CorruptFileError", "because")
    batch_report = BatchReport(np.array([4]), np.array([0], np.uint8), bits, ((failure, (0,)),))
    report.add(batch_report)
    report.save(tmp_path / "deep" / "report.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "deep" / "report.parquet").to_pylist()
    assert len(table) == len(report)
    assert [row["row"] for row in table] == list(range(len(report)))
    assert table[target]["outcome"] == "delivered"
    assert table[target]["quality_r"] == Quality.READ_ERROR
    assert table[-1]["outcome"] == "outside_tracts"
    (tmp_path / "file").touch()
    metadata = pyarrow.parquet.read_schema(tmp_path / "deep" / "report.parquet").metadata
    assert json.loads(metadata[b"lsstcutouts.read.report"]) == json.loads(json.dumps(report.as_dict()))
    with pytest.raises(WriteError, match=r"report\.parquet.* cannot be written: "):
        report.save(tmp_path / "file" / "report.parquet")
    assert report.failures == {failure: 1}
    with pytest.raises(ConfigurationError, match="not in this report"):
        Report(plan, np.array([1])).add(batch_report)


@pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")
def test_the_data_module_reports_each_split(dp2_repo: SimulatedRepository, caplog: pytest.LogCaptureFixture) -> None:
    data = CutoutDataModule(
        dp2_repo.root,
        "dp2",
        dp2_repo.truth,
        "gri",
        32,
        batch_size=8,
        cache_bytes="100 MB",
        columns=("label",),
        read=ReadOptions(missing_band="skip"),
    )
    with pytest.raises(ConfigurationError, match="before it has been read"):
        data.report("train")
    data.setup()
    ids = ids_of(data.train_dataloader())
    caplog.clear()
    fit = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    ).fit
    fit(LensClassifier(LensFinder("gri"), label="label"), data)
    assert [r.message for r in caplog.records if "rows were left out" in r.message]
    report = data.report("train")
    assert len(report) == len(data.splits["train"][1])
    assert report.delivered == len(ids) < len(report)
    assert report.counts()[Outcome.MISSING_BAND] == len(report) - len(ids)
