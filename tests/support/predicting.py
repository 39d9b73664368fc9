"""A prediction as a script, for several ranks: ``torchrun -m tests.support.predicting REPO FOLDER COUNT...``.

Each COUNT is a number of catalog rows; the table goes to ``FOLDER/COUNT.parquet``. A validation of the first catalog
writes the ids of its seven worst targets to ``FOLDER/worst/worst.npy``.
"""

import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn

from lsstcutouts import ReadOptions
from lsstcutouts.app.callbacks import PredictionWriter, WorstPredictions
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.loader.datamodule.module import CutoutDataModule

OUTSIDE = ((200.0, 45.0), (201.0, 45.0))
"""Positions that no tract holds."""


class Echo(L.LightningModule):
    """Scores each target by its declination, which a test knows, and gives its position as an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def predict_step(self, batch: Any, _: int) -> dict[str, Any]:
        position = torch.stack([batch["ra"], batch["dec"]], dim=1)
        mean = batch["image"].mean(dim=(1, 2, 3))
        return {"object_id": batch["object_id"], "score": batch["dec"], "mean": mean, "embedding": position}

    def validation_step(self, batch: Any, _: int) -> dict[str, Any]:
        real = ~batch["is_padding"]
        columns = {"score": batch["ra"], "truth": batch["dec"], "loss": batch["dec"] + 90.0}
        return {name: values[real] for name, values in {"object_id": batch["object_id"], **columns}.items()}


class Noted(WorstPredictions):
    """Writes down what it draws."""

    def _draw(self, trainer: L.Trainer, found: Any) -> None:
        super()._draw(trainer, found)
        np.save(self.folder / "worst.npy", found["object_id"])


def catalog_of(truth: Path, count: int) -> Catalog:
    """Return so many rows of the truth, with a position outside all coadds in front and one in the middle."""
    known = Catalog.from_any(truth)
    ra, dec = known.ra[: count - 2], known.dec[: count - 2]
    places = [0, (count - 2) // 2]
    ra = np.insert(ra, places, [position[0] for position in OUTSIDE])
    dec = np.insert(dec, places, [position[1] for position in OUTSIDE])
    return Catalog.from_arrays(ra, dec, object_id=np.arange(count) * 7 + 1000)


def data_of(repo: Path, catalog: Any, **changes: Any) -> CutoutDataModule:
    options: dict[str, Any] = {"batch_size": 8, "cache_bytes": "50 MB", "threads": 1, **changes}
    return CutoutDataModule(str(repo), "dp2", catalog, "gri", 24, **options)


def trainer_of(folder: Path, *callbacks: L.Callback, **changes: Any) -> L.Trainer:
    options: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    options |= {"enable_checkpointing": False, "enable_model_summary": False, "default_root_dir": folder}
    return L.Trainer(**{**options, **changes}, callbacks=list(callbacks))


def main() -> None:
    repo, folder = Path(sys.argv[1]), Path(sys.argv[2])
    for count in map(int, sys.argv[3:]):
        data = data_of(repo, catalog_of(repo / "truth.parquet", count), read=ReadOptions(missing_band="skip"))
        writer = PredictionWriter(folder / f"{count}.parquet")
        trainer = trainer_of(folder, writer, devices=2, strategy="ddp")
        trainer.predict(Echo(), data, return_predictions=False)
    splits = {"train": 0.0, "val": 1.0}
    data = data_of(repo, catalog_of(repo / "truth.parquet", int(sys.argv[3])), splits=splits)
    trainer = trainer_of(folder, Noted(folder / "worst", count=7), devices=2, strategy="ddp")
    trainer.validate(Echo(), data, verbose=False)


if __name__ == "__main__":
    main()
