"""Repositories that many tests share. They are written once in each test process and must not be changed."""

import pytest

from lsstcutouts.testing import SimulatedRepository, SimulationConfig, simulate

from .support.repositories import SMALL


@pytest.fixture(scope="session")
def dp2_repo(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRepository:
    """Patches 8, 9, 13 and 14 in g, r and i, as lossy DP2 cell coadds; no g in patch 8, no i in patch 14."""
    return simulate(tmp_path_factory.mktemp("dp2") / "repo", SimulationConfig(release="dp2", **SMALL))


@pytest.fixture(scope="session")
def dp1_repo(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRepository:
    """The same patches and bands as DP1 exposures."""
    return simulate(tmp_path_factory.mktemp("dp1") / "repo", SimulationConfig(release="dp1", **SMALL))
