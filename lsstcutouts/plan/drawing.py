"""Draws the positions of a footprint for a planner."""

from copy import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..catalog.footprint import Footprint
from ..catalog.targets import Catalog
from ..errors import CoverageError
from ..sky.geometry import YX
from .arguments import AngularSize
from .grid import Grid
from .pixel_limits import meets_limits
from .positions import CoveredSky, catalog_of_positions, needed_bands
from .repository import Repository

if TYPE_CHECKING:
    from .planner import Planner

__all__ = ["drawn_catalog"]


def drawn_catalog(planner: "Planner", catalog: Catalog, grid: Grid | None = None) -> Catalog:
    """Return the catalog of the positions that a footprint asks for; another catalog as it is.

    With a ``grid`` of their own, cutouts are as large on the sky as boxes of tract pixels that are measured instead.

    Raises
    ------
    CoverageError
        If no patch has coadds in the wanted bands, or too few positions meet the limits on pixels.
    ConfigurationError
        If the footprint names other bands than the planner.
    """
    request = catalog.footprint
    if request is None:
        return catalog
    bands, least = needed_bands(request, planner.bands)
    measured = copy(planner)  # with the answers of the repository
    if grid is not None and not isinstance(planner.size, AngularSize):
        own = planner.sample().pixel_scale
        sides = zip(planner.size, grid.scale(own), own, strict=True)
        measured.size = YX(*(max(1, round(side * pixel / mine)) for side, pixel, mine in sides))

    def keep(positions: Catalog) -> NDArray[np.bool_]:
        plan, met = measured.plan(positions), np.zeros(len(positions), bool)
        met[plan.row] = meets_limits(plan, request, bands, least)
        return met

    sky = _covered_sky(planner.repository, request, {planner.bands[band] for band in bands}, least)
    limited = request.min_valid > 0 or request.min_depth is not None
    return catalog_of_positions(request, sky, tuple(catalog.columns), measured.size, keep if limited else None)


def _covered_sky(repository: Repository, request: Footprint, bands: set[str], least: int) -> CoveredSky:
    """Return the patches that have coadds in at least so many of the bands."""
    held = np.array([(tract, patch) for tract, patch, _ in repository.coverage(sorted(bands))], np.int64)
    pairs, count = np.unique(held.reshape(-1, 2), axis=0, return_counts=True)
    tract, patch = pairs[count >= least].T
    if not len(tract):
        raise CoverageError(
            f"{request}: no patch has {repository.where} in {least if least > 1 else 'any'} of the bands"
            f" {', '.join(sorted(bands))}; there are coadds in {', '.join(repository.bands()) or 'no band'}"
        )
    # Of a skymap that is not known, the tracts beside those with coadds decide, too, to which a position belongs.
    skymap = repository.skymap_of(None if repository.rings is None else np.unique(tract).tolist())
    return CoveredSky(skymap, tract, patch)
