"""Plans of cutouts on your own pixel grid: which tract pixels lie under them, saving, leaks."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from lsstcutouts import Catalog, CutoutPlan, Grid, ReadOptions, build_plan
from lsstcutouts.errors import ConfigurationError, CoverageError
from lsstcutouts.plan.grid import MARGINS
from lsstcutouts.plan.grid_plan import boxes_under
from lsstcutouts.plan.planner import Planner
from lsstcutouts.plan.repository import Repository
from lsstcutouts.plan.splits.leaks import Boxes, shares_pixels
from lsstcutouts.sky.geometry import TanProjection
from lsstcutouts.testing import SimulatedRepository

from ..support.tract_pair import Pair, make_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"))


def turned(angle: float, scale: float = 0.2) -> Grid:
    """Return a grid near the middle of the shared repositories, turned by so many degrees."""
    c, s = np.cos(np.radians(angle)) * scale / 3600, np.sin(np.radians(angle)) * scale / 3600
    cards = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": 53.06,
        "CRVAL2": -27.53,
        "CRPIX1": 1.0,
        "CRPIX2": 1.0,
    }
    return Grid(wcs={**cards, "CD1_1": -c, "CD1_2": s, "CD2_1": s, "CD2_2": c})


def plan_of(repo: SimulatedRepository, grid: Grid | None, size=(40, 31), catalog=None, **read) -> CutoutPlan:
    catalog = str(repo.truth) if catalog is None else catalog
    options = {"collections": repo.collections, "bands": "gr", "size": size, "dataset_type": "deep_coadd"}
    return build_plan(str(repo.root), catalog, read=ReadOptions(grid=grid, **read), **options)


@pytest.mark.parametrize("grid", [Grid(north_up=True), Grid(pixel_scale=0.1), turned(30, 0.31), turned(45)], ids=str)
def test_the_boxes_hold_what_the_cutouts_are_made_of(dp2_repo: SimulatedRepository, grid: Grid) -> None:
    plan = plan_of(dp2_repo, grid)
    assert plan.size == (40, 31)
    boxes = boxes_under(plan)
    (projection,) = plan.projections.values()
    tract = WCS(fits.Header(projection.header()))
    slack = []
    for n in range(len(plan)):
        out = WCS(fits.Header(TanProjection.of(plan.grid.placed.wcs[n]).header()))
        x, y = tract.all_world2pix(*out.all_pix2world([0, 30, 30, 0], [0, 0, 39, 39], 0), 0)
        low, high = boxes.yx0[n], boxes.yx0[n] + boxes.size - 1
        slack.append([y.min() - low[0], x.min() - low[1], high[0] - y.max(), high[1] - x.max()])
    assert np.min(slack) >= MARGINS[grid.order]
    assert np.min(slack) <= MARGINS[grid.order] + 3  # and not much more
    assert plan.pixel_scale == pytest.approx(plan.grid.pixel_scale)
    assert len(plan.blocks()) == len(plan)
    assert plan.summary().bytes_to_read > 0


def test_a_plan_can_be_saved(pair: Pair, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    boxes = [pair.skymaps[t].outer_box(p) for t, p, _ in pair.files]
    skymaps = [pair.skymaps[t] for t, _, _ in pair.files]
    sky = [
        s.sky(rng.uniform(b.y0, b.y1), rng.uniform(b.x0, b.x1))
        for s, b in zip(skymaps, boxes, strict=True)
        for _ in range(6)
    ]
    catalog = Catalog.from_arrays(*np.array(sky).T)
    plan = plan_of(pair.repo, Grid(north_up=True), catalog=catalog)
    assert len(plan.grid.further.owner)
    plan.save(tmp_path / "plan.parquet")
    for again in (CutoutPlan.load(tmp_path / "plan.parquet"), pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan)):
        assert again.fingerprint() == plan.fingerprint()
        assert again.grid.settings == plan.grid.settings
        for mine, other in ((again.grid.placed, plan.grid.placed), (again.grid.further, plan.grid.further)):
            for name, values in vars(other).items():
                np.testing.assert_array_equal(getattr(mine, name), values, err_msg=name)
                assert getattr(mine, name).dtype == values.dtype
        both = boxes_under(again), boxes_under(plan)
        np.testing.assert_array_equal(both[0].tract, both[1].tract)
    assert set(boxes_under(plan).tract[len(plan) :]) == {1, 2}
    assert plan_of(pair.repo, None, catalog=catalog).fingerprint() != plan.fingerprint()
    other = plan_of(pair.repo, Grid(north_up=True, interpolation="bilinear"), catalog=catalog)
    assert other.fingerprint() != plan.fingerprint()
    strict = plan_of(pair.repo, Grid(north_up=True), catalog=catalog, tract="strict")
    assert not len(strict.grid.further.owner)


def test_sizes_are_those_of_the_grid(dp2_repo: SimulatedRepository) -> None:
    assert plan_of(dp2_repo, Grid(pixel_scale=0.1), size="6 arcsec").size == (60, 60)
    assert plan_of(dp2_repo, Grid(north_up=True), size=("6 arcsec", "4 arcsec")).size == (30, 20)
    assert plan_of(dp2_repo, turned(20, 0.3), size="6 arcsec").size == (20, 20)


def test_pixels_too_coarse_to_interpolate_are_refused(dp2_repo: SimulatedRepository) -> None:
    with pytest.raises(ConfigurationError, match=r"pixels of 0\.7 arcsec, more than 3 of 0\.2 arcsec"):
        plan_of(dp2_repo, Grid(pixel_scale=0.7))


def test_nothing_covered_is_an_error(dp2_repo: SimulatedRepository) -> None:
    with pytest.raises(CoverageError, match="none of the 1 targets"):
        plan_of(dp2_repo, Grid(north_up=True), catalog=Catalog.from_arrays([200.0], [10.0]))


def test_leaks_are_those_of_the_turned_cutouts(dp2_repo: SimulatedRepository) -> None:
    """Boxes side by side share nothing; turned by 45 degrees, their corners overlap."""
    plan = plan_of(dp2_repo, None)
    (projection,) = plan.projections.values()
    inner = plan.patches.inner_box(int(plan.primary[0]))
    y, x = (inner.y0 + inner.y1) / 2, (inner.x0 + inner.x1) / 2
    catalog = Catalog.from_arrays(*projection.pixel_to_sky([y, y], [x, x + 41]))
    share = {}
    for grid in (None, turned(0), turned(45), Grid(pixel_scale=0.1), Grid(pixel_scale=0.4)):
        pairs = plan_of(dp2_repo, grid, size=(40, 40), catalog=catalog)
        both = [Boxes.of(pairs, np.array([n])) for n in (0, 1)]
        share[grid] = bool(shares_pixels(*both)[0])
    # Upright, an interpolation reaches 3 px further on each side.
    assert list(share.values()) == [False, True, True, False, True]


def test_an_empty_part_of_a_catalog(dp2_repo: SimulatedRepository) -> None:
    with Repository(dp2_repo.root, dp2_repo.collections) as repository:
        plan = Planner(repository, "gr", 40).plan(
            Catalog.from_arrays([200.0], [10.0]), may_be_empty=True, grid=Grid(north_up=True)
        )
    assert len(plan) == 0
    assert len(plan.rejected) == 1
    assert len(boxes_under(plan)) == 0
