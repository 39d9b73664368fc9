"""Prepares training and prediction: simulated repository, output folder, trainer and callbacks."""

import logging
import os
import warnings
from dataclasses import fields
from pathlib import Path

import hydra
import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import Checkpoint, RichProgressBar
from omegaconf import DictConfig

from ...errors import ConfigurationError
from ...testing.config import SimulationConfig
from ...testing.simulation import SimulatedRepository, simulate
from .instantiation import instantiate_part

__all__ = ["callbacks_of", "check_gpu", "ensure_simulation", "output_folder", "silence_lightning", "trainer_of"]


def ensure_simulation(settings: DictConfig | None, *, progress: bool = True) -> None:
    """Write the simulated repository of a configuration, unless it exists.

    Raises
    ------
    ConfigurationError
        If the existing one was made with other settings.
    """
    if settings is None:
        return
    wanted: SimulationConfig = hydra.utils.instantiate(settings.config)
    root = Path(settings.root)
    if not root.exists():
        simulate(root, wanted, progress=progress)
        return
    existing = SimulatedRepository.load(root).config
    other = [f.name for f in fields(wanted) if getattr(existing, f.name) != getattr(wanted, f.name)]
    if other:
        raise ConfigurationError(
            f"the simulated repository {settings.root!r} was written with other values of {', '.join(other)}; remove the "
            "folder, or give another simulation.root="
        )


def silence_lightning() -> None:
    """Switch off messages that Lightning prints at every start and that need no action."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors.checkpoint_connector"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning calls a helper that torch has deprecated.
    warnings.filterwarnings(
        "ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated", category=FutureWarning
    )


def output_folder(cfg: DictConfig) -> Path:
    """Return the folder of this run: hydra's if hydra has made one (each job of a sweep has its own).

    Raises
    ------
    ConfigurationError
        If it cannot be written.
    """
    folder = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else cfg.output
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"output={folder}: the folder cannot be created: {error.strerror}; give another folder"
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"output={folder}: you have no permission to write to this folder; give another folder"
        )
    return path


def callbacks_of(cfg: DictConfig) -> list[L.Callback]:
    """Return the callbacks of a configuration.

    Raises
    ------
    ConfigurationError
        If an entry does not describe a callback.
    """
    found = []
    for name, settings in (cfg.get("callbacks") or {}).items():
        callback = (
            instantiate_part(cfg.callbacks, name) if settings is not None else None
        )  # null switches a callback off
        if callback is not None and not isinstance(callback, L.Callback):
            raise ConfigurationError(f"callbacks.{name} is not a callback; give it a _target_, or null")
        found += [] if callback is None else [callback]
    return found


def trainer_of(cfg: DictConfig, output: Path, callbacks: list[L.Callback]) -> L.Trainer:
    """Return the trainer of a configuration; with ``json=true`` it shows no progress bar."""
    shown = {"enable_progress_bar": False} if cfg.json else {}
    if any(isinstance(one, Checkpoint) for one in callbacks):
        shown["enable_checkpointing"] = True  # a checkpoint callback needs it
    bar = [] if cfg.json else [RichProgressBar()]
    trainer: L.Trainer = instantiate_part(
        cfg, "trainer", L.Trainer, default_root_dir=str(output), callbacks=[*callbacks, *bar], **shown
    )
    return trainer


def check_gpu(cfg: DictConfig) -> None:
    """Raise `ConfigurationError` if a GPU is requested and none is available."""
    if cfg.trainer.get("accelerator") not in {"gpu", "cuda"}:
        return
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        raise ConfigurationError(
            f"trainer.accelerator={cfg.trainer.accelerator}: torch {torch.__version__} finds no GPU on this machine; use "
            "trainer=cpu, or see `lsstcutouts doctor`"
        )
