"""Two tracts near the south pole that overlap: their pixel grids are turned against each other."""

from dataclasses import dataclass
from pathlib import Path

from lsst.daf.butler import Butler

from lsstcutouts.testing import SimulatedRepository, SimulationConfig
from lsstcutouts.testing.simulated_skymap import SimulatedSkyMap, skymap_of

from .oracle import WholeFile, files_of
from .repositories import simulated_copy, simulated_once

__all__ = ["FIRST", "GRID", "INNER", "SECOND", "Pair", "make_pair"]

GRID, INNER = (60, 38), (300, 480)
POLAR = {
    "release": "dp1",
    "cells": (3, 4),
    "cell": (100, 120),
    "grid": GRID,
    "bands": "gr",
    "targets": 4,
    "holes": False,
}
"""Two tracts 36 degrees of RA apart, 1.5 degrees from the south pole: their pixel grids are turned against each other."""

FIRST, SECOND = 1, 2


@dataclass(frozen=True, eq=False)
class Pair:
    """A repository of two tracts that overlap, and where their files are."""

    repo: SimulatedRepository
    skymaps: dict[int, SimulatedSkyMap]
    files: dict[tuple[int, int, str], WholeFile]
    middle: tuple[float, float]


def patches_at(skymap: SimulatedSkyMap, ra: float, dec: float, steps) -> list[int]:
    x, y = skymap.wcs.all_world2pix(ra, dec, 0)
    row, column = skymap.index(int(skymap.primary_patch(y, x)))
    return sorted({(row + dy) * GRID[1] + min(max(column + dx, 0), GRID[1] - 1) for dy, dx in steps})


def make_pair(folder: Path) -> Pair:
    """Write the repository of both tracts into a folder."""
    skymaps = {t: skymap_of(SimulationConfig(tract=t, patches=1, **POLAR)) for t in (FIRST, SECOND)}
    ra, dec = 18.0, skymaps[FIRST].centre[1]  # half way between the centres
    # To the edge of the first tract, and with a hole; the second reaches less far, and misses a band.
    first = patches_at(skymaps[FIRST], ra, dec, [(0, -1), (0, 0), (1, 1), (-1, -2)])
    second = patches_at(skymaps[SECOND], ra, dec, [(0, 0), (0, 1)])
    repo = simulated_copy(folder / "one", SimulationConfig(tract=FIRST, patches=first, missing=(), **POLAR))
    missing = ((second[0], "g"),)
    other = simulated_once(SimulationConfig(tract=SECOND, patches=second, missing=missing, **POLAR))
    with (
        Butler.from_config(str(other.root), collections=other.collections) as source,
        Butler.from_config(str(repo.root), writeable=True) as target,
    ):
        target.transfer_from(source, source.query_datasets("deep_coadd"), transfer="copy", transfer_dimensions=True)
    return Pair(repo, skymaps, files_of(repo), (ra, dec))
