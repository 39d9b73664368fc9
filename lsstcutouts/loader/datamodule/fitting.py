"""Statistics of the training split: fitted, found, given or restored, and passed to the modules that use them."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ...errors import StatisticsError
from ...plan.cutout_plan import CutoutPlan
from ...plan.read_options import ReadOptions
from ...read.cache.tile_cache import TileCache
from ...transforms.fit import fit_statistics
from ...transforms.statistics import DEFAULT_SAMPLE, Statistics

__all__ = ["Fitting", "Sample"]

_log = logging.getLogger(__name__)

_KEY = "normalisation"
"""Of the statistics in a checkpoint."""

_CACHE = "256 MB"
"""Tiles of the sample are read in the order of the sky, and few are needed twice."""


@runtime_checkable
class _Fittable(Protocol):
    """A module that works by statistics."""

    statistics: Statistics | None

    @property
    def fitted(self) -> bool: ...

    def fit(self, statistics: Statistics) -> object: ...


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What statistics are fitted on: the training split, and how it is read.

    Attributes
    ----------
    plan, rows
        The split; no plan where there is no such split.
    bands, read, seed, cache, threads
        As in the data module; without a cache a small one is made for the time of the fit.
    """

    plan: CutoutPlan | None
    rows: NDArray[np.int64]
    bands: tuple[str, ...]
    read: ReadOptions
    seed: int
    cache: TileCache | None
    threads: int | None

    def fit(self, count: int, progress: bool | Callable[[int, int], None] = False) -> Statistics:
        """Return statistics of ``count`` targets."""
        if self.plan is None:
            raise StatisticsError(
                "there is no training split to fit the statistics to; set statistics= of the normalisation"
            )
        return fit_statistics(
            self.plan,
            self.rows,
            self.read,
            seed=self.seed,
            sample=count,
            cache=TileCache(_CACHE) if self.cache is None else self.cache,  # an empty one is false
            threads=self.threads,
            progress=progress,
        )

    def key(self, count: int) -> str:
        """Return what decides the statistics, hashed: every process of a run finds the same."""
        options = {name: str(value) for name, value in asdict(self.read).items()}
        plan = "" if self.plan is None else self.plan.fingerprint()
        digest = hashlib.sha256(json.dumps([plan, options, self.seed, count]).encode())
        digest.update(np.sort(self.rows).tobytes())
        return digest.hexdigest()[:12]


class Fitting:
    """Keeps the statistics of a data module.

    Statistics of a checkpoint have priority over those that the normalisation was given, and these over fitted ones.

    Parameters
    ----------
    normalisation
        Says what statistics it was given, and on how many targets to fit.
    """

    def __init__(self, normalisation: nn.Module) -> None:
        self.statistics: Statistics | None = None
        modules = list(_fittable(normalisation))
        self._given = next((g for m in modules if (g := getattr(m, "given", None)) is not None), None)
        self._count = max((getattr(m, "sample", DEFAULT_SAMPLE) for m in modules), default=DEFAULT_SAMPLE)

    def wanted(self, module: nn.Module) -> bool:
        """Return whether statistics have to be fitted: something needs them, and there are none."""
        return self._given is None and self.statistics is None and any(not m.fitted for m in _fittable(module))

    def prepare(self, sample: Sample, folder: Path) -> None:
        """Fit to a file that every process of a run finds, unless it is there already."""
        path = self._file(sample, folder)
        if len(sample.rows) and not path.exists():
            sample.fit(self._count).save(path)

    def set_up(
        self, module: nn.Module, sample: Sample, folder: Path, pixels: Mapping[str, Any], *, may_fit: bool
    ) -> None:
        """Find the statistics, or fit them, and hand them to the modules.

        Without a training split, and in a prediction, a checkpoint is expected to bring them.

        Parameters
        ----------
        module, sample, folder
            Who needs them, what they are fitted to, where other processes find them.
        pixels
            ``pixels`` and ``pixel_scale`` of the cutouts, which statistics that were given must be of.
        may_fit
            Whether they may be fitted.
        """
        fits: dict[str, Any] = {
            "unit": sample.read.flux_unit,
            "size": pixels.get("pixels"),
            "pixel_scale": pixels.get("pixel_scale"),
        }
        if self.statistics is None and self._given is not None:
            given = self._given if isinstance(self._given, Statistics) else Statistics.load(self._given)
            self._use(given.ordered(sample.bands, **fits), module)
        elif may_fit and self.wanted(module) and len(sample.rows):
            path = self._file(sample, folder)
            found = Statistics.load(path) if path.exists() else sample.fit(self._count)
            self._use(found.ordered(sample.bands, **fits), module)
        elif self.statistics is None:
            by_hand = next((m.statistics for m in _fittable(module) if m.fitted), None)
            if by_hand is not None:
                by_hand.ordered(sample.bands, **fits)
                if tuple(by_hand.bands) != sample.bands:
                    raise StatisticsError(
                        f"the normalisation was fitted to the bands {','.join(by_hand.bands)}, in this order, but the data "
                        f"module has {','.join(sample.bands)}; call normalisation.fit(statistics.ordered({[*sample.bands]!r}))"
                    )
            self.statistics = by_hand

    def fit(
        self, module: nn.Module, sample: Sample, progress: bool | Callable[[int, int], None], count: int | None
    ) -> Statistics:
        """Fit now to ``count`` targets, by default those of the normalisation, and use the result."""
        found = sample.fit(self._count if count is None else count, progress)
        self._use(found.ordered(sample.bands), module)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for the checkpoint."""
        return {} if self.statistics is None else {_KEY: self.statistics.as_dict()}

    def load_state_dict(self, state: Mapping[str, Any], module: nn.Module, bands: Sequence[str], unit: str) -> None:
        """Use the statistics of a checkpoint, if it has any: the network was trained with them."""
        if _KEY not in state:
            return
        restored = Statistics.from_dict(state[_KEY], "the checkpoint's statistics")
        if tuple(restored.bands) != tuple(bands):
            trained = ",".join(restored.bands)
            raise StatisticsError(
                f"the checkpoint was trained on the bands {trained}, in this order, but the data module has "
                f"{','.join(bands)}; set bands={trained}"
            )
        if self._given is not None and self.statistics is not None and self.statistics.bands != restored.bands:
            _log.warning(
                "the statistics of the checkpoint are used, because the network was trained with them, not those of the normalisation"
            )
        self._use(restored.ordered(bands, unit=unit), module)

    def _use(self, statistics: Statistics, module: nn.Module) -> None:
        for one in _fittable(module):
            one.fit(statistics)
        self.statistics = statistics

    def _file(self, sample: Sample, folder: Path) -> Path:
        return folder / f"statistics-{sample.key(self._count)}.yaml"


def _fittable(module: nn.Module) -> Iterator[_Fittable]:
    return (one for one in module.modules() if isinstance(one, _Fittable))
