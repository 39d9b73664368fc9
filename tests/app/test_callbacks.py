"""Callbacks under a real trainer."""

import csv
import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lsstcutouts.app.callbacks import CacheMonitor, KeepLast
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.read.cache.stats import CacheStats
from lsstcutouts.testing import SimulatedRepository

pytestmark = [
    # What Lightning says about a run as short as a test's.
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.* Skipping val loop"),
]


class Model(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return self.scale * (batch["image"].mean() if isinstance(batch, dict) else 1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Bar(ProgressBar):
    """Keeps what a progress bar would show."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Any] = []

    def disable(self) -> None: ...

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.shown.append(self.get_metrics(trainer, pl_module).get("cache"))


def data_of(repo: SimulatedRepository, **changes: Any) -> CutoutDataModule:
    options: dict[str, Any] = {"batch_size": 8, "cache_bytes": "50 MB", "threads": 1, **changes}
    return CutoutDataModule(
        str(repo.root), "dp2", str(repo.truth), "gri", 24, splits={"train": 0.75, "val": 0.25}, **options
    )


def trainer_of(folder: Path, *callbacks: L.Callback, **changes: Any) -> L.Trainer:
    options: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": CSVLogger(folder),
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "callbacks": list(callbacks),
    }
    return L.Trainer(**{**options, **changes})


def logged(trainer: L.Trainer) -> list[dict[str, float]]:
    """Return the rows of the monitor in the order of their steps."""
    assert trainer.log_dir is not None
    with (Path(trainer.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["data/hit_rate"]]
    return [{key: float(value) for key, value in row.items() if value} for row in rows]


def test_the_cache_is_logged_and_shown(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    data, monitor, bar = data_of(dp2_repo), CacheMonitor(every_n_steps=4), Bar()
    trainer = trainer_of(tmp_path, monitor, bar)
    trainer.fit(Model(), data)
    steps = int(trainer.num_training_batches)
    rows = logged(trainer)
    within = [*range(4, steps + 1, 4)]
    wanted = [*within, steps, *(steps + step for step in within), 2 * steps]
    assert [row["step"] for row in rows] == list(dict.fromkeys(wanted))
    first, last = next(row for row in rows if row["step"] == steps), rows[-1]
    assert 0 < first["data/hit_rate"] < 1
    assert last["data/hit_rate"] == 1.0  # every tile was decoded in the first epoch
    assert last["data/cache_bytes"] == data.cache_info().bytes > 0
    assert last["data/cutouts_per_second"] > 0
    assert 0 < last["data/waited_seconds"] < data.waited
    assert last["data/evictions"] == 0
    assert not any(name.startswith("data/") for name in trainer.callback_metrics)  # those are the model's
    assert len(bar.shown) == 2 * steps
    assert all(re.fullmatch(r"\d+ %, \d+ MB; waiting \d+ %", text) for text in bar.shown)
    assert bar.shown[-1].startswith("100 %, ")


def test_a_cache_that_is_too_small_is_seen(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, CacheMonitor(), enable_progress_bar=False)
    trainer.fit(Model(), data_of(dp2_repo, cache_bytes="1 MB"))
    last = logged(trainer)[-1]
    assert last["data/evictions"] > 0
    assert last["data/hit_rate"] < 1
    assert last["data/cache_bytes"] + last["data/reserved_bytes"] <= 1e6


def test_a_loader_alone_is_watched(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    data = data_of(dp2_repo)
    data.setup("fit")
    trainer = trainer_of(tmp_path, CacheMonitor(), enable_progress_bar=False)
    trainer.fit(Model(), data.train_dataloader())
    assert logged(trainer)[-1]["data/hit_rate"] == 1.0


def test_resuming_in_the_middle_of_an_epoch_starts_the_clock(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    middle = tmp_path / "middle.ckpt"

    class Save(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *found: Any) -> None:
            if found[-1] == 3:
                trainer.save_checkpoint(middle)

    trainer = trainer_of(tmp_path, Save(), enable_progress_bar=False, max_epochs=1, logger=False)
    trainer.fit(Model(), data_of(dp2_repo))
    monitor = CacheMonitor()
    again = trainer_of(tmp_path, monitor, enable_progress_bar=False, max_epochs=1)
    again.fit(Model(), data_of(dp2_repo), ckpt_path=middle, weights_only=True)
    assert again.train_dataloader is not None
    assert monitor.targets == len(again.train_dataloader.cutouts.rows) - 4 * 8 > 0
    assert monitor.seconds < 300  # not since the machine was started


def test_what_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        CacheMonitor(every_n_steps=0)
    trainer = trainer_of(tmp_path, CacheMonitor(), enable_progress_bar=False)
    plain: DataLoader[Any] = DataLoader([torch.zeros(1)])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="remove the callback"):
        trainer.fit(Model(), plain)


def test_the_last_checkpoint_is_kept(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, KeepLast(tmp_path / "last.ckpt"), enable_progress_bar=False, logger=False)
    trainer.fit(Model(), data_of(dp2_repo))
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1


def test_sizes_are_shown_for_people() -> None:
    from lsstcutouts.app.callbacks.monitor import _text

    assert _text(CacheStats(hits=98, misses=2, bytes=1_234_000_000), 0.034) == "98 %, 1.2 GB; waiting 3 %"
    assert _text(CacheStats(bytes=55_000_000), 0.0) == "0 %, 55 MB; waiting 0 %"
