"""Drawn positions: uniform on the sphere and on the covered sky, by astropy's projections and areas counted on a fine grid."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.wcs import WCS
from lsst.daf.butler import Butler

from lsstcutouts import Catalog, CutoutPlan, Footprint, Grid, LsstDataFetcher, ReadOptions, build_plan
from lsstcutouts.catalog.healpix import ORDER, healpix_of
from lsstcutouts.errors import ConfigurationError, CoverageError, MemoryBudgetError
from lsstcutouts.plan.planner import Planner
from lsstcutouts.plan.positions import CoveredSky
from lsstcutouts.plan.repository import Repository
from lsstcutouts.sky.geometry import YX, TanProjection
from lsstcutouts.sky.skymap import RingsGeometry, SkyMap, Tract, unit_vectors
from lsstcutouts.testing import SimulatedRepository, SimulationConfig
from lsstcutouts.testing.simulated_skymap import skymap_of

from ..support.repositories import SMALL, simulated_copy, simulated_once

INNER = YX(500, 400)
GRID = YX(4, 5)
DEGREES = 40.0
"""Side of the wide tracts, 20 times that of Rubin's: a projection enlarges areas at their corners by two thirds."""


def wide_tract(number: int, ra: float, dec: float) -> Tract:
    shape = YX(GRID.y * INNER.y, GRID.x * INNER.x)
    step = DEGREES / shape.x
    crpix = (shape.x / 2 - 0.7, shape.y / 2 - 0.7)
    return Tract(number, TanProjection((ra, dec), crpix, (-step, 0.0, 0.0, step)), GRID, INNER)


def wide_sky(centres: list[tuple[float, float]], left_out: set[tuple[int, int]]) -> CoveredSky:
    """Return tracts around centres, all patches covered but some."""
    tracts = {n: wide_tract(n, *centre) for n, centre in enumerate(centres)}
    pairs = [(t, p) for t in tracts for p in range(GRID.y * GRID.x) if (t, p) not in left_out]
    tract, patch = np.array(pairs).T
    return CoveredSky(SkyMap("wide", tracts), tract, patch)


def place(sky: CoveredSky, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return the row of the patch to which each position belongs, by astropy and the rule in words; -1 for none."""
    middle = np.stack([unit_vectors(*t.projection.crval) for t in sky.skymap.tracts.values()])
    closeness = unit_vectors(ra, dec) @ middle.T
    row = {(t, p): n for n, (t, p) in enumerate(zip(sky.tract.tolist(), sky.patch.tolist(), strict=True))}
    found = np.full(len(ra), -1)
    # The nearest centre of the tracts that hold a position decides: the nearest ones are written last.
    best = np.full(len(ra), -2.0)
    for number, tract in sky.skymap.tracts.items():
        wcs = WCS(fits.Header(tract.projection.header()))
        near = np.flatnonzero(closeness[:, number] > 0.5)
        x, y = wcs.all_world2pix(ra[near], dec[near], 0)
        py, px = np.floor((y + 0.5) / INNER.y).astype(int), np.floor((x + 0.5) / INNER.x).astype(int)
        inside = (py >= 0) & (py < GRID.y) & (px >= 0) & (px < GRID.x) & (closeness[near, number] > best[near])
        held = np.array([row.get((number, p), -1) for p in range(GRID.y * GRID.x)])
        found[near[inside]] = held[(py * GRID.x + px)[inside]]
        best[near[inside]] = closeness[near[inside], number]
    return found


def p_value(counts: np.ndarray, areas: np.ndarray) -> float:
    """Return how probable counts as uneven as these are, by chance, for areas that are covered."""
    wanted = areas / areas.sum() * counts.sum()
    large = wanted > 20
    assert counts[~large].sum() < 3 * wanted[~large].sum() + 30
    chi_squared, freedom = ((counts - wanted)[large] ** 2 / wanted[large]).sum(), large.sum() - 1
    return float(torch.special.gammaincc(torch.tensor(freedom / 2), torch.tensor(chi_squared / 2)))


@pytest.mark.parametrize(
    "centres",
    [[(353.0, -10.0), (22.0, 5.0), (8.0, 24.0)], [(10.0, -75.0), (120.0, -70.0), (250.0, -80.0)], [(200.0, 90.0)]],
    ids=["across RA 0", "around the south pole", "at the north pole"],
)
def test_positions_are_uniform_on_the_sphere(centres: list[tuple[float, float]]) -> None:
    """Over equal-area cells of HEALPix, and over the patches; tracts overlap, and patches are missing."""
    sky = wide_sky(centres, {(0, 3), (0, 11), (len(centres) - 1, 7)})
    stream = sky.uniform(5)
    drawn = np.concatenate([next(stream) for _ in range(25)])
    assert len(drawn) > 50_000
    where = place(sky, *drawn.T)
    assert (where >= 0).all()  # not one is outside, in a patch that is missing, or counted in two tracts
    # A grid of equal areas on the sphere (Archimedes), finer than the draws.
    side = np.arange(2000)
    ra, z = np.meshgrid((side + 0.5) * 0.18, (side + 0.5) / 1000 - 1, indexing="ij")
    ra, dec = ra.reshape(-1), np.degrees(np.arcsin(z.reshape(-1)))
    of_grid = place(sky, ra, dec)
    ra, dec, of_grid = ra[of_grid >= 0], dec[of_grid >= 0], of_grid[of_grid >= 0]
    patches = (np.bincount(one, minlength=len(sky.patch)) for one in (where, of_grid))
    assert p_value(*patches) > 1e-3
    cells = [healpix_of(*one) >> 2 * (ORDER - 3) for one in (drawn.T, (ra, dec))]
    assert p_value(*(np.bincount(one, minlength=768) for one in cells)) > 1e-3


def test_the_grid_tiles_a_tract_without_gaps() -> None:
    sky = wide_sky([(353.0, -60.0)], {(0, 3)})
    found = np.concatenate(list(sky.grid(YX(70, 61))))
    yx = sky.skymap.tracts[0].projection.sky_to_pixel(*found.T)
    corner = np.rint(np.column_stack([yx.y - 69 / 2, yx.x - 60 / 2])).astype(int)
    assert (corner % [70, 61] == 0).all()
    assert len({tuple(one) for one in corner.tolist()}) == len(corner)
    patch = sky.skymap.tracts[0].patch_at(corner[:, 0] + 69 / 2, corner[:, 1] + 60 / 2)
    wanted = [
        (y, x)
        for y in range(0, GRID.y * INNER.y, 70)
        for x in range(0, GRID.x * INNER.x, 61)
        if y + 34.5 < GRID.y * INNER.y - 0.5 and x + 30 < GRID.x * INNER.x - 0.5
        if ((y + 35) // INNER.y, int(x + 30.5) // INNER.x) != (0, 3)
    ]
    assert {tuple(one) for one in corner.tolist()} == set(wanted)
    assert 3 not in patch


# On files


def headers(repo: SimulatedRepository) -> dict[tuple[int, int, str], tuple[WCS, tuple[int, int]]]:
    """Return WCS and shape of the image in every file, as astropy reads them."""
    found = {}
    with Butler.from_config(str(repo.root), collections=repo.collections) as butler:
        for ref in butler.query_datasets("deep_coadd", limit=None):
            with fits.open(butler.getURI(ref).ospath) as hdus:
                image = hdus["IMAGE"]
                key = int(ref.dataId["tract"]), int(ref.dataId["patch"]), str(ref.dataId["band"])
                found[key] = WCS(image.header), image.shape
    return found


def assert_covered(plan: CutoutPlan, repo: SimulatedRepository, bands: str, least: int) -> None:
    files = headers(repo)
    for tract, patch, ra, dec in zip(plan.tract, plan.patch, plan.ra, plan.dec, strict=True):
        held = 0
        for band in bands:
            if (int(tract), int(patch), band) in files:
                wcs, shape = files[int(tract), int(patch), band]
                x, y = wcs.all_world2pix(ra, dec, 0)
                assert -0.5 <= x < shape[1] - 0.5
                assert -0.5 <= y < shape[0] - 0.5
                held += 1
        assert held >= least


@pytest.mark.parametrize(
    ("bands", "least", "patches"), [("any", 1, 4), (2, 2, 4), ("all", 3, 2), ("gi", 2, 2), (["r"], 1, 4), ("g", 1, 3)]
)
def test_positions_lie_on_files_of_the_wanted_bands(
    dp2_repo: SimulatedRepository, bands: str | int | list[str], least: int, patches: int
) -> None:
    plan = build_plan(dp2_repo.root, Footprint(n=200, bands=bands), collections="dp2", bands="gri", size=32)
    assert not len(plan.rejected)
    assert_covered(plan, dp2_repo, "gri" if bands in ("any", "all", 2) else "".join(bands), least)
    counts = np.bincount(np.unique(plan.patch, return_inverse=True)[1])
    assert len(counts) == patches
    assert p_value(counts, np.ones(patches)) > 1e-3


def test_a_grid_of_cutouts_covers_each_pixel_once(dp2_repo: SimulatedRepository) -> None:
    plan = build_plan(dp2_repo.root, {"footprint": {"kind": "grid"}}, collections="dp2", bands="gri", size=(19, 30))
    assert_covered(plan, dp2_repo, "gri", 1)
    assert (plan.yx0 % [19, 30] == 0).all()
    np.testing.assert_allclose(plan.offset, 0, atol=1e-3)
    seen = Counter(tuple(one) for one in plan.yx0.tolist())
    assert set(seen.values()) == {1}
    height, width = (n * c for n, c in zip(SMALL["cells"], SMALL["cell"], strict=True))
    held = {divmod(p, SMALL["grid"][1]) for p in dp2_repo.patches}
    wanted = {
        (y, x)
        for y in range(0, SMALL["grid"][0] * height, 19)
        for x in range(0, SMALL["grid"][1] * width, 30)
        if (int(y + 9.5) // height, int(x + 15) // width) in held
    }
    assert set(seen) == wanted
    wide = build_plan(
        dp2_repo.root, Footprint("grid", spacing=("12 arcsec", "20 arcsec")), collections="dp2", bands="gri", size=20
    )
    yx = wide.yx0.astype(int)
    assert set(np.diff(np.unique(yx[:, 0])).tolist()) == {60}
    assert set(np.diff(np.unique(yx[:, 1])).tolist()) == {100}


def test_cutouts_on_a_grid_of_their_own_have_positions_too(dp2_repo: SimulatedRepository) -> None:
    given = {"collections": "dp2", "bands": "gri", "read": ReadOptions(grid=Grid(north_up=True, pixel_scale=0.1))}
    plan = build_plan(dp2_repo.root, Footprint("grid"), size=(40, 60), **given)
    same = build_plan(dp2_repo.root, Footprint("grid"), collections="dp2", bands="gri", size=(20, 30))
    np.testing.assert_array_equal(plan.ra, same.ra)
    for size in (60, "6 arcsec"):
        limited = build_plan(dp2_repo.root, Footprint(n=50, min_valid=1, bands="all"), size=size, **given)
        plain = build_plan(
            dp2_repo.root, Footprint(n=50, min_valid=1, bands="all"), collections="dp2", bands="gri", size=30
        )
        np.testing.assert_array_equal(limited.ra, plain.ra)


def test_views_are_neighbouring_targets_with_ids_of_their_own(dp2_repo: SimulatedRepository) -> None:
    once = build_plan(dp2_repo.root, Footprint(n=5), collections="dp2", bands="gri", size=32)
    plan = build_plan(
        dp2_repo.root,
        Footprint(n=5, views=3),
        collections="dp2",
        bands="gri",
        size=32,
        columns=("view", "position"),
    )
    assert plan.object_id.tolist() == list(range(15))
    assert plan.columns["position"].tolist() == np.repeat(np.arange(5), 3).tolist()
    assert plan.columns["view"].tolist() == [0, 1, 2] * 5
    np.testing.assert_array_equal(plan.ra, np.repeat(once.ra, 3))
    assert len(np.unique(plan.keys())) == 15
    assert once.columns == {}


def test_a_seed_draws_the_same_positions_in_every_process(dp2_repo: SimulatedRepository) -> None:
    def planned(n: int, **changes: object) -> CutoutPlan:
        given = {"bands": "gri", "size": 32, **changes}
        footprint = Footprint(n=n, seed=given.pop("seed", 0))
        return build_plan(dp2_repo.root, footprint, collections="dp2", **given)

    plan = planned(300)
    code = (
        "from lsstcutouts import Footprint, build_plan; p = build_plan({!r}, Footprint(n=300), collections='dp2', "
        "bands='gri', size=32); print(p.fingerprint())"
    )
    made = subprocess.run(
        [sys.executable, "-c", code.format(str(dp2_repo.root))], capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == plan.fingerprint() == planned(300).fingerprint()
    assert planned(300, seed=1).fingerprint() != plan.fingerprint()
    # More positions keep the first ones; neither size nor the order of bands moves them.
    for other in (planned(40_000), planned(301, size=50), planned(300, bands="irg")):
        np.testing.assert_array_equal(other.ra[:300], plan.ra)
        np.testing.assert_array_equal(other.dec[:300], plan.dec)
        np.testing.assert_array_equal(other.object_id[:300], plan.object_id)


def test_a_saved_plan_is_the_same(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    plan = build_plan(
        dp2_repo.root, Footprint(n=20, views=2), collections="dp2", bands="gri", size=32, columns=["position"]
    )
    plan.save(tmp_path / "p.parquet")
    loaded = CutoutPlan.load(tmp_path / "p.parquet")
    assert loaded.fingerprint() == plan.fingerprint()
    assert loaded.columns["position"].tolist() == plan.columns["position"].tolist()


def test_a_fetcher_plans_a_footprint(dp2_repo: SimulatedRepository) -> None:
    with LsstDataFetcher(dp2_repo.root, collections="dp2", bands="gri", size=24) as fetcher:
        plan = fetcher.plan(Footprint(n=6, bands="all"))
        batch = fetcher.fetch_plan(plan)
        assert np.asarray(batch["band_present"]).all()
        again = fetcher.plan({"footprint": {"n": 6, "bands": "all"}})
        np.testing.assert_array_equal(again.ra, plan.ra)


def test_one_patch_is_enough() -> None:
    repo = simulated_once(SimulationConfig(cells=2, cell=50, patches=1, bands="gr", targets=4, missing=()))
    plan = build_plan(repo.root, Footprint(n=30_000), collections="dp2", bands="gr", size=16)
    assert len(plan) == 30_000  # more than pixels: positions lie between them


def test_what_is_not_covered_says_so(dp2_repo: SimulatedRepository) -> None:
    given = {"collections": "dp2", "size": 32}
    with pytest.raises(ConfigurationError, match="footprint: no band 'y' in the plan"):
        build_plan(dp2_repo.root, Footprint(n=3, bands="y"), bands="gri", **given)
    with pytest.raises(ConfigurationError, match="footprint: no band 'z' in the plan"):
        build_plan(dp2_repo.root, Footprint(n=3, min_depth={"z": 3}), bands="gri", **given)
    with pytest.raises(ConfigurationError, match="bands=4 is more than the 3 bands of the plan"):
        build_plan(dp2_repo.root, Footprint(n=3, bands=4), bands="gri", **given)
    with pytest.raises(ConfigurationError, match="spacing='far' is not valid"):
        build_plan(dp2_repo.root, Footprint("grid", spacing="far"), bands="gri", **given)
    with pytest.raises(CoverageError, match="no position of the grid lies on"):
        build_plan(dp2_repo.root, Footprint("grid", spacing=100_000), bands="gri", **given)
    with pytest.raises(MemoryBudgetError, match="give a smaller n"):
        build_plan(dp2_repo.root, Footprint(n=10**15), bands="gri", **given)


def test_bands_without_a_file(tmp_path: Path) -> None:
    config = SimulationConfig(
        cells=2, cell=50, patches=[0, 1], grid=2, bands="gr", targets=4, missing=((0, "g"), (1, "r"))
    )
    repo = simulated_copy(tmp_path / "repo", config)
    with pytest.raises(CoverageError, match=r"in 2 of the bands g, r; there are coadds in g, r"):
        build_plan(repo.root, Footprint(n=3, bands="all"), collections="dp2", bands="gr", size=16)
    assert len(build_plan(repo.root, Footprint(n=3), collections="dp2", bands="gr", size=16)) == 3


# Where tracts overlap

POLAR = {
    "release": "dp1",
    "cells": (3, 4),
    "cell": (100, 120),
    "grid": (60, 38),
    "bands": "g",
    "targets": 4,
    "holes": False,
    "missing": (),
}
"""Tracts 1.5 degrees from the south pole, whose pixel grids are turned against each other."""


@pytest.fixture(scope="module", params=["records", "rings"])
def polar(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Two tracts, on one at RA 0, and patches of both around the line between them; what `Repository` knows of them."""
    skymaps = {t: skymap_of(SimulationConfig(tract=t, patches=1, **POLAR)) for t in (1, 2)}
    ra, dec = 18.0, skymaps[1].centre[1]  # half way between the centres
    chosen = {}
    for tract, skymap in skymaps.items():
        x, y = skymap.wcs.all_world2pix(ra, dec, 0)
        row, column = skymap.index(int(skymap.primary_patch(y, x)))
        chosen[tract] = sorted(
            {(row + dy) * 38 + min(max(column + dx, 0), 37) for dy in range(-1, 2) for dx in range(-1, 2)}
        )
    root = tmp_path_factory.mktemp("polar") / request.param
    repo = simulated_copy(root, SimulationConfig(tract=1, patches=chosen[1], **POLAR))
    other = simulated_once(SimulationConfig(tract=2, patches=chosen[2], **POLAR))
    with (
        Butler.from_config(str(other.root), collections=other.collections) as source,
        Butler.from_config(str(repo.root), writeable=True) as target,
    ):
        target.transfer_from(source, source.query_datasets("deep_coadd"), transfer="copy", transfer_dimensions=True)
    with Repository(repo.root, repo.collections) as repository:
        if request.param == "rings":
            repository.rings = RingsGeometry(YX(300, 480), YX(60, 38), pixel_scale=0.2, border=133, clipped=False)
        yield repo, repository, skymaps, chosen


def test_no_sky_counts_twice_where_tracts_overlap(polar) -> None:
    repo, repository, skymaps, chosen = polar
    plan = Planner(repository, "g", 32).plan(Catalog.from_any(Footprint(n=4000)))
    assert not len(plan.rejected)
    assert not plan.other_tract.any()
    assert set(plan.tract.tolist()) == {1, 2}
    assert_covered(plan, repo, "g", 1)
    # Even areas of the sky around the pole, wherever the files of either tract are: counted on a grid of the plane that
    # touches the sphere there, whose areas differ by one in a thousand.
    away = 90 + plan.dec
    x, y = away * np.cos(np.radians(plan.ra)), away * np.sin(np.radians(plan.ra))
    side = 0.002
    gx, gy = np.meshgrid(
        np.arange(x.min() - side, x.max() + side, side / 4), np.arange(y.min() - side, y.max() + side, side / 4)
    )
    gx, gy = gx.reshape(-1), gy.reshape(-1)
    ra, dec = np.degrees(np.arctan2(gy, gx)) % 360, np.hypot(gx, gy) - 90
    own = repository.rings.find(ra, dec) if repository.rings else repository.skymap_of().find(ra, dec)
    held = np.zeros(len(ra), bool)
    for tract, skymap in skymaps.items():
        px, py = skymap.wcs.all_world2pix(ra, dec, 0)
        row, column = np.floor((py + 0.5) / 300).astype(int), np.floor((px + 0.5) / 480).astype(int)
        held |= (own == tract) & np.isin(row * 38 + column, chosen[tract]) & (column >= 0) & (column < 38)
    coarse = 8 * side
    cells = [
        np.floor((a - gx.min()) / coarse).astype(int) * 1000 + np.floor((b - gy.min()) / coarse).astype(int)
        for a, b in ((x, y), (gx[held], gy[held]))
    ]
    number = np.unique(np.concatenate(cells), return_inverse=True)[1]
    counts, areas = (np.bincount(n, minlength=number.max() + 1) for n in np.split(number, [len(x)]))
    assert p_value(counts, areas) > 1e-3


def test_the_butler_is_asked_for_a_footprint_a_few_times(polar, monkeypatch: pytest.MonkeyPatch) -> None:
    _, repository, _, _ = polar
    asked: list[str] = []
    ask = Repository._ask
    monkeypatch.setattr(Repository, "_ask", lambda self, what, query: (asked.append(what), ask(self, what, query))[1])
    planner = Planner(repository, "g", 32)
    planner.forget()
    asked.clear()
    plan = planner.plan(Catalog.from_any(Footprint(n=2000)))
    once = len(asked)
    planner.forget()
    asked.clear()
    planner.plan(Catalog(plan.object_id, plan.ra, plan.dec))
    assert once <= len(asked) + 2, asked
    asked.clear()
    planner.plan(Catalog.from_any(Footprint(n=3000, seed=1)))
    assert set(asked) <= {"the coverage", "tracts"}, asked
