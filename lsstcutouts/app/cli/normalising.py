"""The verb ``normalise``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from ...loader.datamodule.module import CutoutDataModule
from ...read.reader import CutoutReader
from ...transforms.augmentation import runs_always
from ...transforms.fit import sample_options, sampled
from ...transforms.statistics import Statistics
from ..training.prepare import ensure_simulation
from .histograms import Pixels, write_histograms

__all__ = ["NormaliseResult", "run"]

_PICTURED_PIXELS = 1 << 20
"""Largest number of pixels per band in the histograms."""


@dataclass(frozen=True)
class NormaliseResult:
    """Result of ``normalise``: the statistics and the written files."""

    statistics: Statistics
    output: Path
    picture: Path | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        picture = None if self.picture is None else str(self.picture)
        return self.statistics.as_dict() | {"output": str(self.output), "picture": picture}

    def table(self) -> Table:
        """Return the statistics as a table for the terminal."""
        about = self.statistics
        title = f"Pixels of {about.targets} targets of the training split, {about.unit}"
        table = Table(title=title, title_justify="left")
        for name in ("band", "median", "noise", "1 %", "95 %", "99.9 %", "pixels", "targets"):
            table.add_column(name, justify="left" if name == "band" else "right")
        for band, one in about.bands.items():
            shown = [one.median, one.noise, *(one.quantiles[share] for share in (0.01, 0.95, 0.999))]
            table.add_row(band, *(f"{value:,.2f}" for value in shown), f"{one.pixels:,}", f"{one.targets:,}")
        return table


def run(cfg: DictConfig) -> NormaliseResult:
    """Fit, write and show the statistics that a configuration (``configs/normalise.yaml``) describes."""
    ensure_simulation(cfg.get("simulation"), progress=not cfg.json)
    # Only pixels are needed: the catalog may lack the columns of a training.
    data: CutoutDataModule = hydra.utils.instantiate(
        cfg.data, columns=(), sampling={"_target_": "lsstcutouts.Sampling"}
    )
    statistics = data.fit_statistics(not cfg.json, sample=cfg.sample)
    output = Path(cfg.output)
    statistics.save(output)
    picture = _picture(data, statistics, output.with_suffix(".png")) if cfg.picture else None
    result = NormaliseResult(statistics, output, picture)
    if not cfg.json:
        console = Console(soft_wrap=True, highlight=False)
        console.print(result.table())
        for path in filter(None, (result.output, result.picture)):
            console.print(f"written: {path}", markup=False)
    return result


def _picture(data: CutoutDataModule, statistics: Statistics, path: Path) -> Path:
    """Write histograms of a part of the sample, before and after normalisation."""
    plan, rows = data.splits["train"]
    count = max(1, _PICTURED_PIXELS // (plan.size.y * plan.size.x))
    chosen = sampled(plan, rows, count, seed=statistics.seed)
    first = runs_always(data.augmentations)
    read = CutoutReader(plan, sample_options(data.read, first), cache=data.cache).read(chosen)
    batch = {name: torch.from_numpy(value) for name, value in read.items() if isinstance(value, np.ndarray)}
    with torch.inference_mode():
        for module in first:
            batch = module(batch)
        after = data.normalisation(batch)
    sound = batch["valid"].numpy()
    pixels = [
        Pixels(band, *(image["image"].numpy()[:, i][sound[:, i]] for image in (batch, after)))
        for i, band in enumerate(plan.bands)
    ]
    return write_histograms(path, pixels, statistics, type(data.normalisation).__name__)
