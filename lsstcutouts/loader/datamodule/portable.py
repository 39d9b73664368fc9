"""A data module in a prediction by partitions, which makes the plans and the loaders itself."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigurationError
from ...order.sampling import Sampling
from ...plan.cutout_plan import CutoutPlan
from ..dataset import CutoutDataset
from ..loader import CutoutLoader
from .description import check_tensors, settings_of
from .fitting import Sample
from .module import CutoutDataModule
from .split_plans import SplitPlans
from .training_loaders import TrainingLoaders

__all__ = ["prediction_loader", "prediction_settings", "ready_to_predict"]


def ready_to_predict(data: CutoutDataModule, pixels: Mapping[str, Any]) -> CutoutDataModule:
    """Return a copy of a data module that has the statistics of its pixels, and pickles without catalog, plans and trainer.

    Parameters
    ----------
    data
        It may come from a checkpoint, with the statistics of the training.
    pixels
        ``pixels`` and ``pixel_scale`` of the cutouts, as ``pixels_of`` returns them.

    Raises
    ------
    ConfigurationError
        If they are other than in the training, or there are no statistics for the normalisation.
    """
    check_tensors(data._trained, settings_of(data) | dict(pixels))
    sample = Sample(None, np.zeros(0, np.int64), data.bands, data.read, data.seed, None, None)
    data._statistics.set_up(data.normalisation, sample, Path(), pixels, may_fit=False)
    if data._statistics.wanted(data.normalisation):
        raise ConfigurationError(
            "the normalisation has no statistics, or MatchPsf no width; use CutoutDataModule.load_from_checkpoint, or give them "
            "statistics= and target="
        )
    portable = copy.copy(data)
    portable.catalog, portable._loaders = None, TrainingLoaders()
    portable.plans = SplitPlans(data.plans.settings, None, None, data.split_options, data.seed)
    return portable


def prediction_settings(data: CutoutDataModule) -> dict[str, Any]:
    """Return the settings of a data module that decide the input of a network, by name, as plain values."""
    settings = settings_of(data)
    machine = {"version", "catalog", "columns", "batch_size", "sampling", "splits", "augmentations", "read"}
    # What on_read_error does is in the outcome of each row; it may change for partitions that failed.
    read = {name: value for name, value in settings["read"].items() if name not in {"_target_", "on_read_error"}}
    others = {name: value for name, value in settings.items() if name not in machine}
    statistics = None if data.statistics is None else data.statistics.as_dict()
    psf = data._statistics.state_dict().get("psf", [])
    return {**others, **read, "wire": data.transfer.wire, "statistics": statistics, "psf": psf}


def prediction_loader(data: CutoutDataModule, plan: CutoutPlan, device: Any, threads: int) -> CutoutLoader:
    """Return a loader of all targets of a plan, as the data module's own of the prediction split."""
    dataset = CutoutDataset(
        plan,
        batch_size=data.batch_size,
        planes=data.planes,
        columns=data.columns,
        read=data.read,
        sampling=Sampling(shuffle=False),
        seed=data.seed,
        threads=threads,
        cache=data.cache,
        pads=True,
    )
    return CutoutLoader(dataset, device=device, transfer=data.transfer)
