"""Predicts with the network of a checkpoint by partitions of a large catalog, into a folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ...bulk.partition_job import JobResult, check_run, run_job
from ...bulk.partition_progress import partition_progress
from ...bulk.predicting import Prediction, file_digest
from ...catalog.files import has_path, hats_source, is_lsdb
from ...errors import ConfigurationError
from ...loader.checkpoint_state import data_state, read_checkpoint
from ...loader.datamodule.module import CutoutDataModule
from ..cli.export_command import parse_part
from ..cli.job_results import shown_result, write_report
from ..signatures import importing_from_here
from .checkpoints import explain_state_mismatch
from .instantiation import instantiate_part
from .prepare import callbacks_of

__all__ = ["ConfiguredModel", "Predicted", "predict_into_folder", "writes_folder"]

_RUN = ("engine", "dask_scheduler", "workers", "part")
"""Settings of a prediction by partitions."""


@dataclass(frozen=True)
class ConfiguredModel:
    """Makes the model of a configuration with the weights of a checkpoint; pickles.

    Attributes
    ----------
    settings
        The part ``model`` of the configuration, as JSON.
    checkpoint
        The file; all processes must find it.
    """

    settings: str
    checkpoint: str

    def __call__(self) -> L.LightningModule:
        """Return the model.

        Raises
        ------
        ConfigurationError
            If it cannot be created, or the checkpoint belongs to another one.
        """
        with importing_from_here(), explain_state_mismatch(f"checkpoint={self.checkpoint!r}"):
            cfg = OmegaConf.create({"model": json.loads(self.settings)})
            model: L.LightningModule = instantiate_part(cfg, "model", L.LightningModule)
            checkpoint = read_checkpoint(self.checkpoint)
            model.on_load_checkpoint(checkpoint)
            model.load_state_dict(checkpoint["state_dict"], strict=model.strict_loading)
        return model


@dataclass(frozen=True)
class Predicted:
    """What a prediction by partitions has written."""

    result: JobResult
    checkpoint: str

    @property
    def exit_status(self) -> int:
        """2 if partitions failed."""
        return 2 if self.result.failed else 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**self.result.as_dict(), "checkpoint": self.checkpoint}

    def __str__(self) -> str:
        return shown_result(self.result)


def writes_folder(cfg: DictConfig) -> bool:
    """Return whether a configuration asks for partitions in a folder, not for one file.

    It does with one of the settings ``engine``, ``scheduler``, ``workers`` and ``part``, and where ``output`` is a folder and
    the catalog is a HATS catalog.

    Raises
    ------
    ConfigurationError
        If one of these settings is given, and ``output`` is a file.
    """
    given = [name for name in _RUN if cfg.get(name) is not None]
    folder = not Path(cfg.output).suffix or Path(cfg.output).is_dir()
    if given and not folder:
        name = given[0].removeprefix("dask_")
        raise ConfigurationError(
            f"output={cfg.output} is a file, but with {name}= partitions are written into a folder; give output=FOLDER"
        )
    data: Any = OmegaConf.to_container(cfg.data, resolve=True)
    catalog: Any = (data["catalog"] or {}).get("predict")  # an export has its own catalog
    source = catalog["path"] if has_path(catalog) else catalog
    return bool(given) or (folder and (hats_source(source) is not None or is_lsdb(source)))


def predict_into_folder(cfg: DictConfig) -> Predicted:
    """Predict by partitions, and print the result.

    Parameters
    ----------
    cfg
        As ``configs/predict.yaml``, merged with the checkpoint.
    """
    if callbacks_of(cfg):
        raise ConfigurationError("callbacks= has no effect on partitions, which no trainer runs; leave it out")
    if limits := [name for name in ("limit_predict_batches", "fast_dev_run") if cfg.trainer.get(name)]:
        raise ConfigurationError(
            f"trainer.{limits[0]} has no effect on partitions; predict a part of the catalog with"
            " catalog={path: ..., cone: ...}"
        )
    engine = cfg.engine or ("threads" if cfg.dask_scheduler is None else "dask")
    part = (1, 1) if cfg.part is None else parse_part(cfg.part)
    check_run(engine, part)
    checkpoint = read_checkpoint(cfg.checkpoint)
    data: CutoutDataModule = instantiate_part(cfg, "data", CutoutDataModule)
    if (state := data_state(checkpoint)) is not None:
        data.take_over(state)
    settings = OmegaConf.to_container(cfg.model, resolve=True)
    model = ConfiguredModel(json.dumps(settings), str(Path(cfg.checkpoint).absolute()))
    about = {"model": _shown_model(settings), "checkpoint": file_digest(cfg.checkpoint)}
    console, start = Console(soft_wrap=True, highlight=False, quiet=bool(cfg.json)), perf_counter()
    with Prediction(
        data, model, cfg.output, accelerator=_accelerator(cfg), precision=cfg.trainer.get("precision"), about=about
    ) as one:
        done, count = one.begin(), len(one.catalog)
        before = f", {len(done)} finished before" if done else ""
        console.print(f"{one.catalog.label}: {count} partition{'s' * (count != 1)}{before}", markup=False)
        # What another process of a Slurm array finishes meanwhile is not counted here.
        with partition_progress("predicting", -(-(count - len(done)) // part[1]), shown=not cfg.json) as update:
            result = run_job(
                one,
                done,
                progress=update,
                engine=engine,
                scheduler=cfg.dask_scheduler,
                workers=cfg.workers,
                part=part,
            )
    predicted = Predicted(result, cfg.checkpoint)
    write_report(one.folder, {**predicted.as_dict(), "seconds": perf_counter() - start})
    console.print(str(predicted), markup=False)
    return predicted


def _accelerator(cfg: DictConfig) -> str:
    """Return the accelerator that was asked for; ``auto`` if none was."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else ["trainer="]
    given = any(one.lstrip("+").startswith(("trainer=", "trainer.accelerator=", "experiment=")) for one in overrides)
    return str(cfg.trainer.get("accelerator", "auto")) if given else "auto"


def _shown_model(settings: Any) -> str:
    """Return the settings of a model that decide its outputs, on one line."""
    training = {"optimizer", "scheduler", "scheduler_interval", "lr", "weight_decay", "label"}
    return json.dumps({name: value for name, value in settings.items() if name not in training}, sort_keys=True)
