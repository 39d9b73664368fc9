"""How deep units are looked into: enough for every target, no more than need be, and decoded once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts import LsstDataFetcher, build_plan
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.depth import Depths
from lsstcutouts.read.open_files import OpenFiles
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.sky.geometry import YX, Box
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..support.examples import examples
from ..support.repositories import simulated_once


@pytest.fixture(scope="module")
def repo() -> SimulatedRepository:
    """A repository whose Rice tiles are cache units of their own."""
    config = SimulationConfig(cells=2, cell=(120, 130), grid=4, patches=2, bands="gr", targets=200, missing=None)
    return simulated_once(config)


def plan_of(repo: SimulatedRepository, size: tuple[int, int], count: int = 200, seed: int = 0) -> CutoutPlan:
    whole = Catalog.from_any(repo.truth)
    rows = np.random.default_rng(seed).permutation(len(whole))[:count]
    catalog = Catalog.from_arrays(whole.ra[rows], whole.dec[rows])
    return build_plan(repo.root, catalog, collections="dp2", bands="gr", size=size)


@examples(25)
@given(size=st.tuples(st.integers(1, 150), st.integers(1, 150)), count=st.integers(1, 60), unit=st.integers(5, 200))
def test_rows_cover_every_box_and_little_else(repo: SimulatedRepository, size, count: int, unit: int) -> None:
    plan = plan_of(repo, size, count)
    depths, shape = Depths(plan), YX(unit, unit + 3)
    for patch in range(len(plan.patches)):
        with open_coadd(plan.files.uri[plan.patches.files[patch, 0]]) as coadd:
            bbox = coadd.bbox
        grid = YX(-(-bbox.shape.y // shape.y), -(-bbox.shape.x // shape.x))
        needed = np.zeros(grid, int)
        for target in range(len(plan)):
            if patch != plan.primary[target] and patch not in plan.others_of(target):
                continue
            box = Box.from_start(YX(*plan.yx0[target].tolist()), plan.size).intersection(bbox)
            for row, column in np.ndindex(*grid):
                cell = Box.from_start(YX(row * shape.y, column * shape.x), shape).shifted(bbox.start)
                part = box.intersection(cell)
                if not part.is_empty:
                    needed[row, column] = max(needed[row, column], part.y1 - cell.y0)
        step = -(-shape.y // 8)
        got = depths.rows(patch, bbox, shape).reshape(grid)
        np.testing.assert_array_equal(got, np.minimum(-(-needed // step) * step, shape.y))


def test_no_unit_is_decoded_twice_in_any_order(repo: SimulatedRepository) -> None:
    plan = plan_of(repo, (30, 40))
    reader = CutoutReader(plan, cache=TileCache("100 MB"))
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(plan))
        images = np.concatenate([reader.read(part)["image"] for part in np.array_split(order, 20)])
        if seed == 0:
            once = reader.cache.stats().misses
            first = images[np.argsort(order)]
        np.testing.assert_array_equal(images[np.argsort(order)], first)
    assert reader.cache.stats().misses == once


def test_fewer_rows_are_decoded_than_of_whole_tiles(repo: SimulatedRepository) -> None:
    plan = plan_of(repo, (30, 30), count=4)
    rows = []
    for whole_tiles in (False, True):
        reader = CutoutReader(plan, cache=TileCache("100 MB"), whole_tiles=whole_tiles)
        reader.read(np.arange(len(plan)))
        (slots,) = reader.cache._state().pools.values()
        rows.append(int(slots.rows[slots.ready].sum()))
    assert 0 < rows[0] < 0.9 * rows[1]


def test_plans_that_share_a_cache_do_not_disturb_each_other(repo: SimulatedRepository) -> None:
    cache = TileCache("100 MB")
    files = OpenFiles(cache)
    plans = [plan_of(repo, size, 30, seed) for seed, size in enumerate([(10, 10), (100, 100), (64, 30), (10, 10)])]
    for plan in plans:
        shared = CutoutReader(plan, cache=cache, files=files).read(np.arange(len(plan)))["image"]
        alone = CutoutReader(plan, cache=TileCache("100 MB")).read(np.arange(len(plan)))["image"]
        np.testing.assert_array_equal(shared, alone)


def test_a_fetcher_decodes_for_the_plans_to_come(repo: SimulatedRepository) -> None:
    """Positions of the same patches asked for one by one, twice: nothing is decoded a second time."""
    plan = plan_of(repo, (30, 30))
    with LsstDataFetcher(repo.root, collections="dp2", bands="gr", size=30) as fetcher:
        for ra, dec in [*zip(plan.ra.tolist(), plan.dec.tolist(), strict=True)] * 2:
            fetcher.fetch(ra, dec)
        stats = fetcher.cache_info()
    assert stats.misses == stats.entries
    assert stats.hit_rate > 0.9
