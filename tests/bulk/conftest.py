"""An export that the tests of this folder look at; they must not change it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lsstcutouts import ReadOptions, export
from lsstcutouts.bulk.partition_job import JobResult
from lsstcutouts.testing import SimulatedRepository

from ..support.hats import divided, write_catalog

SETTINGS: dict[str, Any] = {
    "collections": "dp2",
    "bands": "gri",
    "size": (20, 24),
    "threads": 2,
    "cache_bytes": "100 MB",
}
"""Of all exports here: a box that is not square."""

MASKS = ("SAT", "CR")


@dataclass(frozen=True)
class Exported:
    """An export of 80 targets and 60 rows outside the coverage."""

    repo: SimulatedRepository
    catalog: Path
    folder: Path
    result: JobResult


def targets_of(repo: SimulatedRepository) -> pa.Table:
    """Return the targets of a repository, and 60 rows outside the coverage."""
    table = pq.read_table(repo.truth).replace_schema_metadata(None)
    far = table.slice(0, 60)
    far = far.set_column(0, "object_id", pa.array(far["object_id"].to_numpy() + 10**6))
    far = far.set_column(1, "ra", pa.array(far["ra"].to_numpy() + 1 + np.arange(60) / 10))
    return pa.concat_tables([table, far.cast(table.schema)]).combine_chunks()


@pytest.fixture(scope="session")
def targets(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a HATS collection of the targets in partitions of at most 25 rows."""
    return write_catalog(tmp_path_factory.mktemp("targets") / "my targets", divided(targets_of(dp2_repo), 25))


@pytest.fixture(scope="session")
def exported(dp2_repo: SimulatedRepository, targets: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exports") / "an export"
    result = export(
        targets,
        dp2_repo.root,
        folder,
        **SETTINGS,
        planes=("image", "variance", "ivar", "mask", "valid", "psf"),
        read=ReadOptions(mask_planes=MASKS),
        partition_bytes=300_000,
    )
    return Exported(dp2_repo, targets, folder, result)
