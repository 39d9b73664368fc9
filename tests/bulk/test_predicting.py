"""Predictions by partitions: the rows of the single file, the partitions of the catalog, and continued after anything."""

import json
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import lsdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lsstcutouts import Grid, LsstDataFetcher, ReadOptions
from lsstcutouts.app.cli import main
from lsstcutouts.bulk.engines import dask_client
from lsstcutouts.bulk.finished import PartitionResult
from lsstcutouts.bulk.predicting import Prediction, predict
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.read.exports.export_files import FILES
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..catalog.test_hats_table import partitions
from ..support.hats import divided, write_catalog
from ..support.predicting import Echo
from ..support.repositories import SMALL, simulated_copy
from .conftest import targets_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:No .* samples in targets:UserWarning"),
    # What lsdb says of catalogs as small as a test's, and of joins without a margin.
    pytest.mark.filterwarnings("ignore::RuntimeWarning:lsdb"),
]

COUNTS = {"made": 0, "batches": 0}


class Counting(Echo):
    """Counts how often it was made, and what it was given."""

    def __init__(self) -> None:
        super().__init__()
        COUNTS["made"] += 1

    def predict_step(self, batch: Any, _: int) -> dict[str, Any]:
        COUNTS["batches"] += 1
        return super().predict_step(batch, _)


class Brightness(L.LightningModule):
    """Has a weight, which its checkpoint brings."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def predict_step(self, batch: Any) -> dict[str, Any]:
        return {"object_id": batch["object_id"], "score": batch["image"].mean(dim=(1, 2, 3)) * self.weight}


@pytest.fixture(scope="module")
def hats(targets: Path) -> Path:
    """Return a HATS catalog of 80 targets and 60 rows outside the coverage, in partitions of at most 25 rows."""
    return targets


@pytest.fixture(scope="module")
def checkpoint(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    where = [f"data.repo={dp2_repo.root}", "data.collections=dp2", f"data.catalog={dp2_repo.truth}", f"output={output}"]
    settings = ["data.bands=gri", "data.size=24", "data.batch_size=16", "data.threads=1", "data.cache_bytes=50 MB"]
    assert main(["train", *where, *settings, "trainer.max_epochs=1", "picture=false", "trainer.logger=false"]) == 0
    return output / "model.ckpt"


def command(checkpoint: Path, catalog: Path, output: Path, *more: str) -> list[str]:
    return ["predict", f"checkpoint={checkpoint}", f"catalog={catalog}", f"output={output}", *more]


def data_of(repo: SimulatedRepository, catalog: Any, **changes: Any) -> CutoutDataModule:
    options: dict[str, Any] = {"batch_size": 8, "cache_bytes": "50 MB", "threads": 1, **changes}
    return CutoutDataModule(str(repo.root), "dp2", catalog, "gri", 24, **options)


def rows_of(folder: Path) -> pa.Table:
    """Return all predictions along the sky, read without the packages for HATS."""
    files = [pq.ParquetFile(file).read() for file in partitions(folder / "predictions")]
    return pa.concat_tables(files)


def result(capsys: pytest.CaptureFixture[str], given: list[str], status: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*given, "json=true"]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("batch", "precision"),
    [
        (1, "32-true"),
        (16, "32-true"),
        *(pytest.param(1, precision, marks=pytest.mark.long) for precision in ("bf16-mixed", "bf16-true", "64-true")),
    ],
)
def test_partitions_hold_the_rows_of_the_single_file(
    hats: Path, checkpoint: Path, tmp_path: Path, batch: int, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"data.batch_size={batch}", "data.columns=[label]", "trainer=cpu", f"trainer.precision={precision}"]
    assert main([*command(checkpoint, hats, tmp_path / "one.parquet"), *settings, "picture=false"]) == 0
    done = result(capsys, [*command(checkpoint, hats, tmp_path / "parts"), *settings])
    one, parts = (
        table.sort_by("object_id") for table in (pq.read_table(tmp_path / "one.parquet"), rows_of(tmp_path / "parts"))
    )
    assert done["complete"] is True
    assert (done["rows"], sum(done["outcomes"].values())) == (140, 140)
    assert parts.column_names == ["_healpix_29", "object_id", "row", *one.column_names[2:]]
    for name in one.column_names:
        mine, theirs = parts[name].to_pylist(), one[name].to_pylist()
        if name == "row":  # numbers of the partition
            assert mine != theirs
        elif name == "score" and batch > 1:  # other batches: rounding of float32
            np.testing.assert_allclose(np.array(mine, float), np.array(theirs, float), rtol=2e-6)
        else:
            assert mine == theirs, name
    assert sum(score is not None for score in parts["score"].to_pylist()) == done["delivered"] > 70


def test_partitions_are_those_of_the_catalog_and_join_with_it(hats: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert main(command(checkpoint, hats, tmp_path / "scores")) == 0
    mine = [
        file.relative_to(tmp_path / "scores" / "predictions")
        for file in partitions(tmp_path / "scores" / "predictions")
    ]
    assert mine == [file.relative_to(hats / "objects") for file in partitions(hats / "objects")]
    assert len(mine) >= 3
    catalog, scores = lsdb.open_catalog(hats), lsdb.open_catalog(tmp_path / "scores")
    assert scores.get_healpix_pixels() == catalog.get_healpix_pixels()
    frame = scores.compute()
    assert len(frame) == len(scores) == 140
    assert (np.diff(frame.index.to_numpy()) >= 0).all()
    joined = catalog.join(
        scores, left_on="object_id", right_on="object_id", suffixes=("", "_score"), suffix_method="all_columns"
    ).compute()
    assert len(joined) == 140
    np.testing.assert_array_equal(joined["ra"], joined["ra_score"])


def test_it_continues_after_a_kill_and_reads_nothing_when_finished(
    dp2_repo: SimulatedRepository, hats: Path, tmp_path: Path
) -> None:
    data, output = data_of(dp2_repo, {"predict": str(hats)}), tmp_path / "scores"
    seen = list[PartitionResult]()
    COUNTS.update(made=0, batches=0)
    first = predict(data, make, output)
    assert first.complete
    assert COUNTS["made"] == 1  # once for all partitions of this process
    before = rows_of(output)
    lost = max(first.partitions - 1, 1)
    for file in sorted((output / "finished").iterdir())[:lost]:
        file.unlink()
    (output / FILES).unlink()
    (output / "predictions" / "dataset" / ".Npix=7.parquet.part").write_text("half")
    next(iter(partitions(output / "predictions"))).unlink()
    again = predict(data, make, output, progress=seen.append)
    assert (again.complete, again.skipped, len(seen)) == (True, first.partitions - lost, lost)
    assert rows_of(output).equals(before)
    assert not list(output.rglob(".*.part"))
    COUNTS.update(made=0, batches=0)
    finished = predict(data, make, output)
    assert (finished.skipped, finished.rows) == (first.partitions, 140)
    assert COUNTS == {"made": 0, "batches": 0}


def make() -> Counting:
    return Counting()


@pytest.fixture(scope="module")
def begun(hats: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("begun") / "scores"
    assert main(command(checkpoint, hats, output, "part=1/3")) == 0
    return output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.read.min_bands=2", "another min_bands: 0, now 2"),
        ("data.columns=[label]", "another columns: [], now ['label']"),
        ("trainer.precision=bf16-mixed", "another precision: 32-true, now bf16-mixed"),
        ("catalog={path: HATS, select: 'label == 1'}", "another select: None, now label == 1"),
        ("catalog=REPO/truth.parquet", "another catalog"),
        ("data.transfer.wire=float16", "another wire: float32, now float16"),
    ],
)
def test_other_settings_are_refused(
    dp2_repo: SimulatedRepository,
    hats: Path,
    checkpoint: Path,
    begun: Path,
    change: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change = change.replace("HATS", str(hats)).replace("REPO", str(dp2_repo.root))
    given = command(checkpoint, hats, begun, "engine=threads")
    given = [one for one in given if one.partition("=")[0] != change.partition("=")[0]]
    assert main([*given, change]) == 2
    assert words in capsys.readouterr().err


def test_another_checkpoint_is_refused(
    hats: Path, checkpoint: Path, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(checkpoint, tmp_path / "same.ckpt")
    assert main(command(tmp_path / "same.ckpt", hats, begun, "part=1/3")) == 0
    state = torch.load(checkpoint, weights_only=True)
    state["state_dict"] = {name: values + 1 for name, values in state["state_dict"].items()}
    torch.save(state, tmp_path / "other.ckpt")
    assert main(command(tmp_path / "other.ckpt", hats, begun)) == 2
    assert "the prediction was begun with another checkpoint" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    assert main(command(checkpoint, hats, tmp_path / "mine")) == 2
    assert "exists and is not a prediction; give a new folder" in capsys.readouterr().err


def test_a_partition_that_fails_is_listed_and_tried_again(
    hats: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = simulated_copy(tmp_path / "repo", SimulationConfig(release="dp2", **SMALL))
    damaged = max(Path(copy.root).rglob("*deep_coadd*_i_*.fits"), key=lambda path: path.name)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:5000])
    given = command(checkpoint, hats, tmp_path / "scores", f"data.repo={copy.root}")
    failed = result(capsys, given, status=2)
    assert 0 < len(failed["failed"]) < failed["partitions"]
    assert failed["complete"] is False
    assert damaged.name in next(iter(failed["failed"].values()))
    assert json.loads((tmp_path / "scores" / "report.json").read_text())["failed"] == failed["failed"]
    damaged.write_bytes(whole)
    assert main(given) == 0
    assert "complete: a HATS collection" in capsys.readouterr().out


def test_string_ids_embeddings_and_frames_of_lsdb(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    table = targets_of(dp2_repo)
    names = pa.array([f"object {one}" for one in table["object_id"].to_pylist()])
    path = write_catalog(tmp_path / "named", divided(table.set_column(0, "object_id", names), 50))
    data = data_of(dp2_repo, str(path), columns=["label", "kind"])
    with Prediction(data, make, tmp_path / "scores", accelerator="cpu") as one:
        results = list(one.run(one.begin()))
        assert one.result(results, 0.0).complete
        catalog = lsdb.open_catalog(path)
        mapped = catalog.map_partitions(one.work().of_frame, include_pixel=True)
        found = mapped.compute()
    written_rows = lsdb.open_catalog(tmp_path / "scores").compute()
    assert list(found.columns) == list(written_rows.columns)
    assert found["object_id"].tolist() == written_rows["object_id"].tolist()
    assert found["object_id"].iloc[0].startswith("object ")
    has = (written_rows["outcome"] == "delivered").to_numpy(bool)
    for rows in (found, written_rows):
        assert rows["mean"].isna().to_numpy().tolist() == (~has).tolist()
        embedding = np.array(rows["embedding"][has].tolist())
        np.testing.assert_array_equal(embedding, rows[["ra", "dec"]].to_numpy(float)[has])
    np.testing.assert_array_equal(found["mean"][has].to_numpy(float), written_rows["mean"][has].to_numpy(float))
    assert set(written_rows["kind"]) == set(table["kind"].to_pylist())


@pytest.mark.slow
def test_parts_of_a_table_in_memory_complete_one_prediction(
    dp2_repo: SimulatedRepository, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsstcutouts.bulk.predicting._ROWS", 30)
    for number in (1, 2):
        given = command(checkpoint, dp2_repo.truth, tmp_path / "scores", f"part={number}/2", "data.batch_size=1")
        assert main([*given, "trainer=cpu"]) == 0
        assert (tmp_path / "scores" / "collection.properties").exists() == (number == 2)
    assert main([*command(checkpoint, dp2_repo.truth, tmp_path / "one.parquet"), "data.batch_size=1"]) == 0
    table, one = rows_of(tmp_path / "scores"), pq.read_table(tmp_path / "one.parquet")
    assert len(partitions(tmp_path / "scores" / "predictions")) > 2
    assert sorted(table["row"].to_pylist()) == list(range(80))  # of the whole catalog
    same = one.take(table["row"])
    for name in one.column_names:
        assert table[name].to_pylist() == same[name].to_pylist(), name


def test_ones_own_model_with_its_checkpoint(dp2_repo: SimulatedRepository, hats: Path, tmp_path: Path) -> None:
    model = Brightness()
    torch.nn.init.constant_(model.weight, 2.0)
    trainer = L.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    data = data_of(dp2_repo, str(hats))
    done = predict(data, Brightness, tmp_path / "scores", checkpoint=tmp_path / "own.ckpt", accelerator="cpu")
    assert done.complete
    plain = predict(data, make, tmp_path / "means", accelerator="cpu")
    assert plain.outcomes == done.outcomes
    scores, means = rows_of(tmp_path / "scores")["score"], rows_of(tmp_path / "means")["mean"]
    np.testing.assert_array_equal(np.array(scores, float), 2 * np.array(means, float))
    about = json.loads((tmp_path / "scores" / "prediction.json").read_text())
    assert about["settings"]["model"].endswith("Brightness")
    for wrong, words in (
        ((Brightness,), "checkpoint= is missing"),
        ((lambda: model,), "cannot be pickled"),
        ((model,), "function that"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            predict(data, *wrong, tmp_path / "no")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["output=scores.parquet", "engine=dask"], "is a file, but with engine= partitions are written into a folder"),
        (["output=scores.parquet", "scheduler=tcp://nowhere:1"], "is a file, but with scheduler="),
        (["part=0/2"], "part=0/2 must be i/n"),
        (["engine=ray"], "engine must be one of threads, dask"),
        (["trainer.limit_predict_batches=2"], "limit_predict_batches has no effect on partitions"),
        (["callbacks=default"], "callbacks= has no effect on partitions"),
        (["data.splits.select='label == 1'"], "splits.select does not work with partitions"),
    ],
)
def test_wrong_settings_are_explained(
    hats: Path, checkpoint: Path, tmp_path: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = command(checkpoint, hats, tmp_path / "scores")
    given = [one for one in given if not any(one.partition("=")[0] == other.partition("=")[0] for other in more)]
    assert main([*given, *more]) in {1, 2}
    assert words in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()


@pytest.mark.long
def test_workers_of_dask_write_the_same(dp2_repo: SimulatedRepository, hats: Path, tmp_path: Path) -> None:
    data = data_of(dp2_repo, str(hats))
    assert predict(data, make, tmp_path / "here").complete
    with dask_client(workers=2) as client:
        done = predict(data, make, tmp_path / "there", engine="dask", scheduler=client)
        made = client.run(times_made)
    assert (done.complete, done.failed) == (True, {})
    assert set(made.values()) <= {0, 1}
    assert rows_of(tmp_path / "there").equals(rows_of(tmp_path / "here"))


def times_made() -> int:
    return COUNTS["made"]


def test_partitions_on_your_own_grid(dp2_repo: SimulatedRepository, hats: Path, tmp_path: Path) -> None:
    read = ReadOptions(grid=Grid(north_up=True, pixel_scale=0.25))
    data = data_of(dp2_repo, str(hats), read=read)
    assert predict(data, make, tmp_path / "scores", accelerator="cpu", progress=False).complete
    rows = rows_of(tmp_path / "scores")
    with LsstDataFetcher(dp2_repo.root, collections="dp2", bands="gri", size=24, read=read) as fetcher:
        batch = fetcher.fetch(rows["ra"].to_numpy(), rows["dec"].to_numpy())
    found = rows["mean"].to_numpy()
    has = np.isfinite(found)
    np.testing.assert_array_equal(has, batch["tract"] >= 0)
    np.testing.assert_allclose(found[has], batch["image"].mean(axis=(1, 2, 3))[has], rtol=1e-4, atol=1e-5)
