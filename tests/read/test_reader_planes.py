"""Planes beside the image, in any combination: PSF, mask planes of several HDUs, flux units, the WCS of a cutout."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from lsst.daf.butler import Butler
from lsst.images import BoundsError

from lsstcutouts.errors import FluxUnitError, GeometryMismatchError, PlaneError
from lsstcutouts.fits.index import FileIndex
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.quality import Quality, QualityPolicy
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.read.open_files import OpenFiles
from lsstcutouts.read.options import PLANES, ReaderOptions
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.sky.geometry import YX, Box
from lsstcutouts.source.byte_source import ByteSource, LocalSource
from lsstcutouts.testing import SimulatedRepository

from ..support.faulty import copied, file_of
from ..support.oracle import files_of


def plan_of(repo: SimulatedRepository, **changes) -> CutoutPlan:
    arguments = {"collections": repo.collections, "bands": "gri", "size": (21, 26), **changes}
    return build_plan(repo.root, repo.truth, **arguments)


def read(plan: CutoutPlan, rows=None, **options):
    reader = CutoutReader(plan, ReaderOptions(**options), cache=TileCache("100 MB"))
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
    reader = CutoutReader(plan, ReaderOptions(planes=("variance",)), cache=cache)
    reader.read(np.arange(len(plan)))
    reader.close()
    other = TileCache("100 MB")
    reader = CutoutReader(plan, ReaderOptions(planes=("variance", "image")), cache=other)
    reader.read(np.arange(len(plan)))
    reader.close()
    assert other.stats().misses == 2 * cache.stats().misses


class Recorded(LocalSource):
    """A file that writes down which of its bytes are read, and has no gap worth reading over."""

    gap = 0

    def __init__(self, path: str, uri: str, reads: list[tuple[str, int, int]]) -> None:
        super().__init__(path, uri)
        self._reads = reads

    def read(self, offset: int, length: int) -> bytes:
        self._reads.append((self.uri, offset, length))
        return super().read(offset, length)

    def read_into(self, offset: int, to: memoryview) -> None:
        self._reads.append((self.uri, offset, len(to)))
        super().read_into(offset, to)


class RecordedFiles(OpenFiles):
    def __init__(self, cache: TileCache) -> None:
        super().__init__(cache)
        self.reads: list[tuple[str, int, int]] = []
        self.indices: dict[str, FileIndex] = {}

    def source(self, plan: CutoutPlan, file: int, index: FileIndex) -> ByteSource:
        uri = plan.files.uri[file]
        self.indices[uri] = index
        return Recorded(uri, uri, self.reads)


def data_of_planes(path: str) -> dict[str, tuple[int, int, list[int]]]:
    """Return by HDU the first byte of its data, the one after the last, and the sizes of its tiles, as astropy knows."""
    found = {}
    with fits.open(path, disable_image_compression=True) as hdus:
        for hdu in hdus:
            if "ZIMAGE" not in hdu.header:
                continue
            info = hdu.fileinfo()
            # Tiles that could not be quantised are in a column of their own.
            columns = [hdu.data[c] for c in ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA") if c in hdu.columns.names]
            tiles = [sum(map(len, row)) for row in zip(*columns, strict=True)]
            found[hdu.name] = info["datLoc"], info["datLoc"] + info["datSpan"], tiles
    return found


@pytest.mark.parametrize(
    ("plane", "hdus"),
    [
        ("image", {"IMAGE"}),
        ("variance", {"VARIANCE"}),
        ("mask", {"MASK"}),
        ("valid", {"IMAGE", "MASK"}),
        ("ivar", {"IMAGE", "MASK", "VARIANCE"}),
        ("psf", {"PSF"}),
    ],
)
def test_not_a_byte_more_is_read(dp2_repo: SimulatedRepository, plane: str, hdus: set[str]) -> None:
    """Of files that are open, only the tiles under the box of the planes that are asked for."""
    plan = plan_of(dp2_repo)
    cache, masks = TileCache("100 MB"), ("DETECTED",) if plane == "mask" else ()
    files = RecordedFiles(cache)
    reader = CutoutReader(plan, ReaderOptions(planes=(plane,), mask_planes=masks), cache=cache, files=files)
    targets = [n for n in range(len(plan)) if plan.patch[n] == 9 and not len(plan.others_of(n))][:5]
    assert targets
    reader.read(np.array(targets))
    reader.cache.clear()
    files.reads.clear()
    reader.read(np.array(targets))
    read: dict[tuple[str, str], int] = {}
    known = {uri: data_of_planes(uri) for uri in files.indices}
    for uri, offset, length in files.reads:
        (name,) = (n for n, (low, high, _) in known[uri].items() if low <= offset and offset + length <= high)
        read[uri, name] = read.get((uri, name), 0) + length
    assert len(files.indices) == 3
    assert {name for _, name in read} == hdus
    for (uri, name), count in read.items() if plane != "psf" else ():
        index, tiles = files.indices[uri], known[uri][name][2]
        layout, wanted = index.layout(name.lower()), set()
        for n in targets:
            box = Box.from_start(YX(*plan.yx0[n].tolist()), plan.size).relative_to(index.bbox.start)
            for unit in layout.units_under(box):
                under = layout.tiles_under(layout.unit_box(unit))
                wanted |= {y * layout.tile_grid.x + x for y in range(*under[:2]) for x in range(*under[2:])}
        assert count == sum(tiles[i] for i in wanted)
    reader.close()


# A band on another grid


@pytest.mark.parametrize("policy", ["raise", "mask", "skip"])
def test_a_band_on_another_grid_is_named_with_its_tract(
    dp2_repo: SimulatedRepository, tmp_path: Path, policy: str
) -> None:
    repo = copied(dp2_repo, tmp_path)
    plan, path = plan_of(repo), file_of(repo, 9, "r")
    with fits.open(path, mode="update", disable_image_compression=True) as hdus:
        hdus["IMAGE"].header["CRPIX1"] += 0.011
    words = rf"{path} \(patch 9, band r\): its WCS differs by 0\.011 px from that of tract {repo.tract} of skymap '{repo.skymap}'"
    with pytest.raises(GeometryMismatchError, match=words):
        read(plan, on_read_error=policy)
    others = np.flatnonzero(
        [9 not in plan.patches.patch[[plan.primary[n], *plan.others_of(n)]] for n in range(len(plan))]
    )
    np.testing.assert_array_equal(read(plan, others)["image"], read(plan_of(dp2_repo), others)["image"])


# Variances of every kind


def test_variances_that_are_no_information(dp1_repo: SimulatedRepository, tmp_path: Path) -> None:
    """Infinite, negative, zero and not a number, with and without NO_DATA: `ivar` is 0 there, `valid` is not changed."""
    repo = copied(dp1_repo, tmp_path)
    rng, kinds = np.random.default_rng(8), np.array([np.inf, -np.inf, np.nan, -3.0, 0.0, 1e-45], np.float32)
    files: dict[int, tuple[np.ndarray, ...]] = {}
    for patch in repo.patches:
        path = file_of(repo, patch, "r")
        with fits.open(path) as hdus:
            no_data = hdus["MASK"].data >> hdus["MASK"].header["MP_NO_DATA"] & 1 == 1
            variance, image = hdus["VARIANCE"].data.copy(), hdus["IMAGE"].data.copy()
            start = int(hdus["IMAGE"].header["CRVAL2A"]), int(hdus["IMAGE"].header["CRVAL1A"])
            odd = no_data | (rng.random(variance.shape) < 0.0005)
            variance[odd] = rng.choice(kinds, np.count_nonzero(odd))
            hdus["VARIANCE"] = fits.ImageHDU(variance, hdus["VARIANCE"].header)
            hdus.writeto(tmp_path / path.name)
        (tmp_path / path.name).replace(path)
        files[patch] = variance, no_data, image, start
    plan = plan_of(repo, bands="r")
    unknown = type(plan.files)(plan.files.uri, (-1,) * len(plan.files.uri), plan.files.dataset_id)
    plan = CutoutPlan(**{**plan.__dict__, "files": unknown})
    batch = read(plan, planes=("variance", "ivar", "valid"), quality=QualityPolicy(positive_variance=True))
    assert np.isfinite(batch["ivar"]).all()
    bad, holes = [], 0
    for n in np.flatnonzero(np.isin(plan.patch, repo.patches)):
        variance, no_data, image, start = files[int(plan.patch[n])]
        y, x = plan.yx0[n] - start
        inside = slice(y, y + 21), slice(x, x + 26)
        if min(y, x) < 0 or variance[inside].shape != (21, 26):
            continue
        v, valid = variance[inside], np.isfinite(image[inside]) & ~no_data[inside]
        np.testing.assert_array_equal(batch["variance"][n, 0], v)
        np.testing.assert_array_equal(batch["valid"][n, 0], valid)
        good = valid & np.isfinite(v) & (v > 0)
        with np.errstate(divide="ignore", over="ignore"):
            want = np.where(good, np.minimum(np.float32(1) / v, np.finfo(np.float32).max), 0)
        np.testing.assert_array_equal(batch["ivar"][n, 0], want)
        bad.append(bool((valid & ~good).any()))
        assert bool(batch["quality"][n, 0] & Quality.BAD_VARIANCE) == bad[-1]
        holes += no_data[inside].any()
    assert len(bad) > 40
    assert 0 < sum(bad) < len(bad)
    assert holes


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
        pytest.raises(PlaneError, match="CoaddPsf, which needs the LSST stack"),
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
