"""What is asked of a Butler, on real repositories; every wrong name gets an answer that helps."""

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st
from lsst.daf.butler import Butler, Config, DatasetRef, DatasetType, FileDataset
from lsst.images.formatters import GenericFormatter

from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError, CoverageError
from lsstcutouts.plan.planner import Planner, build_plan
from lsstcutouts.plan.repository import Repository
from lsstcutouts.plan.tracts import _patches
from lsstcutouts.read.export import batch_wcs
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.sky.geometry import YX, Box
from lsstcutouts.sky.skymap import KNOWN_RINGS
from lsstcutouts.testing import SimulatedRepository, SimulationConfig
from lsstcutouts.testing import skymap_of as simulated_skymap
from lsstcutouts.testing.dp1 import write_exposure
from lsstcutouts.testing.exposure import CoaddPixels
from lsstcutouts.testing.simulated_skymap import SimulatedSkyMap, ring_tract_centre

from ..support.examples import examples
from ..support.oracle import files_of
from ..support.repositories import simulated_copy, simulated_once


@pytest.fixture(params=["dp2_repo", "dp1_repo"])
def repo(request: pytest.FixtureRequest) -> SimulatedRepository:
    return request.getfixturevalue(request.param)


def test_coadds_are_located_in_bulk_absences_included(repo: SimulatedRepository) -> None:
    with Repository(repo.root, repo.collections) as repository:
        assert repository.skymap == repo.skymap
        asked = [(repo.tract, p) for p in (*repo.patches, 0)]
        found = repository.locate(asked, "gri")
    assert len(found) == len(repo.patches) * 3 - len(repo.missing)
    assert {(f.patch, f.band) for f in found}.isdisjoint(repo.missing)
    with Butler.from_config(str(repo.root), collections=repo.collections) as butler:
        for one in found:
            ref = butler.find_dataset("deep_coadd", tract=one.tract, patch=one.patch, band=one.band, skymap=repo.skymap)
            assert str(ref.id) == one.dataset_id
            assert butler.getURI(ref).ospath == one.uri
            assert Path(one.uri).stat().st_size == one.size


def test_tracts_agree_with_the_files_own_wcs(repo: SimulatedRepository) -> None:
    from astropy.io import fits
    from astropy.wcs import WCS

    with Repository(repo.root, repo.collections) as repository:
        tract = repository.skymap_of([repo.tract]).tracts[repo.tract]
        assert repository.skymap_of([repo.tract, 1]).tracts.keys() == {repo.tract}
        assert repository.skymap_of([]).tracts == {}
        one = repository.samples()[0]
    with fits.open(one.uri) as hdus:
        header = hdus["IMAGE"].header
        origin = np.array([header["CRVAL1A"], header["CRVAL2A"]])
        x, y = np.random.default_rng(0).uniform(0, 200, (2, 40))
        ra, dec = WCS(header).all_pix2world(x, y, 0)
    yx = tract.projection.sky_to_pixel(ra, dec)
    np.testing.assert_allclose(yx.x, x + origin[0], atol=1e-5)
    np.testing.assert_allclose(yx.y, y + origin[1], atol=1e-5)


def test_an_open_butler_serves_and_stays_open(dp2_repo: SimulatedRepository) -> None:
    with Butler.from_config(str(dp2_repo.root), collections="dp2") as butler:
        with Repository(butler, "dp2") as repository:
            assert repository.samples()
        assert butler.collections.query("*")


def test_bands_of_coadds_and_of_filters(dp2_repo: SimulatedRepository) -> None:
    with Repository(dp2_repo.root, "dp2") as repository:
        assert repository.bands() == ("g", "i", "r")  # those that have coadds
        repository.check_bands("ugrizy")  # known to the instrument, whether or not there are coadds
        with pytest.raises(ConfigurationError, match=r"no band 'x' in 'deep_coadd' in dp2.*; there are: g, i, r"):
            repository.check_bands("grx")


CHAINED = """
datastore:
  cls: lsst.daf.butler.datastores.chainedDatastore.ChainedDatastore
  datastores:
    - datastore: {cls: lsst.daf.butler.datastores.fileDatastore.FileDatastore, root: <butlerRoot>/one, records: {table: one}}
    - datastore: {cls: lsst.daf.butler.datastores.fileDatastore.FileDatastore, root: <butlerRoot>/two, records: {table: two}}
"""


@pytest.mark.parametrize("datastore", ["file", "chained"])
def test_a_subset_without_records_of_filters(dp2_repo: SimulatedRepository, tmp_path: Path, datastore: str) -> None:
    """`transfer_from` brings the dimensions of a coadd along: skymap, tract, patch and band, no filter or instrument."""
    root = tmp_path / "subset"
    Butler.makeRepo(str(root), config=Config.fromYaml(CHAINED) if datastore == "chained" else None)
    with (
        Butler.from_config(str(dp2_repo.root), collections="dp2") as source,
        Butler.from_config(str(root), writeable=True) as target,
    ):
        refs = source.query_datasets("deep_coadd", where="band in ('g', 'r') AND patch in (9, 14)")
        target.transfer_from(source, refs, transfer="copy", register_dataset_types=True, transfer_dimensions=True)
        assert not target.query_dimension_records("physical_filter", explain=False)
        run = refs[0].run
        with Repository(root, run) as repository:
            assert repository.bands() == ("g", "r")
            repository.check_bands("rg")
            with pytest.raises(ConfigurationError, match=r"no band 'i' in .*; there are: g, r"):
                repository.check_bands("gi")
            located = repository.locate([(dp2_repo.tract, p) for p in (8, 9, 14)], "rg")
            assert sorted((one.patch, one.band) for one in located) == [(9, "g"), (9, "r"), (14, "g"), (14, "r")]
            assert all(Path(one.uri).stat().st_size == one.size for one in located)
            with Repository(dp2_repo.root, "dp2") as whole:
                assert repository.skymap_of().tracts == whole.skymap_of().tracts
        with LsstDataFetcher(root, collections=run, bands="gr", size=16) as fetcher:
            plan = fetcher.plan(dp2_repo.truth)
            few = fetcher.fetch_plan(plan, [0, 1, 2])["image"]
        with LsstDataFetcher(dp2_repo.root, collections="dp2", bands="gr", size=16) as fetcher:
            rows = np.flatnonzero(np.isin(fetcher.plan(dp2_repo.truth).object_id, plan.object_id[:3]))
            here = np.flatnonzero(np.isin(plan.patch[:3], (9, 14)))
            np.testing.assert_array_equal(
                few[here], fetcher.fetch_plan(fetcher.plan(dp2_repo.truth), rows)["image"][here]
            )
        # No coadd at all, and no filter: that is what is wrong, whichever band is asked for.
        target.collections.register("nothing")
        with pytest.raises(CoverageError, match="found no 'deep_coadd' in nothing"):
            build_plan(root, dp2_repo.truth, collections="nothing", bands="gr", size=16)


@pytest.mark.parametrize("clipped", [False, True])
@examples(200)
@given(st.integers(1, 40), st.integers(100, 5000), st.floats(0, 0.9), st.data())
def test_any_patch_tells_how_many_there_are(clipped: bool, count: int, inner: int, share: float, data) -> None:
    """Its outer box in pixels, and its place; only at the low end of a clipped tract there is a choice."""
    place, border, side = data.draw(st.integers(0, count - 1)), round(share * inner), count * inner
    low, high = place * inner - border, (place + 1) * inner + border
    if clipped:
        low, high = max(low, 0), min(high, side)
    found = _patches(low, high, place, side)
    if clipped and place == 0 and count > 1:
        fewest = next(n for n in range(1, count + 1) if side % n == 0 and side / n <= high)
        assert found == fewest
        if border <= 0.05 * inner and count <= 10:
            assert found == count  # as in HSC and DC2
    else:
        assert found == count


@pytest.mark.parametrize("release", ["dp1", "dp2"])
def test_the_pixel_scale_is_that_of_the_files(tmp_path: Path, release: str) -> None:
    """Whole patches fit 0.2 arcsec, too: 36 x 0.168 / 0.2 = 30.24, so nothing but the file tells."""
    config = SimulationConfig(
        release=release, cells=(5, 4), cell=50, grid=(25, 30), patches=[(7, 3)], pixel_scale=0.168, bands="gr",
        targets=12, missing=None, holes=False,
    )  # fmt: skip
    repo = simulated_copy(tmp_path / "repo", config)
    wcs = simulated_skymap(config).wcs
    with Repository(repo.root, repo.collections) as repository:
        tract = repository.skymap_of().tracts[repo.tract]
    assert (tract.inner, tract.grid) == ((250, 200), (25, 30))
    assert tract.projection.pixel_scale == pytest.approx([0.168, 0.168], rel=1e-7)
    plan = build_plan(repo.root, repo.truth, collections=repo.collections, bands="gr", size="8 arcsec")
    assert plan.size == (48, 48)  # 47.6; with 0.2 it would be 40
    assert len(plan) == 12
    x, y = wcs.all_world2pix(plan.ra, plan.dec, 0)
    middle = plan.yx0 + (np.array(plan.size) - 1) / 2 + plan.offset
    np.testing.assert_allclose(middle, np.column_stack([y, x]), atol=1e-3)
    with LsstDataFetcher(repo.root, collections=repo.collections, bands="gr", size="8 arcsec") as fetcher:
        batch = fetcher.fetch_plan(fetcher.plan(repo.truth))
        found = batch_wcs(batch, 0).proj_plane_pixel_scales()
        np.testing.assert_allclose([s.to_value("arcsec") for s in found], 0.168, rtol=1e-9)
    files = files_of(repo)
    for i in range(len(plan)):
        one = files[repo.tract, int(plan.patch[i]), "r"]
        y0, x0 = plan.yx0[i] - one.start
        if 0 <= y0 <= one.image.shape[0] - 48 and 0 <= x0 <= one.image.shape[1] - 48:
            np.testing.assert_array_equal(batch["image"][i, 1], one.image[y0 : y0 + 48, x0 : x0 + 48])
    # With its first file damaged, another one tells; with all, the error names a file.
    with Repository(repo.root, repo.collections) as repository:
        uris = [one.uri for one in repository.samples()]
    Path(uris[0]).write_bytes(b"")
    assert build_plan(repo.root, repo.truth, collections=repo.collections, bands="gr", size="8 arcsec").size == (48, 48)


@pytest.mark.parametrize("tract", [0, 18937])
@pytest.mark.parametrize("release", ["dp1", "dp2"])
def test_polar_tracts(tmp_path: Path, release: str, tract: int) -> None:
    """At the north pole the standard turns a tract by half a turn, as astropy and the files do."""
    config = SimulationConfig(
        release=release, cells=2, cell=(60, 70), grid=3, patches=3, tract=tract, bands="g", targets=30, missing=None, holes=False
    )  # fmt: skip
    repo = simulated_once(config)
    with LsstDataFetcher(repo.root, collections=repo.collections, bands="g", size=(11, 16)) as fetcher:
        plan = fetcher.plan(repo.truth)
        batch = fetcher.fetch_plan(plan)
        written = fetcher.write_fits(batch, tmp_path / "cutouts")
    assert len(plan) == 30
    x, y = simulated_skymap(config).wcs.all_world2pix(plan.ra, plan.dec, 0)
    np.testing.assert_allclose(
        plan.yx0 + (np.array(plan.size) - 1) / 2 + plan.offset, np.column_stack([y, x]), atol=1e-3
    )
    files, inside = files_of(repo), 0
    for i in range(30):
        one = files[tract, int(plan.patch[i]), "g"]
        y0, x0 = plan.yx0[i] - one.start
        if 0 <= y0 <= one.image.shape[0] - 11 and 0 <= x0 <= one.image.shape[1] - 16:
            inside += 1
            np.testing.assert_array_equal(batch["image"][i, 0], one.image[y0 : y0 + 11, x0 : x0 + 16])
        for wcs in (batch_wcs(batch, i), WCS(fits.getheader(written[i], "IMAGE_G"))):
            at = wcs.all_world2pix(plan.ra[i], plan.dec[i], 0)
            np.testing.assert_allclose(at, [7.5 + plan.offset[i, 1], 5 + plan.offset[i, 0]], atol=1e-3)
    assert inside > 20


def test_a_tract_without_coadds_owns_its_positions(tmp_path: Path) -> None:
    """On a skymap that is not known: the nearest centre of all tracts that there are records of."""
    config = SimulationConfig(
        cells=2, cell=100, grid=100, patches=[5001, 9901], tract=1, bands="g", targets=4, missing=None, holes=False
    )
    repo = simulated_copy(tmp_path / "repo", config)
    beside = simulated_skymap(replace(config, tract=2))
    far = simulated_skymap(replace(config, tract=9000))
    with Butler.from_config(str(repo.root), writeable=True) as butler:
        butler.registry.insertDimensionData("tract", beside.tract_record(), far.tract_record())
    with Repository(repo.root, repo.collections) as repository:
        skymap = repository.skymap_of()
        assert (set(skymap.tracts), set(skymap.neighbours)) == ({1}, {2})
        assert skymap.find(*np.array([beside.centre]).T).tolist() == [2]


KNOWN = {
    "DC2": ("1e5fa85fe242606426528f5f7b8dbf01cbaaff9e", 7, 0.2),
    "hsc_rings_v1": ("e29fe9f1008e359f36a3677e7d69cc439376d1e6", 9, 0.168),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_skymap_of_another_scale(tmp_path: Path, name: str) -> None:
    """A repository with its record; of each of two tracts that overlap a small piece of one file at its edge."""
    known, patches, scale = KNOWN[name]
    skymaps = []
    for tract in (9697, 9698):
        centre = ring_tract_centre(tract)
        sizes = {"grid": YX(patches, patches), "inner": YX(4000, 4000), "border": YX(100, 100), "pixel_scale": scale}
        skymaps.append(SimulatedSkyMap(name, bytes.fromhex(known), tract, centre, **sizes))
    root = tmp_path / "repo"
    Butler.makeRepo(str(root))
    y, x = np.array([2000.0, 2010.0, 2020.0, 2500.0]), np.array([200.0, 210.0, 2000.0, 200.0])
    ra, dec = skymaps[0].sky(y, x)
    with Butler.from_config(str(root), run="run", writeable=True) as butler:
        insert = butler.registry.insertDimensionData
        insert("instrument", {"name": "HSC", "class_name": "H", "visit_max": 1, "exposure_max": 1, "detector_max": 1})
        insert("physical_filter", {"instrument": "HSC", "name": "HSC-G", "band": "g"})
        insert("skymap", skymaps[0].skymap_record())
        for skymap in skymaps:
            insert("tract", skymap.tract_record())
            insert("patch", *skymap.patch_records())
        kind = DatasetType("deepCoadd", ("skymap", "tract", "patch", "band"), "ExposureF", universe=butler.dimensions)
        butler.registry.registerDatasetType(kind)
        # The first tract's piece lies around the first two targets; the second one's in its middle.
        boxes = Box(1950, 2060, 160, 260), Box(13000, 13100, 13000, 13100)
        for skymap, box in zip(skymaps, boxes, strict=True):
            patch = int(skymap.primary_patch(box.y0, box.x0))
            data_id = {"skymap": name, "tract": skymap.tract, "patch": patch, "band": "g"}
            path = tmp_path / f"{skymap.tract}.fits"
            write_exposure(path, flat_pixels(patch, box), skymap, np.random.default_rng(0), data_id)
            ref = DatasetRef(kind, butler.registry.expandDataId(data_id), run="run")
            butler.ingest(FileDataset(path=str(path), refs=[ref], formatter=GenericFormatter), transfer="copy")
    own = KNOWN_RINGS[known].find(ra, dec)
    with Repository(root, "run", "deepCoadd") as repository:
        assert repository.rings == KNOWN_RINGS[known]
        found = repository.skymap_of([9697]).tracts[9697]
        assert (found.inner, found.grid) == ((4000, 4000), (patches, patches))
        planner = Planner(repository, "g", "5 arcsec")
        plan = planner.plan(Catalog.from_arrays(ra, dec))
        assert plan.size == (round(5 / scale),) * 2
        assert plan.border == (100, 100)  # the skymap's, of which these files show nothing
        assert planner._is_clipped()
    assert set(plan.tract) == {9697}
    np.testing.assert_array_equal(plan.other_tract, own[plan.row] != 9697)
    assert plan.other_tract.any()
    middle = plan.yx0 + (np.array(plan.size) - 1) / 2 + plan.offset
    np.testing.assert_allclose(middle, np.column_stack([y, x])[plan.row], atol=1e-3)


def flat_pixels(patch: int, box: Box) -> CoaddPixels:
    plane = np.ones(box.shape, np.float32)
    return CoaddPixels(
        patch, "g", 0, box, plane, plane, {"NO_DATA": np.zeros(box.shape, bool)}, np.zeros((1, 1, 1, 1)), [], None
    )


def test_a_repository_with_some_patch_records_knows_the_whole_grid(
    dp2_repo: SimulatedRepository, tmp_path: Path
) -> None:
    """As a subset made by `transfer_from` has them."""
    root = tmp_path / "subset"
    shutil.copytree(dp2_repo.root, root)
    with sqlite3.connect(root / "gen3.sqlite3") as database:
        database.execute("PRAGMA foreign_keys = OFF")
        database.execute("DELETE FROM patch WHERE id > 9")
    database.close()
    with Repository(root, "dp2") as subset, Repository(dp2_repo.root, "dp2") as whole:
        assert subset.skymap_of([5063]).tracts[5063] == whole.skymap_of([5063]).tracts[5063]
