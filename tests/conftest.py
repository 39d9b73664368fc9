"""Repositories that many tests share. They are written once in each test process and must not be changed."""

import pytest

from lsstcutouts.simulate import SimulatedRepository, SimulationConfig, simulate

SMALL = {
    "cells": (3, 4),
    "cell": (60, 75),
    "grid": (4, 5),
    "patches": 2,
    "bands": "gri",
    "targets": 80,
    # The first band of one patch, and another band of another patch.
    "missing": ((8, "g"), (14, "i")),
    "seed": 7,
}
"""Nothing square: not the cells, not the patches, not the tract, so that no (y, x) mix-up goes unseen."""


@pytest.fixture(scope="session")
def dp2_repo(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRepository:
    """Patches 8, 9, 13 and 14 in g, r and i, as lossy DP2 cell coadds; no g in patch 8, no i in patch 14."""
    return simulate(tmp_path_factory.mktemp("dp2") / "repo", SimulationConfig(release="dp2", **SMALL))


@pytest.fixture(scope="session")
def dp1_repo(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRepository:
    """The same patches and bands as DP1 exposures."""
    return simulate(tmp_path_factory.mktemp("dp1") / "repo", SimulationConfig(release="dp1", **SMALL))
