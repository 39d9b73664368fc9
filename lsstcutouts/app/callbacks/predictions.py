"""Predictions of all ranks in one Parquet file."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from ...bulk.model_outputs import model_columns
from ...bulk.prediction_table import joined, prediction_table, reserved_names
from ...catalog.ids import Values
from ...errors import ConfigurationError
from ...loader.loader import CutoutLoader
from ...plan.cutout_plan import CutoutPlan
from ...read.report import Report
from ...source.writing import atomic_file
from .ranks import gather_on_first_rank

__all__ = ["PredictionWriter"]

_log = logging.getLogger(__name__)


class PredictionWriter(Callback):
    """Write the predictions of ``Trainer.predict`` to one Parquet file with one row per catalog row, in catalog order.

    The model's ``predict_step`` returns a dictionary with ``object_id`` ``(N,)`` and columns such as ``score`` ``(N,)``
    or an embedding ``(N, D)``, which becomes a column of lists. Padding rows (``is_padding``) are dropped. At the end rank 0
    collects the predictions of all ranks over the process group and writes the file. A row without a prediction has nulls
    and a ``reason``.

    Parameters
    ----------
    path
        Output file.
    checkpoint
        Name of the checkpoint for the Parquet metadata; by default ``ckpt_path`` of the trainer.

    Attributes
    ----------
    table
        The written `pyarrow.Table`, on rank 0; otherwise None.

    Raises
    ------
    ConfigurationError
        If prediction does not use exactly one `CutoutLoader`, or the output of ``predict_step`` is invalid.
    PlanError
        If two ranks predicted the same object.
    WriteError
        If the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], checkpoint: str | None = None) -> None:
        self.path, self.checkpoint = Path(path), checkpoint
        self.table: Any = None
        self._parts: list[dict[str, Values]] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Delete earlier predictions, and check that there is one `CutoutLoader`."""
        self._parts, self.table = [], None
        _loader(trainer)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Any,
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Store the predictions of a batch as arrays."""
        plan = _loader(trainer).cutouts.plan
        found = model_columns(outputs, batch, plan, reserved_names(plan))
        self._parts.append(found)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Collect the predictions of all ranks and write the file."""
        loader = _loader(trainer)
        own = joined(self._parts)
        self._parts = []
        everything = gather_on_first_rank((own, loader.report))
        if everything is None:
            return
        predicted = joined([part for part, _ in everything])
        report = everything[0][1]
        for _, other in everything[1:]:
            report += other
        limited = sum(trainer.num_predict_batches) < len(loader)
        self._write(trainer, loader.cutouts.plan, predicted, report, limited=limited)

    def _write(
        self, trainer: L.Trainer, plan: CutoutPlan, predicted: Mapping[str, Values], report: Report, *, limited: bool
    ) -> None:
        import pyarrow.parquet

        checkpoint = self.checkpoint or trainer.ckpt_path
        about = {"checkpoint": None if checkpoint is None else os.fspath(checkpoint), "limited": limited}
        table = prediction_table(plan, predicted, report, about)
        with atomic_file(self.path) as part:
            pyarrow.parquet.write_table(table, part)
        self.table = table
        _warn_unread(table, limited=limited)


def _warn_unread(table: Any, *, limited: bool) -> None:
    """Log a warning if rows were not read although ``limit_predict_batches`` is not set."""
    import pyarrow.compute

    unread = pyarrow.compute.sum(pyarrow.compute.equal(table["outcome"], "not_read")).as_py() or 0
    if unread and not limited:
        _log.warning(
            "%d of %d catalog rows were not read; the output column `reason` says why, for each of them",
            unread,
            len(table),
        )


def _loader(trainer: L.Trainer) -> CutoutLoader:
    """Return the loader of the prediction."""
    loaders = trainer.predict_dataloaders
    if isinstance(loaders, list | tuple) and len(loaders) == 1:
        loaders = loaders[0]
    if not isinstance(loaders, CutoutLoader):
        raise ConfigurationError(
            "PredictionWriter needs the plan of one CutoutLoader; predict with a CutoutDataModule or with one "
            f"CutoutLoader, not with {type(loaders).__name__}"
        )
    return loaders
