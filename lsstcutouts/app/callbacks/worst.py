"""Pictures of the validation targets with the largest loss."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor

from ...catalog.ids import Values, concatenate_columns, take_rows
from ...errors import ConfigurationError
from ...loader.loader import CutoutLoader
from ...read.reader import CutoutReader
from ..gallery.entries import with_valid
from ..gallery.show import show
from ..gallery.validated import as_validated
from .ranks import gather_on_first_rank

__all__ = ["WorstPredictions"]

_log = logging.getLogger(__name__)

type Found = dict[str, Values]

_COLUMNS = ("object_id", "score", "truth", "loss")


class WorstPredictions(Callback):
    """Write a PNG of the validation targets with the largest loss, with score, truth and ``object_id``.

    The model's ``validation_step`` returns a dictionary of ``(n,)`` tensors ``object_id`` (or a list of texts),
    ``score``, ``truth`` and ``loss``, without padding rows, as `~lsstcutouts.models.LensClassifier` does. Each rank keeps its worst
    targets; rank 0 collects them, reads their pixels again, mostly from its cache, and writes the picture. If the trainer
    has a TensorBoard logger, it gets the picture too.

    Parameters
    ----------
    folder
        Output folder of the pictures ``worst-EPOCH.png``.
    count
        Number of targets in a picture.
    every_n_epochs
        Epochs between two pictures; there is also one after the last epoch, and one of ``Trainer.validate``.

    Raises
    ------
    ConfigurationError
        If ``count`` or ``every_n_epochs`` is less than 1, the output of ``validation_step`` is invalid, or validation
        does not use exactly one `CutoutLoader`.
    """

    def __init__(self, folder: str | Path, count: int = 24, every_n_epochs: int = 1) -> None:
        if count < 1 or every_n_epochs < 1:
            raise ConfigurationError(f"count={count} and every_n_epochs={every_n_epochs} must be at least 1")
        self.folder, self.count, self.every_n_epochs = Path(folder), count, every_n_epochs
        self._worst: Found = {}

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Delete the targets of the last epoch."""
        self._worst = {}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Keep the targets with the largest loss so far."""
        if self._wanted(trainer) and outputs is not None:
            self._worst = worst([self._worst, _arrays(outputs)], self.count)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Collect the targets of all ranks and write the picture."""
        if not self._wanted(trainer):
            return
        everything = gather_on_first_rank(self._worst)
        if everything is None:
            return
        found = worst(everything, self.count)
        if found:
            self._draw(trainer, found)

    def _wanted(self, trainer: L.Trainer) -> bool:
        epoch = trainer.current_epoch + 1
        fitting = trainer.state.fn == TrainerFn.FITTING
        due = epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs or not fitting
        return due and not trainer.sanity_checking

    def _draw(self, trainer: L.Trainer, found: Found) -> None:
        loader = trainer.val_dataloaders
        if not isinstance(loader, CutoutLoader):
            raise ConfigurationError(
                "WorstPredictions needs validation with one CutoutLoader, got "
                + type(loader).__name__
                + "; remove the callback"
            )
        dataset = loader.cutouts
        plan = dataset.plan
        if plan.repeats_ids:
            _log.warning("no picture of the worst predictions: several targets have one id")
            return
        ids = np.asarray(found["object_id"]).tolist()
        options = replace(dataset.options, planes=with_valid(plan, dataset.options.planes))
        read = CutoutReader(plan, options, cache=dataset.cache).read(plan.targets_of(found["object_id"]))
        batch = as_validated(read, getattr(trainer, "datamodule", None))
        row_of = {identity: i for i, identity in enumerate(ids)}
        rows = [row_of[identity] for identity in np.asarray(batch["object_id"]).tolist()]
        captions = [f"{found['score'][i]:.3f}, is {found['truth'][i]:g}\n{ids[i]}" for i in rows]
        title = f"largest loss after epoch {trainer.current_epoch + 1}, {''.join(plan.bands)}: score, truth, object_id"
        path = self.folder / f"worst-{trainer.current_epoch + 1:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        show(batch, plan.bands, captions=captions, title=title, columns=6).savefig(path, dpi=150)
        _log_image(trainer, path)


def worst(parts: list[Found], count: int) -> Found:
    """Return the ``count`` rows with the largest loss, in descending order."""
    filled = [part for part in parts if part]
    if not filled:
        return {}
    whole = {name: concatenate_columns([part[name] for part in filled]) for name in _COLUMNS}
    order = np.argsort(-np.asarray(whole["loss"]), kind="stable")[:count]
    return {name: take_rows(values, order) for name, values in whole.items()}


def _arrays(outputs: Any) -> Found:
    if not isinstance(outputs, Mapping) or not set(_COLUMNS) <= set(outputs):
        raise ConfigurationError(f"WorstPredictions needs validation_step to return {', '.join(_COLUMNS)}, (n,) each")
    return {name: _array(outputs[name]) for name in _COLUMNS}


def _array(values: Tensor | list[str]) -> Values:
    if isinstance(values, list):
        return values
    values = values.detach()
    array: NDArray[Any] = (values.double() if values.is_floating_point() else values).cpu().numpy()
    return array


def _log_image(trainer: L.Trainer, path: Path) -> None:
    from matplotlib.image import imread

    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image("worst", imread(path), trainer.global_step, dataformats="HWC")
