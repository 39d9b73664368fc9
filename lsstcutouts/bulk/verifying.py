"""Compares rows of an export with the repository they come from, bit for bit."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..catalog.healpix import Cell
from ..catalog.targets import Catalog
from ..plan.cutout_plan import CutoutPlan
from ..plan.parquet import from_arrow
from ..plan.quality import Outcome
from ..plan.read_options import ReadOptions
from ..read.exports.export_description import ExportDescription
from ..read.exports.export_files import FINISHED
from ..read.exports.multimodal import array_of_lists
from ..read.options import ReaderOptions
from ..read.reader import CutoutReader
from .export_rows import pixel_columns
from .finished import PartitionResult, finished_path, read_results
from .planners import close_planner, open_planner

__all__ = ["VerifyResult", "verify_export"]

_AT_ONCE = 64
"""Rows that are compared together: a row group."""


@dataclass(frozen=True)
class VerifyResult:
    """What a comparison found.

    Attributes
    ----------
    folder
        Of the export.
    rows, partitions
        Rows that were compared, and the partitions that they are from.
    differences
        What differs, at most one line for each partition.
    """

    folder: str
    rows: int
    partitions: int
    differences: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def verify_export(folder: str | os.PathLike[str], *, rows: int | None = 1000, seed: int = 0) -> VerifyResult:
    """Read rows of an export again from the repository, and compare all their pixels.

    The rows of the export are read by pyarrow, not by the reader that trainings use.

    Parameters
    ----------
    folder
        Of the export.
    rows
        Number of rows, drawn at random from partitions drawn at random; None for all.
    seed
        Of the draws.

    Raises
    ------
    PlanError
        If there is no export.
    """
    description = ExportDescription.load(folder)
    done = [result for result in read_results(folder, _cells(folder)) if result.delivered]
    random = np.random.default_rng(seed)
    if rows is not None:
        random.shuffle(done)
    differences, compared, used, left = list[str](), 0, 0, rows
    try:
        for result in done:
            if left is not None and left <= 0:
                break
            share = None if left is None else max(_AT_ONCE, -(-(rows or 0) // len(done)))
            count, difference = _compare(folder, description, result, share, random)
            differences += [difference] if difference else []
            compared, used = compared + count, used + 1
            left = None if left is None else left - count
    finally:
        close_planner()
    return VerifyResult(os.fspath(folder), compared, used, tuple(differences))


def _cells(folder: str | os.PathLike[str]) -> list[Cell]:
    """Return the cells of the finished partitions, along the sky."""
    names = [path.stem for path in (Path(folder) / FINISHED).glob("Norder=*.parquet")]
    numbers = [[int(part.partition("=")[2]) for part in name.split(",")] for name in names]
    return sorted((Cell(*pair) for pair in numbers), key=lambda cell: cell.bounds)


def _compare(
    folder: str | os.PathLike[str],
    description: ExportDescription,
    result: PartitionResult,
    most: int | None,
    random: np.random.Generator,
) -> tuple[int, str]:
    """Return how many rows of a partition were compared, and what differs."""
    path = finished_path(folder, result.cell)
    table = pq.read_table(path)
    plan = CutoutPlan(**from_arrow(table, str(path)))
    own = {name: table[name].to_numpy()[: len(plan)] for name in ("file", "place", "outcome")}
    targets = np.flatnonzero(own["outcome"] == Outcome.DELIVERED)
    if most is not None and len(targets) > most:
        first = int(random.integers(0, len(targets) - most + 1))
        targets = np.sort(targets[first : first + most])
    read = ReadOptions(
        mask_planes=description.mask_planes,
        fill=description.fill,
        flux_unit=description.flux_unit,  # type: ignore[arg-type]  # checked when it was written
        normalise_psf=description.normalise_psf,
        on_read_error="mask",
        tract=description.other["tract"],
        skymap=description.skymap,
    )
    now = open_planner(description, read).plan(
        Catalog(plan.object_id, plan.ra, plan.dec, {}, str(path)), may_be_empty=True
    )
    if replace(now, row=plan.row[now.row]).fingerprint() != replace(plan, columns={}).fingerprint():
        return 0, f"partition {result.cell}: {description.repo} has other images now than when it was exported"
    reader = CutoutReader(plan, ReaderOptions.of(read, planes=description.planes))
    try:
        for at in range(0, len(targets), _AT_ONCE):
            some = targets[at : at + _AT_ONCE]
            expected = pixel_columns(description, reader.read(some), len(some))
            for number in np.unique(own["file"][some]).tolist():
                here = own["file"][some] == number
                file = Path(folder) / result.files[number].path
                found = _stored(file, own["place"][some][here], list(expected))
                for name, values in found.items():
                    wanted = np.ascontiguousarray(expected[name][here])
                    if values.shape != wanted.shape or values.tobytes() != wanted.tobytes():
                        return at, f"partition {result.cell}: {name} differs in {file}"
    finally:
        reader.close()
    return len(targets), ""


def _stored(file: Path, places: NDArray[np.int64], names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return columns of some rows of a file, read by pyarrow."""
    with pq.ParquetFile(file) as opened:
        sizes = [opened.metadata.row_group(at).num_rows for at in range(opened.metadata.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        groups = np.searchsorted(starts, places, side="right") - 1
        chosen, place_of = np.unique(groups, return_inverse=True)
        table = opened.read_row_groups(chosen.tolist(), columns=list(names))
    offsets = np.concatenate([[0], np.cumsum([sizes[group] for group in chosen.tolist()])])
    rows = offsets[place_of] + places - starts[groups]
    return {name: array_of_lists(table[name].take(rows)) for name in names}
