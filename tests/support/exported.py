"""Exports of the shared repositories, and whether batches and reports of both are equal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsstcutouts import ReadOptions, export
from lsstcutouts.read.batch_report import BatchReport
from lsstcutouts.testing import SimulatedRepository

__all__ = ["ALL_PLANES", "MASKS", "assert_equal_batches", "assert_equal_reports", "exported", "files_of"]

MASKS = ("SATURATED", "NO_DATA", "DETECTED")
ALL_PLANES = ("image", "variance", "mask", "valid", "psf")


def exported(repo: SimulatedRepository, folder: Path, catalog: Any = None, **changes: Any) -> Path:
    """Return the folder of a new export with all planes, in several files of several row groups."""
    settings: dict[str, Any] = {
        "collections": repo.collections,
        "bands": "gri",
        "size": (24, 31),
        "planes": ALL_PLANES,
        "read": ReadOptions(mask_planes=MASKS),
        "partition_bytes": 1_000_000,
        "threads": 1,
        **changes,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsstcutouts.bulk.part_writer._LEAST_ROWS", 16)
        patch.setattr("lsstcutouts.bulk.part_writer._GROUP_BYTES", 2**17)
        result = export(repo.truth if catalog is None else catalog, repo.root, folder, **settings)
    assert result.complete
    assert not result.failed
    return folder


def files_of(folder: Path) -> list[Path]:
    """Return the files with pixels of an export."""
    return sorted(folder.glob("cutouts/dataset/Norder=*/Dir=*/Npix=*.parquet"))


def assert_equal_batches(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Compare all values of two batches bit for bit, and their types."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, list):
            assert value == other[name], name
            continue
        left, right = np.asarray(value), np.asarray(other[name])
        assert (left.dtype, left.shape) == (right.dtype, right.shape), name
        assert left.tobytes() == right.tobytes(), name


def assert_equal_reports(one: BatchReport, other: BatchReport) -> None:
    """Compare what happened to the targets of two batches."""
    for name in ("targets", "outcome", "quality"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    affected = [{place for _, places in report.failures for place in places} for report in (one, other)]
    assert affected[0] == affected[1]
