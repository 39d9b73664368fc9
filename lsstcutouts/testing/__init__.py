"""Write a small, real Butler repository with a sky of known truth.

The repository has a SQLite registry, a file datastore and coadds in the formats of Data Preview 1 or 2, and
needs nothing of the LSST stack but its packages on PyPI::

    from lsstcutouts.testing import SimulationConfig, simulate

    repository = simulate("demo", SimulationConfig(release="dp2", cells=10, patches=2))
    repository.truth    # Parquet table: object_id, ra, dec, label, ...
"""

from .config import SimulationConfig
from .simulated_skymap import SimulatedSkyMap, skymap_of
from .simulation import SimulatedRepository, simulate

__all__ = ["SimulatedRepository", "SimulatedSkyMap", "SimulationConfig", "simulate", "skymap_of"]
