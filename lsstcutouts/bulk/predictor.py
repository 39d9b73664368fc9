"""The model of a process: made once, moved to the device of this process, and applied to batches as Lightning does."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import nn

from ..errors import ConfigurationError
from ..loader.datamodule.module import CutoutDataModule
from ..loader.datamodule.training_loaders import in_precision
from ..plan.read_options import check_choice
from ..transforms.batch import TensorBatch
from .engines import worker_number

__all__ = ["CheckpointModel", "ModelMaker", "Predictor", "check_accelerator", "device_of", "predictor_of"]

_SINGLE = {None, 32, "32", "32-true"}

_PREDICTORS: dict[tuple[int, str], "Predictor"] = {}
"""The latest predictor of this process: a model is loaded once, not for each partition."""

_LOCK = Lock()


class ModelMaker(Protocol):
    """Makes a model; pickles, since each process makes its own."""

    def __call__(self) -> nn.Module:
        """Return a LightningModule, or a module with ``predict_step(batch, batch_idx)``."""
        ...


@dataclass(frozen=True)
class CheckpointModel:
    """Makes the model of a Lightning checkpoint with ``load_from_checkpoint`` of its class.

    Attributes
    ----------
    kind
        The class.
    checkpoint
        The file; all processes must find it.
    """

    kind: type[L.LightningModule]
    checkpoint: str

    def __call__(self) -> L.LightningModule:
        """Return the model."""
        return self.kind.load_from_checkpoint(self.checkpoint, map_location="cpu", weights_only=True)


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model on its device.

    Attributes
    ----------
    model, data
        The model, and the data module whose transforms come before it.
    device
        Where both run.
    precision
        Lightning's plugin of the trainer's precision.
    """

    model: nn.Module
    data: CutoutDataModule
    device: torch.device
    precision: Precision = field(default_factory=Precision)

    def __call__(self, batch: TensorBatch, number: int) -> Any:
        """Return what ``predict_step`` returns for a batch on the device, planes ``(N, B, Y, X)``."""
        with torch.inference_mode():
            ready = in_precision(self.precision, self.data.transform(batch), batch)
            step: Callable[..., Any] = self.model.predict_step  # type: ignore[assignment]
            with self.precision.predict_step_context():
                return step(ready, number) if is_param_in_hook_signature(step, "batch_idx", min_args=2) else step(ready)


def predictor_of(
    key: str, make: ModelMaker, data: CutoutDataModule, accelerator: str, precision: str | int | None, workers: int
) -> Predictor:
    """Return the predictor of this process; it is made when this is called for the first time.

    Parameters
    ----------
    key
        Differs for each run.
    make, data
        Makes the model; transforms its batches.
    accelerator, precision
        As Lightning's trainer takes them.
    workers
        Processes of this node that share its memory.
    """
    with _LOCK:
        found = _PREDICTORS.get((os.getpid(), key))
        if found is None:
            _PREDICTORS.clear()
            if workers > 1:
                data.cache.share_among(1, ranks=workers)
            found = _PREDICTORS[os.getpid(), key] = _made(make, data, accelerator, precision)
        return found


def check_accelerator(accelerator: str) -> None:
    """Raise `ConfigurationError` if there is no such name."""
    check_choice("accelerator", accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))


def device_of(accelerator: str, number: int = 0) -> torch.device:
    """Return the device of a worker: of several GPUs of a node the one of its number.

    Raises
    ------
    ConfigurationError
        If there is no such device.
    """
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    check_accelerator(accelerator)
    if torch.cuda.is_available() and accelerator != "mps":
        return torch.device("cuda", number % torch.cuda.device_count())
    if torch.backends.mps.is_available() and accelerator != "cuda":
        return torch.device("mps")
    raise ConfigurationError(
        f"accelerator={accelerator}: torch {torch.__version__} finds no GPU on this machine; use cpu, or see `lsstcutouts doctor`"
    )


def _made(make: ModelMaker, data: CutoutDataModule, accelerator: str, precision: str | int | None) -> Predictor:
    device = device_of(accelerator, worker_number())
    model = make()
    if not callable(getattr(model, "predict_step", None)):
        raise ConfigurationError(f"{type(model).__name__} has no predict_step(batch, batch_idx); it cannot predict")
    plugin = Precision()
    if precision not in _SINGLE:
        trainer = L.Trainer(
            accelerator="cpu" if device.type == "cpu" else "gpu",
            devices=1,
            precision=precision,  # type: ignore[arg-type]  # Lightning checks it
            plugins=[LightningEnvironment()],  # whatever environment the worker is in, it predicts alone
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        plugin = trainer.precision_plugin
        model = plugin.convert_module(model)
    return Predictor(model.to(device).eval(), data, device, plugin)
