"""Plans cutouts on your own pixel grid: which boxes of tract pixels, of which tracts, lie under each of them."""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..catalog.targets import Catalog
from ..errors import ConfigurationError
from ..sky.geometry import YX, sky_matrices
from .arguments import AngularSize
from .grid import MARGINS, Grid
from .grid_plan import FurtherBoxes, GridPlan
from .parts import PlanPart

if TYPE_CHECKING:
    from .planner import Planner

__all__ = ["GriddedTargets"]

type Ints = NDArray[np.int64]

_COARSEST = 3.0
"""Pixels of a tract along a pixel of a grid. An interpolation looks at the middle of a pixel: with coarser ones it would miss light."""


class GriddedTargets:
    """Boxes of tract pixels under the cutouts of the rows of a catalog, and the grids of these cutouts.

    Parameters
    ----------
    planner
        Asks the repository.
    catalog
        The rows.
    grid
        What is asked for.

    Attributes
    ----------
    size
        Rows and columns of a cutout, pixels of the grid.
    parts
        Boxes in the tract of each target.
    further
        Boxes in other tracts.

    Raises
    ------
    ConfigurationError
        If the grid does not fit the pixels of the tracts, or a target.
    """

    def __init__(self, planner: "Planner", catalog: Catalog, grid: Grid) -> None:
        self._planner, self._grid, self._sample = planner, grid, planner.sample()
        own = self._sample.pixel_scale
        self._scale = scale = grid.scale(own)
        coarseness = YX(scale.y / own.y, scale.x / own.x)
        if max(coarseness) > _COARSEST:
            raise ConfigurationError(
                f"the grid has pixels of {max(scale):.4g} arcsec, more than {_COARSEST:g} of {max(own):.4g} arcsec, which an interpolation "
                "cannot average; choose a smaller pixel_scale, and average the pixels of the cutouts"
            )
        self.size = size = planner.size.pixels(scale) if isinstance(planner.size, AngularSize) else planner.size
        self._margin = MARGINS[grid.order]
        # However it is turned; then as it is turned.
        side = math.ceil(math.hypot(size.y * coarseness.y, size.x * coarseness.x)) + 2 * self._margin + 3
        self._psf_shape = self._sample.psf_shape
        self.psf_shape = None if self._psf_shape is None else YX(*map(_odd, self._psf_shape, coarseness))
        self._reach = YX(side, side)
        for _ in range(2):
            self.parts = planner.parts(catalog, self._reach)
            row = np.concatenate([part.row for part in self.parts])
            self._ra, self._dec = catalog.ra[row], catalog.dec[row]
            self._tract = np.concatenate([part.keys[part.primary] >> 32 for part in self.parts])
            known = {number: planner.projection(number) for number in np.unique(self._tract).tolist()}
            self._placed = grid.place(self._ra, self._dec, size, self._tract, known, own)
            owner, tract = self._owner_and_tract()
            self._reach = self._needed(np.append(np.arange(len(row)), owner), np.append(self._tract, tract))
        under = planner.under(Catalog(owner, self._ra[owner], self._dec[owner]), tract, self._reach)
        kept = under.covered
        self._owner, self._yx0, self._offset = owner[kept], under.boxes.yx0[kept], under.boxes.offset[kept]
        count = np.diff(under.others_start)
        self._others_count = count[kept]
        self.further = PlanPart(
            row=self._owner,
            primary=under.primary[kept].astype(np.int32),
            other_tract=np.ones(len(self._owner), bool),
            yx0=self._yx0.astype(np.int32),
            offset=self._offset,
            others_count=self._others_count.astype(np.int32),
            others=under.others[np.repeat(kept, count)].astype(np.int32),
            keys=under.keys,
            tracts=np.unique(tract[kept]).tolist(),
            rejected=self.parts[0].rejected,
        )

    def _owner_and_tract(self) -> tuple[Ints, Ints]:
        """Return the further tracts, ``(M,)``, that may lie under cutouts, and the target of each, by target and tract number."""
        planner = self._planner
        if planner.tract == "strict" or not len(self._ra):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        whole = self._reach.y * self._reach.x * len(planner.bands)
        covered = planner.covered_pixels(self._ra, self._dec, self._tract, self._reach)
        partial = np.flatnonzero(covered < whole)
        row, tract = planner.near(self._ra[partial], self._dec[partial], self._reach)
        owner = partial[row]
        other = tract != self._tract[owner]
        order = np.lexsort((tract[other], owner[other]))
        return owner[other][order], tract[other][order]

    def _needed(self, owner: Ints, tract: Ints) -> YX[int]:
        """Return the rows and columns of boxes around targets that hold what is needed for any of the cutouts, of any tract."""
        corners = np.array([(x, y, 1) for y in (0, self.size.y - 1) for x in (0, self.size.x - 1)], np.float64)
        reach = np.zeros(2)
        for number in np.unique(tract).tolist():
            one = self._planner.projection(number)
            rows = owner[tract == number]
            to_tract = np.linalg.inv(sky_matrices(one.numbers)) @ sky_matrices(self._placed.wcs[rows])  # (n, 3, 3)
            x, y, scale = np.moveaxis(to_tract @ corners.T, 1, 0)  # (n, 4) each
            centre = one.sky_to_pixel(self._ra[rows], self._dec[rows])
            for axis, (at, middle) in enumerate(((y, centre.y), (x, centre.x))):
                reach[axis] = max(reach[axis], np.abs(at / scale - middle[:, None]).max())
        return YX(*(2 * (math.ceil(half) + self._margin) + 3 for half in reach.tolist()))

    def plan(self, primary: NDArray[np.int32], others: Ints) -> GridPlan:
        """Return what the plan knows of the grid, with the rows of the further boxes in its table of patches."""
        start = np.concatenate([[0], np.cumsum(self._others_count, dtype=np.int64)])
        further = FurtherBoxes(self._owner, primary, self._yx0.astype(np.int32), self._offset, start, others)
        return GridPlan(self._grid, self._scale, self._reach, self._psf_shape, self._placed, further)


def _odd(side: int, coarseness: float) -> int:
    """Return the side of a kernel in pixels of a grid, odd so that it has a middle."""
    pixels = math.ceil(round(side / coarseness, 6))
    return pixels + 1 - pixels % 2
