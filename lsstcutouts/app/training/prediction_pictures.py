"""Mosaics of cutouts with the predictions of a network."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from ...catalog.ids import rows_of_ids, take_rows
from ...loader.datamodule.module import CutoutDataModule
from ...read.options import ReaderOptions
from ...read.reader import CutoutReader
from ..gallery.entries import with_valid
from ..gallery.show import show
from ..gallery.validated import as_validated

__all__ = ["picture_of_highest", "picture_of_validation"]

_log = logging.getLogger(__name__)

type Array = NDArray[np.float64]

_RIGHT, _WRONG = "#009E73", "#D55E00"
"""Colours of Okabe and Ito, which colour-blind people can tell apart."""

_PICTURED = 40
"""Cutouts in the picture: five rows of eight."""


def picture_of_validation(
    model: L.LightningModule, data: CutoutDataModule, output: Path, *, label: str, seed: int
) -> Path | None:
    """Write cutouts of the validation split, from the highest score to the lowest, with score and truth.

    Errors do not end the command, because the training is finished: if the model raises or returns something else, the
    picture has no scores.

    Parameters
    ----------
    model
        Model whose ``predict_step`` gives the scores.
    data
        Data module that has been set up.
    output
        Folder of the picture.
    label
        Catalog column with the truth, if there is one.
    seed
        Chooses the targets.
    """
    if "val" not in data.splits or not len(data.splits["val"][1]):
        return None
    plan, rows = data.splits["val"]
    chosen = np.sort(np.random.default_rng(seed).choice(rows, min(_PICTURED, len(rows)), replace=False))
    try:
        batch = CutoutReader(
            plan,
            ReaderOptions.of(data.read, planes=with_valid(plan, data.planes), seed=data.seed, columns=data.columns),
            cache=data.cache,
        ).read(chosen)
        if not len(batch["object_id"]):
            return None
        batch = as_validated(batch, data)
        score, predicted = _predictions(model, data, batch)
        truth = batch.get(label)
        order = np.argsort(-score, kind="stable") if score is not None else np.arange(len(batch["object_id"]))
        captions = [_caption(i, score, predicted, truth) for i in order]
        colours = [_colour(i, score, predicted, truth) for i in order]
        title = f"validation cutouts, {''.join(plan.bands)}: prediction and {label} (green: right, orange: wrong)"
        shown = {name: take_rows(values, order) for name, values in batch.items()}
        path = output / "mosaic.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        show(shown, plan.bands, captions=captions, colours=colours, title=title).savefig(path, dpi=150)
    except Exception as error:  # noqa: BLE001 - a file that was removed, a full disk: the training is finished
        _log.warning("no picture was written: %s: %s", type(error).__name__, error)
        return None
    return path


def _predictions(
    model: L.LightningModule, data: CutoutDataModule, batch: Mapping[str, Any]
) -> tuple[Array | None, Sequence[Any] | None]:
    """Return score and predicted class of each target of a batch, each None if ``predict_step`` does not return it."""
    own = {name: values for name, values in batch.items() if name != "valid" or name in data.planes}  # as in training
    tensors = {k: v if isinstance(v, list) else torch.from_numpy(v).to(model.device) for k, v in own.items()}
    model.eval()
    try:
        with torch.inference_mode():
            output: Any = model.predict_step(data.transform(tensors), 0)
    except Exception as error:  # noqa: BLE001 - a user's model may have no predict_step, or raise anything
        _log.warning("the picture shows no predictions: %s: %s", type(error).__name__, error)
        return None, None
    found = output if isinstance(output, Mapping) else {"score": output}
    names = ["score", *(name for name in found if name not in {"object_id", "is_padding"})]
    columns = {
        name: column for name in names if (column := _column(found.get(name), len(batch["object_id"]))) is not None
    }
    return next(iter(columns.values()), None), _plain(found.get("predicted"), len(batch["object_id"]))


def _column(values: Any, count: int) -> Array | None:
    """Return one number for each target, or None if the model returns something else."""
    if not isinstance(values, torch.Tensor) or values.is_complex() or values.numel() != count:
        return None
    return values.detach().cpu().double().numpy().reshape(count)


def _plain(values: Any, count: int) -> Sequence[Any] | None:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().tolist()
    return values if isinstance(values, list) and len(values) == count else None


def _caption(i: int, score: Array | None, predicted: Sequence[Any] | None, truth: Any) -> str:
    text = f"{score[i]:.2f}" if score is not None else ""
    if predicted is not None:
        text = f"{predicted[i]:.3g}" if isinstance(predicted[i], float) else f"{predicted[i]} {text}"
    if truth is None:
        return text
    shown = f"{truth[i]:.3g}" if isinstance(truth[i], float | np.floating) else str(truth[i])
    return f"{text}, is {shown}" if len(text) + len(shown) < 12 else f"{text}\nis {shown}"


def _colour(i: int, score: Array | None, predicted: Sequence[Any] | None, truth: Any) -> str:
    """Return green for a right and orange for a wrong prediction, black if this cannot be decided."""
    if truth is None or isinstance(truth[i], float | np.floating):
        return "black"
    if predicted is not None:
        return _RIGHT if predicted[i] == truth[i] else _WRONG
    if score is None or truth[i] not in {0, 1} or not 0 <= score[i] <= 1:
        return "black"
    return _RIGHT if (score[i] > 0.5) == (truth[i] > 0.5) else _WRONG


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
    targets = rows_of_ids(plan.row, table["row"].to_numpy()[order])
    batch = CutoutReader(
        plan,
        ReaderOptions.of(data.read, planes=with_valid(plan, data.planes), seed=data.seed, columns=data.columns),
        cache=data.cache,
    ).read(targets)
    # A file may have become unreadable since; captions follow the targets that were read.
    classes = table["predicted"].to_pylist() if "predicted" in table.column_names else [""] * len(scores)
    shown = [f"{classes[row]} {scores[row]:.3f}".strip() for row in order.tolist()]
    text_of = dict(zip(targets.tolist(), shown, strict=True))
    captions = [f"{text_of[target]}\n{plan.object_id[target]}" for target in plan.targets_in(batch).tolist()]
    kind = "most certain classes" if "predicted" in table.column_names else "highest scores"
    title = f"{kind}, {''.join(plan.bands)}: score and object_id"
    path.parent.mkdir(parents=True, exist_ok=True)
    show(batch, plan.bands, captions=captions, title=title).savefig(path, dpi=150)
    return path
