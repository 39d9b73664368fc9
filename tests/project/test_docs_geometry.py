"""Every numbered sentence of docs/geometry.md; that of the best tract is with the planner's tests."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from lsstcutouts import ReadOptions
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import GeometryMismatchError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.plan.arguments import parse_size
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.tables import Reason
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.export import batch_wcs, write_fits
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.sky.geometry import YX, TanProjection, box_start
from lsstcutouts.sky.skymap import KNOWN_RINGS, SkyMap, Tract, check_projection, unit_vectors
from lsstcutouts.testing import SimulatedRepository

from ..support.contract import proven, sentence, sentences
from ..support.faulty import copied, file_of
from ..support.oracle import files_of, inner_region
from ..support.tract_oracle import TractMosaic

GRID, INNER = (4, 5), (180, 300)
SIZE = (61, 84)


@pytest.fixture(scope="module", params=["dp2_repo", "dp1_repo"])
def repo(request: pytest.FixtureRequest) -> SimulatedRepository:
    return request.getfixturevalue(request.param)


def own_wcs(repo: SimulatedRepository) -> WCS:
    """Return the WCS of a file over tract pixels, as astropy reads it."""
    with fits.open(next(repo.root.rglob("deep_coadd*.fits"))) as hdus:
        header = hdus["IMAGE"].header
        wcs = WCS(header)
        wcs.wcs.crpix += header["CRVAL1A"], header["CRVAL2A"]
    return wcs


@pytest.fixture(scope="module")
def fetched(repo: SimulatedRepository) -> tuple[dict, CutoutPlan]:
    """Targets all over the files, with boxes that are not square and leave patches, files and the tract."""
    y0, y1, x0, x1 = inner_region(8)[0] - 150, inner_region(13)[1] + 150, inner_region(8)[2] - 200, 1499
    rng = np.random.default_rng(11)
    yx = rng.uniform((y0, x0), (y1, x1), (60, 2))
    ra, dec = own_wcs(repo).all_pix2world(yx[:, 1], yx[:, 0], 0)
    with LsstDataFetcher(
        repo.root,
        collections=repo.collections,
        bands="gri",
        size=SIZE,
        planes=("image", "variance", "valid"),
        cache_bytes="50 MB",
    ) as fetcher:
        plan = fetcher.plan(Catalog.from_arrays(ra, dec))
        return fetcher.fetch_plan(plan), plan


def test_every_sentence_has_its_test() -> None:
    assert sentences() == list(range(1, len(sentences()) + 1))
    assert proven() == set(sentences())


@sentence(1)
def test_whole_numbers_are_centres_of_pixels(fetched, repo: SimulatedRepository) -> None:
    _, plan = fetched
    projection = plan.projections[repo.tract]
    ra, dec = own_wcs(repo).all_pix2world([0, 7], [0, 3], 0)
    yx = projection.sky_to_pixel(ra, dec)
    np.testing.assert_allclose(np.column_stack([yx.y, yx.x]), [[0, 0], [3, 7]], atol=1e-4)
    tract = Tract(repo.tract, projection, YX(*GRID), YX(*INNER))
    assert tract.patch_at([-0.5, -0.501, 0, 0], [-0.5, 0, -0.501, 0]).tolist() == [0, -1, -1, 0]


@sentence(2)
def test_rows_come_first(fetched) -> None:
    batch, plan = fetched
    assert batch["image"].shape == (len(plan), 3, *SIZE)
    assert plan.size == SIZE
    yx = plan.projections[int(plan.tract[0])].sky_to_pixel(plan.ra[0], plan.dec[0])
    assert abs(yx.y - batch["yx0"][0, 0] - 30) < 1
    assert abs(yx.x - batch["yx0"][0, 1] - 41.5) < 1


@sentence(3)
def test_north_is_up_and_east_is_left(fetched, repo: SimulatedRepository) -> None:
    _, plan = fetched
    projection = plan.projections[repo.tract]
    (ra, dec), (crx, cry) = projection.crval, projection.crpix
    north, east = projection.sky_to_pixel(ra, dec + 1e-3), projection.sky_to_pixel(ra + 1e-3, dec)
    assert north.y > cry + 1
    assert abs(north.x - crx) < 1e-3
    assert east.x < crx - 1
    assert abs(east.y - cry) < 1e-3


@sentence(4)
def test_the_grid_is_gnomonic(fetched, repo: SimulatedRepository) -> None:
    _, plan = fetched
    projection = plan.projections[repo.tract]
    wcs = WCS(fits.Header(projection.header()))
    y, x = np.random.default_rng(0).uniform(-400, 1900, (2, 200))
    yx = projection.sky_to_pixel(*wcs.all_pix2world(x, y, 0))
    np.testing.assert_allclose([yx.y, yx.x], [y, x], atol=1e-6)
    assert wcs.sip is None
    there = own_wcs(repo).all_world2pix(*projection.pixel_to_sky(y, x), 0)
    np.testing.assert_allclose(there, [x, y], atol=1e-4)  # the plan's comes from the corners of the tract's region


@sentence(5)
def test_one_box_for_all_bands(fetched, repo: SimulatedRepository) -> None:
    _, plan = fetched
    for uri in plan.files.uri:
        with open_coadd(uri) as coadd:
            check_projection(coadd.projection, plan.projections[repo.tract], coadd.bbox, uri)
    alone = [
        build_plan(repo.root, repo.truth, collections=repo.collections, bands=b, size=SIZE) for b in ("r", "gri", "ir")
    ]
    box = [dict(zip(p.object_id.tolist(), map(tuple, p.yx0.tolist()), strict=True)) for p in alone]
    for one in box:
        assert all(box[1][i] == yx0 for i, yx0 in one.items())


@sentence(6)
@pytest.mark.parametrize("size", [1, 2, (7, 8), (700, 333)])
def test_boxes_have_exactly_their_size(repo: SimulatedRepository, size) -> None:
    with LsstDataFetcher(repo.root, collections=repo.collections, bands="r", size=size, cache_bytes="50 MB") as fetcher:
        plan = fetcher.plan(Catalog.from_any(repo.truth)[np.arange(5)])
        assert fetcher.fetch_plan(plan)["image"].shape[2:] == parse_size(size)


@sentence(7)
def test_where_a_box_starts(fetched, repo: SimulatedRepository) -> None:
    _, plan = fetched
    x, y = own_wcs(repo).all_world2pix(plan.ra, plan.dec, 0)
    want = np.floor(np.column_stack([y, x]) - (np.array(SIZE) - 1) / 2 + 0.5)
    np.testing.assert_array_equal(plan.yx0, want)
    np.testing.assert_array_equal(box_start([10.0, 10.5, 11.0], 3), [9, 10, 10])
    np.testing.assert_array_equal(box_start([10.0, 10.49, 10.51], 4), [9, 9, 9])


@sentence(8, 9)
@pytest.mark.parametrize("size", [(31, 31), (32, 32), (31, 32)])
def test_the_middle_of_a_box(repo: SimulatedRepository, size) -> None:
    plan = build_plan(repo.root, repo.truth, collections=repo.collections, bands="gri", size=size)
    middle = plan.yx0 + (np.array(size) - 1) / 2
    np.testing.assert_array_equal(middle % 1, np.broadcast_to([0.0 if n % 2 else 0.5 for n in size], middle.shape))
    x, y = own_wcs(repo).all_world2pix(plan.ra, plan.dec, 0)
    away = np.column_stack([y, x]) - middle
    assert np.abs(away).max() <= 0.5
    np.testing.assert_allclose(plan.offset, away, atol=1e-4)
    in_cutout = (np.array(size) - 1) / 2 + plan.offset
    np.testing.assert_allclose(plan.yx0 + in_cutout, np.column_stack([y, x]), atol=1e-4)


@sentence(10)
def test_angles_are_whole_pixels(repo: SimulatedRepository) -> None:
    sizes = {("9.7 arcsec", "9.69 arcsec"): (49, 48), "0.01 arcsec": (1, 1), ("0.2 arcmin", "6 arcsec"): (60, 30)}
    for size, want in sizes.items():
        assert build_plan(repo.root, repo.truth, collections=repo.collections, bands="r", size=size).size == want


@sentence(11, 12)
def test_files_say_where_they_are(fetched, repo: SimulatedRepository) -> None:
    _, plan = fetched
    for (_, patch, band), one in files_of(repo).items():
        row = int(np.flatnonzero(plan.patches.patch == patch)[0])
        with open_coadd(plan.files.uri[plan.patches.files[row, plan.bands.index(band)]]) as coadd:
            assert (coadd.bbox.start, coadd.bbox.shape) == (one.start, one.image.shape)
        inner = plan.patches.inner_box(row)
        assert (inner.y0, inner.y1, inner.x0, inner.x1) == inner_region(patch)
        assert coadd.bbox.start == (inner.y0 - plan.border.y, inner.x0 - plan.border.x)
        assert (coadd.bbox.y1, coadd.bbox.x1) == (inner.y1 + plan.border.y, inner.x1 + plan.border.x)
    tract = Tract(1, plan.projections[repo.tract], YX(*GRID), YX(*INNER))
    y, x = np.random.default_rng(1).uniform((-0.5, -0.5), (719.49, 1499.49), (500, 2)).T
    inside = [
        [
            p
            for p in range(20)
            if tract.inner_box(p).y0 - 0.5 <= b < tract.inner_box(p).y1 - 0.5
            and tract.inner_box(p).x0 - 0.5 <= a < tract.inner_box(p).x1 - 0.5
        ]
        for b, a in zip(y, x, strict=True)
    ]
    assert inside == tract.patch_at(y, x).reshape(-1, 1).tolist()


def mosaics(repo: SimulatedRepository, plan: CutoutPlan) -> dict[tuple[int, str], TractMosaic]:
    return {
        (p, b): TractMosaic({q: f for (_, q, c), f in files_of(repo).items() if c == b}, p, GRID, INNER)
        for p in np.unique(plan.patch).tolist()
        for b in plan.bands
    }


@sentence(13, 14, 15, 20, 21, 22)
def test_whose_pixels_fill_a_box(fetched, repo: SimulatedRepository) -> None:
    batch, plan = fetched
    mosaic = mosaics(repo, plan)
    kinds = set()
    for i in range(len(plan)):
        for b, band in enumerate(plan.bands):
            patch = int(plan.patch[i])
            want = mosaic[patch, band].crop(plan.yx0[i].tolist(), SIZE)
            finite, covered = np.isfinite(want["image"]), want["covered"]
            np.testing.assert_array_equal(batch["image"][i, b], np.where(finite, want["image"], 0))
            np.testing.assert_array_equal(batch["valid"][i, b], covered & finite & ~want["no_data"])
            assert not batch["variance"][i, b][~covered].any()
            assert not batch["valid"][i, b][~covered].any()
            assert batch["band_present"][i, b] == covered.any()
            own = (repo.tract, patch, band) in files_of(repo)
            kinds.add((own, "all" if covered.all() else "some" if covered.any() else "none"))
    assert {(True, "all"), (False, "some"), (False, "none")} <= kinds


@sentence(20, 21)
def test_files_that_cannot_be_read_are_present_and_not_valid(
    fetched, repo: SimulatedRepository, tmp_path: Path
) -> None:
    batch, plan = fetched
    broken = copied(repo, tmp_path)
    file_of(broken, 9, "r").unlink()
    uris = tuple(uri.replace(str(repo.root), str(broken.root)) for uri in plan.files.uri)
    files = type(plan.files)(uris, plan.files.size, plan.files.dataset_id)
    options = ReaderOptions(planes=("image", "variance", "valid"), on_read_error="mask")
    reader = CutoutReader(CutoutPlan(**{**plan.__dict__, "files": files}), options, cache=TileCache("50 MB"))
    lossy = reader.read(np.arange(len(plan)))
    reader.close()
    np.testing.assert_array_equal(lossy["band_present"], batch["band_present"])
    assert not (lossy["valid"] & ~batch["valid"]).any()
    lost = batch["valid"] & ~lossy["valid"]
    assert lost[:, 1].any()
    assert not lost[:, [0, 2]].any()
    assert not lossy["image"][lost].any()
    y0, x0 = files_of(repo)[repo.tract, 9, "r"].start
    y1, x1 = np.add((y0, x0), files_of(repo)[repo.tract, 9, "r"].image.shape)
    at = np.argwhere(lost)  # only where the file lies
    y, x = (plan.yx0[at[:, 0]] + at[:, 2:]).T
    assert ((y >= y0) & (y < y1) & (x >= x0) & (x < x1)).all()


@sentence(16)
def test_files_of_another_grid_are_refused(fetched, repo: SimulatedRepository) -> None:
    _, plan = fetched
    one = plan.projections[repo.tract]

    def moved(by: float) -> CutoutPlan:
        projection = TanProjection(one.crval, (one.crpix[0] + by, one.crpix[1]), one.cd)
        return CutoutPlan(**{**plan.__dict__, "projections": {repo.tract: projection}})

    with LsstDataFetcher(repo.root, collections=repo.collections, bands="gri", size=SIZE) as fetcher:
        fetcher.fetch_plan(moved(0.009), rows=[0])
        fetcher.refresh()
        with pytest.raises(GeometryMismatchError, match=r"0\.011 px"):
            fetcher.fetch_plan(moved(0.011), rows=[0])


@sentence(17)
def test_the_primary_tract() -> None:
    rings = KNOWN_RINGS["a5f11e561505dc6b24ec8f4ef547bc592e8299da"]
    # Within one ring the border runs along RA, however near the centres are: tracts 5063 and 5064.
    (ra1, dec), (ra2, _) = rings.centre(5063), rings.centre(5064)
    border = (ra1 + ra2) / 2
    ra, dec = np.array([border - 1e-4, border + 1e-4]), np.full(2, dec + 0.7)
    assert rings.find(ra, dec).tolist() == [5063, 5064]
    pixel = 0.2 / 3600
    tracts = {
        n: Tract(n, TanProjection((a, 0.0), (499.0, 499.0), (-pixel, 0, 0, pixel)), YX(1, 1), YX(1000, 1000))
        for n, a in ((4, 10.0), (9, 10.04))
    }
    found = SkyMap("other", tracts).find(np.array([10.019, 10.021]), np.zeros(2))
    assert found.tolist() == [4, 9]
    centres = unit_vectors([10.0, 10.04], [0, 0])
    assert np.argmax(unit_vectors([10.019, 10.021], [0, 0]) @ centres.T, axis=1).tolist() == [0, 1]


@sentence(19)
def test_a_cutout_is_of_one_tract(fetched) -> None:
    _, plan = fetched
    for i in range(len(plan)):
        assert set(plan.patches.tract[[int(plan.primary[i]), *plan.others_of(i)]].tolist()) == {int(plan.tract[i])}


@sentence(23)
def test_what_is_delivered(fetched, repo: SimulatedRepository) -> None:
    _, plan = fetched
    assert (plan.rejected.reason == Reason.NO_COADD).any()
    x, y = own_wcs(repo).all_world2pix(np.append(plan.ra, plan.rejected.ra), np.append(plan.dec, plan.rejected.dec), 0)
    start = np.floor(np.column_stack([y, x]) - (np.array(SIZE) - 1) / 2 + 0.5)
    reached = np.zeros(len(start), bool)
    for one in files_of(repo).values():
        first, last = np.array(one.start), np.array(one.start) + one.image.shape
        reached |= ((start < last) & (start + SIZE > first)).all(axis=1)
    np.testing.assert_array_equal(np.arange(len(start)) < len(plan), reached)
    # Beyond the tract's edge no tract is a target's own, and files reach there.
    ra, dec = own_wcs(repo).all_pix2world([1520.0, 1400.0], [400.0, 400.0], 0)
    where = {"collections": repo.collections, "bands": "gri", "size": 21}
    beyond, strict = (
        build_plan(repo.root, {"ra": ra, "dec": dec}, read=ReadOptions(tract=t), **where) for t in ("primary", "strict")
    )
    assert (beyond.row.tolist(), beyond.other_tract.tolist()) == ([0, 1], [True, False])
    assert (strict.row.tolist(), strict.rejected.row.tolist(), strict.rejected.tract.tolist()) == ([1], [0], [-1])


@sentence(24, 25)
def test_a_cutout_keeps_its_place(fetched, repo: SimulatedRepository, tmp_path: Path) -> None:
    batch, plan = fetched
    some = {name: np.asarray(values)[:12] for name, values in batch.items()}
    y, x = np.mgrid[0 : SIZE[0] : 20, 0 : SIZE[1] : 20]
    for i, path in enumerate(write_fits(some, tmp_path, plan)):
        y0, x0 = plan.yx0[i].tolist()
        header = fits.getheader(path, "IMAGE_R")
        crpix = own_wcs(repo).wcs.crpix
        # To 1e-3, since another tangent point may do the same: the sky below is what counts.
        np.testing.assert_allclose([header["CRPIX1"], header["CRPIX2"]], [crpix[0] - x0, crpix[1] - y0], atol=1e-3)
        np.testing.assert_allclose(batch["wcs"][i, 2:4], [crpix[0] - 1 - x0, crpix[1] - 1 - y0], atol=1e-3)
        for wcs in (batch_wcs(batch, i), WCS(header)):
            there = own_wcs(repo).all_world2pix(*wcs.all_pix2world(x, y, 0), 0)
            np.testing.assert_allclose(there, [x + x0, y + y0], rtol=0, atol=1e-6)
        assert (header["LTV1"], header["LTV2"]) == (-x0, -y0)
        assert (header["CRVAL1A"], header["CRVAL2A"]) == (x0, y0)
