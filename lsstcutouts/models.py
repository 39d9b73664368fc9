"""The example's network: a small convolutional lens finder for cutouts of any number of bands."""

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC

from .dataset import TensorBatch
from .errors import ConfigurationError

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
    lr, weight_decay
        Settings of AdamW; the learning rate rises over the first quarter of all steps and falls along a cosine.
    label
        Name of the catalog column, listed in the data module's ``columns``.
    """

    def __init__(self, network: nn.Module, lr: float = 3e-3, weight_decay: float = 1e-3, label: str = "label") -> None:
        super().__init__()
        self.network, self.lr, self.weight_decay, self.label = network, lr, weight_decay, label
        self.loss = nn.BCEWithLogitsLoss()
        self.accuracy, self.auroc = BinaryAccuracy(), BinaryAUROC()

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

    def validation_step(self, batch: TensorBatch, _: int) -> None:
        """Collect loss, accuracy and AUC, leaving out rows that only pad."""
        real = ~batch["is_padding"]  # type: ignore[operator]
        if not real.any():
            return
        logits, target = self(batch["image"])[real], self._target(batch)[real]
        self.accuracy(logits.sigmoid(), target.int())
        self.auroc(logits.sigmoid(), target.int())
        self.log("val_loss", self.loss(logits, target), batch_size=len(target))
        self.log("val_accuracy", self.accuracy, prog_bar=True, batch_size=len(target))
        self.log("val_auc", self.auroc, prog_bar=True, batch_size=len(target))

    def predict_step(self, batch: TensorBatch, _: int) -> dict[str, Any]:
        """Return ``object_id`` and the probability ``score`` of each target."""
        return {"object_id": batch["object_id"], "score": self(batch["image"]).sigmoid()}

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """Return AdamW with one cycle of the learning rate over the whole training, also over a lengthened one."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        """Return the share of the highest learning rate: a rise over the first quarter, then half a cosine to zero."""
        done = min(1.0, step / max(1.0, self.trainer.estimated_stepping_batches))
        return 0.04 + 0.96 * done / 0.25 if done < 0.25 else 0.5 * (1 + math.cos(math.pi * (done - 0.25) / 0.75))

    def _target(self, batch: TensorBatch) -> Tensor:
        label = batch.get(self.label)
        if not isinstance(label, Tensor):
            raise ConfigurationError(
                f"the batch has no numeric column {self.label!r}; add it to the data module's columns"
            )
        return label.float()
