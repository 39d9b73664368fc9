"""Joins the plans of the partitions of an export into the plan of the whole catalog."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...catalog.healpix import Cell
from ...catalog.ids import Ids, concatenate_columns, take_rows
from ...errors import PlanError
from ...plan.cutout_plan import CutoutPlan
from ...plan.parquet import from_arrow
from ...plan.quality import Outcome
from ...plan.stored_pixels import StoredPixels, hash_of_ids
from ...plan.tables import FileTable, PatchTable, Rejected
from .export_description import ExportDescription
from .export_files import CATALOG, FILES, FINISHED, META

__all__ = ["JoinedPlan", "finished_files", "join_partitions", "numbered_tables", "taken_lists", "taken_rejected"]

type Ints = NDArray[np.int64]

_OWN = ["file", "place", "outcome", "quality"]
_REMEDY = "copy the export again, or give the same export command again"


@dataclass(frozen=True, eq=False)
class JoinedPlan:
    """The plan of the whole catalog, for all bands and the size of an export.

    Attributes
    ----------
    plan
        Its targets are in the order of the catalog's rows; without columns.
    place, rejected_file, rejected_place
        ``(N,)`` row of the file of each target, and ``(R,)`` file and row of each rejected row.
    """

    plan: CutoutPlan
    place: Ints
    rejected_file: Ints
    rejected_place: Ints


@dataclass(frozen=True, eq=False)
class _Part:
    """A partition: its plan as arguments of `CutoutPlan`, and ``(R,)`` what is known of its rows, targets first."""

    rows: int
    files: list[dict[str, Any]]
    plan: dict[str, Any]
    own: Mapping[str, NDArray[Any]]

    @property
    def ids(self) -> list[Ids]:
        """Return the ids of the targets and of the rejected rows."""
        return [self.plan["object_id"], self.plan["rejected"].object_id]

    @property
    def keys(self) -> Ints:
        """Return an integer for each patch."""
        keys: Ints = (self.plan["patches"].tract << 32) + self.plan["patches"].patch
        return keys


def finished_files(folder: Path) -> list[Path]:
    """Return the plans of the finished partitions, along the sky.

    Raises
    ------
    PlanError
        If the export is not complete: with further partitions its targets, splits and order would be others.
    """
    files = list((folder / FINISHED).glob("Norder=*.parquet"))
    if not (folder / FILES).is_file():
        raise PlanError(
            f"the export {folder} is not complete: {len(files)} partitions are finished. Give the same export command again to finish it"
        )
    cells = {path: Cell(*(int(part.partition("=")[2]) for part in path.stem.split(","))) for path in files}
    return sorted(files, key=lambda path: cells[path].bounds)


def join_partitions(folder: Path, description: ExportDescription) -> JoinedPlan:
    """Return the plan that `build_plan` makes of the whole catalog, with the places of the pixels.

    Raises
    ------
    PlanError
        If the export is not complete, a plan of it cannot be read, or partitions are from different images.
    """
    parts, first_row = list[_Part](), [0]
    for path in finished_files(folder):
        part = _read_part(path)
        if part is not None:
            parts.append(part)
            first_row.append(first_row[-1] + part.rows)
    _check_rows(folder, first_row[-1])
    if not parts:
        raise PlanError(f"the export {folder} has no rows; export a catalog that has some")
    starts = [0 if description.numbered else row for row in first_row[:-1]]
    plans = [part.plan for part in parts]
    keys = np.unique(np.concatenate([part.keys for part in parts]))
    index = [np.searchsorted(keys, part.keys) for part in parts]
    patches, files = _tables(folder, parts, keys)
    row = np.concatenate([plan["row"] + start for plan, start in zip(plans, starts, strict=True)])
    order = np.argsort(row, kind="stable")
    counts = np.concatenate([np.diff(plan["others_start"]) for plan in plans])
    others = np.concatenate([of[plan["others"]] for of, plan in zip(index, plans, strict=True)])
    primary = np.concatenate([of[plan["primary"]] for of, plan in zip(index, plans, strict=True)])
    others_start, others = taken_lists(np.concatenate([[0], np.cumsum(counts)]), others, order)
    plain = ("ra", "dec", "other_tract", "yx0", "offset")
    arrays = {name: np.concatenate([plan[name] for plan in plans])[order] for name in plain}
    unsigned = any(not isinstance(ids, list) and ids.dtype == np.uint64 for part in parts for ids in part.ids)
    rejected = [_renumbered(plan["rejected"], start, unsigned) for plan, start in zip(plans, starts, strict=True)]
    pixels, place, rejected_file, rejected_place = _pixels(folder, description, parts)
    whole: dict[str, Any] = plans[0] | arrays  # size, names and what is known from one file are those of each partition
    whole |= {
        "row": row[order],
        "object_id": take_rows(concatenate_columns([_ids(plan["object_id"], unsigned) for plan in plans]), order),
        "primary": primary[order].astype(np.int32),
        "others_start": others_start,
        "others": others,
        "patches": patches,
        "files": files,
        "projections": dict(sorted((t, one) for plan in plans for t, one in plan["projections"].items())),
        "pixels": pixels.take(order),
    }
    joined = Rejected.joined(rejected)
    lost = np.argsort(joined.row, kind="stable")
    plan = CutoutPlan(**whole | {"rejected": taken_rejected(joined, lost)})
    return JoinedPlan(plan, place[order], rejected_file[lost], rejected_place[lost])


def taken_rejected(rejected: Rejected, rows: Ints) -> Rejected:
    """Return some rejected rows, in the order given."""
    names = "row", "object_id", "ra", "dec", "reason", "tract", "patch"
    columns = {name: take_rows(values, rows) for name, values in rejected.columns.items()}
    return Rejected(**{name: take_rows(getattr(rejected, name), rows) for name in names}, columns=columns)


def taken_lists(start: Ints, values: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Return some of the lists ``(start, values)`` of `ragged`, in the order given."""
    count = np.diff(start)[rows]
    first = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    index = np.repeat(start[:-1][rows] - first[:-1], count) + np.arange(first[-1])
    return first, values[index].astype(np.int64)


def _read_part(path: Path) -> _Part | None:
    """Return a partition; None for one without rows."""
    try:
        table = pq.read_table(path)
        result = json.loads(table.schema.metadata[META])
    except (OSError, pyarrow.ArrowException, KeyError, TypeError, ValueError) as error:
        raise PlanError(f"{path} cannot be read: {error}; {_REMEDY}") from error
    if not table.num_columns:
        return None
    own = {name: table[name].to_numpy() for name in _OWN[:-1]}
    bits = table["quality"].combine_chunks().flatten().to_numpy()
    own["quality"] = bits.reshape(len(table), -1)
    return _Part(result["rows"], result["files"], from_arrow(table.drop_columns(_OWN), str(path)), own)


def _check_rows(folder: Path, rows: int) -> None:
    """Raise `PlanError` if the catalog of the export has another number of rows than its finished partitions."""
    path = folder / CATALOG / "hats.properties"
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    counted = next((line.partition("=")[2] for line in lines if line.startswith("hats_nrows=")), str(rows))
    if counted != str(rows):
        raise PlanError(f"the export {folder} has plans of {rows} rows, but {path} counts {counted}; {_REMEDY}")


def _tables(folder: Path, parts: list[_Part], keys: Ints) -> tuple[PatchTable, FileTable]:
    """Return the tables of patches and files, sorted as the planner does."""
    bands = len(parts[0].plan["bands"])
    inner = np.zeros((len(keys), 4), np.int64)
    ids, sizes = np.full((len(keys), bands), "", object), np.zeros((len(keys), bands), np.int64)
    known = np.zeros(len(keys), bool)
    for part in parts:
        rows, patches, files = np.searchsorted(keys, part.keys), part.plan["patches"], part.plan["files"]
        own = np.array([*files.dataset_id, ""], object)[patches.files]  # (P, B); -1 is the last one
        again = known[rows]
        if (ids[rows][again] != own[again]).any():
            raise PlanError(
                f"the export {folder} has pixels of different images of one patch: the repository changed while it was written; export again"
            )
        inner[rows], ids[rows], known[rows] = patches.inner, own, True
        sizes[rows] = np.array([*files.size, -1], np.int64)[patches.files]
    return numbered_tables(PatchTable(keys >> 32, keys & 0xFFFFFFFF, inner, sizes), ids, sizes)


def numbered_tables(patches: PatchTable, ids: NDArray[Any], sizes: Ints) -> tuple[PatchTable, FileTable]:
    """Return the tables of patches and files, with files numbered as the planner does: by patch, then by band.

    The files have no URI: their pixels are read from the export.

    Parameters
    ----------
    patches
        ``P`` patches; their files are replaced.
    ids, sizes
        ``(P, B)`` UUID of the file of each band, empty if there is none, and its size in bytes.
    """
    there = ids != ""
    number = np.where(there, np.cumsum(there.reshape(-1)).reshape(there.shape) - 1, -1).astype(np.int64)
    found = ids[there].tolist()
    files = FileTable(("",) * len(found), tuple(sizes[there].tolist()), tuple(found))
    return PatchTable(patches.tract, patches.patch, patches.inner, number), files


def _pixels(folder: Path, description: ExportDescription, parts: list[_Part]) -> tuple[StoredPixels, Ints, Ints, Ints]:
    """Return where the pixels of all targets stand, their rows of the files, and files and rows of the rejected ones."""
    written, hashes, counts = list[dict[str, Any]](), list[str](), list[int]()
    found: dict[str, list[NDArray[Any]]] = {}
    for part in parts:
        targets, own = len(part.plan["row"]), part.own
        by_place = np.lexsort((own["place"], own["file"]))
        delivered = own["outcome"] == Outcome.DELIVERED
        edges = np.searchsorted(own["file"][by_place], np.arange(len(part.files) + 1))
        before = np.cumsum(delivered[by_place]) - delivered[by_place]  # (R,)
        number = np.full(len(by_place), -1, np.int32)
        ids = concatenate_columns(part.ids)
        for low, high in pairwise(edges.tolist()):
            mine = by_place[low:high]
            number[mine] = before[low:high] - before[low] if high > low else 0
            hashes.append(hash_of_ids(take_rows(ids, mine)))
            counts.append(int(delivered[mine].sum()))
        number[~delivered] = -1
        files = own["file"] + len(written)
        written += part.files
        for name, values in (
            *(("file", files[:targets]), ("number", number[:targets]), ("outcome", own["outcome"][:targets])),
            *(("quality", own["quality"][:targets]), ("place", own["place"][:targets])),
            *(("rejected_file", files[targets:]), ("rejected_place", own["place"][targets:])),
        ):
            found.setdefault(name, []).append(values)
    whole = {name: np.concatenate(values) for name, values in found.items()}
    pixels = StoredPixels(
        folder=str(folder),
        size=description.size,
        channels=tuple(range(len(description.bands))),
        paths=tuple(one["path"] for one in written),
        sizes=tuple(one["bytes"] for one in written),
        counts=tuple(counts),
        ids=tuple(hashes),
        file=whole["file"].astype(np.int32),
        number=whole["number"],
        outcome=whole["outcome"].astype(np.uint8),
        corner=np.zeros((len(whole["file"]), 2), np.int32),
        quality=whole["quality"].astype(np.int32),
    )
    return pixels, whole["place"], whole["rejected_file"], whole["rejected_place"]


def _renumbered(rejected: Rejected, start: int, unsigned: bool) -> Rejected:
    return replace(rejected, row=rejected.row + start, object_id=_ids(rejected.object_id, unsigned))


def _ids(ids: Ids, unsigned: bool) -> Ids:
    """Return ids of a partition as those of the whole catalog, which are uint64 if one of them exceeds int64."""
    return ids.astype(np.uint64) if unsigned and not isinstance(ids, list) else ids
