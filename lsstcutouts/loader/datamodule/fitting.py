"""What is fitted to the training split, pixel statistics and the width of PSFs: fitted, found, given or restored, and passed to its modules."""

import copy
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
from ...source.writing import atomic_file
from ...transforms.augmentation import check_stages, runs_always
from ...transforms.fit import fit_statistics
from ...transforms.match_psf import WORST, MatchPsf
from ...transforms.statistics import DEFAULT_SAMPLE, Statistics
from ...transforms.worst_psf import worst_psf
from .description import described

__all__ = ["Fitting", "Sample"]

_log = logging.getLogger(__name__)

_KEY = "normalisation"
"""Of the statistics in a checkpoint."""

_PSF = "psf"
"""Of the widths that PSFs are matched to, arcsec, in a checkpoint."""

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

    def fit(
        self, count: int, first: Sequence[nn.Module] = (), progress: bool | Callable[[int, int], None] = False
    ) -> Statistics:
        """Return statistics of ``count`` targets, of what the modules ``first`` make of their pixels."""
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
            first=[copy.deepcopy(module).cpu() for module in first],
            cache=self._cache,
            threads=self.threads,
            progress=progress,
        )

    def worst_psf(self, matching: MatchPsf) -> float:
        """Return the width that suits the PSFs, arcseconds."""
        if self.plan is None:
            raise StatisticsError("there is no training split to fit MatchPsf(target='worst') to; give a width")
        arguments: dict[str, Any] = {"seed": self.seed, "cache": self._cache, "threads": self.threads}
        return worst_psf(self.plan, self.rows, self.read, matching=matching, progress=False, **arguments)

    @property
    def _cache(self) -> TileCache:
        return TileCache(_CACHE) if self.cache is None else self.cache  # an empty one is false

    def key(self, *about: Any) -> str:
        """Return what decides a fit, hashed, with plain values ``about`` it: every process of a run finds the same."""
        options = {name: str(value) for name, value in asdict(self.read).items()}
        plan = "" if self.plan is None else self.plan.fingerprint()
        digest = hashlib.sha256(json.dumps([plan, options, self.seed, *about]).encode())
        digest.update(np.sort(self.rows).tobytes())
        return digest.hexdigest()[:12]


class Fitting:
    """Keeps the statistics of a data module, and fits the PSF that bands are matched to.

    Statistics of a checkpoint have priority over those that the normalisation was given, and these over fitted ones.

    Parameters
    ----------
    normalisation
        Says what statistics it was given, and on how many targets to fit.
    augmentations
        Those that run in every stage come before the statistics are fitted.
    """

    def __init__(self, normalisation: nn.Module, augmentations: nn.Module) -> None:
        self.statistics: Statistics | None = None
        check_stages(augmentations)  # or statistics and validation would be without what is inside another module
        self._first = runs_always(augmentations)
        self._worst = [m for m in augmentations.modules() if isinstance(m, MatchPsf) and m.target == WORST]
        modules = list(_fittable(normalisation))
        self._given = next((g for m in modules if (g := getattr(m, "given", None)) is not None), None)
        self._count = max((getattr(m, "sample", DEFAULT_SAMPLE) for m in modules), default=DEFAULT_SAMPLE)

    def wanted(self, module: nn.Module) -> bool:
        """Return whether something has to be fitted."""
        return self._wants_statistics(module) or any(not m.fitted for m in self._worst)

    def _wants_statistics(self, module: nn.Module) -> bool:
        return self._given is None and self.statistics is None and any(not m.fitted for m in _fittable(module))

    def prepare(self, module: nn.Module, sample: Sample, folder: Path) -> None:
        """Fit to files that every process of a run finds, unless they are there already."""
        if not len(sample.rows):
            return
        self._fit_psf(sample, folder)
        path = self._file(sample, folder)
        if self._wants_statistics(module) and not path.exists():
            sample.fit(self._count, self._first).save(path)

    def _fit_psf(self, sample: Sample, folder: Path | None) -> None:
        """Fit the modules that match to the worst PSF, or take what another process found; without a folder, fit."""
        for module in (one for one in self._worst if not one.fitted):
            path = None if folder is None else folder / f"psf-{sample.key(described(module))}.json"
            if path is not None and path.exists():
                module.fit(json.loads(path.read_text(encoding="utf-8")))
                continue
            fwhm = sample.worst_psf(module)
            module.fit(fwhm)
            _log.info("PSFs are matched to a width of %.3f arcsec", fwhm)
            if path is not None:
                with atomic_file(path) as part:
                    part.write_text(json.dumps(fwhm), encoding="utf-8")

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
        if may_fit and len(sample.rows):
            self._fit_psf(sample, folder)
        if self.statistics is None and self._given is not None:
            given = self._given if isinstance(self._given, Statistics) else Statistics.load(self._given)
            self._use(given.ordered(sample.bands, **fits), module)
        elif may_fit and self._wants_statistics(module) and len(sample.rows):
            path = self._file(sample, folder)
            found = Statistics.load(path) if path.exists() else sample.fit(self._count, self._first)
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
        self._fit_psf(sample, None)
        found = sample.fit(self._count if count is None else count, self._first, progress)
        self._use(found.ordered(sample.bands), module)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for the checkpoint."""
        statistics = {} if self.statistics is None else {_KEY: self.statistics.as_dict()}
        return {**statistics, **({_PSF: [one.fwhm for one in self._worst]} if self._worst else {})}

    def load_state_dict(self, state: Mapping[str, Any], module: nn.Module, bands: Sequence[str], unit: str) -> None:
        """Use the statistics and PSFs of a checkpoint, if it has any: the network was trained with them."""
        for one, fwhm in zip(self._worst, state.get(_PSF, ()), strict=False):
            if fwhm is not None:
                one.fit(fwhm)
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
        first = [[described(one), getattr(one, "fwhm", None)] for one in self._first]
        return folder / f"statistics-{sample.key(self._count, *([first] if first else []))}.yaml"


def _fittable(module: nn.Module) -> Iterator[_Fittable]:
    return (one for one in module.modules() if isinstance(one, _Fittable))
