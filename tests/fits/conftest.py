"""A file that several modules change copies of."""

from pathlib import Path

import pytest
from lsst.images.cells import CellCoadd

from lsstcutouts.testing import SimulatedRepository

from ..support.psf import coadds


@pytest.fixture(scope="session")
def with_hole(dp2_repo: SimulatedRepository) -> tuple[Path, CellCoadd]:
    """A file with a missing cell, whose cells are not square."""
    return next((path, coadd) for path, coadd in coadds(dp2_repo) if coadd.psf.bounds.missing)
