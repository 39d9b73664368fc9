"""A sweep from one command: each job its own folder, and a table of all at the end."""

import csv
import json
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.app.cli import main
from lsstcutouts.app.cli.sweep import ranked, settings_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

TINY = (
    "simulation.config.cells=2",
    "simulation.config.cell=64",
    "simulation.config.targets=60",
    "simulation.config.bands=gri",
    "data.size=32",
    "data.cache_bytes=100 MB",
    "data.batch_size=16",
    "trainer.max_epochs=1",
    "picture=false",
    "json=true",
)


@pytest.mark.slow
def test_a_sweep_over_two_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")  # the headings stay whole however many columns differ
    assert main(["train", *TINY, "output=out", "+trainer.limit_train_batches=2", "hparams_search=lr_width"]) == 0
    printed, said = capfd.readouterr()
    results = [json.loads(line) for line in printed.splitlines()]
    assert len(results) == 4
    with (tmp_path / "out" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["model.optimizer.lr"], row["data.sampling.shuffle_width"]) for row in rows} == {
        (lr, width) for lr in ("0.001", "0.003") for width in ("4", "32")
    }
    scores = [float(row["val_auc"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert sorted(scores) == sorted(result["metrics"]["val_auc"] for result in results)
    assert {row["state"] for row in rows} == {"done"}
    for row in rows:  # each job has a folder of its own, with what it says of itself
        folder = tmp_path / row["folder"]
        assert Path(row["checkpoint"]) == folder.relative_to(tmp_path) / "model.ckpt" or Path(
            row["checkpoint"]
        ).samefile(folder / "model.ckpt")
        assert {"last.ckpt", "metrics.json", "report.json", "lightning_logs"} <= {p.name for p in folder.iterdir()}
        state = torch.load(folder / "model.ckpt", weights_only=True)
        assert state["optimizer_states"][0]["param_groups"][0]["initial_lr"] == float(row["model.optimizer.lr"])
    table = said[said.index("Sweep: ") :]  # hydra announces every job before it
    # What differs is in it, and not what is the same for all.
    assert all(name in table for name in ("job", "lr", "shuffle_width", "val_auc"))
    assert "max_epochs" not in table

    # The network of the best job predicts the whole catalog, labels or not.
    best = rows[0]["checkpoint"]
    tiny = [one for one in TINY if not one.startswith("trainer") and one != "picture=false"]
    assert main(["predict", *tiny, f"checkpoint={best}", "output=scores"]) == 0
    (result,) = map(json.loads, capfd.readouterr().out.splitlines())
    table = pyarrow.parquet.read_table(tmp_path / "scores" / "predictions.parquet")
    assert (result["rows"], result["predicted"], len(table)) == (60, 60, 60)
    assert result["outcomes"] == {"delivered": 60}
    assert table["row"].to_pylist() == list(range(60))
    assert all(0 < score < 1 for score in table["score"].to_pylist())
    assert "label" not in table.column_names
    assert (tmp_path / "scores" / "predictions.png").stat().st_size > 10_000
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"demo", "out", "scores"}


def test_a_checkpoint_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "checkpoint=nowhere.ckpt"]) == 2
    assert "this file does not exist" in capsys.readouterr().err


def test_the_settings_of_a_job() -> None:
    assert settings_of(["a.b=3", "+c=x=y", "~d"]) == {"a.b": "3", "c": "x=y", "d": ""}


@given(st.lists(st.one_of(st.none(), st.floats(-5, 5)), max_size=8), st.sampled_from(["max", "min"]))
def test_the_best_job_goes_first_and_those_that_failed_last(values: list[float | None], mode: str) -> None:
    jobs = [{"job": i} | ({} if value is None else {"score": value}) for i, value in enumerate(values)]
    found = ranked(jobs, "score", mode)  # type: ignore[arg-type]
    assert sorted(job["job"] for job in found) == list(range(len(values)))
    scores = [job["score"] for job in found if "score" in job]
    assert scores == sorted(scores, reverse=mode == "max")
    assert all("score" not in job for job in found[len(scores) :])
