"""Which targets of a plan have enough valid pixels and depth: masks, variances and PSFs under their boxes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..catalog.footprint import Footprint
from ..errors import PlaneError, UnsupportedFormatError
from ..fits.coadd import Coadd, open_coadd
from ..sky.geometry import YX, Box
from ..source.control_groups import usable_cores
from ..source.progress import progress_bar
from .cutout_plan import CutoutPlan

__all__ = ["meets_limits", "point_source_depth"]

type Ints = NDArray[np.int64]

_REMOTE_THREADS = 16
"""Files on servers that are read side by side."""

_PIXELS = 1 << 24
"""Pixels of the boxes that a thread holds at a time: 100 MB with variances."""

_USUAL_FWHM = 0.8
"""Arcseconds, of files without a PSF that can be read (those of afw): the seeing of a typical Rubin coadd."""

_NANOJANSKY = 31.4
"""AB magnitude of 1 nJy (Oke & Gunn 1983, ApJ 266, 713)."""


def point_source_depth(variance: float, effective_area: float) -> float:
    """Return the AB magnitude of a point source at 5 sigma.

    The variance of the flux of a faint source, fitted with the PSF ``p``, is the variance of a pixel times the effective
    area ``sum(p)**2 / sum(p**2)`` (King 1983, PASP 95, 163; for a Gaussian ``2.266 (FWHM / pixel)**2``, Ivezic et al.
    2019, ApJ 873, 111, section 3.2.1).

    Parameters
    ----------
    variance
        Of a pixel, nJy squared; NaN gives NaN.
    effective_area
        Pixels.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(_NANOJANSKY - 2.5 * np.log10(5 * np.sqrt(variance * effective_area)))


def meets_limits(plan: CutoutPlan, request: Footprint, bands: Sequence[int], least: int) -> NDArray[np.bool_]:
    """Return which targets ``(N,)`` of a plan have enough valid pixels and depth in enough bands.

    Shows a bar.

    Parameters
    ----------
    plan
        Its pixels are put together from files as those of a batch.
    request
        With the limits; a band that does not reach them does not count.
    bands, least
        Numbers of the bands that count, and how many of them a target needs.

    Raises
    ------
    ReadError
        If a file cannot be read.
    PlaneError
        If a file has no variance, and a depth is asked for.
    """
    most = max(1, _PIXELS // (plan.size.y * plan.size.x))
    order = np.argsort(plan.primary, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(plan.primary[order])) + 1)
    jobs = [one[at : at + most] for one in groups for at in range(0, len(one), most)]

    def work(targets: Ints) -> NDArray[np.bool_]:
        counted = np.zeros(len(targets), np.int64)
        for left, band in zip(range(len(bands), 0, -1), bands, strict=True):
            open_ = np.flatnonzero((counted < least) & (counted + left >= least))
            if len(open_):
                counted[open_] += _BandPixels(plan, targets[open_], band, request).enough()
        return counted >= least

    met = np.zeros(len(plan), bool)
    threads = _REMOTE_THREADS if plan.files.remote else usable_cores()
    title = f"Reading the pixels under {len(plan)} positions"
    with ThreadPoolExecutor(threads) as pool, progress_bar(title, len(jobs)) as update:
        for done, (targets, good) in enumerate(zip(jobs, pool.map(work, jobs), strict=True), 1):
            met[targets] = good
            update(done)
    return met


@dataclass(eq=False)
class _BandPixels:
    """The pixels of one band under n targets of a plan that have one primary patch."""

    plan: CutoutPlan
    targets: Ints
    band: int
    request: Footprint
    files: dict[int, Coadd] = field(default_factory=dict)
    """Open files by row of the patches."""
    areas: dict[tuple[str, int], float] = field(default_factory=dict)
    """Effective areas of PSFs, pixels, by file and cell."""

    def enough(self) -> NDArray[np.bool_]:
        """Return which targets, ``(n,)``, have enough valid pixels and depth."""
        size = self.plan.size
        covered, valid = (np.zeros((len(self.targets), *size), bool) for _ in range(2))
        one_for_all = None if self.request.depth_by_band else self.request.min_depth
        depth: Any = self.request.depth_by_band.get(self.plan.bands[self.band], one_for_all)
        variance = None if depth is None else np.full(valid.shape, np.nan, np.float32)
        with ExitStack() as stack:
            for patch, region, members in self._sources():
                coadd = self._open(patch, stack)
                boxes = [self._box(i).intersection(coadd.bbox).intersection(region) for i in members.tolist()]
                there = [(i, box) for i, box in zip(members.tolist(), boxes, strict=True) if not box.is_empty]
                there = [(i, box) for i, box in there if not covered[i][box.slices(self._start(i))].all()]
                self._fill(coadd, there, covered, valid, variance)
            good = valid.mean(axis=(1, 2)) >= max(self.request.min_valid, 0.5 / (size.y * size.x))
            if depth is not None and variance is not None:
                variance[~valid | ~np.isfinite(variance)] = np.nan
                for i in np.flatnonzero(good).tolist():
                    good[i] = self._depth(i, variance[i]) >= depth
        return np.asarray(good)

    def _sources(self) -> Iterator[tuple[int, Box, Ints]]:
        """Yield rows of patches, the pixels for which each counts, and the targets, in the order of precedence.

        First the primary patch, then the others inside their inner regions, then the rest of these: as in a batch.
        """
        plan, anywhere = self.plan, Box(-(1 << 40), 1 << 40, -(1 << 40), 1 << 40)
        if plan.patches.files[primary := int(plan.primary[self.targets[0]]), self.band] >= 0:
            yield primary, anywhere, np.arange(len(self.targets))
        others = [plan.others_of(target) for target in self.targets.tolist()]
        names = sorted({patch for one in others for patch in one if plan.patches.files[patch, self.band] >= 0})
        members = {name: np.flatnonzero([name in one for one in others]) for name in names}
        yield from ((name, Box(*plan.patches.inner[name].tolist()), members[name]) for name in names)
        yield from ((name, anywhere, members[name]) for name in names)

    def _open(self, patch: int, stack: ExitStack) -> Coadd:
        if patch not in self.files:
            table, file = self.plan.files, int(self.plan.patches.files[patch, self.band])
            coadd = open_coadd(table.uri[file], size=table.size[file], dataset_id=table.dataset_id[file])
            self.files[patch] = stack.enter_context(coadd)
        return self.files[patch]

    def _start(self, i: int) -> YX[int]:
        return YX(*self.plan.yx0[self.targets[i]].tolist())

    def _box(self, i: int) -> Box:
        return Box.from_start(self._start(i), self.plan.size)

    def _fill(
        self,
        coadd: Coadd,
        there: Sequence[tuple[int, Box]],
        covered: NDArray[np.bool_],
        valid: NDArray[np.bool_],
        variance: NDArray[np.float32] | None,
    ) -> None:
        """Set the pixels of ``(n, Y, X)`` arrays that a file holds of boxes and that no file has set before."""
        boxes = [box for _, box in there]
        try:
            plane, bit = coadd.mask_location("NO_DATA")
        except PlaneError:  # no mask, or a mask without this plane
            masks: Iterator[NDArray[Any]] = (np.zeros(box.shape, np.int32) for box in boxes)
            bit = 0
        else:
            masks = _read(coadd, plane, boxes)
        squared = coadd.flux_scale**2 if variance is not None else 1.0
        values = _read(coadd, "variance", boxes) if variance is not None else (None for _ in boxes)
        for (i, box), mask, value in zip(there, masks, values, strict=True):
            inside = box.slices(self._start(i))
            new = ~covered[i][inside]
            valid[i][inside] |= new & ((mask >> bit) & 1 == 0)
            covered[i][inside] = True
            if variance is not None and value is not None:
                variance[i][inside][new] = value[new] * squared

    def _depth(self, i: int, variance: NDArray[np.float32]) -> float:
        """Return the depth of a target from the median of ``(Y, X)`` variances; NaN without a PSF there."""
        target = int(self.targets[i])
        y, x = np.rint(self.plan.yx0[target] + (np.asarray(self.plan.size) - 1) / 2 + self.plan.offset[target]).tolist()
        at = Box.from_start(YX(int(y), int(x)), YX(1, 1))
        coadd = next((one for one in self.files.values() if one.bbox.contains(at)), None)
        if coadd is None:
            return float("nan")
        try:
            cell = coadd.psf.cell_at(at.y0, at.x0)
        except (PlaneError, UnsupportedFormatError):
            scale = self.plan.projections[int(self.plan.tract[target])].pixel_scale
            area = 2.266 * _USUAL_FWHM**2 / (scale.y * scale.x)
        else:
            if cell < 0:
                return float("nan")
            if (coadd.uri, cell) not in self.areas:
                (kernel,) = coadd.read_psf([cell])
                self.areas[coadd.uri, cell] = float(kernel.sum() ** 2 / (kernel**2).sum())
            area = self.areas[coadd.uri, cell]
        return point_source_depth(float(np.nanmedian(variance)), area)


def _read(coadd: Coadd, plane: str, boxes: Sequence[Box]) -> Iterator[NDArray[Any]]:
    """Yield the pixels of a plane under boxes; it is read once where they overlap much."""
    if sum(box.area for box in boxes) > coadd.bbox.area:
        whole = coadd.read(plane)
        yield from (whole[box.slices(coadd.bbox.start)] for box in boxes)
    else:
        yield from (coadd.read(plane, box) for box in boxes)
