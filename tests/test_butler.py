"""What is asked of a Butler, on real repositories; every wrong name gets an answer that helps."""

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from lsst.daf.butler import Butler

from lsstcutouts.butler import Repository
from lsstcutouts.errors import (
    ConfigurationError,
)
from lsstcutouts.simulate import SimulatedRepository


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


def test_a_band_that_no_filter_has(dp2_repo: SimulatedRepository) -> None:
    with Repository(dp2_repo.root, "dp2") as repository:
        repository.check_bands("ugrizy")  # known to the instrument, whether or not there are coadds
        with pytest.raises(ConfigurationError, match="no band 'x'"):
            repository.check_bands("grx")


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
