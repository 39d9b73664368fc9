"""Trains the network of a configuration."""

import json
from dataclasses import replace
from pathlib import Path

import lightning as L
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ...errors import ConfigurationError
from ...loader.checkpoint_state import read_checkpoint
from ...loader.datamodule.module import CutoutDataModule
from ...read.cache.stats import CacheStats
from ..callbacks.training_speed import Throughput
from .checkpoint_configuration import merge_with_checkpoint, plain_configuration
from .checkpoints import SameCheckpoint, checkpoint_to_resume, explain_interruption, explain_state_mismatch
from .instantiation import (
    check_settings,
    complete_from_export,
    complete_model,
    drop_replaced_defaults,
    explain_missing_label,
    explain_training_errors,
    instantiate_part,
)
from .prediction_pictures import picture_of_validation
from .prepare import callbacks_of, check_gpu, ensure_simulation, output_folder, silence_lightning, trainer_of
from .training_result import TrainingResult

__all__ = ["train"]


def train(cfg: DictConfig) -> TrainingResult:
    """Train as a configuration describes, and print the result.

    Parameters
    ----------
    cfg
        As ``configs/train.yaml``.

    Returns
    -------
    TrainingResult
        Also printed, and written to ``metrics.json`` in the output folder; ``report.json`` next to it has
        the outcome of the rows of each split.
    """
    output = output_folder(cfg)
    resumed = checkpoint_to_resume(cfg.resume, output)
    cfg = drop_replaced_defaults(cfg)
    cfg.output = str(output)  # each job of a sweep has its own
    where = f"resume={cfg.resume!r}" if cfg.resume != "auto" else f"resume='auto' ({resumed})"
    if resumed is not None:
        before = read_checkpoint(resumed, "resume")
        if not {"optimizer_states", "loops"} <= set(before):
            raise ConfigurationError(
                f"{where} holds only the weights (save_weights_only), so the training cannot be resumed; use last.ckpt"
            )
        cfg = merge_with_checkpoint(cfg, before, where, resume=True)
        del before  # its weights are mapped from a file that may be overwritten
    elif (output / "model.ckpt").exists() and not cfg.json:
        Console(stderr=True).print(
            f"{output / 'model.ckpt'} of an earlier training is replaced at the end of this one; output=another/folder keeps both"
        )
    if not cfg.debug:
        silence_lightning()
    complete_from_export(cfg)
    check_settings(cfg, "data", "trainer", "callbacks")
    check_gpu(cfg)
    L.seed_everything(cfg.seed, verbose=False)
    ensure_simulation(cfg.simulation, progress=not cfg.json)
    data: CutoutDataModule = instantiate_part(cfg, "data", CutoutDataModule)
    label = str(OmegaConf.select(cfg, "model.label", default=cfg.label))
    with explain_missing_label(label):
        complete_model(cfg, data, label)
    check_settings(cfg, "model")
    data.configuration = plain_configuration(cfg)
    model: L.LightningModule = instantiate_part(cfg, "model", L.LightningModule)
    callbacks = [SameCheckpoint(resumed), *callbacks_of(cfg)]
    meter = next((one for one in callbacks if isinstance(one, Throughput)), None) or Throughput()
    trainer = trainer_of(cfg, output, [meter, *(one for one in callbacks if one is not meter)])
    with (
        explain_training_errors(model, data),
        explain_interruption(trainer, output, resumed),
        explain_missing_label(label),
        explain_state_mismatch(where),
    ):
        trainer.fit(model, data, ckpt_path=None if resumed is None else str(resumed), weights_only=True)
    if not meter.targets:
        raise ConfigurationError(
            f"nothing was trained: {resumed} already has {trainer.current_epoch} epochs; increase trainer.max_epochs"
        )
    checkpoint = output / "model.ckpt"
    trainer.save_checkpoint(checkpoint)
    result = _result(trainer, data, meter, str(checkpoint))
    if trainer.is_global_zero:
        reports = {split: data.report(split).as_dict() for split in data.loaders}
        (output / "report.json").write_text(json.dumps(reports, indent=2) + "\n")
        _write(result, output)
        if cfg.picture:  # last, so that an error here loses no result
            picture = picture_of_validation(model, data, output, label=label, seed=cfg.seed)
            result = replace(result, picture=None if picture is None else str(picture))
            _write(result, output)
        Console().print_json(json.dumps(result.as_dict())) if cfg.json else Console().print(result.table())
    return result


def _write(result: TrainingResult, output: Path) -> None:
    (output / "metrics.json").write_text(json.dumps(result.as_dict(), indent=2) + "\n")


def _result(trainer: L.Trainer, data: CutoutDataModule, meter: Throughput, checkpoint: str) -> TrainingResult:
    plans = list({id(plan): plan for plan, _ in data.splits.values()}.values())
    missing: dict[str, int] = {}
    for plan in plans:
        for band, count in plan.bands_missing().items():
            missing[band] = missing.get(band, 0) + count
    stats: CacheStats = data.cache_info()
    return TrainingResult(
        metrics={name: float(value) for name, value in trainer.callback_metrics.items()},
        epochs=trainer.current_epoch,
        targets=len(data.splits["train"][1]),
        cutouts_per_second=meter.cutouts_per_second,
        waiting=data.waited / meter.seconds if meter.seconds else 0.0,
        hit_rate=stats.hit_rate,
        bands_missing=missing,
        not_delivered=sum(len(plan.rejected) for plan in plans),
        left_out={split: data.report(split).left_out for split in data.loaders},
        shared={}
        if data.plans.assignment is None
        else {split: len(rows) for split, rows in data.plans.assignment.dropped.items()},
        checkpoint=checkpoint,
        picture=None,
    )
