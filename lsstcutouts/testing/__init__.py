"""Writes a small Butler repository with simulated images of a known sky, for demonstrations and tests.

The repository has a SQLite registry, a file datastore and coadds in the format of Data Preview 1 or 2. It needs only
the LSST packages that `lsstcutouts` installs from PyPI. A pytest fixture for tests of your own code (``conftest.py``)::

    import pytest

    from lsstcutouts.testing import SimulationConfig, simulate

    SMALL = SimulationConfig(cells=2, cell=64, grid=4, patches=1, bands="gr", targets=4, missing=None, holes=False)


    @pytest.fixture(scope="session")
    def repository(tmp_path_factory):
        return simulate(tmp_path_factory.mktemp("butler") / "repo", SMALL)

``SMALL`` is one patch of 256 x 256 pixels in two bands. A test then reads from it::

    import pyarrow.parquet

    from lsstcutouts import LsstDataFetcher


    def test_cutouts(repository):
        truth = pyarrow.parquet.read_table(repository.truth)  # object_id, ra, dec (degrees, ICRS), label, ...
        with LsstDataFetcher(repository.root, collections=repository.collections, bands="gr", size=32) as fetcher:
            batch = fetcher.fetch(truth["ra"].to_numpy(), truth["dec"].to_numpy())
        assert batch["image"].shape == (4, 2, 32, 32)  # (N, B, Y, X)
"""

from .config import SimulationConfig
from .simulated_skymap import SimulatedSkyMap, skymap_of
from .simulation import SimulatedRepository, simulate

__all__ = ["SimulatedRepository", "SimulatedSkyMap", "SimulationConfig", "simulate", "skymap_of"]
