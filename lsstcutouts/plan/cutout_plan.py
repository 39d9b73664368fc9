"""The plan: the box of every target, and the files under it."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..catalog.ids import Ids, Values, hash_ids, repeats_ids, rows_of_ids, take_rows
from ..errors import PlanError
from ..errors.secrets import is_signed
from ..order.blocks import block_ids
from ..order.lanes import lane_ids
from ..sky.geometry import YX, TanProjection
from ..source.notebook import html_table
from ..source.writing import atomic_file
from .coverage import Coverage
from .coverage_figure import coverage_figure
from .grid_plan import GridPlan
from .parquet import from_arrow, to_arrow
from .stored_pixels import StoredPixels
from .tables import FileTable, PatchTable, PlanSummary, Reason, Rejected, SharedReading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .splits.assignment import SplitAssignment

__all__ = ["CutoutPlan"]


@dataclass(frozen=True, eq=False, repr=False)
class CutoutPlan:
    """The box of every target and the files under it; arrays ``(N,)`` of N targets.

    Attributes
    ----------
    repo, collections, dataset_type, skymap
        Origin of the plan; for messages and provenance.
    bands
        Names of the B bands, in the channel order of the cutouts.
    size
        Rows and columns of a cutout, pixels.
    block_shape
        Rows and columns of a locality block, pixels, counted from the corner of the primary patch.
    tile_shape
        Rows and columns of a compressed tile of the image, pixels, from one file; only for estimates.
    border
        Pixels ``(y, x)`` by which a file extends beyond its patch's inner region on each side, from one file.
    psf_shape
        Rows and columns of the PSF kernels, pixels, from one file; None if the files have no readable PSF.
    row
        Row of the catalog.
    object_id, ra, dec
        Id and position; degrees ICRS. Ids are int64, uint64 if one exceeds int64, or a list of strings.
    primary
        Row of ``patches``: the patch whose inner region contains the target.
    other_tract
        Whether the cutout comes from another tract than the one to which the skymap assigns the target.
    yx0
        ``(N, 2)`` first pixel ``(y, x)`` of the box, tract pixels.
    offset
        ``(N, 2)`` float32, target position minus middle of the box, pixels ``(y, x)``.
    others_start, others
        Rows of ``patches``: further patches under the box, as ``(start, values)`` of `ragged`, by patch number.
    patches, files
        Tables to which ``primary`` and ``others`` refer.
    projections
        Projection of each tract by its number: the reference WCS of its cutouts.
    rejected
        Catalog rows that are not targets.
    columns
        Extra catalog columns that a batch contains, ``(N, ...)`` each.
    tile_bytes
        Compressed bytes of the image plane per pixel, from one file; only for estimates.
    repeats_ids
        Whether several targets have one id; found out if it is not given.
    pixels
        Where the pixels stand in an export; None if they are read from the files.
    grid
        The pixel grids of the cutouts; None for that of the tract. With a grid, ``yx0`` and ``offset`` are those of boxes of
        `box` tract pixels from which the cutouts are made.
    """

    repo: str
    collections: tuple[str, ...]
    dataset_type: str
    skymap: str
    bands: tuple[str, ...]
    size: YX[int]
    block_shape: YX[int]
    tile_shape: YX[int]
    border: YX[int]
    psf_shape: YX[int] | None
    row: NDArray[np.int64]
    object_id: Ids
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    primary: NDArray[np.int32]
    other_tract: NDArray[np.bool_]
    yx0: NDArray[np.int32]
    offset: NDArray[np.float32]
    others_start: NDArray[np.int64]
    others: NDArray[np.int64]
    patches: PatchTable
    files: FileTable
    projections: Mapping[int, TanProjection]
    rejected: Rejected
    columns: Mapping[str, Values] = field(default_factory=dict)
    tile_bytes: float = 0.0
    repeats_ids: bool | None = None
    pixels: StoredPixels | None = None
    grid: GridPlan | None = None

    def __post_init__(self) -> None:
        if self.repeats_ids is None:
            object.__setattr__(self, "repeats_ids", repeats_ids(self.object_id))

    def __len__(self) -> int:
        return len(self.row)

    def __repr__(self) -> str:
        return (
            f"CutoutPlan({len(self)} targets, {len(self.rejected)} rejected, {self.size.y} x {self.size.x} px, bands "
            f"{','.join(self.bands)}, {len(self.files)} files of {self.dataset_type!r} in {self.repo!r})"
        )

    def _repr_html_(self) -> str:
        reasons, counts = np.unique(self.rejected.reason, return_counts=True)
        rejected = [f"{n:,} {Reason(one).text}" for one, n in zip(reasons.tolist(), counts.tolist(), strict=True)]
        missing = [f"{band}: {count:,}" for band, count in self.bands_missing().items() if count]
        rows: list[tuple[str, object]] = [
            ("targets", len(self)),
            ("rejected", rejected),
            ("size", f"{self.size.y} x {self.size.x} pixels"),
            ("bands", self.bands),
            ("targets without a band", missing),
            ("tracts", len(np.unique(self.patches.tract[np.unique(self.primary)]))),
            ("files", len(self.files)),
            ("dataset type", self.dataset_type),
            ("repository", self.repo),
            ("collections", self.collections),
        ]
        return html_table("CutoutPlan", rows)

    @property
    def box(self) -> YX[int]:
        """Rows and columns of the box of each target on its tract, tract pixels: the size of the cutouts unless they have a grid."""
        return self.size if self.grid is None else self.grid.reach

    @property
    def pixel_scale(self) -> YX[float] | None:
        """Arcseconds a pixel of the cutouts along ``(y, x)``; None where no target is covered."""
        if self.grid is not None:
            return self.grid.pixel_scale
        return next((projection.pixel_scale for projection in self.projections.values()), None)

    @property
    def tract(self) -> NDArray[np.int64]:
        """Number of the tract of each target, ``(N,)``."""
        return self.patches.tract[self.primary]

    @property
    def patch(self) -> NDArray[np.int64]:
        """Number of the primary patch of each target, ``(N,)``."""
        return self.patches.patch[self.primary]

    def targets_of(self, object_id: Any) -> NDArray[np.int64]:
        """Return the target index, ``(n,)``, of each of n ids; -1 for an id that is not in the plan.

        Raises
        ------
        PlanError
            If several targets have one id.
        """
        if self.repeats_ids:
            raise PlanError(
                "several targets of the plan have one id, so none can be found by its id; choose a column of unique ids with"
                " object_id= of Catalog.from_any, or leave it out to use row numbers"
            )
        return rows_of_ids(self.object_id, object_id)

    def keys(self, targets: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return a number per target, ``(n,)`` int64, that seeds what is random: of its id; of id and row if ids repeat."""
        chosen = np.arange(len(self)) if targets is None else targets
        return hash_ids(take_rows(self.object_id, chosen), self.row[chosen] if self.repeats_ids else None)

    def targets_in(self, batch: Mapping[str, Any]) -> NDArray[np.int64]:
        """Return the target index, ``(n,)``, of each row of a batch of this plan; -1 for rows of no target."""
        if not self.repeats_ids:
            return self.targets_of(batch["object_id"])
        return rows_of_ids(self.keys(), np.asarray(batch["object_hash"]))

    def others_of(self, target: int) -> list[int]:
        """Return the rows of ``patches`` under the box of a target, except the primary patch."""
        return self.others[self.others_start[target] : self.others_start[target + 1]].tolist()  # type: ignore[no-any-return]

    def blocks(self, targets: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return the block id, ``(n,)`` from 0 without gaps, of each target (all targets by default)."""
        chosen = np.arange(len(self)) if targets is None else targets
        return block_ids(self.primary[chosen], self._in_patch(chosen), self.block_shape)

    def sky_groups(self, *, blocks: bool) -> NDArray[np.str_]:
        """Return the name of the patch or, with ``blocks``, of the locality block of each target, ``(N,)``."""
        parts = [self.tract, self.patch]
        if blocks:
            parts += list((self._in_patch(np.arange(len(self))) // np.asarray(self.block_shape)).T)
        unique, inverse = np.unique(np.column_stack(parts), axis=0, return_inverse=True)
        names = np.array(["/".join(map(str, one)) for one in unique.tolist()])
        chosen: NDArray[np.str_] = names[inverse.reshape(-1)]
        return chosen

    def _in_patch(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the middle of each box, ``(n, 2)`` pixels ``(y, x)`` from the corner of its primary patch."""
        middle = self.yx0[targets].astype(np.int64) + np.asarray(self.box) // 2
        corner = self.patches.inner[self.primary[targets]][:, [0, 2]]
        return np.asarray(middle - corner, np.int64)

    def bands_missing(self) -> dict[str, int]:
        """Return for each band the number of targets without a file under their box."""
        present = self.patches.files[self.primary] >= 0  # (N, B)
        owner = np.repeat(np.arange(len(self)), np.diff(self.others_start))
        np.logical_or.at(present, owner, self.patches.files[self.others] >= 0)
        return {band: int(count) for band, count in zip(self.bands, (~present).sum(axis=0), strict=True)}

    def summary(self, *, ranks: int = 1) -> PlanSummary:
        """Return counts of targets, patches, files, missing bands and bytes, and what several ranks read more than once."""
        tracts, per_tract = np.unique(self.tract, return_counts=True)
        used, per_patch = np.unique(self.primary, return_counts=True)
        tiles, _ = self.tiles_under(np.arange(len(self)))
        names = [f"{self.patches.tract[p]}/{self.patches.patch[p]}" for p in used]
        rejected = {reason.text: tracts for reason, tracts in self.rejected.by_tract().items()}
        return PlanSummary(
            targets=len(self),
            other_tract=int(self.other_tract.sum()),
            rejected={text: sum(tracts.values()) for text, tracts in rejected.items()},
            rejected_tracts=rejected,
            rejected_lines=tuple(self.rejected.lines()),
            tracts=dict(zip(tracts.tolist(), per_tract.tolist(), strict=True)),
            patches=self.patches_under(np.arange(len(self))),
            files=len(self.files),
            file_bytes=sum(max(0, size) for size in self.files.size),
            bytes_to_read=int(self._bytes_of(np.unique(tiles))),
            bands_missing=self.bands_missing(),
            bands=self.bands,
            size=(self.size.y, self.size.x),
            per_patch=dict(zip(names, per_patch.tolist(), strict=True)),
            shared=self.shared_reading(ranks) if ranks > 1 else None,
        )

    def plot(self, splits: "SplitAssignment | None" = None) -> "Figure":
        """Return a figure of the sky: patches, which bands they have, targets, and rejected targets by reason.

        Parameters
        ----------
        splits
            From `assign_splits` of this plan: each split gets its own colour.
        """
        return coverage_figure(Coverage.of(self, splits))

    def patches_under(self, targets: NDArray[np.int64]) -> int:
        """Return the number of patches with a coadd under the boxes of targets ``(n,)``."""
        owner = np.repeat(np.arange(len(self)), np.diff(self.others_start))
        under = np.union1d(self.primary[targets], self.others[np.isin(owner, targets)])
        return int((self.patches.files[under] >= 0).any(axis=1).sum())

    def _bytes_of(self, tiles: NDArray[np.int64]) -> float:
        per_patch = np.bincount(tiles >> 40, minlength=len(self.patches))
        pixels = self.tile_shape.y * self.tile_shape.x
        return float((per_patch * (self.patches.files >= 0).sum(axis=1)).sum() * pixels * self.tile_bytes)

    def tiles_under(
        self, targets: NDArray[np.int64], tile: YX[int] | None = None, *, middle: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the tiles under boxes, ``(M,)`` keys of patch, row and column, and the index of each tile's box, ``(M,)``.

        A key is ``patch << 40 | row << 20 | column``, with the row of ``patches``. As an approximation, all pixels of a box
        count as pixels of its primary patch's file, which starts ``border`` pixels before the inner region.

        Parameters
        ----------
        targets
            ``(n,)`` targets.
        tile
            Rows and columns of a tile, pixels; by default `tile_shape`.
        middle
            Only the tile that holds the middle of each box.
        """
        shape = self.tile_shape if tile is None else tile
        inner, border = self.patches.inner[self.primary[targets]], np.asarray(self.border)
        first = self.yx0[targets] - (inner[:, [0, 2]] - border)
        last = inner[:, [1, 3]] - inner[:, [0, 2]] + 2 * border - 1  # last pixel, counted from the file's first pixel
        size = np.asarray(self.box)
        ends = (first + size // 2,) * 2 if middle else (first, first + size - 1)
        low, high = (np.clip(at, 0, last) // shape for at in ends)
        steps = (high - low).max(axis=0, initial=0) + 1
        corner = self.primary[targets].astype(np.int64) << 40
        touched = [np.minimum(low + step, high) for step in np.ndindex(*steps.tolist())]
        tiles = np.concatenate([corner + (yx[:, 0] << 20) + yx[:, 1] for yx in touched])
        return tiles, np.tile(np.arange(len(targets)), len(touched))

    def shared_reading(self, ranks: int, targets: NDArray[np.int64] | None = None) -> SharedReading:
        """Return which files and bytes several ranks read more than once, for targets ``(n,)`` (all by default).

        Each rank reads its own lane, a part of the sky (`lsstcutouts.order.lanes.lane_ids`).
        """
        chosen = np.arange(len(self)) if targets is None else targets
        lane = lane_ids(self.blocks(chosen), ranks)
        tiles, box = self.tiles_under(chosen)
        distinct, inverse = np.unique(tiles, return_inverse=True)
        read = np.unique(inverse.reshape(-1) * ranks + lane[box]) // ranks  # one element per rank and tile
        once, total = self._bytes_of(distinct), self._bytes_of(distinct[read])
        used = np.unique(self.primary[chosen].astype(np.int64) * ranks + lane) // ranks
        patches, count = np.unique(used, return_counts=True)
        files = (self.patches.files[patches] >= 0).sum(axis=1)
        return SharedReading(ranks, int(files.sum()), int(files[count > 1].sum()), total / once - 1.0 if once else 0.0)

    def fingerprint(self) -> str:
        """Return the SHA-256 of everything that determines the pixels of each target."""
        digest = hashlib.sha256(json.dumps([self.dataset_type, self.skymap, self.bands, self.size]).encode())
        ids = self.object_id
        texts = np.frombuffer("\0".join(ids).encode(), np.uint8) if isinstance(ids, list) else ids
        for array in (self.row, texts, self.yx0, self.patches.tract, self.patches.patch, self.primary):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update("\n".join(self.files.dataset_id).encode())
        if self.grid is not None:
            digest.update(json.dumps(self.grid.to_meta()).encode() + self.grid.placed.wcs.tobytes())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a Parquet file: one row per catalog row, including rejected rows; small tables as metadata.

        The file is written atomically. If it contains signed URLs, which grant access to everyone who reads them, only
        its owner may read it (mode 0600).

        Raises
        ------
        WriteError
            If it cannot be written.
        """
        import pyarrow.parquet

        with atomic_file(path, private=any(map(is_signed, self.files.uri))) as part:
            pyarrow.parquet.write_table(to_arrow(vars(self)), part)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a plan that `save` has written.

        Raises
        ------
        PlanError
            If the file does not exist, is damaged, is not a plan, or has another format version.
        """
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.read_table(path)
        except (OSError, pyarrow.ArrowException) as error:
            raise PlanError(
                f"the plan {os.fspath(path)!r} cannot be read: {error}; check the path, or make the plan again with "
                "build_plan"
            ) from error
        return cls(**from_arrow(table, os.fspath(path)))
