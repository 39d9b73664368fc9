"""Report of a run: for each row whether it was delivered, or why not, and the quality of its bands."""

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..catalog.ids import concatenate_columns, take_rows
from ..errors import ConfigurationError
from ..plan.cutout_plan import CutoutPlan
from ..plan.quality import Outcome, Quality
from ..source.notebook import html_table
from ..source.writing import atomic_file
from .batch_report import BatchReport, Failure
from .report_figure import report_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report"]


_META = "lsstcutouts.read.report"

_REJECTED = (Outcome.OUTSIDE_TRACTS, Outcome.NO_COADD)
_LEFT_OUT = (Outcome.MISSING_BAND, Outcome.QUALITY, Outcome.READ_ERROR)


class Report:
    """Result for each row of a plan, or for some of its rows.

    Parameters
    ----------
    plan
        The plan: its targets, and the catalog rows that cannot be delivered.
    rows
        Numbers of the targets to report; by default all targets and the plan's rejected rows.

    Attributes
    ----------
    bands
        Names of the ``B`` channels.
    row, object_id
        ``(R,)`` catalog row and id, in the order of the catalog's rows.
    outcome
        ``(R,)`` values of `Outcome`.
    quality
        ``(R, B)`` bits of `Quality`.
    other_tract
        ``(R,)`` whether a row is cut from another tract than its own.
    """

    def __init__(self, plan: CutoutPlan, rows: NDArray[np.int64] | None = None) -> None:
        targets = np.arange(len(plan)) if rows is None else np.unique(rows)
        lost = plan.rejected if rows is None else None
        self.bands = plan.bands
        catalog_row = np.concatenate([plan.row[targets], lost.row if lost else []]).astype(np.int64)
        order = np.argsort(catalog_row, kind="stable")
        self.row = catalog_row[order]
        ids = take_rows(plan.object_id, targets)
        self.object_id = take_rows(concatenate_columns([ids, lost.object_id]) if lost else ids, order)
        rejected = lost.reason if lost else np.zeros(0, np.uint8)
        self.outcome = np.concatenate([np.full(len(targets), Outcome.NOT_READ, np.uint8), rejected])[order]
        self.other_tract = np.concatenate([plan.other_tract[targets], np.zeros(len(rejected), bool)])[order]
        self._rejected_lines = tuple(lost.lines()) if lost else ()
        self.quality = np.zeros((len(order), len(plan.bands)), np.int32)
        self.quality[self.outcome != Outcome.NOT_READ] = Quality.BAND_ABSENT
        # Number of a target in the plan to its place here.
        self._place = np.full(len(plan), -1, np.int64)
        self._place[targets] = np.argsort(order)[: len(targets)]
        self._rows_of: dict[Failure, set[int]] = {}

    def __repr__(self) -> str:
        return f"<Report of {self}>"

    def _repr_html_(self) -> str:
        rows: list[tuple[str, object]] = [("rows", len(self))]
        rows += [(outcome.text, count) for outcome, count in self.counts().items()]
        for band, found in self.by_band().items():
            words = [f"{count:,} {str(flag.name).lower().replace('_', ' ')}" for flag, count in found.items()]
            rows += [(f"band {band}", words)] if words else []
        rows += [("read errors", len(self._rows_of))] if self._rows_of else []
        return html_table("Report", rows)

    def __len__(self) -> int:
        return len(self.row)

    def add(self, batch_report: BatchReport) -> None:
        """Add the results of one batch.

        Raises
        ------
        ConfigurationError
            If the batch has targets that are not in this report.
        """
        places = self._place[batch_report.targets]
        if (places < 0).any():
            raise ConfigurationError(
                "the batch has targets that are not in this report; add it to the report of its own plan and rows"
            )
        self.outcome[places] = batch_report.outcome
        self.quality[places] = batch_report.quality
        for failure, members in batch_report.failures:
            self._rows_of.setdefault(failure, set()).update(places[list(members)].tolist())

    def set_aside(self, targets: NDArray[np.int64]) -> None:
        """Mark targets that are not part of the epoch."""
        self.outcome[self._place[targets]] = Outcome.NOT_DRAWN

    def __add__(self, other: "Report") -> "Report":
        """Return the combined report of two processes or two epochs over the same rows; rows that were read take precedence."""
        if not np.array_equal(self.row, other.row) or self.bands != other.bands:
            raise ConfigurationError("only reports with the same rows and bands can be added")
        both = Report.__new__(Report)
        both.__dict__.update(self.__dict__)
        unread = np.isin(self.outcome, (Outcome.NOT_READ, Outcome.NOT_DRAWN))
        both.outcome = np.where(unread, other.outcome, self.outcome)
        both.quality = np.where(unread[:, None], other.quality, self.quality)
        both._rows_of = {f: set(r) for f, r in self._rows_of.items()}
        for failure, rows in other._rows_of.items():
            both._rows_of.setdefault(failure, set()).update(rows)
        return both

    @property
    def failures(self) -> dict[Failure, int]:
        """Number of affected rows for each read error."""
        return {failure: len(rows) for failure, rows in self._rows_of.items()}

    def first_failures(self) -> tuple[NDArray[np.int64], list[Failure]]:
        """Return ``(R,)`` the index of the first failure of each row, -1 for none, and the list of failures."""
        number = np.full(len(self), -1, np.int64)
        failures = list(self._rows_of)
        for i in reversed(range(len(failures))):
            number[list(self._rows_of[failures[i]])] = i
        return number, failures

    @property
    def delivered(self) -> int:
        """Number of rows that were delivered."""
        return int((self.outcome == Outcome.DELIVERED).sum())

    @property
    def from_other_tract(self) -> int:
        """Number of rows that were delivered from a tract other than their own."""
        return int((self.other_tract & (self.outcome == Outcome.DELIVERED)).sum())

    @property
    def left_out(self) -> int:
        """Number of rows that a policy left out."""
        return sum(count for outcome, count in self.counts().items() if outcome in _LEFT_OUT)

    def losses(self) -> str:
        """Return a sentence about rows that were left out or affected by read errors; empty if there are none."""
        unread = int(((self.quality & int(Quality.READ_ERROR)) != 0).any(axis=1).sum())
        parts = []
        if self.left_out:
            parts.append(f"{self.left_out} of {len(self)} rows were left out")
        if unread:
            first = next(iter(self._rows_of), None)
            cause = f", the first one: {first.cause}" if first else ""
            count = len(self._rows_of)
            parts.append(f"{count} read error{'s' * (count != 1)} affected {unread} rows{cause}")
        return f"{'; '.join(parts)}. The report lists all" if parts else ""

    def counts(self) -> dict[Outcome, int]:
        """Return the number of rows by outcome, those that occur; they add up to ``len(report)``."""
        values, counts = np.unique(self.outcome, return_counts=True)
        return {Outcome(v): int(c) for v, c in zip(values.tolist(), counts, strict=True)}

    def by_band(self) -> dict[str, dict[Quality, int]]:
        """Return for each band the number of rows that were read by what is wrong with them, what occurs."""
        return {
            band: {flag: count for flag in Quality if (count := int((bits & int(flag) != 0).sum()))}
            for band, bits in zip(self.bands, self.quality.T, strict=True)
        }

    def as_dict(self) -> dict[str, Any]:
        """Return counts and failures as plain values, ready for JSON."""
        return {
            "rows": len(self),
            "outcomes": {outcome.name.lower(): count for outcome, count in self.counts().items()},
            "other_tract": self.from_other_tract,
            "quality": {
                band: {str(flag.name).lower(): count for flag, count in found.items()}
                for band, found in self.by_band().items()
            },
            "failures": [
                {**{name: getattr(failure, name) for name in failure.__slots__}, "rows": rows}
                for failure, rows in self.failures.items()
            ],
        }

    def __str__(self) -> str:
        lines = [f"{len(self)} rows"]
        lines += [f"  {count} {outcome.text}" for outcome, count in self.counts().items() if outcome not in _REJECTED]
        lines += (
            [f"  {self.from_other_tract} of them from a tract other than their own"] if self.from_other_tract else []
        )
        lines += [f"  not covered: {line}" for line in self._rejected_lines]
        for band, found in self.by_band().items():
            words = ", ".join(f"{count} {str(flag.name).lower().replace('_', ' ')}" for flag, count in found.items())
            lines += [f"  band {band}: {words}"] if words else []
        for failure, rows in self.failures.items():
            # Many causes begin with the file that is named here.
            cause = failure.cause.removeprefix(failure.uri).lstrip(": ")
            lines.append(f"  unreadable, {rows} rows: {failure.plane or 'file'} of {failure.uri}: {cause}")
        return "\n".join(lines)

    def plot(self) -> "Figure":
        """Return a figure of rows by outcome, of what is wrong in each band, and of the read errors that affected most rows."""
        return report_figure(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file with a row for each row of the report: outcome by name, quality bits by band.

        Its metadata hold `as_dict` as JSON under ``lsstcutouts.read.report``, what could not be read among them.

        Raises
        ------
        WriteError
            If it cannot be written.
        """
        import pyarrow
        import pyarrow.parquet

        names = {int(o): o.name.lower() for o in Outcome}
        columns: Mapping[str, Any] = {
            "row": self.row,
            "object_id": self.object_id,
            "outcome": [names[o] for o in self.outcome.tolist()],
            **{f"quality_{band}": self.quality[:, b] for b, band in enumerate(self.bands)},
        }
        table = pyarrow.table(dict(columns)).replace_schema_metadata({_META: json.dumps(self.as_dict())})
        with atomic_file(path) as part:
            pyarrow.parquet.write_table(table, part)
