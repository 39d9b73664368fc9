"""Cutouts on your own pixel grid, against `reproject` and astropy on whole images of the tracts."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from lsst.daf.butler import Butler
from reproject import reproject_interp

from lsstcutouts import Catalog, Grid, LsstDataFetcher, Quality, QualityPolicy, ReadOptions, batch_wcs
from lsstcutouts.errors import ReadError
from lsstcutouts.sky.geometry import YX, Box
from lsstcutouts.testing import SimulatedRepository, SimulatedSkyMap, SimulationConfig, skymap_of

from ..support.contract import sentence
from ..support.oracle import files_of
from ..support.repositories import SMALL, simulated_copy
from ..support.tract_pair import FIRST, SECOND, Pair, make_pair

SIZE = (40, 31)
NORTH = Grid(north_up=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"))


def fetcher_of(repo: SimulatedRepository, bands="gri", size=SIZE, **options) -> LsstDataFetcher:
    planes = options.pop("planes", ("image", "variance", "valid"))
    return LsstDataFetcher(
        repo.root,
        collections=repo.collections,
        bands=bands,
        size=size,
        planes=planes,
        threads=2,
        cache_bytes="50 MB",
        read=ReadOptions(**options),
    )


def canvases(files, skymap: SimulatedSkyMap, tract: int, band: str, primary: int = -1):
    """Return image and variance of a tract, NaN where no file is, and the tract pixel of the first element.

    The most important pixels are pasted last: those of the primary patch, then those inside the others' inner regions.
    """
    mine = {p: one for (t, p, b), one in sorted(files.items(), reverse=True) if (t, b) == (tract, band)}
    low = np.min([one.start for one in mine.values()], axis=0) - 1  # reproject goes half a pixel beyond an image
    high = np.max([np.add(one.start, one.image.shape) for one in mine.values()], axis=0) + 1
    image, variance = (np.full(high - low, np.nan) for _ in range(2))
    steps = [(p, False) for p in mine] + [(p, True) for p in mine] + [(primary, False)] * (primary in mine)
    for patch, inside in steps:
        one = mine[patch]
        box = Box.from_start(YX(*one.start), YX(*one.image.shape))
        box = box.intersection(skymap.inner_box(patch)) if inside else box
        to, there = box.slices(YX(*low.tolist())), box.slices(YX(*one.start))
        image[to], variance[to] = one.image[there], one.variance[there]
    return image, variance, (int(low[0]), int(low[1]))


def moved_wcs(wcs: WCS, start: tuple[int, int]) -> WCS:
    wcs = wcs.deepcopy()
    wcs.wcs.crpix -= [start[1], start[0]]
    return wcs


def area_ratio(out: WCS, tract: WCS, size) -> float:
    """Return the area of the middle pixel, in pixels of a tract."""
    y, x = (np.asarray(size) - 1) / 2
    corners = out.all_pix2world([x - 0.5, x + 0.5, x + 0.5, x - 0.5], [y - 0.5, y - 0.5, y + 0.5, y + 0.5], 0)
    cx, cy = tract.all_world2pix(*corners, 0)
    return abs(np.dot(cx, np.roll(cy, 1)) - np.dot(cy, np.roll(cx, 1))) / 2


def sky_around(pair: Pair, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions on and beyond the files of both tracts."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(np.array([k[:2] for k in pair.files]), count)
    sky = np.empty((count, 2))
    for i, (tract, patch) in enumerate(chosen.tolist()):
        box = pair.skymaps[tract].outer_box(patch)
        y, x = rng.uniform(box.y0 - 30, box.y1 + 30), rng.uniform(box.x0 - 30, box.x1 + 30)
        sky[i] = pair.skymaps[tract].sky(y, x)
    return sky[:, 0], sky[:, 1]


@sentence(19, 27)
@pytest.mark.parametrize(
    "grid", [Grid(north_up=True, interpolation="bilinear"), Grid(pixel_scale=0.31, interpolation="bilinear")]
)
def test_across_the_border_of_tracts_it_equals_reproject(pair: Pair, grid: Grid) -> None:
    """The own tract first, then the other one, where all four pixels around a place are covered."""
    ra, dec = sky_around(pair, 60, 1)
    with fetcher_of(pair.repo, "gr") as fetcher:
        plan = fetcher.plan(Catalog.from_arrays(ra, dec), grid=grid)
        batch = fetcher.fetch(ra, dec, grid=grid)
    held = {(t, b) for t, _, b in pair.files}
    mixed = 0
    for n in np.flatnonzero(batch["tract"] >= 0).tolist():
        out, own = batch_wcs(batch, n), int(batch["tract"][n])
        for b, band in enumerate("gr"):
            want, first = np.full(SIZE, np.nan), np.zeros(SIZE, bool)
            for tract in (own, FIRST + SECOND - own):
                if (tract, band) not in held:
                    continue
                skymap = pair.skymaps[tract]
                x, y = np.clip(
                    skymap.wcs.all_world2pix(ra[n], dec[n], 0), 0, np.array(skymap.tract_box.shape[::-1]) - 1
                )
                image, _, start = canvases(pair.files, skymap, tract, band, int(skymap.primary_patch(y, x)))
                wcs = moved_wcs(skymap.wcs, start)
                found, _ = reproject_interp((image, wcs), out, shape_out=SIZE, order="bilinear")
                found *= area_ratio(out, pair.skymaps[tract].wcs, SIZE)
                new = np.isnan(want) & np.isfinite(found)
                want[new] = found[new]
                if tract == own:
                    first = new
                else:
                    mixed += new.any() and first.any()
            covered = np.isfinite(want)
            assert batch["band_present"][n, b] == covered.any()
            np.testing.assert_array_equal(batch["valid"][n, b], covered)
            np.testing.assert_allclose(batch["image"][n, b], np.where(covered, want, 0), rtol=2e-5, atol=2e-3)
    assert mixed > 3
    assert len(plan.grid.further.owner) > 5


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "biquadratic", "bicubic"])
def test_inside_a_tract_it_equals_reproject_on_the_whole_images(
    dp2_repo: SimulatedRepository, interpolation: str
) -> None:
    order = ["nearest", "bilinear", "biquadratic", "bicubic"].index(interpolation)
    files, skymap = files_of(dp2_repo), skymap_of(SimulationConfig(release="dp2", **SMALL))
    ra, dec = positions(dp2_repo, 40)
    grid = Grid(north_up=True, pixel_scale=0.17, interpolation=interpolation)
    with fetcher_of(dp2_repo) as fetcher:
        batch = fetcher.fetch(ra, dec, grid=grid)
        tract = int(batch["tract"].max())
        (projection,) = fetcher.plan(Catalog.from_arrays(ra, dec)).projections.values()
    for b, band in enumerate("gri"):
        wcs = WCS(fits.Header(projection.header()))
        for n in np.flatnonzero(batch["band_present"][:, b]).tolist():
            image, variance, start = canvases(files, skymap, tract, band, int(batch["patch"][n]))
            here = moved_wcs(wcs, start)
            out = batch_wcs(batch, n)
            ratio = area_ratio(out, wcs, SIZE)
            want, _ = reproject_interp((np.nan_to_num(image), here), out, shape_out=SIZE, order=order)
            valid = batch["valid"][n, b]
            # A hole or an edge changes what is near it: 1 % of a pixel 3 px away, 1e-7 at 12.
            scale = np.nanmax(np.abs(image))
            difference = np.abs(batch["image"][n, b] - ratio * want)[valid]
            assert difference.max(initial=0) < 2e-6 * scale
            assert np.median(difference) < 1e-6 * scale if len(difference) else True
            if order == 0:
                noise, _ = reproject_interp((variance, here), out, shape_out=SIZE, order=0)
                np.testing.assert_allclose(batch["variance"][n, b][valid], ratio**2 * noise[valid], rtol=1e-5)


def positions(repo: SimulatedRepository, count: int) -> tuple[np.ndarray, np.ndarray]:
    import pyarrow.parquet

    truth = pyarrow.parquet.read_table(repo.truth)
    return truth["ra"].to_numpy()[:count], truth["dec"].to_numpy()[:count]


@sentence(26)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_on_the_tracts_own_pixels_nothing_changes(dp2_repo: SimulatedRepository, interpolation: str) -> None:
    """The tract's own WCS as the grid gives the box and the pixels of the plain way."""
    ra, dec = positions(dp2_repo, 40)
    read = {"planes": ("image", "variance", "ivar", "mask", "valid", "psf"), "mask_planes": ("SATURATED", "COSMIC_RAY")}
    with fetcher_of(dp2_repo, **read) as fetcher:
        plain = fetcher.fetch(ra, dec)
        (projection,) = fetcher.plan(Catalog.from_arrays(ra, dec)).projections.values()
        grid = Grid(wcs=projection.header(), interpolation=interpolation)
        batch = fetcher.fetch(ra, dec, grid=grid)
    assert set(batch) == set(plain)
    for name in ("yx0", "band_present", "tract", "patch", "object_id", "psf_present"):
        np.testing.assert_array_equal(batch[name], plain[name], err_msg=name)
    np.testing.assert_allclose(batch["offset"], plain["offset"], atol=1e-5)
    valid = batch["valid"]
    assert not (valid & ~plain["valid"]).any()
    if interpolation != "bicubic":
        np.testing.assert_array_equal(valid, plain["valid"])
        np.testing.assert_array_equal(batch["quality"], plain["quality"])
    scale = np.abs(plain["image"]).max()
    np.testing.assert_allclose(batch["image"][valid], plain["image"][valid], rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(batch["variance"][valid], plain["variance"][valid], rtol=2e-4)
    np.testing.assert_array_equal(batch["mask"][valid], plain["mask"][valid])
    np.testing.assert_allclose(batch["psf"], plain["psf"], atol=1e-6)
    np.testing.assert_allclose(batch["wcs"][:, 4:], plain["wcs"][:, 4:], rtol=1e-7, atol=1e-13)


def test_masks_are_those_of_the_nearest_pixel(dp2_repo: SimulatedRepository) -> None:
    ra, dec = positions(dp2_repo, 30)
    names = ("SATURATED", "COSMIC_RAY", "DETECTED")
    with fetcher_of(dp2_repo, planes=("image", "mask"), mask_planes=names, size=(90, 81)) as fetcher:
        plain = fetcher.fetch(ra, dec)
    with fetcher_of(dp2_repo, planes=("image", "mask"), mask_planes=names) as fetcher:
        batch = fetcher.fetch(ra, dec, grid=Grid(north_up=True, pixel_scale=0.13))
    assert batch["mask"].any()
    for n in np.flatnonzero(batch["tract"] >= 0).tolist():
        for b in np.flatnonzero(batch["band_present"][n]).tolist():
            want, _ = reproject_interp(
                (plain["mask"][n, b].astype(float), batch_wcs(plain, n)), batch_wcs(batch, n), shape_out=SIZE, order=0
            )
            np.testing.assert_array_equal(batch["mask"][n, b], want)


@sentence(28)
@pytest.mark.parametrize(
    ("scale", "interpolation"), [(0.1, "bicubic"), (0.2, "bicubic"), (0.37, "bicubic"), (0.1, "bilinear")]
)
def test_flux_is_conserved(dp2_repo: SimulatedRepository, scale: float, interpolation: str) -> None:
    """The sum over a star is its flux, whatever the pixels; bicubic keeps a kernel of the PSF as it is, too."""
    ra, dec = positions(dp2_repo, 40)
    side = round(8 / scale)
    with fetcher_of(dp2_repo, planes=("image", "valid", "psf"), size=40) as fetcher:
        plain = fetcher.fetch(ra, dec)
    with fetcher_of(dp2_repo, planes=("image", "valid", "psf"), size=side) as fetcher:
        batch = fetcher.fetch(ra, dec, grid=Grid(pixel_scale=scale, interpolation=interpolation))
    whole = plain["valid"].all(axis=(2, 3)) & batch["valid"].all(axis=(2, 3))
    assert whole.sum() > 20
    # 40 px of 0.2 arcsec; the box of the tract is up to half a pixel off, so that its edges differ.
    want, got = plain["image"].sum(axis=(2, 3))[whole], batch["image"].sum(axis=(2, 3))[whole]
    bright = want > np.median(want)
    assert abs(np.median(got[bright] / want[bright]) - 1) < 0.02
    psf = batch["psf_present"]
    np.testing.assert_allclose(batch["psf"].sum(axis=(2, 3))[psf], 1, atol=0.01)


def test_the_psf_is_that_of_the_grid(dp2_repo: SimulatedRepository) -> None:
    """Its second moments in arcseconds stay the same."""

    def width(psf: np.ndarray, scale: float) -> np.ndarray:
        y, x = np.mgrid[: psf.shape[-2], : psf.shape[-1]] - (np.array(psf.shape[-2:])[:, None, None] - 1) / 2
        return scale * np.sqrt((psf * (y**2 + x**2)).sum(axis=(-2, -1)) / psf.sum(axis=(-2, -1)))

    ra, dec = positions(dp2_repo, 20)
    with fetcher_of(dp2_repo, planes=("psf",)) as fetcher:
        plain = fetcher.fetch(ra, dec)
        for scale, side in ((0.1, 71), (0.2, 35), (0.3, 25)):
            batch = fetcher.fetch(ra, dec, grid=Grid(north_up=True, pixel_scale=scale))
            assert batch["psf"].shape[2:] == (side, side)
            np.testing.assert_array_equal(batch["psf_present"], plain["psf_present"])
            there = plain["psf_present"]
            np.testing.assert_allclose(width(batch["psf"][there], scale), width(plain["psf"][there], 0.2), rtol=0.02)
    with fetcher_of(dp2_repo, planes=("psf",), normalise_psf=True, grid=NORTH) as fetcher:
        batch = fetcher.fetch(ra, dec)
    np.testing.assert_allclose(batch["psf"].sum(axis=(2, 3))[batch["psf_present"]], 1, rtol=1e-5)


def test_policies_hold_on_the_grid(dp2_repo: SimulatedRepository) -> None:
    ra, dec = positions(dp2_repo, 60)
    with fetcher_of(dp2_repo, grid=NORTH) as fetcher:
        plain = fetcher.fetch(ra, dec)
    absent = ~plain["band_present"]
    assert absent.any()
    assert (plain["quality"][absent] & int(Quality.BAND_ABSENT) != 0).all()
    with fetcher_of(dp2_repo, grid=NORTH, missing_band="nan", fill="nan") as fetcher:
        batch = fetcher.fetch(ra, dec)
    assert np.isnan(batch["image"][absent]).all()
    np.testing.assert_array_equal(batch["valid"], plain["valid"])
    assert np.isnan(batch["image"][~batch["valid"] & ~absent[..., None, None]]).any()
    with fetcher_of(
        dp2_repo, grid=NORTH, required_bands=("g",), quality=QualityPolicy(min_valid=0.99, action="skip")
    ) as fetcher:
        batch = fetcher.fetch(ra, dec)
        assert batch["band_present"][:, 0].all()
        assert fetcher.report.delivered == len(batch["image"]) < len(plain["image"])
        assert (batch["valid"].mean(axis=(2, 3))[batch["band_present"]] >= 0.99).all()
    with fetcher_of(dp2_repo, grid=NORTH, fill="noise") as fetcher:
        batch = fetcher.fetch(ra, dec)
    hole = ~batch["valid"] & batch["band_present"][..., None, None]
    assert (batch["image"][hole] != 0).mean() > 0.9


def test_a_damaged_file_is_said_of_the_targets_that_it_takes_pixels_from(tmp_path: Path) -> None:
    repo = simulated_copy(tmp_path / "damaged", SimulationConfig(release="dp2", **SMALL))
    with Butler.from_config(str(repo.root), collections=repo.collections) as butler:
        (ref,) = butler.query_datasets("deep_coadd", where="patch = 9 AND band = 'r'")
        path = Path(butler.getURI(ref).ospath)
    path.write_bytes(path.read_bytes()[:40_000])
    ra, dec = positions(repo, 60)
    with fetcher_of(repo, grid=NORTH) as fetcher, pytest.raises(ReadError, match="patch 9"):
        fetcher.fetch(ra, dec)
    with fetcher_of(repo, on_read_error="mask") as fetcher:
        plain, reported = fetcher.fetch(ra, dec), fetcher.report
        batch = fetcher.fetch(ra, dec, grid=NORTH)
        report = fetcher.report
    bits = int(Quality.READ_ERROR)
    unread = batch["quality"] & bits != 0
    assert unread[:, 1].any()
    assert not unread[:, [0, 2]].any()
    assert not ((plain["quality"] & bits != 0) & ~unread).any()
    assert batch["band_present"][unread].all()
    assert {failure.band for failure in report.failures} == {failure.band for failure in reported.failures} == {"r"}
    own = unread & (batch["patch"] == 9)[:, None]
    assert not batch["valid"][own].any() or batch["valid"][own].mean() < 0.5


def test_threads_and_order_change_nothing(dp2_repo: SimulatedRepository) -> None:
    ra, dec = positions(dp2_repo, 50)
    with fetcher_of(dp2_repo, grid=NORTH) as fetcher:
        batch = fetcher.fetch(ra, dec)
        one = fetcher.fetch(ra[7:8], dec[7:8])
        turned = fetcher.fetch(ra[::-1], dec[::-1])
    for name in ("image", "variance", "valid", "wcs"):
        np.testing.assert_array_equal(one[name][0], batch[name][7])
        np.testing.assert_array_equal(turned[name][::-1], batch[name])


def test_positions_outside_the_coverage(dp2_repo: SimulatedRepository) -> None:
    ra, dec = positions(dp2_repo, 3)
    with fetcher_of(dp2_repo, grid=NORTH) as fetcher:
        batch = fetcher.fetch([*ra, 200.0], [*dec, 10.0])
    assert batch["tract"][-1] == -1
    assert not batch["image"][-1].any()
    assert np.isnan(batch["wcs"][-1]).all()
