"""What training and prediction need before they begin: a sky, a folder, a quiet terminal."""

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
    """Write the simulated repository that a configuration names, unless it is there.

    Raises
    ------
    ConfigurationError
        If there is one that was made with other settings.
    """
    if settings is None:
        return
    wanted: SimulationConfig = hydra.utils.instantiate(settings.config)
    root = Path(settings.root)
    if not root.exists():
        simulate(root, wanted, progress=progress)
        return
    there = SimulatedRepository.load(root).config
    other = [f.name for f in fields(wanted) if getattr(there, f.name) != getattr(wanted, f.name)]
    if other:
        raise ConfigurationError(
            f"the simulated repository {settings.root!r} was made with another {', '.join(other)}; remove the folder, or "
            "give simulation.root= another one"
        )


def silence_lightning() -> None:
    """Keep off the terminal what Lightning says at every start, whatever one could do about it."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors.checkpoint_connector"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A helper of Lightning that torch deprecated; nothing here can change it.
    warnings.filterwarnings(
        "ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated", category=FutureWarning
    )


def output_folder(cfg: DictConfig) -> Path:
    """Return the folder of this run: hydra's where hydra made one (each job of a sweep has its own).

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
        raise ConfigurationError(f"output={folder}: the folder cannot be made: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigurationError(f"output={folder}: you may not write into this folder; give another one")
    return path


def callbacks_of(cfg: DictConfig) -> list[L.Callback]:
    """Return the callbacks that a configuration names.

    Raises
    ------
    ConfigurationError
        If one is not made by its entry.
    """
    found = []
    for name, settings in (cfg.get("callbacks") or {}).items():
        callback = instantiate_part(cfg.callbacks, name) if settings is not None else None  # null switches one off
        if callback is not None and not isinstance(callback, L.Callback):
            raise ConfigurationError(f"callbacks.{name} is not a callback; give it a _target_, or null")
        found += [] if callback is None else [callback]
    return found


def trainer_of(cfg: DictConfig, output: Path, callbacks: list[L.Callback]) -> L.Trainer:
    """Return the trainer of a configuration; with ``json=true`` nothing but the result goes to standard output."""
    shown = {"enable_progress_bar": False} if cfg.json else {}
    if any(isinstance(one, Checkpoint) for one in callbacks):
        shown["enable_checkpointing"] = True  # who names the callback means it
    bar = [] if cfg.json else [RichProgressBar()]
    trainer: L.Trainer = instantiate_part(
        cfg, "trainer", L.Trainer, default_root_dir=str(output), callbacks=[*callbacks, *bar], **shown
    )
    return trainer


def check_gpu(cfg: DictConfig) -> None:
    """Raise `ConfigurationError` where a GPU is asked for and there is none."""
    if cfg.trainer.get("accelerator") not in {"gpu", "cuda"}:
        return
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        raise ConfigurationError(
            f"trainer.accelerator={cfg.trainer.accelerator}: torch {torch.__version__} finds no GPU on this machine; use "
            "trainer=cpu, or see `lsstcutouts doctor`"
        )
