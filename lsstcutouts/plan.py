"""What to read for each target: plain arrays, made once, saved as Parquet, carried by workers.

No Butler here: a worker that unpickles a plan imports numpy and nothing heavier.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .errors import PlanError
from .geom import YX, Box, TanProjection
from .order import block_ids

__all__ = ["CutoutPlan", "FileTable", "PatchTable", "PlanSummary", "Reason", "Rejected", "ragged"]

type Column = NDArray[Any] | list[str]

_FORMAT = 1
"""Version of the Parquet layout; a plan of another version is refused."""


class Reason(IntEnum):
    """Why a catalog row is not in the plan."""

    OUTSIDE_TRACTS = 1
    """No tract of the skymap in this repository holds the position."""
    NO_COADD = 2
    """No patch under the box has a coadd in any of the bands."""

    @property
    def text(self) -> str:
        """One line for people."""
        return {
            Reason.OUTSIDE_TRACTS: "outside every tract of the repository",
            Reason.NO_COADD: "no coadd in any band under the box",
        }[self]


@dataclass(frozen=True, eq=False)
class Rejected:
    """Catalog rows that the plan does not deliver, each with its reason; ``(R,)`` arrays."""

    row: NDArray[np.int64]
    object_id: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    reason: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, eq=False)
class PatchTable:
    """The patches that targets of a plan may need; ``(P,)`` arrays.

    Attributes
    ----------
    tract, patch
        Numbers of the skymap.
    inner
        ``(P, 4)`` inner regions ``(y0, y1, x0, x1)``, tract pixels.
    files
        ``(P, B)`` row of the file table for each band, -1 where the repository holds none.
    """

    tract: NDArray[np.int64]
    patch: NDArray[np.int64]
    inner: NDArray[np.int64]
    files: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tract)

    def inner_box(self, index: int) -> Box:
        """Return the inner region of one patch, tract pixels."""
        return Box(*self.inner[index].tolist())


@dataclass(frozen=True, eq=False)
class FileTable:
    """The files of a plan: one coadd (tract, patch, band) each.

    Attributes
    ----------
    uri
        Where the bytes are; a local path or a URI that ``lsst.resources`` reads.
    size
        Bytes; -1 where the repository does not say.
    dataset_id
        UUID of the dataset in the repository.
    """

    uri: tuple[str, ...]
    size: tuple[int, ...]
    dataset_id: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.uri)


@dataclass(frozen=True)
class PlanSummary:
    """What a plan amounts to, for people (``str``) and machines (``as_dict``)."""

    targets: int
    rejected: Mapping[str, int]
    tracts: Mapping[int, int]
    patches: int
    files: int
    file_bytes: int
    bytes_to_read: int
    bands_missing: Mapping[str, int]
    bands: tuple[str, ...]
    size: tuple[int, int]
    per_patch: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            f.name: dict(value) if isinstance(value := getattr(self, f.name), Mapping) else value for f in fields(self)
        }

    def __str__(self) -> str:
        lines = [
            f"{self.targets} targets, {self.size[0]} x {self.size[1]} px, bands {''.join(self.bands)}",
            f"  {len(self.tracts)} tract(s), {self.patches} patch(es), {self.files} files ({self.file_bytes / 1e9:.2f} GB)",
            f"  about {self.bytes_to_read / 1e6:.0f} MB of image tiles under the boxes",
        ]
        lines += [f"  tract {tract}: {count} targets" for tract, count in self.tracts.items()]
        lines += [f"  band {band}: missing for {count} targets" for band, count in self.bands_missing.items() if count]
        lines += [f"  not delivered: {count} rows, {reason}" for reason, count in self.rejected.items()]
        return "\n".join(lines)


def ragged(lists: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return lists of integers as ``(start (N + 1,), values (M,))``; list i is ``values[start[i]:start[i + 1]]``."""
    start = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(one) for one in lists], out=start[1:])
    return start, np.fromiter((v for one in lists for v in one), np.int64, int(start[-1]))


@dataclass(frozen=True, eq=False)
class CutoutPlan:
    """Every target's box and the files under it; ``(N,)`` arrays of targets that will be delivered.

    Attributes
    ----------
    repo, collections, dataset_type, skymap
        Where the plan comes from; for messages and provenance.
    bands
        Channel order of the cutouts, ``B`` names.
    size
        Rows and columns of a cutout, pixels.
    block_shape
        Rows and columns of a locality block, pixels from the corner of the primary patch.
    row
        Row of the catalog.
    object_id, ra, dec
        Identity and position; degrees ICRS.
    primary
        Row of ``patches``: the patch whose inner region holds the target.
    yx0
        ``(N, 2)`` first pixel of the box, tract pixels.
    offset
        ``(N, 2)`` float32, target minus middle of the box, pixels ``(y, x)``.
    others_start, others
        Further patches under the box, as in `ragged`, in ascending order of the patch number.
    patches, files
        The tables that ``primary`` and ``others`` point into.
    projections
        Tract number to the tract's projection, the reference WCS of its cutouts.
    rejected
        Catalog rows that are not among the targets.
    columns
        Catalog columns that travel with the samples, ``(N, ...)`` each.
    tile_bytes
        Compressed bytes of image plane per pixel in a sample file; only for estimates.
    """

    repo: str
    collections: tuple[str, ...]
    dataset_type: str
    skymap: str
    bands: tuple[str, ...]
    size: YX[int]
    block_shape: YX[int]
    row: NDArray[np.int64]
    object_id: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    primary: NDArray[np.int32]
    yx0: NDArray[np.int32]
    offset: NDArray[np.float32]
    others_start: NDArray[np.int64]
    others: NDArray[np.int64]
    patches: PatchTable
    files: FileTable
    projections: Mapping[int, TanProjection]
    rejected: Rejected
    columns: Mapping[str, Column] = field(default_factory=dict)
    tile_bytes: float = 0.0

    def __len__(self) -> int:
        return len(self.row)

    @property
    def tract(self) -> NDArray[np.int64]:
        """``(N,)`` tract of each target."""
        return self.patches.tract[self.primary]

    @property
    def patch(self) -> NDArray[np.int64]:
        """``(N,)`` primary patch of each target."""
        return self.patches.patch[self.primary]

    def others_of(self, target: int) -> list[int]:
        """Return the rows of ``patches`` under a target's box, besides the primary one."""
        return self.others[self.others_start[target] : self.others_start[target + 1]].tolist()  # type: ignore[no-any-return]

    def blocks(self, targets: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return dense ids of the locality block of each target (all of them by default)."""
        chosen = np.arange(len(self)) if targets is None else targets
        return block_ids(self.primary[chosen], self._in_patch(chosen), self.block_shape)

    def sky_groups(self, *, blocks: bool) -> NDArray[np.str_]:
        """Return for each target the name of its patch, or of its block of sky, for splits by area."""
        parts = [self.tract, self.patch]
        if blocks:
            parts += list((self._in_patch(np.arange(len(self))) // np.asarray(self.block_shape)).T)
        unique, inverse = np.unique(np.column_stack(parts), axis=0, return_inverse=True)
        names = np.array(["/".join(map(str, one)) for one in unique.tolist()])
        chosen: NDArray[np.str_] = names[inverse.reshape(-1)]
        return chosen

    def _in_patch(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ``(n, 2)`` middle of each box from the corner of its primary patch, pixels."""
        middle = self.yx0[targets].astype(np.int64) + np.asarray(self.size) // 2
        corner = self.patches.inner[self.primary[targets]][:, [0, 2]]
        return np.asarray(middle - corner, np.int64)

    def bands_missing(self) -> dict[str, int]:
        """Return for each band the number of targets for which no patch under the box has a file."""
        present = self.patches.files[self.primary] >= 0  # (N, B)
        owner = np.repeat(np.arange(len(self)), np.diff(self.others_start))
        np.logical_or.at(present, owner, self.patches.files[self.others] >= 0)
        return {band: int(count) for band, count in zip(self.bands, (~present).sum(axis=0), strict=True)}

    def summary(self) -> PlanSummary:
        """Return counts of targets, patches, files, missing bands and bytes."""
        tracts, per_tract = np.unique(self.tract, return_counts=True)
        used, per_patch = np.unique(self.primary, return_counts=True)
        names = [f"{self.patches.tract[p]}/{self.patches.patch[p]}" for p in used]
        reasons, counts = np.unique(self.rejected.reason, return_counts=True)
        return PlanSummary(
            targets=len(self),
            rejected={Reason(r).text: int(c) for r, c in zip(reasons.tolist(), counts, strict=True)},
            tracts=dict(zip(tracts.tolist(), per_tract.tolist(), strict=True)),
            patches=len(used),
            files=len(self.files),
            file_bytes=sum(max(0, size) for size in self.files.size),
            bytes_to_read=self._bytes_to_read(),
            bands_missing=self.bands_missing(),
            bands=self.bands,
            size=(self.size.y, self.size.x),
            per_patch=dict(zip(names, per_patch.tolist(), strict=True)),
        )

    def _bytes_to_read(self) -> int:
        """Estimate the compressed image bytes under the boxes: distinct cells of 150 px times the files there."""
        cell = 150
        low, high = self.yx0 // cell, (self.yx0 + np.asarray(self.size) - 1) // cell  # (N, 2)
        steps = (high - low).max(axis=0, initial=0) + 1
        touched = []
        for step in np.ndindex(*steps.tolist()):
            yx = np.minimum(low + step, high).astype(np.int64)
            touched.append(np.unique((self.primary.astype(np.int64) << 40) + (yx[:, 0] << 20) + yx[:, 1]))
        per_patch = np.bincount(np.unique(np.concatenate(touched)) >> 40, minlength=len(self.patches))
        bands = (self.patches.files >= 0).sum(axis=1)
        return int((per_patch * bands).sum() * cell * cell * self.tile_bytes)

    def fingerprint(self) -> str:
        """Return a hash of everything that decides which pixels each row of the plan gives."""
        digest = hashlib.sha256(json.dumps([self.dataset_type, self.skymap, self.bands, self.size]).encode())
        for array in (self.row, self.object_id, self.yx0, self.patches.tract, self.patches.patch, self.primary):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update("\n".join(self.files.dataset_id).encode())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a Parquet file: a row for each catalog row, delivered or not, and tables as metadata.

        The file appears whole or not at all.
        """
        import pyarrow.parquet

        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            pyarrow.parquet.write_table(_to_arrow(self), part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a plan that `save` wrote.

        Raises
        ------
        PlanError
            If the file is missing, damaged, no plan, or a plan of another version of the format.
        """
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.read_table(path)
        except (OSError, pyarrow.ArrowException) as error:
            raise PlanError(
                f"cannot read the plan {os.fspath(path)!r}: {error}; make it again with build_plan"
            ) from error
        return cls(**_from_arrow(table, os.fspath(path)))


_TARGETS = ("row", "object_id", "ra", "dec", "primary")
_META = b"lsstcutouts.plan"


def _to_arrow(plan: CutoutPlan) -> Any:
    """Return an Arrow table: targets first, rejected rows behind them with a reason."""
    import pyarrow

    lost = plan.rejected
    none = np.zeros(len(lost), np.int64)
    arrays: dict[str, Any] = {
        "row": np.concatenate([plan.row, lost.row]),
        "object_id": np.concatenate([plan.object_id, lost.object_id]),
        "ra": np.concatenate([plan.ra, lost.ra]),
        "dec": np.concatenate([plan.dec, lost.dec]),
        "reason": np.concatenate([np.zeros(len(plan), np.uint8), lost.reason]),
        "tract": np.concatenate([plan.tract, none - 1]),
        "patch": np.concatenate([plan.patch, none - 1]),
        "primary": np.concatenate([plan.primary, (none - 1).astype(np.int32)]),
        "y0": np.concatenate([plan.yx0[:, 0], none.astype(np.int32)]),
        "x0": np.concatenate([plan.yx0[:, 1], none.astype(np.int32)]),
        "offset_y": np.concatenate([plan.offset[:, 0], none.astype(np.float32)]),
        "offset_x": np.concatenate([plan.offset[:, 1], none.astype(np.float32)]),
    }
    starts = np.concatenate([plan.others_start, np.full(len(lost), plan.others_start[-1])])
    table = pyarrow.table(
        {**arrays, "others": pyarrow.ListArray.from_arrays(starts.astype(np.int32), plan.others.astype(np.int32))}
    )
    for name, values in plan.columns.items():
        table = table.append_column(f"column.{name}", _column_to_arrow(values, len(lost)))
    return table.replace_schema_metadata({_META: json.dumps(_metadata(plan)).encode()})


def _column_to_arrow(values: Column, missing: int) -> Any:
    import pyarrow

    none = [None] * missing
    if isinstance(values, list):
        return pyarrow.array([*values, *none])
    if values.ndim > 1:
        return pyarrow.array([*values.reshape(len(values), -1).tolist(), *none])
    array = pyarrow.array(values)
    return pyarrow.concat_arrays([array, pyarrow.nulls(missing, array.type)])


def _metadata(plan: CutoutPlan) -> dict[str, Any]:
    patches = plan.patches
    return {
        "format": _FORMAT,
        "repo": plan.repo,
        "collections": plan.collections,
        "dataset_type": plan.dataset_type,
        "skymap": plan.skymap,
        "bands": plan.bands,
        "size": plan.size,
        "block_shape": plan.block_shape,
        "tile_bytes": plan.tile_bytes,
        "patches": [a.tolist() for a in (patches.tract, patches.patch, patches.inner, patches.files)],
        "files": [plan.files.uri, plan.files.size, plan.files.dataset_id],
        "projections": {str(t): [p.crval, p.crpix, p.cd] for t, p in plan.projections.items()},
        "columns": {
            name: None if isinstance(v, list) else [v.dtype.str, list(v.shape[1:])] for name, v in plan.columns.items()
        },
    }


def _from_arrow(table: Any, path: str) -> dict[str, Any]:
    """Return the constructor's arguments from a table that `_to_arrow` made."""
    blob = (table.schema.metadata or {}).get(_META)
    if blob is None:
        raise PlanError(
            f"{path!r} is a Parquet file but not a plan; give it as a catalog, or make a plan with build_plan"
        )
    meta = json.loads(blob)
    if meta.get("format") != _FORMAT:
        raise PlanError(
            f"{path!r} is a plan of format {meta.get('format')}, this version reads {_FORMAT}; make it again"
        )
    arrays = {n: table[n].to_numpy() for n in table.column_names if n != "others" and not n.startswith("column.")}
    count = int((arrays["reason"] == 0).sum())
    lost = slice(count, None)
    others = table["others"].combine_chunks()
    patch_arrays = [np.asarray(a, np.int64) for a in meta["patches"]]
    return {
        **{key: meta[key] for key in ("repo", "dataset_type", "skymap", "tile_bytes")},
        **{key: tuple(meta[key]) for key in ("collections", "bands")},
        "size": YX(*meta["size"]),
        "block_shape": YX(*meta["block_shape"]),
        **{name: arrays[name][:count].copy() for name in _TARGETS},
        "yx0": np.column_stack([arrays["y0"][:count], arrays["x0"][:count]]),
        "offset": np.column_stack([arrays["offset_y"][:count], arrays["offset_x"][:count]]),
        "others_start": others.offsets.to_numpy()[: count + 1].astype(np.int64),
        "others": others.values.to_numpy().astype(np.int64),
        "patches": PatchTable(
            patch_arrays[0],
            patch_arrays[1],
            patch_arrays[2].reshape(-1, 4),
            patch_arrays[3].reshape(-1, len(meta["bands"])),
        ),
        "files": FileTable(*(tuple(part) for part in meta["files"])),
        "projections": {int(t): TanProjection(*(tuple(part) for part in p)) for t, p in meta["projections"].items()},
        "rejected": Rejected(*(arrays[n][lost].copy() for n in ("row", "object_id", "ra", "dec", "reason"))),
        "columns": dict(_columns_from_arrow(table, meta["columns"], count)),
    }


def _columns_from_arrow(table: Any, described: Mapping[str, Any], count: int) -> Iterator[tuple[str, Column]]:
    for name, kind in described.items():
        column = table[f"column.{name}"].slice(0, count)
        if kind is None:
            yield name, column.to_pylist()
        elif kind[1]:
            yield name, np.asarray(column.to_pylist(), kind[0]).reshape(count, *kind[1])
        else:
            yield name, column.to_numpy().astype(kind[0], copy=False)
