"""Pictures of what a network makes of cutouts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from ..cutout import CutoutReader
from ..datamodule import CutoutDataModule
from ..mosaic import write_mosaic

__all__ = ["picture_of_highest", "picture_of_validation"]

_PICTURED = 40
"""Cutouts in the picture: five rows of eight."""


def picture_of_validation(
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


def picture_of_highest(table: Any, data: CutoutDataModule, path: Path) -> Path | None:
    """Write the cutouts of the highest ``score`` of a table of predictions, the highest first."""
    if "score" not in table.column_names or table["score"].type.num_fields:
        return None
    scores = table["score"].to_numpy(zero_copy_only=False).astype(float)  # nan where there is none
    order = np.argsort(np.where(np.isnan(scores), -np.inf, scores), kind="stable")[::-1][:_PICTURED]
    order = order[~np.isnan(scores[order])]
    if not len(order):
        return None
    plan, _ = data.splits["predict"]
    ids = table["object_id"].take(order).to_pylist()
    batch = CutoutReader(plan, data.options, cache=data.cache).read(plan.targets_of(ids))
    # A file may have become unreadable since; what is left keeps its caption.
    score_of = dict(zip(ids, scores[order].tolist(), strict=True))
    captions = [f"{score_of[i]:.3f}  {i}" for i in np.asarray(batch["object_id"]).tolist()]
    title = f"highest scores, {''.join(plan.bands)}: score and object_id"
    return write_mosaic(path, np.asarray(batch["image"]), plan.bands, captions, title=title)
