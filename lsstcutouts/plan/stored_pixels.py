"""Where the pixels of the targets of a plan stand in an export, instead of in the files of a repository."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..catalog.ids import Ids
from ..sky.geometry import YX

__all__ = ["StoredPixels", "hash_of_ids"]

_ARRAYS = ("file", "number", "outcome", "corner", "quality")


@dataclass(frozen=True, eq=False)
class StoredPixels:
    """Where the pixels of ``N`` targets stand in an export, and what is known of them.

    Attributes
    ----------
    folder
        Of the export.
    size
        Rows and columns of a stored cutout, pixels.
    channels
        ``(B,)`` stored channel of each band of the plan.
    paths, sizes, counts
        Path of each file in the folder, its bytes when it was written, and number of its rows that have pixels.
    ids
        `hash_of_ids` of all rows of each file.
    file
        ``(N,)`` index of the file of each target.
    number
        ``(N,)`` number of each target among the rows of its file that have pixels; -1 if the export left it out.
    outcome
        ``(N,)`` values of `Outcome`: those that are not delivered have no pixels.
    corner
        ``(N, 2)`` first pixel ``(y, x)`` of the box, counted from the first pixel of the stored cutout.
    quality
        ``(N, B)`` bits of `Quality` of the stored cutout.
    """

    folder: str
    size: YX[int]
    channels: tuple[int, ...]
    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    ids: tuple[str, ...]
    file: NDArray[np.int32]
    number: NDArray[np.int32]
    outcome: NDArray[np.uint8]
    corner: NDArray[np.int32]
    quality: NDArray[np.int32]

    def to_columns(self, rejected: int) -> dict[str, NDArray[Any]]:
        """Return columns of a table with a row for each target and then for so many rejected rows."""
        flat = {
            "file": self.file,
            "number": self.number,
            "outcome": self.outcome,
            "corner_y": self.corner[:, 0],
            "corner_x": self.corner[:, 1],
            **{f"quality_{band}": bits for band, bits in enumerate(self.quality.T)},
        }
        return {f"pixels.{name}": np.concatenate([v, np.zeros(rejected, v.dtype)]) for name, v in flat.items()}

    def to_meta(self) -> dict[str, Any]:
        """Return what is the same for all targets, as plain values."""
        return {name: getattr(self, name) for name in ("folder", "size", "channels", "paths", "sizes", "counts", "ids")}

    @classmethod
    def from_table(cls, meta: Mapping[str, Any], columns: Mapping[str, NDArray[Any]], count: int) -> Self:
        """Return what `to_meta` and `to_columns` gave, of the first ``count`` rows."""
        own = {
            name.removeprefix("pixels."): v[:count].copy() for name, v in columns.items() if name.startswith("pixels.")
        }
        quality = [own[f"quality_{band}"] for band in range(len(meta["channels"]))]
        return cls(
            folder=meta["folder"],
            size=YX(*meta["size"]),
            channels=tuple(meta["channels"]),
            paths=tuple(meta["paths"]),
            sizes=tuple(meta["sizes"]),
            counts=tuple(meta["counts"]),
            ids=tuple(meta["ids"]),
            file=own["file"],
            number=own["number"],
            outcome=own["outcome"],
            corner=np.column_stack([own["corner_y"], own["corner_x"]]),
            quality=np.column_stack(quality).reshape(count, len(quality)),
        )

    def take(self, targets: NDArray[Any]) -> Self:
        """Return the same of some targets, as numbers or a mask."""
        return type(self)(**{**vars(self), **{name: getattr(self, name)[targets] for name in _ARRAYS}})


def hash_of_ids(ids: Ids) -> str:
    """Return the SHA-256 of ids in their order; the same for int64 and uint64."""
    if isinstance(ids, list):
        return hashlib.sha256("\0".join(ids).encode()).hexdigest()
    return hashlib.sha256(np.ascontiguousarray(ids).view("<i8").tobytes()).hexdigest()
