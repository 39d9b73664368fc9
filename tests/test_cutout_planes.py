"""Planes beside the image, in any combination: PSF, mask planes of several HDUs, flux units, the WCS of a cutout."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from lsst.daf.butler import Butler
from lsst.images import BoundsError

from lsstcutouts.cache import TileCache
from lsstcutouts.cutout import PLANES, CutoutReader, Quality, ReadOptions
from lsstcutouts.errors import FluxUnitError, PlaneError
from lsstcutouts.fetcher import LsstDataFetcher
from lsstcutouts.plan import CutoutPlan
from lsstcutouts.planner import build_plan
from lsstcutouts.simulate import SimulatedRepository

from .faulty import copied, file_of
from .oracle import files_of


def plan_of(repo: SimulatedRepository, **changes) -> CutoutPlan:
    arguments = {"collections": repo.collections, "bands": "gri", "size": (21, 26), **changes}
    return build_plan(repo.truth, repo.root, **arguments)


def read(plan: CutoutPlan, rows=None, **options):
    reader = CutoutReader(plan, ReadOptions(**options), cache=TileCache("100 MB"))
    try:
        return reader.read(np.arange(len(plan)) if rows is None else np.asarray(rows))
    finally:
        reader.close()


@pytest.mark.parametrize("name", ["dp2_repo", "dp1_repo"])
def test_planes_in_any_combination_are_the_same_pixels(name: str, request: pytest.FixtureRequest) -> None:
    repo = request.getfixturevalue(name)
    plan = plan_of(repo)
    choices = [p for p in PLANES if p != "psf" or name == "dp2_repo"]
    masks = ("DETECTED", "NO_DATA")
    whole = read(plan, planes=choices, mask_planes=masks)
    for count in (1, 2, 3):
        for planes in combinations(choices, count):
            batch = read(plan, range(7), planes=planes, mask_planes=masks if "mask" in planes else ())
            assert set(batch) & set(PLANES) == set(planes)
            for plane in planes:
                np.testing.assert_array_equal(batch[plane], whole[plane][:7])


def test_only_what_is_asked_for_is_read(dp2_repo: SimulatedRepository) -> None:
    plan = plan_of(dp2_repo)
    cache = TileCache("100 MB")
    reader = CutoutReader(plan, ReadOptions(planes=("variance",)), cache=cache)
    reader.read(np.arange(len(plan)))
    reader.close()
    other = TileCache("100 MB")
    reader = CutoutReader(plan, ReadOptions(planes=("variance", "image")), cache=other)
    reader.read(np.arange(len(plan)))
    reader.close()
    assert other.stats().misses == 2 * cache.stats().misses


# PSF


def kernels(repo: SimulatedRepository, plan: CutoutPlan) -> list[list[np.ndarray | None]]:
    """Return by target and band what `lsst.images` computes with the file that holds the target's pixel."""
    files, found = files_of(repo), []
    with Butler.from_config(str(repo.root), collections=repo.collections) as butler:
        psf = {
            key: butler.get("deep_coadd.psf", tract=key[0], patch=key[1], band=key[2], skymap=repo.skymap)
            for key in files
        }
    for target in range(len(plan)):
        yx = plan.projections[repo.tract].sky_to_pixel(plan.ra[target], plan.dec[target])
        primary = int(plan.patch[target])
        row = []
        for band in plan.bands:
            kernel = None
            for patch in (primary, *(p for p in repo.patches if p != primary)):
                one = files.get((repo.tract, patch, band))
                if one is None:
                    continue
                y, x = round(float(yx.y)) - one.start[0], round(float(yx.x)) - one.start[1]
                if 0 <= y < one.image.shape[0] and 0 <= x < one.image.shape[1]:
                    try:
                        image = psf[repo.tract, patch, band].compute_kernel_image(x=float(yx.x), y=float(yx.y))
                        kernel = image.array
                    except BoundsError:
                        pass
                    break
            row.append(kernel)
        found.append(row)
    return found


def test_the_psf_is_the_one_of_the_target_s_cell(dp2_repo: SimulatedRepository) -> None:
    plan = plan_of(dp2_repo)
    batch = read(plan, planes=("image", "psf"))
    assert batch["psf"].dtype == np.float32
    present = 0
    for target, row in enumerate(kernels(dp2_repo, plan)):
        for band, want in enumerate(row):
            assert batch["psf_present"][target, band] == (want is not None)
            flag = bool(batch["quality"][target, band] & Quality.NO_PSF)
            assert flag == (want is None and batch["band_present"][target, band])
            if want is None:
                assert not batch["psf"][target, band].any()
            else:
                np.testing.assert_array_equal(batch["psf"][target, band], want.astype(np.float32))
                present += 1
    assert present > 150
    assert not batch["psf_present"].all()
    normal = read(plan, planes=("psf",), normalise_psf=True)
    sums = normal["psf"].sum(axis=(2, 3), dtype=np.float64)
    np.testing.assert_allclose(sums, batch["psf_present"], atol=1e-6)
    assert np.abs(batch["psf"].sum(axis=(2, 3), dtype=np.float64)[batch["psf_present"]] - 1).max() > 1e-6


def test_the_psf_of_dp1_is_refused_with_its_reason(dp1_repo: SimulatedRepository) -> None:
    with (
        LsstDataFetcher(dp1_repo.root, collections=dp1_repo.collections, bands="g", size=8, planes="psf") as fetcher,
        pytest.raises(PlaneError, match="CoaddPsf that only the LSST stack"),
    ):
        fetcher.fetch_plan(fetcher.plan(dp1_repo.truth))


def test_an_unreadable_psf_costs_the_psf(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    repo = copied(dp2_repo, tmp_path)
    plan = plan_of(repo)
    path = file_of(repo, 9, "r")
    with fits.open(path, mode="update", disable_image_compression=True) as hdus:
        hdus["PSF"].header["ZTILE1"] = 7
    batch = read(plan, planes=("image", "psf"), on_read_error="mask")
    mine = plan.patch == 9
    assert not batch["psf_present"][mine, 1].any()
    assert (batch["quality"][mine, 1] & Quality.READ_ERROR).all()
    np.testing.assert_array_equal(batch["image"], read(plan)["image"])


# The WCS of a cutout


@pytest.mark.parametrize("name", ["dp2_repo", "dp1_repo"])
def test_the_wcs_is_the_file_s_own(name: str, request: pytest.FixtureRequest) -> None:
    repo = request.getfixturevalue(name)
    plan = plan_of(repo)
    batch = read(plan)
    headers = {}
    for patch in repo.patches:
        with fits.open(file_of(repo, patch, "r")) as hdus:
            headers[patch] = WCS(hdus["IMAGE"].header), hdus["IMAGE"].header["CRVAL1A"], hdus["IMAGE"].header["CRVAL2A"]
    for n in range(0, len(plan), 5):
        # A few targets lie on a patch without coadds and take their pixels from its neighbours.
        patch = int(plan.patch[n]) if plan.patch[n] in repo.patches else repo.patches[0]
        wcs, x_first, y_first = headers[patch]
        crval1, crval2, crpix1, crpix2, *cd = batch["wcs"][n]
        mine = WCS(naxis=2)
        mine.wcs.ctype, mine.wcs.crval = ["RA---TAN", "DEC--TAN"], [crval1, crval2]
        mine.wcs.crpix, mine.wcs.cd = [crpix1 + 1, crpix2 + 1], np.reshape(cd, (2, 2))
        x, y = np.array([0.0, 25.0, 3.5]), np.array([0.0, 20.0, 7.25])
        sky = mine.all_pix2world(x, y, 0)
        there = wcs.all_world2pix(*sky, 0)
        np.testing.assert_allclose(there[0] + x_first - batch["yx0"][n, 1], x, rtol=0, atol=1e-6)
        np.testing.assert_allclose(there[1] + y_first - batch["yx0"][n, 0], y, rtol=0, atol=1e-6)


# Flux units


def in_counts(repo: SimulatedRepository, folder: Path, **cards) -> SimulatedRepository:
    """Return a copy of a DP1 repository whose r files are in counts."""
    copy = copied(repo, folder)
    for patch in repo.patches:
        with fits.open(file_of(copy, patch, "r"), mode="update") as hdus:
            for name in ("IMAGE", "VARIANCE"):
                del hdus[name].header["BUNIT"]
                hdus[name].header.update(cards)
    return copy


def test_counts_are_scaled_by_their_zero_point(dp1_repo: SimulatedRepository, tmp_path: Path) -> None:
    repo = in_counts(dp1_repo, tmp_path, FLUXMAG0=63095734448.0194)
    plan = plan_of(repo)
    planes = ("image", "variance", "ivar")
    scaled, native = read(plan, planes=planes), read(plan, planes=planes, flux_unit="native")
    factor = 10**12.56 / 63095734448.0194  # nJy of magnitude 0 over its counts
    for name, power in (("image", 1), ("variance", 2)):
        want = native[name].astype(np.float64)
        want[:, 1] *= factor**power
        np.testing.assert_allclose(scaled[name], want, rtol=1e-6)
    good = native["ivar"] > 0
    np.testing.assert_allclose(scaled["ivar"][good], 1 / scaled["variance"][good], rtol=1e-6)


def test_counts_without_a_zero_point_are_refused(dp1_repo: SimulatedRepository, tmp_path: Path) -> None:
    repo = in_counts(dp1_repo, tmp_path)
    plan = plan_of(repo)
    with pytest.raises(FluxUnitError, match='flux_unit="native"'):
        read(plan)
    want = read(plan_of(dp1_repo))["image"]
    np.testing.assert_array_equal(read(plan, flux_unit="native")["image"], want)
