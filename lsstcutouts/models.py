"""The example's network: a small convolutional lens finder for cutouts of any number of bands."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC

from .dataset import TensorBatch
from .errors import ConfigurationError
from .schedules import OneCycle, Schedule
from .trained import data_state

__all__ = ["LensClassifier", "LensFinder"]


class LensFinder(nn.Module):
    """A few strided convolutions and a linear layer: image ``(N, B, Y, X)`` to a logit ``(N,)``.

    Parameters
    ----------
    bands
        Input channels ``B``: their names, or how many.
    widths
        Channels of each stage; every stage halves the image.
    dropout
        Share of features dropped before the last layer while training.
    """

    def __init__(
        self, bands: int | str | Sequence[str], widths: Sequence[int] = (24, 48, 64, 64), dropout: float = 0.2
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels = bands if isinstance(bands, int) else len(bands)
        for width in widths:
            stages += [
                nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.features = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * channels, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(N,)``."""
        features: Tensor = self.features(image)
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        return self.head(pooled).squeeze(1)  # type: ignore[no-any-return]


class LensClassifier(L.LightningModule):
    """Train a network that gives one logit a target against a 0/1 column of the catalog.

    Parameters
    ----------
    network
        Image ``(N, B, Y, X)`` to logits ``(N,)``.
    lr
        Highest learning rate of AdamW, where no ``optimizer`` is given.
    weight_decay
        Of AdamW, likewise.
    label
        Name of the catalog column, listed in the data module's ``columns``. Prediction does not need it.
    optimizer
        Parameters to an optimizer, such as ``functools.partial(torch.optim.SGD, lr=0.05)``.
    scheduler
        Optimizer to a schedule of the learning rate; by default `~lsstcutouts.schedules.OneCycle`. A
        `~lsstcutouts.schedules.Schedule` follows the share of the training that is done, also of a lengthened one.
    scheduler_interval
        When the schedule is stepped; those of this package want ``"step"``.
    """

    def __init__(
        self,
        network: nn.Module,
        lr: float = 3e-3,
        weight_decay: float = 1e-3,
        label: str = "label",
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        scheduler_interval: Literal["step", "epoch"] = "step",
    ) -> None:
        super().__init__()
        # Checkpoints hold plain values; networks and factories are code.
        self.save_hyperparameters("lr", "weight_decay", "label", "scheduler_interval")
        self.network, self.lr, self.weight_decay, self.label = network, lr, weight_decay, label
        self.optimizer, self.scheduler, self.scheduler_interval = optimizer, scheduler, scheduler_interval
        self.accuracy, self.auroc = BinaryAccuracy(), BinaryAUROC()
        self.trained_on: dict[str, Any] | None = None
        """What a checkpoint says of the data of its training; the data module that predicts uses and checks it."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember what the network was trained on."""
        self.trained_on = data_state(checkpoint)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(N,)``."""
        return self.network(image)  # type: ignore[no-any-return]

    def training_step(self, batch: TensorBatch, _: int) -> Tensor:
        """Return the loss of one batch, of rows that are no padding."""
        logits, target = self(batch["image"]), self._target(batch)
        real = (~batch["is_padding"]).float()  # type: ignore[operator]
        losses = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        loss: Tensor = (losses * real).sum() / real.sum().clamp(min=1.0)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(target))
        return loss

    def validation_step(self, batch: TensorBatch, _: int) -> dict[str, Tensor] | None:
        """Collect loss, accuracy and AUC, leaving out rows that only pad.

        Returns
        -------
        dict or None
            ``object_id``, ``score``, ``truth`` and ``loss`` ``(n,)`` of the other rows; None without any.
        """
        real: Tensor = ~batch["is_padding"]  # type: ignore[operator]
        if not real.any():
            return None
        logits, target = self(batch["image"])[real], self._target(batch)[real]
        losses = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        score = logits.sigmoid()
        self.accuracy(score, target.int())
        self.auroc(score, target.int())
        self.log("val_loss", losses.mean(), batch_size=len(target))
        self.log("val_accuracy", self.accuracy, prog_bar=True, batch_size=len(target))
        self.log("val_auc", self.auroc, prog_bar=True, batch_size=len(target))
        return {"object_id": batch["object_id"][real], "score": score, "truth": target, "loss": losses}

    def predict_step(self, batch: TensorBatch, _: int) -> dict[str, Any]:
        """Return ``object_id`` and the probability ``score`` of each target."""
        return {"object_id": batch["object_id"], "score": self(batch["image"]).sigmoid()}

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """Return the optimizer and its schedule, which follows the whole training, also a lengthened one."""
        if self.optimizer is None:
            optimizer: Optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        else:
            optimizer = self.optimizer(self.parameters())
        schedule = OneCycle(optimizer) if self.scheduler is None else self.scheduler(optimizer)
        if isinstance(schedule, Schedule):
            schedule.of(lambda: self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.scheduler_interval}}

    def _target(self, batch: TensorBatch) -> Tensor:
        label = batch.get(self.label)
        if not isinstance(label, Tensor):
            raise ConfigurationError(
                f"the batch has no numeric column {self.label!r}; add it to the data module's columns"
            )
        return label.float()
