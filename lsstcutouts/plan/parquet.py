"""Converts a plan to and from one Arrow table: one row per catalog row, and small tables as metadata."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..catalog.ids import Values, concatenate_columns
from ..errors import PlanError
from ..sky.geometry import YX, TanProjection
from .grid_plan import GridPlan
from .stored_pixels import StoredPixels
from .tables import FileTable, PatchTable, Rejected

__all__ = ["from_arrow", "to_arrow"]

_FORMAT = 3
"""Version of the Parquet layout; a plan of another version cannot be read."""

_TARGETS = ("row", "object_id", "ra", "dec", "primary", "other_tract")
_REJECTED = ("row", "object_id", "ra", "dec", "reason", "tract", "patch")
_PLAIN = (
    *("repo", "collections", "dataset_type", "skymap", "bands", "size"),
    *("block_shape", "tile_shape", "border", "psf_shape", "tile_bytes"),
)
_META = b"lsstcutouts.plan"


def to_arrow(plan: Mapping[str, Any]) -> Any:
    """Return the constructor's arguments of a plan as an Arrow table: first the targets, then the rejected rows."""
    import pyarrow

    lost, patches, primary = plan["rejected"], plan["patches"], plan["primary"]
    none = np.zeros(len(lost), np.int64)
    arrays: dict[str, Any] = {
        "row": np.concatenate([plan["row"], lost.row]),
        "object_id": concatenate_columns([plan["object_id"], lost.object_id]),
        "ra": np.concatenate([plan["ra"], lost.ra]),
        "dec": np.concatenate([plan["dec"], lost.dec]),
        "reason": np.concatenate([np.zeros(len(primary), np.uint8), lost.reason]),
        "tract": np.concatenate([patches.tract[primary], lost.tract]),
        "patch": np.concatenate([patches.patch[primary], lost.patch]),
        "other_tract": np.concatenate([plan["other_tract"], none.astype(bool)]),
        "primary": np.concatenate([primary, (none - 1).astype(np.int32)]),
        "y0": np.concatenate([plan["yx0"][:, 0], none.astype(np.int32)]),
        "x0": np.concatenate([plan["yx0"][:, 1], none.astype(np.int32)]),
        "offset_y": np.concatenate([plan["offset"][:, 0], none.astype(np.float32)]),
        "offset_x": np.concatenate([plan["offset"][:, 1], none.astype(np.float32)]),
    }
    starts = np.concatenate([plan["others_start"], np.full(len(lost), plan["others_start"][-1])])
    table = pyarrow.table(
        {**arrays, "others": pyarrow.ListArray.from_arrays(starts.astype(np.int32), plan["others"].astype(np.int32))}
    )
    for name, values in plan["columns"].items():
        table = table.append_column(
            f"column.{name}", _column_to_arrow(concatenate_columns([values, lost.columns[name]]))
        )
    pixels: StoredPixels | None = plan.get("pixels")
    for name, values in ({} if pixels is None else pixels.to_columns(len(lost))).items():
        table = table.append_column(name, pyarrow.array(values))
    grid: GridPlan | None = plan.get("grid")
    for name, values in ({} if grid is None else grid.to_columns(len(lost))).items():
        table = table.append_column(name, pyarrow.array(values))
    meta = {
        "format": _FORMAT,
        **{name: plan[name] for name in _PLAIN},
        "patches": [a.tolist() for a in (patches.tract, patches.patch, patches.inner, patches.files)],
        "files": [plan["files"].uri, plan["files"].size, plan["files"].dataset_id],
        "projections": {str(t): [p.crval, p.crpix, p.cd] for t, p in plan["projections"].items()},
        "columns": {
            name: None if isinstance(v, list) else [v.dtype.str, list(v.shape[1:])]
            for name, v in plan["columns"].items()
        },
        "pixels": None if pixels is None else pixels.to_meta(),
        "grid": None if grid is None else grid.to_meta(),
    }
    return table.replace_schema_metadata({_META: json.dumps(meta).encode()})


def _column_to_arrow(values: Values) -> Any:
    import pyarrow

    if isinstance(values, list):
        return pyarrow.array(values, pyarrow.string())
    return pyarrow.array(values if values.ndim == 1 else values.reshape(len(values), -1).tolist())


def from_arrow(table: Any, path: str) -> dict[str, Any]:
    """Return the constructor's arguments of a plan from a table made by `to_arrow`.

    Raises
    ------
    PlanError
        If the table is not a plan or has another format version; ``path`` is for the message.
    """
    import pyarrow

    blob = (table.schema.metadata or {}).get(_META)
    if blob is None:
        raise PlanError(
            f"{path!r} is a Parquet file, but not a plan; give it as the catalog, or make a plan with build_plan"
        )
    meta = json.loads(blob)
    if meta.get("format") != _FORMAT:
        raise PlanError(
            f"{path!r} is a plan of format {meta.get('format')}, but this version of lsstcutouts reads format {_FORMAT}; make "
            "the plan again with build_plan"
        )
    own = [n for n in table.column_names if n not in {"object_id", "others"} and not n.startswith("column.")]
    arrays = {n: table[n].to_numpy() for n in own}
    ids = table["object_id"]
    arrays["object_id"] = ids.to_numpy() if pyarrow.types.is_integer(ids.type) else ids.to_pylist()
    count = int((arrays["reason"] == 0).sum())
    lost = slice(count, None)
    rejected: dict[str, Any] = {n: _part(arrays[n], lost) for n in _REJECTED}
    columns = dict(_columns_from_arrow(table, meta["columns"]))
    others = table["others"].combine_chunks()
    pixels = None if meta.get("pixels") is None else StoredPixels.from_table(meta["pixels"], arrays, count)
    patch_arrays = [np.asarray(a, np.int64) for a in meta["patches"]]
    return {
        **{key: meta[key] for key in ("repo", "dataset_type", "skymap", "tile_bytes")},
        **{key: tuple(meta[key]) for key in ("collections", "bands")},
        "size": YX(*meta["size"]),
        "block_shape": YX(*meta["block_shape"]),
        "tile_shape": YX(*meta["tile_shape"]),
        "border": YX(*meta["border"]),
        "psf_shape": None if meta["psf_shape"] is None else YX(*meta["psf_shape"]),
        **{name: _part(arrays[name], slice(count)) for name in _TARGETS},
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
        "rejected": Rejected(**rejected, columns={name: _part(values, lost) for name, values in columns.items()}),
        "columns": {name: _part(values, slice(count)) for name, values in columns.items()},
        "pixels": pixels,
        "grid": None if meta.get("grid") is None else GridPlan.from_table(meta["grid"], arrays, count),
    }


def _part(values: Values, rows: slice) -> Values:
    return values[rows] if isinstance(values, list) else values[rows].copy()


def _columns_from_arrow(table: Any, described: Mapping[str, Any]) -> Iterator[tuple[str, Values]]:
    for name, kind in described.items():
        column = table[f"column.{name}"]
        if kind is None:
            yield name, column.to_pylist()
        elif kind[1]:
            yield name, np.asarray(column.to_pylist(), kind[0]).reshape(len(column), *kind[1])
        else:
            yield name, column.to_numpy().astype(kind[0], copy=False)
