"""One function behind ``lsstcutouts train`` and ``train_example.py``: from a configuration to a trained network."""

import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import RichProgressBar
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from .cache import CacheStats
from .callbacks import CacheMonitor, KeepLast, Throughput
from .checkpoints import LAST, SameCheckpoint, checkpoint_to_resume
from .cutout import CutoutReader
from .datamodule import CutoutDataModule
from .errors import ConfigurationError
from .mosaic import write_mosaic
from .simulate import SimulatedRepository, SimulationConfig, simulate

__all__ = ["TrainingResult", "ensure_simulation", "train"]

_PICTURED = 40
"""Cutouts in the picture: five rows of eight."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Attributes
    ----------
    metrics
        Last value of everything that the model logged, such as ``val_auc``.
    epochs, targets
        How many were trained; targets are those of one epoch.
    cutouts_per_second
        Cutouts that the training loop consumed a second, validation and pauses between epochs left out.
    waiting
        Share of that time in which the loop waited for data.
    hit_rate
        Tile requests served without a decode, over the whole run.
    bands_missing
        Band to the number of targets without it, all splits together.
    not_delivered
        Catalog rows without any coadd.
    left_out
        Split to the number of its rows that a policy left out in the latest epoch.
    checkpoint, picture
        Files that were written.
    """

    metrics: Mapping[str, float]
    epochs: int
    targets: int
    cutouts_per_second: float
    waiting: float
    hit_rate: float
    bands_missing: Mapping[str, int]
    not_delivered: int
    left_out: Mapping[str, int]
    checkpoint: str
    picture: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    def table(self) -> Table:
        """Return the result for people."""
        table = Table(title="Training", show_header=False, title_justify="left")
        for name, value in sorted(self.metrics.items()):
            table.add_row(name.replace("_", " "), f"{value:.4f}")
        missing = ", ".join(f"{band}: {count}" for band, count in self.bands_missing.items() if count) or "none"
        rows = {
            "epochs x targets": f"{self.epochs} x {self.targets}",
            "cutouts/s in training": f"{self.cutouts_per_second:,.0f}",
            "waiting for data": f"{self.waiting:.1%} of the training time",
            "cache hit rate": f"{self.hit_rate:.1%}",
            "targets without a band": missing,
            "targets not delivered": str(self.not_delivered),
            "targets left out": ", ".join(f"{split}: {n}" for split, n in self.left_out.items() if n) or "none",
            "checkpoint": _shown(self.checkpoint),
            "picture": _shown(self.picture) if self.picture else "not written",
        }
        for name, text in rows.items():
            table.add_row(name, text)
        return table


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


def train(cfg: DictConfig) -> TrainingResult:
    """Train what a configuration describes and say what came of it.

    Parameters
    ----------
    cfg
        As ``configs/train.yaml``.

    Returns
    -------
    TrainingResult
        Also printed, and written to ``metrics.json`` in the output folder; ``report.json`` beside it says what
        became of the rows of each split.
    """
    output = _output(cfg)
    resumed = checkpoint_to_resume(cfg.resume, output)
    if not cfg.debug:
        _quieten()
    L.seed_everything(cfg.seed, verbose=False)
    ensure_simulation(cfg.simulation, progress=not cfg.json)
    data: CutoutDataModule = hydra.utils.instantiate(cfg.data)
    model: L.LightningModule = hydra.utils.instantiate(cfg.model)
    meter = CacheMonitor()
    # With json=true nothing but the result goes to standard output.
    shown = {"enable_progress_bar": False} if cfg.json else {}
    callbacks = [meter, SameCheckpoint(resumed), KeepLast(output / LAST), *([] if cfg.json else [RichProgressBar()])]
    settings = cfg.trainer.copy()
    if isinstance(settings.get("logger"), DictConfig):
        settings.logger.save_dir = str(output)  # each job of a sweep has its own
    trainer: L.Trainer = hydra.utils.instantiate(settings, default_root_dir=str(output), callbacks=callbacks, **shown)
    trainer.fit(model, data, ckpt_path=None if resumed is None else str(resumed), weights_only=True)
    if not meter.targets:
        raise ConfigurationError(
            f"nothing was trained: {resumed} has {trainer.current_epoch} epochs behind it; raise trainer.max_epochs"
        )
    checkpoint = output / "model.ckpt"
    trainer.save_checkpoint(checkpoint)
    result = _result(trainer, data, meter, str(checkpoint), _picture(cfg, trainer, model, data, output))
    if trainer.is_global_zero:
        text = json.dumps(result.as_dict(), indent=2)
        (output / "metrics.json").write_text(text + "\n")
        reports = {split: data.report(split).as_dict() for split in data.loaders}
        (output / "report.json").write_text(json.dumps(reports, indent=2) + "\n")
        Console().print_json(text) if cfg.json else Console().print(result.table())
    return result


def _shown(path: str) -> str:
    """Return a path as people want to copy it: relative where it lies below the folder they stand in."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _quieten() -> None:
    """Keep off the terminal what Lightning says at every start, whatever one could do about it."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors.checkpoint_connector"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A helper of Lightning that torch deprecated; nothing here can change it.
    warnings.filterwarnings(
        "ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated", category=FutureWarning
    )


def _output(cfg: DictConfig) -> Path:
    """Return the folder of this run: hydra's where hydra made one (each job of a sweep has its own)."""
    folder = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else cfg.output
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    return path


def _result(
    trainer: L.Trainer, data: CutoutDataModule, meter: Throughput, checkpoint: str, picture: Path | None
) -> TrainingResult:
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
        checkpoint=checkpoint,
        picture=None if picture is None else str(picture),
    )


def _picture(
    cfg: DictConfig, trainer: L.Trainer, model: L.LightningModule, data: CutoutDataModule, output: Path
) -> Path | None:
    """Write cutouts of the validation split, from the highest score to the lowest, with score and truth."""
    label = OmegaConf.select(cfg, "model.label", default="label")
    if not cfg.picture or not trainer.is_global_zero or "val" not in data.splits or not len(data.splits["val"][1]):
        return None
    plan, rows = data.splits["val"]
    rng = np.random.default_rng(cfg.seed)
    chosen = np.sort(rng.choice(rows, min(_PICTURED, len(rows)), replace=False))
    batch = CutoutReader(plan, data.options, cache=data.cache).read(chosen)
    scores = _scores(model, data, batch)
    truth = np.asarray(batch.get(label, np.full(len(batch["object_id"]), -1)))
    order = np.argsort(-scores)
    right = (scores > 0.5) == (truth > 0.5)
    captions = [f"{scores[i]:.2f}  {'lens' if truth[i] > 0.5 else 'no lens'}" for i in order]
    frames = ["palegreen" if right[i] else "salmon" for i in order]
    title = f"validation cutouts, {''.join(plan.bands)}: score and truth (green: right, red: wrong)"
    images = np.asarray(batch["image"])[order]
    return write_mosaic(output / "mosaic.png", images, plan.bands, captions, frames=frames, title=title)


def _scores(model: L.LightningModule, data: CutoutDataModule, batch: Mapping[str, Any]) -> "np.ndarray[Any, Any]":
    """Return the probability that the model gives each target of a batch of arrays."""
    tensors = {k: v if isinstance(v, list) else torch.from_numpy(v).to(model.device) for k, v in batch.items()}
    model.eval()
    with torch.inference_mode():
        transformed = data.transform(tensors)
        scores: np.ndarray[Any, Any] = model(transformed["image"]).sigmoid().cpu().numpy()
    return scores
