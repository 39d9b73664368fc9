"""Fills the cutouts of a batch on your own pixel grid, from boxes of tract pixels that another executor fills."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..fits.stages import StageClock
from ..plan.cutout_plan import CutoutPlan
from ..plan.quality import Quality
from ..sky.geometry import YX, sky_matrices
from ..source.web.byte_parts import URGENT, Part, Rank
from .cutouts import Cutouts, Empty
from .executor import Executor
from .interpolation import check_reproject, interpolated, kernel_on_grid, noise_factor, places_of, touching
from .options import ReaderOptions
from .policies import apply_policies
from .threads import Steps

__all__ = ["GridExecutor", "options_of_boxes"]

type Ints = NDArray[np.int64]
type Floats = NDArray[np.float64]

_MOST_AT_ONCE = 16
"""Cutouts that a thread makes at a time."""

_BOX_BYTES = 128_000_000
"""Bytes of the boxes that are held at a time, unless those of one target are more."""


def options_of_boxes(options: ReaderOptions) -> ReaderOptions:
    """Return what to read of the boxes under cutouts: the same planes, with NaN for pixels without a value and no further policy."""
    bits = options.mask_bits[:-1]
    planes = [name for name in options.sources if name != "mask" or bits]
    planes += ["valid"] if "mask" in options.sources else []
    planes += ["psf"] if "psf" in options.planes else []
    return replace(
        options,
        planes=planes,
        mask_planes=bits if "mask" in planes else (),
        fill=math.nan,
        missing_band="zero",
        min_bands=0,
        required_bands=(),
        quality=None,
        normalise_psf=False,
    )


class GridExecutor:
    """Fills cutouts of a plan with a grid; any number of threads may do the jobs.

    Parameters
    ----------
    plan
        With a grid.
    options
        What to read.
    boxes
        Fills boxes of the tract's pixels, of the plan that `boxes_under` returns and with `options_of_boxes`.
    clock
        Adds up where the time goes.

    Raises
    ------
    DependencyError
        If the package that interpolates is not installed.
    """

    def __init__(
        self, plan: CutoutPlan, options: ReaderOptions, boxes: Executor, clock: StageClock | None = None
    ) -> None:
        if plan.grid is None:
            raise PlanError("the plan has no grid")
        check_reproject()
        self._plan, self._options, self._boxes, self._clock, self._grid = plan, options, boxes, clock, plan.grid
        self._order = self._grid.settings.order
        self._start = np.searchsorted(self._grid.further.owner, np.arange(len(plan) + 1))
        self._sky = sky_matrices(self._grid.placed.wcs)  # (N, 3, 3)

    def request(self, targets: Ints, rank: Rank) -> Steps[list[Part]]:
        """Ask for the bytes that targets need, as `Executor.request`."""
        rows = np.concatenate([targets, *(self._further_of(target) for target in targets.tolist())])
        return self._boxes.request(rows, rank)

    def _further_of(self, target: int) -> Ints:
        """Return the rows of the further boxes of a target in the plan of the boxes."""
        return len(self._plan) + np.arange(self._start[target], self._start[target + 1])

    def allocate(self, targets: Ints, empty: Empty) -> Cutouts:
        """Return arrays for targets ``(n,)``, without any pixel."""
        cutouts = Cutouts.allocated(self._plan, self._options, targets, empty)
        for array in (*cutouts.sources.values(), cutouts.covered):
            if array is not None:
                array.fill(0)
        return cutouts

    def fill(self, cutouts: Cutouts, threads: int, rank: Rank = URGENT) -> Steps[None]:
        """Fill all cutouts; yields what up to so many threads may do side by side."""
        targets, reach, bands = cutouts.targets, self._grid.reach, len(self._plan.bands)
        covered = cutouts.covered
        if covered is None:
            covered = np.zeros((len(targets), bands, *self._plan.size), bool)
        each = reach.y * reach.x * bands * (4 * len(cutouts.sources) + 1)
        # Neighbours share tiles.
        near = np.lexsort((self._plan.yx0[targets, 1], self._plan.yx0[targets, 0], self._plan.primary[targets]))
        for places in np.array_split(near, max(1, -(-len(near) * each // _BOX_BYTES))):
            yield from self._fill_from(cutouts, covered, places, targets[places], threads, rank)
            lacking = places[~covered[places].all(axis=(1, 2, 3))]
            first, last = self._start[targets[lacking]], self._start[targets[lacking] + 1]
            for step in range(int((last - first).max(initial=0))):  # mostly one neighbour, four at a corner
                some = first + step < last
                rows = len(self._plan) + first[some] + step
                yield from self._fill_from(cutouts, covered, lacking[some], rows, threads, rank)
            yield [partial(self._finish, cutouts, covered, some) for some in _divided(places, threads)]

    def _fill_from(
        self,
        cutouts: Cutouts,
        covered: NDArray[np.bool_],
        places: Ints,
        rows: Ints,
        threads: int,
        rank: Rank,
    ) -> Steps[None]:
        """Fill the pixels of cutouts ``(n,)`` that are not covered yet, each from the box of a row ``(n,)``."""
        boxes = self._boxes.allocate(rows, np.empty)
        yield from self._boxes.fill(boxes, threads, rank)
        cutouts.failures += [(failure, int(places[row])) for failure, row in boxes.failures]
        yield [
            partial(self._resample, cutouts, covered, boxes, places[some], some)
            for some in _divided(np.arange(len(rows)), threads)
        ]

    def _resample(self, cutouts: Cutouts, covered: NDArray[np.bool_], boxes: Cutouts, places: Ints, rows: Ints) -> None:
        """Fill cutouts ``(n,)`` from the boxes of rows ``(n,)``."""
        with self._assembling():
            kept = int(Quality.READ_ERROR | Quality.NO_PSF)
            cutouts.quality[places] |= boxes.quality[rows] & kept
            for row, band in boxes.lost:
                if len(at := np.flatnonzero(rows == row)):
                    cutouts.present[places[at], band] = True  # some file holds pixels here, whatever can be read of it
            some = boxes.present[rows].any(axis=1)
            if not some.any() or boxes.covered is None:
                return
            places, rows = places[some], rows[some]
            matrices = np.linalg.inv(sky_matrices(boxes.wcs[rows])) @ self._sky[cutouts.targets[places]]
            under, order = places_of(matrices, self._plan.size), self._order
            new = ~touching(~boxes.covered[rows], under, order) & ~covered[places]  # (n, B, Y, X)
            cutouts.present[places] |= new.any(axis=(2, 3))
            area = self._areas(matrices)[:, None, None, None].astype(np.float32)
            for name, plane in boxes.sources.items():
                made: NDArray[Any]
                if name == "mask":
                    made = self._mask(plane[rows], under)
                elif name == "variance":
                    made = interpolated(plane[rows], under, min(order, 1))
                    made = made * (area**2 * noise_factor(under, order)[:, None]).astype(np.float32)
                else:
                    made = interpolated(plane[rows], under, order) * area
                    cutouts.suspect[places] |= (np.isnan(made) & new).any(axis=(1, 2, 3))
                cutouts.sources[name][places] = np.where(new, made, cutouts.sources[name][places])
            covered[places] |= new
            for k, (n, row) in enumerate(zip(places.tolist(), rows.tolist(), strict=True)):
                self._resample_psf(cutouts, n, boxes, row, matrices[k])

    def _areas(self, matrices: Floats) -> Floats:
        """Return the pixels that are read in the area of a pixel in the middle of each grid, ``(n,)``."""
        y, x = (np.asarray(self._plan.size) - 1) / 2
        return np.array([abs(np.linalg.det(_slopes(one, y, x))) for one in matrices])

    def _mask(self, pixels: NDArray[np.int32], under: YX[Floats]) -> NDArray[np.int32]:
        """Return mask planes ``(n, K, y, x)`` on the grids: the nearest pixel's; NO_DATA, the last bit, where one contributes."""
        y, x = (np.floor(at + 0.5).astype(np.int64) for at in under)
        made = pixels[np.arange(len(pixels))[:, None, None], :, y, x].transpose(0, 3, 1, 2)
        bit = np.int32(1 << (len(self._options.mask_bits) - 1))
        made[touching(pixels & bit != 0, under, self._order)] |= bit
        return made

    def _resample_psf(self, cutouts: Cutouts, n: int, boxes: Cutouts, row: int, matrix: Floats) -> None:
        """Give the bands of a cutout that have no PSF kernel yet those of a box."""
        if cutouts.psf is None or cutouts.psf_present is None or boxes.psf is None or boxes.psf_present is None:
            return
        shape = YX(*cutouts.psf.shape[2:])
        at = (np.asarray(self._plan.size) - 1) / 2 + self._grid.placed.offset[cutouts.targets[n]]
        slopes = _slopes(matrix, *at)
        for band in np.flatnonzero(boxes.psf_present[row] & ~cutouts.psf_present[n]).tolist():
            kernel = kernel_on_grid(boxes.psf[row, band].astype(np.float64), slopes, shape, self._order)
            cutouts.psf[n, band] = kernel / kernel.sum() if self._options.normalise_psf else kernel
            cutouts.psf_present[n, band] = True
            cutouts.quality[n, band] &= ~int(Quality.NO_PSF)

    def _finish(self, cutouts: Cutouts, covered: NDArray[np.bool_], places: Ints) -> None:
        """Say what is known of cutouts, and apply the policies to them."""
        with self._assembling():
            cutouts.wcs[places] = self._grid.placed.wcs[cutouts.targets[places]]
            present = cutouts.present[places]
            bits = np.where(present, int(Quality.PARTLY_COVERED), int(Quality.BAND_ABSENT)).astype(np.int32)
            cutouts.quality[places] |= np.where(covered[places].all(axis=(2, 3)), 0, bits).astype(np.int32)
            if cutouts.psf_present is not None:
                lacks = present & ~cutouts.psf_present[places]
                cutouts.quality[places] |= np.where(lacks, int(Quality.NO_PSF), 0).astype(np.int32)
            for n in places.tolist():
                apply_policies(cutouts, n, self._plan, self._options)

    def _assembling(self) -> AbstractContextManager[None]:
        return nullcontext() if self._clock is None else self._clock.rest("assemble")


def _divided(rows: Ints, threads: int) -> list[Ints]:
    """Divide rows among threads, few at a time so that none waits long for the others."""
    step = max(1, min(_MOST_AT_ONCE, -(-len(rows) // (2 * threads))))
    return [rows[at : at + step] for at in range(0, len(rows), step)]


def _slopes(matrix: Floats, y: Any, x: Any) -> Floats:
    """Return the change, ``(2, 2)`` ``(y, x)``, of the pixels that a matrix leads to with those that it begins at."""
    at = matrix @ np.array([x, y, 1.0])
    slopes = (matrix[:2, :2] - np.outer(at[:2], matrix[2, :2]) / at[2]) / at[2]
    return np.asarray(slopes[::-1, ::-1])
