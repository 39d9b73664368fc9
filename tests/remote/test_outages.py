"""Expiries and an outage at full length, in a training."""

import logging
import time
from pathlib import Path

import lightning.pytorch as lightning
import pytest
import torch

from lsstcutouts import CutoutDataModule
from lsstcutouts.source.web.process import figures_of_process, web_of_process

from ..support.platform.science_platform import Platform, Published
from ..support.remote import remote_plan

_log = logging.getLogger(__name__)


class Counting(lightning.LightningModule):
    """Counts rows, and breaks the network once in the middle."""

    def __init__(self, platform: Platform, seconds: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.platform, self.seconds = platform, seconds
        self.rows: list[set[int]] = []
        self.start = time.monotonic()

    def on_train_epoch_start(self) -> None:
        self.rows.append(set())
        web = web_of_process()  # every epoch asks for its bytes, with the URLs of the first
        web._recent.clear()
        web._recent_bytes = 0
        if len(self.rows) == 3:
            self.platform.set(away=self.seconds)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        self.rows[-1].update(batch["object_id"].tolist())
        return (self.weight * batch["image"].nan_to_num().mean()).sum()

    def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
        """Needed with validation targets."""

    def on_train_epoch_end(self) -> None:
        figures, counters = figures_of_process(), self.platform.counters()
        refused = {status: n for status, n in counters.statuses.items() if status in {"400", "401", "403"}}
        _log.info(
            "%6.1f s: epoch %d, %d rows, refused %s, %s",
            time.monotonic() - self.start,
            len(self.rows),
            len(self.rows[-1]),
            refused,
            figures,
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_training_passes_expiries_and_a_lost_network(
    platform: Platform,
    remote_dp2: Published,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """URLs that live five seconds, and no network for a minute."""
    caplog.set_level(logging.INFO)
    monkeypatch.delenv("LSSTCUTOUTS_PATIENCE")
    remote_plan(remote_dp2).save(tmp_path / "plan.parquet")
    platform.set(expire_after=5.0, expired="gcs", rate=150_000.0)
    model = Counting(platform, 60.0)
    module = CutoutDataModule(
        remote_dp2.url,
        remote_dp2.collections,
        None,
        "gri",
        32,
        plan=tmp_path / "plan.parquet",
        batch_size=9,
        cache_bytes="1 MB",
        splits={"train": 1.0},
    )
    trainer = lightning.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(model, module)
    assert time.monotonic() - model.start > 60
    assert len(model.rows) == 5
    assert len({frozenset(rows) for rows in model.rows}) == 1
    assert len(model.rows[0]) > 50
    assert platform.counters().statuses.get("400", 0) > 3
    assert sum("waiting for http" in record.message for record in caplog.records) >= 1
