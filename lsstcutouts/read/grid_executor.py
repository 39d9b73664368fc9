"""Fills the cutouts of a batch on your own pixel grid, from boxes of tract pixels that another executor fills."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..fits.stages import StageClock
from ..plan.cutout_plan import CutoutPlan
from ..plan.grid import INTERPOLATIONS
from ..plan.quality import Quality
from ..sky.geometry import YX, sky_matrices
from ..source.web.byte_parts import URGENT, Part, Rank
from .cutouts import Cutouts, Empty
from .executor import Executor
from .interpolation import check_reproject, interpolated, kernel_on_grid, noise_factor, pixels_under, touching
from .options import ReaderOptions
from .policies import apply_policies
from .threads import Steps

__all__ = ["GridExecutor", "options_of_boxes"]

type Ints = NDArray[np.int64]
type Floats = NDArray[np.float64]

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
        self._order = INTERPOLATIONS[self._grid.settings.interpolation]
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
            rows = [np.array([target]) for target in targets[places].tolist()]
            yield from self._fill_from(cutouts, covered, places, rows, threads, rank)
            lacking = places[~covered[places].all(axis=(1, 2, 3))]
            more = [self._further_of(target) for target in targets[lacking].tolist()]
            yield from self._fill_from(cutouts, covered, lacking, more, threads, rank)
            step = self._step(len(places), threads)
            yield [
                partial(self._finish, cutouts, covered, places[at : at + step]) for at in range(0, len(places), step)
            ]

    def _fill_from(
        self,
        cutouts: Cutouts,
        covered: NDArray[np.bool_],
        places: Ints,
        rows: Sequence[Ints],
        threads: int,
        rank: Rank,
    ) -> Steps[None]:
        """Fill pixels of cutouts from boxes, the first that covers a pixel; ``rows`` are those of each place, in this order."""
        every = np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64)
        if not len(every):
            return
        boxes = self._boxes.allocate(every, np.empty)
        yield from self._boxes.fill(boxes, threads, rank)
        start = np.cumsum([0, *map(len, rows)])
        owner = np.repeat(places, np.diff(start))
        cutouts.failures += [(failure, int(owner[row])) for failure, row in boxes.failures]
        jobs = [(int(n), range(*start[i : i + 2].tolist())) for i, n in enumerate(places) if len(rows[i])]
        step = self._step(len(jobs), threads)
        yield [
            partial(self._resample, cutouts, covered, boxes, jobs[at : at + step]) for at in range(0, len(jobs), step)
        ]

    @staticmethod
    def _step(count: int, threads: int) -> int:
        """Return how many cutouts a thread makes at a time."""
        return max(1, -(-count // (4 * threads)))

    def _resample(
        self, cutouts: Cutouts, covered: NDArray[np.bool_], boxes: Cutouts, jobs: Sequence[tuple[int, range]]
    ) -> None:
        with self._assembling():
            for n, rows in jobs:
                for row in rows:
                    self._resample_one(cutouts, covered[n], boxes, n, row)

    def _resample_one(self, cutouts: Cutouts, covered: NDArray[np.bool_], boxes: Cutouts, n: int, row: int) -> None:
        """Fill pixels of a cutout that are not covered yet, ``covered`` ``(B, Y, X)``, from one box."""
        target, size, order = int(cutouts.targets[n]), self._plan.size, self._order
        kept = int(Quality.READ_ERROR | Quality.NO_PSF)
        cutouts.quality[n] |= boxes.quality[row] & kept
        bands = np.flatnonzero(boxes.present[row])
        if not len(bands) or boxes.covered is None:
            return
        matrix = np.linalg.inv(sky_matrices(boxes.wcs[row])) @ self._sky[target]
        lost = [band for band in bands.tolist() if (row, band) in boxes.lost]
        cutouts.present[n, lost] = True  # some file holds pixels here, whatever can be read of it
        new = ~touching(~boxes.covered[row, bands], matrix, size, order) & ~covered[bands]
        if new.any():
            cutouts.present[n, bands] |= new.any(axis=(1, 2))
            area = _area(matrix, size)
            places = pixels_under(matrix, size)
            for name, plane in boxes.sources.items():
                to, pixels = cutouts.sources[name][n], plane[row, bands]
                made: NDArray[Any]
                if name == "mask":
                    made = self._mask(pixels, places, matrix)
                elif name == "variance":
                    made = interpolated(pixels, matrix, size, min(order, 1))
                    made *= (noise_factor(places, order) * area**2).astype(np.float32)
                else:
                    made = interpolated(pixels, matrix, size, order) * np.float32(area)
                    cutouts.suspect[n] |= bool(np.isnan(made[new]).any())
                for k, band in enumerate(bands.tolist()):
                    to[band][new[k]] = made[k][new[k]]
            covered[bands] |= new
        if boxes.psf is not None and boxes.psf_present is not None:
            self._resample_psf(cutouts, n, boxes.psf[row], boxes.psf_present[row], self._jacobian(matrix, target))

    def _mask(self, pixels: NDArray[np.int32], places: YX[Floats], matrix: Floats) -> NDArray[np.int32]:
        """Return mask planes ``(K, y, x)`` on the grid: those of the nearest pixel; NO_DATA, the last bit, where one contributes."""
        y, x = (
            np.clip(np.floor(at + 0.5).astype(np.int64), 0, most - 1)
            for at, most in zip(places, pixels.shape[1:], strict=True)
        )
        made = pixels[:, y, x]
        bit = np.int32(1 << (len(self._options.mask_bits) - 1))
        if (without := pixels & bit != 0).any():
            made[touching(without, matrix, self._plan.size, self._order)] |= bit
        return made

    def _jacobian(self, matrix: Floats, target: int) -> Floats:
        """Return the change of the pixels of a box with those of the grid at the target, ``(2, 2)``, both ``(y, x)``."""
        y, x = (np.asarray(self._plan.size) - 1) / 2 + self._grid.placed.offset[target]
        return _slopes(matrix, y, x)

    def _resample_psf(
        self,
        cutouts: Cutouts,
        n: int,
        kernels: NDArray[np.float32],
        present: NDArray[np.bool_],
        jacobian: Floats,
    ) -> None:
        if cutouts.psf is None or cutouts.psf_present is None:
            return
        shape = YX(*cutouts.psf.shape[2:])
        for band in np.flatnonzero(present & ~cutouts.psf_present[n]).tolist():
            kernel = kernel_on_grid(kernels[band].astype(np.float64), jacobian, shape, self._order)
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
                cutouts.quality[places] |= np.where(cutouts.psf_present[places], 0, int(Quality.NO_PSF)).astype(
                    np.int32
                )
            for n in places.tolist():
                apply_policies(cutouts, n, self._plan, self._options)

    def _assembling(self) -> AbstractContextManager[None]:
        return nullcontext() if self._clock is None else self._clock.rest("assemble")


def _area(matrix: Floats, size: YX[int]) -> float:
    """Return the pixels that are read in the area of a pixel in the middle of a grid."""
    return float(abs(np.linalg.det(_slopes(matrix, (size.y - 1) / 2, (size.x - 1) / 2))))


def _slopes(matrix: Floats, y: Any, x: Any) -> Floats:
    """Return the change, ``(2, 2)`` ``(y, x)``, of the pixels that a matrix leads to with those that it begins at."""
    at = matrix @ np.array([x, y, 1.0])
    slopes = (matrix[:2, :2] - np.outer(at[:2], matrix[2, :2]) / at[2]) / at[2]
    return np.asarray(slopes[::-1, ::-1])
