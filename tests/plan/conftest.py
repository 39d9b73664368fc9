"""One small repository, and a copy that a test may break."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..support.repositories import simulated_once


@pytest.fixture(scope="session")
def small() -> SimulatedRepository:
    """One patch in g and r; not to be changed."""
    config = SimulationConfig(cells=2, cell=50, patches=1, bands="gr", targets=4, missing=())
    return simulated_once(config)


@pytest.fixture
def own(small: SimulatedRepository, tmp_path: Path) -> Path:
    """A copy of it that a test may break."""
    return Path(shutil.copytree(small.root, tmp_path / "repo"))


@pytest.fixture(scope="session")
def target(small: SimulatedRepository) -> tuple[Any, Any]:
    """Right ascension and declination of one target of it, as arrays of one value; degrees."""
    table = pyarrow.parquet.read_table(small.truth).slice(0, 1)
    return table["ra"].to_numpy(), table["dec"].to_numpy()
