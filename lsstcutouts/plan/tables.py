"""The tables of a plan, and its summary."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..catalog.ids import Ids, Values, concatenate_columns, take_rows
from ..sky.geometry import Box
from ..source.notebook import html_table

__all__ = ["FileTable", "PatchTable", "PlanSummary", "Reason", "Rejected", "SharedReading", "ragged"]


class Reason(IntEnum):
    """Reason why a catalog row is not a target of the plan."""

    OUTSIDE_TRACTS = 1
    """The tract of the position has no coadds, or no tract with coadds contains the position."""
    NO_COADD = 2
    """No coadd of its tract lies under the box, in any band."""

    @property
    def text(self) -> str:
        """The reason as text."""
        return {
            Reason.OUTSIDE_TRACTS: "in no tract that has coadds",
            Reason.NO_COADD: "no coadd in any band under the box",
        }[self]


@dataclass(frozen=True, eq=False)
class Rejected:
    """Catalog rows that are not targets of the plan, with reasons; arrays ``(R,)``.

    Attributes
    ----------
    row, object_id, ra, dec
        As in the catalog.
    reason
        Values of `Reason`.
    tract, patch
        Numbers of the tract and patch of the position; -1 if no tract is known, and for the patch if the tract has no
        coadds.
    columns
        The catalog columns of the plan, ``(R, ...)`` each.
    """

    row: NDArray[np.int64]
    object_id: Ids
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    reason: NDArray[np.uint8]
    tract: NDArray[np.int64]
    patch: NDArray[np.int64]
    columns: Mapping[str, Values] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)

    def __repr__(self) -> str:
        return f"<Rejected: {'; '.join(self.lines()) or 'no rows'}>"

    def _repr_html_(self) -> str:
        number, texts = self.texts()
        first = take_rows(self.object_id, np.arange(min(_ROWS_SHOWN, len(self))))
        rows = [
            (str(self.row[i]), str(identity), f"{self.ra[i]:.6f}", f"{self.dec[i]:.6f}", texts[number[i]])
            for i, identity in enumerate(first if isinstance(first, list) else first.tolist())
        ]
        more = f", the first {_ROWS_SHOWN}" if len(self) > _ROWS_SHOWN else ""
        return html_table(f"{len(self):,} rejected rows{more}", rows, ("row", "object_id", "ra", "dec", "reason"))

    @classmethod
    def joined(cls, parts: "Sequence[Rejected]") -> "Rejected":
        """Return the rows of several in one."""
        names = "row", "ra", "dec", "reason", "tract", "patch"
        return cls(
            object_id=concatenate_columns([part.object_id for part in parts]),
            columns={name: concatenate_columns([part.columns[name] for part in parts]) for name in parts[0].columns},
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
        )

    def texts(self) -> tuple[NDArray[np.int64], list[str]]:
        """Return the distinct reasons as texts with tract and patch, and the index of each row's text, ``(R,)``."""
        key = (self.reason.astype(np.int64) << 58) + ((self.tract + 1) << 27) + self.patch
        _, first, number = np.unique(key, return_index=True, return_inverse=True)
        texts = [
            _reason_text(Reason(reason), tract, f", patch {patch}")
            for reason, tract, patch in zip(
                *(a[first].tolist() for a in (self.reason, self.tract, self.patch)), strict=True
            )
        ]
        return number.reshape(-1), texts

    def by_tract(self) -> dict[Reason, dict[int, int]]:
        """Return the number of rows by reason and tract."""
        counts: dict[Reason, dict[int, int]] = {}
        for reason in np.unique(self.reason).tolist():
            tracts, rows = np.unique(self.tract[self.reason == reason], return_counts=True)
            counts[Reason(reason)] = dict(zip(tracts.tolist(), rows.tolist(), strict=True))
        return counts

    def lines(self) -> list[str]:
        """Return lines of text with the number of rows for each reason and tract, for the first few tracts."""
        lines = []
        for reason, tracts in self.by_tract().items():
            named = list(tracts.items())[:_TRACTS_NAMED]
            lines += [f"{count} rows, {_reason_text(reason, tract)}" for tract, count in named]
            if more := list(tracts.values())[_TRACTS_NAMED:]:
                what = "no coadds" if reason is Reason.OUTSIDE_TRACTS else reason.text
                lines.append(f"{sum(more)} rows, {what} in {len(more)} more tracts")
        return lines


_ROWS_SHOWN = 20
"""Rows in a notebook's table."""

_TRACTS_NAMED = 5
"""Number of tracts that a summary names for each reason."""


def _reason_text(reason: Reason, tract: int, patch: str = "") -> str:
    if tract < 0:
        return Reason.OUTSIDE_TRACTS.text
    if reason is Reason.OUTSIDE_TRACTS:
        return f"no coadds in its tract, {tract}"
    return f"{reason.text}; its tract is {tract}{patch}"


@dataclass(frozen=True, eq=False)
class PatchTable:
    """The patches that the targets of a plan may need; arrays ``(P,)``.

    Attributes
    ----------
    tract, patch
        Numbers in the skymap.
    inner
        ``(P, 4)`` inner regions ``(y0, y1, x0, x1)``, tract pixels.
    files
        ``(P, B)`` row of the file table for each band, -1 if the repository has no coadd.
    """

    tract: NDArray[np.int64]
    patch: NDArray[np.int64]
    inner: NDArray[np.int64]
    files: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tract)

    @cached_property
    def row_and_band(self) -> NDArray[np.int64]:
        """Row of this table and index of the band of each file, ``(F, 2)``."""
        row_and_band = np.zeros((int(self.files.max(initial=-1)) + 1, 2), np.int64)
        rows, bands = np.nonzero(self.files >= 0)
        row_and_band[self.files[rows, bands]] = np.column_stack([rows, bands])
        return row_and_band

    def inner_box(self, index: int) -> Box:
        """Return the inner region of one patch, tract pixels."""
        return Box(*self.inner[index].tolist())


@dataclass(frozen=True, eq=False)
class FileTable:
    """The F files of a plan: one coadd (tract, patch, band) each.

    Attributes
    ----------
    uri
        A local path or a URI that ``lsst.resources`` reads.
    size
        Size in bytes; -1 if the repository did not record it.
    dataset_id
        UUID of the dataset in the repository.
    """

    uri: tuple[str, ...] = field(repr=False)  # a signed URI grants access
    size: tuple[int, ...]
    dataset_id: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.uri)

    @cached_property
    def remote(self) -> bool:
        """Whether some files are not on a local file system."""
        return any("://" in uri for uri in self.uri)


@dataclass(frozen=True)
class SharedReading:
    """Files and bytes that several ranks read more than once.

    Attributes
    ----------
    ranks
        Number of ranks.
    files, shared_files
        Number of files of the targets' primary patches, and of those that more than one rank reads.
    read_twice
        Bytes that ranks read again, as a fraction of the bytes that a single process would read.
    """

    ranks: int
    files: int
    shared_files: int
    read_twice: float

    def __str__(self) -> str:
        return (
            f"{self.ranks} ranks: {self.shared_files} of {self.files} files are read by more than one rank, "
            f"{self.read_twice:.1%} of the bytes are read again"
        )


@dataclass(frozen=True)
class PlanSummary:
    """Counts of a plan, as text (``str``) or as plain values (``as_dict``)."""

    targets: int
    other_tract: int
    """Number of targets whose cutout comes from another tract than their own."""
    rejected: Mapping[str, int]
    rejected_tracts: Mapping[str, Mapping[int, int]]
    """Number of rejected rows by reason and tract; tract -1 if none is known."""
    rejected_lines: tuple[str, ...]
    tracts: Mapping[int, int]
    patches: int
    files: int
    file_bytes: int
    bytes_to_read: int
    bands_missing: Mapping[str, int]
    bands: tuple[str, ...]
    size: tuple[int, int]
    per_patch: Mapping[str, int]
    shared: SharedReading | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["shared"] = None if self.shared is None else asdict(self.shared)
        del plain["rejected_lines"]  # repeats `rejected_tracts` as text
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in plain.items()}

    def __str__(self) -> str:
        lines = [
            f"{self.targets} targets, {self.size[0]} x {self.size[1]} px, bands {''.join(self.bands)}",
            f"  {len(self.tracts)} tract(s), {self.patches} patch(es), {self.files} files ({self.file_bytes / 1e9:.2f} GB)",
            f"  about {self.bytes_to_read / 1e6:.0f} MB of image tiles under the boxes",
        ]
        lines += [f"  {self.shared}"] if self.shared else []
        lines += [f"  tract {tract}: {count} targets" for tract, count in self.tracts.items()]
        lines += [f"  band {band}: missing for {count} targets" for band, count in self.bands_missing.items() if count]
        lines += [f"  {self.other_tract} targets from another tract than their own"] if self.other_tract else []
        lines += [f"  not delivered: {line}" for line in self.rejected_lines]
        return "\n".join(lines)


def ragged(lists: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return N lists of integers as arrays ``start`` ``(N + 1,)`` and ``values`` ``(M,)``.

    List i is ``values[start[i]:start[i + 1]]``.
    """
    start = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(one) for one in lists], out=start[1:])
    return start, np.fromiter((v for one in lists for v in one), np.int64, int(start[-1]))
