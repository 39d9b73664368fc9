"""What is known of a finished partition: the plan of its rows, what happened to them, and the files that hold them."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..catalog.healpix import Cell
from ..errors.secrets import is_signed
from ..plan.cutout_plan import CutoutPlan
from ..plan.parquet import to_arrow
from ..plan.quality import Outcome
from ..read.exports.export_files import FINISHED, META
from ..source.writing import atomic_file

__all__ = ["OutputFile", "PartitionResult", "finished_path", "read_results", "write_finished", "write_result"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputFile:
    """A file that holds rows of a partition: its path in the folder of the collection, cell, rows and bytes."""

    path: str
    order: int
    pixel: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class PartitionResult:
    """The result of a partition.

    Attributes
    ----------
    order, pixel
        Its cell.
    rows
        Rows of the catalog.
    outcomes
        Number of rows by name of `Outcome`.
    files
        What was written.
    failures
        Texts of read errors, with the number of rows that each affected.
    fingerprint
        Of its plan; empty if no row of it is in the catalog.
    seconds
        How long it took.
    error
        Why it failed; empty if it did not.
    skipped
        Whether it was finished before.
    """

    order: int
    pixel: int
    rows: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    files: tuple[OutputFile, ...] = ()
    failures: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    seconds: float = 0.0
    error: str = ""
    skipped: bool = False

    @property
    def bytes(self) -> int:
        """Bytes of its files."""
        return sum(file.bytes for file in self.files)

    @property
    def delivered(self) -> int:
        """Rows with pixels, or predictions."""
        return self.outcomes.get(Outcome.DELIVERED.name.lower(), 0)

    @property
    def cell(self) -> Cell:
        """Its cell."""
        return Cell(self.order, self.pixel)


def finished_path(folder: str | os.PathLike[str], cell: Cell) -> Path:
    """Return the file that says that a partition is finished."""
    return Path(folder) / FINISHED / f"{cell}.parquet"


def write_finished(
    folder: str | os.PathLike[str],
    result: PartitionResult,
    plan: CutoutPlan,
    *,
    file: NDArray[np.int32],
    place: NDArray[np.int32],
    outcome: NDArray[np.uint8],
    quality: NDArray[np.int32],
) -> None:
    """Write what is known of a partition of an export, after its files are in place: from then on it counts as finished.

    Parameters
    ----------
    folder
        Of the export.
    result
        Its result.
    plan
        Its plan.
    file, place
        ``(R,)`` for each row, targets first, then rejected rows: number of its file in ``result.files``, and row of that file.
    outcome, quality
        ``(R,)`` and ``(R, B)`` of these rows.
    """
    table = to_arrow(vars(plan))
    bits = pa.FixedSizeListArray.from_arrays(pa.array(quality.reshape(-1)), quality.shape[1])
    for name, values in (("file", file), ("place", place), ("outcome", outcome), ("quality", bits)):
        table = table.append_column(name, pa.array(values))
    write_result(folder, result, table, private=any(map(is_signed, plan.files.uri)))


def write_result(
    folder: str | os.PathLike[str], result: PartitionResult, table: pa.Table | None = None, *, private: bool = False
) -> None:
    """Write that a partition is finished, after its files are in place.

    Parameters
    ----------
    folder
        Of the output.
    result
        What happened to the partition.
    table
        What else is known of it.
    private
        Whether only the owner may read this.
    """
    table = pa.table({}) if table is None else table
    meta = {**(table.schema.metadata or {}), META: json.dumps(asdict(result)).encode()}
    with atomic_file(finished_path(folder, result.cell), private=private) as part:
        pq.write_table(table.replace_schema_metadata(meta), part, compression="zstd")


def read_results(folder: str | os.PathLike[str], cells: Sequence[Cell]) -> list[PartitionResult]:
    """Return the results of those partitions that are finished; only the footers of their files are read.

    A partition is not finished if a file of it was removed or has another size, or if what is known of it cannot be read, as after a
    loss of power.
    """
    there = {entry.name for entry in os.scandir(path)} if (path := Path(folder) / FINISHED).is_dir() else set()
    found = []
    for cell in cells:
        name = finished_path(folder, cell).name
        result = _read_result(path / name) if name in there else None
        if result is not None and all(_size(Path(folder) / file.path) == file.bytes for file in result.files):
            found.append(result)
    return found


def _read_result(path: Path) -> PartitionResult | None:
    try:
        values: dict[str, Any] = json.loads(pq.read_schema(path).metadata[META])
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s cannot be read (%s): the partition is exported again", path, error)
        return None
    files = tuple(OutputFile(**one) for one in values["files"])
    return PartitionResult(**values | {"files": files, "skipped": True})


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
