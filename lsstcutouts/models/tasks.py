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
    """Base class of the tasks: train a network to predict one column of the catalog.

    Parameters
    ----------
    network
        Module that maps images ``(N, B, Y, X)`` to ``(N,)`` or ``(N, K)``, depending on the task.
    lr
        Highest learning rate of AdamW, if ``optimizer`` is None.
    weight_decay
        Weight decay of AdamW, if ``optimizer`` is None.
    label
        Name of the catalog column; it must be in ``columns`` of the data module. Not needed for prediction.
    optimizer
        Function of the parameters that returns an optimizer, such as ``functools.partial(torch.optim.SGD, lr=0.05)``.
    scheduler
        Function of the optimizer that returns a learning-rate schedule; by default `~lsstcutouts.models.schedules.OneCycle`. A
        `~lsstcutouts.models.schedules.LearningRateSchedule` depends on the fraction of training
        done, also after ``max_epochs`` is raised.
    scheduler_interval
        When the schedule is stepped; the schedules of this package need ``"step"``.

    Raises
    ------
    ConfigurationError
        In training, if the labels are invalid or the network returns a wrong shape.
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
        # Checkpoints contain only plain values, no networks or functions.
        self.save_hyperparameters("lr", "weight_decay", "label", "scheduler_interval")
        self.network, self.lr, self.weight_decay, self.label = network, lr, weight_decay, label
        self.optimizer, self.scheduler, self.scheduler_interval = optimizer, scheduler, scheduler_interval
        self._checked = False  # whether `setup` has checked all labels
        self.trained_on: dict[str, Any] | None = None
        """Description of the training data in the checkpoint; the data module uses and checks it for prediction."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the description of the training data."""
        self.trained_on = data_state(checkpoint)

    @abstractmethod
    def check(self, labels: Labels) -> None:
        """Raise `ConfigurationError` if labels ``(N,)`` are invalid for this task."""

    @abstractmethod
    def target(self, labels: Any) -> Tensor:
        """Return the training targets ``(N,)`` from the checked labels of a batch."""

    @abstractmethod
    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each target ``(N,)``."""

    @abstractmethod
    def measure(self, output: Tensor, target: Tensor) -> Tensor:
        """Log the validation metrics, and return a ``score`` ``(N,)`` to compare with the truth."""

    @property
    def outputs(self) -> int | None:
        """Number of values per target that the network must return; None for ``(N,)``."""
        return None

    def setup(self, stage: str) -> None:
        """Check all labels of training and validation before the first batch, if there is a data module with plans."""
        splits = getattr(self.trainer.datamodule, "splits", {}) if stage == "fit" else {}  # type: ignore[attr-defined]
        used = [splits[name] for name in ("train", "val") if name in splits]
        found = [(plan.columns[self.label], rows) for plan, rows in used if self.label in plan.columns]
        for values, rows in found:
            self.check([values[i] for i in rows] if isinstance(values, list) else values[rows])
        self._checked = bool(found)

    def forward(self, image: Tensor) -> Tensor:
        """Return the output of the network, ``(N,)`` or ``(N, K)``, for images ``(N, B, Y, X)``.

        Raises
        ------
        ConfigurationError
            If the network returns a wrong shape.
        """
        output: Tensor = self.network(image)
        wanted = (len(image),) if self.outputs is None else (len(image), self.outputs)
        if self.outputs is None and isinstance(output, Tensor) and output.shape == (len(image), 1):
            return output.squeeze(1)
        if not isinstance(output, Tensor) or output.shape != wanted:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigurationError(
                f"{type(self.network).__name__} returns {shape} for images {tuple(image.shape)}, but {type(self).__name__} "
                f"needs a tensor of the shape {wanted}"
            )
        return output

    def training_step(self, batch: TensorBatch, _: int) -> Tensor:
        """Return the mean loss of one batch, without padding rows."""
        output, target = self(batch["image"]), self._target(batch)
        real = (~batch["is_padding"]).float()  # type: ignore[operator]
        loss: Tensor = (self.losses(output.float(), target) * real).sum() / real.sum().clamp(min=1.0)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(target))
        return loss

    def validation_step(self, batch: TensorBatch, _: int) -> dict[str, Any] | None:
        """Log the loss and the metrics of one batch, without padding rows.

        Returns
        -------
        dict or None
            ``object_id``, ``score``, ``truth`` and ``loss``, ``(n,)`` each; None if all rows are padding.
        """
        real: Tensor = ~batch["is_padding"]  # type: ignore[operator]
        if not real.any():
            return None
        output, target = self(batch["image"])[real].float(), self._target(batch)[real]
        losses = self.losses(output, target)
        score = self.measure(output, target)
        self.log("val_loss", losses.mean(), batch_size=len(target))
        ids: Any = batch["object_id"]
        if isinstance(ids, Tensor):  # through int64: torch cannot index uint64 on CUDA
            ids = ids.view(torch.int64)[real].view(ids.dtype)
        else:
            ids = [ids[i] for i in real.nonzero().flatten().tolist()]
        return {"object_id": ids, "score": score, "truth": target, "loss": losses}

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """Return the optimizer and its schedule, which covers all epochs, also after ``max_epochs`` is raised."""
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
            raise ConfigurationError(f"the batch has no column {self.label!r}; add it to columns of the data module")
        if not self._checked:
            self.check(labels.cpu().numpy() if isinstance(labels, Tensor) else labels)
        return self.target(labels)


class LensClassifier(Supervised):
    """Binary classification: a network with one logit per target, ``(N,)``, and a column of 0 and 1.

    The loss is the binary cross entropy; the metrics are accuracy and AUC. Parameters: see `Supervised`.
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
        """Raise `ConfigurationError` if labels are not 0 or 1."""
        check_binary(labels, self.label)

    def target(self, labels: Any) -> Tensor:
        """Return 0.0 and 1.0, ``(N,)`` float32."""
        return labels.float()  # type: ignore[no-any-return]

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return binary cross entropies ``(N,)``."""
        return nn.functional.binary_cross_entropy_with_logits(output, target, reduction="none")

    def measure(self, output: Tensor, target: Tensor) -> Tensor:
        """Log accuracy and AUC, and return the probability of class 1."""
        score = output.sigmoid()
        self.accuracy(score, target.int())
        self.auroc(score, target.int())
        self.log("val_accuracy", self.accuracy, prog_bar=True, batch_size=len(target))
        self.log("val_auc", self.auroc, prog_bar=True, batch_size=len(target))
        return score

    def predict_step(self, batch: TensorBatch, _: int) -> dict[str, Any]:
        """Return ``object_id`` and ``score``, the probability of class 1, ``(N,)`` each."""
        return {"object_id": batch["object_id"], "score": self(batch["image"]).sigmoid()}


class Classifier(Supervised):
    """Classification: a network with ``K`` logits per target, ``(N, K)``, and a column with ``K`` classes.

    The loss is the cross entropy; the metric is the accuracy. Parameters: those of `Supervised`, and:

    Parameters
    ----------
    classes
        Values of the column (strings or integers) in the order of the logits; a number ``K`` stands for 0, 1, ..., K-1.
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
            raise ConfigurationError(f"classes={classes!r} must be two or more distinct integers or strings")
        self.classes: list[Any] = values
        self.hparams["classes"] = values
        self.accuracy = MulticlassAccuracy(len(values), average="micro")
        # Buffers, so that they are on the device of the labels: sorted values, and the class index of each.
        order = np.arange(len(values)) if kinds == {str} else np.argsort(values)
        known = order if kinds == {str} else np.sort(values)
        self._known: Tensor
        self._number: Tensor
        self.register_buffer("_known", torch.from_numpy(known), persistent=False)
        self.register_buffer("_number", torch.from_numpy(order), persistent=False)

    @property
    def outputs(self) -> int:
        """Number of classes: one logit each."""
        return len(self.classes)

    def check(self, labels: Labels) -> None:
        """Raise `ConfigurationError` if a label is not one of the classes."""
        class_numbers(labels, self.classes, self.label)

    def target(self, labels: Any) -> Tensor:
        """Return the class index of each label, ``(N,)`` int64."""
        if isinstance(labels, Tensor):
            return self._number[torch.searchsorted(self._known, labels.to(self._known.dtype).contiguous())]
        return torch.from_numpy(class_numbers(labels, self.classes, self.label)).to(self.device)

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return cross entropies ``(N,)``."""
        return nn.functional.cross_entropy(output, target, reduction="none")

    def measure(self, output: Tensor, target: Tensor) -> Tensor:
        """Log the accuracy, and return the predicted probability of the true class, ``(N,)``."""
        self.accuracy(output, target)
        self.log("val_accuracy", self.accuracy, prog_bar=True, batch_size=len(target))
        return output.softmax(dim=1).gather(1, target[:, None]).squeeze(1)

    def predict_step(self, batch: TensorBatch, _: int) -> dict[str, Any]:
        """Return ``object_id``, ``predicted`` (most probable class), ``score`` (its probability) and ``score_CLASS`` of each class."""
        shares = self(batch["image"]).softmax(dim=1)
        score, best = shares.max(dim=1)
        named: Any = [self.classes[i] for i in best.tolist()]
        predicted = named if isinstance(self.classes[0], str) else torch.tensor(named, device=best.device)
        each = {f"score_{value}": shares[:, i] for i, value in enumerate(self.classes)}
        return {"object_id": batch["object_id"], "predicted": predicted, "score": score, **each}


class Regressor(Supervised):
    """Regression: a network with one value per target, ``(N,)``, and a column of numbers.

    The network learns ``(label - center) / spread``, so that losses are near 1 for labels in any unit. The metrics are the
    mean absolute error, in the unit of the label, and R2 (coefficient of determination). Parameters: those of
    `Supervised`, and:

    Parameters
    ----------
    center, spread
        For example the median and the scatter of the labels, in the unit of the label.
    loss
        ``"huber"``, which is robust against outliers, or ``"mse"``, the squared error.
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
            raise ConfigurationError(f"loss={loss!r} must be 'huber' or 'mse', and spread={spread} must be positive")
        self.save_hyperparameters("center", "spread", "loss")
        self.center, self.spread, self.loss = center, spread, loss
        self.mae, self.r2 = MeanAbsoluteError(), _R2()

    def check(self, labels: Labels) -> None:
        """Raise `ConfigurationError` if labels are not finite numbers."""
        check_finite(labels, self.label)

    def target(self, labels: Any) -> Tensor:
        """Return ``(label - center) / spread``, ``(N,)`` float32."""
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
        """Return what `Supervised` returns, with ``truth`` in the unit of the label."""
        found = super().validation_step(batch, i)
        return None if found is None else {**found, "truth": found["truth"] * self.spread + self.center}

    def predict_step(self, batch: TensorBatch, _: int) -> dict[str, Any]:
        """Return ``object_id`` and ``predicted``, in the unit of the label."""
        return {"object_id": batch["object_id"], "predicted": self(batch["image"]) * self.spread + self.center}


class _R2(R2Score):
    """R2 that is NaN for fewer than two targets; torchmetrics would raise an error at the end of the epoch."""

    def compute(self) -> Tensor:
        return super().compute() if self.total >= 2 else torch.tensor(torch.nan)
