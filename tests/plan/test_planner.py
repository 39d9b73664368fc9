"""From catalog and repository to a plan: boxes, patches under them, and rows that cannot be delivered."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy import units

from lsstcutouts import ReadOptions
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import CatalogError, ConfigurationError, CoverageError, DatasetError, ReadError, RepositoryError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.plan.arguments import AngularSize, has_size, parse_bands, parse_size
from lsstcutouts.plan.planner import Planner, build_plan
from lsstcutouts.plan.repository import Repository
from lsstcutouts.plan.tables import Reason
from lsstcutouts.sky.geometry import YX
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..support.oracle import files_of, inner_region
from ..support.repositories import simulated_copy


@pytest.fixture(params=["dp2_repo", "dp1_repo"])
def repo(request: pytest.FixtureRequest) -> SimulatedRepository:
    return request.getfixturevalue(request.param)


def test_boxes_hold_their_target_in_the_middle(repo: SimulatedRepository) -> None:
    plan = build_plan(repo.root, repo.truth, collections=repo.collections, bands="gri", size=(33, 48))
    yx = plan.projections[repo.tract].sky_to_pixel(plan.ra, plan.dec)
    middle = plan.yx0 + (np.array([33, 48]) - 1) / 2
    np.testing.assert_allclose(np.column_stack([yx.y, yx.x]) - middle, plan.offset, atol=1e-4)
    assert np.abs(plan.offset).max() <= 0.5
    for target, patch in enumerate(plan.patch.tolist()):
        y0, y1, x0, x1 = inner_region(patch)
        assert y0 - 0.5 <= yx.y[target] < y1 - 0.5
        assert x0 - 0.5 <= yx.x[target] < x1 - 0.5


def test_every_file_under_a_box_is_in_the_plan(repo: SimulatedRepository) -> None:
    plan = build_plan(repo.root, repo.truth, collections=repo.collections, bands="gri", size=100)
    for target in range(len(plan)):
        y0, x0 = plan.yx0[target].tolist()
        under = {
            patch
            for (_, patch, _), f in files_of(repo).items()
            if y0 < f.start[0] + f.image.shape[0]
            and f.start[0] < y0 + 100
            and x0 < f.start[1] + f.image.shape[1]
            and f.start[1] < x0 + 100
        }
        listed = {int(plan.patch[target]), *plan.patches.patch[plan.others_of(target)].tolist()}
        assert under <= listed


def test_rows_that_cannot_be_delivered_say_why(dp2_repo: SimulatedRepository) -> None:
    with Repository(dp2_repo.root, "dp2") as repository:
        tract = repository.skymap_of().tracts[dp2_repo.tract]
        # The middle of patch 1, which has no coadds and none near, a covered target, and one on the other side of the sky.
        y0, y1, x0, x1 = inner_region(0)
        ra, dec = tract.projection.pixel_to_sky((y0 + y1) / 2, (x0 + x1) / 2)
        inside = Catalog.from_any(dp2_repo.truth)
        catalog = Catalog.from_arrays([float(ra), inside.ra[0], 180.0], [float(dec), inside.dec[0], 45.0], [7, 8, 9])
        plan = Planner(repository, "gri", 32).plan(catalog)
    assert plan.object_id.tolist() == [8]
    assert plan.rejected.object_id.tolist() == [7, 9]
    assert plan.rejected.reason.tolist() == [Reason.NO_COADD, Reason.OUTSIDE_TRACTS]


def test_nothing_covered_says_where_the_coverage_is(dp2_repo: SimulatedRepository) -> None:
    with pytest.raises(
        CoverageError, match=r"none of the 2 targets.*tract 5063, patch \d+ around ra 53\.0\d, dec -27\.5\d"
    ):
        build_plan(dp2_repo.root, {"ra": [180.0, 181.0], "dec": [45.0, 46.0]}, collections="dp2", bands="g", size=32)


def test_hours_and_swapped_columns_get_a_hint(dp2_repo: SimulatedRepository) -> None:
    truth = Catalog.from_any(dp2_repo.truth)
    options = {"collections": "dp2", "bands": "g", "size": 32}
    with pytest.raises(CoverageError, match=r"as hours, 7\d of the first 80 targets .*: give unit='hourangle,deg'"):
        build_plan(dp2_repo.root, {"ra": truth.ra / 15.0, "dec": truth.dec}, **options)
    with pytest.raises(CoverageError, match=r"RA and Dec swapped, 7\d of the first 80 targets .* the other way round"):
        build_plan(dp2_repo.root, {"ra": truth.dec, "dec": truth.ra}, **options)
    # Neither is covered, nor with the columns swapped, nor swapped back.
    for ra, dec in ((18.0, 45.0), (53.0, -80.0), (300.0, 10.0)):
        with pytest.raises(CoverageError) as caught:
            build_plan(dp2_repo.root, {"ra": [ra], "dec": [dec]}, **options)
        assert "would be covered" not in str(caught.value)


def test_the_butler_is_asked_in_bulk_and_once(dp2_repo: SimulatedRepository) -> None:
    class Counting(Repository):
        calls = 0

        def locate(self, patches, bands):
            self.calls += 1
            return super().locate(patches, bands)

        def skymap_of(self, tracts=None):
            self.calls += 1
            return super().skymap_of(tracts)

    with Counting(dp2_repo.root, "dp2") as repository:
        planner = Planner(repository, "gri", 32)
        catalog = Catalog.from_any(dp2_repo.truth)
        planner.plan(catalog)
        first = repository.calls
        assert first <= 3
        planner.plan(catalog)
        assert repository.calls == first
        planner.forget()
        planner.plan(catalog)
        assert repository.calls == 2 * first


def test_an_empty_collection(tmp_path) -> None:
    repo = simulated_copy(
        tmp_path / "repo", SimulationConfig(cells=2, cell=50, patches=1, bands="g", targets=4, missing=())
    )
    from lsst.daf.butler import Butler

    with Butler.from_config(str(repo.root), writeable=True) as butler:
        butler.collections.register("empty")
    with pytest.raises((CoverageError, DatasetError), match="empty"):
        build_plan(repo.root, repo.truth, collections="empty", bands="g", size=32)


def test_one_unreadable_file_does_not_stop_the_plan(tmp_path) -> None:
    repo = simulated_copy(
        tmp_path / "repo", SimulationConfig(cells=2, cell=50, patches=1, bands="gr", targets=4, missing=())
    )
    with Repository(repo.root, "dp2") as repository:
        uris = [f.uri for f in repository.samples()]
    Path(uris[0]).write_bytes(b"")
    assert len(build_plan(repo.root, repo.truth, collections="dp2", bands="gr", size=16))
    Path(uris[1]).write_bytes(b"")
    with pytest.raises(ReadError, match=r"\.fits"):
        build_plan(repo.root, repo.truth, collections="dp2", bands="gr", size=16)


def test_bands_and_sizes() -> None:
    assert parse_bands("gri") == ("g", "r", "i")
    assert parse_bands(["g", "N921"]) == ("g", "N921")
    assert parse_size(64) == YX(64, 64)
    assert parse_size([32, np.int64(48)]) == YX(32, 48)
    for bad in ("", [], "gg", [1]):
        with pytest.raises(ConfigurationError, match="bands"):
            parse_bands(bad)
    with pytest.raises(ConfigurationError, match=r"band names of the Butler \(g, not the filter LSST_g\).*\[LSST_g\]"):
        parse_bands("LSST_g")
    with pytest.raises(ConfigurationError, match="one letter per band"):
        parse_bands("N921")
    for tract in ("primary", "strict", "best"):
        assert ReadOptions(tract=tract).tract == tract
    with pytest.raises(ConfigurationError, match="tract must be one of primary, strict, best, got 'nearest'"):
        ReadOptions(tract="nearest")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "want"),
    [
        ("64 px", YX(64, 64)),
        ("64px", YX(64, 64)),
        (("64 pix", 32), YX(64, 32)),
        (64 * units.pix, YX(64, 64)),
        ("12 arcsec", AngularSize(12.0, 12.0)),
        ("0.2arcmin", AngularSize(12.0, 12.0)),
        (("12 arcsec", "0.1 arcmin"), AngularSize(12.0, 6.0)),
        (12 * units.arcsec, AngularSize(12.0, 12.0)),
        ([12, 6] * units.arcsec, AngularSize(12.0, 6.0)),
        ((12 * units.arcsec, "8 arcsec"), AngularSize(12.0, 8.0)),
        (AngularSize(3.0, 4.0), AngularSize(3.0, 4.0)),
    ],
)
def test_sizes_with_units(size: object, want: object) -> None:
    got = parse_size(size)
    assert type(got) is type(want)
    np.testing.assert_allclose([got.y, got.x], [want.y, want.x], rtol=1e-14)
    assert parse_size(got) == got


@pytest.mark.parametrize(
    ("size", "words"),
    [
        *((bad, "size must be") for bad in (0, -1, 6.5, (1, 2, 3), True, (0, 5), None, (), float("nan"), [6.5, 7])),
        *((bad, "positive and finite") for bad in ("0 arcsec", "-3 arcsec", "nan arcsec", "inf arcsec", "0 px")),
        *((bad, "cannot be parsed") for bad in ("twelve", "12 foo", "", "arcsec arcsec", "12;arcsec")),
        *((bad, "no unit") for bad in ("64", "6.5")),
        *((bad, "has the unit '(s|arcsec2|m)'") for bad in ("12 s", "12 arcsec2", 3 * units.m)),
        ("12.5 px", "integer number of pixels"),
        (("12 px", "12 arcsec"), "pixels and an angle"),
        ((64, "12 arcsec"), "pixels and an angle"),
        ((True, 5), "size must be"),
    ],
)
def test_sizes_that_cannot_be(size: object, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_size(size)


def test_an_angle_becomes_the_nearest_number_of_pixels() -> None:
    scale = YX(0.2, 0.25)
    assert AngularSize(12.0, 12.0).pixels(scale) == YX(60, 48)
    # 60.5 and 61.49 px; halves go up whatever the last bits of the pixel scale are; never less than one pixel.
    assert AngularSize(12.1, 12.298).pixels(YX(0.2 * (1 + 1e-10), 0.2)) == YX(61, 61)
    assert AngularSize(12.1, 0.001).pixels(YX(0.2 * (1 - 1e-10), 0.2)) == YX(61, 1)
    assert str(AngularSize(12.0, 8.5)) == "12 x 8.5 arcsec"
    assert pickle.loads(pickle.dumps(AngularSize(1.0, 2.0))) == AngularSize(1.0, 2.0)


def test_a_plan_of_an_angle(repo: SimulatedRepository) -> None:
    plan = build_plan(repo.root, repo.truth, collections=repo.collections, bands="g", size=("9.7 arcsec", "12 arcsec"))
    assert plan.size == YX(49, 60)  # 48.5 px of 0.2 arcsec, and 60
    assert has_size(plan, parse_size(("9.7 arcsec", "12 arcsec")))
    assert has_size(plan, parse_size((49, 60)))
    assert not has_size(plan, parse_size(("9.6 arcsec", "12 arcsec")))
    assert not has_size(plan, parse_size((60, 49)))


def test_the_plan_tells_what_a_file_has_around_it(repo: SimulatedRepository) -> None:
    plan = build_plan(repo.root, repo.truth, collections=repo.collections, bands="gri", size=32)
    for (_, patch, _), one in files_of(repo).items():
        y0, y1, x0, x1 = inner_region(patch)
        assert (y0 - one.start[0], x0 - one.start[1]) == plan.border
        assert (one.start[0] + one.image.shape[0] - y1, one.start[1] + one.image.shape[1] - x1) == plan.border
    # A cell coadd has a kernel for each cell; the PSF of an exposure needs the LSST stack.
    assert (plan.psf_shape is None) == (repo.release == "dp1")
    if repo.release == "dp2":
        with open_coadd(plan.files.uri[0]) as coadd:
            assert plan.psf_shape == coadd.psf.kernel_shape


def test_bad_catalogs_are_found_before_the_repository_is_opened() -> None:
    with pytest.raises(CatalogError):
        build_plan("nowhere", "nowhere.parquet", collections="dp2", bands="g", size=32)


def test_a_query_that_fails_leaves_no_absence_behind(dp2_repo: SimulatedRepository) -> None:
    class Flaky(Repository):
        broken = True

        def locate(self, patches, bands):
            if self.broken:
                raise RepositoryError("the database is away")
            return super().locate(patches, bands)

    catalog = Catalog.from_any(dp2_repo.truth)
    with Flaky(dp2_repo.root, "dp2") as repository:
        planner = Planner(repository, "gri", 32)
        with pytest.raises(RepositoryError):
            planner.plan(catalog)
        repository.broken = False
        assert len(planner.plan(catalog)) > 70
