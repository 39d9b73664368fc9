"""Boxes over any number of patches equal the crop of a whole-tract mosaic, missing neighbours and all."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.plan.planner import Planner
from lsstcutouts.plan.repository import Repository
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..support.examples import examples
from ..support.oracle import files_of
from ..support.repositories import simulated_once
from ..support.tract_oracle import TractMosaic

TINY = {
    "cells": (2, 3),
    "cell": (20, 24),
    "grid": (4, 5),
    # Touching each other and the tract's edges, with holes between them and one far away.
    "patches": (0, 1, 2, 5, 7, 10, 11, 12, 19),
    "bands": "gr",
    "targets": 8,
    "missing": ((1, "g"), (7, "r"), (11, "g")),
    "seed": 3,
}
INNER, GRID = (40, 72), (4, 5)


@dataclass(frozen=True)
class Tiny:
    """Patches of 40 x 72 px, whose files reach 20 to 32 px beyond: up to nine files hold a pixel."""

    repo: SimulatedRepository
    repository: Repository
    cache: TileCache

    def __hash__(self) -> int:
        return id(self)

    def positions(self, yx: np.ndarray) -> Catalog:
        """Return targets at tract pixels."""
        projection = self.repository.skymap_of([self.repo.tract]).tracts[self.repo.tract].projection
        return Catalog.from_arrays(*projection.pixel_to_sky(yx[:, 0], yx[:, 1]))

    @cache  # noqa: B019 - one instance a module
    def mosaic(self, primary: int, band: str) -> TractMosaic:
        files = {patch: one for (_, patch, b), one in files_of(self.repo).items() if b == band}
        return TractMosaic(files, primary, GRID, INNER)


@pytest.fixture(scope="module", params=["dp2", "dp1"])
def tiny(request: pytest.FixtureRequest) -> Iterator[Tiny]:
    repo = simulated_once(SimulationConfig(release=request.param, **TINY))
    with Repository(repo.root, repo.collections) as repository:
        yield Tiny(repo, repository, TileCache("50 MB"))


@examples(15)
@given(
    size=st.tuples(st.integers(1, 180), st.integers(1, 390)),
    places=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6),
)
@example(size=(160, 360), places=[(0.5, 0.5)])  # the whole tract in one box
@example(size=(41, 73), places=[(0.25, 0.2), (0.0, 0.0), (1.0, 1.0)])  # more than a patch, at corners
def test_a_box_is_a_crop_of_the_mosaic(tiny: Tiny, size, places) -> None:
    yx = np.array(places) * (160 - 2e-3, 360 - 2e-3) + 1e-3 - 0.5  # inside the tract, up to its corners
    # A target far from any file is rejected; one that surely is not keeps the plan from being empty.
    yx = np.vstack([yx, [20.0, 30.0]])
    plan = Planner(tiny.repository, "gr", size).plan(tiny.positions(yx))
    reader = CutoutReader(plan, ReaderOptions(planes=("image", "variance", "valid")), cache=tiny.cache)
    batch = reader.read(np.arange(len(plan)))
    reader.close()
    for i in range(len(plan)):
        for b, band in enumerate("gr"):
            want = tiny.mosaic(int(plan.patch[i]), band).crop(plan.yx0[i].tolist(), size)
            finite = np.isfinite(want["image"])
            np.testing.assert_array_equal(batch["image"][i, b], np.where(finite, want["image"], 0))
            np.testing.assert_array_equal(batch["variance"][i, b], want["variance"])
            np.testing.assert_array_equal(batch["valid"][i, b], want["covered"] & finite & ~want["no_data"])
            assert batch["band_present"][i, b] == want["covered"].any()
    for row in plan.rejected.row.tolist():
        start = np.floor(yx[row] - (np.array(size) - 1) / 2 + 0.5).astype(int).tolist()
        assert not any(tiny.mosaic(0, band).crop(start, size)["covered"].any() for band in "gr")


def test_every_patch_under_a_large_box_is_listed(tiny: Tiny) -> None:
    plan = Planner(tiny.repository, "gr", (160, 360)).plan(tiny.positions(np.array([[79.4, 179.4], [20.0, 30.0]])))
    listed = {int(plan.patch[0]), *plan.patches.patch[plan.others_of(0)].tolist()}
    assert listed == set(range(20))
    assert plan.patches.patch[plan.others_of(0)].tolist() == sorted(listed - {int(plan.patch[0])})
