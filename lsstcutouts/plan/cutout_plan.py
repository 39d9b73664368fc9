"""The plan itself: every target's box, and the files under it."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..catalog.ids import Ids, Values, rows_of_ids
from ..errors import PlanError
from ..errors.secrets import is_signed
from ..order.blocks import block_ids
from ..order.lanes import lane_ids
from ..sky.geometry import YX, TanProjection
from ..source.writing import atomic_file
from .parquet import from_arrow, to_arrow
from .tables import FileTable, PatchTable, PlanSummary, Rejected, SharedReading

__all__ = ["CutoutPlan"]


@dataclass(frozen=True, eq=False, repr=False)
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
    tile_shape
        Rows and columns of a compressed tile of a sample file's image, pixels; only for estimates.
    border
        Pixels by which a file reaches beyond its patch's inner region, above and below, left and right; from a
        sample file.
    psf_shape
        Rows and columns of a sample file's PSF kernels; None where the files carry no PSF that can be read.
    row
        Row of the catalog.
    object_id, ra, dec
        Identity and position; degrees ICRS. Ids are int64, uint64 where one is beyond int64, or a list of texts.
    primary
        Row of ``patches``: the patch whose inner region holds the target.
    other_tract
        Whether a target is cut from another tract than the one that the skymap gives its position to.
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

    def __len__(self) -> int:
        return len(self.row)

    def __repr__(self) -> str:
        return (
            f"CutoutPlan({len(self)} targets, {len(self.rejected)} rejected, {self.size.y} x {self.size.x} px, bands "
            f"{','.join(self.bands)}, {len(self.files)} files of {self.dataset_type!r} in {self.repo!r})"
        )

    @property
    def tract(self) -> NDArray[np.int64]:
        """``(N,)`` tract of each target."""
        return self.patches.tract[self.primary]

    @property
    def patch(self) -> NDArray[np.int64]:
        """``(N,)`` primary patch of each target."""
        return self.patches.patch[self.primary]

    def targets_of(self, object_id: Any) -> NDArray[np.int64]:
        """Return ``(n,)`` the targets with these ids, -1 for an id that is not among them."""
        return rows_of_ids(self.object_id, object_id)

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

    def summary(self, *, ranks: int = 1) -> PlanSummary:
        """Return counts of targets, patches, files, missing bands and bytes; and what so many ranks read twice."""
        tracts, per_tract = np.unique(self.tract, return_counts=True)
        used, per_patch = np.unique(self.primary, return_counts=True)
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
            bytes_to_read=self._bytes_to_read(),
            bands_missing=self.bands_missing(),
            bands=self.bands,
            size=(self.size.y, self.size.x),
            per_patch=dict(zip(names, per_patch.tolist(), strict=True)),
            shared=self.shared_reading(ranks) if ranks > 1 else None,
        )

    def patches_under(self, targets: NDArray[np.int64]) -> int:
        """Return the number of patches under the boxes of targets that have a coadd."""
        owner = np.repeat(np.arange(len(self)), np.diff(self.others_start))
        under = np.union1d(self.primary[targets], self.others[np.isin(owner, targets)])
        return int((self.patches.files[under] >= 0).any(axis=1).sum())

    def _bytes_to_read(self) -> int:
        """Estimate the compressed image bytes under the boxes: distinct tiles times the files there."""
        tiles, _ = self._tiles_under(np.arange(len(self)))
        return int(self._bytes_of(np.unique(tiles)))

    def _bytes_of(self, tiles: NDArray[np.int64]) -> float:
        per_patch = np.bincount(tiles >> 40, minlength=len(self.patches))
        pixels = self.tile_shape.y * self.tile_shape.x
        return float((per_patch * (self.patches.files >= 0).sum(axis=1)).sum() * pixels * self.tile_bytes)

    def _tiles_under(self, targets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return ``(M,)`` tiles under boxes, as numbers that begin with the primary patch, and the place of the box.

        All of a box counts as pixels of its primary patch's file, whose first pixel is ``border`` before the inner region.
        """
        inner, border = self.patches.inner[self.primary[targets]], np.asarray(self.border)
        first = self.yx0[targets] - (inner[:, [0, 2]] - border)
        last = inner[:, [1, 3]] - inner[:, [0, 2]] + 2 * border - 1  # pixel of the file, from its first
        low, high = (np.clip(at, 0, last) // self.tile_shape for at in (first, first + np.asarray(self.size) - 1))
        steps = (high - low).max(axis=0, initial=0) + 1
        corner = self.primary[targets].astype(np.int64) << 40
        touched = [np.minimum(low + step, high) for step in np.ndindex(*steps.tolist())]
        tiles = np.concatenate([corner + (yx[:, 0] << 20) + yx[:, 1] for yx in touched])
        return tiles, np.tile(np.arange(len(targets)), len(touched))

    def shared_reading(self, ranks: int, targets: NDArray[np.int64] | None = None) -> SharedReading:
        """Return what ranks that share targets (all of them by default) read beside each other.

        Each rank reads its own lane, a part of the sky (`lsstcutouts.order.lanes.lane_ids`).
        """
        chosen = np.arange(len(self)) if targets is None else targets
        lane = lane_ids(self.blocks(chosen), ranks)
        tiles, place = self._tiles_under(chosen)
        distinct, inverse = np.unique(tiles, return_inverse=True)
        read = np.unique(inverse.reshape(-1) * ranks + lane[place]) // ranks  # a row for each rank and tile
        once, total = self._bytes_of(distinct), self._bytes_of(distinct[read])
        used = np.unique(self.primary[chosen].astype(np.int64) * ranks + lane) // ranks
        patches, count = np.unique(used, return_counts=True)
        files = (self.patches.files[patches] >= 0).sum(axis=1)
        return SharedReading(ranks, int(files.sum()), int(files[count > 1].sum()), total / once - 1.0 if once else 0.0)

    def fingerprint(self) -> str:
        """Return a hash of everything that decides which pixels each row of the plan gives."""
        digest = hashlib.sha256(json.dumps([self.dataset_type, self.skymap, self.bands, self.size]).encode())
        ids = self.object_id
        texts = np.frombuffer("\0".join(ids).encode(), np.uint8) if isinstance(ids, list) else ids
        for array in (self.row, texts, self.yx0, self.patches.tract, self.patches.patch, self.primary):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update("\n".join(self.files.dataset_id).encode())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a Parquet file: a row for each catalog row, delivered or not, and tables as metadata.

        The file appears whole or not at all. Where it holds signed URLs, which give access to whoever reads them, only
        its owner may read it (mode 0600).

        Raises
        ------
        WriteError
            If it cannot be written.
        """
        import pyarrow.parquet

        with atomic_file(path, private=any(map(is_signed, self.files.uri))) as part:
            pyarrow.parquet.write_table(to_arrow(self), part)

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
        return cls(**from_arrow(table, os.fspath(path)))
