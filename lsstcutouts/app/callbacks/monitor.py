"""Logging of tile cache statistics during training."""

from typing import Any, Protocol, runtime_checkable

import lightning as L

from ...errors import ConfigurationError
from ...read.cache.budget import shown_bytes
from ...read.cache.stats import CacheStats
from ...source.web.process import WebFigures, figures_of_process
from .training_speed import Throughput

__all__ = ["CacheMonitor"]


@runtime_checkable
class CacheSource(Protocol):
    """Source of cache statistics: a `CutoutDataModule` or a `CutoutLoader`."""

    @property
    def waited(self) -> float:
        """Seconds that the training loop has waited for batches."""
        ...

    def cache_info(self) -> CacheStats:
        """Return the statistics of all caches."""
        ...


class CacheMonitor(Throughput):
    """Log tile cache statistics during training, and show them in the progress bar.

    The statistics cover the current epoch and one rank with all its workers: ``data/hit_rate``,
    ``data/cache_bytes``, ``data/reserved_bytes``, ``data/evictions``, ``data/waits``, ``data/read_per_useful``,
    ``data/waited_seconds``, ``data/cutouts_per_second``. They go to the loggers of the trainer, not to the metrics of
    the model. The progress bar shows them as ``cache: 98 %, 1.2 GB; waiting 3 %``.

    Where this process reads remote files, also ``data/downloaded_bytes``, ``data/download_rate`` (bytes/s),
    ``data/connections``, ``data/signatures``, since it started; the progress bar shows ``network: 1.2 GB, 18 MB/s, 40
    connections``, or which server is waited for and for how long. Worker processes are not included.

    Parameters
    ----------
    every_n_steps
        Number of batches between two log entries; there is also one at the end of each epoch.

    Raises
    ------
    ConfigurationError
        If ``every_n_steps`` is less than 1, or training starts without a `CutoutDataModule` or `CutoutLoader`.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise ConfigurationError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._before: tuple[CacheStats, float, int, float] = CacheStats(), 0.0, 0, 0.0
        self._logged = -1  # step of the last log entry

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Store the statistics at the start of the epoch."""
        super().on_train_epoch_start(trainer, pl_module)
        source = _cache_source(trainer)
        self._before = source.cache_info(), source.waited, self.targets, self.seconds

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Show the statistics, and log them every ``every_n_steps`` batches."""
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)
        stats, waited, _, seconds = self._since(trainer)
        # Progress bars show this dictionary. `log` accepts only numbers, and this is a string.
        trainer.progress_bar_metrics["cache"] = _text(stats, waited / seconds if seconds else 0.0)
        if (web := figures_of_process()) is not None:
            trainer.progress_bar_metrics["network"] = _network_text(web)
        if (batch_idx + 1) % self.every_n_steps == 0:
            self._log(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Log the statistics of the whole epoch."""
        if self._logged != trainer.global_step:
            self._log(trainer)

    def _since(self, trainer: L.Trainer) -> tuple[CacheStats, float, int, float]:
        """Return cache statistics, seconds waited, targets and seconds of the epoch so far."""
        source = _cache_source(trainer)
        stats, waited, targets, seconds = self._before
        return source.cache_info() - stats, source.waited - waited, self.targets - targets, self.seconds - seconds

    def _log(self, trainer: L.Trainer) -> None:
        stats, waited, targets, seconds = self._since(trainer)
        figures = {
            "data/hit_rate": stats.hit_rate,
            "data/cache_bytes": float(stats.bytes),
            "data/reserved_bytes": float(stats.reserved),
            "data/evictions": float(stats.evictions),
            "data/waits": float(stats.waits),
            "data/read_per_useful": stats.read_per_useful,
            "data/waited_seconds": waited,
            "data/cutouts_per_second": targets / seconds if seconds else 0.0,
        }
        if (web := figures_of_process()) is not None:
            figures |= {
                "data/downloaded_bytes": float(web.data_bytes),
                "data/download_rate": web.rate,
                "data/connections": float(web.active),
                "data/signatures": float(web.signatures),
            }
        self._logged = trainer.global_step
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)


def _cache_source(trainer: L.Trainer) -> CacheSource:
    """Return the data module or loader of the training."""
    for source in (getattr(trainer, "datamodule", None), trainer.train_dataloader):
        if isinstance(source, CacheSource):
            return source
    raise ConfigurationError(
        "CacheMonitor needs a CutoutDataModule or a CutoutLoader, but this training has neither; remove the callback"
    )


def _network_text(web: WebFigures) -> str:
    """Return the text for the progress bar."""
    if web.waiting_for:
        return f"waiting for {web.waiting_for}"
    return f"{shown_bytes(web.data_bytes)}, {shown_bytes(int(web.rate))}/s, {web.active} connections"


def _text(stats: CacheStats, waiting: float) -> str:
    """Return the text for the progress bar."""
    return f"{stats.hit_rate:.0%}, {shown_bytes(stats.bytes)}; waiting {waiting:.0%}".replace("%", " %")
