"""Training tasks: `LensClassifier` (yes or no), `Classifier` (several classes) and `Regressor` (a number)."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, MulticlassAccuracy
from torchmetrics.regression import MeanAbsoluteError, R2Score

from ..errors import ConfigurationError
from ..loader.checkpoint_state import data_state
from ..transforms.batch import TensorBatch
from .labels import Labels, check_binary, check_finite, class_numbers
from .schedules import LearningRateSchedule, OneCycle

__all__ = ["Classifier", "LensClassifier", "Regressor", "Supervised"]


class Supervised(L.LightningModule):
    """What the models of this package have in common: train a network against one column of the catalog.

    Parameters
    ----------
    network
        Image ``(N, B, Y, X)`` to ``(N,)`` or ``(N, K)``, as the model says.
    lr
        Highest learning rate of AdamW, where no ``optimizer`` is given.
    weight_decay
        Of AdamW, likewise.
    label
        Name of the catalog column, listed in the data module's ``columns``. Prediction does not need it.
    optimizer
        Parameters to an optimizer, such as ``functools.partial(torch.optim.SGD, lr=0.05)``.
    scheduler
        Optimizer to a schedule of the learning rate; by default `~lsstcutouts.models.schedules.OneCycle`. A
        `~lsstcutouts.models.schedules.LearningRateSchedule` follows the share of the training that is done, also of a lengthened one.
    scheduler_interval
        When the schedule is stepped; those of this package want ``"step"``.

    Raises
    ------
    ConfigurationError
        In training, if labels cannot be learned from, or the network returns another shape.
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
        self._checked = False  # whether the labels of the whole training have been
        self.trained_on: dict[str, Any] | None = None
        """What a checkpoint says of the data of its training; the data module that predicts uses and checks it."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember what the network was trained on."""
        self.trained_on = data_state(checkpoint)

    @abstractmethod
    def check(self, labels: Labels) -> None:
        """Raise `ConfigurationError` for labels ``(N,)`` that cannot be learned from."""

    @abstractmethod
    def target(self, labels: Any) -> Tensor:
        """Return what the losses compare with, ``(N,)``, from checked labels of a batch."""

    @abstractmethod
    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each target ``(N,)``."""

    @abstractmethod
    def measure(self, output: Tensor, target: Tensor) -> Tensor:
        """Log what the validation measures, and return a ``score`` ``(N,)`` to show beside the truth."""

    @property
    def outputs(self) -> int | None:
        """Values for each target that the network must return; None for ``(N,)``."""
        return None

    def setup(self, stage: str) -> None:
        """Check the labels of training and validation, where a data module knows them, before the first batch."""
        splits = getattr(self.trainer.datamodule, "splits", {}) if stage == "fit" else {}  # type: ignore[attr-defined]
        used = [splits[name] for name in ("train", "val") if name in splits]
        found = [(plan.columns[self.label], rows) for plan, rows in used if self.label in plan.columns]
        for values, rows in found:
            self.check([values[i] for i in rows] if isinstance(values, list) else values[rows])
        self._checked = bool(found)

    def forward(self, image: Tensor) -> Tensor:
        """Return what the network does: ``(N,)``, or ``(N, K)``.

        Raises
        ------
        ConfigurationError
            If it returns another shape.
        """
        output: Tensor = self.network(image)
        wanted = (len(image),) if self.outputs is None else (len(image), self.outputs)
        if self.outputs is None and isinstance(output, Tensor) and output.shape == (len(image), 1):
            return output.squeeze(1)
        if not isinstance(output, Tensor) or output.shape != wanted:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigurationError(
                f"{type(self.network).__name__} returns {shape} for images {tuple(image.shape)}; {type(self).__name__} "
                f"needs a tensor of the shape {wanted}"
            )
        return output

    def training_step(self, batch: TensorBatch, _: int) -> Tensor:
        """Return the loss of one batch, of rows that are no padding."""
        output, target = self(batch["image"]), self._target(batch)
        real = (~batch["is_padding"]).float()  # type: ignore[operator]
        loss: Tensor = (self.losses(output.float(), target) * real).sum() / real.sum().clamp(min=1.0)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(target))
        return loss

    def validation_step(self, batch: TensorBatch, _: int) -> dict[str, Any] | None:
        """Collect loss and what the model measures, leaving out rows that only pad.

        Returns
        -------
        dict or None
            ``object_id``, ``score``, ``truth`` and ``loss`` ``(n,)`` of the other rows; None without any.
        """
        real: Tensor = ~batch["is_padding"]  # type: ignore[operator]
        if not real.any():
            return None
        output, target = self(batch["image"])[real].float(), self._target(batch)[real]
        losses = self.losses(output, target)
        score = self.measure(output, target)
        self.log("val_loss", losses.mean(), batch_size=len(target))
        ids: Any = batch["object_id"]
        if isinstance(ids, Tensor):  # through int64: torch takes no rows of uint64 on CUDA
            ids = ids.view(torch.int64)[real].view(ids.dtype)
        else:
            ids = [ids[i] for i in real.nonzero().flatten().tolist()]
        return {"object_id": ids, "score": score, "truth": target, "loss": losses}

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """Return the optimizer and its schedule, which follows the whole training, also a lengthened one."""
        if self.optimizer is None:
            optimizer: Optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        else:
            optimizer = self.optimizer(self.parameters())
        schedule = OneCycle(optimizer) if self.scheduler is None else self.scheduler(optimizer)
        if isinstance(schedule, LearningRateSchedule):
            schedule.set_total_steps(lambda: self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.scheduler_interval}}

    def _target(self, batch: TensorBatch) -> Tensor:
        labels: Any = batch.get(self.label)
        if labels is None:
            raise ConfigurationError(f"the batch has no column {self.label!r}; add it to the data module's columns")
        if not self._checked:
            self.check(labels.cpu().numpy() if isinstance(labels, Tensor) else labels)
        return self.target(labels)


class LensClassifier(Supervised):
    """Train a network that gives one logit ``(N,)`` for each target against a column of 0 and 1.

    The loss is the binary cross entropy; accuracy and AUC are measured. Parameters as `Supervised`.
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
        super().__init__(network, lr, weight_decay, label, optimizer, scheduler, scheduler_interval)
        self.accuracy, self.auroc = BinaryAccuracy(), BinaryAUROC()

    def check(self, labels: Labels) -> None:
        """Raise `ConfigurationError` for labels other than 0 and 1."""
        check_binary(labels, self.label)

    def target(self, labels: Any) -> Tensor:
        """Return 0.0 and 1.0."""
        return labels.float()  # type: ignore[no-any-return]

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return binary cross entropies ``(N,)``."""
        return nn.functional.binary_cross_entropy_with_logits(output, target, reduction="none")

    def measure(self, output: Tensor, target: Tensor) -> Tensor:
        """Log accuracy and AUC, and return the probability of 1."""
        score = output.sigmoid()
        self.accuracy(score, target.int())
        self.auroc(score, target.int())
        self.log("val_accuracy", self.accuracy, prog_bar=True, batch_size=len(target))
        self.log("val_auc", self.auroc, prog_bar=True, batch_size=len(target))
        return score

    def predict_step(self, batch: TensorBatch, _: int) -> dict[str, Any]:
        """Return ``object_id`` and the probability ``score`` of 1."""
        return {"object_id": batch["object_id"], "score": self(batch["image"]).sigmoid()}


class Classifier(Supervised):
    """Train a network that gives ``K`` logits ``(N, K)`` for each target against a column of ``K`` classes.

    The loss is the cross entropy; the share of right answers is measured. Parameters as `Supervised`, and:

    Parameters
    ----------
    classes
        Values of the column, texts or whole numbers, in the order of the logits; or how many, for 0, 1, ...
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int | Sequence[int] | Sequence[str],
        lr: float = 3e-3,
        weight_decay: float = 1e-3,
        label: str = "label",
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        scheduler_interval: Literal["step", "epoch"] = "step",
    ) -> None:
        super().__init__(network, lr, weight_decay, label, optimizer, scheduler, scheduler_interval)
        values: list[Any] = list(range(classes)) if isinstance(classes, int) else list(classes)
        kinds = {type(value) for value in values}
        if len(values) < 2 or len(set(values)) < len(values) or kinds not in ({int}, {str}):
            raise ConfigurationError(f"classes={classes!r} must be two or more distinct whole numbers, or texts")
        self.classes: list[Any] = values
        self.hparams["classes"] = values
        self.accuracy = MulticlassAccuracy(len(values), average="micro")
        # On the device of the labels, so that nothing has to be copied: sorted values, and which class each is.
        order = np.arange(len(values)) if kinds == {str} else np.argsort(values)
        known = order if kinds == {str} else np.sort(values)
        self._known: Tensor
        self._number: Tensor
        self.register_buffer("_known", torch.from_numpy(known), persistent=False)
        self.register_buffer("_number", torch.from_numpy(order), persistent=False)

    @property
    def outputs(self) -> int:
        """One logit for each class."""
        return len(self.classes)

    def check(self, labels: Labels) -> None:
        """Raise `ConfigurationError` for labels that are none of the classes."""
        class_numbers(labels, self.classes, self.label)

    def target(self, labels: Any) -> Tensor:
        """Return the number of each label's class."""
        if isinstance(labels, Tensor):
            return self._number[torch.searchsorted(self._known, labels.to(self._known.dtype).contiguous())]
        return torch.from_numpy(class_numbers(labels, self.classes, self.label)).to(self.device)

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return cross entropies ``(N,)``."""
        return nn.functional.cross_entropy(output, target, reduction="none")

    def measure(self, output: Tensor, target: Tensor) -> Tensor:
        """Log the accuracy, and return the probability that the true class was given."""
        self.accuracy(output, target)
        self.log("val_accuracy", self.accuracy, prog_bar=True, batch_size=len(target))
        return output.softmax(dim=1).gather(1, target[:, None]).squeeze(1)

    def predict_step(self, batch: TensorBatch, _: int) -> dict[str, Any]:
        """Return ``object_id``, ``predicted`` (the likeliest class), ``score`` (its probability) and ``score_CLASS`` of each."""
        shares = self(batch["image"]).softmax(dim=1)
        score, best = shares.max(dim=1)
        named: Any = [self.classes[i] for i in best.tolist()]
        predicted = named if isinstance(self.classes[0], str) else torch.tensor(named, device=best.device)
        each = {f"score_{value}": shares[:, i] for i, value in enumerate(self.classes)}
        return {"object_id": batch["object_id"], "predicted": predicted, "score": score, **each}


class Regressor(Supervised):
    """Train a network that gives one value ``(N,)`` for each target against a column of numbers.

    The network learns ``(label - center) / spread``, so that labels of any unit give losses near 1. Mean absolute error, in
    the unit of the label, and R2 (the share of the labels' variance that is explained) are measured. Parameters as
    `Supervised`, and:

    Parameters
    ----------
    center, spread
        Such as median and noise of the labels.
    loss
        ``"huber"``, which outliers change little, or ``"mse"``, the squared error.
    """

    def __init__(
        self,
        network: nn.Module,
        center: float = 0.0,
        spread: float = 1.0,
        loss: Literal["huber", "mse"] = "huber",
        lr: float = 3e-3,
        weight_decay: float = 1e-3,
        label: str = "label",
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        scheduler_interval: Literal["step", "epoch"] = "step",
    ) -> None:
        super().__init__(network, lr, weight_decay, label, optimizer, scheduler, scheduler_interval)
        if loss not in {"huber", "mse"} or not spread > 0:
            raise ConfigurationError(f"loss={loss!r} must be huber or mse, and spread={spread} positive")
        self.save_hyperparameters("center", "spread", "loss")
        self.center, self.spread, self.loss = center, spread, loss
        self.mae, self.r2 = MeanAbsoluteError(), _R2()

    def check(self, labels: Labels) -> None:
        """Raise `ConfigurationError` for labels that are not finite numbers."""
        check_finite(labels, self.label)

    def target(self, labels: Any) -> Tensor:
        """Return the labels in units of ``spread`` from ``center``."""
        return ((labels - self.center) / self.spread).float()  # type: ignore[no-any-return]

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return Huber or squared losses ``(N,)``."""
        function = nn.functional.huber_loss if self.loss == "huber" else nn.functional.mse_loss
        return function(output, target, reduction="none")

    def measure(self, output: Tensor, target: Tensor) -> Tensor:
        """Log mean absolute error and R2, and return the predictions in the unit of the label."""
        self.mae(output * self.spread, target * self.spread)
        self.r2(output, target)
        self.log("val_mae", self.mae, prog_bar=True, batch_size=len(target))
        self.log("val_r2", self.r2, prog_bar=True, batch_size=len(target))
        return output * self.spread + self.center

    def validation_step(self, batch: TensorBatch, i: int) -> dict[str, Any] | None:
        """As `Supervised`, with ``truth`` in the unit of the label."""
        found = super().validation_step(batch, i)
        return None if found is None else {**found, "truth": found["truth"] * self.spread + self.center}

    def predict_step(self, batch: TensorBatch, _: int) -> dict[str, Any]:
        """Return ``object_id`` and ``predicted``, in the unit of the label."""
        return {"object_id": batch["object_id"], "predicted": self(batch["image"]) * self.spread + self.center}


class _R2(R2Score):
    """R2, NaN for fewer than two targets, where torchmetrics raises an error at the end of an epoch."""

    def compute(self) -> Tensor:
        return super().compute() if self.total >= 2 else torch.tensor(torch.nan)
