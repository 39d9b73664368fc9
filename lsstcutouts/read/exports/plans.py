"""The plan of an export, for all of its bands and its size or for a part of them."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...catalog.ids import Values, concatenate_columns, take_rows
from ...catalog.targets import Catalog
from ...errors import CatalogError, ConfigurationError, CoverageError, PlanError
from ...plan.arguments import AngularSize, SizeLike, parse_bands, parse_size
from ...plan.cutout_plan import CutoutPlan
from ...plan.stored_pixels import StoredPixels
from ...plan.tables import Reason, Rejected
from ...sky.geometry import YX, box_start
from .export_description import ExportDescription
from .export_files import DESCRIPTION
from .partition_plans import (
    JoinedPlan,
    finished_files,
    join_partitions,
    numbered_tables,
    taken_lists,
    taken_rejected,
)

__all__ = ["export_catalog", "export_plan", "state_of_export", "stored_channels", "stored_size"]

type Ints = NDArray[np.int64]


def export_plan(
    folder: str | os.PathLike[str],
    *,
    bands: str | Iterable[str] | None = None,
    size: SizeLike | None = None,
    columns: Sequence[str] = (),
) -> CutoutPlan:
    """Return the plan of an export: that of the whole catalog in the repository, with pixels that are read from the export.

    Parameters
    ----------
    folder
        Of a finished export.
    bands
        Some of its bands, in any order; all of them by default.
    size
        At most that of the export, which is the default; the smaller box is that of the repository.
    columns
        Catalog columns that travel with the samples.

    Raises
    ------
    ConfigurationError, CatalogError
        If the export has no such band, size or column; the message says what it has.
    PlanError
        If it is not complete, or cannot be read.
    CoverageError
        If no target is covered.
    """
    root, description = Path(folder), ExportDescription.load(folder)
    chosen = description.bands if bands is None else parse_bands(bands)
    channels = stored_channels(folder, description, chosen)
    joined = join_partitions(root, description)
    plan, size = joined.plan, description.size if size is None else parse_size(size)
    if isinstance(size, AngularSize):
        scales = [projection.pixel_scale for projection in plan.projections.values()]
        size = size.pixels(scales[0]) if scales else description.size
    size = stored_size(folder, description, size)
    if columns:
        plan = _with_columns(plan, joined, description, tuple(columns))
    plan = _with_size(_with_bands(plan, chosen, channels), size)
    if not len(plan):
        raise CoverageError(
            f"no target of the export {root} is covered in {''.join(chosen)}; choose other bands or a larger size"
        )
    return plan


def stored_channels(
    folder: str | os.PathLike[str], description: ExportDescription, bands: Sequence[str]
) -> tuple[int, ...]:
    """Return the stored channel of each band.

    Raises
    ------
    ConfigurationError
        If the export does not have one of them.
    """
    if lacking := [band for band in bands if band not in description.bands]:
        raise ConfigurationError(
            f"the export {folder} has no band {lacking[0]!r}; it has {', '.join(description.bands)}: choose some of them, or "
            "export again with more bands"
        )
    return tuple(map(description.bands.index, bands))


def stored_size(folder: str | os.PathLike[str], description: ExportDescription, size: YX[int]) -> YX[int]:
    """Return the size, rows and columns, pixels.

    Raises
    ------
    ConfigurationError
        If it is larger than the cutouts of the export.
    """
    own = description.size
    if size.y > own.y or size.x > own.x:
        raise ConfigurationError(
            f"size={size.y} x {size.x} is larger than the cutouts of the export {folder}, {own.y} x {own.x} pixels; give at most "
            "that, or export again with a larger size="
        )
    return size


def export_catalog(plan: CutoutPlan) -> Catalog:
    """Return the rows of the catalog of a plan, targets and rejected rows, in the catalog's order."""
    lost = plan.rejected
    order = np.argsort(np.concatenate([plan.row, lost.row]), kind="stable")
    joined = {
        name: concatenate_columns([getattr(plan, name), getattr(lost, name)]) for name in ("object_id", "ra", "dec")
    }
    columns = {name: concatenate_columns([values, lost.columns[name]]) for name, values in plan.columns.items()}
    return Catalog(**joined, columns=columns, source=plan.repo).take(order)


def state_of_export(folder: str | os.PathLike[str]) -> str:
    """Return text that differs for another export, and for a later state of the same one."""
    root = Path(folder)
    digest = hashlib.sha256((root / DESCRIPTION).read_bytes())
    for path in finished_files(root):
        state = path.stat()
        digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _with_bands(plan: CutoutPlan, bands: tuple[str, ...], channels: tuple[int, ...]) -> CutoutPlan:
    """Return the plan for some of the bands, in the order given."""
    pixels = plan.pixels
    if bands == plan.bands or pixels is None:
        return plan
    chosen = plan.patches.files[:, list(channels)]
    ids = np.array([*plan.files.dataset_id, ""], object)[chosen]
    patches, files = numbered_tables(plan.patches, ids, np.array([*plan.files.size, -1], np.int64)[chosen])
    stored = replace(pixels, channels=channels, quality=pixels.quality[:, list(channels)])
    return _covered(replace(plan, bands=bands, patches=patches, files=files, pixels=stored))


def _with_size(plan: CutoutPlan, size: YX[int]) -> CutoutPlan:
    """Return the plan for a smaller box around each position, as the planner places it."""
    pixels = plan.pixels
    if size == plan.size or pixels is None:
        return plan
    # From the positions, not from the stored offsets: these are rounded to float32, the offsets of another size are not
    # those rounded twice.
    centre = np.zeros((len(plan), 2))
    for tract in np.unique(plan.tract).tolist():
        rows = plan.tract == tract
        centre[rows] = np.column_stack(plan.projections[tract].sky_to_pixel(plan.ra[rows], plan.dec[rows]))
    yx0 = box_start(centre, size)
    corner = yx0 - plan.yx0
    if ((corner < 0) | (corner + np.asarray(size) > np.asarray(plan.size))).any():
        raise PlanError(f"the export {pixels.folder} has boxes that do not lie around their targets; export again")
    start, others = _others_under(plan, yx0, size)
    offset = (centre - (yx0 + (np.asarray(size) - 1) / 2)).astype(np.float32)
    stored = replace(pixels, corner=corner.astype(np.int32))
    first = yx0.astype(np.int32)
    return _covered(
        replace(plan, size=size, yx0=first, offset=offset, others_start=start, others=others, pixels=stored)
    )


def _others_under(plan: CutoutPlan, yx0: Ints, size: YX[int]) -> tuple[Ints, Ints]:
    """Return the patches besides the primary one under smaller boxes, of those under the boxes of a plan."""
    several = np.diff(plan.others_start)
    owner = np.repeat(np.arange(len(plan)), several)
    keep = np.ones(len(owner), bool)
    for axis in (0, 1):
        first, after = plan.patches.inner[:, 2 * axis], plan.patches.inner[:, 2 * axis + 1]
        step = (after - first)[plan.primary]
        row = first[plan.primary] // step  # of the primary patch, in the tract's grid
        row_of_other = first[plan.others] // step[owner]
        # The grid ends where the larger box's patches end, if it ends between both boxes.
        low, high = row.copy(), row.copy()
        np.minimum.at(low, owner, row_of_other)
        np.maximum.at(high, owner, row_of_other)
        from_row = np.clip((yx0[:, axis] - plan.border[axis]) // step, low, high)
        to_row = np.clip((yx0[:, axis] + size[axis] - 1 + plan.border[axis]) // step, low, high)
        keep &= (from_row[owner] <= row_of_other) & (row_of_other <= to_row[owner])
    count = np.bincount(owner[keep], minlength=len(plan))
    return np.concatenate([[0], np.cumsum(count)]).astype(np.int64), plan.others[keep]


def _covered(plan: CutoutPlan) -> CutoutPlan:
    """Return the plan without the targets that no file covers any more; they are rejected."""
    has_file = (plan.patches.files >= 0).any(axis=1)
    covered = has_file[plan.primary]
    covered[np.repeat(np.arange(len(plan)), np.diff(plan.others_start))[has_file[plan.others]]] = True
    if covered.all() or plan.pixels is None:
        return plan
    gone, kept = np.flatnonzero(~covered), np.flatnonzero(covered)
    lost = Rejected(
        row=plan.row[gone],
        object_id=take_rows(plan.object_id, gone),
        ra=plan.ra[gone],
        dec=plan.dec[gone],
        reason=np.full(len(gone), Reason.NO_COADD, np.uint8),
        tract=plan.tract[gone],
        patch=plan.patch[gone],
        columns={name: take_rows(values, gone) for name, values in plan.columns.items()},
    )
    joined = Rejected.joined([plan.rejected, lost])
    start, others = taken_lists(plan.others_start, plan.others, kept)
    tracts = set(plan.tract[kept].tolist())
    arrays = {
        name: getattr(plan, name)[kept] for name in ("row", "ra", "dec", "primary", "other_tract", "yx0", "offset")
    }
    return replace(
        plan,
        **arrays,
        object_id=take_rows(plan.object_id, kept),
        others_start=start,
        others=others,
        projections={tract: one for tract, one in plan.projections.items() if tract in tracts},
        rejected=taken_rejected(joined, np.argsort(joined.row, kind="stable")),
        columns={name: take_rows(values, kept) for name, values in plan.columns.items()},
        repeats_ids=None,
        pixels=plan.pixels.take(kept),
    )


def _with_columns(
    plan: CutoutPlan, joined: JoinedPlan, description: ExportDescription, names: tuple[str, ...]
) -> CutoutPlan:
    """Return the plan with columns of the catalog, read from the files of the export."""
    pixels = plan.pixels
    if pixels is None:
        return plan
    known = list(description.catalog["columns"])
    if lacking := [name for name in names if name not in known]:
        raise CatalogError(
            f"the export {pixels.folder} has no column {lacking[0]!r}; it has {', '.join(known) or 'none'}. Export again with "
            f"columns={[*known, *lacking]!r}, or leave it out"
        )
    file = np.concatenate([pixels.file, joined.rejected_file])
    place = np.concatenate([joined.place, joined.rejected_place])
    tables = [_read_columns(pixels, number, names) for number in range(len(pixels.paths))]
    first = np.concatenate([[0], np.cumsum([len(table) for table in tables])])
    rows = pyarrow.array(first[file] + place)
    try:
        table = pyarrow.concat_tables(tables).take(rows)
    except pyarrow.ArrowException as error:
        raise PlanError(
            f"the columns of the files of the export {pixels.folder} do not fit together: {error}; export again"
        ) from error
    values = Catalog.from_any(table, ra="ra", dec="dec", object_id="object_id", unit="deg", columns=names).columns
    count = len(plan)
    columns = {name: _part(values[name], slice(count)) for name in names}
    lost = {name: _part(values[name], slice(count, None)) for name in names}
    return replace(plan, columns=columns, rejected=replace(plan.rejected, columns=lost))


def _part(values: Values, rows: slice) -> Values:
    return values[rows]


def _read_columns(pixels: StoredPixels, file: int, names: Sequence[str]) -> Any:
    path = Path(pixels.folder) / pixels.paths[file]
    try:
        return pq.read_table(path, columns=["ra", "dec", "object_id", *names], partitioning=None)
    except (OSError, pyarrow.ArrowException) as error:
        raise PlanError(f"{path} cannot be read: {error}; copy the export again") from error
